//! Group commit: steps to the poller, and what follows from their completions.

use super::following::{answer_promise, begin_refill, begin_truncation, on_flushed};
use super::reading::waited;
use super::refusals::{refuse, refuse_all_held, refuse_pending, stop};
use super::{Effects, IngestionCore, IngestionEffect, Now, Terms, stages};
use crate::ingestion::partition::{Held, Leadership, Partition};
use lance_cluster::metadata::ReplicationMode;
use lance_messages::error_code::ErrorCode;
use lance_messages::mail::connection::{Answer, Reply};
use lance_messages::peer::ReplicaBatch;
use lance_storage::disk::DiskCompletion;
use lance_storage::log::{DiskFailed, Log};
use std::collections::VecDeque;
use std::time::Duration;

/// How long requests wait for an epoch before they hear that they may try again.
const HOLD_MAX: Duration = Duration::from_secs(5);
/// How long appended batches wait for space before who sent them hears that the outcome is unknown: time enough for
/// the reserve to be released and the write to be tried again.
const SPACE_PATIENCE: Duration = Duration::from_secs(2);

impl IngestionCore {
    /// Hands out a flush step for every partition that has something to write and nothing in flight: group
    /// commit. The shell calls this once it has emptied its mailbox.
    pub fn flush(&mut self, now: Now, effects: &mut Effects) {
        self.now = now.elapsed;
        self.gathering = !self.dirty.is_empty() && self.gather.holds(now.elapsed);
        if self.dirty.is_empty() || self.gathering {
            return;
        }
        let before = effects.len();
        let mut left_bytes = 0;
        for _ in 0..self.dirty.len() {
            let Some(slot) = self.dirty.pop_front() else { break };
            let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
                continue;
            };
            partition.queued = false;
            if partition.next_role.is_some() {
                let id = partition.id;
                self.start_epoch(id, effects);
            }
            left_bytes += self.flush_one(slot, effects);
        }
        if effects.len() > before {
            self.gather.on_submitted(left_bytes, now.elapsed);
        }
    }

    /// Whether appended batches wait to be copied into the tail ring.
    pub fn has_unkept(&self) -> bool {
        !self.unkept.is_empty()
    }

    /// Copies appended batches into the tail ring, and pushes them to followers; the shell calls this once their write is
    /// under way.
    pub fn keep_tail(&mut self, now: Now, effects: &mut Effects) {
        let Self { unkept, partitions, tail, live, .. } = self;
        for (slot, header, records) in unkept.drain(..) {
            let Some(partition) = partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
                continue;
            };
            let Some(log) = partition.log.as_mut() else { continue };
            log.keep(&header, &records, tail);
            if partition.leader.is_some() {
                live.push((slot, ReplicaBatch { raw_header: log.header_bytes(&header), header, records }));
            }
        }
        if !self.live.is_empty() {
            self.push_live(now, effects);
        }
    }

    /// How long the shell looks for the completion of what [`Self::flush`] handed out before it parks the thread.
    pub fn watch(&self) -> Duration {
        self.gather.watch()
    }

    /// Whether the next group waits a moment for more: the shell polls its sockets and flushes again.
    pub fn is_gathering(&self) -> bool {
        self.gathering
    }

    /// Hands out the next step of a partition; answers the bytes that have to wait for the one after it.
    pub(super) fn flush_one(&mut self, slot: u32, effects: &mut Effects) -> u64 {
        let submitted_at = self.now;
        let sync_always = self.options.sync_always;
        let sync_bytes = self.options.sync_bytes;
        let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return 0;
        };
        if partition.in_flight {
            return 0;
        }
        let Some(log) = partition.log.as_mut() else { return 0 };
        // The epoch-start batch is always synced: it is what the high watermark hangs on.
        let starting = matches!(partition.leadership, Leadership::Starting { .. });
        let sync = sync_always || starting || partition.sync_due || partition.unsynced_bytes >= sync_bytes;
        if let Some(step) = log.take_flush(sync) {
            (partition.in_flight, partition.retry) = (true, false);
            partition.submitted_at = submitted_at;
            let left_bytes = log.log_end() - step.end_position;
            effects.push(IngestionEffect::Submit { partition: partition.id, token: slot, step });
            return left_bytes;
        }
        partition.retry = log.wants_flush(sync);
        // What could not even begin fails here: no completion will say so.
        if let Some(latch) = log.latched().cloned() {
            log.discard_latched(&mut self.pool);
            stop(partition, latch.to_string(), Some(latch), effects);
        }
        0
    }

    /// Asks for a sync of everything written and not synced yet; the shell calls this at each sync interval.
    pub fn on_sync_due(&mut self, effects: &mut Effects) {
        for slot in 0..self.partitions.len() as u32 {
            let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
                continue;
            };
            let Some(log) = partition.log.as_ref() else { continue };
            if log.durable_end() < log.written_end() || log.is_dirty() {
                partition.sync_due = true;
                self.flush_one(slot, effects);
            }
        }
    }

    /// The poller finished a step of the partition `token`.
    pub fn on_disk_done(&mut self, token: u32, completion: DiskCompletion, now: Now, effects: &mut Effects) {
        // What is about to be committed must be readable from memory.
        self.now = now.elapsed;
        self.keep_tail(now, effects);
        let terms = self.terms();
        let sync_always = terms.sync_always;
        let times = std::mem::take(&mut self.step_times);
        let before = effects.len();
        let mut follow_ups = Vec::new();
        let Self { partitions, pool, dirty, sync_times, .. } = self;
        let Some(partition) = partitions.get_mut(token as usize).and_then(Option::as_mut) else {
            completion.chunks.into_iter().for_each(|chunk| pool.put(chunk.slot));
            self.retry_stalled(now, effects);
            return;
        };
        partition.in_flight = false;
        if partition.refilling.is_some() {
            completion.chunks.into_iter().for_each(|chunk| pool.put(chunk.slot));
            begin_refill(partition, effects);
            return self.retry_stalled(now, effects);
        }
        sync_times.record(now.elapsed.saturating_sub(partition.submitted_at));
        let Some(log) = partition.log.as_mut() else { return };
        let written_before = log.written_end();
        match log.complete(completion, pool) {
            Ok(completed) => {
                partition.no_space = false;
                // Steps that write no batch find space sooner than those that do.
                if !log.is_dirty() || completed.written_end > written_before {
                    partition.no_space_since = None;
                }
                partition.unsynced_bytes = completed.written_end - completed.durable_end;
                partition.sync_due &= log.is_dirty();
                effects.push(IngestionEffect::Flushed(partition.id, completed.durable_end));
                let flushed = if sync_always { completed.durable_end } else { completed.written_end };
                match (&partition.leadership, partition.leader.as_mut()) {
                    (Leadership::Following { .. }, _) => on_flushed(partition, terms, effects),
                    (_, Some(leader)) => {
                        leader.quorum.on_local_flushed(flushed, &mut follow_ups);
                        release(partition, terms, effects);
                    }
                    (_, None) => advance(partition, flushed, terms, effects),
                }
                stages::on_disk(partition, times, now, effects);
                stages::on_committed(partition, now, effects);
            }
            Err(DiskFailed::NoSpace { .. }) => {
                // What was appended stays in the log and is written once there is space: it waits for that, and must
                // not be answered as if it were not stored.
                partition.no_space = true;
                partition.no_space_since.get_or_insert(now.elapsed);
                effects.push(IngestionEffect::NoSpace(partition.id));
                if partition.is_read_only() {
                    serve_recovered(partition);
                }
            }
            Err(DiskFailed::Latched(latch)) => stop(partition, latch.to_string(), Some(latch), effects),
        }
        if !partition.no_space
            && partition.log.as_ref().is_some_and(|log| log.wants_flush(sync_always || partition.sync_due))
        {
            queue(dirty, partition, token);
        }
        answer_promise(partition, terms, effects);
        begin_truncation(partition, effects);
        self.obey_quorum(token, follow_ups, now, effects);
        let released = effects[before..].iter().filter(|effect| matches!(effect, IngestionEffect::Reply(..))).count();
        if released > 0 {
            self.gather.on_completed(released as u32, now.elapsed);
        }
        let partition = self.partitions.get(token as usize).and_then(Option::as_ref);
        let full = partition.is_some_and(|partition| partition.no_space);
        if full {
            self.serve_held(token, now, effects);
        }
        self.serve_ready(token, now, effects);
        self.retry_stalled(now, effects);
        if full {
            // The slots they wait for are those of batches that find no space.
            for (connection, request) in self.stalled.drain(..) {
                refuse(effects, connection, request.request, ErrorCode::NoSpace);
            }
        }
    }

    /// Space, or slots of the pool, may be there again: partitions that found none try once more.
    pub fn on_space_retry(&mut self, effects: &mut Effects) {
        for slot in 0..self.partitions.len() as u32 {
            let Self { partitions, pool, .. } = self;
            let partition = partitions.get_mut(slot as usize).and_then(Option::as_mut);
            let mut waits = |partition: &mut Partition| {
                let resumes = partition.log.as_mut().is_some_and(|log| log.resume_chores(pool));
                resumes || partition.no_space || partition.retry
            };
            let Some(partition) = partition else { continue };
            if let Some(before) = partition.log.as_ref().and_then(Log::overdue_removal) {
                effects.push(IngestionEffect::DropBefore(partition.id, before));
            }
            if waits(partition) {
                self.flush_one(slot, effects);
            }
        }
    }

    /// Answers what has waited too long for an epoch or for space with a retriable error; the shell calls this every
    /// second.
    pub fn refuse_overdue(&mut self, now: Now, effects: &mut Effects) {
        for partition in self.partitions.iter_mut().flatten() {
            let waits = partition.no_space_since.map(|since| now.elapsed.saturating_sub(since));
            if waits.is_some_and(|waits| waits >= SPACE_PATIENCE) {
                refuse_pending(partition, ErrorCode::OutcomeUnknown, effects);
            }
            if now.elapsed.saturating_sub(partition.held_since) >= HOLD_MAX {
                refuse_all_held(partition, ErrorCode::Unavailable, effects);
            }
        }
    }

    /// Requests that waited for the epoch, and fetches that now have something to read.
    pub(super) fn serve_ready(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        let leadership = self.partitions.get(slot as usize).and_then(Option::as_ref).map(|one| &one.leadership);
        match leadership {
            Some(Leadership::Leading { .. }) => self.serve_held(slot, now, effects),
            Some(Leadership::Following { .. }) => {}
            _ => return,
        }
        self.serve_waiting(slot, now, effects);
    }

    /// Fetches that now have something to read.
    pub(super) fn serve_waiting(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        loop {
            let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
                return;
            };
            let Some(log) = partition.log.as_ref() else { return };
            let Some(parked) = partition.waiters.take_readable(log.high_watermark().offset) else {
                return;
            };
            waited(&parked, now, effects);
            self.on_fetch(parked.fetch, now, effects);
        }
    }

    /// Requests that waited for the epoch: it began, or cannot begin for want of space.
    fn serve_held(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        // Held requests came before those of their partition that wait for the pool, and must stay before them.
        let mut without_slot = Vec::new();
        let held =
            self.partitions.get(slot as usize).and_then(Option::as_ref).map_or(0, |partition| partition.held.len());
        // Each once: what is held again waits for what comes next.
        for _ in 0..held {
            let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
                return;
            };
            match partition.held.pop_front() {
                Some(Held::Produce(connection, request)) if without_slot.is_empty() => {
                    let refused = self.try_produce(connection, request, now, effects);
                    without_slot.extend(refused.map(|request| (connection, request)));
                }
                Some(Held::Produce(connection, request)) => without_slot.push((connection, request)),
                Some(Held::Fetch(fetch)) => self.on_fetch(fetch, now, effects),
                Some(Held::LookUp(look_up)) => self.on_look_up(look_up, now, effects),
                None => break,
            }
        }
        self.counts.pool_waits += without_slot.len() as u64;
        without_slot.into_iter().rev().for_each(|waiting| self.stalled.push_front(waiting));
    }

    pub(super) fn retry_stalled(&mut self, now: Now, effects: &mut Effects) {
        while let Some((connection, request)) = self.stalled.pop_front() {
            if let Some(request) = self.try_produce(connection, request, now, effects) {
                self.stalled.push_front((connection, request));
                return;
            }
        }
    }
}

