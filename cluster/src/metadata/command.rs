//! What may be decided: `[version u8][bincode of MetadataCommand]`; a variant's place in the enum is its number on disk, so new
//! ones go to the end. The version is 4 for commands of feature level 1 and 5 for those since: a program that knows less refuses
//! them by their version.

use super::feature::FeatureLevel;
use super::tee::{TeeAdvance, TeeClaim, TeeRule};
use super::topic::{ReplicaIncarnation, ReplicationMode, TopicConfig};
use crate::codec::{self, CodecError};
use lance_messages::id::{LeaderEpoch, NodeId, ProducerId, TeeId, TopicId, TopicPartition};
use lance_messages::security::{AclRule, Credentials};
use serde::{Deserialize, Serialize};

/// Version byte before every command of feature level 1.
pub const COMMAND_VERSION: u8 = 4;
/// Version byte before every later command.
pub const LATER_COMMAND_VERSION: u8 = 5;
const WHAT: &str = "metadata command";

/// One decision proposed to the metadata plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetadataCommand {
    /// A node has started.
    RegisterNode {
        /// The node.
        node: NodeId,
        /// Id of the life of its data directory, not 0.
        incarnation: u64,
        /// Number of this start, synced before it is proposed.
        boot_number: u64,
        /// Made anew at each start.
        nonce: u64,
        /// Where clients and peers reach it, host:port.
        address: String,
        /// What it may lose together with others, at most 255 bytes; empty for none.
        rack: String,
    },
    /// Creates a topic; the name "default" gets id 0.
    CreateTopic {
        /// Its name.
        name: String,
        /// What it shall be.
        config: TopicConfig,
        /// The proposer's clock.
        created_at_secs: u64,
        /// A nonce that a retry repeats; 0 for none.
        request: u64,
    },
    /// Deletes a topic for ever.
    DeleteTopic {
        /// The topic.
        topic: TopicId,
        /// The proposer's clock.
        deleted_at_secs: u64,
    },
    /// Changes what is named and leaves the rest.
    AlterTopic {
        /// The topic.
        topic: TopicId,
        /// The new number of partitions, not below the present one.
        partitions: Option<u16>,
        /// The new retention age.
        max_age_secs: Option<u64>,
        /// The new retention size.
        max_bytes: Option<u64>,
    },
    /// Sets both limits of retention; 0 = unlimited.
    SetRetention {
        /// The topic.
        topic: TopicId,
        /// The new retention age.
        max_age_secs: u64,
        /// The new retention size.
        max_bytes: u64,
    },
    /// Allocates a producer id, or raises the epoch of one.
    InitProducer {
        /// The id and epoch held so far.
        existing: Option<(ProducerId, u16)>,
        /// The proposer's clock.
        now_secs: u64,
    },
    /// Ends the leadership of these partitions and opens the next epoch of each.
    OpenEpoch {
        /// Each judged alone.
        partitions: Vec<EpochOpening>,
    },
    /// Names the leaders of epochs that are open; the first choice wins.
    LeaderChosen {
        /// Each judged alone.
        partitions: Vec<LeaderChoice>,
    },
    /// The leaders of these partitions no longer wait for `node`: it leaves their in-quorum sets.
    Evict {
        /// The node.
        node: NodeId,
        /// Each with its epoch and in-quorum version, judged alone.
        partitions: Vec<(TopicPartition, LeaderEpoch, u32)>,
    },
    /// `node` holds everything below the high watermark of these partitions again: it enters their in-quorum sets.
    Rejoin {
        /// The node.
        node: NodeId,
        /// Each with the replica's incarnation, the epoch and the in-quorum version, judged alone.
        partitions: Vec<(TopicPartition, ReplicaIncarnation, LeaderEpoch, u32)>,
    },
    /// These replicas of `node` are clean again: from now on their present incarnation counts.
    Admit {
        /// The node.
        node: NodeId,
        /// Each with the replica's incarnation, the epoch and the in-quorum version, judged alone.
        partitions: Vec<(TopicPartition, ReplicaIncarnation, LeaderEpoch, u32)>,
    },
    /// A spare takes the place of an in-quorum replica at once.
    SwapIn {
        /// The partition.
        partition: TopicPartition,
        /// The epoch of the leader that proposes it.
        epoch: LeaderEpoch,
        /// The in-quorum version it changes.
        in_quorum_version: u32,
        /// Who leaves the in-quorum set.
        out: NodeId,
        /// Who enters it.
        into: NodeId,
        /// The admitted incarnation of who enters.
        incarnation: ReplicaIncarnation,
    },
    /// Adds, removes or exchanges one copy.
    ReplaceReplica {
        /// The partition.
        partition: TopicPartition,
        /// The epoch of the leader that proposes it.
        epoch: LeaderEpoch,
        /// The version of the replica set it changes.
        replicas_version: u32,
        /// The whole new replica set R′, preferred leader first.
        replicas: Vec<NodeId>,
        /// The node of R′ that is not in R, and the incarnation its copy is admitted with; `None` when one only leaves.
        newcomer: Option<(NodeId, ReplicaIncarnation)>,
    },
    /// Begins or ends the emptying of a node.
    SetDraining {
        /// The node.
        node: NodeId,
        /// Whether it is to be emptied.
        draining: bool,
    },
    /// A node that nobody knows may register.
    AllowNode {
        /// The node.
        node: NodeId,
        /// Where it is reached, host:port.
        address: String,
    },
    /// A node that holds no copies leaves for good.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// Sets when producers are acked; opens an epoch of every partition.
    SetTopicMode {
        /// The topic.
        topic: TopicId,
        /// The new mode.
        mode: ReplicationMode,
    },
    /// Lets a partition that too few clean replicas are left of go on with what one of them holds.
    RecoverPartition(PartitionRecovery),
    /// Tells a producer that comes back whether it may go on; changes nothing unless its id was never given out.
    BindProducer {
        /// The id it holds.
        producer: ProducerId,
        /// The epoch it holds.
        epoch: u16,
    },
    /// Begins a change of who holds a partition, or, with no replicas, ends one that is not to be made.
    PlanReplicas {
        /// The partition.
        partition: TopicPartition,
        /// The version of the replica set it starts from.
        replicas_version: u32,
        /// The whole new replica set R′, preferred leader first; empty to stay with R.
        replicas: Vec<NodeId>,
    },
    /// A node shall leave for good: its copies move to others first.
    SetLeaving {
        /// The node.
        node: NodeId,
    },
    /// Sets how many nodes hold a copy of each partition of a topic; copies are added and removed one by one.
    SetReplicationFactor {
        /// The topic.
        topic: TopicId,
        /// The new number, at least 1.
        replication_factor: u8,
    },
    /// The committed records of a topic go on to another one as well.
    AddTee {
        /// The rule.
        rule: TeeRule,
        /// The id of this cluster: a target that has it is one of its own topics.
        own_cluster: u64,
    },
    /// A rule ends, and what is known of its progress.
    RemoveTee {
        /// The topic.
        topic: TopicId,
        /// The rule.
        tee: TeeId,
    },
    /// Leaders are going to forward these partitions: whoever did so before stores no checkpoint any more.
    ClaimTees {
        /// Each judged alone.
        claims: Vec<TeeClaim>,
    },
    /// The targets have acked everything below these places.
    AdvanceTees {
        /// Each judged alone.
        advances: Vec<TeeAdvance>,
    },
    /// A new user.
    AddUser {
        /// Its name.
        name: String,
        /// How it proves itself.
        credentials: Credentials,
    },
    /// A user proves itself in another way; what is absent stays as it is.
    SetCredentials {
        /// Its name.
        name: String,
        /// What is new.
        credentials: Credentials,
    },
    /// A user goes.
    RemoveUser {
        /// Its name.
        name: String,
    },
    /// A rule about who may do what.
    AddAcl {
        /// The rule.
        rule: AclRule,
    },
    /// A rule ends.
    RemoveAcl {
        /// The rule.
        rule: AclRule,
    },
    /// A node leads nothing, over any number of its starts, or may lead again.
    SetMaintenance {
        /// The node.
        node: NodeId,
        /// Whether it begins or ends.
        on: bool,
    },
    /// Makes a topic as it was backed up.
    RestoreTopic(TopicRestoration),
    /// No topic or producer made from now on has an id below these.
    RestoreIds {
        /// The least id of a topic.
        next_topic_id: u32,
        /// The least id of a producer.
        next_producer_id: u64,
    },
    /// Every registered node understands this level: the cluster uses it from now on.
    RaiseFeatureLevel {
        /// The level.
        level: FeatureLevel,
    },
}

