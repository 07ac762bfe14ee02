//! The metadata actor among several nodes: proposals that another node makes for this one, heartbeats, registration.

use super::actor::{Answered, MetadataActor};
use crate::ingestion::replica_handlers::{ExtendLease, MoveLeadership};
use crate::network::session::answers::CallFailure;
use crate::peer::{MoveLink, StopLink};
use crate::replication::actor::{MoveWanted, PromiseWanted};
use crate::replication::judging::LiftBackOff;
use actix::prelude::*;
use bytes::Bytes;
use lance_cluster::control::{ControlMessage, ProposeOutcome};
use lance_cluster::metadata::{LEASE, MetadataAnswer, MetadataCommand, ProposalFailure, ProposeFailure};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use lance_messages::mail::peer::{ControlReceived, LinkChanged, SendControl};
use lance_messages::peer::{LinkKind, PeerIdentity};
use std::time::Duration;

/// A proposal of this node that nobody has answered by then has an unknown outcome.
pub(super) const CALL_TIMEOUT_MS: u64 = 5000;
/// How often a registration that was not applied yet is repeated.
const REGISTER_INTERVAL_MS: u64 = 300;
/// The request number of registrations.
const REGISTRATION: u64 = 0;

/// A call whose proposal went to another node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forwarded {
    pub(super) request: u64,
    pub(super) until_ms: u64,
    /// The entry it became, not applied here yet.
    pub(super) index: Option<u64>,
}

impl MetadataActor {
    /// Sends a message to a peer; it may be lost.
    pub(super) fn send_to(&self, node: NodeId, message: &ControlMessage) {
        let Some(link) = self.links.get(&node) else { return };
        match message.encode() {
            Ok(bytes) => {
                // A full link loses messages: whoever needs an answer asks again.
                let _ = link.try_send(SendControl(Bytes::from(bytes)));
            }
            Err(error) => tracing::warn!(%node, %error, "a control message cannot be sent"),
        }
    }

    /// Tells links where their nodes are by now, and ends those to nodes that were removed.
    pub(super) fn follow_addresses(&mut self) {
        let Some(running) = self.running.as_ref() else { return };
        let state = running.core.state();
        for (node, link) in self.links.iter().chain(&self.data_links) {
            match state.node(*node) {
                Some(known) if self.link_addresses.get(node) != Some(&known.address) => {
                    // Full only of what is lost when the link moves.
                    let _ = link.try_send(MoveLink { address: known.address.clone() });
                }
                None if state.is_removed(*node) => {
                    let _ = link.try_send(StopLink);
                }
                _ => {}
            }
        }
        self.link_addresses = state.nodes().map(|(node, known)| (node, known.address.clone())).collect();
    }

    /// Sends a message to the metadata leader, when it is another node and known.
    pub(super) fn send_to_leader(&self, message: &ControlMessage) {
        let leader = self.running.as_ref().and_then(|running| running.core.leader_node());
        if let Some(leader) = leader.filter(|leader| *leader != self.setup.node) {
            self.send_to(leader, message);
        }
    }

