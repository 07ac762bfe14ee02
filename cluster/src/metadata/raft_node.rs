//! Raft as a core: a `RawNode` whose every `Ready` becomes effects, obeyed in the order the raft crate asks for.

use super::raft_config::{RaftConfig, RaftError};
use super::raft_persist::{HardStateRecord, Persist, PersistedRaft, RaftConf, RaftEntry, RaftSnapshot};
use super::raft_storage::RaftStorage;
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType, Snapshot};
use raft::{RawNode, Ready, SnapshotStatus, StateRole};
use std::collections::{BTreeMap, VecDeque};

/// Most ticks made up for after a pause: a suspended process must not storm the group when it wakes.
const MAX_TICKS_AT_ONCE: u64 = 3;

/// What the shell has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum RaftEffect {
    /// Make durable, then report.
    Persist(Persist),
    /// Send to a member; may be lost.
    Send {
        /// The member's raft id.
        to: u64,
        /// The message.
        message: Bytes,
    },
    /// An entry is committed; one without a command moves only the index.
    Apply {
        /// Its index: every one comes once, in order.
        index: u64,
        /// Its term.
        term: u64,
        /// The bytes proposed; empty for the raft group's own entries.
        command: Bytes,
        /// The proposal of this process it came from, if any.
        proposal: Option<u64>,
    },
    /// A snapshot from the leader replaces the state machine.
    Restore {
        /// The last index it contains.
        index: u64,
        /// The encoded state machine.
        data: Bytes,
    },
    /// Write this snapshot durably; only then may the log through `drop_through` go. Needs no report.
    SaveSnapshot {
        /// The snapshot.
        snapshot: RaftSnapshot,
        /// The log through this index is of no more use.
        drop_through: u64,
    },
    /// Another leader, or none, is known.
    LeaderChanged {
        /// The present term.
        term: u64,
        /// The leader's raft id.
        leader: Option<u64>,
    },
    /// This node leads and has applied everything committed before its term.
    Leading {
        /// Its term.
        term: u64,
    },
    /// A proposal will not be answered by an `Apply`.
    ProposalFailed {
        /// The proposal.
        id: u64,
        /// Why.
        reason: ProposalFailure,
    },
}

/// Why a proposal came to nothing, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalFailure {
    /// Only the leader proposes.
    #[error("not the metadata leader")]
    NotLeader {
        /// The leader's raft id, when one is known.
        leader: Option<u64>,
    },
    /// Too much waits for its commit, or leadership is being handed over.
    #[error("too many metadata changes are waiting")]
    Busy,
    /// Leadership ended first: it may still be committed, or never.
    #[error("metadata leadership was lost, the outcome is unknown")]
    OutcomeUnknown,
}

/// A `Ready` whose writes are not reported durable yet.
struct Unpersisted {
    number: u64,
    must_sync: bool,
    /// Whether it holds a new term or vote.
    new_term: bool,
    messages: Vec<Message>,
    restore: Option<(u64, Bytes)>,
}

/// One member of the metadata group.
pub struct RaftCore {
    pub(super) config: RaftConfig,
    pub(super) node: RawNode<RaftStorage>,
    unpersisted: VecDeque<Unpersisted>,
    /// Index → (term, id) of the proposals made while leading.
    proposals: BTreeMap<u64, (u64, u64)>,
    applied: u64,
    leader: Option<u64>,
    leader_term: u64,
    leading_term: Option<u64>,
    persisted_term_vote: (u64, u64),
    ticked_at_ms: Option<u64>,
    draw: u64,
    drawn_for: Option<(u64, StateRole)>,
    election_timeout: usize,
    /// Stays set when a call ended in an error or a panic: the `RawNode` is then never touched again.
    closed: bool,
}

impl RaftCore {
    /// Starts from what is on disk; a sole voter elects itself at once.
    pub fn new(
        config: RaftConfig,
        persisted: &PersistedRaft,
        effects: &mut Vec<RaftEffect>,
    ) -> Result<Self, RaftError> {
        let (storage, first_stale) = RaftStorage::open(persisted)?;
        if config.id == 0 {
            return Err(RaftError::ConfigInvalid { reason: "raft id 0" });
        }
        // Who joins knows no members until a snapshot tells it; who has a log knew some.
        if storage.conf().voters.is_empty() && storage.last() > 0 {
            return Err(RaftError::ConfigInvalid { reason: "a log and no voters" });
        }
        if config.tick_ms == 0 {
            return Err(RaftError::ConfigInvalid { reason: "a tick of 0 ms" });
        }
        let applied = persisted.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        if let Some(first) = first_stale {
            effects.push(RaftEffect::Persist(Persist {
                number: 0,
                snapshot: None,
                truncate_from: Some(first),
                entries: Vec::new(),
                hard_state: None,
                must_sync: false,
            }));
        }
        let sole_voter = storage.conf().voters == [config.id];
        let node = RawNode::new(&config.to_raft(applied), storage, &config.logger)
            .map_err(|source| RaftError::Failed { source })?;
        let hard_state = node.raft.hard_state();
        let mut core = Self {
            draw: config.seed,
            election_timeout: config.election_ticks as usize,
            config,
            node,
            unpersisted: VecDeque::new(),
            proposals: BTreeMap::new(),
            applied,
            leader: None,
            leader_term: hard_state.term,
            leading_term: None,
            persisted_term_vote: (hard_state.term, hard_state.vote),
            ticked_at_ms: None,
            drawn_for: None,
            closed: false,
        };
        core.run(effects, |core, _| {
            if sole_voter {
                core.node.campaign().map_err(|source| RaftError::Failed { source })?;
            }
            Ok(())
        })?;
        Ok(core)
    }

