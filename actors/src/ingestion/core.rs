//! `IngestionCore`: appends, commits and reads for the partitions of one shard. No clock, file or socket inside.

use super::gather::Gather;
use super::partition::{Held, Leadership, Partition};
use super::pending::PendingProduce;
use crate::network::readers::SegmentRead;
use bytes::BytesMut;
use hashbrown::HashMap;
use lance_messages::batch::{BatchFlags, ControlBatch};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, LeaderEpoch, NodeId, TopicPartition};
use lance_messages::mail::connection::{Answer, FetchedData, PartitionBounds, Produced, Reply};
use lance_messages::mail::ingestion::{CancelWait, Fetch, LookUpOffset, OffsetQuery, ProduceRequest};
use lance_messages::sort_key::HybridClock;
use lance_storage::disk::{DiskCompletion, SlotPool};
use lance_storage::flush::FlushStep;
use lance_storage::log::{AppendError, DiskFailed, Latch, Log, LogRead, NewBatch, TailRead};
use lance_storage::tail::TailRing;
use std::collections::VecDeque;
use std::time::Duration;

/// Most bytes of a fetch that are copied from the tail into a connection's buffer.
pub const TAIL_COPY_BYTES: usize = 256 * 1024;

/// The two clocks, read once by the shell for each message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// Time since the process started; never goes back.
    pub elapsed: Duration,
}

/// What an ingestion core wants done.
#[derive(Debug)]
pub enum IngestionEffect {
    /// Carry out a step of a log; `token` names the partition.
    Submit {
        /// The partition's slot in this core.
        token: u32,
        /// The step.
        step: FlushStep,
    },
    /// Answer a connection.
    Reply(ConnectionId, Reply<SegmentRead>),
    /// The partition serves in this epoch.
    Leading(TopicPartition, LeaderEpoch),
    /// The partition stopped acking; the reason is for operators, the latch stays until the process restarts.
    Stopped(TopicPartition, String, Option<Latch>),
    /// The partition's log is durable up to here.
    Flushed(TopicPartition, u64),
    /// The disk is full: release the reserve.
    NoSpace(TopicPartition),
}

/// How a core is set up.
#[derive(Clone, Copy, Debug)]
pub struct IngestionOptions {
    /// This node.
    pub node: NodeId,
    /// The shard's index; also the actor id in sort keys.
    pub shard: u16,
    /// Whether an ack waits for the sync.
    pub sync_always: bool,
    /// In interval mode: sync once this many bytes are written.
    pub sync_bytes: u64,
}

/// Figures of one core, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct IngestionCounts {
    /// Batches appended.
    pub batches: u64,
    /// Record bytes appended.
    pub bytes: u64,
    /// Records appended.
    pub records: u64,
    /// Batches recognised as retries.
    pub duplicates: u64,
    /// Fetches answered from the tail.
    pub tail_fetches: u64,
    /// Fetches handed to reader threads.
    pub segment_fetches: u64,
    /// Appends that had to wait for a slot of the pool.
    pub pool_waits: u64,
}

/// The ingestion core of one shard.
pub struct IngestionCore {
    options: IngestionOptions,
    clock: HybridClock,
    pool: SlotPool,
    tail: TailRing,
    index: HashMap<TopicPartition, u32>,
    partitions: Vec<Option<Partition>>,
    dirty: VecDeque<u32>,
    stalled: VecDeque<(ConnectionId, ProduceRequest)>,
    scratch: BytesMut,
    counts: IngestionCounts,
    next_deadline: Option<Duration>,
    gather: Gather,
    appends_refused: bool,
}

type Effects = Vec<IngestionEffect>;

impl IngestionCore {
    /// A core with no partitions.
    pub fn new(options: IngestionOptions, pool: SlotPool, tail: TailRing) -> Self {
        let actor = u8::try_from(options.shard).unwrap_or(u8::MAX);
        Self {
            clock: HybridClock::new(options.node, actor),
            options,
            pool,
            tail,
            index: HashMap::new(),
            partitions: Vec::new(),
            dirty: VecDeque::new(),
            stalled: VecDeque::new(),
            scratch: BytesMut::new(),
            counts: IngestionCounts::default(),
            next_deadline: None,
            gather: Gather::default(),
            appends_refused: false,
        }
    }

    /// Gives the pool back; the rest is dropped.
    pub fn into_pool(self) -> SlotPool {
        self.pool
    }

