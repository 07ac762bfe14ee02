//! Reads records: assigned partitions, fetched ahead, in order within each partition.

mod fetch_task;
mod placement;
mod split;
mod start;

use crate::client::Client;
use crate::error::ClientError;
use bytes::Bytes;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use start::StartOffset;
pub(crate) use start::resolve;

/// How a consumer fetches.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerOptions {
    /// Most bytes in one answer, over all partitions.
    pub max_bytes: u32,
    /// Most bytes of one partition in one answer.
    pub partition_max_bytes: u32,
    /// How long the server waits for `min_bytes`.
    pub max_wait: Duration,
    /// Bytes worth answering for.
    pub min_bytes: u32,
    /// Chunks fetched ahead.
    pub prefetch: usize,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            max_bytes: 8 * 1024 * 1024,
            partition_max_bytes: 4 * 1024 * 1024,
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            prefetch: 2,
        }
    }
}

/// A record as it was stored. Slices share the buffer it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Where it is in the partition's stream.
    pub offset: u64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its bytes; `None` for a null record.
    pub value: Option<Bytes>,
    /// Its own timestamp, else that of the newest batch it came with; ns since the Unix epoch.
    pub timestamp_ns: Option<u64>,
}

/// Records of one partition, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedChunk {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// The records; may be empty.
    pub records: Vec<ConsumedRecord>,
    /// Where the next record starts.
    pub next_offset: u64,
    /// Offset up to which everything is committed; `None` on a 1.0 server.
    pub high_watermark: Option<u64>,
}

/// A partition and where a consumer is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// Where the next record starts that was not handed out.
    pub offset: u64,
}

/// Reads records of the partitions assigned to it.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    options: ConsumerOptions,
    chunks: mpsc::Receiver<Result<ConsumedChunk, ClientError>>,
    sender: mpsc::Sender<Result<ConsumedChunk, ClientError>>,
    tasks: Vec<JoinHandle<()>>,
    positions: HashMap<(Arc<str>, u16), u64>,
    /// Records of the chunk that [`Consumer::next`] is in.
    ready: VecDeque<(Arc<str>, u16, ConsumedRecord)>,
}

impl Consumer {
    pub(crate) fn new(client: Client, options: ConsumerOptions) -> Self {
        let (sender, chunks) = mpsc::channel(options.prefetch.max(1));
        let (positions, ready) = (HashMap::new(), VecDeque::new());
        Self { client, options, chunks, sender, tasks: Vec::new(), positions, ready }
    }

    /// Reads `partitions` of a topic (all without any) from `start` on; gives where each begins.
    pub async fn assign(
        &mut self,
        topic: &str,
        partitions: Option<&[u16]>,
        start: StartOffset,
    ) -> Result<Vec<Position>, ClientError> {
        let info = self.client.topic(topic, false).await?;
        let numbers: Vec<u16> = match partitions {
            Some(numbers) => numbers.to_vec(),
            None => (0..info.partitions.len() as u16).collect(),
        };
        let mut begins = Vec::with_capacity(numbers.len());
        for partition in numbers {
            let offset = start::resolve(&self.client, topic, partition, start).await?;
            begins.push(Position { topic: Arc::from(topic), partition, offset });
        }
        self.assign_at(&begins);
        Ok(begins)
    }

    /// Reads partitions from known offsets on.
    pub fn assign_at(&mut self, begins: &[Position]) {
        for begin in begins {
            self.positions.insert((Arc::clone(&begin.topic), begin.partition), begin.offset);
        }
        let mut by_topic: HashMap<Arc<str>, Vec<(u16, u64)>> = HashMap::new();
        for begin in begins {
            by_topic.entry(Arc::clone(&begin.topic)).or_default().push((begin.partition, begin.offset));
        }
        for (topic, partitions) in by_topic {
            let task = placement::run(self.client.clone(), self.options, topic, partitions, self.sender.clone());
            self.tasks.push(tokio::spawn(task));
        }
    }

    /// Reads partitions of a topic no further.
    pub fn unassign(&mut self, topic: &str, partitions: &[u16]) {
        self.positions.retain(|(name, number), _| **name != *topic || !partitions.contains(number));
    }

    /// The next chunk; waits for one. A partition that failed for good is reported once and not read any further.
    ///
    /// Can be dropped and called again without losing records.
    pub async fn next_chunk(&mut self) -> Result<ConsumedChunk, ClientError> {
        match self.chunks.recv().await {
            Some(Ok(chunk)) => {
                self.positions.insert((Arc::clone(&chunk.topic), chunk.partition), chunk.next_offset);
                Ok(chunk)
            }
            Some(Err(error)) => Err(error),
            None => Err(ClientError::Closed { what: "consumer" }),
        }
    }

    /// The next record with its topic and partition; waits for one.
    ///
    /// Positions move on by chunks: commit those of [`Consumer::next_chunk`] where each record counts.
    pub async fn next(&mut self) -> Result<(Arc<str>, u16, ConsumedRecord), ClientError> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(record);
            }
            let chunk = self.next_chunk().await?;
            let (topic, partition) = (chunk.topic, chunk.partition);
            self.ready.extend(chunk.records.into_iter().map(|record| (Arc::clone(&topic), partition, record)));
        }
    }

    /// Where the consumer is in each partition, as far as handed out.
    pub fn positions(&self) -> Vec<Position> {
        let positions = self.positions.iter();
        positions
            .map(|((topic, partition), &offset)| Position { topic: Arc::clone(topic), partition: *partition, offset })
            .collect()
    }

    /// The offset a start stands for at the moment.
    pub async fn resolve(&self, topic: &str, partition: u16, start: StartOffset) -> Result<u64, ClientError> {
        start::resolve(&self.client, topic, partition, start).await
    }

    /// The high watermark of a partition, as an offset.
    pub async fn end_offset(&self, topic: &str, partition: u16) -> Result<u64, ClientError> {
        start::resolve(&self.client, topic, partition, StartOffset::Latest).await
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
