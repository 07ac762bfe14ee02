//! From an operator's order to the command that is proposed.

use crate::network::session::answers::CallFailure;
use lance_cluster::metadata::state::MetadataState;
use lance_cluster::metadata::{
    MetadataCommand, MetadataRefusal, PartitionRecovery, PartitionRefusal, PartitionState, ReplicationMode,
    TopicConfig, TopicRestoration,
};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{NodeId, TopicPartition};
use lance_messages::wire::cluster::{ClusterCommand, RecoverPartition, RestoreTopic};
use lance_messages::wire::topics::TopicMode;
use tracing::Span;

/// What is proposed for an order. `complete` are the partitions led here whose copy on the node in question holds everything
/// that is committed: only these may wait for it again.
pub fn order_for(
    order: &ClusterCommand,
    state: &MetadataState,
    complete: &[TopicPartition],
    now_secs: u64,
) -> Result<MetadataCommand, CallFailure> {
    match order {
        ClusterCommand::Drain { node, on } => Ok(MetadataCommand::SetDraining { node: *node, draining: *on }),
        ClusterCommand::Evict { node } => evict(*node, state),
        ClusterCommand::Admit { node } => admit(*node, state, complete),
        ClusterCommand::AddNode { node, address } => {
            Ok(MetadataCommand::AllowNode { node: *node, address: address.clone() })
        }
        ClusterCommand::RemoveNode { node } => Ok(MetadataCommand::SetLeaving { node: *node }),
        ClusterCommand::Recover(order) => recover(order, state, now_secs),
        ClusterCommand::SetTopicMode { topic, mode } => {
            Ok(MetadataCommand::SetTopicMode { topic: *topic, mode: mode_of(*mode) })
        }
        &ClusterCommand::SetReplicationFactor { topic, replication_factor } => {
            Ok(MetadataCommand::SetReplicationFactor { topic, replication_factor })
        }
        &ClusterCommand::Maintenance { node, on } => {
            known(node, state)?;
            Ok(MetadataCommand::SetMaintenance { node, on })
        }
        ClusterCommand::RestoreTopic(topic) => Ok(MetadataCommand::RestoreTopic(restoration(topic))),
        &ClusterCommand::RestoreIds { next_topic, next_producer } => {
            Ok(MetadataCommand::RestoreIds { next_topic_id: next_topic.0, next_producer_id: next_producer })
        }
    }
}

/// The span of carrying out an order.
pub fn order_span(order: &ClusterCommand) -> Span {
    let name = match order {
        ClusterCommand::Drain { .. } => "drain",
        ClusterCommand::Evict { .. } => "evict",
        ClusterCommand::Admit { .. } => "admit",
        ClusterCommand::AddNode { .. } => "add node",
        ClusterCommand::RemoveNode { .. } => "remove node",
        ClusterCommand::Recover(_) => "recover",
        ClusterCommand::SetTopicMode { .. } => "set topic mode",
        ClusterCommand::SetReplicationFactor { .. } => "set replication factor",
        ClusterCommand::Maintenance { on: true, .. } => "maintenance",
        ClusterCommand::Maintenance { on: false, .. } => "resume",
        ClusterCommand::RestoreTopic(_) => "restore topic",
        ClusterCommand::RestoreIds { .. } => "restore ids",
    };
    tracing::info_span!("order", otel.name = name, lance.cause = "operator", lance.order = ?order)
}

fn mode_of(mode: TopicMode) -> ReplicationMode {
    match mode {
        TopicMode::L1 => ReplicationMode::L1,
        TopicMode::L2 => ReplicationMode::L2,
    }
}

fn restoration(topic: &RestoreTopic) -> TopicRestoration {
    let config = TopicConfig {
        // The wire carries no more of them than this.
        partitions: u16::try_from(topic.beginnings.len()).unwrap_or(u16::MAX),
        replication_factor: topic.replication_factor,
        mode: mode_of(topic.mode),
        max_age_secs: topic.max_age_secs,
        max_bytes: topic.max_bytes,
    };
    let beginnings = topic.beginnings.iter().map(|place| (place.offset, place.record)).collect();
    let (name, created_at_secs) = (topic.name.clone(), topic.created_at);
    TopicRestoration { topic: topic.topic, name, config, created_at_secs, beginnings }
}

fn known(node: NodeId, state: &MetadataState) -> Result<(), CallFailure> {
    match state.node(node) {
        Some(_) => Ok(()),
        None => Err(CallFailure::Refused(MetadataRefusal::NodeNotFound { node })),
    }
}

fn leads(partition: &PartitionState, node: NodeId) -> bool {
    partition.leader.is_some_and(|leader| leader.node == node)
}

/// Every partition whose leader waits for the node. The node stays in those it leads itself.
fn evict(node: NodeId, state: &MetadataState) -> Result<MetadataCommand, CallFailure> {
    known(node, state)?;
    let waits = |partition: &PartitionState| partition.is_in_quorum(node) && !leads(partition, node);
    let partitions = state.partitions().filter(|(_, partition)| waits(partition));
    let partitions = partitions.map(|(id, partition)| (id, partition.epoch, partition.in_quorum_version)).collect();
    Ok(MetadataCommand::Evict { node, partitions })
}

