//! A log in memory: batches without records, 104 bytes each.

use lance_cluster::replica::{EpochHistory, LogFacts};
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader};
use lance_messages::id::{LeaderEpoch, ReplicaIncarnation, TopicId, TopicPartition};
use lance_messages::peer::ReplicaBatch;
use lance_messages::sort_key::SortKey;

pub const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
/// Bytes of a batch without records.
pub const UNIT: u64 = 104;

pub fn epoch(number: u32) -> LeaderEpoch {
    LeaderEpoch(number)
}

pub fn incarnation(node: u16) -> ReplicaIncarnation {
    ReplicaIncarnation { node: 100 + u64::from(node), copy_version: 0, damage_count: 0 }
}

/// A batch without records.
pub fn batch(position: u64, of_epoch: u32) -> ReplicaBatch {
    let header = BatchHeader {
        flags: BatchFlags::CONTROL,
        records_crc: 0,
        position,
        base_offset: 0,
        base_record: 0,
        stored_len: 0,
        plain_len: 0,
        record_count: 0,
        leader_epoch: epoch(of_epoch),
        committed_through: 0,
        sort_key: SortKey::default(),
        max_timestamp_ns: 0,
        producer: None,
    };
    ReplicaBatch { raw_header: [0; BATCH_HEADER_BYTES], header, records: bytes::Bytes::new() }
}

/// Batches as (epoch, what they hold); every position is one of the log.
#[derive(Clone, Debug, Default)]
pub struct TestLog {
    pub batches: Vec<(u32, u32)>,
    /// Batches dropped from the front.
    dropped: u64,
    pub durable_end: u64,
    pub high_watermark: u64,
}

impl TestLog {
    /// A log of batches of these epochs, all synced.
    pub fn synced(epochs: &[u32]) -> Self {
        let batches: Vec<(u32, u32)> = epochs.iter().map(|&of_epoch| (of_epoch, 0)).collect();
        let durable_end = batches.len() as u64 * UNIT;
        Self { batches, durable_end, ..Self::default() }
    }

    pub fn start(&self) -> u64 {
        self.dropped * UNIT
    }

    pub fn end(&self) -> u64 {
        (self.dropped + self.batches.len() as u64) * UNIT
    }

    pub fn history(&self) -> EpochHistory {
        let mut history = EpochHistory::default();
        for (&(of_epoch, _), at) in self.batches.iter().zip(self.dropped..) {
            history.note_batch(epoch(of_epoch), at * UNIT).unwrap();
        }
        history
    }

    /// The batch at a position, if it is held.
    pub fn at(&self, position: u64) -> Option<(u32, u32)> {
        let index = usize::try_from(position.checked_sub(self.start())? / UNIT).unwrap();
        self.batches.get(index).copied()
    }

    pub fn facts<T>(&self, ask: impl FnOnce(&LogFacts<'_>) -> T) -> T {
        let history = self.history();
        let epoch_before = |position| history.epoch_before(position);
        ask(&LogFacts {
            log_start: self.start(),
            log_end: self.end(),
            durable_end: self.durable_end,
            high_watermark: self.high_watermark,
            last_epoch: history.last_epoch(),
            epoch_before: &epoch_before,
        })
    }

    /// Cuts everything behind `position`.
    pub fn truncate_to(&mut self, position: u64) {
        self.truncate((position - self.start()) / UNIT);
    }

    /// Keeps this many batches.
    pub fn truncate(&mut self, batches: u64) {
        self.batches.truncate(usize::try_from(batches).unwrap());
        self.durable_end = self.durable_end.min(self.end());
    }

    /// Drops this many batches from the front.
    pub fn drop_front(&mut self, batches: u64) {
        self.batches.drain(..usize::try_from(batches).unwrap());
        self.dropped += batches;
        self.high_watermark = self.high_watermark.max(self.start());
    }

    /// Begins anew behind this many batches.
    pub fn restart(&mut self, batches: u64) {
        self.batches.clear();
        self.dropped = batches;
        self.durable_end = self.start();
        self.high_watermark = self.start();
    }
}
