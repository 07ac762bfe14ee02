//! What an ingestion actor does with messages about replicas: roles, promises, batches of leaders, acks of followers.

use super::actor::IngestionActor;
use super::core::moving::{Candidate, Counted};
use super::maintenance::RemoveSegments;
use super::opener::{Opened, TruncateJob};
use super::replica::LeaderRole;
use crate::peer::{RegisterPeerSession, UnregisterPeerSession};
use crate::replication::actor::ReplicaNews;
use actix::fut::ActorFutureExt;
use actix::prelude::*;
use hashbrown::HashMap;
use lance_cluster::metadata::MetadataCommand;
use lance_cluster::replica::FollowerWindow;
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicPartition};
use lance_messages::mail::peer::{AppendReplica, LinkChanged, ReplicaAnswered, SendToFollower, SendToLeader};
use lance_messages::peer::{BelowStart, LinkKind, LogPlace, TruncateTo};
use lance_storage::log::Log;
use lance_storage::reader::{ReadError, Reader};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// While the file of flushed marks is being written, a cut looks for it this often.
const MARKS_PAUSE: Duration = Duration::from_millis(5);
/// Segments that a reader for followers keeps open.
const READER_FILES: usize = 8;
/// Answers that may wait for a leader's session before the session is given up: the leader asks again.
const MAX_WAITING_ANSWERS: usize = 65_536;

/// What replicas promised before, and in which life they are.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct IntroduceReplicas(pub Vec<(TopicPartition, LeaderEpoch, ReplicaIncarnation)>);

/// Nothing below these epochs is acked any more; answered by `ReplicasFenced`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FenceEpochs(pub Vec<(TopicPartition, LeaderEpoch)>);

/// This node, in this start, leads these partitions.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LeadPartitions(pub Vec<LeaderRole>);

/// The replicas of partitions led here changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ChangeRoles(pub Vec<LeaderRole>);

/// A leadership is to move to another node.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct MoveLeadership {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch it is led in here.
    pub epoch: LeaderEpoch,
    /// To whom.
    pub to: NodeId,
}

/// Nobody is put in the place of this node before then: until then topics that ack alone may do so.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct ExtendLease {
    /// By the clock of this node.
    pub until: Duration,
}

/// Cut a damaged log back to its last good position and open it again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct RefillReplica {
    /// The partition.
    pub partition: TopicPartition,
    /// Where its good bytes end.
    pub good_end: u64,
}

/// Asks which followers of partitions led here could count again and, at the end of a window, how they did in it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "ReplicaReport")]
pub struct ReportReplicas {
    /// A window ends.
    pub window_ends: bool,
}

/// Nodes whose followers are slow; others are not any more.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct DemoteFollowers(pub Vec<NodeId>);

/// The answer to [`ReportReplicas`].
#[derive(Debug, Default, MessageResponse)]
pub struct ReplicaReport {
    /// By follower node, at the end of a window.
    pub windows: Vec<FollowerWindow>,
    /// Followers that count, at the end of a window.
    pub counted: Vec<Counted>,
    /// Those of them that were cut for damage and are not refilled yet, at the end of a window.
    pub refilling: Vec<Counted>,
    /// Followers that could count again.
    pub candidates: Vec<Candidate>,
    /// Exchanges of replicas that can lose nothing.
    pub replacements: Vec<MetadataCommand>,
    /// 99th percentile of this shard's own syncs in the window, µs.
    pub sync_p99_micros: Option<u32>,
}

impl ReplicaReport {
    /// Adds what another shard reports.
    pub fn absorb(&mut self, other: ReplicaReport) {
        self.windows.extend(other.windows);
        self.counted.extend(other.counted);
        self.refilling.extend(other.refilling);
        self.candidates.extend(other.candidates);
        self.replacements.extend(other.replacements);
        self.sync_p99_micros = self.sync_p99_micros.max(other.sync_p99_micros);
    }
}

/// The data links to other nodes.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct ServeLinks(pub HashMap<NodeId, Recipient<SendToFollower>>);

impl IngestionActor {
    /// Cuts a damaged log back and opens it again, as a new life of the replica.
    pub(super) fn refill(&mut self, partition: TopicPartition, good_end: u64, ctx: &mut Context<Self>) {
        let mut is_mine = false;
        self.with_core(ctx, |core, _, effects| is_mine = core.on_refill(partition, good_end, effects));
        if is_mine {
            // Where nothing was left to open there is nothing to cut either.
            let to = match good_end {
                0 => TruncateTo::Restart(LogPlace::default()),
                _ => TruncateTo::Position(good_end),
            };
            self.truncate(TruncateJob { partition, log: None, to, below: BelowStart::default() }, ctx);
        }
    }

