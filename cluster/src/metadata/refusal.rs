//! Why a command changed nothing, or left a partition as it was.

use super::feature::FeatureLevel;
use super::topic::ReplicaIncarnation;
use lance_messages::id::{LeaderEpoch, NodeId, ProducerId, TeeId, TopicId, TopicPartition};
use thiserror::Error;

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MetadataRefusal {
    /// Some node would not understand it.
    #[error(
        "This needs feature level {needed}, and the cluster has {level}: every node must run a version that knows it"
    )]
    FeatureLevel {
        /// The level that is needed.
        needed: FeatureLevel,
        /// That of the cluster.
        level: FeatureLevel,
    },
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
    /// No instance of this producer was given that epoch.
    #[error("Producer {producer} has epoch {current}: epoch {given} was never given out")]
    ProducerUnknown {
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
    /// No such node has registered.
    #[error("Node {node} is not registered")]
    NodeNotFound {
        /// The node.
        node: NodeId,
    },
    /// Nobody has allowed this node to join.
    #[error("Node {node} waits until it is allowed: lnc cluster add-node")]
    NodeNotAllowed {
        /// The node.
        node: NodeId,
    },
    /// The node is a member already.
    #[error("Node {node} is registered already")]
    NodeExists {
        /// The node.
        node: NodeId,
    },
    /// Data has to be moved off before a node may go.
    #[error("Node {node} still holds {replica_count} replicas")]
    NodeHoldsReplicas {
        /// The node.
        node: NodeId,
        /// How many.
        replica_count: u32,
    },
    /// A cluster has at least one node.
    #[error("Node {node} is the last one")]
    LastNode {
        /// The node.
        node: NodeId,
    },
    /// No such rule of that topic.
    #[error("There is no tee rule {tee} of that topic")]
    TeeNotFound {
        /// The rule.
        tee: TeeId,
    },
    /// There is one for the same place.
    #[error("Tee rule {tee} goes there already")]
    TeeExists {
        /// The rule.
        tee: TeeId,
    },
    /// Records would come back to where they came from.
    #[error("Records of topic '{topic}' would come back to it, through {}", through.join(" → "))]
    TeeCycle {
        /// The topic.
        topic: String,
        /// The topics on their way.
        through: Vec<String>,
    },
    /// The limit.
    #[error("There are {limit} tee rules already")]
    TooManyTees {
        /// The limit.
        limit: usize,
    },
    /// A rule that cannot be meant.
    #[error("A tee rule with an invalid {what}")]
    InvalidTee {
        /// What is wrong, and what it may be.
        what: &'static str,
    },
    /// There is a user of this name.
    #[error("User '{name}' exists already")]
    UserExists {
        /// The name.
        name: String,
    },
    /// There is none.
    #[error("There is no user '{name}'")]
    UserNotFound {
        /// The name.
        name: String,
    },
    /// There is no such rule.
    #[error("There is no such rule")]
    RuleNotFound,
    /// A user or rule that cannot be meant.
    #[error("Invalid {what}")]
    InvalidSecurity {
        /// What is wrong, and what it may be.
        what: &'static str,
    },
    /// The limit.
    #[error("There are {limit} {what} already")]
    TooManyOf {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A change of one partition was refused.
    #[error("Partition {partition}: {reason}")]
    Partition {
        /// The partition.
        partition: TopicPartition,
        /// Why.
        reason: PartitionRefusal,
    },
}

/// Why a change of one partition came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PartitionRefusal {
    /// No such partition, or no longer.
    #[error("there is no such partition")]
    NotFound,
    /// Proposed in another epoch than the present one.
    #[error("epoch {given} is not the present epoch {current}")]
    StaleEpoch {
        /// The epoch given.
        given: LeaderEpoch,
        /// The epoch it is in.
        current: LeaderEpoch,
    },
    /// The epoch is open, and nobody leads in it.
    #[error("nobody leads in epoch {epoch} yet")]
    NoLeader {
        /// The epoch.
        epoch: LeaderEpoch,
    },
    /// Another change came first.
    #[error("version {given} is not the present version {current}")]
    StaleVersion {
        /// The version given.
        given: u32,
        /// The version it has.
        current: u32,
    },
    /// The node holds no copy.
    #[error("node {node} holds no replica")]
    NotReplica {
        /// The node.
        node: NodeId,
    },
    /// A leader is neither evicted, admitted nor removed.
    #[error("node {node} leads it")]
    IsLeader {
        /// The node.
        node: NodeId,
    },
    /// The node is in the in-quorum set already.
    #[error("node {node} is in the in-quorum set")]
    InQuorum {
        /// The node.
        node: NodeId,
    },
    /// The node is not in the in-quorum set.
    #[error("node {node} is not in the in-quorum set")]
    NotInQuorum {
        /// The node.
        node: NodeId,
    },
    /// Too few would be left to commit anything.
    #[error("{left_count} replicas would be left to count, and a quorum is {quorum}")]
    BelowQuorum {
        /// How many would be left.
        left_count: usize,
        /// How many are needed.
        quorum: usize,
    },
    /// A node that is being emptied keeps its place until its leaderships have moved.
    #[error("node {node} is draining")]
    Draining {
        /// The node.
        node: NodeId,
    },
    /// Only the admitted incarnation counts.
    #[error("incarnation {given:?} of node {node} is not the admitted {admitted:?}")]
    NotAdmitted {
        /// The node.
        node: NodeId,
        /// The incarnation given.
        given: ReplicaIncarnation,
        /// The one that counts.
        admitted: ReplicaIncarnation,
    },
    /// An incarnation that its node or a damage has replaced, or that counts already.
    #[error("incarnation {given:?} of node {node} is stale")]
    StaleIncarnation {
        /// The node.
        node: NodeId,
        /// The incarnation given.
        given: ReplicaIncarnation,
    },
    /// No such node has registered.
    #[error("node {node} is not registered")]
    NodeUnknown {
        /// The node.
        node: NodeId,
    },
    /// A replica set changes by one node at a time, names none twice, and is never empty.
    #[error("{added_count} replicas added and {removed_count} removed is not a change by one")]
    NotOneChange {
        /// How many of the new set are not in the old one.
        added_count: usize,
        /// How many of the old set are not in the new one.
        removed_count: usize,
    },
    /// Only the set that is planned may follow.
    #[error("this replica set is not the planned one")]
    NotPlanned,
    /// The newcomer named is not the one the new set adds.
    #[error("the newcomer named is not the one that the new replica set adds")]
    WrongNewcomer,
    /// It has a leader: nothing has to be recovered.
    #[error("node {leader} leads it in epoch {epoch}")]
    HasLeader {
        /// The leader.
        leader: NodeId,
        /// The epoch.
        epoch: LeaderEpoch,
    },
    /// Recovery is an order to lose data, and says so.
    #[error("recovery needs --accept-data-loss")]
    DataLossNotAccepted,
    /// An audit entry names who ordered it and a range that does not end before it begins.
    #[error("the audit entry has an invalid {what}")]
    InvalidAudit {
        /// What is wrong.
        what: &'static str,
    },
}