    /// Figures since the last call.
    pub fn take_counts(&mut self) -> IngestionCounts {
        std::mem::take(&mut self.counts)
    }

    /// Whether requests wait for a free slot of the pool.
    pub fn is_pressed(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// A completion asked for by an earlier life: only its slots are of use.
    pub fn on_stale_completion(&mut self, completion: DiskCompletion) {
        completion.chunks.into_iter().for_each(|chunk| self.pool.put(chunk.slot));
    }

    /// Free and all slots of the pool.
    pub fn pool_saturation(&self) -> (usize, usize) {
        (self.pool.free_count(), self.pool.capacity())
    }

    /// Partitions whose log was opened, or found impossible to open.
    pub fn opened_count(&self) -> usize {
        let settled = |p: &&Partition| p.log.is_some() || matches!(p.leadership, Leadership::Stopped { .. });
        self.partitions().filter(settled).count()
    }

    /// Whether there is room for appends; without, producers get a retriable error and everything else goes on.
    pub fn set_appends_allowed(&mut self, allowed: bool) {
        self.appends_refused = !allowed;
    }

    /// The partitions and their states.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().flatten()
    }

    /// Makes room for a partition whose log is being opened; requests for it are held.
    pub fn on_assigned(&mut self, id: TopicPartition) {
        if self.index.contains_key(&id) {
            return;
        }
        let slot = self.partitions.len() as u32;
        self.partitions.push(Some(Partition::new(id)));
        self.index.insert(id, slot);
    }

    /// Forgets a partition; everybody who waits for it is told that it is gone. Gives its log back for closing.
    pub fn on_unassigned(&mut self, id: TopicPartition, effects: &mut Effects) -> Option<Log> {
        let slot = self.index.remove(&id)?;
        let mut partition = self.partitions.get_mut(slot as usize)?.take()?;
        fail_all(&mut partition, ErrorCode::UnknownTopic, effects);
        partition.log.take()
    }

    /// The partition's log was opened.
    pub fn on_log_opened(&mut self, id: TopicPartition, log: Log, effects: &mut Effects) {
        self.clock.pass(log.last_sort_key());
        let Some(partition) = self.partition_mut(id) else { return };
        let offline = log.offline().map(ToString::to_string);
        let latched = log.latched().map(ToString::to_string);
        partition.log = Some(log);
        if let Some(reason) = offline.or(latched) {
            return stop(partition, reason, None, effects);
        }
        let next_epoch = partition.next_epoch.take();
        if let Some(epoch) = next_epoch {
            self.start_epoch(id, epoch, effects);
        }
    }

    /// The partition's log could not be opened, or is damaged.
    pub fn on_log_failed(&mut self, id: TopicPartition, reason: String, effects: &mut Effects) {
        let Some(partition) = self.partition_mut(id) else { return };
        stop(partition, reason, None, effects);
    }

    /// This node leads the partition in `epoch` from now on.
    pub fn on_become_leader(&mut self, id: TopicPartition, epoch: LeaderEpoch, effects: &mut Effects) {
        let Some(partition) = self.partition_mut(id) else { return };
        if partition.log.is_none() {
            partition.next_epoch = Some(epoch);
            return;
        }
        self.start_epoch(id, epoch, effects);
    }

    fn start_epoch(&mut self, id: TopicPartition, epoch: LeaderEpoch, effects: &mut Effects) {
        let node = self.options.node;
        let Some(slot) = self.index.get(&id).copied() else { return };
        let Self { partitions, pool, tail, clock, .. } = self;
        let Some(partition) = partitions.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let Some(log) = partition.log.as_mut() else { return };
        if log.last_epoch() >= epoch || matches!(partition.leadership, Leadership::Stopped { .. }) {
            return;
        }
        let body = ControlBatch::EpochStart { leader: node }.encode();
        let batch = NewBatch {
            records: &body,
            records_crc: crc32fast::hash(&body),
            plain_len: 0,
            record_count: 0,
            flags: BatchFlags::CONTROL,
            leader_epoch: epoch,
            committed_through: log.high_watermark().position,
            sort_key: clock.tick(0),
            max_timestamp_ns: 0,
            producer: None,
        };
        match log.append(&batch, pool, tail) {
            Ok(appended) => {
                partition.leadership = Leadership::Starting { epoch, start_end: appended.end_position };
                queue(&mut self.dirty, partition, slot);
            }
            // Slots come back with the next completion; the epoch is tried again then.
            Err(AppendError::PoolExhausted { .. }) => {
                partition.next_epoch = Some(epoch);
                partition.queued = true;
                self.dirty.push_back(slot);
            }
            Err(error) => stop(partition, error.to_string(), None, effects),
        }
    }

