//! Reads records: assigned partitions, fetched ahead, in order within each partition.

mod board;
mod hub;
mod near;
mod options;
mod placement;
mod reader;
mod record;
mod split;
mod start;

use crate::client::Client;
use crate::error::ClientError;
use crate::offsets::OffsetStore;
use board::Key;
use hub::Hub;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::vec::IntoIter;
use tokio::task::JoinHandle;

pub use options::{ConsumerOptions, OutOfRange};
pub use record::{ConsumedChunk, ConsumedRecord, Position};
pub use start::StartOffset;
pub(crate) use start::resolve;

/// Reads records of the partitions assigned to it, by itself: nobody else is kept from reading the same.
///
/// Records of a partition come in their order; between partitions there is none. What it has read is its own affair until
/// [`Consumer::commit`] puts it into an [`OffsetStore`].
///
/// ```no_run
/// use lance_client::{Client, ClientOptions, ConsumerOptions, StartOffset};
///
/// # async fn example() -> Result<(), lance_client::ClientError> {
/// let client = Client::connect(ClientOptions::new("127.0.0.1:1992")?).await?;
/// let mut consumer = client.consumer(ConsumerOptions::default());
/// consumer.assign("events", None, StartOffset::Earliest).await?;
/// loop {
///     let (topic, partition, record) = consumer.next().await?;
///     println!("{topic} {partition} {}: {:?}", record.offset, record.value);
/// }
/// # }
/// ```
pub struct Consumer {
    client: Client,
    options: ConsumerOptions,
    hub: Arc<Hub>,
    placement: Option<JoinHandle<()>>,
    /// The chunk that [`Consumer::next`] is in.
    begun: Option<Begun>,
    store: Option<Arc<dyn OffsetStore>>,
    /// What the store has, as far as this consumer put it there.
    committed: HashMap<Key, u64>,
}

/// A chunk of which some records were handed out.
struct Begun {
    key: Key,
    /// Where the next of its records starts.
    position: u64,
    next_offset: u64,
    high_watermark: Option<u64>,
    records: IntoIter<ConsumedRecord>,
}

impl Consumer {
    pub(crate) fn new(client: Client, options: ConsumerOptions) -> Self {
        let rack = client.options().rack.clone();
        Self::in_rack(client, options, rack)
    }

    /// As [`Consumer::new`], in another rack than the client's.
    pub(crate) fn in_rack(client: Client, options: ConsumerOptions, rack: String) -> Self {
        let hub = Hub::new(options.prefetch_bytes, rack);
        Self { client, options, hub, placement: None, begun: None, store: None, committed: HashMap::new() }
    }

    /// With a place for committed offsets.
    ///
    /// ```no_run
    /// use lance_client::offsets::FileOffsets;
    /// use lance_client::{Client, ClientOptions, ConsumerOptions, StartOffset};
    ///
    /// # async fn example() -> Result<(), lance_client::ClientError> {
    /// # let client = Client::connect(ClientOptions::new("127.0.0.1:1992")?).await?;
    /// let store = FileOffsets::open("reader.offsets").await?;
    /// let mut consumer = client.consumer(ConsumerOptions::default()).with_offset_store(store);
    /// consumer.assign_committed("events", None, StartOffset::Earliest).await?;
    /// let chunk = consumer.next_chunk().await?;
    /// println!("{} records", chunk.records.len());
    /// consumer.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_offset_store(mut self, store: impl OffsetStore + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Reads `partitions` of a topic (all without any) from `start` on; gives where each begins.
    ///
    /// A partition that is read already goes on from `start`.
    pub async fn assign(
        &mut self,
        topic: &str,
        partitions: Option<&[u16]>,
        start: StartOffset,
    ) -> Result<Vec<Position>, ClientError> {
        let mut begins = Vec::new();
        for partition in self.numbers(topic, partitions).await? {
            let offset = start::resolve(&self.client, topic, partition, start).await?;
            begins.push(Position::new(topic, partition, offset));
        }
        self.assign_at(&begins);
        Ok(begins)
    }

