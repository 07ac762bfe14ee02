//! Members of the metadata group: how they come, change and go.

use super::raft_config::RaftError;
use super::raft_node::{RaftCore, RaftEffect};
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Message, MessageType};

/// How many entries a learner may lack and still become a voter.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// What becomes of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberChange {
    /// It votes.
    Voter(u64),
    /// It only follows.
    Learner(u64),
    /// It leaves.
    Leaves(u64),
}

impl RaftCore {
    /// Proposes a change of members, by joint consensus when it is more than one; none at all ends a joint configuration.
    ///
    /// Whether it comes about is seen by [`RaftCore::conf`]: the raft crate drops a change while another is pending.
    pub(super) fn propose_members(
        &mut self,
        changes: &[MemberChange],
        effects: &mut Vec<RaftEffect>,
    ) -> Result<(), RaftError> {
        let mut change = ConfChangeV2::default();
        change.set_changes(changes.iter().map(|change| change.to_raft()).collect::<Vec<_>>().into());
        self.run(effects, |core, _| match core.node.propose_conf_change(Vec::new(), change) {
            Ok(()) | Err(raft::Error::ProposalDropped) => Ok(()),
            Err(source) => Err(RaftError::Failed { source }),
        })
    }

    /// Hands leadership to another voter.
    pub(super) fn transfer_leader(&mut self, to: u64, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        self.run(effects, |core, _| {
            core.node.transfer_leader(to);
            Ok(())
        })
    }

    /// Whether a change of members may be under way.
    pub(super) fn has_pending_members(&self) -> bool {
        self.node.raft.has_pending_conf()
    }

    /// Whether a member was heard lately and lacks next to nothing; only the leader knows.
    pub(super) fn is_caught_up(&self, id: u64) -> bool {
        self.node.raft.prs().get(id).is_some_and(|progress| {
            progress.recent_active
                && progress.matched > 0
                && progress.matched.saturating_add(CAUGHT_UP_ENTRIES) >= self.committed_index()
        })
    }

    /// Whether this node knows no members yet: it takes part once a member's snapshot has come.
    pub fn is_joining(&self) -> bool {
        self.node.store().conf().voters.is_empty()
    }

    /// Entries alone would not tell who the members are: what follows the first of them builds on a configuration.
    pub(super) fn ask_for_snapshot(
        &mut self,
        append: &Message,
        effects: &mut Vec<RaftEffect>,
    ) -> Result<(), RaftError> {
        let mut answer = Message {
            to: append.from,
            from: self.config.id,
            term: append.term,
            index: append.index,
            reject: true,
            request_snapshot: 1,
            ..Message::default()
        };
        answer.set_msg_type(MessageType::MsgAppendResponse);
        self.send(vec![answer], effects)
    }
}

impl MemberChange {
    fn to_raft(self) -> ConfChangeSingle {
        let (kind, node_id) = match self {
            Self::Voter(id) => (ConfChangeType::AddNode, id),
            Self::Learner(id) => (ConfChangeType::AddLearnerNode, id),
            Self::Leaves(id) => (ConfChangeType::RemoveNode, id),
        };
        let mut single = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        single
    }
}
