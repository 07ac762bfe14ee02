//! `IngestionActor`: the shell that owns a shard's ingestion core, opens its logs and carries out its effects.

use super::core::{IngestionCore, IngestionEffect, IngestionOptions, Now};
use super::opener::{LogMarks, LogOpener, Openings, TruncateJob};
use super::replica_handlers::{ReadJob, drop_before};
use crate::clock::NodeClock;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::network::budget::ByteBudget;
use crate::network::readers::SegmentRead;
use crate::poller::actor::PollerActor;
use crate::replication::actor::{ReplicaNews, ReplicasFenced, ReplicationActor};
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, fail, guarded};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use crate::telemetry::tracer;
use actix::fut::ActorFuture;
use actix::prelude::*;
use hashbrown::{HashMap, HashSet};
use lance_messages::id::{ConnectionId, NodeId, TopicPartition};
use lance_messages::mail::connection::{Replies, Reply, ShardRestarted};
use lance_messages::mail::peer::{SendToFollower, SendToLeader};
use lance_messages::mail::poller::{Drain, Submit};
use lance_messages::mail::replication::{EpochsWanted, LeadershipChanged, PartitionsGone};
use lance_messages::peer::{AppendResponse, PeerIdentity, ReplicaRequest};
use lance_storage::checkpoint::FlushedFile;
use lance_storage::disk::{Arena, DiskOp, SlotPool};
use lance_storage::reader::Reader;
use lance_storage::tail::TailRing;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

/// Mailbox capacity of an ingestion actor: read chunks of connections, and completions.
pub const INGESTION_MAILBOX: usize = 8192;

/// How often followers are looked after that no event made progress for.
const FEED_INTERVAL: Duration = Duration::from_millis(50);

/// Logs that were not used for this long give their descriptors back.
const IDLE_LOG_CHECK: Duration = Duration::from_secs(10);

/// What an ingestion actor is made of.
pub struct IngestionSetup {
    /// How its core is set up.
    pub options: IngestionOptions,
    /// Opens its logs.
    pub opener: Arc<LogOpener>,
    /// The memory of its pool.
    pub arena: Arc<Arena>,
    /// Bytes of the tail ring.
    pub tail_bytes: usize,
    /// Room for what is copied out of it to readers, on the whole node.
    pub copies: ByteBudget,
    /// In interval mode, how often what is written is synced.
    pub sync_interval: Option<Duration>,
    /// The node's clock.
    pub clock: NodeClock,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
    /// Its poller.
    pub poller: Mailbox<PollerActor>,
}

/// Where one connection's answers go.
#[derive(Clone)]
pub struct ReplyTo {
    /// Answers.
    pub replies: Recipient<Replies<SegmentRead>>,
    /// The news of a restart.
    pub restarted: Recipient<ShardRestarted>,
}

/// A connection may send requests from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RegisterConnection {
    /// Its id.
    pub connection: ConnectionId,
    /// Where its answers go.
    pub reply_to: ReplyTo,
}

/// A connection is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct UnregisterConnection(pub ConnectionId);

/// Makes everything appended durable and writes the flushed marks; answered when that is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SyncEverything;

/// Tells the ingestion actor who opens epochs.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ServeReplication(pub Mailbox<ReplicationActor>);

/// The shell of an ingestion core.
pub struct IngestionActor {
    pub(super) life: Life,
    pub(super) setup: IngestionSetup,
    pub(super) core: Option<IngestionCore>,
    pool: Option<SlotPool>,
    pub(super) assigned: Vec<TopicPartition>,
    /// Which copy each of them is, where it is not the first.
    pub(super) copy_versions: HashMap<TopicPartition, u32>,
    /// Those of the assigned that other nodes hold as well.
    pub(super) replicated: HashSet<TopicPartition>,
    pub(super) marks: LogMarks,
    pub(super) openings: Openings,
    /// Logs that are removed.
    pub(super) removals: Openings,
    pub(super) flushed: Option<FlushedFile>,
    pub(super) marks_moved: bool,
    pub(super) connections: HashMap<ConnectionId, ReplyTo>,
    pub(super) replication: Option<Mailbox<ReplicationActor>>,
    pub(super) lives: u64,
    pub(super) effects: Vec<IngestionEffect>,
    /// When the core was called last.
    now: Now,
    outgoing: HashMap<ConnectionId, Vec<Reply<SegmentRead>>>,
    /// Data links, by node.
    pub(super) links: HashMap<NodeId, Recipient<SendToFollower>>,
    /// Whether followers are looked after in this life.
    feeds: bool,
    /// Nodes whose data link stands.
    pub(super) peers: HashMap<NodeId, PeerIdentity>,
    to_followers: HashMap<NodeId, Vec<ReplicaRequest>>,
    pub(super) replica_readers: Vec<Reader>,
    /// Counts the cuts of logs.
    pub(super) cuts: u64,
    pub(super) sessions: HashMap<u64, Recipient<SendToLeader>>,
    pub(super) to_leaders: HashMap<u64, Vec<AppendResponse>>,
    deadline_armed: Option<Duration>,
    counted_open: u64,
    counted_read_only: u64,
    /// Partitions that take nothing, as counted in the metrics.
    pub(super) stopped: HashSet<TopicPartition>,
}

