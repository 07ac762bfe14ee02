//! The ingestion actor's shell, as `actors/src/ingestion/actor.rs` is: it opens logs, owns the marks, carries out the
//! core's effects.

use super::sabotaged::StaleMarks;
use super::{Failure, NodeSetup};
use crate::sim::check::{committed, replicas, watermark};
use crate::sim::context::Context;
use crate::sim::disk::SimDisk;
use crate::sim::mail::{Address, LogsOpened, Mail, Part, Wake};
use crate::sim::sabotage::Sabotage;
use lance_actors::ingestion::core::{IngestionCore, IngestionEffect, IngestionOptions, Now};
use lance_actors::ingestion::opener::{LogMarks, LogOpener, Opened};
use lance_actors::network::readers::SegmentRead;
use lance_actors::replication::actor::ReplicaNews;
use lance_cluster::replica::FlowOptions;
use lance_messages::id::{ConnectionId, NodeId, TopicId, TopicPartition};
use lance_messages::mail::connection::{Answer, Replies, Reply};
use lance_messages::mail::ingestion::{DiskDone, Produce};
use lance_messages::peer::PeerIdentity;
use lance_storage::checkpoint::FlushedFile;
use lance_storage::disk::{Arena, DiskCompletion, DiskOp, SlotPool};
use lance_storage::tail::TailRing;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often followers are looked after that no event made progress for.
const FEED_INTERVAL: Duration = Duration::from_millis(50);
/// The replication actor looks at followers every 250 ms.
const FEEDS_PER_LOOK: u64 = 5;

/// The shell of an ingestion core.
pub struct Ingestion {
    pub(super) node: u16,
    pub(super) shard: u16,
    boot: u64,
    /// There are other nodes.
    pub(super) has_peers: bool,
    pub(super) setup: NodeSetup,
    pub(super) disk: SimDisk,
    pub(super) logs_dir: PathBuf,
    pub(super) opener: LogOpener,
    pub(super) core: Option<IngestionCore>,
    pool: Option<SlotPool>,
    arena: Arc<Arena>,
    /// The partitions of this shard, and which copy of each.
    assigned: BTreeMap<TopicPartition, u32>,
    /// Logs that are about to be removed.
    removing: BTreeSet<TopicPartition>,
    pub(super) marks: LogMarks,
    marks_moved: bool,
    pub(super) flushed: FlushedFile,
    pub(super) lives: u64,
    /// Nodes whose data link stands.
    pub(super) peers: BTreeMap<NodeId, PeerIdentity>,
    turn_armed: bool,
    /// Batches wait to be copied into the tail ring.
    keeping: bool,
    deadline_armed: Option<Duration>,
    /// What each produce request that waits for its answer was about.
    asked: BTreeMap<(ConnectionId, u64), (TopicPartition, u64)>,
    /// Clients have to hear of a restart.
    pub restarted: bool,
    /// How often followers were fed.
    feeds: u64,
    /// Kept only to break a rule.
    pub(super) stale: StaleMarks,
}

impl Ingestion {
    /// An actor of a process that starts.
    pub fn new(
        (node, shard, boot, has_peers): (u16, u16, u64, bool),
        setup: NodeSetup,
        disk: &SimDisk,
        logs_dir: PathBuf,
        arena: Arc<Arena>,
        (flushed, known): (FlushedFile, Vec<(TopicPartition, u64)>),
    ) -> Self {
        let opener = LogOpener {
            disk: disk.as_disk(),
            logs_dir: logs_dir.clone(),
            segment_bytes: setup.segment_bytes,
            index_interval_bytes: 64 * 1024,
            zero_ahead_bytes: setup.zero_ahead_bytes,
        };
        let mut marks = LogMarks::default();
        marks.flushed.extend(known);
        Self {
            node,
            shard,
            boot,
            has_peers,
            setup,
            disk: disk.clone(),
            logs_dir,
            opener,
            core: None,
            pool: Some(SlotPool::new(Arc::clone(&arena))),
            arena,
            assigned: BTreeMap::new(),
            removing: BTreeSet::new(),
            marks,
            marks_moved: false,
            flushed,
            lives: 0,
            peers: BTreeMap::new(),
            turn_armed: false,
            keeping: false,
            deadline_armed: None,
            asked: BTreeMap::new(),
            restarted: false,
            feeds: 0,
            stale: StaleMarks::default(),
        }
    }

