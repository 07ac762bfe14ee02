//! `GroupCore`: committed consumer offsets, as replayed from and appended to the log of `__groups`.

use lance_cluster::group::offsets::{
    CommittedOffset, ConsumerKey, GroupOffsets, OffsetCommit, OffsetKey, OffsetRecord, OffsetRecordError,
};
use lance_messages::id::TopicPartition;
use lance_messages::record::{RecordError, RecordType, put_record, records};
use std::collections::BTreeMap;

/// Name of the internal topic.
pub const GROUPS_TOPIC: &str = "__groups";
/// Type of its records: one of those left to users of the format.
const RECORD_TYPE: u8 = 0x80;
/// No record is as long: what is left of the bytes read so far is none.
const MAX_CARRY_BYTES: usize = 64 * 1024;
/// Bytes of one batch of a snapshot, about.
const SNAPSHOT_BATCH_BYTES: usize = 1024 * 1024;

/// The offsets core of a node.
#[derive(Debug, Default)]
pub struct GroupCore {
    offsets: GroupOffsets,
    appending: BTreeMap<u64, OffsetCommit>,
    next_request: u64,
    carry: Vec<u8>,
    /// Records that could not be read, and are left out.
    undecodable: u64,
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

/// Records to append together, and the number they are known by until they are durable.
#[derive(Debug, PartialEq, Eq)]
pub struct SnapshotBatch {
    /// Their number.
    pub request: u64,
    /// Their bytes.
    pub records: Vec<u8>,
    /// How many.
    pub record_count: u32,
}

impl GroupCore {
    /// A core that knows nothing yet and goes on numbering where `before` stopped: what was sent for that one may still
    /// be answered, and is no answer to anything of this one.
    pub fn after(before: &Self) -> Self {
        Self { next_request: before.next_request, ..Self::default() }
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
                    if let Err(error) = self.offsets.replay(record.value) {
                        self.undecodable += 1;
                        first = first.and(Err(ReplayError::Record(error)));
                    }
                }
                None => break true,
                Some(Err(RecordError::Truncated { .. })) => break self.carry.len() - consumed <= MAX_CARRY_BYTES,
                Some(Err(RecordError::UnknownType { .. })) => break false,
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

    /// Whether every commit that was sent is answered.
    pub fn is_settled(&self) -> bool {
        self.appending.is_empty()
    }

    /// All offsets as records, to be appended without anything between them. Taken while commits are under way, they
    /// would void those.
    pub fn snapshot(&mut self) -> Result<Vec<SnapshotBatch>, OffsetRecordError> {
        let mut batches: Vec<SnapshotBatch> = Vec::new();
        for record in self.offsets.snapshot_records() {
            let record = framed(&record)?;
            match batches.last_mut().filter(|batch| batch.records.len() + record.len() <= SNAPSHOT_BATCH_BYTES) {
                Some(batch) => {
                    batch.records.extend_from_slice(&record);
                    batch.record_count += 1;
                }
                None => {
                    self.next_request += 1;
                    batches.push(SnapshotBatch { request: self.next_request, records: record, record_count: 1 });
                }
            }
        }
        Ok(batches)
    }

    /// Bytes to append for a commit, and the number it is known by until it is durable.
    pub fn on_commit(
        &mut self,
        partition: TopicPartition,
        consumer_id: u64,
        offset: u64,
        now_ms: u64,
    ) -> Result<(u64, Vec<u8>), OffsetRecordError> {
        let key = OffsetKey { partition, consumer: ConsumerKey::Id(consumer_id) };
        let commit = OffsetCommit { key, committed: CommittedOffset { offset, committed_at_ms: now_ms } };
        let record = framed(&OffsetRecord::Commit(commit.clone()))?;
        self.next_request += 1;
        self.appending.insert(self.next_request, commit);
        Ok((self.next_request, record))
    }

    /// The commit is durable, or not; `false` when it is one of an earlier core.
    pub fn on_appended(&mut self, request: u64, durable: bool) -> bool {
        let Some(commit) = self.appending.remove(&request) else {
            return false;
        };
        if durable {
            // A commit is a plain record, which is always taken.
            let _ = self.offsets.apply(OffsetRecord::Commit(commit));
        }
        true
    }

