//! Who belongs to the metadata group: nodes that register learn, up to three of them vote, and who is replaced leaves.

use super::controller::ControllerOptions;
use super::feature::FeatureLevel;
use super::raft_config::RaftConfig;
use super::raft_members::MemberChange;
use super::raft_persist::RaftConf;
use super::state::MetadataState;
use lance_messages::id::NodeId;

/// Voters are added up to this many; more that were there from the beginning stay.
pub const MAX_ADDED_VOTERS: usize = 3;

/// A node that the cluster begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenesisNode {
    /// The node.
    pub node: NodeId,
    /// Its first incarnation: its raft id.
    pub incarnation: u64,
    /// Where it is reached, host:port.
    pub address: String,
}

/// What a metadata core is started with.
#[derive(Clone, Debug)]
pub struct MetadataOptions {
    /// How Raft is tuned, and this node's raft id.
    pub raft: RaftConfig,
    /// The nodes the cluster begins with; when it is empty, any node may register.
    pub genesis: Vec<GenesisNode>,
    /// How patient the controller is.
    pub controller: ControllerOptions,
    /// The newest feature level that this node understands.
    pub understands: FeatureLevel,
}

impl From<RaftConfig> for MetadataOptions {
    fn from(raft: RaftConfig) -> Self {
        Self { raft, genesis: Vec::new(), controller: ControllerOptions::default(), understands: FeatureLevel::NEWEST }
    }
}

/// What the metadata leader does next about the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MembershipStep {
    /// Propose these changes.
    Change(Vec<MemberChange>),
    /// Let this voter lead: the present leader is to leave.
    HandOver(u64),
}

/// What it decides by.
pub(super) struct Membership<'a> {
    pub(super) state: &'a MetadataState,
    pub(super) conf: &'a RaftConf,
    /// The leader's own raft id.
    pub(super) own_id: u64,
    pub(super) is_caught_up: &'a dyn Fn(u64) -> bool,
}

impl Membership<'_> {
    /// The next step, one at a time; `None` when the members are as they shall be, or nothing can be done yet.
    pub(super) fn next_step(&self) -> Option<MembershipStep> {
        let conf = self.conf;
        if !conf.voters_outgoing.is_empty() {
            return Some(MembershipStep::Change(Vec::new()));
        }
        if let Some(id) = conf.learners.iter().find(|id| self.is_stale(**id)) {
            return Some(MembershipStep::Change(vec![MemberChange::Leaves(*id)]));
        }
        let is_member = |id: &u64| conf.voters.contains(id) || conf.learners.contains(id);
        if let Some(id) = self.state.nodes().map(|(_, node)| node.incarnation).find(|id| !is_member(id)) {
            return Some(MembershipStep::Change(vec![MemberChange::Learner(id)]));
        }
        if let Some(step) = conf.voters.iter().filter(|id| self.is_stale(**id)).find_map(|id| self.retire(*id)) {
            return Some(step);
        }
        if conf.voters.len() < MAX_ADDED_VOTERS {
            let id = self.ready_learner()?;
            return Some(MembershipStep::Change(vec![MemberChange::Voter(id)]));
        }
        None
    }

    /// Whether an id belongs to a life that is over. Ids nobody registered yet are those of the beginning.
    fn is_stale(&self, id: u64) -> bool {
        self.state
            .had_incarnation(id)
            .is_some_and(|node| self.state.node(node).is_none_or(|known| known.incarnation != id))
    }

    /// How a voter leaves: for the next life of its node, for any learner if the node is gone, or without a successor.
    fn retire(&self, id: u64) -> Option<MembershipStep> {
        if id == self.own_id {
            let other = |other: &&u64| **other != id && !self.is_stale(**other) && (self.is_caught_up)(**other);
            return self.conf.voters.iter().find(other).map(|other| MembershipStep::HandOver(*other));
        }
        let node = self.state.had_incarnation(id).and_then(|node| self.state.node(node));
        let leaves = MemberChange::Leaves(id);
        let successor = match node.map(|node| node.incarnation) {
            Some(next) if self.conf.voters.contains(&next) => None,
            Some(next) if (self.is_caught_up)(next) => Some(next),
            // Its next life still has to catch up.
            Some(_) => return None,
            None => self.ready_learner(),
        };
        match successor {
            Some(next) => Some(MembershipStep::Change(vec![leaves, MemberChange::Voter(next)])),
            None if self.conf.voters.len() > 1 => Some(MembershipStep::Change(vec![leaves])),
            None => None,
        }
    }

    /// A learner that could vote at once; one that is being emptied only when there is no other.
    fn ready_learner(&self) -> Option<u64> {
        let ready = self.state.nodes().filter(|(_, node)| {
            self.conf.learners.contains(&node.incarnation) && (self.is_caught_up)(node.incarnation)
        });
        ready.min_by_key(|(id, node)| (node.draining, *id)).map(|(_, node)| node.incarnation)
    }
}
