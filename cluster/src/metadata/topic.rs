//! What the metadata knows of a topic, a partition and a node.

pub use lance_messages::id::ReplicaIncarnation;
use lance_messages::id::{LeaderEpoch, NodeId};
use serde::{Deserialize, Serialize};

/// When a producer is acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReplicationMode {
    /// Eventual: when the leader's disk has it.
    L1,
    /// Strong: when a quorum has it.
    L2,
}

/// What a topic was asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    /// How many partitions, at least 1.
    pub partitions: u16,
    /// How many nodes hold a copy of each partition, at least 1.
    pub replication_factor: u8,
    /// When a producer is acked.
    pub mode: ReplicationMode,
    /// Records older than this may go; 0 keeps them.
    pub max_age_secs: u64,
    /// Bytes a partition may hold before its oldest segments go; 0 keeps them.
    pub max_bytes: u64,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self { partitions: 1, replication_factor: 1, mode: ReplicationMode::L1, max_age_secs: 0, max_bytes: 0 }
    }
}

/// Who leads a partition in its current epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionLeader {
    /// The node.
    pub node: NodeId,
    /// The replica incarnation it was chosen with.
    pub incarnation: ReplicaIncarnation,
    /// The start of its process: another boot refuses the role.
    pub boot_number: u64,
}

/// One copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The node that holds it.
    pub node: NodeId,
    /// The only incarnation whose answers and acks count.
    pub admitted: ReplicaIncarnation,
}

/// What is decided about one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// The nodes that hold a copy, R; its length is M.
    pub replicas: Vec<Replica>,
    /// The latest epoch opened; 0 when none was.
    pub epoch: LeaderEpoch,
    /// Who leads in that epoch; `None` until it is chosen.
    pub leader: Option<PartitionLeader>,
    /// The replicas whose acks count, Q ⊆ R, in order of node.
    pub in_quorum: Vec<NodeId>,
    /// Raised by every change of `in_quorum`.
    pub in_quorum_version: u32,
}

impl PartitionState {
    /// The replica on `node`.
    pub fn replica(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// Whether `node` holds a copy.
    pub fn has_replica(&self, node: NodeId) -> bool {
        self.replica(node).is_some()
    }
}

/// A topic that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicState {
    /// Its name, unique among those that exist.
    pub name: String,
    /// Seconds since the Unix epoch, by the clock of the node that proposed it.
    pub created_at_secs: u64,
    /// 1, and one more for each earlier topic of this name that is still remembered.
    pub topic_epoch: u32,
    /// The nonce of the request that created it, so that its retry is told so; 0 for none.
    pub create_request: u64,
    /// What it was asked to be, as altered since.
    pub config: TopicConfig,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionState>,
}

/// A node that has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Id of the present life of its data directory.
    pub incarnation: u64,
    /// Number of its latest registered start.
    pub boot_number: u64,
    /// Made anew at each start: tells a repeated registration from a rolled-back disk.
    pub nonce: u64,
    /// Where clients and peers reach it, host:port.
    pub address: String,
    /// Incarnations it had before; none of them may come back.
    pub retired_incarnations: Vec<u64>,
}

/// What is remembered of a deleted topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The name it had.
    pub name: String,
    /// Its `topic_epoch`, which the next topic of this name passes.
    pub topic_epoch: u32,
    /// Seconds since the Unix epoch.
    pub deleted_at_secs: u64,
}