    /// How far a consumer is.
    pub fn committed(&self, partition: TopicPartition, consumer_id: u64) -> Option<u64> {
        let key = OffsetKey { partition, consumer: ConsumerKey::Id(consumer_id) };
        self.offsets.committed(&key).map(|committed| committed.offset)
    }

    /// Every committed offset.
    pub fn offsets(&self) -> &GroupOffsets {
        &self.offsets
    }
}

/// A record as it stands in the log.
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
    use lance_messages::id::TopicId;

    const READ: TopicPartition = TopicPartition::new(TopicId(1), 0);

    #[test]
    fn an_answer_to_an_earlier_core_is_none_to_a_later_one() {
        let mut core = GroupCore::default();
        let (late, _) = core.on_commit(READ, 1, 100, 0).unwrap();
        let mut core = GroupCore::after(&core);
        let (own, _) = core.on_commit(READ, 1, 50, 0).unwrap();
        assert!(!core.on_appended(late, true));
        assert_eq!(core.committed(READ, 1), None);
        assert!(core.on_appended(own, true));
        assert_eq!(core.committed(READ, 1), Some(50));
    }

    fn committed(core: &mut GroupCore, consumer_id: u64, offset: u64) -> Vec<u8> {
        let (request, record) = core.on_commit(READ, consumer_id, offset, 7).unwrap();
        assert!(core.on_appended(request, true));
        record
    }

    #[test]
    fn a_record_that_cannot_be_read_is_left_out_and_named() {
        let mut writer = GroupCore::default();
        let mut log = committed(&mut writer, 1, 10);
        let kind = RecordType::from_byte(RECORD_TYPE).unwrap();
        put_record(&mut log, kind, &[99, 1, 2, 3]).unwrap();
        put_record(&mut log, kind, &[]).unwrap();
        log.extend(committed(&mut writer, 2, 20));
        let mut core = GroupCore::default();
        let error = core.on_replay(&log).unwrap_err();
        assert_eq!(error, ReplayError::Record(OffsetRecordError::UnknownVersion { found: 99 }));
        assert_eq!((core.committed(READ, 1), core.committed(READ, 2), core.undecodable()), (Some(10), Some(20), 2));
    }

    #[test]
    fn bytes_that_are_no_records_do_not_hide_what_comes_after_them() {
        // A type that nobody uses, and a length that nothing has.
        for garbage in [vec![b'x'; 10], vec![0xFE; MAX_CARRY_BYTES + 1]] {
            let mut core = GroupCore::default();
            let bytes = garbage.len();
            assert_eq!(core.on_replay(&garbage), Err(ReplayError::NoRecords { bytes }));
            core.on_replay(&committed(&mut GroupCore::default(), 1, 10)).unwrap();
            assert_eq!(core.committed(READ, 1), Some(10));
        }
    }

    #[test]
    fn a_snapshot_stands_for_everything_before_it_wherever_it_is_cut() {
        let mut writer = GroupCore::default();
        let mut log: Vec<u8> = (0..30_000).flat_map(|id| committed(&mut writer, id, id)).collect();
        let before = log.len();
        let batches = writer.snapshot().unwrap();
        assert!(batches.len() > 1, "one batch is not enough for so many");
        let snapshot: Vec<u8> = batches.iter().flat_map(|batch| batch.records.clone()).collect();
        let offsets = |log: &[u8]| {
            let mut core = GroupCore::default();
            // Reads end anywhere in a record.
            log.chunks(1009).for_each(|part| core.on_replay(part).unwrap());
            core.offsets().iter().map(|(key, at)| (key.clone(), at.offset)).collect::<Vec<_>>()
        };
        let expected = offsets(&log);
        assert_eq!(offsets(&snapshot), expected, "the log may begin with it");
        log.extend_from_slice(&snapshot);
        for cut in [before, before + 1, before + snapshot.len() / 2, log.len() - 1, log.len()] {
            assert_eq!(offsets(&log[..cut]), expected, "cut at {cut}");
        }
        // A writer that ended within its snapshot goes on with a plain commit.
        let mut torn = log[..before + batches[0].records.len()].to_vec();
        torn.extend(committed(&mut writer, 5, 500));
        let after = offsets(&torn);
        assert_eq!(after.len(), expected.len());
        assert!(after.iter().any(|(_, offset)| *offset == 500));
    }
}
