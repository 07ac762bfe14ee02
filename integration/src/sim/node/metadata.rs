//! The metadata actor's shell, as `actors/src/metadata/actor.rs` is, over its real files.

use super::Failure;
use super::members::Forwarded;
use super::sabotaged;
use crate::sim::check::losses;
use crate::sim::check::metadata as check;
use crate::sim::check::replicas as check_replicas;
use crate::sim::check::{committed, decided};
use crate::sim::context::Context;
use crate::sim::disk::SimDisk;
use crate::sim::mail::{Address, Mail, Part, Wake};
use crate::sim::node::Node;
use crate::sim::sabotage::Sabotage;
use lance_actors::ingestion::replica::LeaderRole;
use lance_actors::ingestion::replica_handlers::MoveLeadership;
use lance_actors::metadata::calls::{command_for, returning_producer};
use lance_actors::metadata::roles::{role_of, roles_led};
use lance_actors::metadata::store::MetadataStore;
use lance_actors::network::session::answers::CallFailure;
use lance_actors::network::session::{MetadataCall, shard_of};
use lance_actors::view::ClusterView;
use lance_cluster::control::ControlMessage;
use lance_cluster::metadata::{
    GenesisNode, MetadataAnswer, MetadataCommand, MetadataCore, MetadataEffect, MetadataError, MetadataEvent,
    MetadataOptions, ProposeFailure, RaftConf, RaftConfig, ReplicationMode, TopicConfig,
};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{NodeId, TopicId, TopicPartition};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(50);

pub(super) type Answered = Result<MetadataAnswer, CallFailure>;

/// Who the process is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The node's id.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: u64,
    /// Counts its starts.
    pub boot_number: u64,
    /// Random, made for this start.
    pub nonce: u64,
}

pub(super) struct Running {
    pub(super) core: MetadataCore,
    store: MetadataStore,
}

/// The shell of the metadata core.
pub struct Metadata {
    pub(super) node: u16,
    pub(super) shards: u16,
    pub(super) identity: Identity,
    pub(super) sabotage: Sabotage,
    /// The nodes the cluster began with; empty for a node that is alone.
    pub(super) genesis: Arc<Vec<GenesisNode>>,
    disk: SimDisk,
    dir: PathBuf,
    pub(super) running: Option<Running>,
    waiting: BTreeMap<u64, (u64, u64)>,
    pub(super) answered: Vec<(u64, Answered)>,
    next_request: u64,
    pub(super) registering: Option<u64>,
    pub(super) registered_at_ms: Option<u64>,
    /// Calls of this node that another one proposes.
    pub(super) forwarded: Vec<Forwarded>,
    /// Proposals made for other nodes: whose, and their number there.
    pub(super) remote: BTreeMap<u64, (NodeId, u64)>,
    pub(super) alive: Vec<(NodeId, bool)>,
    pub(super) state_changed: bool,
    publication: u64,
    /// Assignments that shards have not taken yet, and the view to show then.
    publishing: Option<(u16, Arc<ClusterView>)>,
    /// What sessions read.
    pub view: Arc<ClusterView>,
    /// The mailbox has to wait.
    pub wait: bool,
}

impl Metadata {
    /// An actor of a process that starts.
    pub fn new(
        (node, shards, sabotage): (u16, u16, Sabotage),
        identity: Identity,
        genesis: Arc<Vec<GenesisNode>>,
        disk: &SimDisk,
        dir: PathBuf,
    ) -> Self {
        Self {
            node,
            shards,
            identity,
            sabotage,
            genesis,
            disk: disk.clone(),
            dir,
            running: None,
            waiting: BTreeMap::new(),
            answered: Vec::new(),
            next_request: 1,
            registering: None,
            registered_at_ms: None,
            forwarded: Vec::new(),
            remote: BTreeMap::new(),
            alive: Vec::new(),
            state_changed: false,
            publication: 0,
            publishing: None,
            view: Arc::default(),
            wait: false,
        }
    }

