//! Reading: from memory, from segments, or later.

use super::refusals::hold_or_refuse;
use super::stages::over;
use super::{Effects, IngestionCore, IngestionEffect, Now, TAIL_COPY_BYTES};
use crate::ingestion::partition::{Held, Leadership, Partition};
use crate::ingestion::waiters::ParkedFetch;
use crate::network::readers::SegmentRead;
use crate::stages::{ReadSource, Stage, StageSpan};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::mail::connection::{Answer, FetchedData, PartitionBounds, Reply};
use lance_messages::mail::ingestion::{CancelWait, Fetch, LookUpOffset, OffsetQuery};
use lance_messages::wire::fetch::END_OFFSET;
use lance_storage::log::{Log, LogRead, TailRead};
use std::time::Duration;

/// How often fetches that found no room for what they ask for are tried again.
const STARVED_RETRY: Duration = Duration::from_millis(10);

impl IngestionCore {
    /// Reads, or parks the fetch at the high watermark.
    pub fn on_fetch(&mut self, fetch: Fetch, now: Now, effects: &mut Effects) {
        let Some(slot) = self.index.get(&fetch.partition).copied() else {
            return answer_fetch(effects, &fetch, Err(ErrorCode::NotLeader));
        };
        let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let follows = matches!(partition.leadership, Leadership::Following { .. });
        let leads = partition.leading_epoch().is_some();
        // A replica that was stopped, or knows no leader, does not know what is committed by now either.
        if follows != fetch.near && !leads {
            return answer_fetch(effects, &fetch, Err(ErrorCode::NotLeader));
        }
        if partition.holds_reads() {
            return hold_or_refuse(partition, Held::Fetch(fetch), now, effects);
        }
        let Some(log) = readable_log(partition) else {
            return answer_fetch(effects, &fetch, Err(unreadable_code(partition)));
        };
        let bounds = bounds_of(log, &partition.leadership);
        if follows {
            self.counts.replica_fetches += 1;
            if fetch.offset >= bounds.high_watermark_offset {
                return self.await_leader(slot, fetch, now, effects);
            }
        }
        let offset = fetch.offset.max(bounds.log_start_offset);
        // A leader that is cut off may have a successor whose log goes on: who reads there must not be told that it ends.
        let beyond = fetch.offset != END_OFFSET && fetch.offset > bounds.high_watermark_offset;
        if beyond && partition.may_have_successor() && now.elapsed >= self.lease_until {
            return answer_fetch(effects, &fetch, Err(ErrorCode::Unavailable));
        }
        if fetch.stored {
            let found = match log.written_slice_at(offset) {
                LogRead::Segments(slice) => FetchedData::Segments(SegmentRead::Slice(slice)),
                LogRead::OutOfRange { .. } => FetchedData::BeyondEnd,
                LogRead::Empty | LogRead::Tail(_) => FetchedData::Empty,
            };
            self.counts.segment_fetches += 1;
            return answer_fetch(effects, &fetch, Ok((bounds, found)));
        }
        let max_bytes = (fetch.max_bytes as usize).min(TAIL_COPY_BYTES);
        // Where nothing is to be read nothing is copied; a fetch may wait there.
        let wanted = if offset < bounds.high_watermark_offset { max_bytes } else { 0 };
        let Some(room) = self.copies.reserve(wanted) else {
            return self.starve(fetch, now);
        };
        self.scratch.clear();
        let found = match log.read(offset, max_bytes, &self.tail, &mut self.scratch) {
            LogRead::Tail(TailRead { next_offset, record_count, crc, timestamp_ns, .. }) => {
                self.counts.tail_fetches += 1;
                let data = room.hold(self.scratch.split().freeze());
                FetchedData::Tail { data, next_offset, record_count, crc, timestamp_ns }
            }
            LogRead::Segments(slice) => {
                self.counts.segment_fetches += 1;
                FetchedData::Segments(SegmentRead::Slice(slice))
            }
            // Parked where it would read, and only with nothing there: what could be taken at once never ends its wait.
            LogRead::Empty if !fetch.max_wait.is_zero() && offset >= bounds.high_watermark_offset => {
                let deadline = partition.waiters.park(Fetch { offset, ..fetch }, now.elapsed);
                self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
                return;
            }
            LogRead::Empty => FetchedData::Empty,
            LogRead::OutOfRange { .. } => FetchedData::BeyondEnd,
        };
        if let (Some(parent), FetchedData::Tail { data, .. }) = (fetch.trace, &found) {
            let stage = Stage::Read { source: ReadSource::Memory, bytes: data.len() as u64 };
            over(effects)(StageSpan::until_now(parent, stage, fetch.partition, now.elapsed));
        }
        answer_fetch(effects, &fetch, Ok((bounds, found)));
    }

