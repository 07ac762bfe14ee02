//! The metadata actor's shell among several nodes, as `actors/src/metadata/remote.rs` is: proposals that another node
//! makes for this one, heartbeats, registration.

use super::Failure;
use super::metadata::{Answered, Metadata};
use crate::sim::context::Context;
use crate::sim::mail::{Address, Mail, Part};
use bytes::Bytes;
use lance_actors::ingestion::replica_handlers::MoveLeadership;
use lance_actors::network::session::answers::CallFailure;
use lance_cluster::control::{ControlMessage, ProposeOutcome};
use lance_cluster::metadata::{LEASE, MetadataAnswer, MetadataCommand, ProposalFailure, ProposeFailure};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::NodeId;
use lance_messages::peer::PeerIdentity;
use std::time::Duration;

const CALL_TIMEOUT_MS: u64 = 5000;
const REGISTER_INTERVAL_MS: u64 = 300;
/// The request number of registrations.
const REGISTRATION: u64 = 0;

/// A call whose proposal went to another node.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded {
    request: u64,
    until_ms: u64,
    /// The entry it became, not applied here yet.
    index: Option<u64>,
}

impl Metadata {
    /// Sends a message to a peer; it may be lost.
    pub(super) fn send_to(&self, node: NodeId, message: &ControlMessage, ctx: &mut Context<'_>) {
        if let Ok(bytes) = message.encode() {
            ctx.send(Address::Node(node.0 - 1, Part::Metadata), Mail::Say(Bytes::from(bytes)));
        }
    }

    fn send_to_leader(&self, message: &ControlMessage, ctx: &mut Context<'_>) {
        let leader = self.running.as_ref().and_then(|running| running.core.leader_node());
        if let Some(leader) = leader.filter(|leader| *leader != self.identity.node) {
            self.send_to(leader, message, ctx);
        }
    }

    /// What a node that does not lead the metadata has to tell the one that does.
    pub(super) fn report(&self, mail: Mail, ctx: &mut Context<'_>) {
        match mail {
            Mail::Promised(answers) => self.send_to_leader(&ControlMessage::Promises(answers), ctx),
            Mail::EpochsRequested(requests) => self.send_to_leader(&ControlMessage::RequestEpochs(requests), ctx),
            Mail::MoveReady { partition, epoch, to } => {
                self.send_to_leader(&ControlMessage::MoveReady { partition, epoch, to }, ctx);
            }
            Mail::Led(partition, epoch) => {
                self.send_to_leader(&ControlMessage::Leading(vec![(partition, epoch)]), ctx);
            }
            _ => {}
        }
    }

    /// Whether the applied state knows this start: then it is no state of the past.
    pub(super) fn is_registered(&self) -> bool {
        let own = &self.identity;
        self.running.as_ref().is_some_and(|running| {
            running.core.state().node(own.node).is_some_and(|known| {
                (known.incarnation, known.boot_number, known.nonce) == (own.incarnation, own.boot_number, own.nonce)
            })
        })
    }

    pub(super) fn registration(&self) -> MetadataCommand {
        let node = self.identity.node;
        MetadataCommand::RegisterNode {
            node,
            incarnation: self.identity.incarnation,
            boot_number: self.identity.boot_number,
            nonce: self.identity.nonce,
            address: format!("node-{node}:1992"),
            rack: String::new(),
        }
    }

    /// Registers this start until the committed state shows it.
    pub(super) fn register(&mut self, now_ms: u64, ctx: &mut Context<'_>) -> Result<(), Failure> {
        let due = self.registered_at_ms.is_none_or(|at| now_ms >= at + REGISTER_INTERVAL_MS);
        if self.is_registered() || !due {
            return Ok(());
        }
        let Some(running) = self.running.as_ref() else { return Ok(()) };
        let command = self.registration();
        self.registered_at_ms = Some(now_ms);
        if running.core.is_leading() {
            if self.registering.is_none() {
                let request = self.new_request();
                self.registering = Some(request);
                return self.with_core(ctx, |core, effects| core.on_propose(request, &command, effects));
            }
            return Ok(());
        }
        let leader = running.core.leader_node();
        let Ok(command) = command.encode() else { return Ok(()) };
        let propose = ControlMessage::Propose { request: REGISTRATION, command };
        match leader {
            Some(leader) => self.send_to(leader, &propose, ctx),
            None => self.tell_all(&propose, ctx),
        }
        Ok(())
    }

    /// Sends a message to every other node.
    pub fn tell_all(&self, message: &ControlMessage, ctx: &mut Context<'_>) {
        for other in self.genesis.iter().filter(|other| other.node != self.identity.node) {
            self.send_to(other.node, message, ctx);
        }
    }

    pub(super) fn forward_call(&mut self, request: u64, command: &MetadataCommand, ctx: &mut Context<'_>) {
        let until_ms = ctx.elapsed_ms() + CALL_TIMEOUT_MS;
        let leader = self.running.as_ref().and_then(|running| running.core.leader_node());
        let (Some(leader), Ok(command)) = (leader, command.encode()) else {
            return self.answer(request, Err(unavailable("no metadata leader is known")), ctx);
        };
        self.forwarded.push(Forwarded { request, until_ms, index: None });
        self.send_to(leader, &ControlMessage::Propose { request, command }, ctx);
    }

