//! `ClusterView`: the committed metadata as connections read it, replaced as a whole when it changes.

use crate::replication::repair::Standing;
use hashbrown::{HashMap, HashSet};
use lance_cluster::metadata::FeatureLevel;
use lance_cluster::metadata::state::MetadataState;
use lance_cluster::metadata::topic::{PartitionState, ReplicationMode, TopicConfig};
use lance_cluster::metadata::{Security, TeeRule};
use lance_messages::id::{LeaderEpoch, NodeId, TeeId, TopicId, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Topics whose names start like this belong to the broker.
pub const INTERNAL_PREFIX: &str = "__";

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicView {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Unix seconds.
    pub created_at: u64,
    /// Counts how often a topic of this name was created.
    pub topic_epoch: u32,
    /// Its configuration.
    pub config: TopicConfig,
    /// Leader and epoch of each partition.
    pub partitions: Vec<(Option<NodeId>, LeaderEpoch)>,
    /// Who holds each partition.
    pub members: Vec<PartitionMembers>,
}

/// Who holds a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionMembers {
    /// The nodes that hold a copy.
    pub replicas: Vec<NodeId>,
    /// Those whose acks count.
    pub in_quorum: Vec<NodeId>,
    /// Raised by every change of `in_quorum`.
    pub in_quorum_version: u32,
    /// Those of them that do not count yet, in the life they are in: they may lack what is committed.
    pub unadmitted: Vec<NodeId>,
    /// The node that is being given a copy.
    pub newcomer: Option<NodeId>,
    /// The start of its process in which the leader was chosen; 0 without one.
    pub leader_boot: u64,
}

impl PartitionMembers {
    fn counts(&self, node: NodeId) -> bool {
        self.in_quorum.contains(&node) && !self.unadmitted.contains(&node)
    }
}

impl TopicView {
    /// Whether an acked record is on a quorum.
    pub fn is_strong(&self) -> bool {
        self.config.mode == ReplicationMode::L2
    }
}

/// The metadata at one moment.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// Every topic.
    pub topics: HashMap<TopicId, TopicView>,
    names: HashMap<String, TopicId>,
    /// Topics of the broker itself, which clients do not see.
    internal: HashMap<String, TopicView>,
    /// Every node and its address.
    pub nodes: Vec<(NodeId, String)>,
    /// Nodes that may register and have not yet, and their addresses.
    pub allowed: Vec<(NodeId, String)>,
    /// Nodes that were members once.
    pub removed: HashSet<NodeId>,
    /// Whether each node was heard of lately; a node that is not named counts as alive.
    pub alive: HashMap<NodeId, bool>,
    /// Nodes that are being emptied.
    pub draining: HashSet<NodeId>,
    /// What all nodes understand, as decided.
    pub feature_level: FeatureLevel,
    /// Nodes that lead nothing until an operator says otherwise; they are draining too.
    pub maintenance: HashSet<NodeId>,
    /// What each node may lose together with others; those that name nothing are left out.
    pub racks: HashMap<NodeId, String>,
    /// Leaders chosen since this node started, of all partitions.
    pub leader_changes: u64,
    /// This node.
    pub node: Option<NodeId>,
    /// The metadata leader, when there is one.
    pub metadata_leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Index of the last applied command.
    pub applied: u64,
    /// The cluster; 0 until it is shown by who knows.
    pub cluster: u64,
    /// The rules by which topics go on to others.
    pub tees: BTreeMap<TeeId, TeeRule>,
    /// Users and rules.
    pub security: Arc<Security>,
    /// Ids from this one on were never given to a topic.
    next_topic: u32,
}

impl ClusterView {
    /// The view of `state` from `node`.
    pub fn new(state: &MetadataState, node: NodeId, metadata_leader: Option<NodeId>, term: u64) -> Self {
        let mut view =
            Self { node: Some(node), metadata_leader, term, applied: state.applied_index(), ..Self::default() };
        view.security = Arc::clone(state.security());
        view.feature_level = state.feature_level();
        view.next_topic = state.next_topic_id().0;
        for (id, known) in state.nodes() {
            if known.draining {
                view.draining.insert(id);
            }
            if state.is_in_maintenance(id) {
                view.maintenance.insert(id);
            }
            if !known.rack.is_empty() {
                view.racks.insert(id, known.rack.clone());
            }
        }
        view.tees = state.tees().map(|(tee, rule)| (tee, rule.clone())).collect();
        view.nodes = state.nodes().map(|(id, node)| (id, node.address.clone())).collect();
        view.allowed = state.allowed_nodes().map(|(id, address)| (id, address.to_owned())).collect();
        view.removed = state.removed_nodes().collect();
        for (id, topic) in state.topics() {
            let partitions = topic
                .partitions
                .iter()
                .map(|partition| (partition.leader.map(|leader| leader.node), partition.epoch))
                .collect();
            view.insert(TopicView {
                id,
                name: topic.name.clone(),
                created_at: topic.created_at_secs,
                topic_epoch: topic.topic_epoch,
                config: topic.config,
                partitions,
                members: topic.partitions.iter().map(|partition| members_of(state, partition)).collect(),
            });
        }
        view
    }

