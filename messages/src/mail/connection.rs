//! Messages that a connection actor receives.

use crate::error_code::ErrorCode;
use crate::id::{LeaderEpoch, TopicPartition};
use bytes::Bytes;
use std::time::Duration;

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Offset of its first record; `u64::MAX` for a duplicate whose place is no longer known.
    pub base_offset: u64,
    /// Records in it.
    pub record_count: u32,
    /// It had been stored before.
    pub duplicate: bool,
}

/// Where a partition stands, sent with every answer that concerns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionBounds {
    /// Epoch of the leader that answers.
    pub leader_epoch: LeaderEpoch,
    /// First offset that can be read.
    pub log_start_offset: u64,
    /// First offset that cannot be read yet.
    pub high_watermark_offset: u64,
}

/// What a fetch found.
#[derive(Debug)]
pub enum FetchedData<S> {
    /// Records from memory.
    Tail {
        /// Plain (or, when asked for, stored) record bytes.
        data: Bytes,
        /// Where to read on.
        next_offset: u64,
        /// Records that start in `data`.
        record_count: u32,
        /// CRC-32 of `data`.
        crc: u32,
        /// Timestamp of the newest batch in `data`, ns; 0 when unknown.
        timestamp_ns: u64,
    },
    /// Records in segments, to be read by a reader thread.
    Segments(S),
    /// Nothing below the high watermark at this offset.
    Empty,
    /// The offset lies past the high watermark.
    BeyondEnd,
}

/// The answer to one part of a request.
#[derive(Debug)]
pub enum Answer<S> {
    /// To a produce request.
    Produced(Result<Produced, ErrorCode>),
    /// To a fetch.
    Fetched {
        /// Which part of the request.
        part: u16,
        /// The partition read.
        partition: TopicPartition,
        /// Its bounds, and what was found.
        result: Result<(PartitionBounds, FetchedData<S>), ErrorCode>,
    },
    /// To a look-up that memory could answer: offset, record number, timestamp.
    LookedUp(Result<(u64, u64, u64), ErrorCode>),
    /// To a look-up that needs a reader thread.
    LookUpSegments(S, crate::mail::ingestion::OffsetQuery),
}

impl<S> Answer<S> {
    /// Whether the request failed.
    pub fn is_error(&self) -> bool {
        match self {
            Self::Produced(result) => result.is_err(),
            Self::Fetched { result, .. } => result.is_err(),
            Self::LookedUp(result) => result.is_err(),
            Self::LookUpSegments(..) => false,
        }
    }
}

/// One answer with the number of its request.
#[derive(Debug)]
pub struct Reply<S> {
    /// The request's number on its connection.
    pub request: u64,
    /// The answer.
    pub answer: Answer<S>,
}

/// Answers of a shard to one connection, in the order they became known.
#[derive(Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct Replies<S: 'static> {
    /// The shard's index.
    pub shard: u16,
    /// The answers.
    pub replies: Vec<Reply<S>>,
    /// The shard had no free buffer for everything it was sent: producers should slow down.
    pub pressed: bool,
    /// When they became known, as time since the process started.
    pub known_at: Duration,
}

/// A shard's ingestion actor restarted: requests sent to it before are answered "outcome unknown, retriable".
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct ShardRestarted {
    /// The shard's index.
    pub shard: u16,
}
