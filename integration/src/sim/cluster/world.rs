//! The world of one run with several nodes: who gets which message when, and when it is over.

use super::faults::{ClusterPlan, ClusterTrouble};
use super::network::{Network, Station};
use super::strike::LASTING;
use super::{ClusterOptions, ClusterOutcome};
use crate::sim::check::{liveness, losses, order, replicas};
use crate::sim::client::{Admin, Client, Consumer, Producer, Role};
use crate::sim::context::{Context, Outgoing, Phase, Slowness};
use crate::sim::disk::SimDisk;
use crate::sim::mail::{Address, Mail, Part, Wake};
use crate::sim::node::{Node, NodeSetup};
use crate::sim::oracle::{LaneKind, Oracle};
use crate::sim::rng::Rng;
use crate::sim::scheduler::{Envelope, Scheduler};
use crate::sim::trace::Trace;
use lance_actors::ingestion::core::Now;
use lance_cluster::metadata::{GenesisNode, TopicConfig};
use lance_messages::id::{NodeId, TopicPartition};
use lance_storage::disk::memory::{Completion, CrashPolicy, MemoryConfig, MemoryDisk};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(super) const MILLISECOND: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1_000_000_000;
/// Where wall clocks begin: some day in 2026.
const EPOCH_NS: u64 = 1_780_000_000 * SECOND;
/// How many messages a run has at least.
const LEAST_MESSAGES: u64 = 10_000;
const LINKS_INTERVAL: u64 = 10 * MILLISECOND;

pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) rng: Rng,
    pub(super) trace: Trace,
    pub(super) oracle: Oracle,
    pub(super) nodes: Vec<Node>,
    clients: Vec<Client>,
    setup: NodeSetup,
    pub(super) plan: ClusterPlan,
    pub(super) network: Network,
    /// Messages for processes that stand still.
    pub(super) paused: Vec<Option<VecDeque<Envelope>>>,
    pub(super) has_wiped: bool,
    /// Nodes whose power failed in the middle of what they wrote, until their logs are found sound.
    pub(super) torn: BTreeSet<u16>,
    /// Nodes that somebody has asked to be emptied.
    pub(super) drained: BTreeSet<u16>,
    pub(super) phase: Phase,
    chaos_ns: u64,
    healed_ns: u64,
    pub(super) faults: u64,
    out: Vec<Outgoing>,
    pub(super) verbose: bool,
    big: bool,
    done: bool,
}

fn setup(rng: &mut Rng, options: &ClusterOptions) -> NodeSetup {
    NodeSetup {
        shards: 1 + rng.below(2) as u16,
        segment_bytes: [64 << 10, 256 << 10, 1 << 20][rng.below(3) as usize],
        retain_bytes: [0, 0, 100 << 10, 400 << 10][rng.below(4) as usize],
        zero_ahead_bytes: [0, 256 << 10][rng.below(2) as usize],
        slot_bytes: 16 << 10,
        slots: [128, 256][rng.below(2) as usize],
        tail_bytes: [64 << 10, 1 << 20][rng.below(2) as usize],
        sync_always: true,
        sabotage: options.sabotage,
    }
}

/// An empty disk.
pub(super) fn new_disk(rng: &mut Rng, setup: &NodeSetup) -> SimDisk {
    let config =
        MemoryConfig { seed: rng.next_u64(), completion: Completion::Manual, reorder: true, capacity_bytes: None };
    SimDisk::new(MemoryDisk::new(config), setup.sabotage.lies())
}

