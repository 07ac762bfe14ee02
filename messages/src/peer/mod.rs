//! What nodes say to each other about the data of partitions; how it looks on a socket is `wire::peer`'s affair.
//!
//! Every position is a log position. A leader sends [`AppendRequest`]s and [`TruncateRequest`]s, a follower answers each
//! with [`AppendResponse`]s: an answer speaks for the follower's log, not for one request.

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicPartition};
use crate::wire::TraceContext;
use bytes::Bytes;

/// Which start of which node speaks; proven when its connection was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The node.
    pub node: NodeId,
    /// Id of the life of its data directory.
    pub incarnation: u64,
    /// Number of this start of its process.
    pub boot_number: u64,
}

/// What a connection between nodes carries: heartbeats never wait behind data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// Metadata, heartbeats, promises.
    Control,
    /// Batches and their acks.
    Data,
}

/// A batch boundary of a log in all three counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPlace {
    /// Log position.
    pub position: u64,
    /// Offset of the first plain byte behind it.
    pub offset: u64,
    /// Number of the first record behind it.
    pub record: u64,
}

/// One batch, byte for byte as the leader stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaBatch {
    /// The header's bytes.
    pub raw_header: [u8; BATCH_HEADER_BYTES],
    /// What they say; checked for the partition.
    pub header: BatchHeader,
    /// The stored records.
    pub records: Bytes,
}

/// A batch of an append that is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedBatch {
    /// Which of its batches.
    pub index: u32,
    /// The leader's span of sending it.
    pub context: TraceContext,
}

/// Batches of a leader for one follower; without batches a probe that carries the high watermark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendRequest {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch the leader leads in.
    pub epoch: LeaderEpoch,
    /// Where the first batch begins: the follower's log must end there, or hold the batch already.
    pub prev_end: u64,
    /// Epoch of the batch that ends there; 0 at the beginning of a log.
    pub prev_epoch: LeaderEpoch,
    /// The leader's high watermark.
    pub high_watermark: u64,
    /// First position the leader still has: the follower may drop what lies below.
    pub log_start: u64,
    /// The batches, in order and without a gap.
    pub batches: Vec<ReplicaBatch>,
    /// Those of them that are traced, in order; for the follower's spans and nothing else.
    pub traced: Vec<TracedBatch>,
}

impl AppendRequest {
    /// Log position behind the last batch.
    pub fn end_position(&self) -> u64 {
        self.batches.last().map_or(self.prev_end, |batch| batch.header.end_position())
    }
}

/// Which state of a follower's log a truncation answers: it is dropped unless all of it still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DivergedLog {
    /// The replica's incarnation.
    pub incarnation: ReplicaIncarnation,
    /// Epoch of its last batch.
    pub last_epoch: LeaderEpoch,
    /// Its log end.
    pub log_end: u64,
}

/// What a leader has a diverged follower do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TruncateTo {
    /// Cut everything from this position on.
    Position(u64),
    /// Nothing of it can stay: begin an empty log here.
    Restart(LogPlace),
}

/// What a log that begins anew is told of what lay below its start, and nobody has any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BelowStart {
    /// Epoch of the batch that ended there, and the position of that epoch's first batch; where the leader knows it.
    pub last_epoch: Option<(LeaderEpoch, u64)>,
    /// The producers that had written by then, as the log store writes them; empty when there are none.
    pub producers: Bytes,
}

impl BelowStart {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.last_epoch.is_none() && self.producers.is_empty()
    }
}

/// The answer to exactly one `Diverged`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TruncateRequest {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch the leader leads in.
    pub epoch: LeaderEpoch,
    /// The state it answers.
    pub answers: DivergedLog,
    /// What to do.
    pub to: TruncateTo,
    /// For a log that begins anew; empty for a cut.
    pub below: BelowStart,
}

/// What a leader asks of a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaRequest {
    /// Take these batches.
    Append(AppendRequest),
    /// Cut the log.
    Truncate(TruncateRequest),
}

impl ReplicaRequest {
    /// The partition.
    pub fn partition(&self) -> TopicPartition {
        match self {
            Self::Append(append) => append.partition,
            Self::Truncate(truncate) => truncate.partition,
        }
    }
}

/// What a follower says of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Everything below is synced, and its promise still equals the epoch.
    Appended {
        /// First position not synced.
        durable_end: u64,
        /// 99th percentile of its recent syncs, µs; 0 when unknown.
        sync_p99_micros: u32,
    },
    /// It has promised a higher epoch.
    Fenced {
        /// Which.
        promised: LeaderEpoch,
    },
    /// Its log does not end where the request begins.
    Diverged {
        /// Epoch of its last batch; 0 of an empty log.
        last_epoch: LeaderEpoch,
        /// First position of its log.
        log_start: u64,
        /// Its log end.
        log_end: u64,
        /// Where each epoch of its log begins, in order.
        history: Vec<(LeaderEpoch, u64)>,
    },
    /// It can take nothing at the moment (opening its log, no space, stopped): to be tried again later.
    Unavailable,
}

/// A follower's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendResponse {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch of the request, or, once synced, of the leader it still follows.
    pub epoch: LeaderEpoch,
    /// The incarnation of the replica.
    pub incarnation: ReplicaIncarnation,
    /// What it says.
    pub outcome: AppendOutcome,
}