    /// The core, to look at.
    pub fn core(&self) -> Option<&IngestionCore> {
        self.core.as_ref()
    }

    pub(super) fn to(&self, part: Part) -> Address {
        Address::Node(self.node, part)
    }

    /// What is done when the actor fails, before its back-off.
    pub fn drop_core(&mut self) {
        self.asked.clear();
        if let Some(core) = self.core.take() {
            self.pool = Some(core.into_pool());
        }
    }

    /// Starts, for the first time or again; `true` when the mailbox has to wait for recovery.
    pub fn begin(&mut self, ctx: &mut Context<'_>) -> bool {
        self.lives += 1;
        self.turn_armed = false;
        self.keeping = false;
        self.deadline_armed = None;
        let pool = self.pool.take().unwrap_or_else(|| SlotPool::new(Arc::clone(&self.arena)));
        let options = IngestionOptions {
            node: lance_messages::id::NodeId(self.node + 1),
            shard: self.shard,
            sync_always: self.setup.sync_always,
            sync_bytes: 64 * 1024,
            flow: FlowOptions::default(),
        };
        let mut core = IngestionCore::new(options, pool, TailRing::new(self.setup.tail_bytes));
        self.assigned.keys().for_each(|partition| core.on_assigned(*partition));
        for (node, peer) in &self.peers {
            core.on_link_changed(*node, Some(*peer), ctx.now, &mut Vec::new());
        }
        self.core = Some(core);
        if self.lives == 1 {
            ctx.wake(Wake::Second, Duration::from_secs(1));
            if self.has_peers {
                ctx.wake(Wake::Feed, FEED_INTERVAL);
            }
            if !self.setup.sync_always {
                ctx.wake(Wake::Sync, Duration::from_millis(50));
            }
            return false;
        }
        self.restarted = true;
        ctx.send(self.to(Part::Poller(self.shard)), Mail::Drain(self.lives));
        true
    }

    /// One message; `Ok(true)` when the mailbox may go on after having waited.
    pub fn handle(&mut self, mail: Mail, ctx: &mut Context<'_>) -> Result<bool, Failure> {
        let now = ctx.now;
        let mut effects = Vec::new();
        let mut resume = false;
        match mail {
            Mail::PollerFailed => return Err(Failure("the poller failed".to_owned())),
            // What an earlier life waited for ended with it.
            Mail::Drained(life) | Mail::LogsOpened(LogsOpened { life, .. }) if life != self.lives => return Ok(false),
            Mail::Drained(_) => {
                self.open_logs(self.assigned.keys().copied().collect(), true, ctx);
                return Ok(false);
            }
            Mail::LogsOpened(LogsOpened { awaited, logs, .. }) => {
                self.on_logs_opened(logs, &mut effects, ctx);
                resume = awaited;
            }
            Mail::Assign(number, partitions, deleted) => {
                self.on_assign((partitions, &deleted), &mut effects, ctx);
                ctx.send(self.to(Part::Metadata), Mail::Assigned(number));
            }
            Mail::RemoveLog(partition) => self.remove_log(partition),
            Mail::Wake(Wake::Second) => {
                ctx.wake(Wake::Second, Duration::from_secs(1));
                self.store_marks();
                if let Some(core) = self.core.as_mut() {
                    core.on_space_retry(&mut effects);
                    core.refuse_overdue(now, &mut effects);
                }
                if self.has_peers {
                    self.report_followers(ctx);
                    self.drop_old_segments(ctx);
                }
            }
            Mail::Wake(Wake::Sync) => {
                ctx.wake(Wake::Sync, Duration::from_millis(50));
                if let Some(core) = self.core.as_mut() {
                    core.on_sync_due(&mut effects);
                }
            }
            Mail::Produce(produce) => self.on_produce(produce, &mut effects, ctx),
            Mail::Wake(Wake::Feed) => {
                ctx.wake(Wake::Feed, FEED_INTERVAL);
                self.on_feed(now, &mut effects);
                self.feeds += 1;
                if self.feeds.is_multiple_of(FEEDS_PER_LOOK) {
                    self.propose_changes(ctx);
                }
            }
            mail @ (Mail::Fence(_)
            | Mail::Lead(_)
            | Mail::ChangeRoles(_)
            | Mail::Move(_)
            | Mail::ExtendLease(_)
            | Mail::Refill(..)
            | Mail::AppendReplica(_)
            | Mail::ReplicaAnswered(_)
            | Mail::ReplicaRead(_)
            | Mail::Truncated(_)
            | Mail::LinkChanged(..)) => self.on_replicas(mail, &mut effects, ctx),
            mail => {
                let Some(core) = self.core.as_mut() else { return Ok(false) };
                match mail {
                    Mail::Fetch(fetch) => core.on_fetch(fetch, now, &mut effects),
                    Mail::CancelWait(cancel) => core.on_cancel_wait(cancel, now, &mut effects),
                    Mail::LookUp(look_up) => core.on_look_up(look_up, now, &mut effects),
                    Mail::DiskDone(done) => on_disk_done(core, done, self.lives, now, &mut effects),
                    Mail::Introduce(replicas) => {
                        for (partition, promised, incarnation) in replicas {
                            core.on_replica_known(partition, promised, incarnation);
                        }
                    }
                    Mail::Wake(Wake::Turn) => {
                        if self.keeping {
                            core.keep_tail(now, &mut effects);
                        }
                        core.flush(now, &mut effects);
                        self.keeping = core.has_unkept();
                        self.turn_armed = false;
                        let again = self.keeping || core.is_gathering();
                        self.perform(effects, ctx);
                        if again {
                            self.arm_turn(ctx);
                        }
                        return Ok(false);
                    }
                    Mail::Wake(Wake::Deadline) => {
                        self.deadline_armed = None;
                        core.on_deadline(now, &mut effects);
                    }
                    _ => {}
                }
            }
        }
        self.perform(effects, ctx);
        self.arm_turn(ctx);
        Ok(resume)
    }