    /// Appends one batch; it is answered once it is committed.
    pub fn on_produce(&mut self, connection: ConnectionId, request: ProduceRequest, now: Now, effects: &mut Effects) {
        if !self.stalled.is_empty() {
            self.stalled.push_back((connection, request));
            return;
        }
        if let Some(request) = self.try_produce(connection, request, now, effects) {
            self.counts.pool_waits += 1;
            self.stalled.push_back((connection, request));
        }
    }

    /// Gives the request back when the pool has no slot for it.
    fn try_produce(
        &mut self,
        connection: ConnectionId,
        request: ProduceRequest,
        now: Now,
        effects: &mut Effects,
    ) -> Option<ProduceRequest> {
        let Some(slot) = self.index.get(&request.partition).copied() else {
            refuse(effects, connection, request.request, ErrorCode::UnknownTopic);
            return None;
        };
        let Self { partitions, pool, tail, clock, appends_refused, .. } = self;
        let Some(partition) = partitions.get_mut(slot as usize).and_then(Option::as_mut) else { return None };
        let Leadership::Leading { epoch } = partition.leadership else {
            hold_or_refuse(partition, Held::Produce(connection, request), effects);
            return None;
        };
        let Some(log) = partition.log.as_mut() else { return None };
        if partition.no_space || *appends_refused {
            refuse(effects, connection, request.request, ErrorCode::NoSpace);
            return None;
        }
        let timestamp = if request.timestamp_ns == 0 { now.wall_ns } else { request.timestamp_ns };
        let batch = NewBatch {
            records: &request.records,
            records_crc: request.records_crc,
            plain_len: request.plain_len,
            record_count: request.record_count,
            flags: request.flags,
            leader_epoch: epoch,
            committed_through: log.high_watermark().position,
            sort_key: clock.tick(now.wall_ns),
            max_timestamp_ns: timestamp,
            producer: request.producer,
        };
        let appended = match log.append(&batch, pool, tail) {
            Ok(appended) => appended,
            Err(AppendError::PoolExhausted { .. }) => return Some(request),
            Err(error) => {
                refuse(effects, connection, request.request, append_error_code(&error));
                return None;
            }
        };
        if appended.duplicate {
            self.counts.duplicates += 1;
        } else {
            self.gather.on_appended(request.records.len());
            self.counts.batches += 1;
            self.counts.bytes += u64::from(request.plain_len);
            self.counts.records += u64::from(request.record_count);
        }
        partition.pending.push(PendingProduce {
            connection,
            request: request.request,
            end_position: appended.end_position,
            produced: Produced {
                base_offset: appended.base_offset,
                record_count: appended.record_count,
                duplicate: appended.duplicate,
            },
        });
        if appended.duplicate {
            release(partition, effects);
        }
        queue(&mut self.dirty, partition, slot);
        None
    }

    /// Hands out a flush step for every partition that has something to write and nothing in flight: group
    /// commit. The shell calls this once it has emptied its mailbox.
    pub fn flush(&mut self, now: Now, effects: &mut Effects) {
        if self.dirty.is_empty() || self.gather.holds(now.elapsed) {
            return;
        }
        let before = effects.len();
        for _ in 0..self.dirty.len() {
            let Some(slot) = self.dirty.pop_front() else { break };
            let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            partition.queued = false;
            if let Some(epoch) = partition.next_epoch.take() {
                let id = partition.id;
                self.start_epoch(id, epoch, effects);
            }
            self.flush_one(slot, effects);
        }
        if effects.len() > before {
            self.gather.on_submitted(now.elapsed);
        }
    }

    /// Whether the next group waits a moment for more: the shell polls its sockets and flushes again.
    pub fn is_gathering(&self) -> bool {
        self.gather.is_waiting()
    }

    fn flush_one(&mut self, slot: u32, effects: &mut Effects) {
        let sync_always = self.options.sync_always;
        let sync_bytes = self.options.sync_bytes;
        let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if partition.in_flight {
            return;
        }
        let Some(log) = partition.log.as_mut() else { return };
        // The epoch-start batch is always synced: it is what the high watermark hangs on.
        let starting = matches!(partition.leadership, Leadership::Starting { .. });
        let sync = sync_always || starting || partition.unsynced_bytes >= sync_bytes;
        if let Some(step) = log.take_flush(sync) {
            partition.in_flight = true;
            effects.push(IngestionEffect::Submit { token: slot, step });
        }
    }