fn admit(node: NodeId, state: &MetadataState, complete: &[TopicPartition]) -> Result<MetadataCommand, CallFailure> {
    known(node, state)?;
    let enters = complete.iter().filter_map(|id| {
        let partition = state.partition(*id).filter(|partition| !partition.is_in_quorum(node))?;
        let admitted = partition.replica(node)?.admitted;
        Some((*id, admitted, partition.epoch, partition.in_quorum_version))
    });
    Ok(MetadataCommand::Rejoin { node, partitions: enters.collect() })
}

fn recover(order: &RecoverPartition, state: &MetadataState, now_secs: u64) -> Result<MetadataCommand, CallFailure> {
    let &RecoverPartition { partition, node, accept_data_loss, lost_from, lost_to, .. } = order;
    let refused = |reason| CallFailure::Refused(MetadataRefusal::Partition { partition, reason });
    let decided = state.partition(partition).ok_or_else(|| refused(PartitionRefusal::NotFound))?;
    let replica = decided.replica(node).ok_or_else(|| refused(PartitionRefusal::NotReplica { node }))?;
    let present = state.node(node).ok_or_else(|| refused(PartitionRefusal::NodeUnknown { node }))?.incarnation;
    let mut incarnation = replica.admitted;
    if incarnation.node != present {
        // The copy of a node whose disk is a new one: no damage of it is known.
        (incarnation.node, incarnation.damage_count) = (present, 0);
    }
    Ok(MetadataCommand::RecoverPartition(PartitionRecovery {
        partition,
        epoch: decided.epoch,
        node,
        incarnation,
        accept_data_loss,
        requested_by: order.requested_by.clone(),
        recovered_at_secs: now_secs,
        lost_from,
        lost_to,
    }))
}

/// Whether an order needs to know which copies are complete.
pub fn needs_copies(order: &ClusterCommand) -> Option<NodeId> {
    match order {
        ClusterCommand::Admit { node } => Some(*node),
        _ => None,
    }
}

/// What an order is refused with that cannot be decided without the state.
pub fn no_state() -> CallFailure {
    CallFailure::Failed(ErrorCode::Unavailable, "this node knows no metadata yet".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_cluster::metadata::{EpochOpening, LeaderChoice, TopicConfig};
    use lance_messages::id::{LeaderEpoch, ReplicaIncarnation, TopicId};

    const PARTITION: TopicPartition = TopicPartition { topic: TopicId(1), partition: 0 };

    fn three_nodes() -> MetadataState {
        let mut state = MetadataState::new();
        let mut index = 0;
        let mut apply = |command: MetadataCommand| {
            index += 1;
            state.apply(index, &command).answer.unwrap();
        };
        for node in 1..=3 {
            apply(MetadataCommand::RegisterNode {
                node: NodeId(node),
                incarnation: u64::from(node) + 100,
                boot_number: 1,
                nonce: 1,
                address: "a:1".to_owned(),
                rack: String::new(),
            });
        }
        let config = TopicConfig { replication_factor: 3, ..TopicConfig::default() };
        apply(MetadataCommand::CreateTopic { name: "events".to_owned(), config, created_at_secs: 1, request: 0 });
        let epoch = LeaderEpoch(1);
        apply(MetadataCommand::OpenEpoch { partitions: vec![EpochOpening { partition: PARTITION, epoch }] });
        let incarnation = ReplicaIncarnation { node: 101, copy_version: 0, damage_count: 0 };
        let choice = LeaderChoice { partition: PARTITION, epoch, leader: NodeId(1), incarnation, boot_number: 1 };
        apply(MetadataCommand::LeaderChosen { partitions: vec![choice] });
        state
    }

    #[test]
    fn a_node_is_evicted_from_what_others_lead_and_admitted_where_its_copy_is_complete() {
        let mut state = three_nodes();
        let order =
            |order, state: &MetadataState, complete: &[TopicPartition]| order_for(&order, state, complete, 1).unwrap();
        let none = order(ClusterCommand::Evict { node: NodeId(1) }, &state, &[]);
        assert_eq!(none, MetadataCommand::Evict { node: NodeId(1), partitions: Vec::new() });
        let evict = order(ClusterCommand::Evict { node: NodeId(3) }, &state, &[]);
        state.apply(90, &evict).answer.unwrap();
        assert_eq!(state.partition(PARTITION).unwrap().in_quorum, [NodeId(1), NodeId(2)]);
        let behind = order(ClusterCommand::Admit { node: NodeId(3) }, &state, &[]);
        assert_eq!(behind, MetadataCommand::Rejoin { node: NodeId(3), partitions: Vec::new() });
        let admit = order(ClusterCommand::Admit { node: NodeId(3) }, &state, &[PARTITION]);
        state.apply(91, &admit).answer.unwrap();
        assert_eq!(state.partition(PARTITION).unwrap().in_quorum, [NodeId(1), NodeId(2), NodeId(3)]);
    }

    #[test]
    fn an_order_about_a_node_nobody_knows_is_refused() {
        let state = three_nodes();
        for order in [ClusterCommand::Evict { node: NodeId(9) }, ClusterCommand::Admit { node: NodeId(9) }] {
            let refused = order_for(&order, &state, &[], 1).unwrap_err();
            assert_eq!(refused, CallFailure::Refused(MetadataRefusal::NodeNotFound { node: NodeId(9) }));
        }
    }
}
