//! The replicated state machine: the same commands in the same order give the same state on every node.

use super::answer::{Applied, MetadataAnswer, MetadataEvent, MetadataRefusal};
use super::command::MetadataCommand;
use super::feature::FeatureLevel;
use super::placement::Loads;
use super::security::Security;
use super::state_nodes::Registration;
use super::tee::{TeeProgress, TeeRule};
use super::topic::{NodeState, PartitionState, RecoveryAudit, RemovedNode, Tombstone, TopicState};
use lance_messages::id::{NodeId, ProducerId, TeeId, TopicId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most partitions of all topics together.
pub const MAX_PARTITIONS: u32 = 200_000;
/// How many recoveries that accepted a loss are remembered.
pub const MAX_RECOVERIES: usize = 10_000;
/// Longest address or rack of a node, and name of who orders a recovery, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 255;
/// How many deleted topics are remembered by name; that they are deleted is known for ever.
pub const MAX_TOMBSTONES: usize = 10_000;

/// Everything the cluster has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataState {
    pub(super) applied_index: u64,
    pub(super) next_topic_id: u32,
    pub(super) next_producer_id: u64,
    pub(super) nodes: BTreeMap<NodeId, NodeState>,
    pub(super) allowed: BTreeMap<NodeId, String>,
    pub(super) removed: BTreeMap<NodeId, RemovedNode>,
    pub(super) topics: BTreeMap<TopicId, TopicState>,
    pub(super) tombstones: BTreeMap<TopicId, Tombstone>,
    pub(super) producers: BTreeMap<ProducerId, BumpedProducer>,
    pub(super) producers_swept_at_secs: u64,
    pub(super) recoveries: Vec<RecoveryAudit>,
    pub(super) next_tee_id: u32,
    pub(super) tees: BTreeMap<TeeId, TeeRule>,
    pub(super) tee_progress: BTreeMap<(TeeId, u16), TeeProgress>,
    pub(super) security: Arc<Security>,
    pub(super) later: Later,
    // Derived from the above, and rebuilt when a snapshot is read.
    pub(super) topic_ids: BTreeMap<String, TopicId>,
    pub(super) loads: Loads,
}

/// A producer whose epoch was raised; the others have epoch 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct BumpedProducer {
    pub(super) epoch: u16,
    pub(super) bumped_at_secs: u64,
}

/// What is known since feature level 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Later {
    pub(super) feature_level: FeatureLevel,
    /// Nodes that lead nothing until an operator says otherwise.
    pub(super) maintenance: BTreeSet<NodeId>,
    /// Offset and record number at which restored partitions begin, of those that do not begin at 0.
    pub(super) beginnings: BTreeMap<(TopicId, u16), (u64, u64)>,
}

/// What one kind of command yields: facts are pushed, the answer is returned.
pub(super) type Outcome = Result<MetadataAnswer, MetadataRefusal>;

impl Default for MetadataState {
    fn default() -> Self {
        Self {
            applied_index: 0,
            next_topic_id: 1,
            next_producer_id: 1,
            nodes: BTreeMap::new(),
            allowed: BTreeMap::new(),
            removed: BTreeMap::new(),
            topics: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            producers: BTreeMap::new(),
            producers_swept_at_secs: 0,
            recoveries: Vec::new(),
            next_tee_id: 1,
            tees: BTreeMap::new(),
            tee_progress: BTreeMap::new(),
            security: Arc::default(),
            later: Later::default(),
            topic_ids: BTreeMap::new(),
            loads: Loads::default(),
        }
    }
}

impl MetadataState {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the entry at `index`; a refused command changes nothing but the applied index.
    pub fn apply(&mut self, index: u64, command: &MetadataCommand) -> Applied {
        if index <= self.applied_index {
            let answer = Err(MetadataRefusal::AlreadyApplied { index, applied_index: self.applied_index });
            return Applied { events: Vec::new(), answer };
        }
        self.applied_index = index;
        let mut events = Vec::new();
        let answer = self.dispatch(command, &mut events);
        Applied { events, answer }
    }

    /// Notes that the entry at `index` holds no command.
    pub fn skip(&mut self, index: u64) {
        self.applied_index = self.applied_index.max(index);
    }

