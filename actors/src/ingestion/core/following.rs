//! The follower's side: taking a leader's batches, confirming what is durable, promising epochs, cutting what parts from
//! the leader.

use super::committing::queue;
use super::refusals::{refuse_all_held, refuse_pending, stop};
use super::{Effects, IngestionCore, IngestionEffect, Now, Terms, stages};
use crate::ingestion::partition::{Leadership, Partition};
use crate::ingestion::replica::{Fenced, FollowerSide};
use lance_cluster::replica::{AppendDecision, FollowerReplica, LogFacts, Promise, TruncateDecision};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{LeaderEpoch, ReplicaIncarnation, TopicPartition};
use lance_messages::peer::{
    AppendOutcome, AppendRequest, AppendResponse, BelowStart, DivergedLog, LogPlace, ReplicaBatch, ReplicaRequest,
    TruncateRequest, TruncateTo,
};
use lance_storage::disk::SlotPool;
use lance_storage::log::{Log, ReplicaAppendError};

/// What became of the batches of an append.
enum Taken {
    /// All of them are held now.
    All { appended: bool },
    /// Some could not be taken; the leader sends them again later.
    Some(ReplicaAppendError),
}

impl IngestionCore {
    /// What this replica has promised, and in which life it is, became known: from now on it may follow and lead.
    pub fn on_replica_known(&mut self, id: TopicPartition, promised: LeaderEpoch, incarnation: ReplicaIncarnation) {
        let Some(partition) = self.partition_mut(id) else {
            return;
        };
        let Some(log) = partition.log.as_ref() else { return };
        let promised = promised.max(log.last_epoch());
        // Told again by a replication actor that was started anew: what this life of the log has promised and answered
        // since still holds, and may be what a leader is chosen by at this moment.
        let holds = |follower: &FollowerSide| {
            follower.replica.incarnation() == incarnation && follower.replica.promised() >= promised
        };
        if partition.follower.as_ref().is_some_and(holds) {
            return;
        }
        let replica = FollowerReplica::new(id, incarnation, promised);
        partition.follower =
            Some(FollowerSide { replica, session: None, promising: None, answered: None, truncating: None });
    }

    /// The metadata opened an epoch: nothing of a lower one is acked any more; answered once nothing is being written.
    pub fn on_promise(&mut self, id: TopicPartition, epoch: LeaderEpoch, effects: &mut Effects) {
        let terms = self.terms();
        let Some(slot) = self.index.get(&id).copied() else {
            return;
        };
        let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(follower) = partition.follower.as_mut() else {
            return;
        };
        match follower.replica.promise(epoch) {
            Promise::Higher(promised) => {
                effects.push(IngestionEffect::Promised(id, epoch, Fenced::Promised(promised)));
            }
            Promise::Raised | Promise::Already => {
                follower.promising = Some(epoch);
                let acts = matches!(partition.leadership, Leadership::Starting { epoch: own, .. } | Leadership::Leading { epoch: own } if own < epoch);
                if acts {
                    step_down(partition, effects);
                }
                if partition.log.as_ref().is_some_and(Log::is_dirty) {
                    queue(&mut self.dirty, partition, slot);
                }
                answer_promise(partition, terms, effects);
            }
        }
    }

    /// A leader's request for a replica of this shard.
    pub fn on_replica_request(&mut self, session: u64, request: ReplicaRequest, now: Now, effects: &mut Effects) {
        let (terms, node) = (self.terms(), self.options.node);
        let (id, epoch) = match &request {
            ReplicaRequest::Append(append) => (append.partition, append.epoch),
            ReplicaRequest::Truncate(truncate) => (truncate.partition, truncate.epoch),
        };
        let slot = self.index.get(&id).copied();
        let partition = slot.and_then(|slot| Some((slot, self.partitions.get_mut(slot as usize)?.as_mut()?)));
        let Some((slot, partition)) = partition.filter(|(_, partition)| partition.may_follow()) else {
            let incarnation = ReplicaIncarnation { node: 0, copy_version: 0, damage_count: 0 };
            let response = AppendResponse { partition: id, epoch, incarnation, outcome: AppendOutcome::Unavailable };
            return effects.push(IngestionEffect::ToLeader(session, response));
        };
        match request {
            ReplicaRequest::Append(append) => {
                let held = partition.log.as_ref().map_or(0, Log::log_end);
                if on_append(partition, &mut self.pool, session, &append, terms, effects) {
                    queue(&mut self.dirty, partition, slot);
                }
                if !append.traced.is_empty() {
                    stages::on_replica_appended(partition, node, held, &append, now);
                }
                // The high watermark may have moved.
                self.serve_waiting(slot, now, effects);
            }
            ReplicaRequest::Truncate(truncate) => {
                on_truncate(partition, session, truncate, terms, effects);
                if partition.log.as_ref().is_some_and(Log::is_dirty) {
                    queue(&mut self.dirty, partition, slot);
                }
            }
        }
    }

