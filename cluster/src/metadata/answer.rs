//! What applying a command yields: facts for everyone, and an answer for who proposed it.

use super::topic::ReplicaIncarnation;
use lance_messages::id::{LeaderEpoch, NodeId, ProducerId, TopicId, TopicPartition};
use thiserror::Error;

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
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MetadataRefusal {
    /// No name at all.
    #[error("Topic name required")]
    TopicNameRequired,
    /// The name breaks the rules.
    #[error("Topic name '{name}' must be 1 to 255 of A-Z a-z 0-9 . _ - and neither . nor ..")]
    InvalidTopicName {
        /// The name, cut to 255 characters.
        name: String,
    },
    /// The name is taken.
    #[error("Topic '{name}' already exists")]
    TopicExists {
        /// The name.
        name: String,
        /// Who has it.
        topic: TopicId,
    },
    /// No such topic, or no longer.
    #[error("Topic not found")]
    TopicNotFound {
        /// The id asked for.
        topic: TopicId,
    },
    /// Topic 0 would have to come back at its next use, and no topic does.
    #[error("The default topic (id 0) cannot be deleted")]
    DefaultTopicStays,
    /// A topic has 1..=65,535 partitions.
    #[error("A topic needs at least 1 partition")]
    NoPartitions,
    /// A topic never loses partitions.
    #[error("Topic {topic} has {present} partitions, which cannot become {asked}")]
    FewerPartitions {
        /// The topic.
        topic: TopicId,
        /// How many it has.
        present: u16,
        /// How many were asked for.
        asked: u16,
    },
    /// A replication factor of 0, or above the number of nodes.
    #[error("Replication factor {asked} needs as many nodes; {registered} are registered")]
    NotEnoughNodes {
        /// The factor asked for.
        asked: u8,
        /// How many nodes are known.
        registered: usize,
    },
    /// The cluster's limit.
    #[error("{asked} more partitions would make {total}, above the limit of {limit}")]
    TooManyPartitions {
        /// How many more.
        asked: u32,
        /// How many that would make.
        total: u32,
        /// The limit.
        limit: u32,
    },
    /// Every id has been given out.
    #[error("No {what} is left: ids are never reused")]
    IdsExhausted {
        /// Which kind.
        what: &'static str,
    },
    /// Node ids, incarnations and boot numbers begin at 1; an address has 1..=255 bytes.
    #[error("Node {node} registers with an invalid {what}")]
    InvalidRegistration {
        /// The node.
        node: NodeId,
        /// What is wrong.
        what: &'static str,
    },
    /// The disk is older than what the cluster has seen of it: it needs a new incarnation.
    #[error("Node {node} registers boot {given}, but boot {registered} was registered: its disk is an older copy")]
    RolledBack {
        /// The node.
        node: NodeId,
        /// The boot number given.
        given: u64,
        /// The boot number known.
        registered: u64,
    },
    /// The node has had a newer life since.
    #[error("Node {node} registers incarnation {incarnation:016x}, which a newer one has replaced")]
    RetiredIncarnation {
        /// The node.
        node: NodeId,
        /// The incarnation given.
        incarnation: u64,
    },
    /// A newer instance of this producer exists.
    #[error("Producer {producer} has epoch {current}, not {given}")]
    ProducerFenced {
        /// The producer.
        producer: ProducerId,
        /// The epoch given.
        given: u16,
        /// The epoch it has.
        current: u16,
    },
    /// This index was applied before.
    #[error("Entry {index} was applied before: the state is at {applied_index}")]
    AlreadyApplied {
        /// The entry's index.
        index: u64,
        /// The state's index.
        applied_index: u64,
    },
}
