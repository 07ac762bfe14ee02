//! Appending: where a batch goes, what its header says, when a segment ends.

use super::chores::Closing;
use super::{AppendError, Appended, Log, NewBatch, WritingSegment};
use crate::disk::SlotPool;
use crate::flush::{NoSlot, SegmentBuffer};
use crate::index::IndexBuilder;
use crate::producers::state::EpochStart;
use crate::producers::{SequenceCheck, StoredBatch};
use crate::segment::{MAX_SEGMENT_BYTES, Mark, Segment, SegmentEnd};
use crate::tail::TailRing;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader, MAX_BATCH_BYTES, ProducerSequence};
use std::collections::VecDeque;
use std::sync::Arc;

/// Stands for the offset and record number of a retry whose first answer is no longer remembered.
pub const UNKNOWN_OFFSET: u64 = u64::MAX;

/// A group that has grown to this many bytes takes no more: larger ones gain the disk little, and while one is written
/// the others are acked and filled again.
const GROUP_BYTES: u64 = 2 * 1024 * 1024;

impl Log {
    /// Appends a batch to memory; it is durable once a step that ends at or behind it has completed.
    ///
    /// A retry of a batch stored before stores nothing and gets the first answer. An error changed nothing.
    pub fn append(
        &mut self,
        batch: &NewBatch<'_>,
        pool: &mut SlotPool,
        tail: &mut TailRing,
    ) -> Result<Appended, AppendError> {
        let (appended, header) = self.append_unkept(batch, pool)?;
        if let Some(header) = header {
            self.keep(&header, batch.records, tail);
        }
        Ok(appended)
    }

    /// Copies a batch that [`Log::append_unkept`] or [`Log::append_replica`] appended into the tail ring; batches come in
    /// log order.
    pub fn keep(&mut self, header: &BatchHeader, records: &[u8], tail: &mut TailRing) {
        let raw_header = header.encode(self.seed);
        self.newest_in_tail = tail.push(self.options.partition, header, &raw_header, records, self.newest_in_tail);
    }

    /// As [`Log::append`], but leaves the copy into the tail ring to a later call of [`Log::keep`] with the header
    /// that comes back, so that it need not delay the write. A batch that is never kept is read from its segment.
    pub fn append_unkept(
        &mut self,
        batch: &NewBatch<'_>,
        pool: &mut SlotPool,
    ) -> Result<(Appended, Option<BatchHeader>), AppendError> {
        self.append_checked(batch, true, pool)
    }

    /// As [`Log::append_unkept`] for a batch that is restored: its producer's sequences begin wherever the backup does.
    pub fn append_restored(
        &mut self,
        batch: &NewBatch<'_>,
        pool: &mut SlotPool,
    ) -> Result<(Appended, Option<BatchHeader>), AppendError> {
        self.append_checked(batch, false, pool)
    }

    fn append_checked(
        &mut self,
        batch: &NewBatch<'_>,
        in_sequence: bool,
        pool: &mut SlotPool,
    ) -> Result<(Appended, Option<BatchHeader>), AppendError> {
        self.check_open(batch)?;
        if let Some(producer) = batch.producer.as_ref().filter(|_| in_sequence)
            && let Some(duplicate) = self.check_sequence(producer, batch)?
        {
            return Ok((duplicate, None));
        }
        let rolls = self.must_roll(batch);
        let header = self.header_of(batch, rolls);
        let parts = [&header.encode(self.seed)[..], batch.records];
        self.store(parts, &header, rolls, pool)
            .map_err(|NoSlot| AppendError::PoolExhausted { bytes: header.batch_bytes() })?;
        Ok((appended(&StoredBatch::of(&header), false), Some(header)))
    }

    /// Copies a batch (header and records) into slots, in a new segment when it `rolls`; without enough of them nothing
    /// was changed.
    pub(super) fn store(
        &mut self,
        parts: [&[u8]; 2],
        header: &BatchHeader,
        rolls: bool,
        pool: &mut SlotPool,
    ) -> Result<(), NoSlot> {
        if rolls {
            let mut fresh = self.fresh_segment();
            fresh.buffer.append(parts, pool)?;
            self.prepare_state(fresh.segment.base(), pool);
            self.roll_to(fresh);
        } else {
            self.active.buffer.append(parts, pool)?;
        }
        self.note(header);
        if self.active.buffer.open_group_bytes() >= GROUP_BYTES {
            self.active.buffer.seal();
            self.active.group_ends.push_back(self.end);
        }
        // The index of a closing segment may wait for slots that are free by now.
        self.prepare_index(pool);
        Ok(())
    }