    /// Adds a topic, or replaces the one of its name.
    pub fn insert(&mut self, topic: TopicView) {
        if topic.name.starts_with(INTERNAL_PREFIX) {
            self.internal.insert(topic.name.clone(), topic);
        } else {
            self.names.insert(topic.name.clone(), topic.id);
            self.topics.insert(topic.id, topic);
        }
    }

    /// Whether there is metadata at all: until then nobody can say what exists.
    pub fn is_known(&self) -> bool {
        self.node.is_some()
    }

    /// The topic of this name.
    pub fn topic_by_name(&self, name: &str) -> Option<&TopicView> {
        self.topics.get(self.names.get(name)?)
    }

    /// The internal topic of this name.
    pub fn internal_topic(&self, name: &str) -> Option<TopicId> {
        self.internal.get(name).map(|topic| topic.id)
    }

    /// Whether a topic existed once and is gone: whatever is left of it on a disk may be removed.
    pub fn is_deleted(&self, topic: TopicId) -> bool {
        let exists = self.topics.contains_key(&topic) || self.internal.values().any(|internal| internal.id == topic);
        topic.0 != 0 && topic.0 < self.next_topic && !exists
    }

    /// Who leads a partition; `None` while nobody is known to, or when there is no such partition.
    pub fn leader(&self, partition: TopicPartition) -> Option<NodeId> {
        let internal = || self.internal.values().find(|topic| topic.id == partition.topic);
        let topic = self.topics.get(&partition.topic).or_else(internal)?;
        topic.partitions.get(usize::from(partition.partition)).and_then(|(leader, _)| *leader)
    }

    /// Where clients reach a node.
    pub fn address(&self, node: NodeId) -> Option<&str> {
        self.nodes.iter().find(|(id, _)| *id == node).map(|(_, address)| address.as_str())
    }

    /// Where clients reach the leader of a partition.
    pub fn leader_address(&self, partition: TopicPartition) -> Option<&str> {
        self.address(self.leader(partition)?)
    }

    /// Whether this node is the only one.
    pub fn is_alone(&self) -> bool {
        self.nodes.iter().all(|(id, _)| Some(*id) == self.node)
    }

    /// Whether a node was heard of lately; this one always was.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.node == Some(node) || self.alive.get(&node).copied().unwrap_or(true)
    }

    /// How many partitions `node` leads that another node, alive and not to be emptied, holds a counting copy of.
    pub fn movable_leaderships(&self, node: NodeId) -> usize {
        let able = |other: &NodeId| *other != node && self.is_alive(*other) && !self.draining.contains(other);
        let topics = self.topics.values().chain(self.internal.values());
        let partitions = topics.flat_map(|topic| topic.partitions.iter().zip(&topic.members));
        let led = partitions.filter(|((leader, _), _)| *leader == Some(node));
        led.filter(|(_, members)| members.in_quorum.iter().any(able)).count()
    }

    /// Every partition of every topic, internal ones included.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.topics
            .values()
            .chain(self.internal.values())
            .flat_map(|topic| (0..topic.partitions.len()).map(|number| TopicPartition::new(topic.id, number as u16)))
    }

    /// A topic, internal ones included.
    pub fn any_topic(&self, topic: TopicId) -> Option<&TopicView> {
        self.topics.get(&topic).or_else(|| self.internal.values().find(|internal| internal.id == topic))
    }

    /// Leader and epoch of a partition.
    pub fn leadership(&self, partition: TopicPartition) -> Option<(Option<NodeId>, LeaderEpoch)> {
        self.any_topic(partition.topic)?.partitions.get(usize::from(partition.partition)).copied()
    }

    /// Whether this node leads a partition.
    pub fn leads(&self, partition: TopicPartition) -> bool {
        self.node.is_some() && self.leader(partition) == self.node
    }

    /// Whether this node holds a copy of a partition, or is being given one.
    pub fn holds(&self, partition: TopicPartition) -> bool {
        let members = self.members(partition);
        let own = |members: &PartitionMembers, node| members.replicas.contains(&node) || members.newcomer == Some(node);
        members.is_some_and(|members| self.node.is_some_and(|node| own(members, node)))
    }

    /// Whether this node's copy of a partition counts.
    pub fn is_in_quorum(&self, partition: TopicPartition) -> bool {
        let members = self.members(partition);
        members.is_some_and(|members| self.node.is_some_and(|node| members.counts(node)))
    }

    /// Who serves readers in `rack` better than this node, which is in another one: a node of that rack whose copy counts.
    /// Where there are several, partitions are spread over them.
    pub fn nearer_replica(&self, partition: TopicPartition, rack: &str) -> Option<NodeId> {
        let is_in_rack = |node: &NodeId| self.racks.get(node).is_some_and(|known| known == rack);
        if rack.is_empty() || self.node.as_ref().is_some_and(is_in_rack) {
            return None;
        }
        let serves = |node: &&NodeId| is_in_rack(node) && self.is_alive(**node) && !self.draining.contains(*node);
        let members = self.members(partition)?;
        let counting = members.in_quorum.iter().filter(|node| members.counts(**node));
        let able: Vec<NodeId> = counting.filter(serves).copied().collect();
        able.get(usize::from(partition.partition).checked_rem(able.len())?).copied()
    }

    fn members(&self, partition: TopicPartition) -> Option<&PartitionMembers> {
        self.any_topic(partition.topic)?.members.get(usize::from(partition.partition))
    }

    /// Whether a copy of a partition that is lost here can be had from another node.
    pub fn is_held_elsewhere(&self, partition: TopicPartition) -> bool {
        let members = self.members(partition);
        members.is_some_and(|members| members.replicas.iter().any(|node| Some(*node) != self.node))
    }

    /// How a partition stands of which this node, in its start `boot_number`, holds one of several copies.
    pub fn standing(&self, partition: TopicPartition, boot_number: u64) -> Option<Standing> {
        let (node, members) = (self.node?, self.members(partition)?);
        let (leader, epoch) = self.leadership(partition)?;
        let place = members.replicas.iter().position(|replica| *replica == node)?;
        let others = members.replicas.iter().copied().filter(|other| *other != node);
        let counting: Vec<NodeId> = others.filter(|other| members.counts(*other) && self.is_alive(*other)).collect();
        let successors = counting.iter().copied().filter(|other| !self.draining.contains(other)).collect();
        let leads = |leader: &NodeId| match *leader == node {
            true => members.leader_boot == boot_number,
            false => self.is_alive(*leader),
        };
        let leader = leader.filter(leads);
        let copies = members.replicas.len();
        (copies > 1).then_some(Standing {
            epoch,
            leads: leader.map(|leader| leader == node),
            place,
            copies,
            counting,
            successors,
        })
    }

    /// Topics in the order of their ids.
    pub fn sorted_topics(&self) -> Vec<&TopicView> {
        let mut topics: Vec<&TopicView> = self.topics.values().collect();
        topics.sort_by_key(|topic| topic.id);
        topics
    }
}