    /// Hands answers to the sessions of their leaders; one whose session takes no more is lost, and asked for again.
    pub(super) fn send_to_leaders(&mut self) {
        for (session, responses) in self.to_leaders.drain() {
            let Some(reply_to) = self.sessions.get(&session) else {
                continue;
            };
            if responses.len() <= MAX_WAITING_ANSWERS
                && let Err(SendError::Full(message)) = reply_to.try_send(SendToLeader { responses })
            {
                let reply_to = reply_to.clone();
                actix_rt::spawn(async move {
                    let _ = reply_to.send(message).await;
                });
            }
        }
    }

    /// Reads for a follower away from this thread.
    pub(super) fn read_for_follower(&mut self, job: ReadJob, ctx: &mut Context<Self>) {
        let ReadJob { partition, node, epoch, from, slice, max_bytes } = job;
        let disk = &self.setup.opener.disk;
        let mut reader = self.replica_readers.pop().unwrap_or_else(|| Reader::new(disk, READER_FILES));
        let cuts = self.cuts;
        let segment = Arc::clone(slice.segment());
        let read = actix_rt::task::spawn_blocking(move || {
            let read = slice.read(&mut reader, max_bytes);
            let good_end = read.as_ref().err().and_then(ReadError::good_end);
            (reader, read.map_err(|error| error.to_string()), good_end)
        });
        let read = actix::fut::wrap_future::<_, Self>(read);
        ctx.spawn(read.map(move |done, actor, ctx| {
            let read = match done {
                Ok((reader, read, good_end)) => {
                    // What it knows of files that were cut meanwhile holds no more.
                    if actor.cuts == cuts {
                        actor.replica_readers.push(reader);
                        // Found before the partition had other copies, it was news to nobody who could mend it.
                        if let Some(good_end) = good_end {
                            actor.setup.metrics.damaged_batches.add(u64::from(segment.note_damage(good_end)));
                            actor.tell_replication(ReplicaNews::DamageFound(partition, good_end));
                        }
                    }
                    read
                }
                Err(error) => Err(error.to_string()),
            };
            actor.with_core(ctx, |core, now, effects| {
                core.on_replica_read((partition, node, epoch), from, read, now, effects);
            });
        }));
    }

    /// Removes a copy that moved away. Its mark of what is durable goes first: should the partition come back, and power
    /// fail, the new log would be taken for sound up to there. Without that, the files stay.
    pub(super) fn remove_copy(&mut self, copy: MovedCopy, ctx: &mut Context<Self>) {
        let Some(mut flushed) = self.flushed.take() else {
            ctx.run_later(MARKS_PAUSE, move |actor, ctx| actor.remove_copy(copy, ctx));
            return;
        };
        let (partition, log, under_way) = copy;
        let work = actix_rt::task::spawn_blocking(move || {
            let lowered = flushed.lower(partition, 0);
            (flushed, lowered)
        });
        ctx.spawn(actix::fut::wrap_future::<_, Self>(work).map(move |done, actor, ctx| {
            let Ok((flushed, lowered)) = done else {
                return crate::supervision::shell::fail(actor, ctx, "removing a copy was interrupted".to_owned());
            };
            actor.flushed = Some(flushed);
            match lowered {
                Ok(()) => actor.setup.opener.remove(partition, log, actor.openings.clone(), under_way),
                Err(error) => tracing::warn!(%partition, %error, "the files of a copy that moved away stay here"),
            }
        }));
    }

    /// Cuts a log, or begins it anew, away from this thread; its mark of what is durable is lowered first.
    pub(super) fn truncate(&mut self, job: TruncateJob, ctx: &mut Context<Self>) {
        let Some(mut flushed) = self.flushed.take() else {
            ctx.run_later(MARKS_PAUSE, move |actor, ctx| actor.truncate(job, ctx));
            return;
        };
        let partition = job.partition;
        self.cuts += 1;
        self.replica_readers.clear();
        let end = match job.to {
            TruncateTo::Position(position) => position,
            TruncateTo::Restart(_) => 0,
        };
        self.tell_replication(ReplicaNews::Cut(partition, end));
        if let Some(mark) = self.marks.flushed.get_mut(&partition) {
            *mark = (*mark).min(end);
        }
        let (opener, now_ns) = (Arc::clone(&self.setup.opener), self.setup.clock.now().wall_ns);
        let life = self.lives;
        let under_way = self.openings.begin();
        let work = actix_rt::task::spawn_blocking(move || {
            let lowered = flushed.lower(partition, end).map_err(|error| error.to_string());
            let opened = match lowered {
                Ok(()) => opener.truncate(job, now_ns),
                Err(reason) => Opened::failed(partition, reason),
            };
            drop(under_way);
            (flushed, opened)
        });
        ctx.spawn(actix::fut::wrap_future::<_, Self>(work).map(move |done, actor, ctx| {
            let Ok((flushed, opened)) = done else {
                return crate::supervision::shell::fail(actor, ctx, "cutting a log was interrupted".to_owned());
            };
            actor.flushed = Some(flushed);
            if actor.lives == life {
                let result = opened.result;
                result.iter().for_each(|log| actor.marks.note_opened(log));
                if result.is_ok() && actor.stopped.remove(&partition) {
                    actor.setup.metrics.partitions_stopped.sub(1);
                }
                actor.with_core(ctx, |core, _, effects| core.on_log_truncated(partition, result, effects));
                actor.count_open();
                let opened = actor.core.as_ref().and_then(|core| core.unintroduced(partition));
                actor.want_epochs(opened.into_iter().collect());
            }
        }));
    }
}