impl IngestionActor {
    /// An ingestion actor without partitions; `marks` are what `flushed` said at start.
    pub fn new(
        vitals: Arc<Vitals>,
        policy: RestartPolicy,
        parent: Recipient<Escalated>,
        setup: IngestionSetup,
        flushed: FlushedFile,
        marks: HashMap<TopicPartition, u64>,
    ) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            pool: Some(SlotPool::new(Arc::clone(&setup.arena))),
            setup,
            core: None,
            assigned: Vec::new(),
            copy_versions: HashMap::new(),
            replicated: HashSet::new(),
            marks: LogMarks { flushed: marks, ..LogMarks::default() },
            openings: Openings::default(),
            removals: Openings::default(),
            flushed: Some(flushed),
            marks_moved: false,
            connections: HashMap::new(),
            replication: None,
            lives: 0,
            effects: Vec::new(),
            now: Now::default(),
            outgoing: HashMap::new(),
            links: HashMap::new(),
            feeds: false,
            peers: HashMap::new(),
            to_followers: HashMap::new(),
            replica_readers: Vec::new(),
            cuts: 0,
            sessions: HashMap::new(),
            to_leaders: HashMap::new(),
            deadline_armed: None,
            counted_open: 0,
            counted_read_only: 0,
            stopped: HashSet::new(),
        }
    }

    /// Runs the core inside the guard and carries out what it wants done.
    pub(super) fn with_core(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut IngestionCore, Now, &mut Vec<IngestionEffect>),
    ) {
        let now = self.setup.clock.now();
        self.now = now;
        guarded(self, ctx, |actor, ctx| -> Result<(), Infallible> {
            if let Some(core) = actor.core.as_mut() {
                work(core, now, &mut actor.effects);
                actor.perform(ctx);
            }
            Ok(())
        });
    }

    pub(super) fn perform(&mut self, ctx: &mut Context<Self>) {
        let mut operations: Vec<DiskOp> = Vec::new();
        let mut leadership: Vec<LeadershipChanged> = Vec::new();
        let (mut fenced, mut news, mut reads, mut cuts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for effect in self.effects.drain(..) {
            match effect {
                IngestionEffect::Submit { partition, token, step } => {
                    self.marks.note_written(partition, step.end_position);
                    operations.push(step.into_op(u64::from(token)));
                }
                IngestionEffect::Reply(connection, reply) => {
                    if reply.answer.is_error() {
                        self.setup.metrics.errors.add(1);
                    }
                    self.outgoing.entry(connection).or_default().push(reply);
                }
                IngestionEffect::Flushed(partition, position) => {
                    self.marks.flushed.insert(partition, position);
                    self.marks_moved = true;
                }
                IngestionEffect::Leading(partition, epoch) => {
                    leadership.push(LeadershipChanged { partition, result: Ok(epoch) });
                }
                IngestionEffect::Stopped(partition, reason, latch) => {
                    if let Some(latch) = latch {
                        self.marks.latches.insert(partition, latch);
                    }
                    tracing::error!(%partition, %reason, "partition stopped");
                    if self.stopped.insert(partition) {
                        self.setup.metrics.partitions_stopped.add(1);
                    }
                    leadership.push(LeadershipChanged { partition, result: Err(reason) });
                }
                IngestionEffect::NoSpace(partition) => {
                    tracing::warn!(%partition, "no space left: appends are refused until there is");
                }
                IngestionEffect::Following(partition, epoch) => news.push(ReplicaNews::Following(partition, epoch)),
                IngestionEffect::SteppedDown(partition, promised) => {
                    tracing::info!(%partition, %promised, "stepped down: a replica promised a higher epoch");
                }
                IngestionEffect::Promised(partition, epoch, answer) => fenced.push((partition, epoch, answer)),
                IngestionEffect::ToFollower(node, request) => self.to_followers.entry(node).or_default().push(request),
                IngestionEffect::ToLeader(session, response) => {
                    self.to_leaders.entry(session).or_default().push(response);
                }
                IngestionEffect::ReadForFollower { partition, node, epoch, from, slice, max_bytes } => {
                    reads.push(ReadJob { partition, node, epoch, from, slice, max_bytes });
                }
                IngestionEffect::Truncate { partition, log, to, below } => {
                    cuts.push(TruncateJob { partition, log: Some(log), to, below })
                }
                IngestionEffect::DropBefore(partition, before) => drop_before(partition, before, ctx),
                IngestionEffect::NotTaken(partition, reason) => {
                    tracing::warn!(%partition, %reason, "batches were not taken: trying again");
                }
                IngestionEffect::MoveReady(partition, epoch, to) => {
                    news.push(ReplicaNews::MoveReady(partition, epoch, to));
                }
                IngestionEffect::StageOver(stage) => {
                    if let Some(tracer) = tracer() {
                        tracer.record(stage, self.setup.clock.stamp(), None);
                    }
                }
            }
        }
        self.submit(operations, ctx);
        self.send_to_followers();
        self.send_to_leaders();
        self.send_replies();
        reads.into_iter().for_each(|read| self.read_for_follower(read, ctx));
        cuts.into_iter().for_each(|cut| self.truncate(cut, ctx));
        if !fenced.is_empty() {
            self.tell_replication(ReplicasFenced(fenced));
        }
        news.into_iter().for_each(|news| self.tell_replication(news));
        leadership.into_iter().for_each(|change| self.tell_replication(change));
        self.arm_deadline(ctx);
    }

    /// Hands requests to the data links; what a link does not take is sent again once its flow finds that out.
    fn send_to_followers(&mut self) {
        for (node, requests) in self.to_followers.drain() {
            if let Some(link) = self.links.get(&node)
                && let Err(error) = link.try_send(SendToFollower { requests })
            {
                tracing::debug!(%node, %error, "a data link took nothing");
            }
        }
    }

    pub(super) fn tell_replication<M>(&self, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        ReplicationActor: Handler<M>,
    {
        if let Some(replication) = self.replication.clone() {
            actix_rt::spawn(async move {
                // Closed only while the process goes down.
                let _ = replication.send(message).await;
            });
        }
    }

    fn submit(&mut self, operations: Vec<DiskOp>, ctx: &mut Context<Self>) {
        if operations.is_empty() {
            return;
        }
        let watch = self.core.as_ref().map_or(Duration::ZERO, IngestionCore::watch);
        let message = Submit { ingestion_life: self.lives, operations, watch };
        match self.setup.poller.try_send(message) {
            Ok(()) => {}
            Err(SendError::Full(message)) => {
                let send = self.setup.poller.send(message);
                ctx.spawn(actix::fut::wrap_future::<_, Self>(send).map(|_, _, _| ()));
            }
            Err(SendError::Closed(_)) => fail(self, ctx, "the poller is gone".to_owned()),
        }
    }

    fn send_replies(&mut self) {
        let shard = self.setup.options.shard;
        let pressed = self.core.as_ref().is_some_and(IngestionCore::is_pressed);
        let known_at = self.now.elapsed;
        for (connection, replies) in self.outgoing.drain() {
            let Some(reply_to) = self.connections.get(&connection) else {
                continue;
            };
            // A connection has room for all it may ask for; the mailbox of an actor that many ask may be full. Order
            // does not matter: a reply says what it answers.
            let replies = Replies { shard, replies, pressed, known_at };
            if let Err(SendError::Full(message)) = reply_to.replies.try_send(replies) {
                let replies = reply_to.replies.clone();
                actix_rt::spawn(async move {
                    let _ = replies.send(message).await;
                });
            }
        }
    }

    fn arm_deadline(&mut self, ctx: &mut Context<Self>) {
        let Some(next) = self.core.as_ref().and_then(IngestionCore::next_deadline) else {
            return;
        };
        if self.deadline_armed.is_some_and(|armed| armed <= next) {
            return;
        }
        self.deadline_armed = Some(next);
        let now = self.setup.clock.now().elapsed;
        ctx.run_later(next.saturating_sub(now), |actor, ctx| {
            actor.deadline_armed = None;
            actor.with_core(ctx, |core, now, effects| core.on_deadline(now, effects));
        });
    }

    /// Shows how many logs are open: the node is ready once all are.
    pub(super) fn count_open(&mut self) {
        let Some(core) = self.core.as_ref() else { return };
        let (counted, shown) = (core.opened_count() as u64, &self.setup.metrics.partitions_open);
        shown.add(counted.saturating_sub(self.counted_open));
        shown.sub(self.counted_open.saturating_sub(counted));
        self.counted_open = counted;
    }

    pub(super) fn forget_epochs(&self, partitions: Vec<TopicPartition>) {
        if !partitions.is_empty() {
            self.tell_replication(PartitionsGone { partitions });
        }
    }

    pub(super) fn want_epochs(&self, logs: Vec<(TopicPartition, u32)>) {
        let with_copy = |(partition, last_epoch)| (partition, last_epoch, self.copy_version(partition));
        let partitions: Vec<_> = logs.into_iter().map(with_copy).collect();
        if !partitions.is_empty() {
            self.tell_replication(EpochsWanted { partitions });
        }
    }
}

supervised_shell!(IngestionActor, INGESTION_MAILBOX);

impl Shell for IngestionActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// The pool is all that outlives a core: its slots are counted, whatever state the core was in.
    fn drop_core(&mut self, _: &mut Self::Context) {
        self.effects.clear();
        self.outgoing.clear();
        self.setup.metrics.partitions_stopped.sub(self.stopped.drain().count() as u64);
        self.setup.metrics.partitions_read_only.sub(std::mem::take(&mut self.counted_read_only));
        if let Some(core) = self.core.take() {
            self.pool = Some(core.into_pool());
        }
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        self.lives += 1;
        self.deadline_armed = None;
        let Some(pool) = self.pool.take() else {
            return fail(self, ctx, "the buffer pool was lost".to_owned());
        };
        let mut core = IngestionCore::new(self.setup.options, pool, TailRing::new(self.setup.tail_bytes));
        core.share_copies(self.setup.copies.clone());
        self.assigned.iter().for_each(|partition| core.on_assigned(*partition));
        self.core = Some(core);
        let peers: Vec<(NodeId, PeerIdentity)> = self.peers.iter().map(|(node, peer)| (*node, *peer)).collect();
        self.with_core(ctx, |core, now, effects| {
            peers.into_iter().for_each(|(node, peer)| core.on_link_changed(node, Some(peer), now, effects));
        });
        if self.lives > 1 {
            self.life.vitals.set_state(ActorState::Recovering);
            self.tell_connections();
            self.recover(ctx);
        } else {
            self.life.vitals.set_state(ActorState::Running);
        }
        if let Some(interval) = self.setup.sync_interval {
            ctx.run_interval(interval, |actor, ctx| {
                actor.with_core(ctx, |core, _, effects| core.on_sync_due(effects));
            });
        }
        ctx.run_interval(Duration::from_secs(1), |actor, ctx| {
            actor.with_core(ctx, |core, now, effects| {
                core.on_space_retry(effects);
                core.refuse_overdue(now, effects);
                core.end_late_stages(now, effects);
            });
            actor.publish_figures();
            actor.store_marks(ctx);
        });
        self.feeds = false;
        self.feed_at_intervals(ctx);
        ctx.run_interval(IDLE_LOG_CHECK, |actor, ctx| {
            actor.with_core(ctx, |core, _, _| core.release_idle());
        });
        ctx.spawn(Flushes::default());
    }
}

