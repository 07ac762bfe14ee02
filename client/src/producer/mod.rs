//! Sends records: batches them by partition, keeps batches in order, tries again.

mod batch;
mod delivery;
mod lane;
mod lane_task;

use crate::client::Client;
use crate::error::ClientError;
use crate::links::Links;
use crate::metadata::TopicInfo;
use crate::partitioner::partition_of_key;
use crate::record::ProducerRecord;
use lance_messages::wire::MAX_PAYLOAD_BYTES;
use lance_messages::wire::compression::Codec;
use lane::Lane;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use delivery::{Delivery, DeliveryFuture};

/// Room a frame keeps beside the records: trace context and compression prefix.
const FRAME_ROOM: usize = 64;

/// What a delivery waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// Nothing: the batch was handed to the connection.
    None,
    /// The server's ack, which comes when the record is as safe as the server's configuration makes it.
    #[default]
    All,
}

/// How a producer batches, and what it promises.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// A batch leaves when it has this many bytes of records.
    pub batch_bytes: usize,
    /// How long a batch waits for more records; zero: only while `max_in_flight` batches are under way.
    pub linger: Duration,
    /// Batches under way for each partition. The server recognises the last five of an idempotent producer.
    pub max_in_flight: usize,
    /// Bytes of records that may wait for acks; `send` waits beyond.
    pub buffer_bytes: usize,
    /// Compresses batches, where the server can take that.
    pub compression: Option<Codec>,
    /// What deliveries wait for.
    pub acks: Acks,
    /// Whether the server recognises a batch it has stored before.
    pub idempotent: bool,
    /// Whether a missing topic is created, if the server does that.
    pub create_topics: bool,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            batch_bytes: 256 * 1024,
            linger: Duration::ZERO,
            max_in_flight: 5,
            buffer_bytes: 64 * 1024 * 1024,
            compression: None,
            acks: Acks::All,
            idempotent: true,
            create_topics: true,
        }
    }
}

/// Sends records. Dropping it lets what was sent finish in the background; [`Producer::flush`] waits for it.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    client: Client,
    options: ProducerOptions,
    links: Links,
    topics: Mutex<HashMap<String, TopicLanes>>,
    /// Bytes of records that may still be taken.
    budget: Arc<Semaphore>,
    next_lane: AtomicU32,
}

/// The lanes of one topic's partitions.
#[derive(Debug)]
struct TopicLanes {
    info: Arc<TopicInfo>,
    lanes: Vec<Option<Arc<Lane>>>,
    /// Where records without a key go until a batch is full.
    sticky: u16,
    sticky_left: usize,
}

impl Producer {
    pub(crate) fn new(client: Client, options: ProducerOptions) -> Self {
        let budget = Arc::new(Semaphore::new(options.buffer_bytes.clamp(1, Semaphore::MAX_PERMITS)));
        let links = Links::new(client.clone(), options.idempotent);
        let topics = Mutex::new(HashMap::new());
        let shared = Shared { client, options, links, topics, budget, next_lane: AtomicU32::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Takes a record; waits while too many bytes are under way. The delivery can be awaited, or dropped.
    pub async fn send(&self, record: ProducerRecord) -> Result<DeliveryFuture, ClientError> {
        let options = &self.shared.options;
        let bytes = record.encoded_len();
        let max_bytes = MAX_PAYLOAD_BYTES as usize - FRAME_ROOM;
        if bytes > max_bytes {
            return Err(ClientError::RecordTooLarge { bytes, max_bytes });
        }
        let permits = bytes.min(options.buffer_bytes.max(1)) as u32;
        let budget = Arc::clone(&self.shared.budget);
        let permit = budget.acquire_many_owned(permits).await.map_err(|_| ClientError::Closed { what: "producer" })?;
        let lane = match self.lane(&record)? {
            Some(lane) => lane,
            None => {
                self.learn(&record.topic).await?;
                let missing = || ClientError::UnknownTopic { topic: record.topic.to_string() };
                self.lane(&record)?.ok_or_else(missing)?
            }
        };
        lane.push(&record, permit, options.batch_bytes)
    }

    /// Waits until everything taken so far was delivered or failed.
    pub async fn flush(&self) {
        for lane in self.all_lanes() {
            lane.flush().await;
        }
    }

    fn all_lanes(&self) -> Vec<Arc<Lane>> {
        let topics = self.shared.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.values().flat_map(|topic| topic.lanes.iter().flatten().cloned()).collect()
    }

    /// The lane a record goes to; `None` when its topic is not known yet.
    fn lane(&self, record: &ProducerRecord) -> Result<Option<Arc<Lane>>, ClientError> {
        let mut topics = self.shared.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(topic) = topics.get_mut(&*record.topic) else {
            return Ok(None);
        };
        let partition = topic.choose(record, self.shared.options.batch_bytes)?;
        let slot = &mut topic.lanes[usize::from(partition)];
        let lane = slot.get_or_insert_with(|| {
            let number = self.shared.next_lane.fetch_add(1, Ordering::Relaxed);
            let lane = Arc::new(Lane::new(topic.info.name.clone(), partition));
            tokio::spawn(lane_task::run(Arc::clone(&lane), Arc::clone(&self.shared), number));
            lane
        });
        Ok(Some(Arc::clone(lane)))
    }

    async fn learn(&self, name: &str) -> Result<(), ClientError> {
        let client = &self.shared.client;
        let deadline = Instant::now() + client.options().delivery_timeout;
        let info = client.await_topic(name, self.shared.options.create_topics, deadline).await?;
        let mut topics = self.shared.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.entry(name.to_owned()).or_insert_with(|| TopicLanes {
            lanes: vec![None; info.partitions.len()],
            sticky: rand::random_range(0..info.partitions.len().max(1) as u16),
            sticky_left: self.shared.options.batch_bytes,
            info,
        });
        Ok(())
    }
}

impl TopicLanes {
    fn choose(&mut self, record: &ProducerRecord, batch_bytes: usize) -> Result<u16, ClientError> {
        let count = self.lanes.len();
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of_key(key, count as u16),
            (None, None) => self.stick(record.encoded_len(), batch_bytes),
        };
        if usize::from(partition) < count {
            return Ok(partition);
        }
        Err(ClientError::UnknownPartition { topic: self.info.name.clone(), partition, count })
    }

    /// Stays with a partition for a batch, then goes on to the next: full batches, even load.
    fn stick(&mut self, bytes: usize, batch_bytes: usize) -> u16 {
        if self.sticky_left < bytes {
            self.sticky = (self.sticky + 1) % (self.lanes.len().max(1) as u16);
            self.sticky_left = batch_bytes;
        }
        self.sticky_left = self.sticky_left.saturating_sub(bytes);
        self.sticky
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        for lane in self.all_lanes() {
            lane.close();
        }
    }
}