/// The leader dropped old segments: so does this replica.
pub(super) fn drop_before(partition: TopicPartition, before: u64, ctx: &mut Context<IngestionActor>) {
    let own = ctx.address();
    actix_rt::spawn(async move {
        if let Ok(Err(error)) = own.send(RemoveSegments { partition, before }).await {
            tracing::warn!(%partition, %error, "segments that the leader dropped stay a little longer");
        }
    });
}

/// A copy that is to be removed, and what tells that it was.
pub(super) type MovedCopy = (TopicPartition, Option<Log>, watch::Receiver<()>);

/// A read for a follower.
pub(super) struct ReadJob {
    pub(super) partition: TopicPartition,
    pub(super) node: NodeId,
    pub(super) epoch: LeaderEpoch,
    pub(super) from: u64,
    pub(super) slice: lance_storage::reader::ReplicaSlice,
    pub(super) max_bytes: usize,
}

impl Handler<IntroduceReplicas> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: IntroduceReplicas, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, _, _| {
            for (partition, promised, incarnation) in message.0 {
                core.on_replica_known(partition, promised, incarnation);
            }
        });
    }
}

impl Handler<FenceEpochs> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: FenceEpochs, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, _, effects| {
            for (partition, epoch) in message.0 {
                core.on_promise(partition, epoch, effects);
            }
        });
    }
}

impl Handler<LeadPartitions> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: LeadPartitions, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, now, effects| {
            for role in message.0 {
                core.on_become_leader(role, now, effects);
            }
        });
    }
}

impl Handler<ChangeRoles> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: ChangeRoles, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, now, effects| {
            for role in message.0 {
                core.on_role_changed(role, now, effects);
            }
        });
    }
}

impl Handler<MoveLeadership> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: MoveLeadership, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        let MoveLeadership { partition, epoch, to } = message;
        self.with_core(ctx, |core, now, effects| core.on_move(partition, epoch, to, now, effects));
    }
}

impl Handler<ExtendLease> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: ExtendLease, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, now, effects| core.on_lease(message.until, now, effects));
    }
}

impl Handler<RefillReplica> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: RefillReplica, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.refill(message.partition, message.good_end, ctx);
    }
}

impl Handler<ReportReplicas> for IngestionActor {
    type Result = ReplicaReport;

    fn handle(&mut self, message: ReportReplicas, ctx: &mut Self::Context) -> ReplicaReport {
        self.life.vitals.message_taken();
        let mut report = ReplicaReport::default();
        self.with_core(ctx, |core, now, _| {
            report.candidates = core.candidates();
            report.replacements = core.take_replacements(now);
            if message.window_ends {
                report.windows = core.take_windows(now);
                report.counted = core.counted();
                report.refilling = core.refilling();
                report.sync_p99_micros = core.end_sync_window();
                core.measure_followers();
            }
        });
        report
    }
}

impl Handler<DemoteFollowers> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: DemoteFollowers, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, _, _| core.demote_followers(&message.0));
    }
}

impl Handler<RegisterPeerSession> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: RegisterPeerSession, _: &mut Self::Context) {
        self.sessions.insert(message.session, message.answers);
    }
}

impl Handler<UnregisterPeerSession> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: UnregisterPeerSession, _: &mut Self::Context) {
        self.sessions.remove(&message.0);
    }
}

impl Handler<AppendReplica> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: AppendReplica, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, now, effects| {
            for request in message.requests {
                core.on_replica_request(message.session, request, now, effects);
            }
        });
    }
}

impl Handler<ReplicaAnswered> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: ReplicaAnswered, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, now, effects| {
            for response in &message.responses {
                core.on_replica_answered(message.from, response, now, effects);
            }
        });
    }
}

impl Handler<LinkChanged> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: LinkChanged, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        if message.kind == LinkKind::Data {
            match message.peer {
                Some(peer) => self.peers.insert(message.node, peer),
                None => self.peers.remove(&message.node),
            };
            self.with_core(ctx, |core, now, effects| {
                core.on_link_changed(message.node, message.peer, now, effects);
            });
        }
    }
}

impl Handler<ServeLinks> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: ServeLinks, ctx: &mut Self::Context) {
        self.links = message.0;
        self.feed_at_intervals(ctx);
    }
}
