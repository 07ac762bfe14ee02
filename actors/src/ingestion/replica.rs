//! A partition's place among its replicas, as its ingestion core holds it: the leader's side and the follower's side.

use lance_cluster::metadata::ReplicationMode;
use lance_cluster::replica::{FollowerFlow, FollowerReplica, LeaderReplica, Vote};
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicPartition};
use lance_messages::peer::{PeerIdentity, TruncateRequest};
use std::time::Duration;

/// What the metadata decided about a partition that this node leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderRole {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch it is led in.
    pub epoch: LeaderEpoch,
    /// Every replica, this node included.
    pub votes: Vec<Vote>,
    /// When a producer is acked.
    pub mode: ReplicationMode,
    /// Version of the in-quorum set in `votes`.
    pub in_quorum_version: u32,
    /// Version of the replica set in `votes`, and of `planned`.
    pub replicas_version: u32,
    /// The replica set that shall follow; empty while none shall.
    pub planned: Vec<NodeId>,
}

impl LeaderRole {
    /// The role of a partition with one copy.
    pub fn alone(partition: TopicPartition, epoch: LeaderEpoch) -> Self {
        let (votes, mode) = (Vec::new(), ReplicationMode::L1);
        Self { partition, epoch, votes, mode, in_quorum_version: 0, replicas_version: 0, planned: Vec::new() }
    }

    /// Whether anybody else holds a copy, or is being given one.
    pub fn is_replicated(&self) -> bool {
        self.votes.len() > 1 || self.newcomer().is_some()
    }

    /// The node that is being given a copy.
    pub fn newcomer(&self) -> Option<NodeId> {
        self.planned.iter().copied().find(|node| self.votes.iter().all(|vote| vote.node != *node))
    }

    /// Which copy of `node` may count: of others nothing does, as they are dropped, or were.
    pub fn copy_version(&self, node: NodeId) -> Option<u32> {
        match self.votes.iter().find(|vote| vote.node == node) {
            Some(vote) => Some(vote.admitted.copy_version),
            None => self.planned.contains(&node).then_some(self.replicas_version),
        }
    }

    /// Whether what `node` has synced counts towards a quorum.
    pub fn counts(&self, node: NodeId) -> bool {
        self.votes.iter().any(|vote| vote.node == node && vote.in_quorum)
    }

    /// The nodes that are fed.
    pub fn fed(&self, own: NodeId) -> impl Iterator<Item = NodeId> {
        self.votes.iter().map(|vote| vote.node).chain(self.newcomer()).filter(move |node| *node != own)
    }
}

/// The leader's side of a partition with followers.
#[derive(Debug)]
pub struct LeaderSide {
    /// What was decided.
    pub role: LeaderRole,
    /// Who has what, and what follows from it.
    pub quorum: LeaderReplica,
    /// The followers and what was sent to each.
    pub followers: Vec<Follower>,
    /// A planned move is under way: nothing is appended meanwhile.
    pub moving: Option<Move>,
    /// When the planned replica set was last proposed; from then on until the outcome is known it counts as well.
    pub replacing: Option<Duration>,
}

/// A planned move of a leadership.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// To whom.
    pub to: NodeId,
    /// When it is given up.
    pub until: Duration,
    /// It was reported that the target holds everything.
    pub reported: bool,
}

/// One follower.
#[derive(Debug)]
pub struct Follower {
    /// Its node.
    pub node: NodeId,
    /// Which start of it is connected.
    pub peer: Option<PeerIdentity>,
    /// The replica incarnation it last answered with.
    pub incarnation: Option<ReplicaIncarnation>,
    /// What it was sent and what it has.
    pub flow: FollowerFlow,
    /// A reader thread reads for it.
    pub reading: bool,
}

impl LeaderSide {
    /// The follower on `node`.
    pub fn follower_mut(&mut self, node: NodeId) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|follower| follower.node == node)
    }
}

/// The follower's side: what was promised, to whom, and what waits.
#[derive(Debug)]
pub struct FollowerSide {
    /// Promises and what they allow.
    pub replica: FollowerReplica,
    /// Whom acks go to: the session that the newest accepted append came on.
    pub session: Option<u64>,
    /// A promise that is answered once nothing is being written any more.
    pub promising: Option<LeaderEpoch>,
    /// The promise answered last: only in that epoch may this life of the log be led.
    pub answered: Option<LeaderEpoch>,
    /// A cut that begins once nothing is being written any more.
    pub truncating: Option<(u64, TruncateRequest)>,
}

/// What a replica says to a request for its promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// It acks nothing of lower epochs any more; its log is durable up to here and nothing is in flight.
    Clean {
        /// Its incarnation.
        incarnation: ReplicaIncarnation,
        /// Epoch of its last durable batch.
        last_epoch: LeaderEpoch,
        /// First position not durable.
        durable_end: u64,
    },
    /// It cannot write and could not lead, or it holds nothing that says how far it was.
    Unclean,
    /// It has promised this higher epoch.
    Promised(LeaderEpoch),
}
