//! What a leader may propose, ack and hand over: predicates over its followers; nothing here changes anything.

use super::leader::LeaderReplica;
use super::member::Follower;
use super::quorum::quorum_size;
use crate::metadata::ReplicationMode;
use lance_messages::id::{NodeId, ReplicaIncarnation};

/// A follower, as a leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFacts {
    /// The node.
    pub node: NodeId,
    /// Whether it is in R; a newcomer is not.
    pub is_member: bool,
    /// Whether it is in Q.
    pub in_quorum: bool,
    /// The only incarnation whose acks count.
    pub admitted: ReplicaIncarnation,
    /// The latest incarnation heard of.
    pub incarnation: ReplicaIncarnation,
    /// The log position below which that one has synced everything; `None` until it says so in this epoch.
    pub durable_end: Option<u64>,
}

/// A replica that answers takes the place in Q of one that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Leaves Q.
    pub out: NodeId,
    /// Joins Q.
    pub into: NodeId,
    /// The incarnation of the one that joins.
    pub incarnation: ReplicaIncarnation,
}

impl LeaderReplica {
    /// The followers, newcomers included.
    pub fn followers(&self) -> impl Iterator<Item = FollowerFacts> {
        self.followers.iter().map(|follower| {
            let (incarnation, durable_end) = follower.current();
            let (vote, is_member) = (follower.vote, follower.is_member);
            let (node, admitted, in_quorum) = (vote.node, vote.admitted, vote.in_quorum);
            FollowerFacts { node, is_member, in_quorum, admitted, incarnation, durable_end }
        })
    }

    /// The in-quorum set, the leader first.
    pub fn in_quorum(&self) -> Vec<NodeId> {
        let counted = self.members().filter(|follower| follower.vote.in_quorum);
        std::iter::once(self.node).chain(counted.map(|follower| follower.vote.node)).collect()
    }

    /// The position below which everything may be acked to producers.
    ///
    /// L1 acks what the leader's own disk has, while `quorum_responds` (see
    /// [`lacks_responsive_quorum`](Self::lacks_responsive_quorum)) or `lease_holds`: a metadata leader was heard within the last
    /// second. L2 acks what is on a quorum. A leader that stepped down acks nothing new.
    pub fn ack_position(&self, mode: ReplicationMode, quorum_responds: bool, lease_holds: bool) -> u64 {
        let by_own_flush = mode == ReplicationMode::L1 && (quorum_responds || lease_holds);
        if by_own_flush && self.is_leader() { self.own_flush.max(self.high_watermark) } else { self.high_watermark }
    }

    /// Whether this incarnation of a member may be proposed for admission: it holds everything committed, and what could be
    /// committed without it. That the epoch start is committed is not needed: this replica may be the one that is missing.
    pub fn may_admit(&self, node: NodeId, incarnation: ReplicaIncarnation) -> bool {
        let Some(epoch_start_end) = self.epoch_start_end.filter(|_| self.is_leader()) else {
            return false;
        };
        self.members().any(|follower| {
            let is_new = follower.vote.node == node && follower.vote.admitted != incarnation;
            is_new && follower.end_of(incarnation) >= Some(self.high_watermark.max(epoch_start_end))
        })
    }

    /// Whether an evicted member may be proposed for Q: admitted, and it holds everything below the high watermark.
    pub fn may_rejoin(&self, node: NodeId) -> bool {
        self.may_propose()
            && self.evicted().any(|follower| follower.vote.node == node && self.holds_committed(follower))
    }

    /// Whether a member may be proposed to leave Q: it is in Q, and enough others stay.
    pub fn may_evict(&self, node: NodeId) -> bool {
        let in_quorum = self.members().filter(|follower| follower.vote.in_quorum);
        let is_in_quorum = in_quorum.clone().any(|follower| follower.vote.node == node);
        // The leader and all but one of its followers in Q.
        self.may_propose() && is_in_quorum && in_quorum.count() >= self.quorum()
    }

    /// Whether `replicas` may be proposed for R: the leader stays in it, and everything below the high watermark and the epoch
    /// start is durable on a quorum of it and on each newcomer.
    pub fn may_change_replicas(&self, replicas: &[NodeId]) -> bool {
        let Some(epoch_start_end) = self.epoch_start_end.filter(|_| self.may_propose()) else {
            return false;
        };
        let needed = self.high_watermark.max(epoch_start_end);
        let has_all = |node: &NodeId| {
            let follower = self.follower(*node);
            *node == self.node || follower.is_some_and(|known| known.is_member || known.clean_end() >= Some(needed))
        };
        replicas.contains(&self.node) && replicas.iter().all(has_all) && self.position_on(replicas) >= Some(needed)
    }

    /// Whether those of `replicas` that are in Q now, and who would enter it with them, make a quorum of them: with fewer R is
    /// not changed to them. Q may have lost one of them since that was proposed.
    pub fn may_become(&self, replicas: &[NodeId]) -> bool {
        let enters = |known: &Follower| !known.is_member || known.vote.in_quorum;
        let counted = replicas.iter().filter(|node| **node == self.node || self.follower(**node).is_none_or(enters));
        counted.count() >= quorum_size(replicas.len())
    }

    /// Whether fewer than a quorum of the replicas that count, this one among them, respond.
    pub fn lacks_responsive_quorum(&self, responds: impl Fn(NodeId) -> bool) -> bool {
        let counted = self.members().filter(|follower| follower.counted_end(false).is_some());
        1 + counted.filter(|follower| responds(follower.vote.node)).count() < self.quorum()
    }

    /// The swap that brings a spare into Q, once Q lacks a responsive quorum: a clean evicted replica that responds and holds
    /// everything committed, the one that holds most, for a member that does not respond or does not count.
    pub fn spare_swap(&self, responds: impl Fn(NodeId) -> bool) -> Option<Swap> {
        if !self.may_propose() || !self.lacks_responsive_quorum(&responds) {
            return None;
        }
        let useless = |follower: &&Follower| follower.counted_end(false).is_none() || !responds(follower.vote.node);
        let out = self.members().filter(|follower| follower.vote.in_quorum).find(useless)?;
        let spares = self.evicted().filter(|follower| responds(follower.vote.node) && self.holds_committed(follower));
        let into = spares.max_by_key(|follower| follower.clean_end())?;
        Some(Swap { out: out.vote.node, into: into.vote.node, incarnation: into.vote.admitted })
    }

    /// Whether an admitted member has synced everything of a log that ends at `log_end`: leadership can move there without a
    /// producer being told of an error.
    pub fn holds_everything(&self, node: NodeId, log_end: u64) -> bool {
        self.members().any(|follower| follower.vote.node == node && follower.clean_end() == Some(log_end))
    }

    /// One change at a time, and none before the epoch start is committed.
    fn may_propose(&self) -> bool {
        self.is_serving() && !self.is_change_pending()
    }

    fn evicted(&self) -> impl Iterator<Item = &Follower> {
        self.members().filter(|follower| !follower.vote.in_quorum)
    }

    fn holds_committed(&self, follower: &Follower) -> bool {
        follower.clean_end() >= Some(self.high_watermark)
    }
}
