//! How a producer batches, and what it promises.

use crate::partitioner::Partitioner;
use lance_messages::wire::compression::Codec;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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
///
/// ```
/// use lance_client::{Codec, ProducerOptions};
/// use std::time::Duration;
///
/// let options = ProducerOptions {
///     linger: Duration::from_millis(5),
///     compression: Some(Codec::Zstd),
///     ..ProducerOptions::default()
/// };
/// assert!(options.idempotent);
/// ```
#[derive(Clone)]
pub struct ProducerOptions {
    /// A batch leaves when it has this many bytes of records.
    pub batch_bytes: usize,
    /// How long a batch waits for more records; zero: only while `max_in_flight` batches are under way.
    pub linger: Duration,
    /// Batches under way for each partition. The server recognises the last five of an idempotent producer: it has no more.
    pub max_in_flight: usize,
    /// Bytes of records that may wait for acks; [`Producer::send`](crate::Producer::send) waits beyond.
    pub buffer_bytes: usize,
    /// Compresses batches, where the server can take that.
    pub compression: Option<Codec>,
    /// What deliveries wait for.
    pub acks: Acks,
    /// Whether the server recognises a batch it has stored before.
    pub idempotent: bool,
    /// Whether a missing topic is created, if the server does that.
    pub create_topics: bool,
    /// Longest time from the first record of a batch to its outcome; `None`: that of the client.
    pub delivery_timeout: Option<Duration>,
    /// Chooses partitions of records that name none; `None`: by the key, and without one a partition for each batch.
    pub partitioner: Option<Arc<dyn Partitioner>>,
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
            delivery_timeout: None,
            partitioner: None,
        }
    }
}

impl fmt::Debug for ProducerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerOptions")
            .field("batch_bytes", &self.batch_bytes)
            .field("linger", &self.linger)
            .field("max_in_flight", &self.max_in_flight)
            .field("buffer_bytes", &self.buffer_bytes)
            .field("compression", &self.compression)
            .field("acks", &self.acks)
            .field("idempotent", &self.idempotent)
            .field("create_topics", &self.create_topics)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("partitioner", &self.partitioner.is_some())
            .finish()
    }
}