    /// Asks for a sync of everything written and not synced yet; the shell calls this at each sync interval.
    pub fn on_sync_due(&mut self, effects: &mut Effects) {
        for slot in 0..self.partitions.len() as u32 {
            let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
            let Some(log) = partition.log.as_ref() else { continue };
            if log.durable_end() < log.written_end() || log.is_dirty() {
                partition.unsynced_bytes = u64::MAX;
                self.flush_one(slot, effects);
            }
        }
    }

    /// The poller finished a step of the partition `token`.
    pub fn on_disk_done(&mut self, token: u32, completion: DiskCompletion, now: Now, effects: &mut Effects) {
        let sync_always = self.options.sync_always;
        let before = effects.len();
        let Self { partitions, pool, dirty, .. } = self;
        let Some(partition) = partitions.get_mut(token as usize).and_then(Option::as_mut) else {
            completion.chunks.into_iter().for_each(|chunk| pool.put(chunk.slot));
            self.retry_stalled(now, effects);
            return;
        };
        partition.in_flight = false;
        let Some(log) = partition.log.as_mut() else { return };
        match log.complete(completion, pool) {
            Ok(completed) => {
                partition.no_space = false;
                if completed.durable_end == log.written_end() {
                    partition.unsynced_bytes = 0;
                } else {
                    partition.unsynced_bytes = log.written_end() - completed.durable_end;
                }
                effects.push(IngestionEffect::Flushed(partition.id, completed.durable_end));
                let committed = if sync_always { completed.durable_end } else { log.written_end() };
                advance(partition, committed, effects);
            }
            Err(DiskFailed::NoSpace { .. }) => {
                partition.no_space = true;
                effects.push(IngestionEffect::NoSpace(partition.id));
                let waiting: Vec<PendingProduce> = partition.pending.drain().collect();
                for pending in waiting {
                    refuse(effects, pending.connection, pending.request, ErrorCode::NoSpace);
                }
            }
            Err(DiskFailed::Latched(latch)) => stop(partition, latch.to_string(), Some(latch), effects),
        }
        if !partition.no_space && partition.log.as_ref().is_some_and(|log| log.wants_flush(sync_always)) {
            queue(dirty, partition, token);
        }
        let released = effects[before..].iter().filter(|effect| matches!(effect, IngestionEffect::Reply(..))).count();
        if released > 0 {
            self.gather.on_completed(released as u32, now.elapsed);
        }
        self.serve_ready(token, now, effects);
        self.retry_stalled(now, effects);
    }

    /// Space may be there again: partitions that found none try their write once more.
    pub fn on_space_retry(&mut self, effects: &mut Effects) {
        for slot in 0..self.partitions.len() as u32 {
            let no_space = self.partitions.get(slot as usize).and_then(Option::as_ref).is_some_and(|p| p.no_space);
            if no_space {
                self.flush_one(slot, effects);
            }
        }
    }

    /// Requests that waited for the epoch, and fetches that now have something to read.
    fn serve_ready(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        loop {
            let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else { return };
            if partition.leading_epoch().is_none() {
                return;
            }
            match partition.held.pop_front() {
                Some(Held::Produce(connection, request)) => self.on_produce(connection, request, now, effects),
                Some(Held::Fetch(fetch)) => self.on_fetch(fetch, now, effects),
                Some(Held::LookUp(look_up)) => self.on_look_up(look_up, now, effects),
                None => break,
            }
        }
        loop {
            let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else { return };
            let Some(log) = partition.log.as_ref() else { return };
            let Some(fetch) = partition.waiters.take_readable(log.high_watermark().offset) else { return };
            self.on_fetch(fetch, now, effects);
        }
    }

    fn retry_stalled(&mut self, now: Now, effects: &mut Effects) {
        while let Some((connection, request)) = self.stalled.pop_front() {
            if let Some(request) = self.try_produce(connection, request, now, effects) {
                self.stalled.push_front((connection, request));
                return;
            }
        }
    }