    /// What is done when the actor fails: who waits hears that nothing is known of the outcome.
    pub fn drop_core(&mut self, ctx: &mut Context<'_>) {
        self.running = None;
        self.answered.clear();
        self.forwarded.clear();
        self.remote.clear();
        self.registering = None;
        self.publishing = None;
        self.wait = false;
        let unknown = || CallFailure::Failed(ErrorCode::OutcomeUnknown, ErrorCode::OutcomeUnknown.text().to_owned());
        for (_, (connection, request)) in std::mem::take(&mut self.waiting) {
            let to = Address::Node(self.node, Part::Connection(connection));
            ctx.send(to, Mail::Answered { request, result: Err(unknown()) });
        }
    }

    /// Starts, for the first time or again.
    pub fn begin(&mut self, ctx: &mut Context<'_>, first: bool) -> Result<(), Failure> {
        // Also for the lives that come after one whose disk fails below.
        if first {
            ctx.wake(Wake::Tick, TICK);
        }
        let genesis = match self.genesis.iter().any(|node| node.incarnation == self.identity.incarnation) {
            _ if self.is_alone() => RaftConf::of_voters([self.identity.incarnation]),
            true => RaftConf::of_voters(self.genesis.iter().map(|node| node.incarnation)),
            false => RaftConf::of_voters([]),
        };
        let (store, persisted) = MetadataStore::open(&self.disk.as_disk(), &self.dir, genesis)
            .map_err(|error| Failure(error.to_string()))?;
        let mut config = RaftConfig::new(self.identity.incarnation, self.identity.nonce);
        // Snapshots often enough to be seen.
        config.snapshot_interval_entries = 40;
        config.kept_entries = 8;
        let mut effects = Vec::new();
        let genesis = self.genesis.to_vec();
        let options = MetadataOptions { genesis, ..MetadataOptions::from(config) };
        let core = MetadataCore::new(options, &persisted, ctx.elapsed_ms(), &mut effects)
            .map_err(|error| Failure(error.to_string()))?;
        self.running = Some(Running { core, store });
        self.obey(effects, ctx)
    }

    /// One message; `Ok(true)` when the mailbox may go on after having waited.
    pub fn handle(&mut self, mail: Mail, ctx: &mut Context<'_>) -> Result<bool, Failure> {
        match mail {
            Mail::Assigned(number) => return Ok(self.on_assigned(number, ctx)),
            Mail::Call { connection, request, call } => {
                return self.on_call(connection, request, call, ctx).map(|()| false);
            }
            // Nobody waits for the answer: what comes of it shows in what is committed.
            Mail::Propose(command) => {
                self.evict_anyway(&command, ctx);
                let request = self.new_request();
                return self.propose(request, &command, ctx).map(|()| false);
            }
            Mail::Wake(Wake::Tick) => {
                ctx.wake(Wake::Tick, TICK);
                self.look_around();
                self.settle_forwarded(ctx);
            }
            _ => {}
        }
        let now_ms = ctx.elapsed_ms();
        let is_tick = matches!(mail, Mail::Wake(Wake::Tick));
        let Some(running) = self.running.as_mut() else { return Ok(false) };
        let mut effects = Vec::new();
        let result = match mail {
            Mail::Wake(Wake::Tick) => running.core.on_tick(now_ms, &mut effects),
            Mail::Control(from, body) => return self.on_control(from, &body, ctx).map(|()| false),
            Mail::LinkChanged(node, peer) => match peer {
                Some(peer) => {
                    running.core.on_peer(peer);
                    Ok(())
                }
                None => match running.core.state().node(node).map(|known| known.incarnation) {
                    Some(id) => running.core.on_unreachable(id, &mut effects),
                    None => Ok(()),
                },
            },
            mail if !running.core.is_leading() => {
                self.report(mail, ctx);
                return Ok(false);
            }
            Mail::Promised(answers) => running.core.on_promises(self.identity.node, &answers, &mut effects),
            Mail::EpochsRequested(requests) => running.core.on_epoch_requested(&requests, &mut effects),
            Mail::MoveReady { partition, epoch, to } => {
                running.core.on_move_ready(self.identity.node, partition, epoch, to, &mut effects)
            }
            Mail::Led(partition, epoch) => {
                running.core.on_leading(partition, epoch);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = result
            && error.is_fatal()
        {
            return Err(Failure(error.to_string()));
        }
        self.obey(effects, ctx)?;
        if is_tick && !self.is_alone() {
            self.register(now_ms, ctx)?;
        }
        Ok(false)
    }

    /// How far the metadata is applied.
    pub fn applied_index(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.core.state().applied_index())
    }

    /// Whether there are no other nodes.
    pub(super) fn is_alone(&self) -> bool {
        self.genesis.is_empty()
    }

    pub(super) fn new_request(&mut self) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        request
    }

