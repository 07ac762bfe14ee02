//! The cluster and its topics as JSON.

use super::health::Health;
use super::tee_figures::{TeeListing, rules_of};
use crate::ingestion::maintenance::PartitionStatus;
use crate::tee::core::status::FlowStatus;
use crate::view::{ClusterView, PartitionMembers, TopicView};
use hashbrown::HashMap;
use lance_cluster::metadata::topic::ReplicationMode;
use lance_messages::id::{NodeId, TopicPartition};
use serde::Serialize;

/// `GET /v1/cluster`.
#[derive(Debug, Serialize)]
pub struct ClusterListing {
    /// The node that answers.
    pub node: Option<NodeId>,
    /// The leader of the metadata.
    pub metadata_leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Index of the last applied command.
    pub applied: u64,
    /// Every node.
    pub nodes: Vec<NodeListing>,
    /// Every partition of every topic.
    pub partitions: Vec<PartitionListing>,
    /// The feature level that the cluster uses.
    pub feature_level: u16,
}

/// One node.
#[derive(Debug, Serialize)]
pub struct NodeListing {
    /// Its number.
    pub id: NodeId,
    /// Where clients reach it.
    pub address: String,
    /// Of the answering node `starting`, `recovering`, `serving`, `maintenance` or `draining`, of others `serving`,
    /// `maintenance`, `draining` or `down`.
    pub state: &'static str,
    /// Whether it leads the metadata.
    pub metadata_leader: bool,
}

/// One partition; what only its holder knows is null elsewhere, or while it cannot say.
#[derive(Debug, Serialize)]
pub struct PartitionListing {
    /// Name of its topic.
    pub topic: String,
    /// Its number.
    pub partition: u16,
    /// Who leads it.
    pub leader: Option<NodeId>,
    /// In which epoch.
    pub epoch: u32,
    /// Who holds a copy.
    pub replicas: Vec<NodeId>,
    /// Whose acks count.
    pub in_quorum: Vec<NodeId>,
    /// Raised by every change of `in_quorum`.
    pub in_quorum_version: u32,
    /// Those with a copy that do not count yet, in the life they are in.
    pub unadmitted: Vec<NodeId>,
    /// `opening`, `electing`, `serving` or `stopped`.
    pub state: Option<&'static str>,
    /// Why it is stopped.
    pub reason: Option<String>,
    /// Log position of the first batch.
    pub log_start: Option<u64>,
    /// Log position up to which everything is committed.
    pub high_watermark: Option<u64>,
    /// Log position behind the last batch.
    pub log_end: Option<u64>,
}

/// `GET /v1/topics`.
#[derive(Debug, Serialize)]
pub struct TopicsListing {
    /// Every topic, in the order of their ids.
    pub topics: Vec<TopicListing>,
}

/// One topic.
#[derive(Debug, Serialize)]
pub struct TopicListing {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Unix seconds.
    pub created_at: u64,
    /// How often a topic of this name was created.
    pub topic_epoch: u32,
    /// `L1` or `L2`.
    pub mode: &'static str,
    /// Copies of each partition.
    pub replication_factor: u8,
    /// Records may go after so many seconds; 0 keeps them.
    pub retention_age_seconds: u64,
    /// Oldest records may go above so many bytes a partition; 0 keeps them.
    pub retention_bytes: u64,
    /// Its partitions.
    pub partitions: Vec<TopicPartitionListing>,
    /// The rules by which it goes on to others.
    pub tees: Vec<TeeListing>,
}

/// One partition of a topic.
#[derive(Debug, Serialize)]
pub struct TopicPartitionListing {
    /// Its number.
    pub partition: u16,
    /// Who leads it.
    pub leader: Option<NodeId>,
    /// In which epoch.
    pub epoch: u32,
    /// Who holds a copy.
    pub replicas: Vec<NodeId>,
    /// Whose acks count.
    pub in_quorum: Vec<NodeId>,
}

