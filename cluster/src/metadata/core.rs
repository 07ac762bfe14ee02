//! The metadata plane as one core: Raft, the state machine it feeds, and the controller that acts while this node leads.

use super::answer::{MetadataAnswer, MetadataEvent, MetadataRefusal};
use super::command::MetadataCommand;
use super::controller::{Controller, ControllerAction};
use super::feature::FeatureLevel;
use super::lease::Lease;
use super::membership::{GenesisNode, Membership, MembershipStep, MetadataOptions};
use super::promise::PromiseAnswer;
use super::raft_config::RaftError;
use super::raft_node::{ProposalFailure, RaftCore, RaftEffect};
use super::raft_persist::{Persist, PersistedRaft, RaftSnapshot};
use super::state::MetadataState;
use crate::codec::CodecError;
use bytes::Bytes;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use lance_messages::peer::PeerIdentity;
use std::collections::{BTreeMap, VecDeque};
use thiserror::Error;

/// Largest command that is proposed.
pub const MAX_COMMAND_BYTES: usize = 8 << 20;

/// How many answers of applied entries are remembered.
const MAX_ANSWERS: usize = 1024;

/// What the shell has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataEffect {
    /// Make durable; when it must be synced, report by `on_persisted`.
    Persist(Persist),
    /// Write this snapshot durably, then drop the log through `drop_through`. Needs no report.
    SaveSnapshot {
        /// The snapshot.
        snapshot: RaftSnapshot,
        /// The log through this index is of no more use.
        drop_through: u64,
    },
    /// Send a Raft message to the member with this raft id; it may be lost.
    Send {
        /// The raft id.
        to: u64,
        /// The message.
        message: Bytes,
    },
    /// Another metadata leader, or none, is known.
    LeaderChanged {
        /// The present term.
        term: u64,
        /// The leader's raft id.
        leader: Option<u64>,
    },
    /// This node leads the metadata group and knows everything committed: it may register, create, choose.
    Leading {
        /// Its term.
        term: u64,
    },
    /// These facts hold from `index` on, and [`MetadataCore::state`] shows them.
    Committed {
        /// The entry's index.
        index: u64,
        /// In order.
        events: Vec<MetadataEvent>,
    },
    /// A request of `on_propose` is done with.
    Answer {
        /// Its id.
        request: u64,
        /// The entry it became, when it was applied.
        index: Option<u64>,
        /// What came of it.
        result: Result<MetadataAnswer, ProposeFailure>,
    },
    /// Ask a node to promise these epochs; hand its answer to `on_promises`.
    AskPromises {
        /// The node, which may be this one.
        node: NodeId,
        /// Which epochs of which partitions.
        partitions: Vec<(TopicPartition, LeaderEpoch)>,
    },
    /// Ask a leader to stop appends until `to` holds everything, then to report by `on_move_ready`; may be repeated.
    ///
    /// A leader that hears of no new epoch within 5 s of its report goes on.
    MoveLeader {
        /// The partition.
        partition: TopicPartition,
        /// The epoch it leads in.
        epoch: LeaderEpoch,
        /// The leader, which may be on this node.
        from: NodeId,
        /// Who shall lead next.
        to: NodeId,
    },
}

/// Why a proposal came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposeFailure {
    /// It was committed, and changed nothing.
    #[error(transparent)]
    Refused(#[from] MetadataRefusal),
    /// It was not committed here.
    #[error(transparent)]
    Failed(#[from] ProposalFailure),
    /// It is larger than any command may be.
    #[error("a metadata command of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// Why the core took an input no further; unless [`MetadataError::is_fatal`] says otherwise it goes on.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// Raft did.
    #[error(transparent)]
    Raft(#[from] RaftError),
    /// A committed command cannot be read: skipping it would part this node from the others.
    #[error("metadata entry {index}: {source}")]
    Command {
        /// The entry's index.
        index: u64,
        /// Why.
        source: CodecError,
    },
    /// A snapshot cannot be read or written.
    #[error("metadata snapshot at {index}: {source}")]
    Snapshot {
        /// Its index.
        index: u64,
        /// Why.
        source: CodecError,
    },
    /// A snapshot is of another index than it says.
    #[error("the metadata snapshot at {index} holds the state at {found}")]
    SnapshotIndex {
        /// The index it is filed under.
        index: u64,
        /// The index inside.
        found: u64,
    },
    /// A command cannot be written.
    #[error("a metadata command cannot be proposed: {0}")]
    Unencodable(CodecError),
}

impl MetadataError {
    /// Whether this core can be used no more.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Raft(error) => error.is_fatal(),
            Self::Unencodable(_) => false,
            Self::Command { .. } | Self::Snapshot { .. } | Self::SnapshotIndex { .. } => true,
        }
    }
}

