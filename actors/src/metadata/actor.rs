//! `MetadataActor`: the shell of the metadata core, on a thread of its own that may wait for the disk.

use super::calls::TopicLimits;
use super::elections::Elections;
use super::levels::{LevelWatch, beginning_of};
use super::remote::Forwarded;
use super::renewal::OwnStart;
use super::roles::{role_of, roles_led};
use super::store::{MetadataStore, StoreError};
use crate::clock::NodeClock;
use crate::ingestion::actor::IngestionActor;
use crate::ingestion::replica::LeaderRole;
use crate::ingestion::replica_handlers::MoveLeadership;
use crate::lease::LeaseWatch;
use crate::mailbox::Mailbox;
use crate::network::session::answers::CallFailure;
use crate::network::session::{MetadataCall, shard_of};
use crate::peer::PeerLinkActor;
use crate::peer::PeerVersions;
use crate::replication::actor::{LeadersChosen, MoveWanted, PromiseWanted, ReplicationActor, RolesChanged};
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, fail, guarded};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use hashbrown::HashMap;
use lance_cluster::control::ControlMessage;
use lance_cluster::metadata::{
    GenesisNode, HardStateRecord, KnownStarts, MetadataAnswer, MetadataCommand, MetadataCore, MetadataEffect,
    MetadataError, MetadataEvent, PromiseAnswer, ProposeFailure, TopicConfig,
};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use lance_messages::mail::ingestion::AssignPartitions;
use lance_storage::checkpoint::PastStarts;
use lance_storage::disk::Disk;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Mailbox capacity of the metadata actor: calls of sessions and reports.
pub const METADATA_MAILBOX: usize = 4096;
const TICK: Duration = Duration::from_millis(50);

/// Asks for a change of the metadata.
#[derive(Debug, Message)]
#[rtype(result = "Result<MetadataAnswer, CallFailure>")]
pub struct Call(pub MetadataCall);

/// Asks for a change that no session asked for.
#[derive(Debug, Message)]
#[rtype(result = "Result<MetadataAnswer, CallFailure>")]
pub struct ProposeChange(pub MetadataCommand);

/// This node's promises are durable.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Promised(pub Vec<PromiseAnswer>);

/// Logs went through recovery: their epochs must not be continued.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct EpochsRequested(pub Vec<(TopicPartition, LeaderEpoch)>);

/// The target of a planned move holds everything.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct MoveReady {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch it is led in here.
    pub epoch: LeaderEpoch,
    /// The target.
    pub to: NodeId,
}

/// A partition is led.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Led(pub TopicPartition, pub LeaderEpoch);

/// Tells the metadata actor who promises epochs and who holds the partitions.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ServeMetadata {
    /// The replication actor.
    pub replication: Mailbox<ReplicationActor>,
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
    /// Control links, by node.
    pub links: HashMap<NodeId, Mailbox<PeerLinkActor>>,
    /// Data links, by node: told where their nodes are.
    pub data_links: HashMap<NodeId, Mailbox<PeerLinkActor>>,
}

/// There are other links to peers than before.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ServeControlLinks {
    /// Control links, by node.
    pub links: HashMap<NodeId, Mailbox<PeerLinkActor>>,
    /// Data links, by node: told where their nodes are.
    pub data_links: HashMap<NodeId, Mailbox<PeerLinkActor>>,
}

/// What a metadata actor is made of.
pub struct MetadataSetup {
    /// Where it keeps its files.
    pub disk: Arc<dyn Disk>,
    /// Its folder.
    pub dir: PathBuf,
    /// This node.
    pub node: NodeId,
    /// Its incarnation, which is its Raft id.
    pub incarnation: u64,
    /// Counts its starts.
    pub boot_number: u64,
    /// Random, made for this start.
    pub nonce: u64,
    /// This and earlier starts, as the data dir knows them.
    pub past: PastStarts,
    /// The address told to others.
    pub address: String,
    /// For topics that say nothing themselves.
    pub topic_defaults: TopicConfig,
    /// What clients may not go past.
    pub topic_limits: TopicLimits,
    /// What connections read.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// Told until when nobody can have taken this node's place.
    pub lease: LeaseWatch,
    /// The node's clock.
    pub clock: NodeClock,
    /// What must not fail together with this node; empty when that is not known.
    pub rack: String,
    /// The nodes that the cluster began with, and whether this life of this node is one of them.
    pub genesis: Vec<GenesisNode>,
    /// See `genesis`.
    pub is_voter: bool,
    /// The cluster's id, the same on every node.
    pub cluster_id: u64,
    /// What this node and its peers understand.
    pub versions: Arc<PeerVersions>,
}