    fn check_open(&self, batch: &NewBatch<'_>) -> Result<(), AppendError> {
        if let Some(latch) = &self.latched {
            return Err(AppendError::Latched(latch.clone()));
        }
        if let Some(damage) = &self.offline {
            return Err(AppendError::Offline(Arc::clone(damage)));
        }
        let bytes = (batch.records.len() as u64).max(batch.plain_len.into());
        let limit = u64::from(MAX_BATCH_BYTES);
        if bytes > limit {
            return Err(AppendError::TooLarge { bytes, limit });
        }
        let last = self.last_epoch();
        if batch.leader_epoch < last {
            return Err(AppendError::StaleEpoch { last, got: batch.leader_epoch });
        }
        Ok(())
    }

    fn check_sequence(
        &self,
        producer: &ProducerSequence,
        batch: &NewBatch<'_>,
    ) -> Result<Option<Appended>, AppendError> {
        match self.producers.check(producer, batch.sort_key.timestamp_ns()) {
            SequenceCheck::Next => Ok(None),
            SequenceCheck::Duplicate(stored) => Ok(Some(appended(&stored, true))),
            SequenceCheck::DuplicateBefore(oldest) => Ok(Some(Appended {
                position: oldest.position,
                end_position: oldest.position,
                base_offset: UNKNOWN_OFFSET,
                end_offset: UNKNOWN_OFFSET,
                base_record: UNKNOWN_OFFSET,
                record_count: 0,
                duplicate: true,
            })),
            SequenceCheck::OutOfOrder { expected } => {
                Err(AppendError::OutOfOrderSequence { expected, got: producer.sequence })
            }
            SequenceCheck::Fenced { current } => Err(AppendError::FencedProducer { current, got: producer.epoch }),
        }
    }

    /// Whether the batch begins a new segment: the active one holds records and would grow past its limit.
    fn must_roll(&self, batch: &NewBatch<'_>) -> bool {
        let base = self.active.segment.base();
        let limit = self.options.segment_bytes.min(MAX_SEGMENT_BYTES);
        let stored = self.end.position - base.position + (BATCH_HEADER_BYTES + batch.records.len()) as u64;
        let plain = self.end.offset - base.offset + u64::from(batch.plain_len);
        let holds_records = self.end.offset > base.offset;
        holds_records && (stored > limit || plain > MAX_SEGMENT_BYTES)
    }

    fn header_of(&self, batch: &NewBatch<'_>, rolls: bool) -> BatchHeader {
        let control = batch.flags.is_control();
        let first = rolls || self.end.position == self.active.segment.base().position;
        let flags = batch.flags.without(BatchFlags::STARTS_SEGMENT);
        BatchHeader {
            flags: if first { flags.with(BatchFlags::STARTS_SEGMENT) } else { flags },
            records_crc: batch.records_crc,
            position: self.end.position,
            base_offset: self.end.offset,
            base_record: self.end.record,
            stored_len: batch.records.len() as u32,
            plain_len: if control { 0 } else { batch.plain_len },
            record_count: if control { 0 } else { batch.record_count },
            leader_epoch: batch.leader_epoch,
            // Recovery takes it for proof of what was durable, so it must not speak of more, however acks are given.
            committed_through: batch.committed_through.min(self.durable.position),
            sort_key: batch.sort_key,
            max_timestamp_ns: batch.max_timestamp_ns,
            producer: batch.producer,
        }
    }

    /// Takes note of a batch that now stands at the log end.
    fn note(&mut self, header: &BatchHeader) {
        let base = self.active.segment.base();
        self.active.index.note(base.position, base.offset, header);
        self.producers.note(header);
        if header.leader_epoch > self.last_epoch() {
            self.epochs.push(EpochStart { epoch: header.leader_epoch, position: header.position });
        }
        self.last_sort_key = self.last_sort_key.max(header.sort_key);
        self.end = Mark { position: header.end_position(), offset: header.end_offset(), record: header.end_record() };
    }

    fn fresh_segment(&self) -> WritingSegment {
        let segment = Segment::new(&self.options.dir, self.options.partition, self.end);
        WritingSegment {
            segment: Arc::new(segment),
            file: None,
            created: false,
            buffer: SegmentBuffer::new(0, Vec::new()),
            group_ends: VecDeque::new(),
            index: IndexBuilder::new(self.options.index_interval_bytes),
            zeroed_to: 0,
            end: None,
            closing: Closing::default(),
        }
    }

    fn roll_to(&mut self, fresh: WritingSegment) {
        let mut old = std::mem::replace(&mut self.active, fresh);
        old.end = Some(SegmentEnd { mark: self.end, last_append_ns: self.last_sort_key.timestamp_ns() });
        self.closing.push_back(old);
        self.groups = 0;
    }
}

fn appended(stored: &StoredBatch, duplicate: bool) -> Appended {
    let stored_bytes = BATCH_HEADER_BYTES as u64 + u64::from(stored.stored_len);
    Appended {
        position: stored.position,
        end_position: stored.position + stored_bytes,
        base_offset: stored.base_offset,
        end_offset: stored.base_offset + u64::from(stored.plain_len),
        base_record: stored.base_record,
        record_count: stored.record_count,
        duplicate,
    }
}
