//! What applying a command yields: facts for everyone, and an answer for who proposed it.

use super::feature::FeatureLevel;
pub use super::refusal::MetadataRefusal;
use super::refusal::PartitionRefusal;
use super::tee::{TeeProgress, TeeRefusal};
use super::topic::{ReplicaIncarnation, ReplicationMode};
use lance_messages::id::{LeaderEpoch, NodeId, ProducerId, TeeId, TopicId, TopicPartition};

/// The outcome of one applied command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What is now so, in order.
    pub events: Vec<MetadataEvent>,
    /// For who proposed it.
    pub answer: Result<MetadataAnswer, MetadataRefusal>,
}

/// A fact, the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataEvent {
    /// A node has started, for the first time or again.
    NodeRegistered {
        /// The node.
        node: NodeId,
        /// Its present incarnation.
        incarnation: u64,
        /// Its present boot number.
        boot_number: u64,
    },
    /// A topic exists.
    TopicCreated {
        /// Its id.
        topic: TopicId,
        /// Partitions 0..this.
        partitions: u16,
    },
    /// A topic is gone for ever.
    TopicDeleted {
        /// Its id.
        topic: TopicId,
        /// The name it had.
        name: String,
        /// Partitions 0..this are to be dropped.
        partitions: u16,
    },
    /// A topic has more partitions.
    PartitionsAdded {
        /// Its id.
        topic: TopicId,
        /// The first new one.
        first: u16,
        /// How many there are now.
        partitions: u16,
    },
    /// The limits of retention changed.
    RetentionSet {
        /// Its id.
        topic: TopicId,
        /// 0 = unlimited.
        max_age_secs: u64,
        /// 0 = unlimited.
        max_bytes: u64,
    },
    /// Nobody leads this partition until `LeaderChosen`; its replicas are asked for promises.
    EpochOpened {
        /// The partition.
        partition: TopicPartition,
        /// The epoch.
        epoch: LeaderEpoch,
    },
    /// A partition has a leader, and Q = R.
    LeaderChosen {
        /// The partition.
        partition: TopicPartition,
        /// The epoch it leads in.
        epoch: LeaderEpoch,
        /// The node.
        leader: NodeId,
        /// The replica incarnation it was chosen with.
        incarnation: ReplicaIncarnation,
        /// Another boot of that node refuses the role.
        boot_number: u64,
        /// The version of the in-quorum set.
        in_quorum_version: u32,
    },
    /// The in-quorum set of a partition changed while its leader stays.
    InQuorumChanged {
        /// The partition.
        partition: TopicPartition,
        /// The leader's epoch.
        epoch: LeaderEpoch,
        /// The whole set, in order of node.
        in_quorum: Vec<NodeId>,
        /// Its version.
        in_quorum_version: u32,
    },
    /// A replica counts from now on, in this incarnation only.
    ReplicaAdmitted {
        /// The partition.
        partition: TopicPartition,
        /// The node.
        node: NodeId,
        /// The incarnation.
        incarnation: ReplicaIncarnation,
    },
    /// A partition is held by other nodes than before; the in-quorum set changed with it.
    ReplicasChanged {
        /// The partition.
        partition: TopicPartition,
        /// The leader's epoch.
        epoch: LeaderEpoch,
        /// All nodes that hold a copy now, preferred leader first.
        replicas: Vec<NodeId>,
        /// The version of the replica set.
        replicas_version: u32,
        /// The in-quorum set, in order of node.
        in_quorum: Vec<NodeId>,
        /// Its version.
        in_quorum_version: u32,
        /// Who holds a copy no longer and drops it.
        leaver: Option<NodeId>,
    },
    /// A partition shall be held by other nodes, or shall not after all.
    ReplicasPlanned {
        /// The partition.
        partition: TopicPartition,
    },
    /// A topic shall have more or fewer copies.
    ReplicationFactorSet {
        /// The topic.
        topic: TopicId,
    },
    /// A node is to be emptied, or no longer.
    DrainingSet {
        /// The node.
        node: NodeId,
        /// Whether it is.
        draining: bool,
    },
    /// An unknown node may register.
    NodeAllowed {
        /// The node.
        node: NodeId,
    },
    /// A node, or the allowance of one, is gone.
    NodeRemoved {
        /// The node.
        node: NodeId,
    },
    /// A topic's producers are acked otherwise from the epochs on that open with it.
    TopicModeSet {
        /// The topic.
        topic: TopicId,
        /// The mode.
        mode: ReplicationMode,
    },
    /// A partition goes on with one copy, by order; a `LeaderChosen` follows. The other copies refill as new incarnations.
    PartitionRecovered {
        /// The partition.
        partition: TopicPartition,
        /// The epoch it goes on in.
        epoch: LeaderEpoch,
        /// The node whose copy it goes on with.
        node: NodeId,
        /// First log position that may be lost.
        lost_from: u64,
        /// Log position behind the last one that may be lost.
        lost_to: u64,
    },
    /// A topic has more or fewer tee rules.
    TeesChanged {
        /// The topic.
        topic: TopicId,
    },
    /// Users or rules have changed.
    SecurityChanged,
    /// The cluster uses what came with this level.
    FeatureLevelRaised {
        /// The level.
        level: FeatureLevel,
    },
    /// Everything may have changed: a snapshot replaced the state.
    StateReplaced,
}

