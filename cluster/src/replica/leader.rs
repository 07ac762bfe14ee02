//! The leader's side of a partition in one epoch: whose votes count, and how far the high watermark may go.

use super::member::Follower;
use super::quorum::{quorum_position, quorum_size};
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicPartition};

/// A replica that can vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The node.
    pub node: NodeId,
    /// The only incarnation whose acks count.
    pub admitted: ReplicaIncarnation,
    /// Whether it is in the in-quorum set.
    pub in_quorum: bool,
}

/// What follows from an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderEffect {
    /// Everything below this position is on a quorum; it only rises.
    HighWatermarkAdvanced {
        /// The partition.
        partition: TopicPartition,
        /// The new high watermark.
        position: u64,
    },
    /// The epoch-start batch is on a quorum: the leader may serve fetches and report leading.
    Led {
        /// The partition.
        partition: TopicPartition,
        /// The epoch.
        epoch: LeaderEpoch,
    },
    /// A higher epoch exists: this leader acks nothing any more.
    SteppedDown {
        /// The partition.
        partition: TopicPartition,
        /// The epoch that a replica has promised.
        promised: LeaderEpoch,
    },
}

/// A change that was proposed and whose outcome is not known yet: both outcomes must be safe meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Pending {
    /// Of the in-quorum set, to these.
    InQuorum(Vec<NodeId>),
    /// Of the replica set, to these.
    Replicas(Vec<NodeId>),
}

/// The leader of one partition in one epoch, with M replicas, M = 1 included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaderReplica {
    pub(super) partition: TopicPartition,
    pub(super) epoch: LeaderEpoch,
    pub(super) node: NodeId,
    /// Members of R other than the leader, and newcomers.
    pub(super) followers: Vec<Follower>,
    pub(super) high_watermark: u64,
    /// The end of the epoch-start batch, once it is appended.
    pub(super) epoch_start_end: Option<u64>,
    pub(super) own_flush: u64,
    pub(super) led: bool,
    pub(super) stepped_down: bool,
    pending: Option<Pending>,
}

impl LeaderReplica {
    /// Takes the role chosen for `node` in `epoch`. `high_watermark` and `own_flush` are what its log knows.
    pub fn new(
        partition: TopicPartition,
        epoch: LeaderEpoch,
        node: NodeId,
        replicas: &[Vote],
        high_watermark: u64,
        own_flush: u64,
    ) -> Self {
        let followers = replicas.iter().filter(|vote| vote.node != node).map(|&vote| Follower::member(vote)).collect();
        Self {
            partition,
            epoch,
            node,
            followers,
            high_watermark,
            epoch_start_end: None,
            own_flush,
            led: false,
            stepped_down: false,
            pending: None,
        }
    }

    /// The epoch-start batch was appended and ends at `end_position`.
    pub fn on_epoch_started(&mut self, end_position: u64, effects: &mut Vec<LeaderEffect>) {
        if self.epoch_start_end.is_none() {
            self.epoch_start_end = Some(end_position);
            self.advance(effects);
        }
    }

    /// The leader's own log is synced below `durable_end`: its own vote, never earlier.
    pub fn on_local_flushed(&mut self, durable_end: u64, effects: &mut Vec<LeaderEffect>) {
        if durable_end > self.own_flush {
            self.own_flush = durable_end;
            self.advance(effects);
        }
    }

    /// A follower has synced below `durable_end`. It counts only for this epoch and from the admitted incarnation; of another
    /// incarnation it is remembered, so that this one can be admitted.
    pub fn on_appended(
        &mut self,
        node: NodeId,
        epoch: LeaderEpoch,
        incarnation: ReplicaIncarnation,
        durable_end: u64,
        effects: &mut Vec<LeaderEffect>,
    ) {
        if epoch != self.epoch {
            return;
        }
        if let Some(follower) = self.follower_mut(node)
            && follower.on_appended(incarnation, durable_end)
        {
            self.advance(effects);
        }
    }

    /// A node answers, connects or registers with this incarnation: what an earlier one of the replica acked counts no more.
    pub fn on_incarnation_heard(&mut self, node: NodeId, incarnation: ReplicaIncarnation) {
        if let Some(follower) = self.follower_mut(node) {
            follower.meet(incarnation);
        }
    }

    /// A replica has promised a higher epoch; this node's own promise is one.
    pub fn on_fenced(&mut self, promised: LeaderEpoch, effects: &mut Vec<LeaderEffect>) {
        if promised > self.epoch && !self.stepped_down {
            self.stepped_down = true;
            effects.push(LeaderEffect::SteppedDown { partition: self.partition, promised });
        }
    }

    /// This in-quorum set is about to be proposed: until the outcome is known only members of both sets count.
    pub fn on_quorum_change_proposed(&mut self, in_quorum: &[NodeId]) {
        self.pending = Some(Pending::InQuorum(in_quorum.to_vec()));
    }

    /// The in-quorum set changed by a committed entry.
    pub fn on_in_quorum_changed(&mut self, in_quorum: &[NodeId], effects: &mut Vec<LeaderEffect>) {
        if matches!(self.pending, Some(Pending::InQuorum(_))) {
            self.pending = None;
        }
        for follower in self.followers.iter_mut().filter(|follower| follower.is_member) {
            follower.vote.in_quorum = in_quorum.contains(&follower.vote.node);
        }
        self.advance(effects);
    }

    /// The proposed change will never be committed: it was refused, or another one of its version was committed.
    pub fn on_change_refused(&mut self, effects: &mut Vec<LeaderEffect>) {
        self.pending = None;
        self.advance(effects);
    }

