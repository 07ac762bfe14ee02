//! Why a log refuses an append, or fails for good.

use super::Damage;
use crate::disk::DiskError;
use lance_messages::id::{LeaderEpoch, TopicPartition};
use std::sync::Arc;
use thiserror::Error;

/// A failed sync or write: the partition acks nothing more on this node until the process restarts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{partition} stopped at log position {durable_end}: {cause}")]
pub struct Latch {
    /// Whose log.
    pub partition: TopicPartition,
    /// What was durable then.
    pub durable_end: u64,
    /// What failed.
    pub cause: Arc<DiskError>,
}

/// Why a batch was not appended; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// No write buffer is free; retriable.
    #[error("no write buffer is free for {bytes} bytes")]
    PoolExhausted {
        /// Bytes of the batch.
        bytes: u64,
    },
    /// A write or sync failed before.
    #[error(transparent)]
    Latched(Latch),
    /// Recovery found damage.
    #[error("the partition is offline: {0}")]
    Offline(Arc<Damage>),
    /// More bytes than a batch may have.
    #[error("a batch of {bytes} bytes is over the {limit} allowed")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Batches of the producer before this one are missing.
    #[error("sequence {got} where {expected} comes next")]
    OutOfOrderSequence {
        /// What comes next.
        expected: u32,
        /// What came.
        got: u32,
    },
    /// A newer incarnation of the producer has written.
    #[error("producer epoch {got} is fenced by epoch {current}")]
    FencedProducer {
        /// The newest epoch seen.
        current: u16,
        /// The one that came.
        got: u16,
    },
    /// A batch of an epoch older than the log's last.
    #[error("leader epoch {got} is behind the log's {last}")]
    StaleEpoch {
        /// The log's.
        last: LeaderEpoch,
        /// The one that came.
        got: LeaderEpoch,
    },
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiskFailed {
    /// The disk is full; all data is kept and the step can be taken again once there is space.
    #[error("{partition}: {pending_bytes} bytes wait for space: {cause}")]
    NoSpace {
        /// Whose log.
        partition: TopicPartition,
        /// Bytes that wait.
        pending_bytes: u64,
        /// What failed.
        cause: Arc<DiskError>,
    },
    /// The partition has stopped.
    #[error(transparent)]
    Latched(Latch),
}