    /// Whether another node leads a partition that is held here.
    pub fn is_following(&self, id: TopicPartition) -> bool {
        let slot = self.index.get(&id).copied();
        let partition = slot.and_then(|slot| self.partitions.get(slot as usize)?.as_ref());
        partition.is_some_and(|partition| matches!(partition.leadership, Leadership::Following { .. }))
    }

    /// A reader has all that this replica knows to be committed: it waits for more, as long as news of the leader can come.
    fn await_leader(&mut self, slot: u32, fetch: Fetch, now: Now, effects: &mut Effects) {
        let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        // A node that is cut off would let its readers wait for ever: the leader may have dropped it from Q.
        if now.elapsed >= self.lease_until {
            return answer_fetch(effects, &fetch, Err(ErrorCode::NotLeader));
        }
        if fetch.max_wait.is_zero() {
            return answer_empty(partition, &fetch, effects);
        }
        let deadline = partition.waiters.park(fetch, now.elapsed);
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
    }

    /// Lets a fetch wait until other readers have taken what was copied for them.
    fn starve(&mut self, fetch: Fetch, now: Now) {
        self.starved.push_back(fetch);
        let retry = now.elapsed.saturating_add(STARVED_RETRY);
        self.next_deadline = Some(self.next_deadline.map_or(retry, |next| next.min(retry)));
    }

    fn feed_starved(&mut self, now: Now, effects: &mut Effects) {
        for _ in 0..self.starved.len() {
            let Some(fetch) = self.starved.pop_front() else { return };
            let others = self.starved.len();
            self.on_fetch(fetch, now, effects);
            if self.starved.len() > others {
                // It stays first.
                return self.starved.rotate_right(1);
            }
        }
    }

    /// Ends the waiting of one part of a request.
    pub fn on_cancel_wait(&mut self, cancel: CancelWait, now: Now, effects: &mut Effects) {
        let is_cancelled = |fetch: &Fetch| {
            fetch.connection == cancel.connection
                && fetch.request == cancel.request
                && fetch.partition == cancel.partition
        };
        while let Some(at) = self.starved.iter().position(is_cancelled) {
            let Some(fetch) = self.starved.remove(at) else { break };
            let partition = self.partition_mut(cancel.partition);
            let result = partition.map_or(Err(ErrorCode::NotLeader), |partition| nothing_found(partition, &fetch));
            answer_fetch(effects, &fetch, result);
        }
        let Some(partition) = self.partition_mut(cancel.partition) else {
            return;
        };
        while let Some(fetch) = partition.waiters.take_request(cancel.connection, cancel.request) {
            waited(&fetch, now, effects);
            answer_empty(partition, &fetch.fetch, effects);
        }
        // One that is held for an epoch must not begin to wait once there is one.
        for held in &mut partition.held {
            if let Held::Fetch(fetch) = held
                && fetch.connection == cancel.connection
                && fetch.request == cancel.request
            {
                fetch.max_wait = Duration::ZERO;
            }
        }
    }