impl IngestionActor {
    /// Looks after followers from time to time, once there are other nodes: one alone would only be woken for nothing.
    pub(super) fn feed_at_intervals(&mut self, ctx: &mut Context<Self>) {
        if self.feeds || self.links.is_empty() {
            return;
        }
        self.feeds = true;
        ctx.run_interval(FEED_INTERVAL, |actor, ctx| {
            actor.with_core(ctx, |core, now, effects| {
                core.check_lease(now, effects);
                core.feed_followers(now, effects);
                core.check_moves(now, effects);
            });
        });
    }

    fn tell_connections(&mut self) {
        let shard = self.setup.options.shard;
        for reply_to in self.connections.values() {
            if let Err(SendError::Full(message)) = reply_to.restarted.try_send(ShardRestarted { shard }) {
                let restarted = reply_to.restarted.clone();
                actix_rt::spawn(async move {
                    let _ = restarted.send(message).await;
                });
            }
        }
    }

    /// Everything in flight is drained before the logs are read again.
    fn recover(&mut self, ctx: &mut Context<Self>) {
        let (drain, openings) = (self.setup.poller.send(Drain), self.openings.clone());
        let drain = async move {
            let drained = drain.await;
            // What an earlier life began to open may still be read, and cut, by threads.
            openings.finished().await;
            drained
        };
        let drain = actix::fut::wrap_future::<_, Self>(drain);
        ctx.wait(drain.map(|drained, actor, ctx| match drained {
            Ok(()) => actor.open_all_logs(ctx),
            Err(error) => fail(actor, ctx, format!("the poller did not drain: {error}")),
        }));
    }

