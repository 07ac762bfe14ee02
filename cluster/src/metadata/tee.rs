//! Tee rules: by which the committed records of a topic go on to a topic of this cluster or another one, and how far each
//! of their partitions is.
//!
//! A checkpoint holds everything that makes a repeated batch recognisable, and changes as a whole: the place in the source,
//! the producer at the target, and the number that the batch at that place has there. Who leads a source partition *claims*
//! it first, which yields the last checkpoint and voids every earlier claim, so that a deposed leader stores none any more.

use lance_messages::id::{LeaderEpoch, ProducerId, TeeId, TopicId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most rules.
pub const MAX_TEES: usize = 1000;
/// Most partitions that are forwarded, over all rules.
pub const MAX_TEE_PLACES: usize = 200_000;
/// Most addresses of a target.
pub const MAX_TEE_ADDRESSES: usize = lance_messages::wire::tee::MAX_TEE_ADDRESSES;

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeeTarget {
    /// Nodes of the target's cluster, host:port.
    pub addresses: Vec<String>,
    /// The topic there.
    pub topic: String,
    /// The cluster that was there when the rule was added, and no other one is written to.
    pub cluster: u64,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeeRule {
    /// Whose records go on.
    pub topic: TopicId,
    /// Where to.
    pub target: TeeTarget,
    /// Most bytes a second; 0 = unlimited.
    pub bytes_per_second: u64,
    /// Records stored at or after this time go on, ns since the Unix epoch; 0 = all.
    pub from_ns: u64,
    /// Seconds since the Unix epoch, by the clock of the node that proposed it.
    pub created_at_secs: u64,
}

/// Everything before this place was acked by the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeeCheckpoint {
    /// Log position of the next batch to forward.
    pub position: u64,
    /// Offset of its first plain byte.
    pub offset: u64,
    /// Number of its first record.
    pub record: u64,
    /// The id of the target topic: one made anew has another, and a greater one.
    pub topic: TopicId,
    /// The target partition.
    pub partition: u16,
    /// Who writes there, by an id of the target's cluster; `None`: a new producer has to be taken, and what is said of the
    /// target means nothing.
    pub producer: Option<TeeProducer>,
    /// The number of the next batch among those of this producer; its low 32 bits are the sequence.
    pub sequence: u64,
}

/// A producer at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeeProducer {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: u16,
}

/// How far a rule is with one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeeProgress {
    /// Raised by every claim; only the newest may store checkpoints.
    pub claim: u64,
    /// The last checkpoint.
    pub checkpoint: Option<TeeCheckpoint>,
}

/// Who leads a partition is going to forward it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeeClaim {
    /// The rule.
    pub tee: TeeId,
    /// The partition of its topic.
    pub partition: u16,
    /// The epoch it is led in.
    pub epoch: LeaderEpoch,
}

/// A checkpoint to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeeAdvance {
    /// The rule.
    pub tee: TeeId,
    /// The partition of its topic.
    pub partition: u16,
    /// The claim it is stored under.
    pub claim: u64,
    /// The checkpoint.
    pub checkpoint: TeeCheckpoint,
}

/// Why a claim or a checkpoint came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TeeRefusal {
    /// No such rule, or no such partition of its topic.
    #[error("there is no such rule or partition")]
    NotFound,
    /// The partition is led in another epoch, or by nobody.
    #[error("epoch {given} is not led: the present one is {current}")]
    NotLed {
        /// The epoch given.
        given: LeaderEpoch,
        /// The epoch it is in.
        current: LeaderEpoch,
    },
    /// Somebody has claimed the partition since.
    #[error("claim {given} is void: the newest is {current}")]
    StaleClaim {
        /// The claim given.
        given: u64,
        /// The newest.
        current: u64,
    },
    /// The limit.
    #[error("{MAX_TEE_PLACES} partitions are forwarded already")]
    TooMany,
}