    fn dispatch(&mut self, command: &MetadataCommand, events: &mut Vec<MetadataEvent>) -> Outcome {
        self.check_level(command)?;
        match command {
            &MetadataCommand::RegisterNode { node, incarnation, boot_number, nonce, ref address, ref rack } => {
                self.register_node(&Registration { node, incarnation, boot_number, nonce, address, rack }, events)
            }
            MetadataCommand::CreateTopic { name, config, created_at_secs, request } => {
                self.create_topic(name, config, *created_at_secs, *request, events)
            }
            &MetadataCommand::DeleteTopic { topic, deleted_at_secs } => {
                self.delete_topic(topic, deleted_at_secs, events)
            }
            &MetadataCommand::AlterTopic { topic, partitions, max_age_secs, max_bytes } => {
                self.alter_topic(topic, partitions, max_age_secs, max_bytes, events)
            }
            &MetadataCommand::SetRetention { topic, max_age_secs, max_bytes } => {
                self.alter_topic(topic, None, Some(max_age_secs), Some(max_bytes), events)
            }
            &MetadataCommand::InitProducer { existing, now_secs } => self.init_producer(existing, now_secs),
            &MetadataCommand::BindProducer { producer, epoch } => self.bind_producer(producer, epoch),
            MetadataCommand::OpenEpoch { partitions } => Ok(self.open_epochs(partitions, events)),
            MetadataCommand::LeaderChosen { partitions } => Ok(self.choose_leaders(partitions, events)),
            MetadataCommand::Evict { node, partitions } => Ok(self.evict(*node, partitions, events)),
            MetadataCommand::Rejoin { node, partitions } => Ok(self.rejoin(*node, partitions, events)),
            MetadataCommand::Admit { node, partitions } => Ok(self.admit(*node, partitions, events)),
            &MetadataCommand::SwapIn { partition, epoch, in_quorum_version, out, into, incarnation } => {
                self.swap_in(partition, (epoch, in_quorum_version), out, (into, incarnation), events)
            }
            &MetadataCommand::ReplaceReplica { partition, epoch, replicas_version, ref replicas, newcomer } => {
                self.replace_replica(partition, (epoch, replicas_version), replicas, newcomer, events)
            }
            MetadataCommand::PlanReplicas { partition, replicas_version, replicas } => {
                self.plan_replicas(*partition, *replicas_version, replicas, events)
            }
            &MetadataCommand::SetLeaving { node } => self.set_leaving(node, events),
            &MetadataCommand::SetReplicationFactor { topic, replication_factor } => {
                self.set_replication_factor(topic, replication_factor, events)
            }
            &MetadataCommand::SetDraining { node, draining } => self.set_draining(node, draining, events),
            MetadataCommand::AllowNode { node, address } => self.allow_node(*node, address, events),
            &MetadataCommand::RemoveNode { node } => self.remove_node(node, events),
            &MetadataCommand::SetTopicMode { topic, mode } => self.set_topic_mode(topic, mode, events),
            MetadataCommand::RecoverPartition(order) => self.recover_partition(order, events),
            MetadataCommand::AddTee { rule, own_cluster } => self.add_tee(rule, *own_cluster, events),
            &MetadataCommand::RemoveTee { topic, tee } => self.remove_tee(topic, tee, events),
            MetadataCommand::ClaimTees { claims } => Ok(self.claim_tees(claims)),
            MetadataCommand::AdvanceTees { advances } => Ok(self.advance_tees(advances)),
            MetadataCommand::AddUser { name, credentials } => self.add_user(name, *credentials, events),
            MetadataCommand::SetCredentials { name, credentials } => self.set_credentials(name, *credentials, events),
            MetadataCommand::RemoveUser { name } => self.remove_user(name, events),
            MetadataCommand::AddAcl { rule } => self.add_acl(rule, events),
            MetadataCommand::RemoveAcl { rule } => self.remove_acl(rule, events),
            &MetadataCommand::SetMaintenance { node, on } => self.set_maintenance(node, on, events),
            MetadataCommand::RestoreTopic(restoration) => self.restore_topic(restoration, events),
            &MetadataCommand::RestoreIds { next_topic_id, next_producer_id } => {
                Ok(self.restore_ids(next_topic_id, next_producer_id))
            }
            &MetadataCommand::RaiseFeatureLevel { level } => Ok(self.raise_feature_level(level, events)),
        }
    }

    /// Index of the last entry applied.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// A topic by id.
    pub fn topic(&self, topic: TopicId) -> Option<&TopicState> {
        self.topics.get(&topic)
    }

    /// A topic's id by name.
    pub fn topic_id(&self, name: &str) -> Option<TopicId> {
        self.topic_ids.get(name).copied()
    }

    /// All topics, in order of id.
    pub fn topics(&self) -> impl Iterator<Item = (TopicId, &TopicState)> {
        self.topics.iter().map(|(id, topic)| (*id, topic))
    }

    /// How many topics exist.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions all topics have together.
    pub fn partition_count(&self) -> u32 {
        self.loads.partition_count
    }

    /// One partition.
    pub fn partition(&self, partition: TopicPartition) -> Option<&PartitionState> {
        self.topics.get(&partition.topic)?.partitions.get(usize::from(partition.partition))
    }

    /// Changes a partition that exists; what is counted of it follows.
    pub(super) fn change_partition(&mut self, partition: TopicPartition, change: impl FnOnce(&mut PartitionState)) {
        let topic = self.topics.get_mut(&partition.topic);
        if let Some(state) = topic.and_then(|topic| topic.partitions.get_mut(usize::from(partition.partition))) {
            self.loads.uncount(state);
            change(state);
            self.loads.count(state);
        }
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &PartitionState)> {
        self.topics.iter().flat_map(|(id, topic)| {
            (0..=u16::MAX).zip(&topic.partitions).map(|(number, state)| (TopicPartition::new(*id, number), state))
        })
    }

    /// A node by id.
    pub fn node(&self, node: NodeId) -> Option<&NodeState> {
        self.nodes.get(&node)
    }

    /// All nodes that ever registered, in order of id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &NodeState)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// Whether `topic` existed once and is gone: whatever is left of it on a disk may be removed.
    pub fn is_deleted(&self, topic: TopicId) -> bool {
        topic.0 != 0 && topic.0 < self.next_topic_id && !self.topics.contains_key(&topic)
    }

    /// What is remembered of a deleted topic; the oldest are forgotten past [`MAX_TOMBSTONES`].
    pub fn tombstone(&self, topic: TopicId) -> Option<&Tombstone> {
        self.tombstones.get(&topic)
    }

    /// The id the next topic gets.
    pub fn next_topic_id(&self) -> TopicId {
        TopicId(self.next_topic_id)
    }

    /// The id the next producer gets.
    pub fn next_producer_id(&self) -> ProducerId {
        ProducerId(self.next_producer_id)
    }

    /// Whether the partition's leader may still act: its node is in the same incarnation and boot as when it was chosen.
    pub fn leader_is_current(&self, partition: &PartitionState) -> bool {
        partition.leader.is_some_and(|leader| {
            self.nodes.get(&leader.node).is_some_and(|node| {
                node.incarnation == leader.incarnation.node && node.boot_number == leader.boot_number
            })
        })
    }
}