    /// Runs the core and carries out what it wants done.
    pub(super) fn with_core(
        &mut self,
        ctx: &mut Context<'_>,
        work: impl FnOnce(&mut MetadataCore, &mut Vec<MetadataEffect>) -> Result<(), MetadataError>,
    ) -> Result<(), Failure> {
        let Some(running) = self.running.as_mut() else { return Ok(()) };
        let mut effects = Vec::new();
        match work(&mut running.core, &mut effects) {
            Err(error) if error.is_fatal() => Err(Failure(error.to_string())),
            _ => self.obey(effects, ctx),
        }
    }

    fn topic_defaults(&self) -> TopicConfig {
        match self.genesis.len() {
            0 => TopicConfig::default(),
            nodes => {
                TopicConfig { replication_factor: nodes as u8, mode: ReplicationMode::L2, ..TopicConfig::default() }
            }
        }
    }

    fn on_call(
        &mut self,
        connection: u64,
        session_request: u64,
        call: MetadataCall,
        ctx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        if let MetadataCall::InitProducer(Some(known)) = &call
            && let Some(running) = self.running.as_ref()
            && let Some(answer) = returning_producer(running.core.state(), *known)
        {
            let to = Address::Node(self.node, Part::Connection(connection));
            ctx.send(to, Mail::Answered { request: session_request, result: Ok(answer) });
            return Ok(());
        }
        let now_secs = ctx.now.wall_ns / 1_000_000_000;
        let request = self.new_request();
        let command = match command_for(call, &self.view, &self.topic_defaults(), now_secs) {
            Ok(command) => command,
            Err(answer) => {
                let to = Address::Node(self.node, Part::Connection(connection));
                ctx.send(to, Mail::Answered { request: session_request, result: answer });
                return Ok(());
            }
        };
        self.waiting.insert(request, (connection, session_request));
        self.propose(request, &command, ctx)
    }

    fn propose(&mut self, request: u64, command: &MetadataCommand, ctx: &mut Context<'_>) -> Result<(), Failure> {
        if self.running.as_ref().is_some_and(|running| !running.core.is_leading()) && !self.is_alone() {
            self.forward_call(request, command, ctx);
            return Ok(());
        }
        let Some(running) = self.running.as_mut() else { return Ok(()) };
        let mut effects = Vec::new();
        if let Err(error) = running.core.on_propose(request, command, &mut effects)
            && error.is_fatal()
        {
            return Err(Failure(error.to_string()));
        }
        self.obey(effects, ctx)
    }

