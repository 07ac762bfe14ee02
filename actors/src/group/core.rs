//! `GroupCore`: the coordinator of consumer groups, as replayed from and appended to the log of `__groups`.

use lance_cluster::group::{
    CommittedOffset, ConsumerKey, Coordinator, GroupLimits, MAX_RECORD_BYTES, OffsetCommit, OffsetKey, OffsetRecord,
    OffsetRecordError,
};
use lance_messages::id::TopicPartition;
use lance_messages::record::{RecordError, RecordType, put_record, records};
use lance_messages::wire::group::{FoundOffset, GroupOffsetsFound, GroupOffsetsWanted};

/// Name of the internal topic.
pub const GROUPS_TOPIC: &str = "__groups";
/// Type of its records: one of those left to users of the format.
const RECORD_TYPE: u8 = 0x80;
/// No record is as long, header included: what is left of the bytes read so far is none.
const MAX_CARRY_BYTES: usize = MAX_RECORD_BYTES + 64;
/// Bytes of one batch of a snapshot, about.
const SNAPSHOT_BATCH_BYTES: usize = 1024 * 1024;

/// The groups core of a node.
#[derive(Debug)]
pub struct GroupCore {
    /// Decides.
    pub coordinator: Coordinator,
    carry: Vec<u8>,
    /// Records that could not be read, and are left out.
    undecodable: u64,
}

impl Default for GroupCore {
    fn default() -> Self {
        Self { coordinator: Coordinator::new(GroupLimits::default()), carry: Vec::new(), undecodable: 0 }
    }
}

/// Why a part of `__groups` was left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A record that is none of this program's.
    #[error("a record of {GROUPS_TOPIC} was left out: {0}")]
    Record(#[from] OffsetRecordError),
    /// Bytes that are no records.
    #[error("{bytes} bytes of {GROUPS_TOPIC} are no records and were left out")]
    NoRecords {
        /// How many.
        bytes: usize,
    },
}

/// Records to append together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RecordBatch {
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// How many.
    pub record_count: u32,
}

impl GroupCore {
    /// A core that knows nothing yet and goes on numbering where `before` stopped: what was sent for that one may still
    /// be answered, and is no answer to anything of this one.
    pub fn after(before: &Self) -> Self {
        Self { coordinator: Coordinator::after(&before.coordinator), ..Self::default() }
    }

    /// Takes committed bytes of the log, in order; a record may be cut at the end. What cannot be read is left out: the
    /// offsets of everybody else are worth more than a stop. Gives the first error.
    pub fn on_replay(&mut self, data: &[u8]) -> Result<(), ReplayError> {
        self.carry.extend_from_slice(data);
        let mut first = Ok(());
        let mut iterator = records(&self.carry);
        let mut consumed = 0;
        let cut = loop {
            match iterator.next() {
                Some(Ok(record)) => {
                    consumed = iterator.consumed_bytes();
                    if let Err(error) = self.coordinator.replay(record.value) {
                        self.undecodable += 1;
                        first = first.and(Err(ReplayError::Record(error)));
                    }
                }
                None => break true,
                Some(Err(RecordError::Truncated { .. })) => break self.carry.len() - consumed <= MAX_CARRY_BYTES,
                Some(Err(_)) => break false,
            }
        };
        let bytes = self.carry.len() - consumed;
        self.carry.drain(..consumed);
        if !cut {
            self.carry.clear();
            self.undecodable += 1;
            first = first.and(Err(ReplayError::NoRecords { bytes }));
        }
        first
    }

    /// Records that were left out.
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Everything as records, to be appended without anything between them.
    pub fn snapshot(&self) -> Result<Vec<RecordBatch>, OffsetRecordError> {
        let mut batches: Vec<RecordBatch> = Vec::new();
        for record in self.coordinator.snapshot_records() {
            let record = framed(&record)?;
            match batches.last_mut().filter(|batch| batch.bytes.len() + record.len() <= SNAPSHOT_BATCH_BYTES) {
                Some(batch) => {
                    batch.bytes.extend_from_slice(&record);
                    batch.record_count += 1;
                }
                None => batches.push(RecordBatch { bytes: record, record_count: 1 }),
            }
        }
        Ok(batches)
    }

    /// How far a consumer of 1.0 is.
    pub fn committed(&self, partition: TopicPartition, consumer_id: u64) -> Option<u64> {
        let key = OffsetKey { partition, consumer: ConsumerKey::Id(consumer_id) };
        self.coordinator.offsets().committed(&key).map(|committed| committed.offset)
    }

    /// How far a group is.
    pub fn group_offsets(&self, wanted: &GroupOffsetsWanted) -> GroupOffsetsFound {
        let offsets = self.coordinator.offsets();
        let consumer = ConsumerKey::Group(wanted.group.clone());
        let found = |partition, at: CommittedOffset, metadata: &str| FoundOffset {
            partition,
            offset: at.offset,
            committed_at_ms: at.committed_at_ms,
            metadata: metadata.to_owned(),
        };
        if wanted.partitions.is_empty() {
            let all = offsets.of_consumer(&consumer).map(|(partition, at, metadata)| found(partition, at, metadata));
            return GroupOffsetsFound { offsets: all.collect() };
        }
        let some = wanted.partitions.iter().filter_map(|partition| {
            let key = OffsetKey { partition: *partition, consumer: consumer.clone() };
            offsets.committed(&key).map(|at| found(*partition, at, offsets.metadata(&key)))
        });
        GroupOffsetsFound { offsets: some.collect() }
    }
}

/// The commit of a consumer of 1.0.
pub fn plain_commit(partition: TopicPartition, consumer_id: u64, offset: u64, now_ms: u64) -> OffsetCommit {
    let key = OffsetKey { partition, consumer: ConsumerKey::Id(consumer_id) };
    OffsetCommit { key, committed: CommittedOffset { offset, committed_at_ms: now_ms } }
}

