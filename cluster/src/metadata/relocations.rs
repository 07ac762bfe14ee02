//! Who shall hold a partition: copies are added and removed until each topic has as many as it is asked to have, and none of
//! them is on a node that leaves.
//!
//! Only one change of a partition is planned at a time, and each is committed before anybody acts on it: the newcomer opens a
//! log, the leader feeds it and proposes the exchange once nothing can be lost by it. Whoever leads the metadata next finds
//! the plans where they are.

use super::command::MetadataCommand;
use super::controller::ControllerAction;
use super::moves::Plan;
use super::topic::PartitionState;
use lance_messages::id::{NodeId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// How often partitions are looked through.
const SCAN_INTERVAL_MS: u64 = 250;

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct Relocations {
    scanned_at_ms: u64,
    /// Plans proposed and not committed yet, by the version they start from.
    proposed: BTreeMap<TopicPartition, (u32, u64)>,
    /// Nodes proposed to be removed.
    removing: BTreeMap<NodeId, u64>,
    /// Since when the newcomer of a plan was not heard.
    missing: BTreeMap<TopicPartition, u64>,
}

impl Relocations {
    pub(super) fn on_tick(&mut self, plan: &Plan<'_>, actions: &mut Vec<ControllerAction>) {
        let now_ms = plan.now_ms;
        if now_ms < self.scanned_at_ms.saturating_add(SCAN_INTERVAL_MS) {
            return;
        }
        self.scanned_at_ms = now_ms;
        let timeout_ms = plan.options.proposal_timeout_ms;
        self.proposed.retain(|partition, (version, since_ms)| {
            let current = plan.state.partition(*partition).map(|decided| decided.replicas_version);
            current == Some(*version) && now_ms < since_ms.saturating_add(timeout_ms)
        });
        self.removing.retain(|_, since_ms| now_ms < since_ms.saturating_add(timeout_ms));
        let mut copies = plan.state.replica_counts().clone();
        let mut under_way = self.proposed.len();
        for (_, decided) in plan.state.partitions() {
            if let Some(newcomer) = decided.newcomer() {
                *copies.entry(newcomer).or_default() += 1;
            }
            under_way += usize::from(!decided.planned.is_empty());
        }
        let mut busy = BTreeSet::new();
        for (partition, decided) in plan.state.partitions() {
            if !decided.planned.is_empty() {
                busy.extend(decided.newcomer());
                self.review(plan, partition, decided, actions);
            } else if under_way < plan.options.relocations_at_once
                && !self.proposed.contains_key(&partition)
                && (plan.is_settled)(partition)
                && plan.state.leader_is_current(decided)
                && let Some(replicas) = next_set(plan, partition, decided, &copies)
            {
                for node in replicas.iter().filter(|node| !decided.has_replica(**node)) {
                    *copies.entry(*node).or_default() += 1;
                }
                under_way += 1;
                self.propose(partition, decided, replicas, now_ms, actions);
            }
        }
        for (node, known) in plan.state.nodes() {
            let empty = !plan.state.replica_counts().contains_key(&node) && !busy.contains(&node);
            if known.leaving && empty && !self.removing.contains_key(&node) {
                self.removing.insert(node, now_ms);
                actions.push(ControllerAction::Propose(MetadataCommand::RemoveNode { node }));
            }
        }
    }

    /// Gives up a plan that cannot come about.
    fn review(
        &mut self,
        plan: &Plan<'_>,
        partition: TopicPartition,
        decided: &PartitionState,
        actions: &mut Vec<ControllerAction>,
    ) {
        let now_ms = plan.now_ms;
        let refused = decided.newcomer().is_some_and(|node| plan.state.node(node).is_none_or(|known| known.draining));
        let leads = decided.leader.is_some_and(|leader| !decided.planned.contains(&leader.node));
        let missing = decided.newcomer().is_some_and(|node| !(plan.is_alive)(node));
        let since_ms = match missing {
            true => *self.missing.entry(partition).or_insert(now_ms),
            false => {
                self.missing.remove(&partition);
                now_ms
            }
        };
        let given_up = now_ms >= since_ms.saturating_add(plan.options.newcomer_timeout_ms) && missing;
        if (refused || leads || given_up) && !self.proposed.contains_key(&partition) {
            self.missing.remove(&partition);
            self.propose(partition, decided, Vec::new(), now_ms, actions);
        }
    }

    fn propose(
        &mut self,
        partition: TopicPartition,
        decided: &PartitionState,
        replicas: Vec<NodeId>,
        now_ms: u64,
        actions: &mut Vec<ControllerAction>,
    ) {
        let replicas_version = decided.replicas_version;
        self.proposed.insert(partition, (replicas_version, now_ms));
        let command = MetadataCommand::PlanReplicas { partition, replicas_version, replicas };
        actions.push(ControllerAction::Propose(command));
    }
}

/// The replica set that is one step nearer to what is asked for; `None` where nothing is to be done, or nothing can be.
fn next_set(
    plan: &Plan<'_>,
    partition: TopicPartition,
    decided: &PartitionState,
    copies: &BTreeMap<NodeId, u32>,
) -> Option<Vec<NodeId>> {
    let wanted = usize::from(plan.state.topic(partition.topic)?.config.replication_factor);
    let present: Vec<NodeId> = decided.replicas.iter().map(|replica| replica.node).collect();
    let leaves = |node: NodeId| plan.state.node(node).is_none_or(|known| known.leaving);
    let leader = decided.leader.map(|leader| leader.node);
    let load = |node: NodeId| copies.get(&node).copied().unwrap_or(0);
    // Who may go: leaderships move first, by themselves, off nodes that leave.
    let others = present.iter().copied().filter(|node| Some(*node) != leader);
    let leaver = others.clone().find(|node| leaves(*node));
    let leader_leaves = leader.is_some_and(leaves);
    if present.len() > wanted {
        // One too many, so that the leader can go: another of them has to lead first.
        if leader_leaves && leaver.is_none() && present.len() == wanted + 1 {
            return None;
        }
        let superfluous = |node: &NodeId| (leaves(*node), !(plan.is_alive)(*node), load(*node), *node);
        let out = others.max_by_key(superfluous)?;
        return without(decided, &present, out, None);
    }
    // A leader that leaves and has nobody to hand over to gets a follower first.
    if present.len() < wanted || (leader_leaves && present.len() == 1) {
        let into = best_newcomer(plan, decided, &present, copies)?;
        return Some(present.iter().copied().chain([into]).collect());
    }
    let out = leaver?;
    let staying: Vec<NodeId> = present.iter().copied().filter(|node| *node != out).collect();
    let into = best_newcomer(plan, decided, &staying, copies)?;
    without(decided, &present, out, Some(into))
}

/// The set without `out`, unless too few of those that count would be left; `into` takes its place.
fn without(decided: &PartitionState, present: &[NodeId], out: NodeId, into: Option<NodeId>) -> Option<Vec<NodeId>> {
    let set: Vec<NodeId> =
        present.iter().copied().filter_map(|node| if node == out { into } else { Some(node) }).collect();
    let in_quorum = decided.in_quorum.iter().filter(|node| **node != out).count() + usize::from(into.is_some());
    (!set.is_empty() && in_quorum >= crate::replica::quorum::quorum_size(set.len())).then_some(set)
}

/// A node that is there and stays, in another rack than those that hold a copy if possible, with the fewest copies.
fn best_newcomer(
    plan: &Plan<'_>,
    decided: &PartitionState,
    staying: &[NodeId],
    copies: &BTreeMap<NodeId, u32>,
) -> Option<NodeId> {
    let rack = |node: NodeId| plan.state.node(node).map(|known| known.rack.as_str()).filter(|rack| !rack.is_empty());
    let taken: BTreeSet<&str> = staying.iter().filter_map(|node| rack(*node)).collect();
    let able = plan.state.nodes().filter(|(node, known)| {
        !decided.has_replica(*node) && !known.draining && !known.leaving && (plan.is_alive)(*node)
    });
    let cost = |node: NodeId| {
        let shares = rack(node).is_some_and(|rack| taken.contains(rack));
        (shares, copies.get(&node).copied().unwrap_or(0), node)
    };
    able.map(|(node, _)| node).min_by_key(|node| cost(*node))
}