    /// Whether the committed state that this node has applied knows this start of it: then it is no state of the past.
    pub(super) fn is_registered(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let setup = &self.setup;
            running.core.state().node(setup.node).is_some_and(|known| {
                (known.incarnation, known.boot_number, known.nonce)
                    == (setup.incarnation, setup.boot_number, setup.nonce)
            })
        })
    }

    pub(super) fn registration(&self) -> MetadataCommand {
        MetadataCommand::RegisterNode {
            node: self.setup.node,
            incarnation: self.setup.incarnation,
            boot_number: self.setup.boot_number,
            nonce: self.setup.nonce,
            address: self.setup.address.clone(),
            rack: self.setup.rack.clone(),
        }
    }

    /// Registers this start until the committed state shows it.
    pub(super) fn register(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        let due = self.registered_at_ms.is_none_or(|at| now_ms >= at + REGISTER_INTERVAL_MS);
        if self.is_registered() || !due || !self.takes_part(now_ms) {
            return;
        }
        let Some(running) = self.running.as_ref() else { return };
        let command = self.registration();
        self.registered_at_ms = Some(now_ms);
        if running.core.is_leading() {
            if self.registering.is_none() {
                let request = self.new_request();
                self.registering = Some(request);
                self.with_core(ctx, |core, effects| core.on_propose(request, &command, effects));
            }
            return;
        }
        let Ok(command) = command.encode() else { return };
        let propose = ControlMessage::Propose { request: REGISTRATION, command };
        match running.core.leader_node() {
            Some(leader) if self.may_register_with(leader, now_ms) => self.send_to(leader, &propose),
            Some(_) => self.registered_at_ms = None,
            // Who is not a member yet hears of no leader: one of the others will know.
            None => {
                let asked = self.links.keys().filter(|node| self.may_register_with(**node, now_ms));
                asked.for_each(|node| self.send_to(*node, &propose));
            }
        }
    }

    /// Has the metadata leader propose a call of this node.
    pub(super) fn forward_call(&mut self, request: u64, command: &MetadataCommand) {
        let until_ms = self.now_ms() + CALL_TIMEOUT_MS;
        let leader = self.running.as_ref().and_then(|running| running.core.leader_node());
        let (Some(leader), Ok(command)) = (leader, command.encode()) else {
            return self.answer(request, Err(unavailable("no metadata leader is known")));
        };
        self.forwarded.push(Forwarded { request, until_ms, index: None });
        self.send_to(leader, &ControlMessage::Propose { request, command });
    }

    /// Answers calls whose entry is applied here by now, and those that waited too long.
    pub(super) fn settle_forwarded(&mut self) {
        let now_ms = self.now_ms();
        let Some(running) = self.running.as_ref() else { return };
        let applied = running.core.state().applied_index();
        let mut settled: Vec<(u64, Answered)> = Vec::new();
        self.forwarded.retain(|forwarded| {
            let unknown = || {
                let code = ErrorCode::OutcomeUnknown;
                Err(CallFailure::Failed(code, code.text().to_owned()))
            };
            let answer = match forwarded.index {
                Some(index) if index <= applied => match running.core.applied_answer(index) {
                    Some(answer) => answer.clone().map_err(CallFailure::Refused),
                    None => unknown(),
                },
                _ if now_ms >= forwarded.until_ms => unknown(),
                _ => return true,
            };
            settled.push((forwarded.request, answer));
            false
        });
        self.answered.extend(settled);
    }

    fn answer(&mut self, request: u64, answer: Answered) {
        self.answered.push((request, answer));
        self.send_answers();
    }

    /// Tells who asked for it what its proposal came to.
    pub(super) fn answer_remote(
        &self,
        (node, request): (NodeId, u64),
        index: Option<u64>,
        result: &Result<MetadataAnswer, ProposeFailure>,
    ) {
        let outcome = match (result, index) {
            (Ok(_), Some(index)) => ProposeOutcome::Applied { index, refused: None },
            (Err(ProposeFailure::Refused(refusal)), Some(index)) => {
                ProposeOutcome::Applied { index, refused: Some(refusal.to_string()) }
            }
            (Err(ProposeFailure::Failed(ProposalFailure::OutcomeUnknown)), _) => {
                ProposeOutcome::Failed { outcome_unknown: true }
            }
            (Err(ProposeFailure::Failed(_)), _) | (Ok(_), None) => ProposeOutcome::Failed { outcome_unknown: false },
            (Err(failure), _) => ProposeOutcome::Refused(failure.to_string()),
        };
        self.send_to(node, &ControlMessage::Proposed { request, outcome });
    }

    fn on_proposed(&mut self, from: NodeId, request: u64, outcome: ProposeOutcome) -> Result<(), String> {
        if request == REGISTRATION {
            return match outcome {
                ProposeOutcome::Applied { refused: Some(reason), .. } | ProposeOutcome::Refused(reason) => {
                    // Whoever refuses it knows more of this node's starts than others.
                    self.ask_about_start(from);
                    if self.refusal.as_ref() != Some(&reason) {
                        tracing::error!(%reason, "this node was not registered: it keeps asking");
                        self.refusal = Some(reason);
                    }
                    Ok(())
                }
                ProposeOutcome::Applied { .. } | ProposeOutcome::Failed { .. } => Ok(()),
            };
        }
        let Some(at) = self.forwarded.iter().position(|forwarded| forwarded.request == request) else {
            return Ok(());
        };
        match outcome {
            ProposeOutcome::Applied { index, .. } => {
                self.forwarded[at].index = Some(index);
                self.settle_forwarded();
                self.send_answers();
            }
            ProposeOutcome::Refused(reason) => {
                self.forwarded.remove(at);
                self.answer(request, Err(CallFailure::Failed(ErrorCode::InvalidRequest, reason)));
            }
            ProposeOutcome::Failed { outcome_unknown: true } => {
                self.forwarded.remove(at);
                let code = ErrorCode::OutcomeUnknown;
                self.answer(request, Err(CallFailure::Failed(code, code.text().to_owned())));
            }
            ProposeOutcome::Failed { outcome_unknown: false } => {
                self.forwarded.remove(at);
                self.answer(request, Err(unavailable("the metadata leader has changed")));
            }
        }
        Ok(())
    }

    fn on_control(
        &mut self,
        from: PeerIdentity,
        message: ControlMessage,
        ctx: &mut Context<Self>,
    ) -> Result<(), String> {
        let now_ms = self.now_ms();
        match message {
            ControlMessage::Heartbeat { sent_ms } => {
                if let Some(running) = self.running.as_mut() {
                    running.core.on_peer(from);
                    running.core.on_heard(from, now_ms);
                    let answer = running.core.answer_heartbeat(sent_ms);
                    self.send_to(from.node, &ControlMessage::HeartbeatAnswer(answer));
                }
            }
            ControlMessage::HeartbeatAnswer(answer) => {
                let core = self.running.as_mut().map(|running| &mut running.core);
                let counts_from = core.and_then(|core| core.on_heartbeat_answered(from, &answer));
                counts_from.into_iter().for_each(|from_ms| self.extend_lease(from_ms));
            }
            ControlMessage::Raft(bytes) => {
                if let Some(running) = self.running.as_mut() {
                    running.core.on_peer(from);
                    if running.starts.is_past(running.core.state(), from) {
                        tracing::debug!(node = %from.node, "a vote or ack of an older disk does not count");
                        return Ok(());
                    }
                }
                // Whom this start votes for, or takes entries from, has said what it knows of it.
                let is_heard = self.is_registered() || self.may_register_with(from.node, now_ms);
                if is_heard && self.takes_part(now_ms) {
                    self.with_core(ctx, |core, effects| core.on_message(&bytes, effects));
                }
            }
            ControlMessage::Propose { request, command } => match MetadataCommand::decode(&command) {
                Ok(command) => {
                    let own = self.new_request();
                    self.remote.insert(own, (from.node, request));
                    self.with_core(ctx, |core, effects| core.on_propose(own, &command, effects));
                }
                Err(error) => tracing::warn!(node = %from.node, %error, "a peer proposes what cannot be read"),
            },
            ControlMessage::Proposed { request, outcome } => self.on_proposed(from.node, request, outcome)?,
            ControlMessage::AskPromises(partitions) => self.tell_replication(PromiseWanted(partitions)),
            ControlMessage::Promises(answers) => {
                self.with_core(ctx, |core, effects| core.on_promises(from.node, &answers, effects));
            }
            ControlMessage::RequestEpochs(requests) => {
                self.with_core(ctx, |core, effects| core.on_epoch_requested(&requests, effects));
            }
            ControlMessage::Leading(partitions) => {
                if let Some(running) = self.running.as_mut() {
                    partitions.iter().for_each(|(partition, epoch)| running.core.on_leading(*partition, *epoch));
                }
            }
            ControlMessage::MoveLeader { partition, epoch, to } => {
                self.tell_replication(MoveWanted(MoveLeadership { partition, epoch, to }));
            }
            ControlMessage::LeaderSlow(led) => {
                if let Some(running) = self.running.as_mut() {
                    running.core.on_leader_slow(from.node, &led);
                }
            }
            ControlMessage::LiftBackOff(node) => self.tell_replication(LiftBackOff(node)),
            ControlMessage::StartAsked(start) => self.on_start_asked(from, start),
            ControlMessage::StartAnswered { start, known } => self.on_start_answered(from.node, start, known),
            ControlMessage::MoveReady { partition, epoch, to } => {
                self.with_core(ctx, |core, effects| core.on_move_ready(from.node, partition, epoch, to, effects));
            }
        }
        Ok(())
    }

    /// Nobody was put in the place of this node in the time after `from_ms`.
    fn extend_lease(&self, from_ms: u64) {
        let until = Duration::from_millis(from_ms) + LEASE;
        self.setup.lease.extend(until);
        for shard in &self.shards {
            // The next sign comes soon.
            let _ = shard.try_send(ExtendLease { until });
        }
    }

    /// Shows the rest of this node who lives.
    pub(super) fn look_around(&mut self) {
        let Some(running) = self.running.as_ref() else { return };
        let alive: Vec<(NodeId, bool)> =
            running.core.state().nodes().map(|(node, _)| (node, running.core.is_alive(node))).collect();
        if alive != self.alive {
            self.alive = alive;
            self.state_changed = true;
        }
    }
}