impl World {
    pub(super) fn new(seed: u64, options: &ClusterOptions) -> Self {
        let mut rng = Rng::new(seed);
        let setup = setup(&mut rng, options);
        let plan = match &options.faults {
            Some(kinds) => ClusterPlan::of(kinds),
            None => ClusterPlan::new(&mut rng),
        };
        let genesis = |number: u16| GenesisNode {
            node: NodeId(number + 1),
            incarnation: rng.next_u64().max(1),
            address: format!("node-{}:1992", number + 1),
        };
        let genesis = Arc::new((0..options.nodes).map(genesis).collect::<Vec<_>>());
        let nodes: Vec<Node> = (0..options.nodes)
            .map(|index| Node::of_cluster(index, new_disk(&mut rng, &setup), setup, Arc::clone(&genesis)))
            .collect();
        let mut oracle = Oracle::default();
        oracle.replicas.disks = nodes.iter().map(|node| node.disk.clone()).collect();
        let (big, mut chaos_ns) = (rng.once_in(3), rng.range(3 * SECOND, 7 * SECOND));
        // What lasts long is to last to its end now and then.
        if plan.has(ClusterTrouble::LastingSlowDisk) && rng.once_in(8) {
            chaos_ns += LASTING;
        }
        let mut world = Self {
            scheduler: Scheduler::default(),
            rng,
            trace: Trace::default(),
            oracle,
            paused: nodes.iter().map(|_| None).collect(),
            nodes,
            clients: Vec::new(),
            setup,
            plan,
            network: Network::default(),
            has_wiped: false,
            torn: BTreeSet::new(),
            drained: BTreeSet::new(),
            phase: Phase::Setup,
            chaos_ns,
            healed_ns: 0,
            faults: 0,
            out: Vec::new(),
            verbose: options.verbose,
            big,
            done: false,
        };
        for node in 0..options.nodes {
            let delay = world.rng.below(300 * MILLISECOND);
            world.wake(Address::Node(node, Part::Process), Wake::Start, delay);
        }
        world.wake(Address::World, Wake::Links, LINKS_INTERVAL);
        world
    }

    pub(super) fn wake(&mut self, to: Address, wake: Wake, delay_ns: u64) {
        let envelope = Envelope { from: to, to, boot: self.boot_of(to), mail: Mail::Wake(wake) };
        self.scheduler.wake(envelope, delay_ns);
    }

    pub(super) fn boot_of(&self, address: Address) -> u64 {
        match address {
            Address::Node(node, _) => self.nodes.get(usize::from(node)).map_or(0, |node| node.boot),
            _ => 0,
        }
    }

    pub(super) fn run(&mut self) {
        while !self.done && self.oracle.violation.is_none() {
            let Some(envelope) = self.scheduler.take_next() else {
                self.oracle.violated("nothing is left to happen".to_owned());
                return;
            };
            self.deliver(envelope);
        }
    }

    pub(super) fn deliver(&mut self, envelope: Envelope) {
        // Packets and starts find whatever runs there now.
        let for_any_boot = matches!(envelope.mail, Mail::Wake(Wake::Start) | Mail::Connect { .. } | Mail::Bytes(..));
        if envelope.boot != self.boot_of(envelope.to) && !for_any_boot {
            return;
        }
        let resumes = matches!(envelope.mail, Mail::Wake(Wake::Resume));
        if let Address::Node(node, _) = envelope.to
            && let Some(waiting) = self.paused[usize::from(node)].as_mut()
        {
            if !resumes {
                return waiting.push_back(envelope);
            }
            return self.resume(node);
        }
        if resumes {
            return;
        }
        let Some(Envelope { from, to, mail, .. }) = self.network.arrive(envelope) else { return };
        let now_ns = self.scheduler.now_ns();
        self.trace.note(now_ns, mail.name(), from.number(), to.number());
        self.tell(&mail, from, to);
        match to {
            Address::World => self.on_world(&mail),
            Address::Client(client) => {
                self.with_client(client, |client, ctx| client.handle(mail, ctx));
            }
            Address::Node(node, part) => self.on_node(node, part, from, mail),
        }
        self.flush_outgoing();
    }

    fn tell(&self, mail: &Mail, from: Address, to: Address) {
        let quiet = matches!(mail, Mail::Wake(wake) if !matches!(wake, Wake::Start | Wake::Fault | Wake::Heal))
            || matches!(mail, Mail::Bytes(..) | Mail::Submit(..) | Mail::DiskDone(_) | Mail::ExtendLease(_));
        if self.verbose && !quiet {
            let mut text = format!("{mail:?}");
            if let Mail::Control(_, bytes) = mail {
                text = format!("{:?}", lance_cluster::control::ControlMessage::decode(bytes));
            }
            if !text.contains("Heartbeat") && !text.contains("Ok(Raft") {
                text.truncate(text.char_indices().nth(300).map_or(text.len(), |(at, _)| at));
                eprintln!("{:12.4} ms  {from:?} → {to:?} {text}", self.scheduler.now_ns() as f64 / 1e6);
            }
        }
    }

