//! Which nodes hold the copies of a new partition: those with the fewest, the lowest id first among equals.

use super::answer::MetadataRefusal;
use super::state::MetadataState;
use super::topic::{PartitionState, Replica, ReplicaIncarnation};
use lance_messages::id::{LeaderEpoch, NodeId};
use std::collections::BTreeMap;

impl MetadataState {
    /// Places `count` new partitions and counts their replicas; changes nothing when it refuses.
    pub(super) fn place(&mut self, count: u16, replication_factor: u8) -> Result<Vec<PartitionState>, MetadataRefusal> {
        let copies = usize::from(replication_factor);
        if copies == 0 || copies > self.nodes.len() {
            return Err(MetadataRefusal::NotEnoughNodes { asked: replication_factor, registered: self.nodes.len() });
        }
        let load = |node: &NodeId| self.replica_counts.get(node).copied().unwrap_or(0);
        let mut candidates: Vec<(u32, NodeId, u64)> =
            self.nodes.iter().map(|(id, node)| (load(id), *id, node.incarnation)).collect();
        let mut placed = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            candidates.sort_unstable();
            placed.push(new_partition(&candidates[..copies]));
            for (load, _, _) in &mut candidates[..copies] {
                *load += 1;
            }
        }
        self.replica_counts = candidates.into_iter().map(|(load, node, _)| (node, load)).collect();
        self.replica_counts.retain(|_, load| *load > 0);
        self.partition_count += u32::from(count);
        Ok(placed)
    }

    pub(super) fn forget_replicas(&mut self, partitions: &[PartitionState]) {
        for replica in partitions.iter().flat_map(|partition| &partition.replicas) {
            if let Some(count) = self.replica_counts.get_mut(&replica.node) {
                *count = count.saturating_sub(1);
            }
        }
        self.replica_counts.retain(|_, load| *load > 0);
        self.partition_count = self.partition_count.saturating_sub(partitions.len() as u32);
    }

    /// How many replicas each node holds; a node without any is absent.
    pub fn replica_counts(&self) -> &BTreeMap<NodeId, u32> {
        &self.replica_counts
    }
}

/// A partition without data: each copy is admitted in its node's present incarnation, and Q = R.
fn new_partition(nodes: &[(u32, NodeId, u64)]) -> PartitionState {
    let replicas: Vec<Replica> = nodes
        .iter()
        .map(|&(_, node, incarnation)| Replica {
            node,
            admitted: ReplicaIncarnation { node: incarnation, damage_count: 0 },
        })
        .collect();
    let mut in_quorum: Vec<NodeId> = replicas.iter().map(|replica| replica.node).collect();
    in_quorum.sort_unstable();
    PartitionState { replicas, epoch: LeaderEpoch(0), leader: None, in_quorum, in_quorum_version: 0 }
}
