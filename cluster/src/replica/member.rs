//! What a leader knows of one follower: its vote, its present life, and how far that one has synced.

use super::leader::Vote;
use lance_messages::id::{NodeId, ReplicaIncarnation};

/// Most lives of a replica that are remembered as over, in one epoch of its leader.
const MAX_RETIRED: usize = 64;

/// A member of R other than the leader, or a newcomer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Follower {
    pub(super) vote: Vote,
    /// Whether it is in R.
    pub(super) is_member: bool,
    /// The latest incarnation heard of.
    current: ReplicaIncarnation,
    /// Incarnations before it: what they acked may be gone.
    retired: Vec<ReplicaIncarnation>,
    /// What the current one has synced.
    durable_end: Option<u64>,
}

impl Follower {
    pub(super) fn member(vote: Vote) -> Self {
        Self { vote, is_member: true, current: vote.admitted, retired: Vec::new(), durable_end: None }
    }

    pub(super) fn newcomer(node: NodeId, incarnation: ReplicaIncarnation) -> Self {
        let vote = Vote { node, admitted: incarnation, in_quorum: false };
        Self { is_member: false, ..Self::member(vote) }
    }

    /// It is in R now, with this vote.
    pub(super) fn join(&mut self, vote: Vote) {
        self.vote = vote;
        self.is_member = true;
        self.meet(vote.admitted);
    }

    /// Takes note of an incarnation; false when its life is over.
    pub(super) fn meet(&mut self, incarnation: ReplicaIncarnation) -> bool {
        if incarnation == self.current {
            return true;
        }
        let same_node = incarnation.node == self.current.node;
        if self.retired.contains(&incarnation) || same_node && incarnation < self.current {
            return false;
        }
        if self.retired.len() == MAX_RETIRED {
            self.retired.remove(0);
        }
        self.retired.push(self.current);
        self.current = incarnation;
        self.durable_end = None;
        true
    }

    /// True when that is more than was known.
    pub(super) fn on_appended(&mut self, incarnation: ReplicaIncarnation, durable_end: u64) -> bool {
        if !self.meet(incarnation) || self.durable_end >= Some(durable_end) {
            return false;
        }
        self.durable_end = Some(durable_end);
        true
    }

    /// What it has synced if its life is the admitted one: a clean copy.
    pub(super) fn clean_end(&self) -> Option<u64> {
        self.durable_end.filter(|_| self.current == self.vote.admitted)
    }

    /// What counts towards a quorum; `as_member` as if it had joined the in-quorum set.
    pub(super) fn counted_end(&self, as_member: bool) -> Option<u64> {
        self.clean_end().filter(|_| self.vote.in_quorum || as_member)
    }

    /// What `incarnation` has synced, if it is the present one.
    pub(super) fn end_of(&self, incarnation: ReplicaIncarnation) -> Option<u64> {
        self.durable_end.filter(|_| self.current == incarnation)
    }

    /// The latest incarnation heard of, and what it has synced.
    pub(super) fn current(&self) -> (ReplicaIncarnation, Option<u64>) {
        (self.current, self.durable_end)
    }
}
