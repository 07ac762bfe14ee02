//! The world of one run: machines, clients, the network between them, what goes wrong, and when it is over.

use super::check::{liveness, order};
use super::client::{Admin, Client, Consumer, Legacy, Producer, Role};
use super::context::{Context, Outgoing, Phase, Slowness};
use super::disk::{FileKind, SimDisk};
use super::faults::{self, Plan, Trouble};
use super::mail::{Address, Mail, Part, Wake};
use super::node::{Node, NodeSetup};
use super::oracle::{LaneKind, Oracle};
use super::rng::Rng;
use super::sabotage::Sabotage;
use super::scheduler::{Envelope, Scheduler};
use super::trace::Trace;
use lance_actors::ingestion::core::Now;
use lance_messages::id::TopicPartition;
use lance_storage::disk::memory::{Completion, CrashPolicy, MemoryConfig, MemoryDisk};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
/// Where wall clocks begin: some day in 2026.
const EPOCH_NS: u64 = 1_780_000_000 * SECOND;

/// What a run may be asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is broken on purpose.
    pub sabotage: Sabotage,
    /// Faults to make instead of those the seed picks.
    pub faults: Option<Vec<Trouble>>,
    /// Print what happens.
    pub verbose: bool,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first thing that was not as it must be.
    pub violation: Option<String>,
    /// Equal for equal runs.
    pub trace_hash: u64,
    /// Messages delivered.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Acks that clients received.
    pub acks: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Bytes that consumers received.
    pub read_bytes: u64,
    /// Kinds of files at whose change the power failed.
    pub cuts: BTreeSet<FileKind>,
    /// How the node was configured, and what could go wrong.
    pub setup: String,
    /// The last things that happened.
    pub recent: String,
}

/// Runs one seed to its end.
pub fn run(seed: u64, options: &Options) -> Outcome {
    let mut world = World::new(seed, options);
    world.run();
    world.outcome()
}

struct World {
    scheduler: Scheduler,
    rng: Rng,
    trace: Trace,
    oracle: Oracle,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    setup: NodeSetup,
    plan: Plan,
    phase: Phase,
    chaos_ns: u64,
    healed_ns: u64,
    faults: u64,
    flips: Vec<(u16, PathBuf, u64, u8)>,
    out: Vec<Outgoing>,
    verbose: bool,
    big: bool,
    done: bool,
}

fn setup(rng: &mut Rng, options: &Options) -> NodeSetup {
    NodeSetup {
        shards: 1 + rng.below(2) as u16,
        segment_bytes: 1 << 20,
        retain_bytes: 0,
        zero_ahead_bytes: [0, 256 << 10][rng.below(2) as usize],
        slot_bytes: 16 << 10,
        slots: [64, 256][rng.below(2) as usize],
        tail_bytes: [64 << 10, 1 << 20][rng.below(2) as usize],
        // Chosen faults may be such as the other mode does not promise to survive.
        sync_always: !rng.once_in(8) || options.faults.is_some(),
        sabotage: options.sabotage,
    }
}

impl World {
    fn new(seed: u64, options: &Options) -> Self {
        let mut rng = Rng::new(seed);
        let setup = setup(&mut rng, options);
        let config =
            MemoryConfig { seed: rng.next_u64(), completion: Completion::Manual, reorder: true, capacity_bytes: None };
        let disk = SimDisk::new(MemoryDisk::new(config), options.sabotage.lies());
        let plan = match &options.faults {
            Some(kinds) => Plan::of(kinds),
            None => Plan::new(&mut rng, setup.sync_always),
        };
        let big = rng.once_in(3);
        let chaos_ns = rng.range(1_500 * MILLISECOND, 5 * SECOND);
        let mut world = Self {
            scheduler: Scheduler::default(),
            rng,
            trace: Trace::default(),
            oracle: Oracle::default(),
            nodes: vec![Node::new(0, disk, setup)],
            clients: Vec::new(),
            setup,
            plan,
            phase: Phase::Setup,
            chaos_ns,
            healed_ns: 0,
            faults: 0,
            flips: Vec::new(),
            out: Vec::new(),
            verbose: options.verbose,
            big,
            done: false,
        };
        let topics = 1 + world.rng.below(3) as u32;
        let topics: Vec<(String, u16)> =
            (0..topics).map(|number| (format!("t{number}"), 1 + world.rng.below(3) as u16)).collect();
        world.clients.push(Client::new(0, 0, Role::Admin(Admin::new(&topics))));
        world.wake(Address::Node(0, Part::Process), Wake::Start, 0);
        world.nudge(0);
        world
    }

