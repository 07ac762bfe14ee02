//! One node: the real cores in shells that do what the actors do, over a memory disk.

pub mod connection;
mod following;
mod ingestion;
mod judging;
mod members;
mod metadata;
mod poller;
mod replication;
mod sabotaged;
mod scrub;

use super::clock::Clock;
use super::context::{Context, Outgoing, Slowness};
use super::disk::SimDisk;
use super::mail::{Address, Mail, Part, Wake};
use super::sabotage::Sabotage;
use connection::Connection;
use ingestion::Ingestion;
use lance_actors::ingestion::core::IngestionCore;
use lance_actors::ingestion::partition::{Leadership, Partition};
use lance_actors::network::readers::{ReadFailure, look_up};
use lance_actors::network::session::{SessionLimits, shard_of};
use lance_actors::stages::RequestTraces;
use lance_actors::supervision::RestartPolicy;
use lance_actors::supervision::policy::{RestartHistory, Verdict};
use lance_cluster::control::ControlMessage;
use lance_cluster::metadata::GenesisNode;
use lance_messages::id::{NodeId, ReplicaIncarnation, TopicPartition};
use lance_messages::peer::PeerIdentity;
use lance_storage::checkpoint::{DataDir, FlushedMarks};
use lance_storage::disk::Arena;
use lance_storage::reader::Reader;
use metadata::{Identity, Metadata};
use poller::Poller;
use replication::Replication;
use scrub::Scrub;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where a node keeps its data.
pub const DATA_DIR: &str = "/data";

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);

/// Why an actor cannot go on.
#[derive(Clone, Debug)]
pub struct Failure(pub String);

/// How a node is configured.
#[derive(Clone, Copy, Debug)]
pub struct NodeSetup {
    /// Its shards.
    pub shards: u16,
    /// When segments roll.
    pub segment_bytes: u64,
    /// Bytes of each log that stay when the oldest segments go; 0: all.
    pub retain_bytes: u64,
    /// Zeroes written ahead.
    pub zero_ahead_bytes: u64,
    /// Bytes of a write buffer.
    pub slot_bytes: usize,
    /// Write buffers of a shard.
    pub slots: usize,
    /// Bytes of the tail ring.
    pub tail_bytes: usize,
    /// Whether an ack waits for the sync of its own batch, or for that of an interval.
    pub sync_always: bool,
    /// What is broken on purpose.
    pub sabotage: Sabotage,
}

/// An actor's mailbox while it cannot take messages, and its failures.
struct Gate {
    closed: bool,
    down: bool,
    inbox: VecDeque<(Address, Mail)>,
    history: RestartHistory,
}

impl Default for Gate {
    fn default() -> Self {
        let history = RestartHistory::new(RestartPolicy::default());
        Self { closed: false, down: false, inbox: VecDeque::new(), history }
    }
}

/// A running process.
struct Process {
    identity: PeerIdentity,
    started_ns: u64,
    shards: Vec<(Ingestion, Poller)>,
    metadata: Metadata,
    replication: Replication,
    scrub: Scrub,
    reader: Reader,
    connections: BTreeMap<u64, Connection>,
    gates: BTreeMap<Part, Gate>,
    escalated: bool,
    _data_dir: DataDir,
}

/// A machine with a disk, and the process on it if it runs.
pub struct Node {
    /// Its index in the world.
    pub index: u16,
    /// Its disk.
    pub disk: SimDisk,
    /// Counts its processes; messages to earlier ones are lost.
    pub boot: u64,
    /// Steps of its disk that are still to come.
    steps: usize,
    /// Why its actors failed.
    pub failures: Vec<(Part, String)>,
    /// How far its wall clock is off, in nanoseconds.
    pub skew_ns: i64,
    /// Its monotonic clock.
    pub clock: Clock,
    /// How slow it is.
    pub slowness: Slowness,
    setup: NodeSetup,
    /// The nodes the cluster began with; empty for a node that is alone.
    genesis: Arc<Vec<GenesisNode>>,
    /// The disk was wiped: what it begins with is new.
    wiped: bool,
    process: Option<Process>,
}

impl Node {
    /// A machine that is switched on and runs nothing yet.
    pub fn new(index: u16, disk: SimDisk, setup: NodeSetup) -> Self {
        Self::of_cluster(index, disk, setup, Arc::default())
    }