    /// Which replicas count changed by a committed entry, and not who holds a copy: a proposed replica set stays pending.
    pub fn on_votes_changed(&mut self, replicas: &[Vote], effects: &mut Vec<LeaderEffect>) {
        if matches!(self.pending, Some(Pending::InQuorum(_))) {
            self.pending = None;
        }
        for &vote in replicas {
            if let Some(follower) = self.follower_mut(vote.node).filter(|follower| follower.is_member) {
                follower.join(vote);
            }
        }
        self.advance(effects);
    }

    /// An incarnation was admitted by a committed entry: what another one acked counts no more.
    pub fn on_admitted(&mut self, node: NodeId, incarnation: ReplicaIncarnation, effects: &mut Vec<LeaderEffect>) {
        if let Some(follower) = self.follower_mut(node) {
            follower.vote.admitted = incarnation;
            follower.meet(incarnation);
            self.advance(effects);
        }
    }

    /// A node that shall join R is fed from now on: tracked, not counted. One that began another life starts from nothing.
    pub fn on_newcomer_added(&mut self, node: NodeId, incarnation: ReplicaIncarnation) {
        let known = self.follower(node).map(|follower| (follower.is_member, follower.vote.admitted));
        if node == self.node || known.is_some_and(|(is_member, admitted)| is_member || admitted == incarnation) {
            return;
        }
        self.on_newcomer_removed(node);
        self.followers.push(Follower::newcomer(node, incarnation));
    }

    /// A node shall not join R any more.
    pub fn on_newcomer_removed(&mut self, node: NodeId) {
        self.followers.retain(|follower| follower.is_member || follower.vote.node != node);
    }

    /// This replica set is about to be proposed: until the outcome is known the high watermark is on a quorum of the present
    /// set and of this one. It includes the leader, and of nodes outside R only newcomers that were added.
    pub fn on_replicas_change_proposed(&mut self, replicas: &[NodeId]) {
        self.pending = Some(Pending::Replicas(replicas.to_vec()));
    }

    /// The replica set changed by a committed entry; what its members have acked stays known.
    pub fn on_replicas_changed(&mut self, replicas: &[Vote], effects: &mut Vec<LeaderEffect>) {
        self.pending = None;
        let mut members = Vec::with_capacity(replicas.len());
        for &vote in replicas.iter().filter(|vote| vote.node != self.node) {
            let known = self.followers.iter().position(|follower| follower.vote.node == vote.node);
            let mut follower = known.map_or_else(|| Follower::member(vote), |at| self.followers.swap_remove(at));
            follower.join(vote);
            members.push(follower);
        }
        members.extend(self.followers.drain(..).filter(|follower| !follower.is_member));
        self.followers = members;
        self.advance(effects);
    }

    /// The partition.
    pub fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// The epoch.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// How many replicas the partition has, M.
    pub fn copies(&self) -> usize {
        self.members().count() + 1
    }

    /// How many replicas make a quorum.
    pub fn quorum(&self) -> usize {
        quorum_size(self.copies())
    }

    /// Everything below is on a quorum.
    pub fn high_watermark(&self) -> u64 {
        self.high_watermark
    }

    /// Whether its epoch-start batch is on a quorum and no higher epoch is known: it may serve fetches.
    pub fn is_serving(&self) -> bool {
        self.led && !self.stepped_down
    }

    /// Whether it may still ack: no higher epoch is known.
    pub fn is_leader(&self) -> bool {
        !self.stepped_down
    }

    /// Whether a proposed change of R or Q has no known outcome yet.
    pub fn is_change_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Members of R other than the leader.
    pub(super) fn members(&self) -> impl Iterator<Item = &Follower> + Clone {
        self.followers.iter().filter(|follower| follower.is_member)
    }

    pub(super) fn follower(&self, node: NodeId) -> Option<&Follower> {
        self.followers.iter().find(|follower| follower.vote.node == node)
    }

    fn follower_mut(&mut self, node: NodeId) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|follower| follower.vote.node == node)
    }

    /// How far a quorum of `replicas` has the log; a newcomer counts in it as if it had joined.
    pub(super) fn position_on(&self, replicas: &[NodeId]) -> Option<u64> {
        let of_set = self.followers.iter().filter(|follower| replicas.contains(&follower.vote.node));
        let acks = of_set.filter_map(|follower| follower.counted_end(!follower.is_member));
        quorum_position(replicas.len(), self.own_flush, acks)
    }

    fn committed_position(&self) -> Option<u64> {
        let stays = |follower: &&Follower| match &self.pending {
            Some(Pending::InQuorum(in_quorum)) => in_quorum.contains(&follower.vote.node),
            _ => true,
        };
        let acks = self.members().filter(stays).filter_map(|follower| follower.counted_end(false));
        let position = quorum_position(self.copies(), self.own_flush, acks)?;
        match &self.pending {
            // Whichever set the next election is held in, a majority of it answers with what was committed.
            Some(Pending::Replicas(replicas)) => Some(position.min(self.position_on(replicas)?)),
            _ => Some(position),
        }
    }

    fn advance(&mut self, effects: &mut Vec<LeaderEffect>) {
        if self.stepped_down {
            return;
        }
        let (Some(epoch_start_end), Some(position)) = (self.epoch_start_end, self.committed_position()) else {
            return;
        };
        // Batches of older epochs are committed only along with one of this epoch: a successor elected without them could
        // otherwise still win.
        if position < epoch_start_end {
            return;
        }
        if position > self.high_watermark {
            self.high_watermark = position;
            effects.push(LeaderEffect::HighWatermarkAdvanced { partition: self.partition, position });
        }
        if !self.led {
            self.led = true;
            effects.push(LeaderEffect::Led { partition: self.partition, epoch: self.epoch });
        }
    }
}
