//! What operators ask: the state of the cluster, and orders to it.

use super::replies::{ControlKind, ReplySlot};
use super::{Effects, MetadataCall, SessionCore, SessionEffect};
use crate::ingestion::maintenance::PartitionStatus;
use crate::view::{ClusterView, PartitionMembers, TopicView};
use hashbrown::HashMap;
use lance_cluster::metadata::MetadataAnswer;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{NodeId, TopicPartition};
use lance_messages::wire::Response;
use lance_messages::wire::cluster::{
    ClusterCommandDone, ClusterDescription, ClusterNode, ClusterPartition, ClusterTopic, CopyPositions,
};
use std::time::Duration;

impl SessionCore {
    /// The shards' answer to a request for the state of the cluster, or to an order that depends on it.
    pub fn on_described(
        &mut self,
        request: u64,
        statuses: &[PartitionStatus],
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        if let Some(ReplySlot::Control { kind: ControlKind::ClusterCommand(order), .. }) = self.slot_mut(request) {
            let node = crate::metadata::orders::needs_copies(order);
            let complete = node.map_or_else(Vec::new, |node| complete_copies(statuses, node));
            let call = MetadataCall::Cluster(order.clone(), complete);
            return effects.push(SessionEffect::Metadata(request, call));
        }
        self.finish_control(request, view, |_| Ok(Response::DescribeCluster(describe(view, statuses))));
        self.advance(effects, now);
    }
}

/// The partitions led here whose copy on `node` holds everything that is committed.
fn complete_copies(statuses: &[PartitionStatus], node: NodeId) -> Vec<TopicPartition> {
    let is_complete = |status: &&PartitionStatus| {
        let follower = status.followers.iter().find(|follower| follower.node == node);
        follower.is_some_and(|follower| follower.acked >= Some(status.high_watermark))
    };
    statuses.iter().filter(is_complete).map(|status| status.partition).collect()
}

fn describe(view: &ClusterView, statuses: &[PartitionStatus]) -> ClusterDescription {
    let copies: HashMap<TopicPartition, CopyPositions> = statuses
        .iter()
        .filter(|status| status.state != "opening")
        .map(|status| {
            let copy = CopyPositions { high_watermark: status.high_watermark, log_end: status.log_end };
            (status.partition, copy)
        })
        .collect();
    let nodes = view.nodes.iter().map(|(id, address)| ClusterNode {
        id: *id,
        address: address.clone(),
        rack: view.racks.get(id).cloned().unwrap_or_default(),
        alive: view.is_alive(*id),
        draining: view.draining.contains(id),
        maintenance: view.maintenance.contains(id),
    });
    ClusterDescription {
        node: view.node.unwrap_or_default(),
        metadata_leader: view.metadata_leader,
        term: view.term,
        nodes: nodes.collect(),
        topics: view.sorted_topics().into_iter().map(|topic| describe_topic(topic, &copies)).collect(),
    }
}

fn describe_topic(topic: &TopicView, copies: &HashMap<TopicPartition, CopyPositions>) -> ClusterTopic {
    let partitions = (0..).zip(&topic.partitions).map(|(number, (leader, epoch))| {
        let members = topic.members.get(usize::from(number)).cloned();
        let PartitionMembers { replicas, in_quorum, .. } = members.unwrap_or_default();
        let copy = copies.get(&TopicPartition::new(topic.id, number)).copied();
        ClusterPartition { leader: *leader, epoch: epoch.0, replicas, in_quorum, copy }
    });
    ClusterTopic { id: topic.id, name: topic.name.clone(), partitions: partitions.collect() }
}

/// The reply to an order that was applied.
pub(super) fn order_done(answer: &MetadataAnswer) -> Result<Response, (ErrorCode, Option<String>)> {
    let partition_count = match answer {
        MetadataAnswer::PartitionsChanged { changed, refused } => match refused.first() {
            Some((partition, reason)) if changed.is_empty() => {
                let text = format!("partition {partition}: {reason}");
                return Err((ErrorCode::InvalidRequest, Some(text)));
            }
            _ => changed.len(),
        },
        MetadataAnswer::PartitionRecovered { .. } => 1,
        _ => 0,
    };
    let partition_count = u32::try_from(partition_count).unwrap_or(u32::MAX);
    Ok(Response::ClusterCommand(ClusterCommandDone { partition_count }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingestion::maintenance::FollowerStatus;
    use lance_cluster::metadata::PartitionRefusal;
    use lance_messages::id::TopicId;

    fn status(number: u16, acked: Option<u64>) -> PartitionStatus {
        PartitionStatus {
            partition: TopicPartition::new(TopicId(1), number),
            state: "serving",
            reason: None,
            log_start: 0,
            high_watermark: 10,
            durable_end: 12,
            log_end: 12,
            followers: vec![FollowerStatus { node: NodeId(2), acked }],
        }
    }

    #[test]
    fn a_copy_is_complete_once_everything_committed_is_acked() {
        let statuses = [status(0, None), status(1, Some(9)), status(2, Some(10)), status(3, Some(12))];
        let complete = complete_copies(&statuses, NodeId(2));
        assert_eq!(complete, [2, 3].map(|number| TopicPartition::new(TopicId(1), number)));
        assert_eq!(complete_copies(&statuses, NodeId(3)), []);
    }

    #[test]
    fn an_order_that_changed_nothing_says_why() {
        let partition = TopicPartition::new(TopicId(1), 0);
        let refused = vec![(partition, PartitionRefusal::NotFound)];
        let nothing = MetadataAnswer::PartitionsChanged { changed: Vec::new(), refused: refused.clone() };
        assert!(matches!(order_done(&nothing), Err((ErrorCode::InvalidRequest, Some(_)))));
        let some = MetadataAnswer::PartitionsChanged { changed: vec![partition], refused };
        assert_eq!(order_done(&some), Ok(Response::ClusterCommand(ClusterCommandDone { partition_count: 1 })));
    }
}