    /// Time has passed; `now_ms` never goes back.
    pub fn on_tick(&mut self, now_ms: u64, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        self.run(effects, |core, effects| {
            let since = *core.ticked_at_ms.get_or_insert(now_ms);
            let ticks = now_ms.saturating_sub(since) / core.config.tick_ms;
            core.ticked_at_ms = Some(since + ticks * core.config.tick_ms);
            for _ in 0..ticks.min(MAX_TICKS_AT_ONCE) {
                core.node.tick();
                core.drain(effects)?;
            }
            Ok(())
        })
    }

    /// Proposes a command; its `Apply` or `ProposalFailed` carries `id`.
    pub fn on_propose(&mut self, id: u64, command: Vec<u8>, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        self.run(effects, |core, effects| {
            if !core.is_leader() {
                let reason = ProposalFailure::NotLeader { leader: core.leader };
                effects.push(RaftEffect::ProposalFailed { id, reason });
                return Ok(());
            }
            match core.node.propose(Vec::new(), command) {
                Ok(()) => {
                    let index = core.node.raft.raft_log.last_index();
                    core.proposals.insert(index, (core.node.raft.term, id));
                    Ok(())
                }
                Err(raft::Error::ProposalDropped) => {
                    effects.push(RaftEffect::ProposalFailed { id, reason: ProposalFailure::Busy });
                    Ok(())
                }
                Err(source) => Err(RaftError::Failed { source }),
            }
        })
    }

    /// A message of a proven member has arrived.
    pub fn on_message(&mut self, bytes: &[u8], effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        if bytes.len() > self.config.max_message_bytes {
            return Err(RaftError::MessageTooLarge { bytes: bytes.len(), limit: self.config.max_message_bytes });
        }
        let message = Message::parse_from_bytes(bytes)
            .map_err(|source| RaftError::MessageMalformed { bytes: bytes.len(), source })?;
        let id = self.config.id;
        // Members never forward proposals: they redirect who asked.
        if message.to != id || message.from == id || message.get_msg_type() == MessageType::MsgPropose {
            return Err(RaftError::MessageMisdirected { from: message.from, to: message.to, id });
        }
        self.check_acked(&message)?;
        if self.is_joining() && message.get_msg_type() == MessageType::MsgAppend {
            return self.run(effects, |core, effects| core.ask_for_snapshot(&message, effects));
        }
        self.run(effects, |core, _| match core.node.step(message) {
            Ok(()) => Ok(()),
            Err(
                source @ (raft::Error::StepLocalMsg | raft::Error::StepPeerNotFound | raft::Error::ProposalDropped),
            ) => Err(RaftError::MessageRefused { source }),
            Err(source) => Err(RaftError::Failed { source }),
        })
    }

    /// A leader commits here no further than this node has acked, in its term or a later one.
    fn check_acked(&mut self, message: &Message) -> Result<(), RaftError> {
        let last_index = self.node.raft.raft_log.last_index();
        let is_heartbeat = message.get_msg_type() == MessageType::MsgHeartbeat && message.term >= self.node.raft.term;
        if self.closed || !is_heartbeat || message.commit <= last_index {
            return Ok(());
        }
        self.closed = true;
        Err(RaftError::LostAcked { last_index, acked: message.commit })
    }

    /// Everything in the `Persist` effects through `number` is durable.
    pub fn on_persisted(&mut self, number: u64, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        self.run(effects, |core, effects| {
            core.release_through(number, effects)?;
            core.drain(effects)
        })
    }

    /// A member could not be reached.
    pub fn on_unreachable(&mut self, id: u64, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        self.run(effects, |core, _| {
            core.node.report_unreachable(id);
            Ok(())
        })
    }