    fn on_node(&mut self, node: u16, part: Part, from: Address, mail: Mail) {
        let index = usize::from(node);
        match mail {
            Mail::Wake(Wake::Start) => self.start(node),
            Mail::Connect { connection, client } => {
                if !self.nodes[index].accept(connection, client) {
                    self.refuse(node, connection, client);
                }
            }
            Mail::Bytes(connection, _) if !self.nodes[index].knows(connection) => {
                self.refuse(node, connection, (connection >> 20) as u16);
            }
            mail => self.with_node(node, |node, ctx| node.handle(from, part, mail, ctx)),
        }
        for (part, failure) in std::mem::take(&mut self.nodes[index].failures) {
            if self.verbose {
                eprintln!("                 node {node}: {part:?} failed: {failure}");
            }
        }
        if self.nodes[index].disk.is_off() {
            // What it still said in its last moment nobody heard.
            self.out.clear();
            self.power_cut(node);
        } else if self.nodes[index].has_escalated() {
            self.kill(node, SECOND);
        }
    }

    fn refuse(&mut self, node: u16, connection: u64, client: u16) {
        let from = Address::Node(node, Part::Connection(connection));
        let envelope = Envelope { from, to: Address::Client(client), boot: 0, mail: Mail::Closed(connection) };
        let delay = self.rng.range(50_000, 5 * MILLISECOND);
        self.scheduler.send(envelope, delay);
    }