    fn wake(&mut self, to: Address, wake: Wake, delay_ns: u64) {
        let envelope = Envelope { from: to, to, boot: self.boot_of(to), mail: Mail::Wake(wake) };
        self.scheduler.wake(envelope, delay_ns);
    }

    fn boot_of(&self, address: Address) -> u64 {
        match address {
            // A start is meant for the machine, whatever ran on it before.
            Address::Node(node, _) => self.nodes.get(usize::from(node)).map_or(0, |node| node.boot),
            _ => 0,
        }
    }

    fn run(&mut self) {
        while !self.done && self.oracle.violation.is_none() {
            let Some(envelope) = self.scheduler.take_next() else {
                self.oracle.violated("nothing is left to happen".to_owned());
                return;
            };
            self.deliver(envelope);
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        let Envelope { from, to, boot, mail } = envelope;
        // Packets and starts find whatever runs there now.
        let for_any_boot = matches!(mail, Mail::Wake(Wake::Start) | Mail::Connect { .. } | Mail::Bytes(..));
        if boot != self.boot_of(to) && !for_any_boot {
            return;
        }
        let now_ns = self.scheduler.now_ns();
        self.trace.note(now_ns, mail.name(), from.number(), to.number());
        if self.verbose && !matches!(mail, Mail::Wake(Wake::Tick)) {
            eprintln!("{:12.4} ms  {} {from:?} → {to:?}", now_ns as f64 / 1e6, mail.name());
        }
        match to {
            Address::World => self.on_world(&mail),
            Address::Client(client) => {
                self.with_client(client, |client, ctx| client.handle(mail, ctx));
                self.look_around();
            }
            Address::Node(node, part) => self.on_node(node, part, from, mail),
        }
        self.flush_outgoing();
    }

    fn on_node(&mut self, node: u16, part: Part, from: Address, mail: Mail) {
        match mail {
            Mail::Wake(Wake::Start) => self.start(node),
            Mail::Connect { connection, client } => {
                if !self.nodes[usize::from(node)].accept(connection, client) {
                    self.refuse(node, connection, client);
                }
            }
            Mail::Bytes(connection, _) if !self.nodes[usize::from(node)].knows(connection) => {
                self.refuse(node, connection, (connection >> 20) as u16);
            }
            mail => self.with_node(node, |node, ctx| node.handle(from, part, mail, ctx)),
        }
        for (part, failure) in std::mem::take(&mut self.nodes[usize::from(node)].failures) {
            if self.verbose {
                eprintln!("                 {part:?} failed: {failure}");
            }
        }
        if self.nodes[usize::from(node)].disk.is_off() {
            // What it still said in its last moment nobody heard.
            self.out.clear();
            self.power_cut(node);
        } else if self.nodes[usize::from(node)].has_escalated() {
            self.kill(node, SECOND);
        }
    }

    fn refuse(&mut self, node: u16, connection: u64, client: u16) {
        let from = Address::Node(node, Part::Connection(connection));
        let to = Address::Client(client);
        let envelope = Envelope { from, to, boot: 0, mail: Mail::Closed(connection) };
        let delay = self.rng.range(50_000, 5 * MILLISECOND);
        self.scheduler.send(envelope, delay);
    }

    fn with_node(&mut self, node: u16, work: impl FnOnce(&mut Node, &mut Context<'_>)) {
        let now_ns = self.scheduler.now_ns();
        let node = &mut self.nodes[usize::from(node)];
        let wall_ns = (EPOCH_NS + now_ns).saturating_add_signed(node.skew_ns);
        let elapsed = node.elapsed(now_ns);
        let mut ctx = Context {
            me: Address::Node(node.index, Part::Process),
            now_ns,
            now: Now { wall_ns, elapsed },
            slowness: node.slowness,
            phase: self.phase,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            out: &mut self.out,
        };
        work(node, &mut ctx);
    }

    fn with_client(&mut self, client: u16, work: impl FnOnce(&mut Client, &mut Context<'_>)) {
        let now_ns = self.scheduler.now_ns();
        let Some(one) = self.clients.get_mut(usize::from(client)) else { return };
        let mut ctx = Context {
            me: Address::Client(client),
            now_ns,
            now: Now { wall_ns: EPOCH_NS + now_ns, elapsed: Duration::from_nanos(now_ns) },
            slowness: Slowness::default(),
            phase: self.phase,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            out: &mut self.out,
        };
        work(one, &mut ctx);
    }

    fn flush_outgoing(&mut self) {
        for outgoing in std::mem::take(&mut self.out) {
            match outgoing {
                Outgoing::Send { from, to, mail, delay_ns } => {
                    let boot = self.boot_of(to);
                    self.scheduler.send(Envelope { from, to, boot, mail }, delay_ns);
                }
                Outgoing::Wake { whom, wake, delay_ns } => self.wake(whom, wake, delay_ns),
            }
        }
    }

    fn nudge(&mut self, client: u16) {
        self.with_client(client, |client, ctx| client.nudge(ctx));
        self.flush_outgoing();
    }

    fn start(&mut self, node: u16) {
        if self.nodes[usize::from(node)].is_running() {
            return;
        }
        let mut started = Ok(());
        self.with_node(node, |node, ctx| started = node.start(ctx));
        self.flush_outgoing();
        if let Err(failure) = started {
            if self.verbose {
                eprintln!("node {node} does not start: {}", failure.0);
            }
            self.nodes[usize::from(node)].kill();
            self.wake(Address::Node(node, Part::Process), Wake::Start, 200 * MILLISECOND);
        }
    }

    /// Its clients hear, some time later, that their connections are gone.
    fn break_connections(&mut self, node: u16, connections: &[u64]) {
        for &connection in connections {
            let client = (connection >> 20) as u16;
            let from = Address::Node(node, Part::Connection(connection));
            let to = Address::Client(client);
            let envelope = Envelope { from, to, boot: 0, mail: Mail::Closed(connection) };
            let delay = self.rng.range(100_000, 300 * MILLISECOND);
            self.scheduler.send(envelope, delay);
        }
    }

    fn kill(&mut self, node: u16, pause_ns: u64) {
        let connections = self.nodes[usize::from(node)].connections();
        self.break_connections(node, &connections);
        self.nodes[usize::from(node)].kill();
        self.wake(Address::Node(node, Part::Process), Wake::Start, pause_ns);
    }

    fn power_cut(&mut self, node: u16) {
        let policy = match self.rng.below(8) {
            0 => CrashPolicy::DropUnsynced,
            1 => CrashPolicy::KeepAll,
            _ => CrashPolicy::Random { seed: self.rng.next_u64() },
        };
        self.nodes[usize::from(node)].disk.power_on(policy);
        self.nodes[usize::from(node)].disk.memory().clear_faults();
        let pause = self.rng.range(MILLISECOND, 400 * MILLISECOND);
        self.kill(node, pause);
    }

    fn on_world(&mut self, mail: &Mail) {
        match mail {
            Mail::Wake(Wake::Fault) if self.phase == Phase::Chaos => {
                if let Some(trouble) = self.plan.pick(&mut self.rng) {
                    self.faults += 1;
                    self.strike(trouble);
                }
                let pause = self.plan.pause_ns(&mut self.rng);
                self.wake(Address::World, Wake::Fault, pause);
            }
            Mail::Wake(Wake::Heal) => self.heal(),
            Mail::Wake(Wake::Operator) => self.operate(),
            _ => {}
        }
    }

    /// An operator restarts a process whose partitions have stopped.
    fn operate(&mut self) {
        for node in 0..self.nodes.len() as u16 {
            let stopped = self.nodes[usize::from(node)].stopped();
            if self.verbose && !stopped.is_empty() {
                eprintln!("                 stopped: {stopped:?}");
            }
            if !stopped.is_empty() && (self.phase == Phase::Settle || self.rng.once_in(3)) {
                self.kill(node, 20 * MILLISECOND);
            }
        }
        self.wake(Address::World, Wake::Operator, 400 * MILLISECOND);
    }

    fn strike(&mut self, trouble: Trouble) {
        let node = self.rng.below(self.nodes.len() as u64) as u16;
        let index = usize::from(node);
        if self.verbose {
            eprintln!("{:12.4} ms  *** {trouble:?}", self.scheduler.now_ns() as f64 / 1e6);
        }
        let number = self.rng.next_u64();
        self.trace.note(self.scheduler.now_ns(), "fault", number, 0);
        match trouble {
            Trouble::CutAtFile(kind) => {
                // A log saves its state so seldom that the run would end before many such changes.
                let skip = self.rng.below(if kind == FileKind::Producers { 2 } else { 10 });
                self.nodes[index].disk.cut_at(kind, skip);
            }
            Trouble::CutAfter => {
                let changes = self.rng.below(60);
                self.nodes[index].disk.cut_after(changes);
                if changes == 0 {
                    self.power_cut(node);
                }
            }
            Trouble::Kill => {
                let pause = self.rng.range(MILLISECOND, 200 * MILLISECOND);
                self.kill(node, pause);
            }
            Trouble::SyncError => faults::sync_error(&self.nodes[index], &mut self.rng),
            Trouble::WriteError => faults::write_error(&self.nodes[index], &mut self.rng),
            Trouble::Stall => faults::stall(&self.nodes[index], &mut self.rng),
            Trouble::NoSpace => faults::toggle_space(&self.nodes[index], &mut self.rng),
            Trouble::ActorFailure => {
                let parts = self.nodes[index].failing_parts();
                if let Some(part) = self.rng.pick(&parts) {
                    self.with_node(node, |node, ctx| node.fail(part, ctx));
                }
            }
            Trouble::ClockJump => {
                let seconds = [1, 60, 3_600, 90_000][self.rng.below(4) as usize];
                let by = self.rng.below(seconds * SECOND) as i64;
                self.nodes[index].skew_ns += if self.rng.once_in(2) { by } else { -by };
            }
            Trouble::BitFlip => self.flip(node),
            Trouble::Disconnect => {
                let all = self.nodes[index].connections();
                let some = if self.rng.once_in(3) { all } else { self.rng.pick(&all).into_iter().collect() };
                self.break_connections(node, &some);
                for connection in some {
                    let to = Address::Node(node, Part::Connection(connection));
                    let envelope =
                        Envelope { from: Address::World, to, boot: self.boot_of(to), mail: Mail::Closed(connection) };
                    let delay = self.rng.below(500 * MILLISECOND);
                    self.scheduler.send(envelope, delay);
                }
            }
        }
        self.flush_outgoing();
    }

    fn flip(&mut self, node: u16) {
        let closed = |(partition, truth): (&TopicPartition, &super::oracle::PartitionTruth)| {
            (*partition, truth.durable.segment_base())
        };
        let closed: Vec<(TopicPartition, u64)> =
            self.oracle.partitions.iter().map(closed).filter(|(_, base)| *base > 0).collect();
        let flipped = faults::flip_bit(&self.nodes[usize::from(node)], &closed, &Node::logs_dir(), &mut self.rng);
        if let Some((path, at, bit)) = flipped {
            self.oracle.damage = true;
            self.flips.push((node, path, at, bit));
        }
    }

    fn heal(&mut self) {
        self.phase = Phase::Settle;
        self.healed_ns = self.scheduler.now_ns();
        for (node, path, at, bit) in std::mem::take(&mut self.flips) {
            self.nodes[usize::from(node)].disk.memory().flip_bit(&path, at, bit);
        }
        for node in 0..self.nodes.len() as u16 {
            let disk = &self.nodes[usize::from(node)].disk;
            disk.disarm();
            disk.memory().clear_faults();
            disk.memory().set_capacity(None);
            if self.rng.once_in(2) {
                self.kill(node, MILLISECOND);
            }
        }
    }

    /// Moves the run on when its phase is over.
    fn look_around(&mut self) {
        match self.phase {
            Phase::Setup => {
                if self.waiting().is_empty() {
                    self.begin_chaos();
                }
                if self.scheduler.now_ns() > 20 * SECOND {
                    self.oracle.violated("topics could not be made within 20 s".to_owned());
                }
            }
            Phase::Chaos => {}
            Phase::Settle => {
                let waiting = self.waiting();
                let now_ns = self.scheduler.now_ns();
                liveness::unfinished(&mut self.oracle, self.healed_ns, now_ns, &waiting);
                if waiting.is_empty() {
                    self.finish();
                }
            }
        }
    }

    fn waiting(&mut self) -> Vec<String> {
        let mut waiting = Vec::new();
        for client in 0..self.clients.len() as u16 {
            self.with_client(client, |client, ctx| waiting.extend(client.unfinished(ctx)));
            if !waiting.is_empty() {
                break;
            }
        }
        waiting
    }

    fn begin_chaos(&mut self) {
        self.phase = Phase::Chaos;
        let topics: Vec<_> = self.oracle.topics.values().copied().collect();
        let partitions: Vec<TopicPartition> = topics
            .iter()
            .flat_map(|topic| (0..topic.partitions).map(|number| TopicPartition::new(topic.id, number)))
            .collect();
        let shape = if self.big { (12, 40_000) } else { (6, 1_200) };
        let mut roles = Vec::new();
        for kind in [LaneKind::Idempotent, LaneKind::Idempotent, LaneKind::Once] {
            let wanted = partitions.iter().copied().filter(|_| self.rng.once_in(2)).collect::<Vec<_>>();
            let lanes = if wanted.is_empty() { vec![partitions[0]] } else { wanted };
            roles.push((kind, lanes));
        }
        for (kind, lanes) in roles {
            let client = self.clients.len() as u16;
            let producer = Producer::new(client, kind, &lanes, shape);
            self.clients.push(Client::new(client, 0, Role::Producer(producer)));
        }
        let client = self.clients.len() as u16;
        let legacy = Legacy::new(client, TopicPartition::new(topics[0].id, 0));
        self.clients.push(Client::new(client, 0, Role::Legacy(legacy)));
        for _ in 0..1 + self.rng.below(2) {
            let client = self.clients.len() as u16;
            self.clients.push(Client::new(client, 0, Role::Consumer(Consumer::new(client))));
        }
        for client in 1..self.clients.len() as u16 {
            self.nudge(client);
        }
        let pause = self.plan.pause_ns(&mut self.rng);
        self.wake(Address::World, Wake::Fault, pause);
        self.wake(Address::World, Wake::Operator, 400 * MILLISECOND);
        self.wake(Address::World, Wake::Heal, self.chaos_ns);
    }

    /// Everybody is content: now the whole log is looked at.
    fn finish(&mut self) {
        self.done = true;
        if !self.setup.sync_always {
            // What was acked in this mode may still wait for its sync.
            self.nodes[0].disk.memory().crash(CrashPolicy::KeepAll);
        }
        let partitions: Vec<TopicPartition> = self.oracle.partitions.keys().copied().collect();
        for partition in partitions {
            let memory = self.nodes[0].disk.memory().clone();
            let mut cursor = std::mem::take(&mut self.oracle.partition(partition).durable);
            cursor.follow_to_end(&memory, &Node::logs_dir(), partition);
            self.trace.note(self.scheduler.now_ns(), "end", u64::from(partition.topic.0), cursor.offset);
            self.oracle.partition(partition).durable = cursor;
            if !self.oracle.deleted.contains(&partition.topic) {
                order::whole_log(&mut self.oracle, partition);
            }
        }
    }

    fn outcome(self) -> Outcome {
        Outcome {
            violation: self.oracle.violation,
            trace_hash: self.trace.hash(),
            events: self.trace.count(),
            simulated: Duration::from_nanos(self.scheduler.now_ns()),
            acks: self.oracle.acks,
            faults: self.faults,
            read_bytes: self.oracle.read_bytes,
            cuts: self.nodes.iter().flat_map(|node| node.disk.cuts()).collect(),
            setup: format!("{:?} {:?}", self.setup, self.plan),
            recent: self.trace.recent(60),
        }
    }
}
