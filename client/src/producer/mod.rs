//! Sends records: batches them by partition, keeps batches in order, tries again.

mod batch;
mod delivery;
mod lane;
mod lane_task;
mod options;
mod stats;
mod topics;

use crate::client::Client;
use crate::error::{ClientError, TrySendError};
use crate::links::Links;
use crate::record::ProducerRecord;
use delivery::Callback;
use lance_messages::wire::MAX_PAYLOAD_BYTES;
use stats::Counters;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;
use topics::Topics;

pub use delivery::{Delivery, DeliveryFuture};
pub use options::{Acks, ProducerOptions};
pub use stats::ProducerStats;

/// Room a frame keeps beside the records: trace context and compression prefix.
const FRAME_ROOM: usize = 64;
/// Least time between two questions about topics.
const LEAST_REFRESH: Duration = Duration::from_millis(100);

/// Sends records. Clones are the same producer.
///
/// Records of one partition are stored in the order in which they were taken. Dropping the last clone lets what was taken
/// finish in the background, as long as the runtime runs: [`Producer::flush`] and [`Producer::close`] wait for it.
///
/// ```no_run
/// use lance_client::{Client, ClientOptions, ProducerOptions, ProducerRecord};
///
/// # async fn example() -> Result<(), lance_client::ClientError> {
/// let client = Client::connect(ClientOptions::new("127.0.0.1:1992")?).await?;
/// let producer = client.producer(ProducerOptions::default());
/// for number in 0..1000 {
///     // Taken, and waits only while too much is under way.
///     producer.send(ProducerRecord::new("events", format!("event {number}"))).await?;
/// }
/// producer.close().await;
/// assert_eq!(producer.stats().failed_records, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// What clones share: with the last one the producer goes.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    client: Client,
    options: ProducerOptions,
    links: Links,
    topics: Topics,
    counters: Counters,
    /// Bytes of records that may still be taken.
    budget: Arc<Semaphore>,
    budget_bytes: usize,
    closed: AtomicBool,
    refreshes: AtomicBool,
    next_lane: AtomicU32,
}

impl Producer {
    pub(crate) fn new(client: Client, options: ProducerOptions) -> Self {
        let budget_bytes = options.buffer_bytes.clamp(1, Semaphore::MAX_PERMITS);
        let counters = Counters::default();
        let links = Links::counted(client.clone(), options.idempotent, counters.throttled());
        let shared = Shared {
            client,
            options,
            links,
            topics: Topics::default(),
            counters,
            budget: Arc::new(Semaphore::new(budget_bytes)),
            budget_bytes,
            closed: AtomicBool::new(false),
            refreshes: AtomicBool::new(false),
            next_lane: AtomicU32::new(0),
        };
        Self { handle: Arc::new(Handle { shared: Arc::new(shared) }) }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Takes a record; waits while too many bytes are under way. The delivery can be awaited, or dropped.
    ///
    /// ```no_run
    /// use lance_client::{Producer, ProducerRecord};
    ///
    /// # async fn example(producer: &Producer) -> Result<(), lance_client::ClientError> {
    /// let record = ProducerRecord::new("orders", "12 €").with_key("customer 7");
    /// let delivery = producer.send(record).await?.await?;
    /// println!("partition {}, offset {:?}", delivery.partition, delivery.offset);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, record: ProducerRecord) -> Result<DeliveryFuture, ClientError> {
        self.take(record, None).await
    }