    pub(super) fn with_node(&mut self, node: u16, work: impl FnOnce(&mut Node, &mut Context<'_>)) {
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

    pub(super) fn flush_outgoing(&mut self) {
        for outgoing in std::mem::take(&mut self.out) {
            match outgoing {
                Outgoing::Send { from, to, mail, delay_ns } => self.send(from, to, mail, delay_ns),
                Outgoing::Wake { whom, wake, delay_ns } => {
                    let delay_ns = self.by_clock_of(whom, delay_ns);
                    self.wake(whom, wake, delay_ns);
                }
            }
        }
    }

    /// What a timer of this machine takes.
    fn by_clock_of(&self, address: Address, delay_ns: u64) -> u64 {
        match address {
            Address::Node(node, _) => self.nodes[usize::from(node)].clock.time_for(delay_ns),
            _ => delay_ns,
        }
    }

    fn send(&mut self, from: Address, to: Address, mail: Mail, delay_ns: u64) {
        let leaves = match (from, to) {
            (Address::Node(a, _), Address::Node(b, _)) if a != b => Some(a),
            (Address::Node(a, _), Address::World) => Some(a),
            _ => None,
        };
        let (to, mail, delay_ns) = match leaves {
            None => (to, mail, delay_ns),
            Some(node) => match self.network.send(node, to, mail, &mut self.rng) {
                Some(sent) => sent,
                None => return,
            },
        };
        let boot = self.boot_of(to);
        self.scheduler.send(Envelope { from, to, boot, mail }, delay_ns);
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
            // Who is killed all the time does little: everything is to happen often enough.
            Mail::Wake(Wake::Heal) if self.trace.count() < LEAST_MESSAGES => {
                self.wake(Address::World, Wake::Heal, 500 * MILLISECOND);
            }
            Mail::Wake(Wake::Heal) => self.heal(),
            Mail::Wake(Wake::Operator) => self.operate(),
            Mail::Wake(Wake::Recover(node)) => self.recover(*node),
            Mail::Wake(Wake::Links) => {
                self.look_after_links();
                self.wake(Address::World, Wake::Links, LINKS_INTERVAL);
                self.look_around();
            }
            _ => {}
        }
    }

    fn look_after_links(&mut self) {
        let stations: Vec<Station> = (0..self.nodes.len())
            .map(|node| Station {
                boot: self.nodes[node].boot,
                identity: self.nodes[node].identity(),
                paused: self.paused[node].is_some(),
            })
            .collect();
        for change in self.network.look_after(self.scheduler.now_ns(), &stations, &mut self.rng) {
            let shards = (0..self.setup.shards).map(Part::Ingestion);
            for part in shards.chain([Part::Metadata]) {
                let to = Address::Node(change.owner, part);
                let mail = Mail::LinkChanged(NodeId(change.peer + 1), change.identity);
                let envelope = Envelope { from: Address::World, to, boot: self.boot_of(to), mail };
                let delay = self.rng.range(1_000, 100_000);
                self.scheduler.send(envelope, delay);
            }
        }
    }

    /// An operator restarts a process whose partitions have stopped.
    fn operate(&mut self) {
        for node in 0..self.nodes.len() as u16 {
            let stopped = self.nodes[usize::from(node)].stopped();
            if self.verbose && !stopped.is_empty() {
                eprintln!("                 node {node} stopped: {stopped:?}");
            }
            if let Some((partition, reason)) = stopped.iter().find(|(_, reason)| reason.contains("nothing was cut")) {
                self.oracle.violated(format!("node {node}: {partition}: {reason}"));
            }
            if !stopped.is_empty() && (self.phase == Phase::Settle || self.rng.once_in(3)) {
                self.kill(node, 20 * MILLISECOND);
            }
        }
        if self.phase == Phase::Settle {
            self.restore_copies();
            self.end_drains();
        }
        self.wake(Address::World, Wake::Operator, 400 * MILLISECOND);
    }

    /// In the end every node shall hold everything again.
    fn restore_copies(&mut self) {
        let count = self.nodes.len() as u16;
        let view = self.nodes.iter().filter_map(Node::view).max_by_key(|view| view.applied);
        let topics = view.map(|view| view.topics.values().map(|topic| (topic.id, topic.config)).collect::<Vec<_>>());
        let fewer = |config: &TopicConfig| u16::from(config.replication_factor) != count;
        for (topic, _) in topics.into_iter().flatten().filter(|(_, config)| fewer(config)) {
            let node = self.rng.below(u64::from(count)) as u16;
            self.ask_for_copies(node, topic, count);
        }
    }

    fn heal(&mut self) {
        self.phase = Phase::Settle;
        self.healed_ns = self.scheduler.now_ns();
        self.heal_network();
        for node in 0..self.nodes.len() as u16 {
            self.resume(node);
            self.nodes[usize::from(node)].clock.mend(self.healed_ns);
            self.nodes[usize::from(node)].slowness = Slowness::default();
            let disk = &self.nodes[usize::from(node)].disk;
            disk.disarm();
            disk.memory().clear_faults();
            disk.memory().set_capacity(None);
        }
    }

    /// Moves the run on when its phase is over.
    fn look_around(&mut self) {
        match self.phase {
            Phase::Setup => self.set_up(),
            Phase::Chaos => {}
            Phase::Settle => {
                let mut waiting = self.waiting();
                if waiting.is_empty() {
                    waiting.extend(self.not_counted());
                    waiting.extend(losses::outstanding(&mut self.oracle));
                }
                let now_ns = self.scheduler.now_ns();
                liveness::unfinished(&mut self.oracle, self.healed_ns, now_ns, &waiting);
                if waiting.is_empty() {
                    self.converge();
                } else if self.oracle.violation.is_some() {
                    self.say_where_it_stands();
                }
            }
        }
    }

    fn say_where_it_stands(&self) {
        if self.verbose {
            for node in &self.nodes {
                eprintln!("node {}: {:?}", node.index, node.leaderships());
            }
        }
    }

    fn set_up(&mut self) {
        let everybody = |node: &Node| node.view().is_some_and(|view| view.nodes.len() == self.nodes.len());
        if self.clients.is_empty() && self.nodes.iter().all(everybody) {
            let topics: Vec<(String, u16)> =
                (0..1 + self.rng.below(2)).map(|number| (format!("t{number}"), 1 + self.rng.below(2) as u16)).collect();
            let is_changing = self.plan.has(ClusterTrouble::Topics);
            self.add(Role::Admin(if is_changing { Admin::changing(&topics) } else { Admin::calm(&topics) }));
        } else if !self.clients.is_empty() && self.waiting().is_empty() {
            let topics = self.oracle.topics.len();
            let knows = |node: &Node| node.view().is_some_and(|view| view.topics.len() == topics);
            if self.nodes.iter().all(knows) {
                self.begin_chaos();
            }
        }
        if self.scheduler.now_ns() > 20 * SECOND {
            self.oracle.violated("no cluster, or no topics, within 20 s".to_owned());
            self.say_where_it_stands();
        }
    }

    fn add(&mut self, role: Role) {
        let client = self.clients.len() as u16;
        self.clients.push(Client::of_cluster(client, self.nodes.len() as u16, role));
        self.with_client(client, |client, ctx| client.nudge(ctx));
        self.flush_outgoing();
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

    /// A replica that is not in the quorum again, in the eyes of the node that knows most.
    fn not_counted(&self) -> Option<String> {
        let view = self.nodes.iter().filter_map(Node::view).max_by_key(|view| view.applied)?;
        let partitions =
            view.topics.values().flat_map(|topic| topic.members.iter().zip(0..).map(|one| (topic.id, one)));
        partitions.into_iter().find(|(_, (members, _))| members.in_quorum.len() < self.nodes.len()).map(
            |(topic, (members, number))| {
                let partition = TopicPartition::new(topic, number);
                format!("{partition} is held by {:?} and counts on {:?}", members.replicas, members.in_quorum)
            },
        )
    }

    fn begin_chaos(&mut self) {
        self.phase = Phase::Chaos;
        let topics: Vec<_> = self.oracle.topics.values().copied().collect();
        let partitions: Vec<TopicPartition> = topics
            .iter()
            .flat_map(|topic| (0..topic.partitions).map(|number| TopicPartition::new(topic.id, number)))
            .collect();
        let shape = if self.big { (12, 20_000) } else { (6, 1_200) };
        for partition in &partitions {
            for kind in [LaneKind::Idempotent, LaneKind::Once] {
                let client = self.clients.len() as u16;
                self.add(Role::Producer(Producer::new(client, kind, &[*partition], shape)));
            }
            let client = self.clients.len() as u16;
            self.add(Role::Consumer(Consumer::of_partition(client, *partition)));
        }
        let pause = self.plan.pause_ns(&mut self.rng);
        self.wake(Address::World, Wake::Fault, pause);
        self.wake(Address::World, Wake::Operator, 400 * MILLISECOND);
        self.wake(Address::World, Wake::Heal, self.chaos_ns);
    }

    /// Everybody is content: now all replicas must come to hold the same.
    fn converge(&mut self) {
        let partitions: Vec<TopicPartition> = self.oracle.partitions.keys().copied().collect();
        let differs = partitions
            .iter()
            .find_map(|partition| replicas::converged(&mut self.oracle, &Node::logs_dir(), *partition).err());
        if let Some(differs) = differs {
            let now_ns = self.scheduler.now_ns();
            liveness::unfinished(&mut self.oracle, self.healed_ns, now_ns, &[differs]);
            if self.oracle.violation.is_some() {
                self.say_where_it_stands();
            }
            return;
        }
        self.done = true;
        for partition in partitions {
            replicas::finish(&mut self.oracle, &Node::logs_dir(), partition);
            let end = self.oracle.partition(partition).durable.position();
            self.trace.note(self.scheduler.now_ns(), "end", u64::from(partition.topic.0), end);
            order::whole_log(&mut self.oracle, partition);
        }
    }

    /// After a power cut any of what was not synced may be there.
    pub(super) fn crash_policy(&mut self) -> CrashPolicy {
        match self.rng.below(8) {
            0..=2 => CrashPolicy::DropUnsynced,
            3 => CrashPolicy::KeepAll,
            _ => CrashPolicy::Random { seed: self.rng.next_u64() },
        }
    }

    pub(super) fn node_setup(&self) -> NodeSetup {
        self.setup
    }

    pub(super) fn outcome(self) -> ClusterOutcome {
        ClusterOutcome {
            violation: self.oracle.violation,
            trace_hash: self.trace.hash(),
            events: self.trace.count(),
            simulated: Duration::from_nanos(self.scheduler.now_ns()),
            acks: self.oracle.acks,
            entries: self.oracle.decided.looked_at,
            faults: self.faults,
            read_bytes: self.oracle.read_bytes,
            elections: self.oracle.replicas.elections,
            cuts: self.oracle.replicas.cuts,
            exchanges: self.oracle.replicas.exchanges,
            admissions: self.oracle.replicas.admissions,
            removals: self.oracle.removals.count,
            flips: self.oracle.losses.flips,
            repairs: self.oracle.losses.repairs,
            vanished: self.oracle.losses.vanished,
            evictions: self.oracle.replicas.evictions,
            returns: self.oracle.replicas.returns,
            power_cuts: self.nodes.iter().flat_map(|node| node.disk.cuts()).collect(),
            setup: format!("{:?} {:?}", self.setup, self.plan),
            recent: self.trace.recent(60),
        }
    }
}