    /// A machine of a cluster that begins with these nodes.
    pub fn of_cluster(index: u16, disk: SimDisk, setup: NodeSetup, genesis: Arc<Vec<GenesisNode>>) -> Self {
        let failures = Vec::new();
        Self {
            index,
            disk,
            boot: 0,
            steps: 0,
            failures,
            skew_ns: 0,
            clock: Clock::default(),
            slowness: Slowness::default(),
            setup,
            genesis,
            wiped: false,
            process: None,
        }
    }

    /// Puts an empty disk in place of its own; its process must not run.
    pub fn wipe(&mut self, disk: SimDisk) {
        self.disk = disk;
        self.wiped = true;
    }

    /// Which start of it runs.
    pub fn identity(&self) -> Option<PeerIdentity> {
        self.process.as_ref().map(|process| process.identity)
    }

    /// Shards it has.
    pub fn shards(&self) -> u16 {
        self.setup.shards
    }

    /// What its clients are shown of the metadata.
    pub fn view(&self) -> Option<Arc<lance_actors::view::ClusterView>> {
        self.process.as_ref().map(|process| Arc::clone(&process.metadata.view))
    }

    /// Where each partition stands here.
    pub fn leaderships(&self) -> Vec<(TopicPartition, Leadership)> {
        let cores =
            self.process.iter().flat_map(|process| &process.shards).filter_map(|(ingestion, _)| ingestion.core());
        cores.flat_map(|core| core.partitions()).map(|partition| (partition.id, partition.leadership.clone())).collect()
    }

    /// Introduced replicas that have closed segments, in which life they are, and where their open segments begin.
    pub fn replicas_with_closed_segments(&self) -> Vec<(TopicPartition, ReplicaIncarnation, u64)> {
        let found = |partition: &Partition| {
            let (log, follower) = (partition.log.as_ref()?, partition.follower.as_ref()?);
            let active = log.closed_segments().last()?.end()?.mark.position;
            Some((partition.id, follower.replica.incarnation(), active))
        };
        let cores =
            self.process.iter().flat_map(|process| &process.shards).filter_map(|(ingestion, _)| ingestion.core());
        cores.flat_map(IngestionCore::partitions).filter_map(found).collect()
    }

    /// Whether it runs, and every log is open and whole.
    pub fn has_sound_logs(&self) -> bool {
        let shards = || self.process.iter().flat_map(|process| &process.shards);
        let is_sound = |partition: &Partition| partition.log.as_ref().is_some_and(|log| log.offline().is_none());
        shards().next().is_some()
            && shards().all(|(ingestion, _)| ingestion.core().is_some_and(|core| core.partitions().all(is_sound)))
    }

    /// Its incarnation before it was wiped.
    pub fn first_incarnation(&self) -> u64 {
        let node = NodeId(self.index + 1);
        self.genesis.iter().find(|genesis| genesis.node == node).map_or(0, |genesis| genesis.incarnation)
    }

    /// How far it has applied the metadata.
    pub fn applied_index(&self) -> Option<u64> {
        self.process.as_ref().and_then(|process| process.metadata.applied_index())
    }

    /// Where its partition logs are.
    pub fn logs_dir() -> PathBuf {
        Path::new(DATA_DIR).join("logs")
    }

    /// Whether a process runs.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// How long its process has run, by its own clock.
    pub fn elapsed(&self, now_ns: u64) -> Duration {
        let started_ns = self.process.as_ref().map_or(0, |process| process.started_ns);
        Duration::from_nanos(self.clock.read(now_ns).saturating_sub(started_ns))
    }