fn unavailable(why: &str) -> CallFailure {
    CallFailure::Failed(ErrorCode::Unavailable, why.to_owned())
}

/// This node leads these, and its disk is slower than those of its followers.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LeaderSlow(pub Vec<(TopicPartition, LeaderEpoch)>);

impl Handler<LeaderSlow> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: LeaderSlow, _: &mut Self::Context) {
        self.vitals().message_taken();
        let node = self.setup.node;
        if !self.leads() {
            self.send_to_leader(&ControlMessage::LeaderSlow(message.0));
        } else if let Some(running) = self.running.as_mut() {
            running.core.on_leader_slow(node, &message.0);
        }
    }
}

impl Handler<ControlReceived> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: ControlReceived, ctx: &mut Self::Context) {
        self.vitals().message_taken();
        match ControlMessage::decode(&message.body) {
            Ok(control) => {
                if let Err(reason) = self.on_control(message.from, control, ctx) {
                    crate::supervision::shell::fail(self, ctx, reason);
                }
            }
            Err(error) => tracing::warn!(node = %message.from.node, %error, "a peer says what cannot be read"),
        }
    }
}

impl Handler<LinkChanged> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: LinkChanged, ctx: &mut Self::Context) {
        self.vitals().message_taken();
        if message.kind != LinkKind::Control {
            return;
        }
        self.on_link(message.node, message.peer.is_some(), self.now_ms());
        if message.peer.is_some() && !self.is_registered() {
            self.ask_about_start(message.node);
        }
        match message.peer {
            Some(peer) => {
                if let Some(running) = self.running.as_mut() {
                    running.core.on_peer(peer);
                }
            }
            None => {
                let known = self.running.as_ref().and_then(|running| running.core.state().node(message.node));
                if let Some(id) = known.map(|known| known.incarnation) {
                    self.with_core(ctx, |core, effects| core.on_unreachable(id, effects));
                }
            }
        }
    }
}