    /// A log that nobody has introduced yet, with the epoch of its last batch.
    pub fn unintroduced(&self, id: TopicPartition) -> Option<(TopicPartition, u32)> {
        let slot = self.index.get(&id).copied()?;
        let partition = self.partitions.get(slot as usize)?.as_ref()?;
        let log = partition.log.as_ref().filter(|_| partition.follower.is_none())?;
        Some((id, log.last_epoch().0))
    }

    /// The replica was found damaged from `good_end` on: its log is cut there, once nothing is being written any more, and
    /// opened again as a new life. True when there is no open log to wait for, and the caller cuts what files there are.
    pub fn on_refill(&mut self, id: TopicPartition, good_end: u64, effects: &mut Effects) -> bool {
        let Some(partition) = self.partition_mut(id) else {
            return false;
        };
        // What could not be synced is known to this process alone: the next one finds the damage again.
        if partition.log.as_ref().is_some_and(|log| log.latched().is_some()) {
            return false;
        }
        step_down(partition, effects);
        (partition.leadership, partition.succeeded) = (Leadership::Waiting, false);
        (partition.follower, partition.next_role) = (None, None);
        // The log that comes back knows of less that is committed than readers were told.
        super::refusals::refuse_waiters(&mut partition.waiters, ErrorCode::NotLeader, effects);
        if partition.log.is_none() && !partition.cutting {
            partition.cutting = true;
            return true;
        }
        partition.refilling = Some(partition.refilling.map_or(good_end, |before| before.min(good_end)));
        begin_refill(partition, effects);
        false
    }

    /// The log was cut, or begun anew, as its leader asked.
    pub fn on_log_truncated(&mut self, id: TopicPartition, result: Result<Log, String>, effects: &mut Effects) {
        let terms = self.terms();
        let Some(partition) = self.partition_mut(id) else {
            return;
        };
        partition.cutting = false;
        match result {
            Ok(log) => {
                partition.log = Some(log);
                partition.traced.clear();
                if partition.refilling.is_some() {
                    return begin_refill(partition, effects);
                }
                confirm(partition, terms, effects);
                answer_promise(partition, terms, effects);
            }
            Err(reason) => stop(partition, reason, None, effects),
        }
    }
}

/// A replica that lacks no more than this of what is committed is near its leader.
const NEAR_BYTES: u64 = 1024 * 1024;

/// Takes what can be taken; answers whether something is to be written.
fn on_append(
    partition: &mut Partition,
    pool: &mut SlotPool,
    session: u64,
    append: &AppendRequest,
    terms: Terms,
    effects: &mut Effects,
) -> bool {
    let (Some(log), Some(follower)) = (partition.log.as_mut(), partition.follower.as_mut()) else {
        return false;
    };
    let decision = {
        let epoch_before = |position| log.epoch_before(position);
        follower.replica.on_append(&facts(log, terms, &epoch_before), append)
    };
    let outcome = match decision {
        AppendDecision::Fenced { promised } => AppendOutcome::Fenced { promised },
        AppendDecision::Diverged => diverged(log),
        AppendDecision::Append { skip_batches, high_watermark } => {
            follower.session = Some(session);
            let batches = append.batches.get(skip_batches..).unwrap_or_default();
            let is_near = append.high_watermark <= log.log_end() + NEAR_BYTES;
            let taken = take(log, pool, batches, is_near);
            log.advance_high_watermark(high_watermark);
            if append.log_start > log.log_start().position {
                effects.push(IngestionEffect::DropBefore(partition.id, append.log_start));
            }
            follow(partition, append.epoch, effects);
            match taken {
                Taken::All { appended: true } => return true,
                Taken::All { appended: false } => {
                    confirm(partition, terms, effects);
                    return false;
                }
                Taken::Some(error) => {
                    effects.push(IngestionEffect::NotTaken(partition.id, error.to_string()));
                    // An empty log that begins where no segment of the leader does has nothing to lose: from 0 the
                    // leader tells it where to begin.
                    if matches!(error, ReplicaAppendError::NoSegmentStart { .. }) {
                        begin_anew(partition, session, append);
                        begin_truncation(partition, effects);
                        return false;
                    }
                    AppendOutcome::Unavailable
                }
            }
        }
    };
    respond(partition, session, append.epoch, outcome, effects);
    partition.log.as_ref().is_some_and(Log::is_dirty)
}

