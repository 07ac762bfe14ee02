//! Planned moves of leaders: off nodes that are being emptied or are slow, and back into balance.

use super::controller::{ControllerAction, ControllerOptions};
use super::relief::Relief;
use super::state::MetadataState;
use super::topic::PartitionState;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use std::collections::BTreeMap;

/// How often partitions are searched for leaders to be moved.
const SCAN_INTERVAL_MS: u64 = 250;
/// The leader is asked again after this; it knows the move by partition and epoch.
const ASK_INTERVAL_MS: u64 = 1000;

#[derive(Clone, Copy, Debug)]
struct Move {
    epoch: LeaderEpoch,
    from: NodeId,
    to: NodeId,
    since_ms: u64,
    asked_at_ms: u64,
    stage: MoveStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MoveStage {
    /// The leader stops its appends and waits until the target holds everything.
    Waiting,
    /// The next epoch opens.
    Opening,
    /// The leader went on; it is not asked again for a while.
    Abandoned,
}

/// Moves under way.
#[derive(Debug, Default)]
pub(super) struct Moves {
    moves: BTreeMap<TopicPartition, Move>,
    /// Since when nothing but moves has changed who leads.
    quiet_since_ms: u64,
    scanned_at_ms: u64,
    balanced_at_ms: u64,
    pub(super) relief: Relief,
}

/// What the planner may look at.
pub(super) struct Plan<'a> {
    pub(super) state: &'a MetadataState,
    pub(super) options: &'a ControllerOptions,
    pub(super) is_alive: &'a dyn Fn(NodeId) -> bool,
    /// Whether a partition has its leader, and no change of it is under way.
    pub(super) is_settled: &'a dyn Fn(TopicPartition) -> bool,
    pub(super) now_ms: u64,
}

impl Moves {
    pub(super) fn restart(&mut self, now_ms: u64) {
        *self = Self { quiet_since_ms: now_ms, ..Self::default() };
    }

    /// Something else than a move has changed, or may soon change, who leads: balance waits.
    pub(super) fn on_unrest(&mut self, now_ms: u64) {
        self.quiet_since_ms = now_ms;
    }

    /// The node that the next leader of `partition` shall be, if its log is as good as the best.
    pub(super) fn target(&self, partition: TopicPartition) -> Option<NodeId> {
        let planned = self.moves.get(&partition)?;
        (planned.stage == MoveStage::Opening).then_some(planned.to)
    }

    /// Whether the leader's report fits the move it was asked for; the next epoch may then open. A leader that was not asked
    /// hands over for a reason of its own.
    pub(super) fn on_ready(
        &mut self,
        partition: TopicPartition,
        (epoch, from): (LeaderEpoch, NodeId),
        to: NodeId,
        now_ms: u64,
    ) -> bool {
        let Some(planned) = self.moves.get_mut(&partition) else {
            let (since_ms, asked_at_ms, stage) = (now_ms, now_ms, MoveStage::Opening);
            self.moves.insert(partition, Move { epoch, from, to, since_ms, asked_at_ms, stage });
            // Balance would give it back at once.
            self.on_unrest(now_ms);
            return true;
        };
        let fits = planned.stage == MoveStage::Waiting && (planned.epoch, planned.to) == (epoch, to);
        if fits {
            planned.stage = MoveStage::Opening;
        }
        fits
    }

    /// An epoch has opened: a move that was not ready for it is void.
    pub(super) fn on_epoch_opened(&mut self, partition: TopicPartition) {
        if self.moves.get(&partition).is_some_and(|planned| planned.stage != MoveStage::Opening) {
            self.moves.remove(&partition);
        }
    }

    pub(super) fn on_leader_chosen(&mut self, partition: TopicPartition) {
        self.moves.remove(&partition);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(TopicPartition) -> bool) {
        self.moves.retain(|partition, _| keep(*partition));
    }

    /// Moves under way, abandoned ones left out.
    pub(super) fn active_count(&self) -> usize {
        self.moves.values().filter(|planned| planned.stage != MoveStage::Abandoned).count()
    }

    pub(super) fn on_tick(&mut self, plan: &Plan<'_>, actions: &mut Vec<ControllerAction>) {
        self.age(plan, actions);
        let (now_ms, options) = (plan.now_ms, plan.options);
        if now_ms < self.scanned_at_ms.saturating_add(SCAN_INTERVAL_MS) {
            return;
        }
        let leads = |node: NodeId| plan.state.leader_counts().contains_key(&node);
        let drains = plan.state.nodes().any(|(node, known)| known.draining && leads(node));
        let quiet = now_ms >= self.quiet_since_ms.saturating_add(options.balance_after_ms);
        let balances = quiet
            && now_ms >= self.balanced_at_ms.saturating_add(options.balance_interval_ms)
            && self.is_unbalanced(plan);
        let relieves = self.relief.is_asked_for(now_ms);
        if !drains && !balances && !relieves {
            return;
        }
        self.scanned_at_ms = now_ms;
        if balances {
            self.balanced_at_ms = now_ms;
        }
        self.scan(plan, balances, actions);
    }