    /// As [`Producer::send`]; `done` is called once with what became of the record, in the order of its partition.
    ///
    /// It runs where batches are sent: it must not block. After an error of this method it is not called.
    ///
    /// ```no_run
    /// use lance_client::{Producer, ProducerRecord};
    ///
    /// # async fn example(producer: &Producer) -> Result<(), lance_client::ClientError> {
    /// let record = ProducerRecord::new("events", "hello");
    /// producer.send_with(record, |outcome| println!("{outcome:?}")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_with(
        &self,
        record: ProducerRecord,
        done: impl FnOnce(Result<Delivery, ClientError>) + Send + 'static,
    ) -> Result<(), ClientError> {
        self.take(record, Some(Box::new(done))).await.map(drop)
    }

    async fn take(&self, record: ProducerRecord, callback: Option<Callback>) -> Result<DeliveryFuture, ClientError> {
        let shared = self.shared();
        let bytes = shared.check(&record)?;
        let permit = match shared.try_reserve(bytes) {
            Ok(permit) => permit,
            Err(_) => shared.reserve(bytes).await?,
        };
        let lane = match shared.topics.lane(shared, &record, bytes) {
            Ok(Some(lane)) => lane,
            // The topic may have got partitions that nobody told of.
            Ok(None) | Err(ClientError::UnknownPartition { .. }) => {
                shared.learn(&record.topic).await?;
                let missing = || ClientError::UnknownTopic { topic: record.topic.to_string() };
                shared.topics.lane(shared, &record, bytes)?.ok_or_else(missing)?
            }
            Err(error) => return Err(error),
        };
        shared.check_open()?;
        lane.push(&record, bytes, permit, shared.options.batch_bytes, callback)
    }

    /// Takes a record without waiting, or gives it back: when too many bytes are under way, and when nothing is known of
    /// the topic yet, which [`Producer::partitions_of`] asks about.
    ///
    /// ```no_run
    /// use lance_client::{Producer, ProducerRecord};
    ///
    /// # async fn example(producer: &Producer) -> Result<(), lance_client::ClientError> {
    /// producer.partitions_of("events").await?;
    /// match producer.try_send(ProducerRecord::new("events", "hello")) {
    ///     Ok(_delivery) => {}
    ///     Err(refused) if refused.is_full() => println!("dropped: {:?}", refused.into_record()),
    ///     Err(refused) => return Err(refused.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_send(&self, record: ProducerRecord) -> Result<DeliveryFuture, TrySendError> {
        let taken = self.try_take(&record);
        taken.map_err(|error| TrySendError { record: Box::new(record), error })
    }

    fn try_take(&self, record: &ProducerRecord) -> Result<DeliveryFuture, ClientError> {
        let shared = self.shared();
        let bytes = shared.check(record)?;
        let permit = shared.try_reserve(bytes)?;
        let not_ready = || ClientError::TopicNotReady { topic: record.topic.to_string() };
        let lane = shared.topics.lane(shared, record, bytes)?.ok_or_else(not_ready)?;
        lane.push(record, bytes, permit, shared.options.batch_bytes, None)
    }

    /// How many partitions a topic has; asks the server when nothing is known of it, which creates it as
    /// [`create_topics`](ProducerOptions::create_topics) says.
    pub async fn partitions_of(&self, topic: &str) -> Result<u16, ClientError> {
        let shared = self.shared();
        if shared.topics.partitions_of(topic).is_none() {
            shared.learn(topic).await?;
        }
        let missing = || ClientError::UnknownTopic { topic: topic.to_owned() };
        shared.topics.partitions_of(topic).ok_or_else(missing)
    }

    /// Waits until everything taken so far was delivered or failed. What is taken meanwhile goes its way.
    pub async fn flush(&self) {
        for lane in self.shared().topics.all_lanes() {
            lane.flush().await;
        }
    }

    /// Takes no more records, and waits until those taken were delivered or failed: within the delivery time-out each of
    /// them has its outcome.
    pub async fn close(&self) {
        self.shared().close();
        self.flush().await;
    }

    /// What it did so far.
    ///
    /// ```no_run
    /// # fn example(producer: &lance_client::Producer) {
    /// let stats = producer.stats();
    /// println!("{} records in {} batches, {} sent again", stats.records, stats.batches, stats.retries);
    /// # }
    /// ```
    pub fn stats(&self) -> ProducerStats {
        let shared = self.shared();
        let in_flight_bytes = shared.budget_bytes.saturating_sub(shared.budget.available_permits());
        shared.counters.snapshot(in_flight_bytes as u64)
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn check_open(&self) -> Result<(), ClientError> {
        if self.is_closed() { Err(ClientError::Closed { what: "producer" }) } else { Ok(()) }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.budget.close();
        self.topics.all_lanes().iter().for_each(|lane| lane.close());
    }

    fn next_lane(&self) -> u32 {
        self.next_lane.fetch_add(1, Ordering::Relaxed)
    }

    /// How long a batch may take.
    fn delivery_timeout(&self) -> Duration {
        self.options.delivery_timeout.unwrap_or(self.client.options().delivery_timeout)
    }

    /// Bytes of a record that can be sent.
    fn check(&self, record: &ProducerRecord) -> Result<usize, ClientError> {
        self.check_open()?;
        let bytes = record.encoded_len();
        let max_bytes = MAX_PAYLOAD_BYTES as usize - FRAME_ROOM;
        if bytes > max_bytes {
            return Err(ClientError::RecordTooLarge { bytes, max_bytes });
        }
        Ok(bytes)
    }

    /// A record larger than the whole budget takes all of it.
    fn permits(&self, bytes: usize) -> u32 {
        bytes.min(self.budget_bytes) as u32
    }

    fn try_reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ClientError> {
        let reserved = Arc::clone(&self.budget).try_acquire_many_owned(self.permits(bytes));
        reserved.map_err(|refused| match refused {
            TryAcquireError::Closed => ClientError::Closed { what: "producer" },
            TryAcquireError::NoPermits => ClientError::BufferFull { buffer_bytes: self.budget_bytes },
        })
    }

    async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ClientError> {
        if !self.options.linger.is_zero() {
            // Nothing more can join the batches that linger.
            self.topics.all_lanes().iter().for_each(|lane| lane.hurry());
        }
        let reserved = Arc::clone(&self.budget).acquire_many_owned(self.permits(bytes)).await;
        reserved.map_err(|_| ClientError::Closed { what: "producer" })
    }

    async fn learn(self: &Arc<Self>, name: &str) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.delivery_timeout();
        let info = self.client.await_topic(name, self.options.create_topics, deadline).await?;
        self.topics.learn(name, info.partitions.len(), self.options.batch_bytes);
        if !self.refreshes.swap(true, Ordering::Relaxed) {
            let every = self.client.options().metadata_max_age.max(LEAST_REFRESH);
            let weak: Weak<Shared> = Arc::downgrade(self);
            self.client.runtime().spawn(topics::keep_fresh(weak, every));
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}