    /// The shell flushes once its mailbox is empty: some time later, many messages or none having come meanwhile.
    fn arm_turn(&mut self, ctx: &mut Context<'_>) {
        if !self.turn_armed {
            self.turn_armed = true;
            let delay = ctx.rng.range(200, 40_000);
            ctx.wake(Wake::Turn, Duration::from_nanos(delay));
        }
    }

    fn on_produce(&mut self, produce: Produce, effects: &mut Vec<IngestionEffect>, ctx: &mut Context<'_>) {
        let Some(core) = self.core.as_mut() else { return };
        for mut request in produce.requests {
            if self.setup.sabotage == Sabotage::ForgetProducers {
                request.producer = request.producer.filter(|_| self.boot <= 1);
            }
            let about = (request.partition, u64::from(request.plain_len));
            self.asked.insert((produce.connection, request.request), about);
            core.on_produce(produce.connection, request, ctx.now, effects);
        }
    }

    fn on_assign(
        &mut self,
        (partitions, deleted): (Vec<(TopicPartition, u32)>, &[TopicId]),
        effects: &mut Vec<IngestionEffect>,
        ctx: &mut Context<'_>,
    ) {
        let before: BTreeSet<(TopicPartition, u32)> = std::mem::take(&mut self.assigned).into_iter().collect();
        let after: BTreeSet<(TopicPartition, u32)> = partitions.into_iter().collect();
        let added: Vec<TopicPartition> = after.difference(&before).map(|copy| copy.0).collect();
        let gone: Vec<TopicPartition> = before.difference(&after).map(|copy| copy.0).collect();
        self.assigned = after.into_iter().collect();
        if let Some(core) = self.core.as_mut() {
            for gone in &gone {
                self.marks.forget(*gone);
                self.marks_moved = true;
                drop(core.on_unassigned(*gone, deleted.contains(&gone.topic), effects));
            }
            added.iter().for_each(|partition| core.on_assigned(*partition));
        }
        for partition in &gone {
            self.removing.insert(*partition);
            ctx.send(ctx.me, Mail::RemoveLog(*partition));
        }
        // What is under way is waited for.
        added.iter().for_each(|partition| self.remove_log(*partition));
        if !gone.is_empty() {
            ctx.send(self.to(Part::Replication), Mail::PartitionsGone(gone));
        }
        // A log of an earlier time may have been followed until its removal.
        added.iter().for_each(|partition| replicas::dropped(ctx.oracle, *partition, self.node));
        if !added.is_empty() {
            self.open_logs(added, false, ctx);
        }
    }