/// What the proposer hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataAnswer {
    /// The node is registered.
    NodeRegistered,
    /// The topic exists, by this request or by its first try.
    TopicCreated {
        /// Its id.
        topic: TopicId,
    },
    /// The topic is gone.
    TopicDeleted {
        /// Its id.
        topic: TopicId,
    },
    /// The topic is as asked.
    TopicAltered {
        /// Its id.
        topic: TopicId,
    },
    /// A producer's identity.
    Producer {
        /// Its id.
        producer: ProducerId,
        /// Its epoch; lower ones are fenced.
        epoch: u16,
    },
    /// How many of the epochs asked for were opened; the others were stale.
    EpochsOpened {
        /// How many.
        opened_count: usize,
    },
    /// How many of the leaders proposed were chosen; the others were stale.
    LeadersChosen {
        /// How many.
        chosen_count: usize,
    },
    /// Which changes of in-quorum sets or admissions came about.
    PartitionsChanged {
        /// Those that did, in the order asked.
        changed: Vec<TopicPartition>,
        /// Those that did not, and why.
        refused: Vec<(TopicPartition, PartitionRefusal)>,
    },
    /// The in-quorum or replica set of a partition is as asked.
    PartitionChanged {
        /// The partition.
        partition: TopicPartition,
    },
    /// The node is as asked: draining, allowed, removed.
    NodeChanged {
        /// The node.
        node: NodeId,
    },
    /// The partition goes on.
    PartitionRecovered {
        /// The partition.
        partition: TopicPartition,
        /// The epoch it goes on in.
        epoch: LeaderEpoch,
    },
    /// The level that the cluster has now.
    FeatureLevel {
        /// The level.
        level: FeatureLevel,
    },
    /// No id below those asked for is given out.
    IdsRestored,
    /// The rule exists.
    TeeAdded {
        /// Its id.
        tee: TeeId,
    },
    /// The rule is gone.
    TeeRemoved {
        /// Its id.
        tee: TeeId,
    },
    /// What became of claims.
    TeesClaimed {
        /// Of each, in the order asked: the claim to store checkpoints under, and the last one.
        claimed: Vec<Result<TeeProgress, TeeRefusal>>,
    },
    /// What became of checkpoints.
    TeesAdvanced {
        /// Of each, in the order asked.
        advanced: Vec<Result<(), TeeRefusal>>,
    },
    /// Users and rules are as asked.
    SecurityChanged,
}