pub(super) type Answered = Result<MetadataAnswer, CallFailure>;

pub(super) struct Running {
    pub(super) core: MetadataCore,
    /// The newest starts of nodes.
    pub(super) starts: KnownStarts,
    pub(super) store: MetadataStore,
    pub(super) hard_state: HardStateRecord,
}

/// The shell of the metadata core.
pub struct MetadataActor {
    life: Life,
    pub(super) setup: MetadataSetup,
    pub(super) running: Option<Running>,
    pub(super) replication: Option<Mailbox<ReplicationActor>>,
    pub(super) shards: Vec<Mailbox<IngestionActor>>,
    pub(super) links: HashMap<NodeId, Mailbox<PeerLinkActor>>,
    pub(super) data_links: HashMap<NodeId, Mailbox<PeerLinkActor>>,
    /// Where links were told that their nodes are.
    pub(super) link_addresses: HashMap<NodeId, String>,
    pub(super) waiting: HashMap<u64, oneshot::Sender<Answered>>,
    pub(super) answered: Vec<(u64, Answered)>,
    next_request: u64,
    pub(super) registering: Option<u64>,
    pub(super) registered_at_ms: Option<u64>,
    /// Why this node may not register.
    pub(super) refusal: Option<String>,
    /// Calls of this node that another one proposes.
    pub(super) forwarded: Vec<Forwarded>,
    /// Proposals made for other nodes: whose, and their number there.
    pub(super) remote: HashMap<u64, (NodeId, u64)>,
    pub(super) alive: Vec<(NodeId, bool)>,
    /// Leaders chosen since this start, of all partitions.
    leader_changes: u64,
    pub(super) elections: Elections,
    pub(super) own_start: OwnStart,
    pub(super) state_changed: bool,
    pub(super) levels: LevelWatch,
}

