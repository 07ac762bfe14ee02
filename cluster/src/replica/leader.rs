//! The leader's side of a partition in one epoch: whose votes count, and how far the high watermark may go.

use super::quorum::{quorum_position, quorum_size};
use crate::metadata::ReplicaIncarnation;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};

/// A replica that can vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

#[derive(Clone, Copy, Debug)]
struct Follower {
    vote: Vote,
    durable_end: Option<u64>,
}

/// The leader of one partition in one epoch, with M replicas, M = 1 included.
#[derive(Clone, Debug)]
pub struct LeaderReplica {
    partition: TopicPartition,
    epoch: LeaderEpoch,
    followers: Vec<Follower>,
    high_watermark: u64,
    /// The end of the epoch-start batch, once it is appended.
    epoch_start_end: Option<u64>,
    own_flush: u64,
    led: bool,
    stepped_down: bool,
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
        let followers = replicas
            .iter()
            .filter(|vote| vote.node != node)
            .map(|&vote| Follower { vote, durable_end: None })
            .collect();
        Self {
            partition,
            epoch,
            followers,
            high_watermark,
            epoch_start_end: None,
            own_flush,
            led: false,
            stepped_down: false,
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

    /// A follower has synced below `durable_end`. It counts only for this epoch and from the admitted incarnation.
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
        let Some(follower) = self.followers.iter_mut().find(|follower| follower.vote.node == node) else {
            return;
        };
        if follower.vote.admitted != incarnation || follower.durable_end >= Some(durable_end) {
            return;
        }
        follower.durable_end = Some(durable_end);
        self.advance(effects);
    }

    /// A replica has promised a higher epoch.
    pub fn on_fenced(&mut self, promised: LeaderEpoch, effects: &mut Vec<LeaderEffect>) {
        if promised > self.epoch && !self.stepped_down {
            self.stepped_down = true;
            effects.push(LeaderEffect::SteppedDown { partition: self.partition, promised });
        }
    }

    /// The in-quorum set changed by a committed entry.
    pub fn on_in_quorum_changed(&mut self, in_quorum: &[NodeId], effects: &mut Vec<LeaderEffect>) {
        for follower in &mut self.followers {
            follower.vote.in_quorum = in_quorum.contains(&follower.vote.node);
        }
        self.advance(effects);
    }

    /// An incarnation was admitted by a committed entry: what another one acked counts no more.
    pub fn on_admitted(&mut self, node: NodeId, incarnation: ReplicaIncarnation) {
        if let Some(follower) = self.followers.iter_mut().find(|follower| follower.vote.node == node)
            && follower.vote.admitted != incarnation
        {
            follower.vote.admitted = incarnation;
            follower.durable_end = None;
        }
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
        self.followers.len() + 1
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

    fn advance(&mut self, effects: &mut Vec<LeaderEffect>) {
        if self.stepped_down {
            return;
        }
        let Some(epoch_start_end) = self.epoch_start_end else {
            return;
        };
        let counted = self.followers.iter().filter(|follower| follower.vote.in_quorum);
        let acks = counted.filter_map(|follower| follower.durable_end);
        let Some(position) = quorum_position(self.copies(), self.own_flush, acks) else {
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
