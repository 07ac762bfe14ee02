//! Reading, and waiting for records.

use super::runtime::RuntimeThread;
use crate::consumer::{ConsumedChunk, ConsumedRecord, Position, StartOffset};
use crate::error::ClientError;
use crate::offsets::OffsetStore;
use std::sync::Arc;
use std::time::Duration;

/// Reads records; as [`crate::Consumer`]. It is an endless iterator over records with their topic and partition.
#[derive(Debug)]
pub struct Consumer {
    consumer: crate::Consumer,
    runtime: Arc<RuntimeThread>,
}

impl Consumer {
    pub(super) fn new(consumer: crate::Consumer, runtime: Arc<RuntimeThread>) -> Self {
        Self { consumer, runtime }
    }

    /// With a place for committed offsets.
    #[must_use]
    pub fn with_offset_store(self, store: impl OffsetStore + 'static) -> Self {
        Self { consumer: self.consumer.with_offset_store(store), runtime: self.runtime }
    }

    /// Reads `partitions` of a topic (all without any) from `start` on; gives where each begins.
    pub fn assign(
        &mut self,
        topic: &str,
        partitions: Option<&[u16]>,
        start: StartOffset,
    ) -> Result<Vec<Position>, ClientError> {
        self.runtime.wait(self.consumer.assign(topic, partitions, start))
    }

    /// As [`Consumer::assign`], from what was committed on, and from `otherwise` where nothing was.
    pub fn assign_committed(
        &mut self,
        topic: &str,
        partitions: Option<&[u16]>,
        otherwise: StartOffset,
    ) -> Result<Vec<Position>, ClientError> {
        self.runtime.wait(self.consumer.assign_committed(topic, partitions, otherwise))
    }

    /// Reads partitions from known offsets on.
    pub fn assign_at(&mut self, begins: &[Position]) {
        self.consumer.assign_at(begins);
    }

    /// Reads `partitions` of a topic (all without any) no further.
    pub fn unassign(&mut self, topic: &str, partitions: Option<&[u16]>) {
        self.consumer.unassign(topic, partitions);
    }

    /// Goes to another place in a partition; gives its offset. Nothing from before is handed out after this.
    pub fn seek(&mut self, topic: &str, partition: u16, to: StartOffset) -> Result<u64, ClientError> {
        self.runtime.wait(self.consumer.seek(topic, partition, to))
    }

    /// Hands out nothing of `partitions` of a topic (all without any) until [`Consumer::resume`].
    pub fn pause(&mut self, topic: &str, partitions: Option<&[u16]>) {
        self.consumer.pause(topic, partitions);
    }

    /// Goes on with `partitions` of a topic (all without any) after [`Consumer::pause`].
    pub fn resume(&mut self, topic: &str, partitions: Option<&[u16]>) {
        self.consumer.resume(topic, partitions);
    }

    /// The next records of a partition; waits for some, at most so long.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// # fn example(consumer: &mut lance_client::blocking::Consumer) -> Result<(), lance_client::ClientError> {
    /// while let Some(chunk) = consumer.poll(Duration::from_secs(1))? {
    ///     println!("{} records of partition {}", chunk.records.len(), chunk.partition);
    ///     consumer.commit()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll(&mut self, wait: Duration) -> Result<Option<ConsumedChunk>, ClientError> {
        let next = async { tokio::time::timeout(wait, self.consumer.next_chunk()).await };
        self.runtime.wait(next).ok().transpose()
    }

    /// Where the consumer is in each partition: after the last record that was handed out.
    pub fn positions(&self) -> Vec<Position> {
        self.consumer.positions()
    }

    /// The offset that a place in a partition has now.
    pub fn offset_of(&self, topic: &str, partition: u16, place: StartOffset) -> Result<u64, ClientError> {
        self.runtime.wait(self.consumer.offset_of(topic, partition, place))
    }

    /// Puts the positions of all partitions into the offset store; what was handed out counts as done.
    pub fn commit(&mut self) -> Result<(), ClientError> {
        self.runtime.wait(self.consumer.commit())
    }

    /// Puts these positions into the offset store.
    pub fn commit_at(&mut self, positions: &[Position]) -> Result<(), ClientError> {
        self.runtime.wait(self.consumer.commit_at(positions))
    }

    /// What the offset store has for a partition.
    pub fn committed(&self, topic: &str, partition: u16) -> Result<Option<u64>, ClientError> {
        self.runtime.wait(self.consumer.committed(topic, partition))
    }
}

impl Iterator for Consumer {
    type Item = Result<(Arc<str>, u16, ConsumedRecord), ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.runtime.wait(self.consumer.next()))
    }
}