impl MetadataActor {
    /// A metadata actor; it starts to serve once it is told whom it serves.
    pub fn new(vitals: Arc<Vitals>, policy: RestartPolicy, parent: Recipient<Escalated>, setup: MetadataSetup) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            setup,
            running: None,
            replication: None,
            shards: Vec::new(),
            links: HashMap::new(),
            data_links: HashMap::new(),
            link_addresses: HashMap::new(),
            waiting: HashMap::new(),
            answered: Vec::new(),
            next_request: 1,
            registering: None,
            registered_at_ms: None,
            refusal: None,
            forwarded: Vec::new(),
            remote: HashMap::new(),
            alive: Vec::new(),
            leader_changes: 0,
            elections: Elections::default(),
            own_start: OwnStart::default(),
            state_changed: false,
            levels: LevelWatch::default(),
        }
    }

    pub(super) fn vitals(&self) -> &Vitals {
        &self.life.vitals
    }

    pub(super) fn new_request(&mut self) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        request
    }

    /// Runs the core inside the guard and carries out what it wants done.
    pub(super) fn with_core(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut MetadataCore, &mut Vec<MetadataEffect>) -> Result<(), MetadataError>,
    ) {
        guarded(self, ctx, |actor, ctx| -> Result<(), String> {
            let Some(running) = actor.running.as_mut() else {
                return Ok(());
            };
            let mut effects = Vec::new();
            match work(&mut running.core, &mut effects) {
                Err(error) if error.is_loss() => actor.end_life(error.to_string()),
                Err(error) if error.is_fatal() => return Err(error.to_string()),
                Err(error) => tracing::warn!(%error, "metadata refused an input"),
                Ok(()) => {}
            }
            actor.obey(effects, ctx)
        });
    }

    fn obey(&mut self, effects: Vec<MetadataEffect>, ctx: &mut Context<Self>) -> Result<(), String> {
        let mut queue = std::collections::VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            let mut more = Vec::new();
            self.obey_one(effect, &mut more)?;
            queue.extend(more);
        }
        if std::mem::take(&mut self.state_changed) {
            self.publish(ctx);
        } else {
            self.send_answers();
        }
        Ok(())
    }

    fn obey_one(&mut self, effect: MetadataEffect, more: &mut Vec<MetadataEffect>) -> Result<(), String> {
        let Some(running) = self.running.as_mut() else {
            return Ok(());
        };
        match effect {
            MetadataEffect::Persist(persist) => {
                if let Some(hard_state) = persist.hard_state {
                    running.hard_state = hard_state;
                }
                running.store.persist(&persist).map_err(|error: StoreError| error.to_string())?;
                if persist.must_sync {
                    running.core.on_persisted(persist.number, more).map_err(|error| error.to_string())?;
                }
            }
            MetadataEffect::SaveSnapshot { snapshot, drop_through } => {
                running.store.save_snapshot(&snapshot, drop_through).map_err(|error| error.to_string())?;
            }
            MetadataEffect::Send { to, message } => {
                if let Some(node) = running.core.node_of_raft_id(to) {
                    self.send_to(node, &ControlMessage::Raft(message.into()));
                }
            }
            MetadataEffect::MoveLeader { partition, epoch, from, to } if from == self.setup.node => {
                self.tell_replication(MoveWanted(MoveLeadership { partition, epoch, to }));
            }
            MetadataEffect::MoveLeader { partition, epoch, from, to } => {
                self.send_to(from, &ControlMessage::MoveLeader { partition, epoch, to });
            }
            MetadataEffect::LeaderChanged { term, leader } => {
                tracing::info!(term, ?leader, "metadata leader changed");
                self.trace_term(leader);
                self.state_changed = true;
            }
            MetadataEffect::Leading { term } => {
                tracing::info!(term, "leading the metadata");
                self.trace_leading(term);
                self.state_changed = true;
                let (command, request) = (self.registration(), self.new_request());
                self.registering = Some(request);
                if let Some(running) = self.running.as_mut() {
                    running.core.on_propose(request, &command, more).map_err(|error| error.to_string())?;
                }
            }
            MetadataEffect::Committed { events, .. } => self.on_events(&events),
            MetadataEffect::Answer { request, index, result } => self.on_answer(request, index, result)?,
            MetadataEffect::AskPromises { node, partitions } if node == self.setup.node => {
                self.tell_replication(PromiseWanted(partitions));
            }
            MetadataEffect::AskPromises { node, partitions } => {
                self.send_to(node, &ControlMessage::AskPromises(partitions));
            }
        }
        Ok(())
    }

    fn on_events(&mut self, events: &[MetadataEvent]) {
        self.state_changed = true;
        self.trace_epochs(events);
        let Some(running) = self.running.as_ref() else { return };
        let (state, setup) = (running.core.state(), &self.setup);
        let (mut chosen, mut changed) = (Vec::new(), Vec::new());
        for event in events {
            self.leader_changes += u64::from(matches!(event, MetadataEvent::LeaderChosen { .. }));
            match *event {
                MetadataEvent::LeaderChosen { partition, epoch, leader, incarnation, boot_number, .. } => {
                    let own = (setup.node, setup.incarnation, setup.boot_number);
                    if (leader, incarnation.node, boot_number) == own {
                        chosen.extend(role_of(state, partition, epoch));
                    }
                }
                MetadataEvent::InQuorumChanged { partition, epoch, .. }
                | MetadataEvent::ReplicasChanged { partition, epoch, .. } => {
                    changed.extend(role_of(state, partition, epoch));
                }
                MetadataEvent::ReplicaAdmitted { partition, .. } | MetadataEvent::ReplicasPlanned { partition } => {
                    let epoch = state.partition(partition).map(|decided| decided.epoch);
                    changed.extend(epoch.and_then(|epoch| role_of(state, partition, epoch)));
                }
                MetadataEvent::StateReplaced => {
                    // Some are news, and some changed behind what this node had seen.
                    let led = roles_led(state, setup.node, setup.incarnation, setup.boot_number);
                    changed.extend(led.iter().cloned());
                    chosen.extend(led);
                }
                _ => {}
            }
        }
        changed.retain(|role: &LeaderRole| {
            let leader = state.partition(role.partition).and_then(|decided| decided.leader);
            leader.is_some_and(|leader| leader.node == setup.node)
        });
        if !chosen.is_empty() {
            self.tell_replication(LeadersChosen(chosen));
        }
        if !changed.is_empty() {
            self.tell_replication(RolesChanged(changed));
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.core.is_leading())
    }

    fn on_answer(
        &mut self,
        request: u64,
        index: Option<u64>,
        result: Result<MetadataAnswer, ProposeFailure>,
    ) -> Result<(), String> {
        if let Some(asker) = self.remote.remove(&request) {
            self.answer_remote(asker, index, &result);
            return Ok(());
        }
        if self.registering == Some(request) {
            self.registering = None;
            return match result {
                Ok(_) => Ok(()),
                Err(ProposeFailure::Refused(refusal)) if self.is_end_of_life(&refusal) => {
                    self.end_life(refusal.to_string());
                    Ok(())
                }
                Err(ProposeFailure::Refused(refusal)) => Err(format!("this node was not registered: {refusal}")),
                Err(failure) => {
                    tracing::warn!(%failure, "registration will be repeated");
                    Ok(())
                }
            };
        }
        let result = result.map_err(|failure| match failure {
            ProposeFailure::Refused(refusal) => CallFailure::Refused(refusal),
            other => CallFailure::Failed(ErrorCode::Unavailable, other.to_string()),
        });
        self.answered.push((request, result));
        Ok(())
    }

    /// Opens new partitions everywhere, then shows the new state, then answers: who is told "created" finds it.
    fn publish(&mut self, ctx: &mut Context<Self>) {
        self.follow_addresses();
        let Some(running) = self.running.as_ref() else { return };
        let core = &running.core;
        // Until this start is registered, this node may not have applied everything that was committed before: shards
        // would drop the logs of topics that a view of the past does not have, and clients would be told that they do
        // not exist.
        // A core built anew begins with the state of its snapshot, which is one of the past as well.
        if !self.is_registered() || core.state().applied_index() < self.setup.view.load().applied {
            return self.send_answers();
        }
        let mut view = ClusterView::new(core.state(), self.setup.node, core.leader_node(), core.raft().term());
        view.alive = self.alive.iter().copied().collect();
        view.leader_changes = self.leader_changes;
        view.cluster = self.setup.cluster_id;
        let shards = self.shards.len() as u16;
        let before = self.setup.view.load();
        crate::events::changes::note_changes(&before, &view);
        let mut deleted: Vec<TopicId> = before.partitions().map(|partition| partition.topic).collect();
        deleted.dedup();
        deleted.retain(|topic| view.is_deleted(*topic));
        let none = || AssignPartitions { deleted: deleted.clone(), ..AssignPartitions::default() };
        let mut assignments: Vec<AssignPartitions> = self.shards.iter().map(|_| none()).collect();
        for partition in view.partitions().filter(|partition| view.holds(*partition)) {
            if let Some(assignment) = assignments.get_mut(usize::from(shard_of(partition, shards))) {
                assignment.partitions.push(partition);
                let copy_version = core.state().partition(partition).and_then(|it| it.copy_version(self.setup.node));
                assignment.copy_versions.extend(copy_version.filter(|it| *it > 0).map(|it| (partition, it)));
                assignment.beginnings.extend(beginning_of(core.state(), partition));
                assignment.replicated.extend(Some(partition).filter(|partition| view.is_held_elsewhere(*partition)));
            }
        }
        let sends: Vec<_> =
            self.shards.iter().zip(assignments).map(|(shard, assignment)| shard.send(assignment)).collect();
        let assign = async move {
            for send in sends {
                // Closed only while the process goes down.
                let _ = send.await;
            }
        };
        let assigned = actix::fut::wrap_future::<_, Self>(assign);
        ctx.wait(assigned.map(move |(), actor, _| {
            actor.setup.view.store(Arc::new(view));
            actor.send_answers();
        }));
    }

    pub(super) fn send_answers(&mut self) {
        for (request, result) in self.answered.drain(..) {
            if let Some(waiting) = self.waiting.remove(&request) {
                // Its connection may be gone.
                let _ = waiting.send(result);
            }
        }
    }
}

