//! Why a log refuses an append, or fails for good.

use super::Damage;
use crate::disk::DiskError;
use lance_messages::batch::BatchError;
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

/// Why a leader's batch was not appended; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplicaAppendError {
    /// No write buffer is free; retriable with the same batch.
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
    /// It does not continue the log.
    #[error("batch {field} is {found}, the log ends at {expected}")]
    Chain {
        /// Which of its numbers.
        field: &'static str,
        /// What its header says.
        found: u64,
        /// What the log asks for.
        expected: u64,
    },
    /// A batch of an epoch older than the log's last.
    #[error("batch of leader epoch {got} behind one of epoch {last}")]
    StaleEpoch {
        /// The log's.
        last: LeaderEpoch,
        /// The one that came.
        got: LeaderEpoch,
    },
    /// The header's bytes are no header of this partition.
    #[error("batch at log position {position}: {reason}")]
    Header {
        /// Where it was to go.
        position: u64,
        /// What is wrong with it.
        reason: BatchError,
    },
    /// The header's bytes say something else than the header, or more than a header can.
    #[error("batch at log position {position}: its header and the header's bytes differ")]
    HeaderDiffers {
        /// Where it was to go.
        position: u64,
    },
    /// Another number of bytes than the header announces.
    #[error("batch at log position {position}: {found} bytes of records where its header announces {expected}")]
    Length {
        /// Where it was to go.
        position: u64,
        /// Bytes there are.
        found: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// The records are not those that the leader stored.
    #[error("batch at log position {position}: records checksum {stored:#010x}, its bytes give {computed:#010x}")]
    Records {
        /// Where it was to go.
        position: u64,
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The first batch of a log that does not start a segment: the log has to begin where a segment of the leader does.
    #[error("batch at log position {position} is the first of the log and does not start a segment")]
    NoSegmentStart {
        /// Where it was to go.
        position: u64,
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
