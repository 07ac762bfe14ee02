//! Stages of traced requests: what cores tell of them, and what telemetry makes spans of. Pure: times are those that cores
//! are given, and ids are derived from the ids of the spans above.

pub mod batches;
pub mod epochs;
mod label;
mod sampling;

pub use label::GroupLabel;
pub use sampling::RequestTraces;

use epochs::{EpochCause, PromiseKind};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use lance_messages::wire::TraceContext;
use std::time::Duration;

/// A part of a traced request's way, over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageSpan {
    /// The span that this one belongs to; one of zeroes where the trace begins here.
    pub parent: TraceContext,
    /// Its own id, where others were told of it.
    pub span_id: Option<[u8; 8]>,
    /// What it was.
    pub stage: Stage,
    /// The partition concerned, where it is one.
    pub partition: Option<TopicPartition>,
    /// When it began, as time since the process started.
    pub started: Duration,
    /// When it was over; `None`: at the moment this is heard of.
    pub ended: Option<Duration>,
    /// Why it came to nothing.
    pub error: Option<StageError>,
}

/// Why a stage came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageError {
    /// The request was answered with this.
    Refused(ErrorCode),
    /// The connection ended first.
    Closed,
    /// It was not heard of again.
    TimedOut,
}

/// Where a read found its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadSource {
    /// In the tail ring.
    Memory,
    /// In segments.
    Segments,
}

/// What a member of a group asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupOperation {
    /// To become a member.
    Join,
    /// To be told its part, as it is again and again.
    Heartbeat,
    /// To be a member no more, or not for a while.
    Leave,
    /// To store how far the group is.
    Commit,
}

/// What a stage was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A produce request, from its frame until its ack is handed to the socket.
    Publish {
        /// Records, as the client says.
        records: u32,
        /// Bytes of the payload.
        bytes: u32,
    },
    /// A fetch, from its frame until the socket has taken the last byte of the answer.
    Receive {
        /// How many partitions it asked for.
        partitions: u16,
        /// Records in the answer.
        records: u32,
        /// Data bytes in the answer.
        bytes: u64,
    },
    /// From the frame until the batch has its place in the log.
    Append {
        /// Records.
        records: u32,
        /// Bytes of them.
        bytes: u32,
        /// Offset of the first; `u64::MAX` for a duplicate whose place is no longer known.
        offset: u64,
        /// It had been stored before.
        duplicate: bool,
    },
    /// A request of a consumer group's member, or of a tool, from its frame until its answer is handed to the socket.
    Group {
        /// What it asks for.
        operation: GroupOperation,
        /// The group.
        group: GroupLabel,
    },
    /// From when the coordinator takes a request until what it answers is durable.
    Coordinate {
        /// The group.
        group: GroupLabel,
    },
    /// From its place in the log until the disk has the group.
    Queue,
    /// Until the group is written.
    Write {
        /// The disk does not tell write and sync apart: both are of the same time.
        with_sync: bool,
    },
    /// Until the group is durable.
    Sync {
        /// See `Write`.
        with_write: bool,
    },
    /// From sending the batch to a follower until its ack.
    Replicate {
        /// The follower.
        to: NodeId,
    },
    /// On a follower: from the leader's request until the batch is durable and confirmed.
    AppendReplica {
        /// Bytes of the batch.
        bytes: u64,
    },
    /// From its place in the log until a quorum has it.
    Quorum,
    /// From the answer until the ack's turn has come and it is handed to the socket.
    Ack,
    /// A fetch at the end of the log, until there is something to read or its time is up.
    Wait,
    /// Finding what answers a fetch.
    Read {
        /// Where.
        source: ReadSource,
        /// Data bytes.
        bytes: u64,
    },
    /// Writing the answer to the socket.
    Send {
        /// Data bytes.
        bytes: u64,
    },
    /// From opening an epoch of a partition until it has a leader, as the leader of the metadata sees it.
    Election {
        /// The epoch.
        epoch: LeaderEpoch,
        /// Who leads in it.
        leader: NodeId,
        /// Who led before.
        before: Option<NodeId>,
        /// Why it was opened.
        cause: EpochCause,
    },
    /// From asking a replica to promise an epoch until its promise is durable.
    Promise {
        /// The epoch.
        epoch: LeaderEpoch,
        /// What it said.
        kind: PromiseKind,
        /// Where its log ends, durably.
        durable_end: Option<u64>,
    },
    /// From the choice of a leader until it serves, or stopped.
    Epoch {
        /// The epoch.
        epoch: LeaderEpoch,
        /// Whether it serves.
        serves: bool,
    },
    /// Until the metadata have a leader again, as that leader sees it.
    MetadataElection {
        /// Raft term.
        term: u64,
        /// The leader.
        leader: NodeId,
    },
}

impl StageSpan {
    /// A stage below `parent` that is over now.
    pub fn until_now(parent: TraceContext, stage: Stage, partition: TopicPartition, started: Duration) -> Self {
        Self { parent, span_id: None, stage, partition: Some(partition), started, ended: None, error: None }
    }
}
