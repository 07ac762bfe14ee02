//! Which start of a node is its newest: who starts on an older image of its disk has forgotten what it confirmed, and neither
//! votes nor answers elections any more. It asks its peers before it takes part in Raft, and judges what they know itself.

use super::command::MetadataCommand;
use super::core::{MetadataCore, MetadataError};
use super::raft_persist::RaftEntry;
use super::state::MetadataState;
use lance_messages::id::NodeId;
use lance_messages::peer::PeerIdentity;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How long a start waits for what the voters know of it, in milliseconds: of those that are gone nothing is heard.
pub const START_CHECK_MS: u64 = 1_000;

/// One start of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStart {
    /// The node.
    pub node: NodeId,
    /// Id of the life of its data directory.
    pub incarnation: u64,
    /// Its number.
    pub boot_number: u64,
    /// Made for it alone.
    pub nonce: u64,
}

/// What a node knows of another one's starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartKnowledge {
    /// Nothing.
    Unknown,
    /// The newest in the life asked about.
    Newest {
        /// Its number.
        boot_number: u64,
        /// Its nonce.
        nonce: u64,
    },
    /// That life is over.
    Retired,
}

/// Why a start is one on an older image of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PastStart {
    /// Another start was registered that the disk knows nothing of.
    #[error("start {known} of this node was registered, and its disk does not know of it: it is of an earlier time")]
    Forgotten {
        /// The number of that start.
        known: u64,
    },
    /// The life has ended.
    #[error("this life of the node has ended: its disk is of an earlier time")]
    Retired,
}

impl StartKnowledge {
    /// What this says of `own`; `nonce_of` gives the nonces of earlier starts, as far as the disk has them.
    pub fn judge(self, own: NodeStart, nonce_of: impl Fn(u64) -> Option<u64>) -> Result<(), PastStart> {
        match self {
            Self::Unknown => Ok(()),
            Self::Retired => Err(PastStart::Retired),
            Self::Newest { boot_number, nonce } => {
                let is_own = match boot_number {
                    number if number > own.boot_number => false,
                    number if number == own.boot_number => nonce == own.nonce,
                    number => nonce_of(number).is_none_or(|known| known == nonce),
                };
                if is_own { Ok(()) } else { Err(PastStart::Forgotten { known: boot_number }) }
            }
        }
    }
}

/// The newest start of each node, also where its registration is not known to be committed.
#[derive(Clone, Debug, Default)]
pub struct KnownStarts {
    newest: BTreeMap<NodeId, NodeStart>,
}

impl KnownStarts {
    /// Those that the log tells of: a node proposes only starts that its disk has.
    pub fn of_log(entries: &[RaftEntry]) -> Self {
        let mut starts = Self::default();
        for entry in entries {
            let command = entry.command().and_then(|command| MetadataCommand::decode(command).ok());
            if let Some(MetadataCommand::RegisterNode { node, incarnation, boot_number, nonce, .. }) = command {
                starts.note(NodeStart { node, incarnation, boot_number, nonce });
            }
        }
        starts
    }

    /// What is known about the life of `start`.
    pub fn about(&self, state: &MetadataState, start: NodeStart) -> StartKnowledge {
        if state.is_retired(start.node, start.incarnation) {
            return StartKnowledge::Retired;
        }
        let registered = state.node(start.node).filter(|known| known.incarnation == start.incarnation);
        let registered = registered.map(|known| (known.boot_number, known.nonce));
        let noted = self.newest.get(&start.node).filter(|noted| noted.incarnation == start.incarnation);
        let noted = noted.map(|noted| (noted.boot_number, noted.nonce));
        // What is committed stands above a registration of the same number that came to nothing.
        match (registered, noted) {
            (Some(registered), Some(noted)) if noted.0 > registered.0 => Some(noted),
            (None, noted) => noted,
            (registered, _) => registered,
        }
        .map_or(StartKnowledge::Unknown, |(boot_number, nonce)| StartKnowledge::Newest { boot_number, nonce })
    }

    /// What a node that asks about its `start` is told: of what is committed first, since a start that was only told of may
    /// itself be one on an older image, which ended before it heard so.
    pub fn answers(&self, state: &MetadataState, start: NodeStart) -> Vec<StartKnowledge> {
        let newest = self.about(state, start);
        let registered = Self::default().about(state, start);
        if registered == newest || registered == StartKnowledge::Unknown {
            vec![newest]
        } else {
            vec![registered, newest]
        }
    }

    /// A node tells of its start, which it may be asked about later.
    pub fn note(&mut self, start: NodeStart) {
        let known = self.newest.entry(start.node).or_insert(start);
        if known.incarnation != start.incarnation || known.boot_number < start.boot_number {
            *known = start;
        }
    }

    /// Whether what comes from `peer` comes from an earlier start than the newest one, or from a life that is over.
    pub fn is_past(&self, state: &MetadataState, peer: PeerIdentity) -> bool {
        let PeerIdentity { node, incarnation, boot_number } = peer;
        match self.about(state, NodeStart { node, incarnation, boot_number, nonce: 0 }) {
            StartKnowledge::Unknown => false,
            StartKnowledge::Retired => true,
            StartKnowledge::Newest { boot_number: newest, .. } => boot_number < newest,
        }
    }
}

/// Whether a start may take part in Raft by now: once every other voter has told what it knows of it, or a moment has passed.
#[derive(Clone, Debug)]
pub struct StartCheck {
    until_ms: u64,
    told: BTreeSet<NodeId>,
    passed: bool,
}

impl StartCheck {
    /// The check of a start at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self { until_ms: now_ms.saturating_add(START_CHECK_MS), told: BTreeSet::new(), passed: false }
    }

    /// A peer knows nothing against it.
    pub fn on_told(&mut self, from: NodeId) {
        self.told.insert(from);
    }

    /// Who has to be asked still.
    pub fn is_open(&self, node: NodeId) -> bool {
        !self.told.contains(&node)
    }

    /// Whether it is passed, given the other voters; once it is, it stays so.
    pub fn is_passed(&mut self, voters: impl IntoIterator<Item = NodeId>, now_ms: u64) -> bool {
        self.passed |= now_ms >= self.until_ms || voters.into_iter().all(|voter| self.told.contains(&voter));
        self.passed
    }
}

impl MetadataError {
    /// Whether the log is not what this node once made durable: it must not vote by it.
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Raft(error) if error.is_loss())
    }
}

impl MetadataCore {
    /// The nodes that vote beside `own`, as far as this node has applied.
    pub fn other_voters(&self, own: NodeId) -> BTreeSet<NodeId> {
        let conf = self.raft().conf();
        let voters = conf.voters.iter().chain(&conf.voters_outgoing);
        voters.filter_map(|id| self.node_of_raft_id(*id)).filter(|node| *node != own).collect()
    }
}