fn begin_anew(partition: &mut Partition, session: u64, append: &AppendRequest) {
    let (Some(log), Some(follower)) = (partition.log.as_ref(), partition.follower.as_mut()) else {
        return;
    };
    let incarnation = follower.replica.incarnation();
    let answers = DivergedLog { incarnation, last_epoch: log.last_epoch(), log_end: log.log_end() };
    let to = TruncateTo::Restart(LogPlace::default());
    let (partition, epoch) = (append.partition, append.epoch);
    follower.truncating =
        Some((session, TruncateRequest { partition, epoch, answers, to, below: BelowStart::default() }));
}

fn take(log: &mut Log, pool: &mut SlotPool, batches: &[ReplicaBatch], is_near: bool) -> Taken {
    for ReplicaBatch { raw_header, header, records } in batches {
        if is_near {
            log.part_from_committed(header.committed_through);
        }
        if let Err(error) = log.append_replica(raw_header, header, records, pool) {
            return Taken::Some(error);
        }
    }
    Taken::All { appended: !batches.is_empty() }
}

fn on_truncate(partition: &mut Partition, session: u64, request: TruncateRequest, terms: Terms, effects: &mut Effects) {
    let (Some(log), Some(follower)) = (partition.log.as_mut(), partition.follower.as_mut()) else {
        return;
    };
    let decision = {
        let epoch_before = |position| log.epoch_before(position);
        follower.replica.on_truncate(&facts(log, terms, &epoch_before), &request)
    };
    match decision {
        TruncateDecision::Ignore => {}
        TruncateDecision::Fenced { promised } => {
            respond(partition, session, request.epoch, AppendOutcome::Fenced { promised }, effects);
        }
        TruncateDecision::Cut { .. } | TruncateDecision::Restart { .. } => {
            follower.session = Some(session);
            let epoch = request.epoch;
            follower.truncating = Some((session, request));
            follow(partition, epoch, effects);
            begin_truncation(partition, effects);
        }
        TruncateDecision::BelowHighWatermark { position, high_watermark } => {
            let reason = format!(
                "a leader asked to cut at {position}, below the high watermark {high_watermark}: nothing was cut"
            );
            stop(partition, reason, None, effects);
        }
    }
}

/// Cuts once nothing is being written: the log leaves the core until that is durable.
pub(super) fn begin_truncation(partition: &mut Partition, effects: &mut Effects) {
    let quiet = !partition.in_flight && partition.log.as_ref().is_some_and(|log| !log.is_dirty());
    let Some(follower) = partition.follower.as_mut().filter(|_| quiet) else {
        return;
    };
    let Some((_, TruncateRequest { to, below, .. })) = follower.truncating.take() else {
        return;
    };
    let Some(log) = partition.log.take() else { return };
    (partition.queued, partition.cutting) = (false, true);
    effects.push(IngestionEffect::Truncate { partition: partition.id, log: Box::new(log), to, below });
}

/// Cuts a damaged log once nothing is being written any more: what is under way would come to lie above the cut, and over
/// what the next life holds there.
pub(super) fn begin_refill(partition: &mut Partition, effects: &mut Effects) {
    if partition.in_flight || partition.refilling.is_none() {
        return;
    }
    let (Some(log), Some(good_end)) = (partition.log.take(), partition.refilling.take()) else { return };
    // A log that was cut, or begun anew, since the damage was found may lie elsewhere; one that retention took the damage
    // from is whole.
    let position = match log.offline() {
        None if good_end < log.log_start().position => log.durable_end(),
        None => good_end.min(log.durable_end()),
        Some(_) => good_end,
    };
    (partition.queued, partition.cutting) = (false, true);
    let to = TruncateTo::Position(position);
    effects.push(IngestionEffect::Truncate {
        partition: partition.id,
        log: Box::new(log),
        to,
        below: BelowStart::default(),
    });
}

