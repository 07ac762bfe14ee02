//! Replication: a leader's log is read batch by batch, a follower's takes them byte for byte and rolls where the leader's did.

use super::{InFlight, Log, ReplicaAppendError};
use crate::disk::SlotPool;
use crate::flush::NoSlot;
use crate::reader::ReplicaSlice;
use crate::segment::{Mark, Segment, SegmentSlice};
use crate::tail::{TailEntry, TailRing};
use bytes::{Bytes, BytesMut};
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchHeader};
use lance_messages::peer::LogPlace;
use std::sync::Arc;

/// Most groups that wait with an end of their own: behind them everything joins one.
const MAX_PARTED: usize = 4;

/// Where the batches from a log position on are.
#[derive(Clone, Debug)]
pub enum ReplicaRead {
    /// Here: whole batches, headers included, copied out of the tail ring.
    Batches {
        /// The batches.
        bytes: Bytes,
        /// Log position behind them.
        end_position: u64,
    },
    /// In a segment; a reader thread reads them.
    Segments(ReplicaSlice),
    /// Nowhere yet: the log ends there, or what follows is neither written nor in the ring. Something changes with the next
    /// append, or with the next completed step.
    AtEnd,
    /// No longer there.
    BelowStart {
        /// The first batch boundary that is.
        log_start: LogPlace,
    },
    /// No batch begins there, as far as can be said without reading; a position behind the log end is none either.
    NotABoundary,
}

impl Log {
    /// Appends a leader's batch to memory, byte for byte; it is durable once a step that ends at or behind it has
    /// completed. An error changed nothing.
    ///
    /// A segment begins exactly where the leader's does, so that closed segments are the same everywhere. The caller may
    /// hand the batch to [`Log::keep`] afterwards, control batches too.
    pub fn append_replica(
        &mut self,
        raw_header: &[u8; BATCH_HEADER_BYTES],
        header: &BatchHeader,
        records: &[u8],
        pool: &mut SlotPool,
    ) -> Result<(), ReplicaAppendError> {
        self.check_continues(header)?;
        self.check_bytes(raw_header, header, records)?;
        let first = self.end.position == self.active.segment.base().position;
        let starts = header.flags.starts_segment();
        if first && !starts {
            return Err(ReplicaAppendError::NoSegmentStart { position: header.position });
        }
        self.store([raw_header, records], header, starts && !first, pool)
            .map_err(|NoSlot| ReplicaAppendError::PoolExhausted { bytes: header.batch_bytes() })
    }

    /// Has what is committed written and synced in a group of its own, before a batch that says so: recovery takes that for
    /// proof that what lies below was synced here once. Called before the batch is appended, by a replica that is near its
    /// leader; one that is far behind takes larger steps, and is refilled should power fail in one of them. So does one whose
    /// disk falls behind those of the others: a group for each of theirs would make it slower still.
    pub fn part_from_committed(&mut self, committed_through: u64) {
        let in_flight = match &self.in_flight {
            Some(InFlight::Write { end, .. }) => end.position,
            _ => self.written.position,
        };
        let open_start = self.active.group_ends.back().map_or(in_flight, |end| end.position);
        let keeps_up = self.active.group_ends.len() < MAX_PARTED;
        if keeps_up && committed_through > open_start && self.active.buffer.open_group_bytes() > 0 {
            self.active.buffer.seal();
            self.active.group_ends.push_back(self.end);
        }
    }

    /// The bytes of a header of this log, as they stand in its segment.
    pub fn header_bytes(&self, header: &BatchHeader) -> [u8; BATCH_HEADER_BYTES] {
        header.encode(self.seed)
    }

    /// Finds whole batches from `position` on, committed or not: about `max_bytes` of them, at least one of any size.
    ///
    /// The tail ring gives what it holds, also what is not written yet; from segments comes only what is written.
    pub fn replica_read(&self, position: u64, max_bytes: usize, tail: &TailRing) -> ReplicaRead {
        if position < self.start.position {
            return ReplicaRead::BelowStart { log_start: self.start.into() };
        }
        if position == self.end.position {
            return ReplicaRead::AtEnd;
        }
        if position > self.end.position {
            return ReplicaRead::NotABoundary;
        }
        let found = tail.find_position(self.options.partition, position, self.newest_in_tail);
        if let Some(first) = found.and_then(|number| tail.entry(number)) {
            if first.position != position {
                return ReplicaRead::NotABoundary;
            }
            return batches_from(first, max_bytes, tail);
        }
        match self.replica_slice(position) {
            Some(slice) => ReplicaRead::Segments(slice),
            None => ReplicaRead::AtEnd,
        }
    }