/// The metadata plane of one node.
pub struct MetadataCore {
    raft: RaftCore,
    pub(super) state: MetadataState,
    pub(super) controller: Controller,
    genesis: Vec<GenesisNode>,
    understands: FeatureLevel,
    /// Raft ids of peers whose identity was proven: they may have registered further on than this node has applied.
    peers: BTreeMap<u64, NodeId>,
    /// Proposal → request; the controller's own proposals have none.
    requests: BTreeMap<u64, u64>,
    /// What the newest entries came to: who proposed one through another node finds its answer here.
    answers: BTreeMap<u64, Result<MetadataAnswer, MetadataRefusal>>,
    next_proposal: u64,
    pub(super) now_ms: u64,
    closed: bool,
    pub(super) lease: Lease,
}

impl MetadataCore {
    /// Starts from what is on disk. The state is that of the snapshot; what the log adds comes as `Committed`.
    pub fn new(
        options: impl Into<MetadataOptions>,
        persisted: &PersistedRaft,
        now_ms: u64,
        effects: &mut Vec<MetadataEffect>,
    ) -> Result<Self, MetadataError> {
        let MetadataOptions { raft, genesis, controller, understands } = options.into();
        let state = match &persisted.snapshot {
            Some(snapshot) => decode_state(snapshot.index, &snapshot.data, understands)?,
            None => MetadataState::new(),
        };
        let mut raft_effects = Vec::new();
        let raft = RaftCore::new(raft, persisted, &mut raft_effects)?;
        let mut core = Self {
            raft,
            state,
            controller: Controller::new(controller),
            genesis,
            understands,
            peers: BTreeMap::new(),
            requests: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_proposal: 1,
            now_ms,
            closed: false,
            lease: Lease::default(),
        };
        core.obey(raft_effects, effects)?;
        Ok(core)
    }

    /// Time has passed; `now_ms` never goes back.
    pub fn on_tick(&mut self, now_ms: u64, effects: &mut Vec<MetadataEffect>) -> Result<(), MetadataError> {
        self.now_ms = now_ms;
        self.with_raft(effects, |raft, raft_effects| raft.on_tick(now_ms, raft_effects))?;
        self.hear_self();
        self.mind_members(effects)?;
        self.with_controller(effects, |controller, state, actions| controller.on_tick(state, now_ms, actions))
    }

    /// Proposes a command; exactly one `Answer` with this request id follows, at once when this node does not lead.
    pub fn on_propose(
        &mut self,
        request: u64,
        command: &MetadataCommand,
        effects: &mut Vec<MetadataEffect>,
    ) -> Result<(), MetadataError> {
        let bytes = command.encode().map_err(MetadataError::Unencodable)?;
        if bytes.len() > MAX_COMMAND_BYTES {
            let failure = ProposeFailure::TooLarge { bytes: bytes.len(), limit: MAX_COMMAND_BYTES };
            effects.push(MetadataEffect::Answer { request, index: None, result: Err(failure) });
            return Ok(());
        }
        if let &MetadataCommand::RegisterNode { node, .. } = command
            && self.raft.is_leader()
            && !self.is_welcome(node)
        {
            let result = Err(MetadataRefusal::NodeNotAllowed { node }.into());
            effects.push(MetadataEffect::Answer { request, index: None, result });
            return Ok(());
        }
        let proposal = self.new_proposal();
        self.requests.insert(proposal, request);
        self.with_raft(effects, |raft, raft_effects| raft.on_propose(proposal, bytes, raft_effects))
    }

    /// A node's heartbeat has arrived; every node keeps count, so that whoever leads next can act at once.
    pub fn on_heard(&mut self, peer: PeerIdentity, now_ms: u64) {
        self.controller.on_heard(&self.state, peer, now_ms);
    }

    /// The identity of a peer was proven: what Raft sends to its incarnation goes to its node.
    pub fn on_peer(&mut self, peer: PeerIdentity) {
        self.peers.retain(|_, node| *node != peer.node);
        self.peers.insert(peer.incarnation, peer.node);
    }