    fn obey(&mut self, effects: Vec<MetadataEffect>, ctx: &mut Context<'_>) -> Result<(), Failure> {
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            let mut more = Vec::new();
            self.obey_one(effect, &mut more, ctx)?;
            queue.extend(more);
        }
        if std::mem::take(&mut self.state_changed) {
            self.publish(ctx);
        } else {
            self.send_answers(ctx);
        }
        Ok(())
    }

    fn obey_one(
        &mut self,
        effect: MetadataEffect,
        more: &mut Vec<MetadataEffect>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure(error.to_string());
        let Some(running) = self.running.as_mut() else { return Ok(()) };
        match effect {
            MetadataEffect::Persist(persist) => {
                running.store.persist(&persist).map_err(|error| failed(&error))?;
                if persist.must_sync {
                    running.core.on_persisted(persist.number, more).map_err(|error| failed(&error))?;
                }
            }
            MetadataEffect::SaveSnapshot { snapshot, drop_through } => {
                running.store.save_snapshot(&snapshot, drop_through).map_err(|error| failed(&error))?;
            }
            MetadataEffect::Send { to, message } => {
                if let Some(node) = running.core.node_of_raft_id(to) {
                    self.send_to(node, &ControlMessage::Raft(message.into()), ctx);
                }
            }
            MetadataEffect::MoveLeader { partition, epoch, from, to } if from == self.identity.node => {
                let wanted = Mail::MoveWanted(MoveLeadership { partition, epoch, to });
                ctx.send(Address::Node(self.node, Part::Replication), wanted);
            }
            MetadataEffect::MoveLeader { partition, epoch, from, to } => {
                self.send_to(from, &ControlMessage::MoveLeader { partition, epoch, to }, ctx);
            }
            MetadataEffect::LeaderChanged { .. } => self.state_changed = true,
            MetadataEffect::Leading { .. } => {
                self.state_changed = true;
                let (command, request) = (self.registration(), self.new_request());
                self.registering = Some(request);
                let Some(running) = self.running.as_mut() else { return Ok(()) };
                running.core.on_propose(request, &command, more).map_err(|error| failed(&error))?;
            }
            MetadataEffect::Committed { events, .. } => self.on_events(&events, ctx),
            MetadataEffect::Answer { request, index, result } => return self.on_answer(request, index, result, ctx),
            MetadataEffect::AskPromises { node, partitions } if node != self.identity.node => {
                self.send_to(node, &ControlMessage::AskPromises(partitions), ctx);
            }
            MetadataEffect::AskPromises { partitions, .. } => {
                ctx.send(Address::Node(self.node, Part::Replication), Mail::PromiseWanted(partitions));
            }
        }
        Ok(())
    }

    fn evict_anyway(&self, command: &MetadataCommand, ctx: &mut Context<'_>) {
        let Some(running) = self.running.as_ref().filter(|_| self.sabotage == Sabotage::EvictBelowQuorum) else {
            return;
        };
        let roles = sabotaged::evict_anyway(running.core.state(), command);
        ctx.send(Address::Node(self.node, Part::Replication), Mail::RolesChanged(roles));
    }

    fn on_events(&mut self, events: &[MetadataEvent], ctx: &mut Context<'_>) {
        self.state_changed = true;
        let Some(running) = self.running.as_ref() else { return };
        let (state, identity) = (running.core.state(), self.identity);
        if !self.is_alone() {
            decided::applied(ctx.oracle, self.node, state);
        }
        let own = (identity.node, identity.incarnation, identity.boot_number);
        let (mut chosen, mut changed) = (Vec::new(), Vec::new());
        for event in events {
            let truth = &mut ctx.oracle.replicas;
            truth.exchanges += u64::from(self.node == 0 && matches!(event, MetadataEvent::ReplicasChanged { .. }));
            truth.admissions += u64::from(self.node == 0 && matches!(event, MetadataEvent::ReplicaAdmitted { .. }));
            if let MetadataEvent::InQuorumChanged { partition, in_quorum, .. } = event
                && self.node == 0
            {
                let before = Arc::clone(&self.view);
                let before = before.any_topic(partition.topic);
                let before = before.and_then(|topic| topic.members.get(usize::from(partition.partition)));
                let lost = before.is_some_and(|members| members.in_quorum.len() > in_quorum.len());
                *(if lost { &mut truth.evictions } else { &mut truth.returns }) += 1;
            }
            if let MetadataEvent::ReplicasChanged { partition, .. } = event {
                // Who is new holds a log of its own by now; until then what is durable may be one of an earlier time.
                check_replicas::dropped(ctx.oracle, *partition, self.node);
            }
            committed_holds(event, ctx);
            match *event {
                MetadataEvent::LeaderChosen { partition, epoch, leader, incarnation, boot_number, .. }
                    if (leader, incarnation.node, boot_number) == own =>
                {
                    chosen.extend(role_of(state, partition, epoch));
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
                    let led = roles_led(state, own.0, own.1, own.2);
                    changed.extend(led.iter().cloned());
                    chosen.extend(led);
                }
                _ => {}
            }
        }
        // A loss that is over by now excuses nothing from here on, and was to be judged until here.
        losses::seen(ctx.oracle, state);
        changed.retain(|role: &LeaderRole| {
            let leader = state.partition(role.partition).and_then(|decided| decided.leader);
            leader.is_some_and(|leader| leader.node == identity.node)
        });
        if !changed.is_empty() {
            ctx.send(Address::Node(self.node, Part::Replication), Mail::RolesChanged(changed));
        }
        if !chosen.is_empty() {
            ctx.send(Address::Node(self.node, Part::Replication), Mail::LeadersChosen(chosen));
        }
    }

    fn on_answer(
        &mut self,
        request: u64,
        index: Option<u64>,
        result: Result<MetadataAnswer, ProposeFailure>,
        ctx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        if let Some(asker) = self.remote.remove(&request) {
            self.answer_remote(asker, index, &result, ctx);
            return Ok(());
        }
        if self.registering == Some(request) {
            self.registering = None;
            return match result {
                Err(ProposeFailure::Refused(refusal)) => Err(Failure(format!("not registered: {refusal}"))),
                _ => Ok(()),
            };
        }
        let result = result.map_err(|failure| match failure {
            ProposeFailure::Refused(refusal) => CallFailure::Refused(refusal),
            other => CallFailure::Failed(ErrorCode::Unavailable, other.to_string()),
        });
        self.answered.push((request, result));
        Ok(())
    }

    fn publish(&mut self, ctx: &mut Context<'_>) {
        let Some(running) = self.running.as_ref() else { return };
        let core = &running.core;
        if !self.is_registered() || core.state().applied_index() < self.view.applied {
            return self.send_answers(ctx);
        }
        let mut view = ClusterView::new(core.state(), self.identity.node, core.leader_node(), core.raft().term());
        view.alive = self.alive.iter().copied().collect();
        // A node among several may be behind the others.
        if self.is_alone() {
            check::shown(ctx.oracle, &view);
        }
        self.publication += 1;
        let mut deleted: Vec<TopicId> = self.view.partitions().map(|partition| partition.topic).collect();
        deleted.dedup();
        deleted.retain(|topic| view.is_deleted(*topic));
        let mut assignments: Vec<Vec<(TopicPartition, u32)>> = vec![Vec::new(); usize::from(self.shards)];
        for partition in view.partitions().filter(|partition| view.holds(*partition)) {
            let copy = core.state().partition(partition).and_then(|decided| decided.copy_version(self.identity.node));
            assignments[usize::from(shard_of(partition, self.shards))].push((partition, copy.unwrap_or(0)));
        }
        for (shard, mut partitions) in (0..self.shards).zip(assignments) {
            partitions.sort_unstable();
            ctx.send(
                Address::Node(self.node, Part::Ingestion(shard)),
                Mail::Assign(self.publication, partitions, deleted.clone()),
            );
        }
        self.publishing = Some((self.shards, Arc::new(view)));
        self.wait = true;
    }

    /// A shard took its assignment; once all have, the view is shown and answers leave.
    fn on_assigned(&mut self, number: u64, ctx: &mut Context<'_>) -> bool {
        if number != self.publication {
            return false;
        }
        let Some((missing, view)) = self.publishing.take() else { return false };
        if missing > 1 {
            self.publishing = Some((missing - 1, view));
            return false;
        }
        self.view = view;
        self.wait = false;
        self.send_answers(ctx);
        true
    }

    pub(super) fn send_answers(&mut self, ctx: &mut Context<'_>) {
        for (request, result) in std::mem::take(&mut self.answered) {
            if let Some((connection, request)) = self.waiting.remove(&request) {
                ctx.send(Address::Node(self.node, Part::Connection(connection)), Mail::Answered { request, result });
            }
        }
    }
}

/// Judges changes of who counts by what is committed.
fn committed_holds(event: &MetadataEvent, ctx: &mut Context<'_>) {
    match event {
        MetadataEvent::LeaderChosen { partition, epoch, leader, incarnation, .. } => {
            let leader = (leader.0 - 1, *incarnation);
            committed::is_chosen(ctx.oracle, &Node::logs_dir(), (*partition, *epoch), leader);
        }
        MetadataEvent::ReplicaAdmitted { partition, node, incarnation } => {
            committed::is_admitted(ctx.oracle, &Node::logs_dir(), *partition, (*node, *incarnation));
        }
        MetadataEvent::ReplicasChanged { partition, replicas, replicas_version, .. } => {
            committed::is_exchanged(ctx.oracle, &Node::logs_dir(), (*partition, *replicas_version), replicas);
        }
        _ => {}
    }
}