    /// Gives up what took too long, and repeats what may have been lost.
    fn age(&mut self, plan: &Plan<'_>, actions: &mut Vec<ControllerAction>) {
        let (now_ms, timeout_ms) = (plan.now_ms, plan.options.move_timeout_ms);
        self.moves.retain(|_, planned| match planned.stage {
            MoveStage::Abandoned => now_ms < planned.since_ms.saturating_add(timeout_ms.saturating_mul(2)),
            MoveStage::Opening | MoveStage::Waiting => true,
        });
        for (&partition, planned) in &mut self.moves {
            if planned.stage != MoveStage::Waiting {
                continue;
            }
            if now_ms >= planned.since_ms.saturating_add(timeout_ms) {
                (planned.stage, planned.since_ms) = (MoveStage::Abandoned, now_ms);
            } else if now_ms >= planned.asked_at_ms.saturating_add(ASK_INTERVAL_MS) {
                planned.asked_at_ms = now_ms;
                actions.push(planned.action(partition));
            }
        }
    }

    fn scan(&mut self, plan: &Plan<'_>, balances: bool, actions: &mut Vec<ControllerAction>) {
        let mut room = plan.options.moves_at_once.saturating_sub(self.active_count());
        let mut counts = plan.state.leader_counts().clone();
        for planned in self.moves.values().filter(|planned| planned.stage != MoveStage::Abandoned) {
            shift(&mut counts, planned.from, planned.to);
        }
        for (partition, decided) in plan.state.partitions() {
            if room == 0 {
                break;
            }
            if decided.replicas.len() < 2 || self.moves.contains_key(&partition) || !(plan.is_settled)(partition) {
                continue;
            }
            let Some(leader) = decided.leader.filter(|_| plan.state.leader_is_current(decided)) else {
                continue;
            };
            let from = leader.node;
            let draining = plan.state.node(from).is_some_and(|known| known.draining);
            let Some(to) = self.best_target(plan, decided, from, &counts) else {
                continue;
            };
            let count = |node: NodeId| counts.get(&node).copied().unwrap_or(0);
            let overloaded = balances && count(from) >= count(to).saturating_add(2);
            let relieved = self.relief.is_wanted(partition, decided.epoch);
            let to_slow = self.relief.is_slow(to, plan.now_ms);
            if !draining && (to_slow || !(overloaded || relieved)) {
                continue;
            }
            shift(&mut counts, from, to);
            let (epoch, now_ms) = (decided.epoch, plan.now_ms);
            let planned = Move { epoch, from, to, since_ms: now_ms, asked_at_ms: now_ms, stage: MoveStage::Waiting };
            actions.push(planned.action(partition));
            self.moves.insert(partition, planned);
            room -= 1;
        }
    }

    /// Whether some node that may lead leads at least two partitions more than another: whether that can be mended is seen later.
    fn is_unbalanced(&self, plan: &Plan<'_>) -> bool {
        let able = plan.state.nodes().filter(|(node, known)| {
            !known.draining && (plan.is_alive)(*node) && !self.relief.is_slow(*node, plan.now_ms)
        });
        let counts = able.map(|(node, _)| plan.state.leader_counts().get(&node).copied().unwrap_or(0));
        let (least, most) = counts.fold((u32::MAX, 0), |(least, most), count| (least.min(count), most.max(count)));
        most >= least.saturating_add(2)
    }

    /// A replica that could take over at once: it counts, it is there, it is not slow if another is not, and it leads the fewest.
    fn best_target(
        &self,
        plan: &Plan<'_>,
        decided: &PartitionState,
        from: NodeId,
        counts: &BTreeMap<NodeId, u32>,
    ) -> Option<NodeId> {
        let able = decided.replicas.iter().filter(|replica| {
            let node = replica.node;
            let draining = plan.state.node(node).is_none_or(|known| known.draining);
            node != from
                && !draining
                && decided.is_in_quorum(node)
                && plan.state.counts(replica)
                && (plan.is_alive)(node)
        });
        let rank = |node: &NodeId| (self.relief.is_slow(*node, plan.now_ms), counts.get(node).copied().unwrap_or(0));
        able.map(|replica| replica.node).min_by_key(rank)
    }
}

impl Move {
    fn action(&self, partition: TopicPartition) -> ControllerAction {
        ControllerAction::MoveLeader { partition, epoch: self.epoch, from: self.from, to: self.to }
    }
}

fn shift(counts: &mut BTreeMap<NodeId, u32>, from: NodeId, to: NodeId) {
    if let Some(count) = counts.get_mut(&from) {
        *count = count.saturating_sub(1);
    }
    let count = counts.entry(to).or_default();
    *count = count.saturating_add(1);
}