    /// Reads, or parks the fetch at the high watermark.
    pub fn on_fetch(&mut self, fetch: Fetch, now: Now, effects: &mut Effects) {
        let Some(slot) = self.index.get(&fetch.partition).copied() else {
            return answer_fetch(effects, &fetch, Err(ErrorCode::UnknownTopic));
        };
        let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if matches!(partition.leadership, Leadership::Waiting | Leadership::Starting { .. }) {
            return hold_or_refuse(partition, Held::Fetch(fetch), effects);
        }
        let Some(log) = partition.log.as_ref() else {
            return answer_fetch(effects, &fetch, Err(ErrorCode::StorageOffline));
        };
        let bounds = bounds_of(log, &partition.leadership);
        let offset = fetch.offset.max(bounds.log_start_offset);
        let max_bytes = (fetch.max_bytes as usize).min(TAIL_COPY_BYTES);
        self.scratch.clear();
        let found = match log.read(offset, max_bytes, &self.tail, &mut self.scratch) {
            LogRead::Tail(TailRead { next_offset, record_count, crc, .. }) => {
                self.counts.tail_fetches += 1;
                let data = self.scratch.split().freeze();
                FetchedData::Tail { data, next_offset, record_count, crc }
            }
            LogRead::Segments(slice) => {
                self.counts.segment_fetches += 1;
                FetchedData::Segments(SegmentRead::Slice(slice))
            }
            LogRead::Empty if !fetch.max_wait.is_zero() => {
                let deadline = partition.waiters.park(fetch, now.elapsed);
                self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
                return;
            }
            LogRead::Empty => FetchedData::Empty,
            LogRead::OutOfRange { .. } => FetchedData::BeyondEnd,
        };
        answer_fetch(effects, &fetch, Ok((bounds, found)));
    }

    /// Ends the waiting of one part of a request.
    pub fn on_cancel_wait(&mut self, cancel: CancelWait, effects: &mut Effects) {
        let Some(partition) = self.partition_mut(cancel.partition) else { return };
        while let Some(fetch) = partition.waiters.take_request(cancel.connection, cancel.request) {
            answer_empty(partition, &fetch, effects);
        }
    }

    /// When the first parked fetch is to be answered.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.next_deadline
    }

    /// Answers the fetches whose time is up.
    pub fn on_deadline(&mut self, now: Now, effects: &mut Effects) {
        let mut next: Option<Duration> = None;
        for partition in self.partitions.iter_mut().flatten() {
            if partition.waiters.is_empty() {
                continue;
            }
            while let Some(fetch) = partition.waiters.take_expired(now.elapsed) {
                answer_empty(partition, &fetch, effects);
            }
            if let Some(deadline) = partition.waiters.next_deadline() {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
        }
        self.next_deadline = next;
    }

    /// Looks an offset up: the ends from memory, the rest by a reader thread.
    pub fn on_look_up(&mut self, look_up: LookUpOffset, _now: Now, effects: &mut Effects) {
        let reply = |answer| IngestionEffect::Reply(look_up.connection, Reply { request: look_up.request, answer });
        let Some(partition) = self.partition_mut(look_up.partition) else {
            return effects.push(reply(Answer::LookedUp(Err(ErrorCode::UnknownTopic))));
        };
        if matches!(partition.leadership, Leadership::Waiting | Leadership::Starting { .. }) {
            return hold_or_refuse(partition, Held::LookUp(look_up), effects);
        }
        let Some(log) = partition.log.as_ref() else {
            return effects.push(reply(Answer::LookedUp(Err(ErrorCode::StorageOffline))));
        };
        let high_watermark = log.high_watermark();
        let start = log.log_start();
        let answer = match look_up.query {
            OffsetQuery::Earliest => Answer::LookedUp(Ok((start.offset, start.record, 0))),
            OffsetQuery::Latest => Answer::LookedUp(Ok((high_watermark.offset, high_watermark.record, 0))),
            OffsetQuery::Timestamp(_) | OffsetQuery::Record(_) => {
                Answer::LookUpSegments(SegmentRead::View(log.view()), look_up.query)
            }
        };
        effects.push(reply(answer));
    }

    /// Every waiting request of every partition, answered with `code`; for a drain.
    pub fn refuse_everything(&mut self, code: ErrorCode, effects: &mut Effects) {
        for partition in self.partitions.iter_mut().flatten() {
            fail_all(partition, code, effects);
        }
    }

    /// Whether everything appended is durable.
    pub fn is_quiet(&self) -> bool {
        self.stalled.is_empty() && self.partitions().all(|partition| partition.pending.is_empty() && !partition.in_flight)
    }

    /// A partition's log, for retention.
    pub fn log_mut(&mut self, id: TopicPartition) -> Option<&mut Log> {
        self.partition_mut(id)?.log.as_mut()
    }

    fn partition_mut(&mut self, id: TopicPartition) -> Option<&mut Partition> {
        let slot = self.index.get(&id).copied()?;
        self.partitions.get_mut(slot as usize)?.as_mut()
    }
}

