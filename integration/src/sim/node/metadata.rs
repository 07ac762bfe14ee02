//! The metadata actor's shell, as `actors/src/metadata/actor.rs` is, over its real files.

use super::Failure;
use crate::sim::check::metadata as check;
use crate::sim::context::Context;
use crate::sim::disk::SimDisk;
use crate::sim::mail::{Address, Mail, Part, Wake};
use lance_actors::metadata::calls::{command_for, returning_producer};
use lance_actors::metadata::roles::role_of;
use lance_actors::metadata::store::MetadataStore;
use lance_actors::network::session::answers::CallFailure;
use lance_actors::network::session::{MetadataCall, shard_of};
use lance_actors::view::ClusterView;
use lance_cluster::metadata::{
    MetadataAnswer, MetadataCommand, MetadataCore, MetadataEffect, MetadataEvent, ProposeFailure, RaftConf, RaftConfig,
    TopicConfig,
};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{NodeId, TopicPartition};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(50);

type Answered = Result<MetadataAnswer, CallFailure>;

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

struct Running {
    core: MetadataCore,
    store: MetadataStore,
}

/// The shell of the metadata core.
pub struct Metadata {
    node: u16,
    shards: u16,
    identity: Identity,
    disk: SimDisk,
    dir: PathBuf,
    running: Option<Running>,
    waiting: BTreeMap<u64, (u64, u64)>,
    answered: Vec<(u64, Answered)>,
    next_request: u64,
    registering: Option<u64>,
    state_changed: bool,
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
    pub fn new(node: u16, shards: u16, identity: Identity, disk: &SimDisk, dir: PathBuf) -> Self {
        Self {
            node,
            shards,
            identity,
            disk: disk.clone(),
            dir,
            running: None,
            waiting: BTreeMap::new(),
            answered: Vec::new(),
            next_request: 1,
            registering: None,
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
        let genesis = RaftConf::of_voters([self.identity.incarnation]);
        let (store, persisted) = MetadataStore::open(&self.disk.as_disk(), &self.dir, genesis)
            .map_err(|error| Failure(error.to_string()))?;
        let mut config = RaftConfig::new(self.identity.incarnation, self.identity.nonce);
        // Snapshots often enough to be seen.
        config.snapshot_interval_entries = 40;
        config.kept_entries = 8;
        let mut effects = Vec::new();
        let core = MetadataCore::new(config, &persisted, ctx.elapsed_ms(), &mut effects)
            .map_err(|error| Failure(error.to_string()))?;
        self.running = Some(Running { core, store });
        if first {
            ctx.wake(Wake::Tick, TICK);
        }
        self.obey(effects, ctx)
    }

    /// One message; `Ok(true)` when the mailbox may go on after having waited.
    pub fn handle(&mut self, mail: Mail, ctx: &mut Context<'_>) -> Result<bool, Failure> {
        match mail {
            Mail::Assigned(number) => return Ok(self.on_assigned(number, ctx)),
            Mail::Call { connection, request, call } => {
                return self.on_call(connection, request, call, ctx).map(|()| false);
            }
            Mail::Wake(Wake::Tick) => ctx.wake(Wake::Tick, TICK),
            _ => {}
        }
        let now_ms = ctx.elapsed_ms();
        let Some(running) = self.running.as_mut() else { return Ok(false) };
        let mut effects = Vec::new();
        let result = match mail {
            Mail::Wake(Wake::Tick) => running.core.on_tick(now_ms, &mut effects),
            Mail::Promised(answers) => running.core.on_promises(self.identity.node, &answers, &mut effects),
            Mail::EpochsRequested(requests) => running.core.on_epoch_requested(&requests, &mut effects),
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
        Ok(false)
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
            ctx.send(to, Mail::Answered { request: session_request, result: answer });
            return Ok(());
        }
        let now_secs = ctx.now.wall_ns / 1_000_000_000;
        let request = self.next_request;
        self.next_request += 1;
        let command = match command_for(call, &self.view, &TopicConfig::default(), now_secs) {
            Ok(command) => command,
            Err(answer) => {
                let to = Address::Node(self.node, Part::Connection(connection));
                ctx.send(to, Mail::Answered { request: session_request, result: answer });
                return Ok(());
            }
        };
        self.waiting.insert(request, (connection, session_request));
        let Some(running) = self.running.as_mut() else { return Ok(()) };
        let mut effects = Vec::new();
        if let Err(error) = running.core.on_propose(request, &command, &mut effects)
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
            MetadataEffect::Send { .. } | MetadataEffect::MoveLeader { .. } => {}
            MetadataEffect::LeaderChanged { .. } => self.state_changed = true,
            MetadataEffect::Leading { .. } => {
                self.state_changed = true;
                let Identity { node, incarnation, boot_number, nonce } = self.identity;
                let address = format!("node-{node}:1992");
                let command = MetadataCommand::RegisterNode {
                    node,
                    incarnation,
                    boot_number,
                    nonce,
                    address,
                    rack: String::new(),
                };
                let request = self.next_request;
                self.next_request += 1;
                self.registering = Some(request);
                running.core.on_propose(request, &command, more).map_err(|error| failed(&error))?;
            }
            MetadataEffect::Committed { events, .. } => self.on_events(&events, ctx),
            MetadataEffect::Answer { request, result, .. } => return self.on_answer(request, result),
            MetadataEffect::AskPromises { partitions, .. } => {
                ctx.send(Address::Node(self.node, Part::Replication), Mail::PromiseWanted(partitions));
            }
        }
        Ok(())
    }

    fn on_events(&mut self, events: &[MetadataEvent], ctx: &mut Context<'_>) {
        self.state_changed = true;
        let mut chosen = Vec::new();
        for event in events {
            if let MetadataEvent::LeaderChosen { partition, epoch, leader, incarnation, boot_number, .. } = *event
                && leader == self.identity.node
                && incarnation.node == self.identity.incarnation
                && boot_number == self.identity.boot_number
            {
                chosen
                    .extend(self.running.as_ref().and_then(|running| role_of(running.core.state(), partition, epoch)));
            }
        }
        if !chosen.is_empty() {
            ctx.send(Address::Node(self.node, Part::Replication), Mail::LeadersChosen(chosen));
        }
    }

    fn on_answer(&mut self, request: u64, result: Result<MetadataAnswer, ProposeFailure>) -> Result<(), Failure> {
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
        if !core.is_leading() {
            return self.send_answers(ctx);
        }
        let view = ClusterView::new(core.state(), self.identity.node, core.leader_node(), core.raft().term());
        check::shown(ctx.oracle, &view);
        self.publication += 1;
        let mut assignments: Vec<Vec<TopicPartition>> = vec![Vec::new(); usize::from(self.shards)];
        for partition in view.partitions() {
            assignments[usize::from(shard_of(partition, self.shards))].push(partition);
        }
        for (shard, mut partitions) in (0..self.shards).zip(assignments) {
            partitions.sort_unstable();
            ctx.send(Address::Node(self.node, Part::Ingestion(shard)), Mail::Assign(self.publication, partitions));
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

    fn send_answers(&mut self, ctx: &mut Context<'_>) {
        for (request, result) in std::mem::take(&mut self.answered) {
            if let Some((connection, request)) = self.waiting.remove(&request) {
                ctx.send(Address::Node(self.node, Part::Connection(connection)), Mail::Answered { request, result });
            }
        }
    }
}