    /// As [`Consumer::assign`], from what was committed on, and from `otherwise` where nothing was.
    ///
    /// A committed offset that the partition no longer has is dealt with as
    /// [`out_of_range`](ConsumerOptions::out_of_range) says.
    pub async fn assign_committed(
        &mut self,
        topic: &str,
        partitions: Option<&[u16]>,
        otherwise: StartOffset,
    ) -> Result<Vec<Position>, ClientError> {
        let mut begins = Vec::new();
        for partition in self.numbers(topic, partitions).await? {
            let offset = match self.committed(topic, partition).await? {
                Some(offset) => offset,
                None => start::resolve(&self.client, topic, partition, otherwise).await?,
            };
            begins.push(Position::new(topic, partition, offset));
        }
        self.assign_at(&begins);
        Ok(begins)
    }

    async fn numbers(&self, topic: &str, partitions: Option<&[u16]>) -> Result<Vec<u16>, ClientError> {
        match partitions {
            Some(numbers) => Ok(numbers.to_vec()),
            None => {
                let info = self.client.topic(topic, false).await?;
                Ok((0..info.partitions.len() as u16).collect())
            }
        }
    }

    /// Reads partitions from known offsets on.
    pub fn assign_at(&mut self, begins: &[Position]) {
        for begin in begins {
            self.end_begun(&Key::new(Arc::clone(&begin.topic), begin.partition));
        }
        self.hub.change(|board| {
            for begin in begins {
                board.assign(Key::new(Arc::clone(&begin.topic), begin.partition), begin.offset);
            }
        });
        if self.placement.is_none() && !begins.is_empty() {
            let task = placement::run(self.client.clone(), Arc::clone(&self.hub), self.options);
            self.placement = Some(self.client.runtime().spawn(task));
        }
    }

    /// Reads `partitions` of a topic (all without any) no further; nothing of them is handed out after this.
    pub fn unassign(&mut self, topic: &str, partitions: Option<&[u16]>) {
        for key in self.keys(topic, partitions) {
            self.end_begun(&key);
            self.committed.remove(&key);
            self.hub.change(|board| board.unassign(&key));
            self.hub.near.forget(&key);
        }
    }