fn members_of(state: &MetadataState, partition: &PartitionState) -> PartitionMembers {
    let replicas = partition.replicas.iter().map(|replica| replica.node).collect();
    let unadmitted = partition.replicas.iter().filter(|replica| !state.counts(replica)).map(|replica| replica.node);
    let (in_quorum, unadmitted) = (partition.in_quorum.clone(), unadmitted.collect());
    PartitionMembers {
        replicas,
        in_quorum,
        in_quorum_version: partition.in_quorum_version,
        unadmitted,
        newcomer: partition.newcomer(),
        leader_boot: partition.leader.map_or(0, |leader| leader.boot_number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_sent_to_a_copy_that_counts_in_their_rack_unless_this_node_is_in_it() {
        let nodes = |ids: &[u16]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let members = PartitionMembers {
            replicas: nodes(&[1, 2, 3, 4, 5]),
            in_quorum: nodes(&[1, 2, 3, 5]),
            in_quorum_version: 1,
            unadmitted: nodes(&[5]),
            ..PartitionMembers::default()
        };
        let topic = TopicView {
            id: TopicId(7),
            name: "events".to_owned(),
            created_at: 0,
            topic_epoch: 1,
            config: TopicConfig::default(),
            partitions: vec![(Some(NodeId(1)), LeaderEpoch(1)); 2],
            members: vec![members; 2],
        };
        let racks = [(1, "a"), (2, "b"), (3, "b"), (4, "c"), (5, "d")];
        let racks = racks.map(|(node, rack)| (NodeId(node), rack.to_owned())).into_iter().collect();
        let mut view = ClusterView { node: Some(NodeId(1)), racks, ..ClusterView::default() };
        view.insert(topic);
        let nearer = |view: &ClusterView, number, rack: &str| {
            view.nearer_replica(TopicPartition::new(TopicId(7), number), rack).map(|node| node.0)
        };
        assert_eq!((nearer(&view, 0, "b"), nearer(&view, 1, "b")), (Some(2), Some(3)), "spread over the rack");
        for elsewhere in ["", "a", "c", "d"] {
            assert_eq!(
                nearer(&view, 0, elsewhere),
                None,
                "{elsewhere}: own rack, not in the quorum, not admitted, or nobody"
            );
        }
        assert_eq!(nearer(&view, 9, "b"), None, "no such partition");
        view.alive.insert(NodeId(2), false);
        view.draining.insert(NodeId(3));
        assert_eq!(nearer(&view, 0, "b"), None, "dead, and about to go");
    }
}