/// Answers the promise that waits, once nothing is being written any more.
pub(super) fn answer_promise(partition: &mut Partition, terms: Terms, effects: &mut Effects) {
    let stopped = matches!(partition.leadership, Leadership::Stopped { .. });
    let no_space = partition.no_space;
    let Some(follower) = partition.follower.as_mut() else {
        return;
    };
    let Some(epoch) = follower.promising else { return };
    let answer = if stopped {
        Fenced::Unclean
    } else {
        let Some(log) = partition.log.as_ref() else { return };
        // A full disk lets nothing become durable: what waits in memory was confirmed to nobody.
        if partition.in_flight || (log.is_dirty() && !no_space) {
            return;
        }
        let epoch_before = |position| log.epoch_before(position);
        match follower.replica.promise_answer(&facts(log, terms, &epoch_before)) {
            Some((last_epoch, durable_end)) => {
                Fenced::Clean { incarnation: follower.replica.incarnation(), last_epoch, durable_end }
            }
            None => Fenced::Unclean,
        }
    };
    follower.promising = None;
    follower.answered = matches!(answer, Fenced::Clean { .. }).then_some(epoch);
    effects.push(IngestionEffect::Promised(partition.id, epoch, answer));
}

/// After a step of a follower's log: what is durable is confirmed, and the high watermark follows.
pub(super) fn on_flushed(partition: &mut Partition, terms: Terms, effects: &mut Effects) {
    let (Some(log), Some(follower)) = (partition.log.as_mut(), partition.follower.as_ref()) else {
        return;
    };
    let flushed = terms.flushed(log);
    log.advance_high_watermark(follower.replica.high_watermark_limit(flushed));
    confirm(partition, terms, effects);
}

/// Tells the leader how far this replica is, if its promise still is that leader's epoch.
fn confirm(partition: &mut Partition, terms: Terms, effects: &mut Effects) {
    let (Some(log), Some(follower)) = (partition.log.as_ref(), partition.follower.as_ref()) else {
        return;
    };
    let flushed = terms.flushed(log);
    let Some((epoch, durable_end)) = follower.replica.on_flushed(flushed) else {
        return;
    };
    if let Some(session) = follower.session {
        let outcome = AppendOutcome::Appended { durable_end, sync_p99_micros: terms.sync_p99_micros };
        respond(partition, session, epoch, outcome, effects);
    }
}

fn respond(partition: &Partition, session: u64, epoch: LeaderEpoch, outcome: AppendOutcome, effects: &mut Effects) {
    let Some(follower) = partition.follower.as_ref() else {
        return;
    };
    let incarnation = follower.replica.incarnation();
    let response = AppendResponse { partition: partition.id, epoch, incarnation, outcome };
    effects.push(IngestionEffect::ToLeader(session, response));
}

fn diverged(log: &Log) -> AppendOutcome {
    AppendOutcome::Diverged {
        last_epoch: log.last_epoch(),
        log_start: log.log_start().position,
        log_end: log.log_end(),
        history: log.epoch_history().iter().map(|start| (start.epoch, start.position)).collect(),
    }
}

/// Another node leads in `epoch`: requests of clients belong there.
fn follow(partition: &mut Partition, epoch: LeaderEpoch, effects: &mut Effects) {
    if matches!(partition.leadership, Leadership::Following { epoch: known } if known == epoch) {
        return;
    }
    if matches!(partition.leadership, Leadership::Starting { .. } | Leadership::Leading { .. }) {
        step_down(partition, effects);
    }
    partition.leadership = Leadership::Following { epoch };
    refuse_all_held(partition, ErrorCode::NotLeader, effects);
    super::refusals::refuse_waiters(&mut partition.waiters, ErrorCode::NotLeader, effects);
    effects.push(IngestionEffect::Following(partition.id, epoch));
}

/// Nothing of this leadership is acked any more: what its successor holds of it is unknown here.
pub(super) fn step_down(partition: &mut Partition, effects: &mut Effects) {
    partition.leader = None;
    match partition.leadership {
        // What stopped it holds on, whoever leads.
        Leadership::Stopped { .. } => partition.succeeded = true,
        _ => partition.leadership = Leadership::Waiting,
    }
    refuse_pending(partition, ErrorCode::OutcomeUnknown, effects);
}

fn facts<'a>(log: &Log, terms: Terms, epoch_before: &'a dyn Fn(u64) -> Option<LeaderEpoch>) -> LogFacts<'a> {
    LogFacts {
        log_start: log.log_start().position,
        log_end: log.log_end(),
        durable_end: terms.flushed(log),
        high_watermark: log.high_watermark().position,
        last_epoch: log.last_epoch(),
        epoch_before,
    }
}