    /// Writes what is known to be durable, away from this thread; losing it only costs recovery time.
    fn store_marks(&mut self, ctx: &mut Context<Self>) {
        if !self.marks_moved {
            return;
        }
        let Some(mut flushed) = self.flushed.take() else { return };
        self.marks_moved = false;
        let marks: Vec<(TopicPartition, u64)> = self.marks.flushed.iter().map(|(p, at)| (*p, *at)).collect();
        let store = actix_rt::task::spawn_blocking(move || {
            if let Err(error) = flushed.store(&marks) {
                tracing::warn!(%error, "flushed marks could not be written: recovery would read more");
            }
            flushed
        });
        ctx.spawn(actix::fut::wrap_future::<_, Self>(store).map(|flushed, actor, _| {
            actor.flushed = flushed.ok();
        }));
    }

    fn publish_figures(&mut self) {
        let Some(core) = self.core.as_mut() else { return };
        let counts = core.take_counts();
        let metrics = &self.setup.metrics;
        metrics.produced_batches.add(counts.batches);
        metrics.produced_bytes.add(counts.bytes);
        metrics.produced_records.add(counts.records);
        metrics.duplicate_batches.add(counts.duplicates);
        metrics.tail_fetches.add(counts.tail_fetches);
        metrics.replica_fetches.add(counts.replica_fetches);
        metrics.segment_fetches.add(counts.segment_fetches);
        metrics.pool_waits.add(counts.pool_waits);
        core.take_ack_times(|node, counts| metrics.followers.add_latencies(node, counts));
        let (free, slots) = core.pool_saturation();
        metrics.pool_free_slots.set(free as u64);
        metrics.pool_slots.set(slots as u64);
        let read_only = core.partitions().filter(|partition| partition.is_read_only()).count() as u64;
        metrics.partitions_read_only.add(read_only);
        metrics.partitions_read_only.sub(std::mem::replace(&mut self.counted_read_only, read_only));
    }
}

/// Hands out flush steps each time the context is polled, which is after its mailbox is empty: group commit
/// without a timer.
#[derive(Default)]
struct Flushes {
    keeping: bool,
}

impl ActorFuture<IngestionActor> for Flushes {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut IngestionActor,
        ctx: &mut Context<IngestionActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        let keeping = self.keeping;
        actor.with_core(ctx, |core, now, effects| {
            if keeping {
                core.keep_tail(now, effects);
            }
            core.flush(now, effects);
        });
        self.keeping = actor.core.as_ref().is_some_and(IngestionCore::has_unkept);
        if self.keeping {
            // Comes back behind the poller, which submits first.
            task.waker().wake_by_ref();
        }
        if actor.core.as_ref().is_some_and(IngestionCore::is_gathering) {
            // Polled again once the runtime has looked at its sockets.
            let _ = std::pin::pin!(tokio::task::yield_now()).poll(task);
        }
        Poll::Pending
    }
}