/// A topic as it was backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRestoration {
    /// The id it had, which it keeps unless another topic has or had it here.
    pub topic: TopicId,
    /// Its name.
    pub name: String,
    /// What it shall be.
    pub config: TopicConfig,
    /// When it was made, seconds since the Unix epoch.
    pub created_at_secs: u64,
    /// The offset and the record number at which each partition begins.
    pub beginnings: Vec<(u64, u64)>,
}

/// The order to go on with one copy of a partition, whatever the others had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRecovery {
    /// The partition.
    pub partition: TopicPartition,
    /// Its epoch, which is open and has no leader.
    pub epoch: LeaderEpoch,
    /// The node whose copy it goes on with.
    pub node: NodeId,
    /// The present incarnation of that copy.
    pub incarnation: ReplicaIncarnation,
    /// Whether who orders it accepts that records are lost; otherwise it is refused.
    pub accept_data_loss: bool,
    /// Who orders it, 1..=255 bytes.
    pub requested_by: String,
    /// The proposer's clock.
    pub recovered_at_secs: u64,
    /// First log position that may be lost.
    pub lost_from: u64,
    /// Log position behind the last one that may be lost.
    pub lost_to: u64,
}

/// One partition's next epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochOpening {
    /// The partition.
    pub partition: TopicPartition,
    /// One more than its epoch when this was proposed.
    pub epoch: LeaderEpoch,
}

/// One partition's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderChoice {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch it shall lead in.
    pub epoch: LeaderEpoch,
    /// The node.
    pub leader: NodeId,
    /// The replica incarnation that answered.
    pub incarnation: ReplicaIncarnation,
    /// The boot number that answered.
    pub boot_number: u64,
}

impl MetadataCommand {
    /// The bytes that go into the Raft log.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let later = self.level() > FeatureLevel::FIRST;
        codec::encode(WHAT, if later { LATER_COMMAND_VERSION } else { COMMAND_VERSION }, self)
    }

    /// Reads a command back.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::decode_up_to(FeatureLevel::NEWEST, bytes)
    }

    /// As [`MetadataCommand::decode`], as a program that understands nothing newer than `level`.
    pub fn decode_up_to(level: FeatureLevel, bytes: &[u8]) -> Result<Self, CodecError> {
        let version = match bytes.first() {
            Some(&LATER_COMMAND_VERSION) if level > FeatureLevel::FIRST => LATER_COMMAND_VERSION,
            _ => COMMAND_VERSION,
        };
        codec::decode(WHAT, version, bytes)
    }
}