    /// A Raft message of a proven member has arrived.
    pub fn on_message(&mut self, bytes: &[u8], effects: &mut Vec<MetadataEffect>) -> Result<(), MetadataError> {
        self.with_raft(effects, |raft, raft_effects| raft.on_message(bytes, raft_effects))
    }

    /// Everything in the `Persist` effects through `number` is durable.
    pub fn on_persisted(&mut self, number: u64, effects: &mut Vec<MetadataEffect>) -> Result<(), MetadataError> {
        self.with_raft(effects, |raft, raft_effects| raft.on_persisted(number, raft_effects))
    }

    /// A member could not be reached.
    pub fn on_unreachable(&mut self, id: u64, effects: &mut Vec<MetadataEffect>) -> Result<(), MetadataError> {
        self.with_raft(effects, |raft, raft_effects| raft.on_unreachable(id, raft_effects))
    }

    /// A node's promises are durable there.
    pub fn on_promises(
        &mut self,
        node: NodeId,
        answers: &[PromiseAnswer],
        effects: &mut Vec<MetadataEffect>,
    ) -> Result<(), MetadataError> {
        let now_ms = self.now_ms;
        self.with_controller(effects, |controller, state, actions| {
            controller.on_promises(state, node, answers, now_ms, actions);
        })
    }

    /// Leaders ask for a new epoch instead of these: their log went through recovery, or they refuse the role.
    pub fn on_epoch_requested(
        &mut self,
        requests: &[(TopicPartition, LeaderEpoch)],
        effects: &mut Vec<MetadataEffect>,
    ) -> Result<(), MetadataError> {
        let now_ms = self.now_ms;
        self.with_controller(effects, |controller, state, actions| {
            controller.on_epoch_requested(state, requests, now_ms, actions);
        })
    }

    /// The leader `from` was asked to move, or hands over by itself: it has stopped its appends, and `to` holds everything.
    pub fn on_move_ready(
        &mut self,
        from: NodeId,
        partition: TopicPartition,
        epoch: LeaderEpoch,
        to: NodeId,
        effects: &mut Vec<MetadataEffect>,
    ) -> Result<(), MetadataError> {
        let now_ms = self.now_ms;
        self.with_controller(effects, |controller, state, actions| {
            controller.on_move_ready(state, from, (partition, epoch, to), now_ms, actions);
        })
    }

    /// A chosen leader reports that it leads.
    pub fn on_leading(&mut self, partition: TopicPartition, epoch: LeaderEpoch) {
        self.controller.on_leading(partition, epoch);
    }

    /// What the command of an applied entry came to; `None` when it is not applied, or too old to be remembered.
    pub fn applied_answer(&self, index: u64) -> Option<&Result<MetadataAnswer, MetadataRefusal>> {
        self.answers.get(&index)
    }

    /// What is decided, as far as this node knows.
    pub fn state(&self) -> &MetadataState {
        &self.state
    }

    /// The Raft core, to look at.
    pub fn raft(&self) -> &RaftCore {
        &self.raft
    }

    /// The controller, to look at.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Whether `node` was heard of lately, as far as this node can tell.
    pub fn is_alive(&self, node: NodeId) -> bool {
        match self.raft.is_leading() {
            true => self.controller.is_alive(node),
            false => self.controller.is_heard(&self.state, node, self.now_ms),
        }
    }

    /// Whether this node leads and knows everything committed.
    pub fn is_leading(&self) -> bool {
        self.raft.is_leading()
    }

    /// The metadata leader as a node.
    pub fn leader_node(&self) -> Option<NodeId> {
        self.node_of_raft_id(self.raft.leader()?)
    }

    /// The node that has this raft id now: raft ids are node incarnations. `None` when nobody has, or not any more.
    pub fn node_of_raft_id(&self, id: u64) -> Option<NodeId> {
        let registered = self.state.nodes().find(|(_, node)| node.incarnation == id).map(|(node, _)| node);
        registered.or_else(|| self.peers.get(&id).copied()).or_else(|| {
            let begins = self.genesis.iter().find(|genesis| genesis.incarnation == id)?;
            let is_over = self.state.node(begins.node).is_some() || self.state.is_removed(begins.node);
            (!is_over).then_some(begins.node)
        })
    }

    /// The nodes the cluster began with.
    pub fn genesis(&self) -> &[GenesisNode] {
        &self.genesis
    }