fn queue(dirty: &mut VecDeque<u32>, partition: &mut Partition, slot: u32) {
    if !partition.queued {
        partition.queued = true;
        dirty.push_back(slot);
    }
}

/// Moves the high watermark to `committed`, when the epoch allows, and releases who waited for it.
fn advance(partition: &mut Partition, committed: u64, effects: &mut Effects) {
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
        release(partition, effects);
    }
}

fn release(partition: &mut Partition, effects: &mut Effects) {
    let Some(log) = partition.log.as_ref() else { return };
    let position = log.high_watermark().position;
    while let Some(pending) = partition.pending.release_through(position) {
        let answer = Answer::Produced(Ok(pending.produced));
        effects.push(IngestionEffect::Reply(pending.connection, Reply { request: pending.request, answer }));
    }
}

fn stop(partition: &mut Partition, reason: String, latch: Option<Latch>, effects: &mut Effects) {
    if matches!(partition.leadership, Leadership::Stopped { .. }) {
        return;
    }
    partition.leadership = Leadership::Stopped { reason: reason.clone() };
    fail_all(partition, ErrorCode::StorageOffline, effects);
    effects.push(IngestionEffect::Stopped(partition.id, reason, latch));
}

fn fail_all(partition: &mut Partition, code: ErrorCode, effects: &mut Effects) {
    for pending in partition.pending.drain() {
        refuse(effects, pending.connection, pending.request, code);
    }
    while let Some(held) = partition.held.pop_front() {
        refuse_held(held, code, effects);
    }
    while let Some(fetch) = partition.waiters.take_any() {
        answer_fetch(effects, &fetch, Err(code));
    }
}

fn hold_or_refuse(partition: &mut Partition, held: Held, effects: &mut Effects) {
    match partition.leadership {
        Leadership::Stopped { .. } => refuse_held(held, ErrorCode::StorageOffline, effects),
        _ => partition.held.push_back(held),
    }
}

fn refuse_held(held: Held, code: ErrorCode, effects: &mut Effects) {
    match held {
        Held::Produce(connection, request) => refuse(effects, connection, request.request, code),
        Held::Fetch(fetch) => answer_fetch(effects, &fetch, Err(code)),
        Held::LookUp(look_up) => {
            let reply = Reply { request: look_up.request, answer: Answer::LookedUp(Err(code)) };
            effects.push(IngestionEffect::Reply(look_up.connection, reply));
        }
    }
}

fn refuse(effects: &mut Effects, connection: ConnectionId, request: u64, code: ErrorCode) {
    effects.push(IngestionEffect::Reply(connection, Reply { request, answer: Answer::Produced(Err(code)) }));
}

fn answer_fetch(
    effects: &mut Effects,
    fetch: &Fetch,
    result: Result<(PartitionBounds, FetchedData<SegmentRead>), ErrorCode>,
) {
    let answer = Answer::Fetched { part: fetch.part, partition: fetch.partition, result };
    effects.push(IngestionEffect::Reply(fetch.connection, Reply { request: fetch.request, answer }));
}

fn answer_empty(partition: &Partition, fetch: &Fetch, effects: &mut Effects) {
    let result = match partition.log.as_ref() {
        Some(log) => Ok((bounds_of(log, &partition.leadership), FetchedData::Empty)),
        None => Err(ErrorCode::StorageOffline),
    };
    answer_fetch(effects, fetch, result);
}

fn bounds_of(log: &Log, leadership: &Leadership) -> PartitionBounds {
    let leader_epoch = match leadership {
        Leadership::Starting { epoch, .. } | Leadership::Leading { epoch } => *epoch,
        _ => LeaderEpoch(0),
    };
    PartitionBounds {
        leader_epoch,
        log_start_offset: log.log_start().offset,
        high_watermark_offset: log.high_watermark().offset,
    }
}

fn append_error_code(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::PoolExhausted { .. } => ErrorCode::Overloaded,
        AppendError::Latched(_) | AppendError::Offline(_) => ErrorCode::StorageOffline,
        AppendError::StaleEpoch { .. } => ErrorCode::NotLeader,
        AppendError::TooLarge { .. } => ErrorCode::TooLarge,
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequence,
        AppendError::FencedProducer { .. } => ErrorCode::FencedProducer,
    }
}