    /// Whether enough was applied since the last snapshot for a new one.
    pub fn wants_snapshot(&self) -> bool {
        let last = self.node.store().snapshot_index();
        let interval = self.config.snapshot_interval_entries;
        let due = interval > 0 && self.applied - last.min(self.applied) >= interval;
        (due || self.node.store().is_snapshot_wanted()) && self.applied > last
    }

    /// Takes `data`, the state machine at the applied index `index`, as the newest snapshot and drops the log before it.
    pub fn compact(&mut self, index: u64, data: Bytes, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        self.run(effects, |core, effects| {
            if index != core.applied {
                return Err(RaftError::SnapshotNotApplied { index, applied: core.applied });
            }
            let term = core.node.store().term_of(index).map_err(|error| RaftError::Failed { source: error.into() })?;
            let snapshot = RaftSnapshot { index, term, conf: core.node.store().conf(), data };
            let drop_through = index.saturating_sub(core.config.kept_entries);
            core.node.mut_store().compact(snapshot.to_raft(), drop_through);
            effects.push(RaftEffect::SaveSnapshot { snapshot, drop_through });
            Ok(())
        })
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Whether this node leads and knows everything that was committed before it did.
    pub fn is_leading(&self) -> bool {
        self.is_leader() && self.leading_term == Some(self.node.raft.term)
    }

    /// The leader's raft id, when one is known.
    pub fn leader(&self) -> Option<u64> {
        self.leader
    }

    /// This node's raft id.
    pub fn id(&self) -> u64 {
        self.config.id
    }

    /// The present term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The last index known to be committed.
    pub fn committed_index(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The last index applied.
    pub fn applied_index(&self) -> u64 {
        self.applied
    }

    /// The members as of the applied index.
    pub fn conf(&self) -> RaftConf {
        self.node.store().conf()
    }

    /// Runs one input. `closed` is set while the `RawNode` is in use, so that a panic leaves it set.
    pub(super) fn run(
        &mut self,
        effects: &mut Vec<RaftEffect>,
        input: impl FnOnce(&mut Self, &mut Vec<RaftEffect>) -> Result<(), RaftError>,
    ) -> Result<(), RaftError> {
        if self.closed {
            return Err(RaftError::Stopped);
        }
        self.closed = true;
        let result = input(self, effects).and_then(|()| self.drain(effects));
        self.pin_election_timeout();
        self.closed = result.as_ref().is_err_and(RaftError::is_fatal);
        result
    }

    fn drain(&mut self, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        while self.node.has_ready() {
            let ready = self.node.ready();
            self.obey(ready, effects)?;
            while self.unpersisted.front().is_some_and(|front| !front.must_sync) {
                let number = self.unpersisted.front().map_or(0, |front| front.number);
                self.release_through(number, effects)?;
            }
        }
        Ok(())
    }

    fn obey(&mut self, mut ready: Ready, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        if let Some((leader, role)) = ready.ss().map(|soft| (soft.leader_id, soft.raft_state)) {
            self.note_leader(leader, role, effects);
        }
        let new_term = ready.hs().is_some_and(|state| (state.term, state.vote) != self.persisted_term_vote);
        let mut messages = ready.take_messages();
        // A sole voter leads before its own vote is durable; nobody may hear of the term until it is.
        if !new_term && !self.unpersisted.iter().any(|earlier| earlier.new_term) {
            self.send(std::mem::take(&mut messages), effects)?;
        }
        let restore = self.persist(&ready, effects);
        messages.append(&mut ready.take_persisted_messages());
        let (number, must_sync) = (ready.number(), ready.must_sync());
        self.unpersisted.push_back(Unpersisted { number, must_sync, new_term, messages, restore });
        let committed = ready.take_committed_entries();
        self.node.advance_append_async(ready);
        self.apply(committed, effects)
    }

    /// Brings the in-memory log to the `Ready` and asks for the same on disk.
    fn persist(&mut self, ready: &Ready, effects: &mut Vec<RaftEffect>) -> Option<(u64, Bytes)> {
        let storage = self.node.mut_store();
        let mut snapshot = None;
        if !ready.snapshot().is_empty() {
            snapshot = Some(RaftSnapshot::from_raft(ready.snapshot()));
            storage.install(Snapshot::clone(ready.snapshot()));
        }
        let truncate_from = storage.append(ready.entries());
        if let Some(hard_state) = ready.hs() {
            storage.set_hard_state(hard_state);
            self.persisted_term_vote = (hard_state.term, hard_state.vote);
        }
        let restore = snapshot.as_ref().map(|snapshot| (snapshot.index, snapshot.data.clone()));
        if snapshot.is_some() || !ready.entries().is_empty() || ready.hs().is_some() {
            effects.push(RaftEffect::Persist(Persist {
                number: ready.number(),
                snapshot,
                truncate_from,
                entries: ready.entries().iter().map(RaftEntry::from_raft).collect(),
                hard_state: ready.hs().map(HardStateRecord::from_raft),
                must_sync: ready.must_sync(),
            }));
        }
        restore
    }

    /// What waited for the writes through `number` may leave now.
    fn release_through(&mut self, number: u64, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        while self.unpersisted.front().is_some_and(|front| front.number <= number) {
            let Some(done) = self.unpersisted.pop_front() else {
                break;
            };
            self.node.on_persist_ready(done.number);
            if let Some((index, data)) = done.restore {
                self.applied = index;
                self.node.advance_apply_to(index);
                effects.push(RaftEffect::Restore { index, data });
            }
            self.send(done.messages, effects)?;
        }
        Ok(())
    }

    pub(super) fn send(&mut self, messages: Vec<Message>, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        for message in messages {
            let bytes = message.write_to_bytes().map_err(|source| RaftError::Uncodable { source })?;
            let to = message.to;
            effects.push(RaftEffect::Send { to, message: bytes.into() });
            // A lost snapshot is found out by the probe that follows it, so no report from the link is needed.
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.node.report_snapshot(to, SnapshotStatus::Finish);
            }
        }
        Ok(())
    }

    fn apply(&mut self, committed: Vec<Entry>, effects: &mut Vec<RaftEffect>) -> Result<(), RaftError> {
        for entry in committed {
            let (index, term) = (entry.index, entry.term);
            let mut command = Bytes::new();
            match entry.get_entry_type() {
                EntryType::EntryNormal => command = entry.data,
                EntryType::EntryConfChange => {
                    let change = ConfChange::parse_from_bytes(&entry.data);
                    let change = change.map_err(|source| RaftError::Uncodable { source })?;
                    let conf = self.node.apply_conf_change(&change);
                    self.adopt_conf(conf)?;
                }
                EntryType::EntryConfChangeV2 => {
                    let change = ConfChangeV2::parse_from_bytes(&entry.data);
                    let change = change.map_err(|source| RaftError::Uncodable { source })?;
                    let conf = self.node.apply_conf_change(&change);
                    self.adopt_conf(conf)?;
                }
            }
            self.applied = index;
            let proposal = self.take_proposal(index, term, effects);
            effects.push(RaftEffect::Apply { index, term, command, proposal });
            if self.is_leader() && term == self.term() && self.leading_term != Some(term) {
                self.leading_term = Some(term);
                effects.push(RaftEffect::Leading { term });
            }
        }
        self.node.advance_apply_to(self.applied);
        Ok(())
    }

    fn adopt_conf(&mut self, applied: raft::Result<ConfState>) -> Result<(), RaftError> {
        let conf = applied.map_err(|source| RaftError::Failed { source })?;
        self.node.mut_store().set_conf(conf);
        Ok(())
    }

    /// The proposal of this process that became the entry at `index`; those it displaced have failed.
    fn take_proposal(&mut self, index: u64, term: u64, effects: &mut Vec<RaftEffect>) -> Option<u64> {
        let mut proposal = None;
        while let Some(entry) = self.proposals.first_entry().filter(|entry| *entry.key() <= index) {
            let (at, (proposed_term, id)) = entry.remove_entry();
            if at == index && proposed_term == term {
                proposal = Some(id);
            } else {
                effects.push(RaftEffect::ProposalFailed { id, reason: ProposalFailure::OutcomeUnknown });
            }
        }
        proposal
    }

    fn note_leader(&mut self, leader: u64, role: StateRole, effects: &mut Vec<RaftEffect>) {
        if role != StateRole::Leader {
            for (_, (_, id)) in std::mem::take(&mut self.proposals) {
                effects.push(RaftEffect::ProposalFailed { id, reason: ProposalFailure::OutcomeUnknown });
            }
        }
        let (term, leader) = (self.term(), (leader != raft::INVALID_ID).then_some(leader));
        if (self.leader, self.leader_term) != (leader, term) {
            (self.leader, self.leader_term) = (leader, term);
            effects.push(RaftEffect::LeaderChanged { term, leader });
        }
    }

    /// The raft crate draws time-outs from the thread's randomness; this one comes from the seed.
    fn pin_election_timeout(&mut self) {
        let drawn_for = (self.node.raft.term, self.node.raft.state);
        if self.drawn_for != Some(drawn_for) {
            self.drawn_for = Some(drawn_for);
            self.draw = self.draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (self.draw ^ (self.draw >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let ticks = u64::from(self.config.election_ticks);
            self.election_timeout = (ticks + (mixed ^ (mixed >> 31)) % ticks) as usize;
        }
        self.node.raft.set_randomized_election_timeout(self.election_timeout);
    }
}
