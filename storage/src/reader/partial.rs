//! Large batches that readers take in parts: read, checked and decompressed once, then cut from memory.

use bytes::Bytes;
use lance_messages::id::TopicPartition;

/// Batches kept at once, and their bytes in sum (one of any size is always kept).
const BATCHES: usize = 16;
const BYTES: usize = 32 * 1024 * 1024;

/// Plain bytes of batches that were served in part and not yet to their end; least recently used first.
#[derive(Default)]
pub(super) struct PartialBatches {
    batches: Vec<(TopicPartition, u64, Bytes)>,
}

impl PartialBatches {
    /// The plain bytes of the batch at `position`, if they are here.
    pub fn get(&mut self, partition: TopicPartition, position: u64) -> Option<Bytes> {
        let at = self.batches.iter().position(|batch| (batch.0, batch.1) == (partition, position))?;
        let batch = self.batches.remove(at);
        let plain = batch.2.clone();
        self.batches.push(batch);
        Some(plain)
    }

    /// Keeps a batch for its next part.
    pub fn put(&mut self, partition: TopicPartition, position: u64, plain: Bytes) {
        self.remove(partition, position);
        self.batches.push((partition, position, plain));
        while self.batches.len() > 1 && (self.batches.len() > BATCHES || self.bytes() > BYTES) {
            self.batches.remove(0);
        }
    }

    /// Drops a batch that was served to its end.
    pub fn remove(&mut self, partition: TopicPartition, position: u64) {
        self.batches.retain(|batch| (batch.0, batch.1) != (partition, position));
    }

    /// Drops all batches of a partition.
    pub fn forget(&mut self, partition: TopicPartition) {
        self.batches.retain(|batch| batch.0 != partition);
    }

    /// Drops everything.
    pub fn release(&mut self) {
        self.batches = Vec::new();
    }

    fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.2.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;

    const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);

    #[test]
    fn the_least_recently_used_batches_go_first() {
        let mut batches = PartialBatches::default();
        let large = Bytes::from(vec![0; BYTES / 3]);
        for position in 0..3 {
            batches.put(PARTITION, position, large.clone());
        }
        assert!(batches.get(PARTITION, 0).is_some());
        batches.put(PARTITION, 3, large);
        assert!(batches.get(PARTITION, 1).is_none());
        assert!(batches.get(PARTITION, 0).is_some());
        batches.forget(PARTITION);
        assert_eq!(batches.bytes(), 0);
    }
}