/// Records as they stand in the log.
pub fn framed_batch(records: &[OffsetRecord]) -> Result<RecordBatch, OffsetRecordError> {
    let mut batch = RecordBatch::default();
    for record in records {
        batch.bytes.extend(framed(record)?);
        batch.record_count += 1;
    }
    Ok(batch)
}

fn framed(record: &OffsetRecord) -> Result<Vec<u8>, OffsetRecordError> {
    let value = record.encode()?;
    let mut framed = Vec::with_capacity(value.len() + 8);
    let kind = RecordType::from_byte(RECORD_TYPE).ok_or(OffsetRecordError::UnknownKind { found: RECORD_TYPE })?;
    match put_record(&mut framed, kind, &value) {
        Ok(()) => Ok(framed),
        Err(_) => Err(OffsetRecordError::UnknownKind { found: RECORD_TYPE }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_cluster::group::GroupEffect;
    use lance_messages::id::TopicId;
    use std::time::Duration;

    const READ: TopicPartition = TopicPartition::new(TopicId(1), 0);

    fn loaded() -> GroupCore {
        let mut core = GroupCore::default();
        core.coordinator.on_loaded(Duration::ZERO);
        core
    }

    /// Commits; gives the number of the append and its bytes.
    fn commit(core: &mut GroupCore, consumer_id: u64, offset: u64) -> (u64, Vec<u8>) {
        let mut effects = Vec::new();
        core.coordinator.on_plain_commit(0, plain_commit(READ, consumer_id, offset, 7), &mut effects);
        match effects.first() {
            Some(GroupEffect::Append { append, records }) => (*append, framed_batch(records).unwrap().bytes),
            other => panic!("{other:?}"),
        }
    }

    fn committed(core: &mut GroupCore, consumer_id: u64, offset: u64) -> Vec<u8> {
        let (append, bytes) = commit(core, consumer_id, offset);
        assert!(core.coordinator.on_appended(append, true, &mut Vec::new()));
        bytes
    }

    #[test]
    fn an_answer_to_an_earlier_core_is_none_to_a_later_one() {
        let mut core = loaded();
        let (late, _) = commit(&mut core, 1, 100);
        let mut core = GroupCore::after(&core);
        core.coordinator.on_loaded(Duration::ZERO);
        let (own, _) = commit(&mut core, 1, 50);
        assert!(!core.coordinator.on_appended(late, true, &mut Vec::new()));
        assert_eq!(core.committed(READ, 1), None);
        assert!(core.coordinator.on_appended(own, true, &mut Vec::new()));
        assert_eq!(core.committed(READ, 1), Some(50));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_left_out_and_named() {
        let mut writer = loaded();
        let mut log = committed(&mut writer, 1, 10);
        let kind = RecordType::from_byte(RECORD_TYPE).unwrap();
        put_record(&mut log, kind, &[99, 1, 2, 3]).unwrap();
        put_record(&mut log, kind, &[]).unwrap();
        log.extend(committed(&mut writer, 2, 20));
        let mut core = GroupCore::default();
        let error = core.on_replay(&log).unwrap_err();
        assert_eq!(error, ReplayError::Record(OffsetRecordError::UnknownVersion { found: 99 }));
        core.coordinator.on_loaded(Duration::ZERO);
        assert_eq!((core.committed(READ, 1), core.committed(READ, 2), core.undecodable()), (Some(10), Some(20), 2));
    }

    #[test]
    fn bytes_that_are_no_records_do_not_hide_what_comes_after_them() {
        // A type that nobody uses, and a length that nothing has.
        for garbage in [vec![b'x'; 10], vec![0xFE; MAX_CARRY_BYTES + 1]] {
            let mut core = GroupCore::default();
            let bytes = garbage.len();
            assert_eq!(core.on_replay(&garbage), Err(ReplayError::NoRecords { bytes }));
            core.on_replay(&committed(&mut loaded(), 1, 10)).unwrap();
            core.coordinator.on_loaded(Duration::ZERO);
            assert_eq!(core.committed(READ, 1), Some(10));
        }
    }

    #[test]
    fn a_snapshot_stands_for_everything_before_it_wherever_it_is_cut() {
        let mut writer = loaded();
        let mut log: Vec<u8> = (0..30_000).flat_map(|id| committed(&mut writer, id, id)).collect();
        let before = log.len();
        let batches = writer.snapshot().unwrap();
        assert!(batches.len() > 1, "one batch is not enough for so many");
        let snapshot: Vec<u8> = batches.iter().flat_map(|batch| batch.bytes.clone()).collect();
        let offsets = |log: &[u8]| {
            let mut core = GroupCore::default();
            // Reads end anywhere in a record.
            log.chunks(1009).for_each(|part| core.on_replay(part).unwrap());
            core.coordinator.on_loaded(Duration::ZERO);
            core.coordinator.offsets().iter().map(|(key, at)| (key, at.offset)).collect::<Vec<_>>()
        };
        let expected = offsets(&log);
        assert_eq!(offsets(&snapshot), expected, "the log may begin with it");
        log.extend_from_slice(&snapshot);
        for cut in [before, before + 1, before + snapshot.len() / 2, log.len() - 1, log.len()] {
            assert_eq!(offsets(&log[..cut]), expected, "cut at {cut}");
        }
        // A writer that ended within its snapshot goes on with a plain commit.
        let mut torn = log[..before + batches[0].bytes.len()].to_vec();
        torn.extend(committed(&mut writer, 5, 500));
        let after = offsets(&torn);
        assert_eq!(after.len(), expected.len());
        assert!(after.iter().any(|(_, offset)| *offset == 500));
    }
}