supervised_shell!(MetadataActor, METADATA_MAILBOX);

impl Shell for MetadataActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// Who waits hears that nothing is known of the outcome: their senders are dropped.
    fn drop_core(&mut self, _: &mut Self::Context) {
        self.running = None;
        self.waiting.clear();
        self.answered.clear();
        self.forwarded.clear();
        self.remote.clear();
        self.registering = None;
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        if self.replication.is_none() {
            return;
        }
        match self.open() {
            Ok((running, effects)) => {
                self.running = Some(running);
                self.life.vitals.set_state(ActorState::Running);
                if let Err(error) = self.obey(effects, ctx) {
                    return fail(self, ctx, error);
                }
                ctx.run_interval(TICK, |actor, ctx| {
                    // Intervals still run once after a handler asked to wait: its answers must not leave before what
                    // they speak of is shown.
                    if ctx.waiting() {
                        return;
                    }
                    let now_ms = actor.now_ms();
                    actor.look_around();
                    actor.settle_forwarded();
                    actor.check_start(now_ms, ctx);
                    if actor.takes_part(now_ms) {
                        actor.with_core(ctx, |core, effects| core.on_tick(now_ms, effects));
                    }
                    actor.register(now_ms, ctx);
                    actor.mind_level(now_ms, ctx);
                });
            }
            Err(failure) => self.on_open_failed(&failure, ctx),
        }
    }
}