    /// Whether its process gave up.
    pub fn has_escalated(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.escalated)
    }

    /// The parts that can be made to fail.
    pub fn failing_parts(&self) -> Vec<Part> {
        let shards = (0..self.setup.shards).flat_map(|shard| [Part::Ingestion(shard), Part::Poller(shard)]);
        shards.chain([Part::Metadata, Part::Replication]).collect()
    }

    /// Partitions that serve nothing any more, and why.
    pub fn stopped(&self) -> Vec<(TopicPartition, String)> {
        let cores =
            self.process.iter().flat_map(|process| &process.shards).filter_map(|(ingestion, _)| ingestion.core());
        let stopped = cores.flat_map(|core| core.partitions()).filter_map(|partition| match &partition.leadership {
            Leadership::Stopped { reason } => Some((partition.id, reason.clone())),
            _ => None,
        });
        stopped.collect()
    }

    /// The process is gone at once; its disk stays as it is, but for what is in flight.
    pub fn kill(&mut self) {
        self.process = None;
        self.steps = 0;
        self.boot += 1;
    }

    /// Starts a process. `Err` says why it ended at once.
    pub fn start(&mut self, ctx: &mut Context<'_>) -> Result<(), Failure> {
        self.boot += 1;
        let failed = |error: &dyn std::fmt::Display| Failure(error.to_string());
        let disk = self.disk.as_disk();
        let node = NodeId(self.index + 1);
        let begun = self.genesis.iter().find(|genesis| genesis.node == node && !self.wiped);
        let incarnation = begun.map_or_else(|| ctx.rng.next_u64(), |genesis| genesis.incarnation);
        let mut data_dir =
            DataDir::open(&disk, Path::new(DATA_DIR), node, incarnation).map_err(|error| failed(&error))?;
        if data_dir.record().cluster_id == 0 {
            let cluster = if self.genesis.is_empty() { ctx.rng.next_u64().max(1) } else { 1 };
            data_dir.adopt_cluster(cluster).map_err(|error| failed(&error))?;
        }
        disk.create_dir_all(&data_dir.logs_dir()).map_err(|error| failed(&error))?;
        let shards = self.setup.shards;
        let owner = |partition| u32::from(shard_of(partition, shards));
        let (marks, flushed) =
            FlushedMarks::open(&disk, data_dir.path(), u32::from(shards), owner).map_err(|error| failed(&error))?;
        let record = *data_dir.record();
        let mut parts = Vec::new();
        for (shard, flushed) in (0..shards).zip(flushed) {
            let arena = Arena::new(self.setup.slot_bytes, self.setup.slots).map_err(|error| failed(&error))?;
            let own = marks.positions.iter().filter(|(partition, _)| shard_of(**partition, shards) == shard);
            let own = own.map(|(partition, at)| (*partition, *at)).collect();
            let poller = Poller::new(self.index, shard, self.setup.sabotage, &self.disk, Arc::clone(&arena));
            let who = (self.index, shard, record.boot_number);
            let who = (who.0, who.1, who.2, self.genesis.len() > 1);
            let ingestion = Ingestion::new(who, self.setup, &self.disk, Self::logs_dir(), arena, (flushed, own));
            parts.push((ingestion, poller));
        }
        let nonce = ctx.rng.next_u64();
        let identity =
            Identity { node: record.node_id, incarnation: record.incarnation, boot_number: record.boot_number, nonce };
        let who = (record.incarnation, record.boot_number, self.setup.sabotage);
        let genesis = Arc::clone(&self.genesis);
        self.process = Some(Process {
            identity: PeerIdentity { node, incarnation: record.incarnation, boot_number: record.boot_number },
            started_ns: self.clock.read(ctx.now_ns),
            shards: parts,
            metadata: Metadata::new(
                (self.index, shards, self.setup.sabotage),
                identity,
                genesis,
                &self.disk,
                data_dir.meta_dir(),
            ),
            replication: Replication::new(
                self.index,
                (shards, self.genesis.len() > 1),
                who,
                &self.disk,
                data_dir.promises_path(),
            ),
            scrub: Scrub::new(),
            reader: Reader::new(&disk, 8),
            connections: BTreeMap::new(),
            gates: BTreeMap::new(),
            escalated: false,
            _data_dir: data_dir,
        });
        ctx.now.elapsed = Duration::ZERO;
        for part in self.failing_parts() {
            self.begin(part, true, ctx);
        }
        if !self.genesis.is_empty() {
            ctx.me = Address::Node(self.index, Part::Process);
            ctx.wake(Wake::Beat, HEARTBEAT_INTERVAL);
            ctx.wake(Wake::Scrub, scrub::TICK);
        }
        Ok(())
    }

    /// A client connects.
    pub fn accept(&mut self, connection: u64, client: u16) -> bool {
        let limits = SessionLimits {
            max_payload_bytes: 16 << 20,
            max_record_bytes: 16 << 20,
            max_in_flight_bytes: 4 << 20,
            max_requests: 64,
            max_fetch_bytes: 4 << 20,
            max_fetch_wait: Duration::from_secs(60),
            auto_create: true,
            shards: self.setup.shards,
            node: NodeId(self.index + 1),
            // Some requests are traced: that must change nothing of what happens to them.
            traces: Some(RequestTraces::new(connection, 0.25, true)),
        };
        let Some(process) = self.process.as_mut() else { return false };
        // The listener accepts nobody before the committed metadata is known.
        if process.metadata.view.node.is_none() {
            return false;
        }
        process.connections.insert(connection, Connection::new(self.index, connection, client, limits));
        true
    }

    /// Whether a connection is open here.
    pub fn knows(&self, connection: u64) -> bool {
        self.process.as_ref().is_some_and(|process| process.connections.contains_key(&connection))
    }

    /// Connections that are open.
    pub fn connections(&self) -> Vec<u64> {
        self.process.iter().flat_map(|process| process.connections.keys().copied()).collect()
    }

    /// Makes an actor fail.
    pub fn fail(&mut self, part: Part, ctx: &mut Context<'_>) {
        let Some(process) = self.process.as_mut() else { return };
        ctx.me = Address::Node(self.index, part);
        let gate = process.gates.entry(part).or_default();
        if gate.down {
            return;
        }
        (gate.closed, gate.down) = (true, true);
        match gate.history.on_failure(ctx.now.elapsed) {
            Verdict::RestartAfter(pause) => ctx.wake(Wake::Restart, pause),
            Verdict::Escalate => process.escalated = true,
        }
        match part {
            Part::Ingestion(shard) => process.shards[usize::from(shard)].0.drop_core(),
            Part::Poller(shard) => process.shards[usize::from(shard)].1.drop_core(ctx),
            Part::Metadata => process.metadata.drop_core(ctx),
            Part::Replication => process.replication.drop_core(),
            _ => {}
        }
    }

    fn begin(&mut self, part: Part, first: bool, ctx: &mut Context<'_>) {
        ctx.me = Address::Node(self.index, part);
        let Some(process) = self.process.as_mut() else { return };
        let gate = process.gates.entry(part).or_default();
        (gate.closed, gate.down) = (false, false);
        let begun = match part {
            Part::Ingestion(shard) => Ok(process.shards[usize::from(shard)].0.begin(ctx)),
            Part::Poller(shard) => process.shards[usize::from(shard)].1.begin().map(|()| false),
            Part::Metadata => process.metadata.begin(ctx, first).map(|()| process.metadata.wait),
            Part::Replication => process.replication.begin(ctx, first).map(|()| false),
            _ => Ok(false),
        };
        self.tell_connections(ctx);
        match begun {
            Ok(wait) => self.set_gate(part, wait, ctx),
            Err(failure) => self.on_failure(part, failure, ctx),
        }
    }

    fn on_failure(&mut self, part: Part, failure: Failure, ctx: &mut Context<'_>) {
        self.failures.push((part, failure.0));
        self.fail(part, ctx);
    }

    fn tell_connections(&mut self, ctx: &mut Context<'_>) {
        let Some(process) = self.process.as_mut() else { return };
        for (shard, (ingestion, _)) in (0u16..).zip(&mut process.shards) {
            if std::mem::take(&mut ingestion.restarted) {
                for connection in process.connections.keys() {
                    let to = Address::Node(self.index, Part::Connection(*connection));
                    ctx.send(to, Mail::ShardRestarted(shard));
                }
            }
        }
    }

    /// Closes a mailbox, or opens it and delivers what has gathered.
    fn set_gate(&mut self, part: Part, closed: bool, ctx: &mut Context<'_>) {
        let Some(process) = self.process.as_mut() else { return };
        process.gates.entry(part).or_default().closed = closed;
        loop {
            let Some(gate) = self.process.as_mut().and_then(|process| process.gates.get_mut(&part)) else { return };
            if gate.closed {
                return;
            }
            let Some((_, mail)) = gate.inbox.pop_front() else { return };
            self.work(part, mail, ctx);
        }
    }

    /// One message for one of its parts.
    pub fn handle(&mut self, from: Address, part: Part, mail: Mail, ctx: &mut Context<'_>) {
        if part == Part::Process {
            return self.on_process(&mail, ctx);
        }
        let Some(process) = self.process.as_mut() else { return };
        let gate = process.gates.entry(part).or_default();
        if matches!(mail, Mail::Wake(Wake::Restart)) {
            return self.begin(part, false, ctx);
        }
        // The end of a future of a context that is gone says nothing to its successor.
        if gate.down && mail.is_continuation() {
            return;
        }
        if gate.closed && !mail.is_continuation() {
            gate.inbox.push_back((from, mail));
            return;
        }
        self.work(part, mail, ctx);
    }

    /// Work that a message leads to at once.
    fn work(&mut self, part: Part, mail: Mail, ctx: &mut Context<'_>) {
        ctx.me = Address::Node(self.index, part);
        let Some(process) = self.process.as_mut() else { return };
        let result = match part {
            Part::Ingestion(shard) => {
                let resumed = process.shards[usize::from(shard)].0.handle(mail, ctx);
                match resumed {
                    Ok(true) => return self.set_gate(part, false, ctx),
                    other => other.map(|_| ()),
                }
            }
            Part::Poller(shard) => {
                let out = ctx.out.len();
                let handled = process.shards[usize::from(shard)].1.handle(mail, ctx);
                self.count_steps(out, ctx);
                handled
            }
            Part::Metadata => match process.metadata.handle(mail, ctx) {
                Ok(_) => {
                    let wait = process.metadata.wait;
                    let gate = process.gates.entry(part).or_default();
                    if gate.closed != wait {
                        return self.set_gate(part, wait, ctx);
                    }
                    Ok(())
                }
                Err(failure) => Err(failure),
            },
            Part::Replication => process.replication.handle(mail, ctx),
            Part::Reader => {
                read(&mut process.reader, self.index, mail, ctx);
                Ok(())
            }
            Part::Connection(id) => {
                let view = Arc::clone(&process.metadata.view);
                let open =
                    process.connections.get_mut(&id).is_none_or(|connection| connection.handle(mail, &view, ctx));
                if !open {
                    process.connections.remove(&id);
                }
                Ok(())
            }
            Part::Process => Ok(()),
        };
        if let Err(failure) = result {
            self.on_failure(part, failure, ctx);
        }
    }

    /// Counts the steps of the disk that were asked for since there were `from` outgoing messages.
    fn count_steps(&mut self, from: usize, ctx: &Context<'_>) {
        let is_step = |outgoing: &&Outgoing| matches!(outgoing, Outgoing::Wake { wake: Wake::Disk, .. });
        self.steps += ctx.out.iter().skip(from).filter(is_step).count();
    }

    fn on_process(&mut self, mail: &Mail, ctx: &mut Context<'_>) {
        if matches!(mail, Mail::Wake(Wake::Beat)) {
            ctx.me = Address::Node(self.index, Part::Process);
            ctx.wake(Wake::Beat, HEARTBEAT_INTERVAL);
            if let Some(process) = self.process.as_ref() {
                let heartbeat = ControlMessage::Heartbeat { sent_ms: ctx.elapsed_ms() };
                process.metadata.tell_all(&heartbeat, ctx);
            }
            return;
        }
        if matches!(mail, Mail::Wake(Wake::Scrub)) {
            ctx.me = Address::Node(self.index, Part::Process);
            ctx.wake(Wake::Scrub, scrub::TICK);
            if let Some(process) = self.process.as_mut() {
                let Process { shards, metadata, scrub, .. } = process;
                let logs =
                    shards.iter().filter_map(|(ingestion, _)| ingestion.core()).flat_map(IngestionCore::partitions);
                scrub.turn(
                    (self.index, &self.disk),
                    logs.filter_map(|partition| partition.log.as_ref()),
                    &metadata.view,
                    ctx,
                );
            }
            return;
        }
        if !matches!(mail, Mail::Wake(Wake::Disk)) {
            return;
        }
        self.disk.memory().step();
        let out = ctx.out.len();
        let Some(process) = self.process.as_mut() else { return };
        let mut failed = Vec::new();
        for (shard, (_, poller)) in (0u16..).zip(&mut process.shards) {
            ctx.me = Address::Node(self.index, Part::Poller(shard));
            if let Err(failure) = poller.turn(ctx) {
                failed.push((Part::Poller(shard), failure));
            }
        }
        self.count_steps(out, ctx);
        for (part, failure) in failed {
            self.on_failure(part, failure, ctx);
        }
        // An operation that was put off needs another step.
        self.steps = self.steps.saturating_sub(1);
        if self.disk.memory().pending_count() > 0 && self.steps == 0 {
            self.steps = 1;
            ctx.me = Address::Node(self.index, Part::Process);
            let delay = ctx.disk_delay();
            ctx.wake(Wake::Disk, Duration::from_nanos(delay));
        }
    }
}

/// A job of the reader threads.
fn read(reader: &mut Reader, node: u16, mail: Mail, ctx: &mut Context<'_>) {
    match mail {
        Mail::Plan { connection, request, part, read, offset, max_bytes } => {
            let plan = reader.plan(read.slices(), offset, max_bytes);
            let plan = plan.map_err(|error| ReadFailure::new(error, &read));
            let to = Address::Node(node, Part::Connection(connection));
            ctx.send(to, Mail::Planned { request, part, plan });
        }
        Mail::LookUpSegments { connection, request, read, query } => {
            let result = look_up(&read, query, reader);
            ctx.send(Address::Node(node, Part::Connection(connection)), Mail::LookedUp { request, result });
        }
        _ => {}
    }
}