    /// When the first parked fetch is to be answered.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.next_deadline
    }

    /// Answers the fetches whose time is up.
    pub fn on_deadline(&mut self, now: Now, effects: &mut Effects) {
        self.feed_starved(now, effects);
        let retry = now.elapsed.saturating_add(STARVED_RETRY);
        let mut next: Option<Duration> = (!self.starved.is_empty()).then_some(retry);
        for partition in self.partitions.iter_mut().flatten() {
            if partition.waiters.is_empty() {
                continue;
            }
            while let Some(fetch) = partition.waiters.take_expired(now.elapsed) {
                waited(&fetch, now, effects);
                answer_empty(partition, &fetch.fetch, effects);
            }
            if let Some(deadline) = partition.waiters.next_deadline() {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
        }
        self.next_deadline = next;
    }

    /// Looks an offset up: the ends from memory, the rest by a reader thread.
    pub fn on_look_up(&mut self, look_up: LookUpOffset, now: Now, effects: &mut Effects) {
        let reply = |answer| IngestionEffect::Reply(look_up.connection, Reply { request: look_up.request, answer });
        let Some(partition) = self.partition_mut(look_up.partition) else {
            return effects.push(reply(Answer::LookedUp(Err(ErrorCode::NotLeader))));
        };
        if partition.holds_reads() {
            return hold_or_refuse(partition, Held::LookUp(look_up), now, effects);
        }
        if matches!(partition.leadership, Leadership::Following { .. }) {
            return effects.push(reply(Answer::LookedUp(Err(ErrorCode::NotLeader))));
        }
        let Some(log) = readable_log(partition) else {
            return effects.push(reply(Answer::LookedUp(Err(unreadable_code(partition)))));
        };
        let high_watermark = log.high_watermark();
        let start = log.log_start();
        let answer = match look_up.query {
            OffsetQuery::Earliest => Answer::LookedUp(Ok((start.offset, start.record, 0))),
            OffsetQuery::Latest => Answer::LookedUp(Ok((high_watermark.offset, high_watermark.record, 0))),
            OffsetQuery::Offset(offset) if offset >= high_watermark.offset => {
                Answer::LookedUp(Ok((high_watermark.offset, high_watermark.record, 0)))
            }
            OffsetQuery::Timestamp(_) | OffsetQuery::Record(_) | OffsetQuery::Offset(_) => {
                Answer::LookUpSegments(SegmentRead::View(log.view()), look_up.query)
            }
        };
        effects.push(reply(answer));
    }
}

pub(super) fn answer_fetch(
    effects: &mut Effects,
    fetch: &Fetch,
    result: Result<(PartitionBounds, FetchedData<SegmentRead>), ErrorCode>,
) {
    let answer = Answer::Fetched { part: fetch.part, partition: fetch.partition, result };
    effects.push(IngestionEffect::Reply(fetch.connection, Reply { request: fetch.request, answer }));
}

/// A parked fetch waits no longer.
pub(super) fn waited(parked: &ParkedFetch, now: Now, effects: &mut Effects) {
    let ParkedFetch { fetch, parked_at, .. } = parked;
    if let Some(parent) = fetch.trace {
        let span = StageSpan::until_now(parent, Stage::Wait, fetch.partition, *parked_at);
        over(effects)(StageSpan { ended: Some(now.elapsed), ..span });
    }
}

fn answer_empty(partition: &Partition, fetch: &Fetch, effects: &mut Effects) {
    answer_fetch(effects, fetch, nothing_found(partition, fetch));
}

fn nothing_found(
    partition: &Partition,
    fetch: &Fetch,
) -> Result<(PartitionBounds, FetchedData<SegmentRead>), ErrorCode> {
    match readable_log(partition) {
        // Behind what this replica knows to be committed there may be records, or nothing ever: the leader knows.
        Some(log) if fetch.near && fetch.offset > log.high_watermark().offset => Err(ErrorCode::NotLeader),
        Some(log) => Ok((bounds_of(log, &partition.leadership), FetchedData::Empty)),
        None => Err(unreadable_code(partition)),
    }
}

/// Others go on with what was led or followed here.
fn unreadable_code(partition: &Partition) -> ErrorCode {
    let follows = matches!(partition.leadership, Leadership::Following { .. });
    if follows || partition.may_have_successor() { ErrorCode::NotLeader } else { ErrorCode::StorageOffline }
}

/// The log, unless the partition stopped before its epoch began: such a one does not know what is committed, and an end
/// that lies before what consumers have read would send them back. Where other nodes hold it too, one of them knows by then.
fn readable_log(partition: &Partition) -> Option<&Log> {
    let log = partition.log.as_ref()?;
    let stopped = matches!(partition.leadership, Leadership::Stopped { .. });
    let knows_end = log.high_watermark().position > log.log_start().position && !partition.may_have_successor();
    (knows_end || !stopped).then_some(log)
}

fn bounds_of(log: &Log, leadership: &Leadership) -> PartitionBounds {
    let leader_epoch = match leadership {
        Leadership::Starting { epoch, .. } | Leadership::Leading { epoch } | Leadership::Following { epoch } => *epoch,
        // Consumers ignore who answers in an epoch below one they have seen.
        Leadership::Waiting | Leadership::Stopped { .. } => log.last_epoch(),
    };
    PartitionBounds {
        leader_epoch,
        log_start_offset: log.log_start().offset,
        high_watermark_offset: log.high_watermark().offset,
    }
}