    /// Answers calls whose entry is applied here by now, and those that waited too long.
    pub(super) fn settle_forwarded(&mut self, ctx: &Context<'_>) {
        let now_ms = ctx.elapsed_ms();
        let Some(running) = self.running.as_ref() else { return };
        let applied = running.core.state().applied_index();
        let mut settled: Vec<(u64, Answered)> = Vec::new();
        self.forwarded.retain(|forwarded| {
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

    fn answer(&mut self, request: u64, answer: Answered, ctx: &mut Context<'_>) {
        self.answered.push((request, answer));
        self.send_answers(ctx);
    }

    pub(super) fn answer_remote(
        &self,
        (node, request): (NodeId, u64),
        index: Option<u64>,
        result: &Result<MetadataAnswer, ProposeFailure>,
        ctx: &mut Context<'_>,
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
        self.send_to(node, &ControlMessage::Proposed { request, outcome }, ctx);
    }

    fn on_proposed(&mut self, request: u64, outcome: ProposeOutcome, ctx: &mut Context<'_>) {
        let Some(at) = self.forwarded.iter().position(|forwarded| forwarded.request == request) else { return };
        let failure = match outcome {
            ProposeOutcome::Applied { index, .. } => {
                self.forwarded[at].index = Some(index);
                self.settle_forwarded(ctx);
                return self.send_answers(ctx);
            }
            ProposeOutcome::Refused(reason) => Err(CallFailure::Failed(ErrorCode::InvalidRequest, reason)),
            ProposeOutcome::Failed { outcome_unknown: true } => unknown(),
            ProposeOutcome::Failed { outcome_unknown: false } => Err(unavailable("the metadata leader has changed")),
        };
        self.forwarded.remove(at);
        self.answer(request, failure, ctx);
    }

    /// A message of a peer.
    pub(super) fn on_control(&mut self, from: PeerIdentity, body: &[u8], ctx: &mut Context<'_>) -> Result<(), Failure> {
        let now_ms = ctx.elapsed_ms();
        let replication = Address::Node(self.node, Part::Replication);
        let message = ControlMessage::decode(body).map_err(|error| Failure(error.to_string()))?;
        let Some(running) = self.running.as_mut() else { return Ok(()) };
        match message {
            ControlMessage::Heartbeat { sent_ms } => {
                running.core.on_peer(from);
                running.core.on_heard(from, now_ms);
                let answer = running.core.answer_heartbeat(sent_ms);
                self.send_to(from.node, &ControlMessage::HeartbeatAnswer(answer), ctx);
            }
            ControlMessage::HeartbeatAnswer(answer) => {
                let counts_from = running.core.on_heartbeat_answered(from, &answer);
                counts_from.into_iter().for_each(|from_ms| self.extend_lease(from_ms, ctx));
            }
            ControlMessage::Raft(bytes) => {
                running.core.on_peer(from);
                return self.with_core(ctx, |core, effects| core.on_message(&bytes, effects));
            }
            ControlMessage::Propose { request, command } => {
                if let Ok(command) = MetadataCommand::decode(&command) {
                    let own = self.new_request();
                    self.remote.insert(own, (from.node, request));
                    return self.with_core(ctx, |core, effects| core.on_propose(own, &command, effects));
                }
            }
            ControlMessage::Proposed { request, outcome } => self.on_proposed(request, outcome, ctx),
            ControlMessage::AskPromises(partitions) => ctx.send(replication, Mail::PromiseWanted(partitions)),
            ControlMessage::Promises(answers) => {
                return self.with_core(ctx, |core, effects| core.on_promises(from.node, &answers, effects));
            }
            ControlMessage::RequestEpochs(requests) => {
                return self.with_core(ctx, |core, effects| core.on_epoch_requested(&requests, effects));
            }
            ControlMessage::Leading(partitions) => {
                partitions.iter().for_each(|(partition, epoch)| running.core.on_leading(*partition, *epoch));
            }
            ControlMessage::MoveLeader { partition, epoch, to } => {
                ctx.send(replication, Mail::MoveWanted(MoveLeadership { partition, epoch, to }));
            }
            ControlMessage::LeaderSlow(led) => running.core.on_leader_slow(from.node, &led),
            // Its disks are never put back to an earlier time, and it has no operators.
            ControlMessage::StartAsked(_) | ControlMessage::StartAnswered { .. } | ControlMessage::LiftBackOff(_) => {}
            ControlMessage::MoveReady { partition, epoch, to } => {
                return self
                    .with_core(ctx, |core, effects| core.on_move_ready(from.node, partition, epoch, to, effects));
            }
        }
        Ok(())
    }

    fn extend_lease(&self, from_ms: u64, ctx: &mut Context<'_>) {
        let until = Duration::from_millis(from_ms) + LEASE;
        for shard in 0..self.shards {
            ctx.send(Address::Node(self.node, Part::Ingestion(shard)), Mail::ExtendLease(until));
        }
    }

    /// Notes who lives.
    pub(super) fn look_around(&mut self) {
        let Some(running) = self.running.as_ref().filter(|_| !self.is_alone()) else { return };
        let alive: Vec<(NodeId, bool)> =
            running.core.state().nodes().map(|(node, _)| (node, running.core.controller().is_alive(node))).collect();
        if alive != self.alive {
            self.alive = alive;
            self.state_changed = true;
        }
    }
}

fn unavailable(why: &str) -> CallFailure {
    CallFailure::Failed(ErrorCode::Unavailable, why.to_owned())
}

fn unknown() -> Answered {
    let code = ErrorCode::OutcomeUnknown;
    Err(CallFailure::Failed(code, code.text().to_owned()))
}