pub(super) fn queue(dirty: &mut VecDeque<u32>, partition: &mut Partition, slot: u32) {
    if !partition.queued {
        partition.queued = true;
        dirty.push_back(slot);
    }
}

/// Alone, what recovery found durable is committed, whether or not the epoch can begin; nothing can take it back.
fn serve_recovered(partition: &mut Partition) {
    if let Some(log) = partition.log.as_mut() {
        log.advance_high_watermark(log.durable_end());
    }
}

/// Moves the high watermark to `committed`, when the epoch allows, and releases who waited for it.
fn advance(partition: &mut Partition, committed: u64, terms: Terms, effects: &mut Effects) {
    if let Leadership::Starting { epoch, start_end } = partition.leadership {
        // Nothing of older epochs is committed before the epoch-start batch is.
        if committed < start_end {
            return;
        }
        partition.leadership = Leadership::Leading { epoch };
        effects.push(IngestionEffect::Leading(partition.id, epoch));
    }
    if partition.leading_epoch().is_some()
        && let Some(log) = partition.log.as_mut()
    {
        log.advance_high_watermark(committed);
        release(partition, terms, effects);
    }
}

/// Answers producers whose batches are committed or, on a topic that acks alone, flushed here.
pub(super) fn release(partition: &mut Partition, terms: Terms, effects: &mut Effects) {
    let Some(log) = partition.log.as_ref() else { return };
    let leads = matches!(partition.leadership, Leadership::Leading { .. });
    let alone = partition.leader.as_ref().is_some_and(|leader| leader.role.mode == ReplicationMode::L1);
    let committed = log.high_watermark().position;
    let position = if leads && alone && terms.lease_holds { committed.max(terms.flushed(log)) } else { committed };
    while let Some(pending) = partition.pending.release_through(position) {
        let answer = Answer::Produced(Ok(pending.produced));
        effects.push(IngestionEffect::Reply(pending.connection, Reply { request: pending.request, answer }));
    }
}