    /// Goes to another place in a partition; gives its offset. Nothing from before is handed out after this.
    ///
    /// ```no_run
    /// use lance_client::{Consumer, StartOffset};
    ///
    /// # async fn example(consumer: &mut Consumer) -> Result<(), lance_client::ClientError> {
    /// consumer.seek("events", 0, StartOffset::Earliest).await?;
    /// consumer.seek("events", 0, StartOffset::At(4096)).await?;
    /// let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    /// consumer.seek("events", 0, StartOffset::at_time(an_hour_ago)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn seek(&mut self, topic: &str, partition: u16, to: StartOffset) -> Result<u64, ClientError> {
        let key = Key::new(topic, partition);
        let not_assigned = || ClientError::NotAssigned { topic: topic.to_owned(), partition };
        self.hub.board().position(&key).ok_or_else(not_assigned)?;
        let offset = start::resolve(&self.client, topic, partition, to).await?;
        self.end_begun(&key);
        let there = self.hub.change(|board| board.seek(&key, offset));
        if there { Ok(offset) } else { Err(not_assigned()) }
    }

    /// Hands out nothing of `partitions` of a topic (all without any) until [`Consumer::resume`]; positions stay.
    pub fn pause(&mut self, topic: &str, partitions: Option<&[u16]>) {
        for key in self.keys(topic, partitions) {
            let position = self.end_begun(&key);
            self.hub.change(|board| {
                if let Some(position) = position {
                    board.seek(&key, position);
                }
                board.pause(&key);
            });
        }
    }

    /// Goes on with `partitions` of a topic (all without any) after [`Consumer::pause`].
    pub fn resume(&mut self, topic: &str, partitions: Option<&[u16]>) {
        for key in self.keys(topic, partitions) {
            self.hub.change(|board| board.resume(&key));
        }
    }

    /// Whether a partition is paused.
    pub fn is_paused(&self, topic: &str, partition: u16) -> bool {
        self.hub.board().is_paused(&Key::new(topic, partition))
    }

    fn keys(&self, topic: &str, partitions: Option<&[u16]>) -> Vec<Key> {
        let numbers = match partitions {
            Some(numbers) => numbers.to_vec(),
            None => self.hub.board().partitions_of(topic),
        };
        let topic: Arc<str> = Arc::from(topic);
        numbers.into_iter().map(|partition| Key::new(Arc::clone(&topic), partition)).collect()
    }

    /// Drops what is left of a chunk of this partition; gives where it was.
    fn end_begun(&mut self, key: &Key) -> Option<u64> {
        self.begun.take_if(|begun| begun.key == *key).map(|begun| begun.position)
    }

    /// The next records of a partition; waits for some. A partition that failed for good is reported once and not read any
    /// further.
    ///
    /// Can be dropped and called again without losing records: `tokio::time::timeout(wait, consumer.next_chunk())` is a
    /// poll.
    pub async fn next_chunk(&mut self) -> Result<ConsumedChunk, ClientError> {
        if let Some(Begun { key, next_offset, high_watermark, records, .. }) = self.begun.take()
            && records.len() > 0
        {
            let (topic, partition, records) = (key.topic, key.partition, records.collect());
            return Ok(ConsumedChunk { topic, partition, records, next_offset, high_watermark });
        }
        self.hub.next().await
    }

    /// The next record with its topic and partition; waits for one.
    ///
    /// Can be dropped and called again without losing records.
    pub async fn next(&mut self) -> Result<(Arc<str>, u16, ConsumedRecord), ClientError> {
        loop {
            if let Some(begun) = &mut self.begun
                && let Some(record) = begun.records.next()
            {
                let more = begun.records.len() > 0;
                begun.position = if more { record.next_offset } else { begun.next_offset };
                return Ok((Arc::clone(&begun.key.topic), begun.key.partition, record));
            }
            self.begun = None;
            let ConsumedChunk { topic, partition, records, next_offset, high_watermark } = self.hub.next().await?;
            let position = records.first().map_or(next_offset, |first| first.offset);
            let (key, records) = (Key { topic, partition }, records.into_iter());
            self.begun = Some(Begun { key, position, next_offset, high_watermark, records });
        }
    }

    /// Where the consumer is in each partition: after the last record that was handed out.
    pub fn positions(&self) -> Vec<Position> {
        let mut positions = self.hub.board().positions();
        if let Some(begun) = &self.begun {
            let of_begun =
                |found: &&mut Position| found.topic == begun.key.topic && found.partition == begun.key.partition;
            if let Some(found) = positions.iter_mut().find(of_begun) {
                found.offset = begun.position;
            }
        }
        positions
    }

    /// Where the consumer is in one partition; `None` where it reads nothing.
    pub fn position(&self, topic: &str, partition: u16) -> Option<u64> {
        let key = Key::new(topic, partition);
        let position = self.hub.board().position(&key)?;
        Some(self.begun.as_ref().filter(|begun| begun.key == key).map_or(position, |begun| begun.position))
    }

    /// The offset of the oldest record of a partition.
    pub async fn begin_offset(&self, topic: &str, partition: u16) -> Result<u64, ClientError> {
        start::resolve(&self.client, topic, partition, StartOffset::Earliest).await
    }

    /// The high watermark of a partition, as an offset.
    pub async fn end_offset(&self, topic: &str, partition: u16) -> Result<u64, ClientError> {
        start::resolve(&self.client, topic, partition, StartOffset::Latest).await
    }

    /// The offset that a place in a partition has now.
    pub async fn offset_of(&self, topic: &str, partition: u16, place: StartOffset) -> Result<u64, ClientError> {
        start::resolve(&self.client, topic, partition, place).await
    }

    /// Puts the positions of all partitions into the offset store; what was handed out counts as done.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        let positions = self.positions();
        self.commit_at(&positions).await
    }

    /// Puts these positions into the offset store: where reading goes on, so for a record that is done its
    /// [`next_offset`](ConsumedRecord::next_offset).
    pub async fn commit_at(&mut self, positions: &[Position]) -> Result<(), ClientError> {
        let key = |position: &Position| Key::new(Arc::clone(&position.topic), position.partition);
        let is_news = |position: &&Position| self.committed.get(&key(position)) != Some(&position.offset);
        let news: Vec<Position> = positions.iter().filter(is_news).cloned().collect();
        let store = self.store()?;
        if news.is_empty() {
            return Ok(());
        }
        store.store(&news).await?;
        self.committed.extend(news.iter().map(|position| (key(position), position.offset)));
        Ok(())
    }

    /// What the offset store has for a partition.
    pub async fn committed(&self, topic: &str, partition: u16) -> Result<Option<u64>, ClientError> {
        self.store()?.load(topic, partition).await
    }

    fn store(&self) -> Result<Arc<dyn OffsetStore>, ClientError> {
        self.store.clone().ok_or_else(|| ClientError::offset_store("offset store", "this consumer has none"))
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("options", &self.options).field("positions", &self.positions()).finish()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(task) = &self.placement {
            task.abort();
        }
    }
}
