//! What the metadata knows of a topic, a partition and a node.

use crate::replica::quorum::quorum_size;
pub use lance_messages::id::ReplicaIncarnation;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
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
    /// Raised by every change of which nodes are in `replicas`.
    pub replicas_version: u32,
    /// The latest epoch opened; 0 when none was.
    pub epoch: LeaderEpoch,
    /// Who leads in that epoch; `None` until it is chosen.
    pub leader: Option<PartitionLeader>,
    /// The replicas whose acks count, Q ⊆ R, in order of node.
    pub in_quorum: Vec<NodeId>,
    /// Raised by every change of `in_quorum`.
    pub in_quorum_version: u32,
    /// The nodes that shall hold a copy next, R′, one change away from R; empty while no change is under way. Who is new
    /// in it is fed, and counts only once it is in `replicas`.
    pub planned: Vec<NodeId>,
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

    /// Whether `node` is in the in-quorum set.
    pub fn is_in_quorum(&self, node: NodeId) -> bool {
        self.in_quorum.contains(&node)
    }

    /// Whether `node` holds a copy, or is being given one.
    pub fn has_or_gets_replica(&self, node: NodeId) -> bool {
        self.has_replica(node) || self.planned.contains(&node)
    }

    /// The node that is being given a copy.
    pub fn newcomer(&self) -> Option<NodeId> {
        self.planned.iter().copied().find(|node| !self.has_replica(*node))
    }

    /// The version of the replica set by which `node` was given its copy; `None` for a node that has none and gets none.
    pub fn copy_version(&self, node: NodeId) -> Option<u32> {
        match self.replica(node) {
            Some(replica) => Some(replica.admitted.copy_version),
            None => self.planned.contains(&node).then_some(self.replicas_version),
        }
    }

    /// How many replicas make a quorum: the majority of M.
    pub fn quorum_size(&self) -> usize {
        quorum_size(self.replicas.len())
    }

    /// How many clean answers elect a leader: any committed batch is on at least one of M − quorum + 1 replicas.
    pub fn election_size(&self) -> usize {
        self.replicas.len() + 1 - self.quorum_size()
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
    /// What it may lose together with others: copies of a partition go to different ones; empty when it names none.
    pub rack: String,
    /// Whether it is being emptied: it leads nothing if another can, and gets no new copies.
    pub draining: bool,
    /// Whether it shall leave for good once its copies are on other nodes.
    pub leaving: bool,
    /// Incarnations it had before; none of them may come back.
    pub retired_incarnations: Vec<u64>,
}

/// What is remembered of a node that was removed: its id may be allowed again, its incarnations never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedNode {
    /// All incarnations it ever had.
    pub retired_incarnations: Vec<u64>,
}

/// One recovery that accepted the loss of data: who ordered it, when, and what was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryAudit {
    /// Index of the entry that committed it.
    pub index: u64,
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch in which it goes on.
    pub epoch: LeaderEpoch,
    /// The node whose copy it goes on with.
    pub node: NodeId,
    /// The life of that copy.
    pub incarnation: ReplicaIncarnation,
    /// Who ordered it.
    pub requested_by: String,
    /// Seconds since the Unix epoch, by the clock of the proposer.
    pub recovered_at_secs: u64,
    /// First log position that may be lost: the durable end of the copy that goes on.
    pub lost_from: u64,
    /// Log position behind the last one known to have existed; equal to `lost_from` when none beyond it is known.
    pub lost_to: u64,
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