    /// Whether a node may register: a member, one of the beginning, or one that was allowed.
    fn is_welcome(&self, node: NodeId) -> bool {
        let begins = self.genesis.iter().any(|genesis| genesis.node == node) && !self.state.is_removed(node);
        let allowed = || self.state.allowed_nodes().any(|(allowed, _)| allowed == node);
        self.genesis.is_empty() || begins || self.state.node(node).is_some() || allowed()
    }

    /// No link carries this node's heartbeats to itself.
    fn hear_self(&mut self) {
        let own = self.node_of_raft_id(self.raft.id());
        if let Some((node, known)) = own.and_then(|node| Some((node, self.state.node(node)?))) {
            let own = PeerIdentity { node, incarnation: known.incarnation, boot_number: known.boot_number };
            self.controller.on_heard(&self.state, own, self.now_ms);
        }
    }

    /// Takes the next step towards the members that there shall be.
    fn mind_members(&mut self, effects: &mut Vec<MetadataEffect>) -> Result<(), MetadataError> {
        if !self.raft.is_leading() || self.raft.has_pending_members() {
            return Ok(());
        }
        let conf = self.raft.conf();
        let membership = Membership {
            state: &self.state,
            conf: &conf,
            own_id: self.raft.id(),
            is_caught_up: &|id| self.raft.is_caught_up(id),
        };
        match membership.next_step() {
            Some(MembershipStep::Change(changes)) => {
                self.with_raft(effects, |raft, raft_effects| raft.propose_members(&changes, raft_effects))
            }
            Some(MembershipStep::HandOver(to)) => {
                self.with_raft(effects, |raft, raft_effects| raft.transfer_leader(to, raft_effects))
            }
            None => Ok(()),
        }
    }

    fn new_proposal(&mut self) -> u64 {
        let proposal = self.next_proposal;
        self.next_proposal += 1;
        proposal
    }

    fn with_raft(
        &mut self,
        effects: &mut Vec<MetadataEffect>,
        input: impl FnOnce(&mut RaftCore, &mut Vec<RaftEffect>) -> Result<(), RaftError>,
    ) -> Result<(), MetadataError> {
        if self.closed {
            return Err(RaftError::Stopped.into());
        }
        let mut raft_effects = Vec::new();
        match input(&mut self.raft, &mut raft_effects) {
            Err(error) if error.is_fatal() => {
                self.closed = true;
                Err(error.into())
            }
            result => {
                self.obey(raft_effects, effects)?;
                Ok(result?)
            }
        }
    }

    fn with_controller(
        &mut self,
        effects: &mut Vec<MetadataEffect>,
        input: impl FnOnce(&mut Controller, &MetadataState, &mut Vec<ControllerAction>),
    ) -> Result<(), MetadataError> {
        if self.closed {
            return Err(RaftError::Stopped.into());
        }
        let mut actions = Vec::new();
        input(&mut self.controller, &self.state, &mut actions);
        let mut queue = VecDeque::new();
        self.act(actions, &mut queue, effects)?;
        self.obey(queue.into(), effects)
    }

    /// Handles what Raft wants, and what follows from it, until nothing is left. An error closes the core for good.
    fn obey(&mut self, raft_effects: Vec<RaftEffect>, effects: &mut Vec<MetadataEffect>) -> Result<(), MetadataError> {
        let mut queue = VecDeque::from(raft_effects);
        let result = self.obey_queue(&mut queue, effects);
        self.closed |= result.as_ref().is_err_and(MetadataError::is_fatal);
        result
    }

    fn obey_queue(
        &mut self,
        queue: &mut VecDeque<RaftEffect>,
        effects: &mut Vec<MetadataEffect>,
    ) -> Result<(), MetadataError> {
        loop {
            while let Some(effect) = queue.pop_front() {
                self.obey_one(effect, queue, effects)?;
            }
            if !self.raft.wants_snapshot() {
                return Ok(());
            }
            let index = self.state.applied_index();
            let data = self.state.encode_snapshot().map_err(|source| MetadataError::Snapshot { index, source })?;
            let mut raft_effects = Vec::new();
            self.raft.compact(index, data.into(), &mut raft_effects)?;
            queue.extend(raft_effects);
        }
    }

