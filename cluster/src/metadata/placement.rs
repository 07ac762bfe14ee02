//! Which nodes hold the copies of a new partition: different racks first, then those with the fewest copies; and who holds how many.

use super::answer::MetadataRefusal;
use super::state::MetadataState;
use super::topic::{PartitionState, Replica, ReplicaIncarnation};
use lance_messages::id::{LeaderEpoch, NodeId};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What each node has to do; a node without anything is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Loads {
    pub(super) replicas: BTreeMap<NodeId, u32>,
    pub(super) preferred: BTreeMap<NodeId, u32>,
    pub(super) leaders: BTreeMap<NodeId, u32>,
    pub(super) partition_count: u32,
}

impl Loads {
    pub(super) fn count(&mut self, partition: &PartitionState) {
        self.partition_count = self.partition_count.saturating_add(1);
        partition.replicas.iter().for_each(|replica| raise(&mut self.replicas, replica.node));
        partition.replicas.first().into_iter().for_each(|first| raise(&mut self.preferred, first.node));
        partition.leader.iter().for_each(|leader| raise(&mut self.leaders, leader.node));
    }

    pub(super) fn uncount(&mut self, partition: &PartitionState) {
        self.partition_count = self.partition_count.saturating_sub(1);
        partition.replicas.iter().for_each(|replica| lower(&mut self.replicas, replica.node));
        partition.replicas.first().into_iter().for_each(|first| lower(&mut self.preferred, first.node));
        partition.leader.iter().for_each(|leader| lower(&mut self.leaders, leader.node));
    }
}

fn raise(counts: &mut BTreeMap<NodeId, u32>, node: NodeId) {
    let count = counts.entry(node).or_default();
    *count = count.saturating_add(1);
}

fn lower(counts: &mut BTreeMap<NodeId, u32>, node: NodeId) {
    if let Some(count) = counts.get_mut(&node) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&node);
        }
    }
}

/// A node that may get copies, with what it would have to do so far.
struct Candidate<'a> {
    node: NodeId,
    incarnation: u64,
    rack: &'a str,
    draining: bool,
    replica_count: u32,
    preferred_count: u32,
}

impl MetadataState {
    /// Places `count` new partitions; changes nothing.
    ///
    /// A node that is being emptied gets a copy only when there are not enough others.
    pub(super) fn place(&self, count: u16, replication_factor: u8) -> Result<Vec<PartitionState>, MetadataRefusal> {
        let copies = usize::from(replication_factor);
        if copies == 0 || copies > self.nodes.len() {
            return Err(MetadataRefusal::NotEnoughNodes { asked: replication_factor, registered: self.nodes.len() });
        }
        let load = |counts: &BTreeMap<NodeId, u32>, node: NodeId| counts.get(&node).copied().unwrap_or(0);
        let mut candidates: Vec<Candidate<'_>> = self
            .nodes
            .iter()
            .map(|(node, state)| Candidate {
                node: *node,
                incarnation: state.incarnation,
                rack: &state.rack,
                draining: state.draining,
                replica_count: load(&self.loads.replicas, *node),
                preferred_count: load(&self.loads.preferred, *node),
            })
            .collect();
        Ok((0..count).map(|_| place_one(&mut candidates, copies)).collect())
    }

    /// How many replicas each node holds; a node without any is absent.
    pub fn replica_counts(&self) -> &BTreeMap<NodeId, u32> {
        &self.loads.replicas
    }

    /// How many partitions each node leads, in whichever boot; a node without any is absent.
    pub fn leader_counts(&self) -> &BTreeMap<NodeId, u32> {
        &self.loads.leaders
    }
}

/// A partition without data: each copy is admitted in its node's present incarnation, and Q = R.
fn place_one(candidates: &mut [Candidate<'_>], copies: usize) -> PartitionState {
    let mut chosen: Vec<usize> = Vec::with_capacity(copies);
    while chosen.len() < copies {
        let shares_rack = |at: usize| {
            let rack = candidates[at].rack;
            // A node that names no rack stands alone.
            if rack.is_empty() { 0 } else { chosen.iter().filter(|other| candidates[**other].rack == rack).count() }
        };
        let free = (0..candidates.len()).filter(|at| !chosen.contains(at));
        let best = free.min_by_key(|&at| {
            let candidate = &candidates[at];
            (candidate.draining, shares_rack(at), candidate.replica_count, candidate.node)
        });
        match best {
            Some(at) => chosen.push(at),
            None => break,
        }
    }
    // The first replica is the preferred leader: the preference goes round, so that leaders are spread.
    chosen.sort_by_key(|&at| {
        let candidate = &candidates[at];
        (candidate.draining, candidate.preferred_count, Reverse(candidate.replica_count), candidate.node)
    });
    let replicas = chosen.iter().map(|&at| {
        let Candidate { node, incarnation, .. } = candidates[at];
        Replica { node, admitted: ReplicaIncarnation { node: incarnation, copy_version: 0, damage_count: 0 } }
    });
    let replicas: Vec<Replica> = replicas.collect();
    for (place, &at) in chosen.iter().enumerate() {
        candidates[at].replica_count = candidates[at].replica_count.saturating_add(1);
        if place == 0 {
            candidates[at].preferred_count = candidates[at].preferred_count.saturating_add(1);
        }
    }
    let in_quorum = sorted(replicas.iter().map(|replica| replica.node));
    PartitionState {
        replicas,
        replicas_version: 0,
        epoch: LeaderEpoch(0),
        leader: None,
        in_quorum,
        in_quorum_version: 0,
        planned: Vec::new(),
    }
}

/// A set of nodes as it is kept: in order.
pub(super) fn sorted(nodes: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = nodes.collect();
    nodes.sort_unstable();
    nodes
}