impl Handler<ServeMetadata> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: ServeMetadata, ctx: &mut Self::Context) {
        self.replication = Some(message.replication);
        self.shards = message.shards;
        self.links = message.links;
        self.data_links = message.data_links;
        guarded(self, ctx, |actor, ctx| -> Result<(), std::convert::Infallible> {
            actor.begin(ctx);
            Ok(())
        });
    }
}

impl Handler<ServeControlLinks> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: ServeControlLinks, _: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.links = message.links;
        self.data_links = message.data_links;
    }
}

impl Handler<Promised> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: Promised, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        let node = self.setup.node;
        if self.leads() {
            self.with_core(ctx, |core, effects| core.on_promises(node, &message.0, effects));
        } else {
            self.send_to_leader(&ControlMessage::Promises(message.0));
        }
    }
}

impl Handler<EpochsRequested> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: EpochsRequested, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        if self.leads() {
            self.with_core(ctx, |core, effects| core.on_epoch_requested(&message.0, effects));
        } else {
            self.send_to_leader(&ControlMessage::RequestEpochs(message.0));
        }
    }
}

impl Handler<MoveReady> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: MoveReady, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        let MoveReady { partition, epoch, to } = message;
        if self.leads() {
            let own = self.setup.node;
            self.with_core(ctx, |core, effects| core.on_move_ready(own, partition, epoch, to, effects));
        } else {
            self.send_to_leader(&ControlMessage::MoveReady { partition, epoch, to });
        }
    }
}

impl Handler<Led> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: Led, _: &mut Self::Context) {
        self.life.vitals.message_taken();
        if !self.leads() {
            self.send_to_leader(&ControlMessage::Leading(vec![(message.0, message.1)]));
        } else if let Some(running) = self.running.as_mut() {
            running.core.on_leading(message.0, message.1);
        }
    }
}