    fn remove_log(&mut self, partition: TopicPartition) {
        if self.removing.remove(&partition) && self.flushed.lower(partition, 0).is_ok() {
            // Whether the files of a deleted partition can be removed concerns nobody else.
            let _ = lance_storage::disk::Disk::remove_dir_all(&self.disk, &self.logs_dir.join(partition.to_string()));
        }
    }

    /// By which version of its replica set this node was given its copy of the partition.
    pub(super) fn copy_version(&self, partition: TopicPartition) -> u32 {
        self.assigned.get(&partition).copied().unwrap_or(0)
    }

    fn open_logs(&mut self, partitions: Vec<TopicPartition>, awaited: bool, ctx: &mut Context<'_>) {
        let open = |partition: &TopicPartition| {
            if self.setup.sabotage == Sabotage::CutAckedTail {
                cut_tail(&self.disk, &self.logs_dir, *partition);
            }
            let mut request = self.marks.request(*partition);
            match self.setup.sabotage {
                Sabotage::IgnoreFailedSync => request.latch = None,
                Sabotage::CutAckedTail => request.flushed = None,
                _ => {}
            }
            self.opener.open(&request, ctx.now.wall_ns)
        };
        let logs: Vec<Opened> = partitions.iter().map(open).collect();
        logs.iter().filter_map(|opened| opened.result.as_ref().ok()).for_each(|log| self.marks.note_opened(log));
        ctx.send(ctx.me, Mail::LogsOpened(LogsOpened { life: self.lives, awaited, logs }));
    }

    fn on_logs_opened(&mut self, opened: Vec<Opened>, effects: &mut Vec<IngestionEffect>, ctx: &mut Context<'_>) {
        let Some(core) = self.core.as_mut() else { return };
        let mut wanted = Vec::new();
        for opened in opened {
            let damage = opened.damage().filter(|_| self.has_peers);
            let Opened { partition, result, .. } = opened;
            if let Some((good_end, _)) = damage {
                let news = ReplicaNews::Damaged(partition, good_end);
                ctx.send(Address::Node(self.node, Part::Replication), Mail::News(news));
                result.into_iter().for_each(|log| core.on_log_opened(partition, log, effects));
                continue;
            }
            match result {
                Ok(log) => {
                    if log.offline().is_none() && log.latched().is_none() {
                        let copy_version = self.assigned.get(&partition).copied().unwrap_or(0);
                        wanted.push((partition, log.last_epoch().0, copy_version));
                    }
                    core.on_log_opened(partition, log, effects);
                }
                Err(reason) => core.on_log_failed(partition, reason, effects),
            }
        }
        if !wanted.is_empty() {
            ctx.send(self.to(Part::Replication), Mail::EpochsWanted(wanted));
        }
    }

