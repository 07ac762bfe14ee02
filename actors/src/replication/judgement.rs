//! From what shards report and what the judge says of a follower to the commands that are proposed.

use crate::ingestion::core::moving::{Candidate, Counted};
use crate::ingestion::replica_handlers::ReplicaReport;
use lance_cluster::metadata::MetadataCommand;
use lance_cluster::replica::FollowerWindow;
use lance_cluster::replica::quorum::quorum_size;
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// Copies as an `Admit` or a `Rejoin` names them.
pub type Admissions = Vec<(TopicPartition, ReplicaIncarnation, LeaderEpoch, u32)>;

/// The candidates of each node, in one command a node.
pub fn by_node<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> BTreeMap<NodeId, Admissions> {
    let mut nodes: BTreeMap<NodeId, Admissions> = BTreeMap::new();
    for one in candidates {
        let entry = (one.partition, one.incarnation, one.epoch, one.in_quorum_version);
        nodes.entry(one.node).or_default().push(entry);
    }
    nodes
}

/// Copies as an `Evict` names them.
pub type Evictions = Vec<(TopicPartition, LeaderEpoch, u32)>;

/// What it takes to do without a follower: a spare in its place where too few would be left, else its eviction.
pub fn spared(node: NodeId, report: &ReplicaReport) -> (Vec<MetadataCommand>, Evictions) {
    let (mut swaps, mut evictions) = (Vec::new(), Vec::new());
    for one in report.counted.iter().filter(|counted| counted.node == node) {
        let Counted { partition, epoch, in_quorum_version, copies, .. } = *one;
        // With the leader and without this follower, as many as there are followers that count.
        let left = report.counted.iter().filter(|counted| counted.partition == partition).count();
        let is_spare = |spare: &&Candidate| {
            spare.may_rejoin && (spare.partition, spare.in_quorum_version) == (partition, in_quorum_version)
        };
        match report.candidates.iter().find(is_spare).filter(|_| left <= copies / 2) {
            Some(&Candidate { node: into, incarnation, .. }) => swaps.push(MetadataCommand::SwapIn {
                partition,
                epoch,
                in_quorum_version,
                out: node,
                into,
                incarnation,
            }),
            None => evictions.push((partition, epoch, in_quorum_version)),
        }
    }
    (swaps, evictions)
}

/// Copies that were cut for damage and lacked what they have to hold when the last window ended.
#[derive(Debug, Default)]
pub struct Refilling(BTreeSet<(TopicPartition, NodeId)>);

impl Refilling {
    /// Those that took more than a window, by node, as far as the others make up a quorum without them: they are to leave
    /// the in-quorum set.
    pub fn evictions(&mut self, report: &ReplicaReport) -> BTreeMap<NodeId, Evictions> {
        let ReplicaReport { refilling, counted, .. } = report;
        let now = refilling.iter().map(|one| (one.partition, one.node)).collect();
        let before = std::mem::replace(&mut self.0, now);
        // With the leader and without this follower, as many as there are followers that count.
        let left = |one: &Counted| counted.iter().filter(|other| other.partition == one.partition).count();
        let mut nodes: BTreeMap<NodeId, Evictions> = BTreeMap::new();
        for one in refilling.iter().filter(|one| before.contains(&(one.partition, one.node))) {
            if left(one) >= quorum_size(one.copies) {
                nodes.entry(one.node).or_default().push((one.partition, one.epoch, one.in_quorum_version));
            }
        }
        nodes
    }
}

/// What is led here and waits for followers that only look slow: the partitions that others shall lead.
pub fn concerned(slow: &[(NodeId, u32)], report: &ReplicaReport) -> Vec<(TopicPartition, LeaderEpoch)> {
    let waits = |counted: &&Counted| slow.iter().any(|(node, _)| *node == counted.node);
    let led: BTreeMap<TopicPartition, LeaderEpoch> =
        report.counted.iter().filter(waits).map(|counted| (counted.partition, counted.epoch)).collect();
    led.into_iter().collect()
}

/// The windows of several shards as one for each node.
pub fn joined(windows: Vec<FollowerWindow>) -> Vec<FollowerWindow> {
    let mut nodes: BTreeMap<NodeId, FollowerWindow> = BTreeMap::new();
    for window in windows {
        nodes
            .entry(window.node)
            .and_modify(|known| {
                known.p99_micros = known.p99_micros.max(window.p99_micros);
                known.acks = known.acks.saturating_add(window.acks);
                known.outstanding_ms = known.outstanding_ms.max(window.outstanding_ms);
                known.sync_p99_micros = known.sync_p99_micros.max(window.sync_p99_micros);
                known.in_quorum_count += window.in_quorum_count;
                known.evicted_count += window.evicted_count;
            })
            .or_insert(window);
    }
    nodes.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;

    const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);

    fn counted(node: u16, copies: usize) -> Counted {
        Counted { partition: PARTITION, node: NodeId(node), epoch: LeaderEpoch(1), in_quorum_version: 3, copies }
    }

    fn spare(node: u16, may_rejoin: bool) -> Candidate {
        Candidate {
            partition: PARTITION,
            node: NodeId(node),
            incarnation: ReplicaIncarnation { node: 7, copy_version: 0, damage_count: 0 },
            epoch: LeaderEpoch(1),
            in_quorum_version: 3,
            may_be_admitted: false,
            may_rejoin,
        }
    }

    #[test]
    fn only_partitions_that_wait_for_the_slow_are_to_be_led_elsewhere() {
        let other = TopicPartition::new(TopicId(1), 1);
        let alone = Counted { partition: other, ..counted(4, 3) };
        let report = ReplicaReport { counted: vec![counted(2, 3), counted(3, 3), alone], ..ReplicaReport::default() };
        let slow = [(NodeId(2), 100), (NodeId(3), 100)];
        assert_eq!(concerned(&slow, &report), [(PARTITION, LeaderEpoch(1))]);
        assert_eq!(concerned(&[], &report), []);
    }

    #[test]
    fn a_spare_is_swapped_in_only_where_too_few_would_be_left() {
        for (copies, followers, may_rejoin, swaps) in [
            (3, vec![2], true, true),
            (3, vec![2], false, false),
            (3, vec![2, 3], true, false),
            (5, vec![2, 3], true, true),
            (5, vec![2, 3, 4], true, false),
        ] {
            let report = ReplicaReport {
                counted: followers.iter().map(|node| counted(*node, copies)).collect(),
                candidates: vec![spare(9, may_rejoin)],
                ..ReplicaReport::default()
            };
            let (swapped, evicted) = spared(NodeId(2), &report);
            assert_eq!((swapped.len() == 1, evicted.is_empty()), (swaps, swaps), "{copies} copies, {followers:?}");
        }
    }
}