    /// The written part of the segment that holds `position`, from there on.
    fn replica_slice(&self, position: u64) -> Option<ReplicaSlice> {
        let above = self.closed.partition_point(|segment| segment.base().position <= position);
        let in_closed = above.checked_sub(1).and_then(|at| self.closed.get(at));
        if let Some((segment, end)) = in_closed.and_then(|segment| Some((segment, segment.end()?.mark)))
            && position < end.position
        {
            return Some(slice_of(segment, segment.base(), end, true, position));
        }
        let mut writing = self.closing.iter().chain([&self.active]).rev();
        let holder = writing.find(|writing| writing.segment.base().position <= position)?;
        let (base, entries) = (holder.segment.base(), holder.index.entries());
        let behind = entries.partition_point(|entry| u64::from(entry.position_delta) <= position - base.position);
        let start = behind.checked_sub(1).and_then(|at| entries.get(at)).map_or(base, |entry| Mark {
            position: base.position + u64::from(entry.position_delta),
            offset: base.offset + u64::from(entry.offset_delta),
            record: base.record,
        });
        let end = holder.end.map_or(self.written, |end| end.mark);
        let limit = if end.position < self.written.position { end } else { self.written };
        (position < limit.position).then(|| slice_of(&holder.segment, start, limit, false, position))
    }

    /// As [`Log::advance_high_watermark`], but finds any batch boundary that the tail ring holds: what a quorum has
    /// seldom ends where a group of this log does.
    pub fn advance_high_watermark_in(&mut self, position: u64, tail: &TailRing) -> Mark {
        let limit = position.min(self.written.position);
        let reached = self.advance_high_watermark(position);
        if reached.position < limit
            && let Some(number) = tail.find_position(self.options.partition, limit - 1, self.newest_in_tail)
            && let Some(entry) = tail.entry(number)
        {
            let mark = if entry.end_position == limit { end_of(entry) } else { start_of(entry) };
            if mark.position > reached.position {
                self.high_watermark = mark;
            }
        }
        self.high_watermark
    }

    fn check_continues(&self, header: &BatchHeader) -> Result<(), ReplicaAppendError> {
        if let Some(latch) = &self.latched {
            return Err(ReplicaAppendError::Latched(latch.clone()));
        }
        if let Some(damage) = &self.offline {
            return Err(ReplicaAppendError::Offline(Arc::clone(damage)));
        }
        let links = [
            ("position", header.position, self.end.position),
            ("base offset", header.base_offset, self.end.offset),
            ("base record", header.base_record, self.end.record),
        ];
        if let Some((field, found, expected)) = links.into_iter().find(|(_, found, expected)| found != expected) {
            return Err(ReplicaAppendError::Chain { field, found, expected });
        }
        let last = self.last_epoch();
        if header.leader_epoch < last {
            return Err(ReplicaAppendError::StaleEpoch { last, got: header.leader_epoch });
        }
        Ok(())
    }

    fn check_bytes(
        &self,
        raw_header: &[u8; BATCH_HEADER_BYTES],
        header: &BatchHeader,
        records: &[u8],
    ) -> Result<(), ReplicaAppendError> {
        let position = header.position;
        let decoded = BatchHeader::decode(raw_header, self.seed)
            .map_err(|reason| ReplicaAppendError::Header { position, reason })?;
        // The tail ring keeps what the header encodes to, which must be what the segment keeps.
        if decoded != *header || header.encode(self.seed) != *raw_header {
            return Err(ReplicaAppendError::HeaderDiffers { position });
        }
        let (found, expected) = (records.len() as u64, u64::from(header.stored_len));
        if found != expected {
            return Err(ReplicaAppendError::Length { position, found, expected });
        }
        let (stored, computed) = (header.records_crc, crc32fast::hash(records));
        if stored != computed {
            return Err(ReplicaAppendError::Records { position, stored, computed });
        }
        Ok(())
    }
}

/// Copies whole batches out of the ring, `first` in any case.
fn batches_from(first: &TailEntry, max_bytes: usize, tail: &TailRing) -> ReplicaRead {
    let next = |entry: &&TailEntry| tail.next(entry).and_then(|number| tail.entry(number));
    let mut bytes = tail.batch(first).len();
    let fits = |entry: &&TailEntry| {
        bytes = bytes.saturating_add(tail.batch(entry).len());
        bytes <= max_bytes
    };
    let more = std::iter::successors(next(&first), next).take_while(fits);
    let batches: Vec<&TailEntry> = std::iter::once(first).chain(more).collect();
    let mut copied = BytesMut::with_capacity(batches.iter().map(|entry| tail.batch(entry).len()).sum());
    batches.iter().for_each(|entry| copied.extend_from_slice(tail.batch(entry)));
    let end_position = batches.last().map_or(first.end_position, |last| last.end_position);
    ReplicaRead::Batches { bytes: copied.freeze(), end_position }
}

fn start_of(entry: &TailEntry) -> Mark {
    Mark { position: entry.position, offset: entry.base_offset, record: entry.base_record }
}

fn end_of(entry: &TailEntry) -> Mark {
    let record = entry.base_record + u64::from(entry.record_count);
    Mark { position: entry.end_position, offset: entry.end_offset, record }
}

fn slice_of(segment: &Arc<Segment>, start: Mark, limit: Mark, closed: bool, position: u64) -> ReplicaSlice {
    let segment = Arc::clone(segment);
    let slice = SegmentSlice { segment, start_position: start.position, start_offset: start.offset, limit, closed };
    ReplicaSlice::new(slice, position)
}