    fn obey_one(
        &mut self,
        effect: RaftEffect,
        queue: &mut VecDeque<RaftEffect>,
        effects: &mut Vec<MetadataEffect>,
    ) -> Result<(), MetadataError> {
        match effect {
            RaftEffect::Persist(persist) => effects.push(MetadataEffect::Persist(persist)),
            RaftEffect::Send { to, message } => effects.push(MetadataEffect::Send { to, message }),
            RaftEffect::SaveSnapshot { snapshot, drop_through } => {
                effects.push(MetadataEffect::SaveSnapshot { snapshot, drop_through });
            }
            RaftEffect::LeaderChanged { term, leader } => {
                if leader != Some(self.raft.id()) {
                    self.controller.deactivate();
                }
                effects.push(MetadataEffect::LeaderChanged { term, leader });
            }
            RaftEffect::Leading { term } => {
                effects.push(MetadataEffect::Leading { term });
                let mut actions = Vec::new();
                self.controller.activate(&self.state, self.now_ms, &mut actions);
                self.act(actions, queue, effects)?;
            }
            RaftEffect::Apply { index, command, proposal, .. } => {
                self.apply(index, &command, proposal, queue, effects)?;
            }
            RaftEffect::Restore { index, data } => {
                self.state = decode_state(index, &data, self.understands)?;
                self.committed(index, vec![MetadataEvent::StateReplaced], queue, effects)?;
            }
            RaftEffect::ProposalFailed { id, reason } => {
                if let Some(request) = self.requests.remove(&id) {
                    effects.push(MetadataEffect::Answer { request, index: None, result: Err(reason.into()) });
                }
            }
        }
        Ok(())
    }

    fn apply(
        &mut self,
        index: u64,
        command: &Bytes,
        proposal: Option<u64>,
        queue: &mut VecDeque<RaftEffect>,
        effects: &mut Vec<MetadataEffect>,
    ) -> Result<(), MetadataError> {
        if command.is_empty() {
            self.state.skip(index);
            return Ok(());
        }
        let decoded = MetadataCommand::decode_up_to(self.understands, command);
        let command = decoded.map_err(|source| MetadataError::Command { index, source })?;
        let applied = self.state.apply(index, &command);
        // Facts come before the answer, so that who is told "created" finds it everywhere in this process.
        self.committed(index, applied.events, queue, effects)?;
        if let Some(request) = proposal.and_then(|proposal| self.requests.remove(&proposal)) {
            let result = applied.answer.clone().map_err(ProposeFailure::from);
            effects.push(MetadataEffect::Answer { request, index: Some(index), result });
        }
        self.answers.insert(index, applied.answer);
        if self.answers.len() > MAX_ANSWERS {
            self.answers.pop_first();
        }
        Ok(())
    }

    fn committed(
        &mut self,
        index: u64,
        events: Vec<MetadataEvent>,
        queue: &mut VecDeque<RaftEffect>,
        effects: &mut Vec<MetadataEffect>,
    ) -> Result<(), MetadataError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut actions = Vec::new();
        self.controller.on_events(&self.state, &events, self.now_ms, &mut actions);
        effects.push(MetadataEffect::Committed { index, events });
        self.act(actions, queue, effects)
    }

    fn act(
        &mut self,
        actions: Vec<ControllerAction>,
        queue: &mut VecDeque<RaftEffect>,
        effects: &mut Vec<MetadataEffect>,
    ) -> Result<(), MetadataError> {
        for action in actions {
            match action {
                ControllerAction::AskPromises { node, partitions } => {
                    effects.push(MetadataEffect::AskPromises { node, partitions });
                }
                ControllerAction::MoveLeader { partition, epoch, from, to } => {
                    effects.push(MetadataEffect::MoveLeader { partition, epoch, from, to });
                }
                ControllerAction::Propose(command) => {
                    let bytes = command.encode().map_err(MetadataError::Unencodable)?;
                    let proposal = self.new_proposal();
                    let mut raft_effects = Vec::new();
                    self.raft.on_propose(proposal, bytes, &mut raft_effects)?;
                    queue.extend(raft_effects);
                }
            }
        }
        Ok(())
    }
}

fn decode_state(index: u64, data: &[u8], level: FeatureLevel) -> Result<MetadataState, MetadataError> {
    let decoded = MetadataState::decode_snapshot_up_to(level, data);
    let state = decoded.map_err(|source| MetadataError::Snapshot { index, source })?;
    match state.applied_index() {
        found if found == index => Ok(state),
        found => Err(MetadataError::SnapshotIndex { index, found }),
    }
}