    pub(super) fn perform(&mut self, effects: Vec<IngestionEffect>, ctx: &mut Context<'_>) {
        let mut operations: Vec<DiskOp> = Vec::new();
        let mut outgoing: BTreeMap<ConnectionId, Vec<Reply<SegmentRead>>> = BTreeMap::new();
        let (mut leadership, mut fenced, mut about_replicas) = (Vec::new(), Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                IngestionEffect::Submit { partition, token, step } => {
                    self.marks.note_written(partition, step.end_position);
                    operations.push(step.into_op(u64::from(token)));
                }
                IngestionEffect::Reply(connection, reply) => {
                    self.check_reply(connection, &reply, ctx);
                    outgoing.entry(connection).or_default().push(reply);
                }
                IngestionEffect::Flushed(partition, position) => {
                    self.marks.flushed.insert(partition, position);
                    self.marks_moved = true;
                }
                IngestionEffect::Promised(partition, epoch, answer) => fenced.push((partition, epoch, answer)),
                IngestionEffect::Leading(partition, epoch) => {
                    if self.has_peers {
                        committed::is_led(ctx.oracle, &self.logs_dir, (partition, epoch), self.node);
                        replicas::led(ctx.oracle, partition, epoch, (self.node, self.boot, self.lives));
                    }
                    leadership.push((partition, Ok(epoch)));
                }
                IngestionEffect::Stopped(partition, reason, latch) => {
                    if let Some(latch) = latch {
                        self.marks.latches.insert(partition, latch);
                    }
                    leadership.push((partition, Err(reason)));
                }
                IngestionEffect::NoSpace(_) | IngestionEffect::NotTaken(..) | IngestionEffect::SteppedDown(..) => {}
                about => about_replicas.push(about),
            }
        }
        if !operations.is_empty() {
            ctx.send(self.to(Part::Poller(self.shard)), Mail::Submit(self.lives, operations));
        }
        let pressed = self.core.as_ref().is_some_and(IngestionCore::is_pressed);
        for (connection, replies) in outgoing {
            let known_at = ctx.now.elapsed;
            let replies = Replies { shard: self.shard, replies, pressed, known_at };
            ctx.send(self.to(Part::Connection(connection.0)), Mail::Replies(replies));
        }
        self.obey_about_replicas(about_replicas, ctx);
        if !fenced.is_empty() {
            ctx.send(self.to(Part::Replication), Mail::Fenced(fenced));
        }
        for (partition, result) in leadership {
            ctx.send(self.to(Part::Replication), Mail::LeadershipChanged(partition, result));
        }
        self.arm_deadline(ctx);
    }

    /// Holds what is about to be promised against what a power cut would leave.
    fn check_reply(&mut self, connection: ConnectionId, reply: &Reply<SegmentRead>, ctx: &mut Context<'_>) {
        let must_be_durable = match &reply.answer {
            Answer::Produced(result) => {
                let about = self.asked.remove(&(connection, reply.request));
                match (result, about) {
                    (Ok(produced), Some((partition, bytes))) if produced.base_offset != u64::MAX => {
                        Some((partition, produced.base_offset + bytes))
                    }
                    _ => None,
                }
            }
            Answer::Fetched { partition, result: Ok((bounds, _)), .. } => {
                let follows = self.core.as_ref().is_some_and(|core| core.is_following(*partition));
                if self.has_peers && !follows {
                    replicas::served(ctx.oracle, *partition, bounds, self.node);
                } else if !self.has_peers {
                    watermark::served(ctx.oracle, *partition, bounds);
                }
                Some((*partition, bounds.high_watermark_offset))
            }
            _ => None,
        };
        if let Some((partition, offset)) = must_be_durable
            && self.has_peers
        {
            return replicas::must_be_on_a_quorum(ctx.oracle, &self.logs_dir, partition, offset, self.node);
        }
        if let Some((partition, offset)) = must_be_durable
            && self.setup.sync_always
        {
            let truth = ctx.oracle.partition(partition);
            let verdict = truth.durable.follow(self.disk.memory(), &self.logs_dir, partition, offset);
            ctx.oracle.judge(verdict);
        }
    }

    fn arm_deadline(&mut self, ctx: &mut Context<'_>) {
        let Some(next) = self.core.as_ref().and_then(IngestionCore::next_deadline) else { return };
        if self.deadline_armed.is_some_and(|armed| armed <= next) {
            return;
        }
        self.deadline_armed = Some(next);
        ctx.wake(Wake::Deadline, next.saturating_sub(ctx.now.elapsed));
    }

    fn store_marks(&mut self) {
        if !std::mem::take(&mut self.marks_moved) {
            return;
        }
        let mut marks: Vec<(TopicPartition, u64)> = self.marks.flushed.iter().map(|(p, at)| (*p, *at)).collect();
        marks.sort_unstable();
        // Losing it only costs recovery time.
        let _ = self.flushed.store(&marks);
    }
}

fn on_disk_done(
    core: &mut IngestionCore,
    done: DiskDone<DiskCompletion>,
    lives: u64,
    now: Now,
    effects: &mut Vec<IngestionEffect>,
) {
    for completion in done.completions {
        if done.ingestion_life == lives {
            core.on_disk_done(completion.token as u32, completion, now, effects);
        } else {
            core.on_stale_completion(completion);
        }
    }
}

/// What a recovery without judgement would do: the last bytes of the newest segment are gone.
fn cut_tail(disk: &SimDisk, logs_dir: &std::path::Path, partition: TopicPartition) {
    use lance_storage::disk::{Disk, OpenMode};
    let dir = logs_dir.join(partition.to_string());
    let Ok(entries) = disk.list(&dir) else { return };
    let Some(newest) = entries.iter().rev().find(|entry| entry.name.ends_with(".lnc")) else { return };
    if let Ok(file) = disk.open(&dir.join(&newest.name), OpenMode::ReadWrite) {
        // A failure only makes the sabotage milder.
        let _ = file.set_len(newest.len.saturating_sub(6000));
    }
}
