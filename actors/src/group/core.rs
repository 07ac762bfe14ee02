//! `GroupCore`: committed consumer offsets, as replayed from and appended to the log of `__groups`.

use lance_cluster::group::offsets::{
    CommittedOffset, ConsumerKey, GroupOffsets, OffsetCommit, OffsetKey, OffsetRecord, OffsetRecordError,
};
use lance_messages::id::TopicPartition;
use lance_messages::record::{RecordType, put_record, records};
use std::collections::BTreeMap;

/// Name of the internal topic.
pub const GROUPS_TOPIC: &str = "__groups";
/// Type of its records: one of those left to users of the format.
const RECORD_TYPE: u8 = 0x80;

/// The offsets core of a node.
#[derive(Debug, Default)]
pub struct GroupCore {
    offsets: GroupOffsets,
    appending: BTreeMap<u64, OffsetCommit>,
    next_request: u64,
    carry: Vec<u8>,
}

impl GroupCore {
    /// A core that knows nothing yet and goes on numbering where `before` stopped: what was sent for that one may still
    /// be answered, and is no answer to anything of this one.
    pub fn after(before: &Self) -> Self {
        Self { next_request: before.next_request, ..Self::default() }
    }

    /// Takes committed bytes of the log, in order; a record may be cut at the end.
    pub fn on_replay(&mut self, data: &[u8]) -> Result<(), OffsetRecordError> {
        self.carry.extend_from_slice(data);
        let mut iterator = records(&self.carry);
        while let Some(Ok(record)) = iterator.next() {
            self.offsets.replay(record.value)?;
        }
        let consumed = iterator.consumed_bytes();
        self.carry.drain(..consumed);
        Ok(())
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
        let value = OffsetRecord::Commit(commit.clone()).encode()?;
        let mut record = Vec::with_capacity(value.len() + 8);
        let kind = RecordType::from_byte(RECORD_TYPE).ok_or(OffsetRecordError::UnknownKind { found: RECORD_TYPE })?;
        if put_record(&mut record, kind, &value).is_err() {
            return Err(OffsetRecordError::UnknownKind { found: RECORD_TYPE });
        }
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
}
