//! What replicas answer when they are asked to promise an epoch, and which of them then leads.

use super::command::LeaderChoice;
use super::state::MetadataState;
use super::topic::{PartitionState, ReplicaIncarnation};
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A replica's answer to a request for its promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseAnswer {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch that was asked for.
    pub epoch: LeaderEpoch,
    /// What the replica says.
    pub outcome: PromiseOutcome,
}

/// What a replica says once its promise is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PromiseOutcome {
    /// It promises, and holds everything it ever confirmed.
    Clean {
        /// Its incarnation.
        incarnation: ReplicaIncarnation,
        /// The start of its process.
        boot_number: u64,
        /// Epoch of the last batch in its log.
        last_epoch: LeaderEpoch,
        /// First position not synced there.
        durable_end: u64,
    },
    /// It may have lost what it confirmed: it does not count.
    Unclean,
    /// It has promised a higher epoch.
    Promised {
        /// Which.
        epoch: LeaderEpoch,
    },
}

/// What is known of one replica's answer.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// It counts.
    Clean(CleanAnswer),
    /// It came, and does not count.
    Uncounted,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct CleanAnswer {
    pub(super) incarnation: ReplicaIncarnation,
    pub(super) boot_number: u64,
    pub(super) last_epoch: LeaderEpoch,
    pub(super) durable_end: u64,
}

/// The answers to one epoch of one partition.
#[derive(Debug)]
pub(super) struct Ballot {
    pub(super) epoch: LeaderEpoch,
    pub(super) asked_at_ms: u64,
    answers: BTreeMap<NodeId, Answer>,
    /// Since when enough clean answers are there.
    enough_since_ms: Option<u64>,
}

/// What decides between logs that are equally good.
pub(super) struct Preference<'a> {
    pub(super) target: Option<NodeId>,
    pub(super) is_alive: &'a dyn Fn(NodeId) -> bool,
    /// Whether a node found that its own disk is what others wait for.
    pub(super) is_slow: &'a dyn Fn(NodeId) -> bool,
    /// How many partitions a node leads or is about to lead.
    pub(super) leader_count: &'a dyn Fn(NodeId) -> u32,
}

impl Ballot {
    pub(super) fn new(epoch: LeaderEpoch, now_ms: u64) -> Self {
        Self { epoch, asked_at_ms: now_ms, answers: BTreeMap::new(), enough_since_ms: None }
    }

    /// Notes an answer; only the admitted incarnation in its registered boot counts.
    pub(super) fn note(&mut self, state: &MetadataState, decided: &PartitionState, node: NodeId, answer: CleanAnswer) {
        let admitted = decided.replica(node).is_some_and(|replica| replica.admitted == answer.incarnation);
        let present = state.node(node).is_some_and(|known| known.boot_number == answer.boot_number);
        let answer = if admitted && present { Answer::Clean(answer) } else { Answer::Uncounted };
        self.answers.insert(node, answer);
    }

    pub(super) fn note_unclean(&mut self, node: NodeId) {
        self.answers.insert(node, Answer::Uncounted);
    }

    /// A node that started again owes its answer anew.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.answers.remove(&node);
    }

    pub(super) fn clean_count(&self) -> usize {
        self.clean().count()
    }

    /// The replicas that are asked again: they may be clean by then, or have not heard.
    pub(super) fn owing<'a>(&'a self, decided: &'a PartitionState) -> impl Iterator<Item = NodeId> + 'a {
        let is_clean = |node: &NodeId| matches!(self.answers.get(node), Some(Answer::Clean(_)));
        decided.replicas.iter().map(|replica| replica.node).filter(move |node| !is_clean(node))
    }

    /// When this ballot wants to be looked at again.
    pub(super) fn due_ms(&self, ask_interval_ms: u64, grace_ms: u64) -> u64 {
        let ask_again = self.asked_at_ms.saturating_add(ask_interval_ms);
        self.enough_since_ms.map_or(ask_again, |since| ask_again.min(since.saturating_add(grace_ms)))
    }

    /// The winner, once enough have answered, and everyone who can or a moment has passed for the others.
    pub(super) fn decide(
        &mut self,
        state: &MetadataState,
        (partition, decided): (TopicPartition, &PartitionState),
        preference: &Preference<'_>,
        (now_ms, grace_ms): (u64, u64),
    ) -> Option<LeaderChoice> {
        if self.clean_count() < decided.election_size() {
            self.enough_since_ms = None;
            return None;
        }
        let since = *self.enough_since_ms.get_or_insert(now_ms);
        let may_answer = |node: NodeId| !self.answers.contains_key(&node) && (preference.is_alive)(node);
        let complete = !decided.replicas.iter().any(|replica| may_answer(replica.node));
        if !complete && now_ms < since.saturating_add(grace_ms) {
            return None;
        }
        self.best(state, partition, decided, preference)
    }

    /// The greatest (epoch, durable end) wins; everything else only breaks ties.
    fn best(
        &self,
        state: &MetadataState,
        partition: TopicPartition,
        decided: &PartitionState,
        preference: &Preference<'_>,
    ) -> Option<LeaderChoice> {
        let place = |node: NodeId| decided.replicas.iter().position(|replica| replica.node == node);
        let (leader, best) = self.clean().max_by_key(|&(node, answer)| {
            let rank = (
                (preference.is_alive)(node),
                preference.target == Some(node),
                decided.is_in_quorum(node),
                state.node(node).is_some_and(|known| !known.draining),
                !(preference.is_slow)(node),
                Reverse((preference.leader_count)(node)),
                Reverse(place(node)),
            );
            (answer.last_epoch, answer.durable_end, rank)
        })?;
        Some(LeaderChoice {
            partition,
            epoch: decided.epoch,
            leader,
            incarnation: best.incarnation,
            boot_number: best.boot_number,
        })
    }

    fn clean(&self) -> impl Iterator<Item = (NodeId, CleanAnswer)> {
        self.answers.iter().filter_map(|(node, answer)| match answer {
            Answer::Clean(clean) => Some((*node, *clean)),
            Answer::Uncounted => None,
        })
    }
}