impl ClusterListing {
    /// The cluster in `view`, with what the shards of this node say of its partitions.
    pub fn new(view: &ClusterView, health: &Health, statuses: Vec<PartitionStatus>) -> Self {
        let mut statuses: HashMap<TopicPartition, PartitionStatus> =
            statuses.into_iter().map(|status| (status.partition, status)).collect();
        let ordered = |id: NodeId| match (view.maintenance.contains(&id), view.draining.contains(&id)) {
            (true, _) => "maintenance",
            (false, true) => "draining",
            (false, false) => "serving",
        };
        let state = |id: NodeId| match health.state() {
            "serving" if view.node == Some(id) => ordered(id),
            state if view.node == Some(id) => state,
            _ if !view.is_alive(id) => "down",
            _ => ordered(id),
        };
        let nodes = view.nodes.iter().map(|(id, address)| NodeListing {
            id: *id,
            address: address.clone(),
            state: state(*id),
            metadata_leader: view.metadata_leader == Some(*id),
        });
        let topics = view.sorted_topics();
        let partitions = topics.iter().flat_map(|topic| numbered(topic).map(move |number| (*topic, number)));
        let partitions = partitions.map(|(topic, (number, leader, epoch))| {
            let status = statuses.remove(&TopicPartition::new(topic.id, number));
            PartitionListing::new(topic, number, (leader, epoch), status)
        });
        Self {
            node: view.node,
            metadata_leader: view.metadata_leader,
            term: view.term,
            applied: view.applied,
            nodes: nodes.collect(),
            partitions: partitions.collect(),
            feature_level: view.feature_level.0,
        }
    }
}

impl PartitionListing {
    fn new(
        topic: &TopicView,
        partition: u16,
        (leader, epoch): (Option<NodeId>, u32),
        status: Option<PartitionStatus>,
    ) -> Self {
        let PartitionMembers { replicas, in_quorum, in_quorum_version, unadmitted, .. } = members(topic, partition);
        let open = status.as_ref().filter(|status| status.state != "opening");
        Self {
            topic: topic.name.clone(),
            partition,
            leader,
            epoch,
            replicas,
            in_quorum,
            in_quorum_version,
            unadmitted,
            log_start: open.map(|status| status.log_start),
            high_watermark: open.map(|status| status.high_watermark),
            log_end: open.map(|status| status.log_end),
            state: status.as_ref().map(|status| status.state),
            reason: status.and_then(|status| status.reason),
        }
    }
}

impl TopicsListing {
    /// The topics in `view`, and how far their rules are that this node carries out.
    pub fn new(view: &ClusterView, flows: &[FlowStatus]) -> Self {
        let listed = |topic: &TopicView| TopicListing::new(topic, rules_of(topic.id, view, flows));
        Self { topics: view.sorted_topics().into_iter().map(listed).collect() }
    }
}

impl TopicListing {
    /// A topic, with the rules by which it goes on.
    pub fn new(topic: &TopicView, tees: Vec<TeeListing>) -> Self {
        let partitions = numbered(topic).map(|(partition, leader, epoch)| {
            let PartitionMembers { replicas, in_quorum, .. } = members(topic, partition);
            TopicPartitionListing { partition, leader, epoch, replicas, in_quorum }
        });
        Self {
            id: topic.id.0,
            name: topic.name.clone(),
            created_at: topic.created_at,
            topic_epoch: topic.topic_epoch,
            mode: match topic.config.mode {
                ReplicationMode::L1 => "L1",
                ReplicationMode::L2 => "L2",
            },
            replication_factor: topic.config.replication_factor,
            retention_age_seconds: topic.config.max_age_secs,
            retention_bytes: topic.config.max_bytes,
            partitions: partitions.collect(),
            tees,
        }
    }
}

fn members(topic: &TopicView, partition: u16) -> PartitionMembers {
    topic.members.get(usize::from(partition)).cloned().unwrap_or_default()
}

/// Number, leader and epoch of each partition.
fn numbered(topic: &TopicView) -> impl Iterator<Item = (u16, Option<NodeId>, u32)> + '_ {
    (0..).zip(&topic.partitions).map(|(number, (leader, epoch))| (number, *leader, epoch.0))
}
