//! How faults strike several nodes.

use super::faults::ClusterTrouble;
use super::world::{MILLISECOND, SECOND, World, new_disk};
use crate::sim::check::{losses, replicas};
use crate::sim::context::Slowness;
use crate::sim::disk::FileKind;
use crate::sim::faults;
use crate::sim::mail::{Address, Mail, Part, Wake};
use crate::sim::node::Node;
use crate::sim::scheduler::Envelope;
use lance_cluster::metadata::MetadataCommand;
use lance_messages::id::{NodeId, TopicId};
use lance_storage::disk::memory::CrashPolicy;
use std::collections::VecDeque;

/// How many parts of a million a clock runs wrong at most: many times what crystals do.
const DRIFT: u64 = 20_000;
/// How long a slow disk is slow.
pub(super) const LASTING: u64 = 30 * SECOND;

impl World {
    /// Makes a fault.
    pub(super) fn strike(&mut self, trouble: ClusterTrouble) {
        let count = self.nodes.len() as u16;
        let node = self.rng.below(u64::from(count)) as u16;
        let other = (node + 1 + self.rng.below(u64::from(count) - 1) as u16) % count;
        let index = usize::from(node);
        if self.verbose {
            eprintln!("{:12.4} ms  *** {trouble:?} {node} {other}", self.scheduler.now_ns() as f64 / 1e6);
        }
        self.trace.note(self.scheduler.now_ns(), "fault", u64::from(node), u64::from(other));
        match trouble {
            ClusterTrouble::CutAtFile(kind) => {
                let skip = self.rng.below(if kind == FileKind::Producers { 2 } else { 10 });
                self.nodes[index].disk.cut_at(kind, skip);
            }
            ClusterTrouble::PowerCut => {
                let changes = self.rng.below(60);
                self.nodes[index].disk.cut_after(changes);
                if changes == 0 {
                    self.power_cut(node);
                }
            }
            ClusterTrouble::Blackout => {
                let lacks: Vec<bool> = (0..count).map(|node| self.lacks_elsewhere(node)).collect();
                (0..count).zip(lacks).for_each(|(node, lacks)| self.cut_power(node, lacks));
            }
            ClusterTrouble::Kill => {
                let pause = self.rng.range(MILLISECOND, 2 * SECOND);
                self.kill(node, pause);
            }
            ClusterTrouble::Pause => self.pause(node),
            ClusterTrouble::Isolate => {
                for other in (0..count).filter(|other| *other != node) {
                    self.network.block((node, other));
                    self.network.block((other, node));
                }
            }
            ClusterTrouble::OneWay => self.network.block((node, other)),
            ClusterTrouble::Bridge => {
                self.network.block((node, other));
                self.network.block((other, node));
            }
            ClusterTrouble::Split => self.split(node, other),
            ClusterTrouble::SlowLink => {
                let by = self.rng.range(5 * MILLISECOND, 200 * MILLISECOND);
                self.network.slow_down((node, other), by);
                self.network.slow_down((other, node), by);
            }
            ClusterTrouble::HealNetwork => self.heal_network(),
            ClusterTrouble::Reset => self.network.reset((node, other)),
            ClusterTrouble::SlowDisk => faults::stall(&self.nodes[index], &mut self.rng),
            ClusterTrouble::SyncError => faults::sync_error(&self.nodes[index], &mut self.rng),
            ClusterTrouble::WriteError => faults::write_error(&self.nodes[index], &mut self.rng),
            ClusterTrouble::NoSpace => faults::toggle_space(&self.nodes[index], &mut self.rng),
            ClusterTrouble::ClockJump => {
                let seconds = [1, 60, 3_600, 90_000][self.rng.below(4) as usize];
                let by = self.rng.below(seconds * SECOND) as i64;
                self.nodes[index].skew_ns += if self.rng.once_in(2) { by } else { -by };
            }
            ClusterTrouble::ActorFailure => {
                let parts = self.nodes[index].failing_parts();
                if let Some(part) = self.rng.pick(&parts).filter(|_| self.paused[index].is_none()) {
                    self.with_node(node, |node, ctx| node.fail(part, ctx));
                }
            }
            ClusterTrouble::Disconnect => self.disconnect(node),
            ClusterTrouble::Wipe => self.wipe(node),
            ClusterTrouble::BitRot => self.rot(node),
            ClusterTrouble::Recopy => {
                let fewer = self.rng.once_in(2);
                let topics: Vec<TopicId> = self.oracle.topics.values().map(|topic| topic.id).collect();
                if let Some(topic) = self.rng.pick(&topics) {
                    self.ask_for_copies(node, topic, count - u16::from(fewer));
                }
            }
            ClusterTrouble::ClockDrift
            | ClusterTrouble::ClockStop
            | ClusterTrouble::LastingSlowDisk
            | ClusterTrouble::SlowNode => self.strike_at_speed(node, trouble),
            ClusterTrouble::Drain => self.drain(node, other),
            // The administrator has them come and go.
            ClusterTrouble::Topics => {}
        }
        self.flush_outgoing();
    }

    /// Two nodes, and nobody else, are on one side.
    fn split(&mut self, node: u16, other: u16) {
        let count = self.nodes.len() as u16;
        for far in (0..count).filter(|far| ![node, other].contains(far)) {
            for near in [node, other] {
                self.network.block((near, far));
                self.network.block((far, near));
            }
        }
    }

    /// What hardly anybody notices at once: a machine's time and speed.
    fn strike_at_speed(&mut self, node: u16, trouble: ClusterTrouble) {
        let now_ns = self.scheduler.now_ns();
        let machine = &mut self.nodes[usize::from(node)];
        let lasts = match trouble {
            ClusterTrouble::ClockDrift => {
                machine.clock.run_at(self.rng.range(1_000_000 - DRIFT, 1_000_000 + DRIFT), now_ns);
                return;
            }
            ClusterTrouble::ClockStop => {
                machine.clock.run_at(0, now_ns);
                self.rng.range(200 * MILLISECOND, 5 * SECOND)
            }
            ClusterTrouble::LastingSlowDisk => {
                machine.slowness.disk = 100;
                LASTING
            }
            _ => {
                machine.slowness.threads = self.rng.range(10, 60) as u32;
                self.rng.range(500 * MILLISECOND, 5 * SECOND)
            }
        };
        self.wake(Address::World, Wake::Recover(node), lasts);
    }

    /// A machine's time and speed are as they should be.
    pub(super) fn recover(&mut self, node: u16) {
        let now_ns = self.scheduler.now_ns();
        let machine = &mut self.nodes[usize::from(node)];
        machine.clock.mend(now_ns);
        machine.slowness = Slowness::default();
    }

    fn drain(&mut self, node: u16, other: u16) {
        let draining = self.drained.insert(node);
        if !draining {
            self.drained.remove(&node);
        }
        self.ask(other, MetadataCommand::SetDraining { node: NodeId(node + 1), draining });
    }

    /// In the end every node may lead.
    pub(super) fn end_drains(&mut self) {
        let view = self.nodes.iter().filter_map(Node::view).max_by_key(|view| view.applied);
        let draining: Vec<NodeId> = view.into_iter().flat_map(|view| view.draining.clone()).collect();
        for node in draining {
            let asked = self.rng.below(self.nodes.len() as u64) as u16;
            self.ask(asked, MetadataCommand::SetDraining { node, draining: false });
        }
    }

    /// An operator asks a node that so many nodes hold a topic.
    pub(super) fn ask_for_copies(&mut self, node: u16, topic: TopicId, copies: u16) {
        self.ask(node, MetadataCommand::SetReplicationFactor { topic, replication_factor: copies as u8 });
    }

    /// An operator asks a node for something.
    fn ask(&mut self, node: u16, command: MetadataCommand) {
        let to = Address::Node(node, Part::Metadata);
        let envelope = Envelope { from: Address::World, to, boot: self.boot_of(to), mail: Mail::Propose(command) };
        self.scheduler.send(envelope, MILLISECOND);
    }

    fn disconnect(&mut self, node: u16) {
        let all = self.nodes[usize::from(node)].connections();
        self.break_connections(node, &all);
        for connection in all {
            let to = Address::Node(node, Part::Connection(connection));
            let envelope =
                Envelope { from: Address::World, to, boot: self.boot_of(to), mail: Mail::Closed(connection) };
            let delay = self.rng.below(500 * MILLISECOND);
            self.scheduler.send(envelope, delay);
        }
    }

    /// Once in a run, so that a majority of the replicas keeps its disks.
    fn wipe(&mut self, node: u16) {
        if self.has_wiped || self.lacks_elsewhere(node) {
            return;
        }
        self.has_wiped = true;
        let pause = self.rng.range(MILLISECOND, SECOND);
        self.kill(node, pause);
        let setup = self.node_setup();
        let disk = new_disk(&mut self.rng, &setup);
        let incarnation = self.nodes[usize::from(node)].first_incarnation();
        let who = (node, incarnation, self.applied_index());
        replicas::wiped(&mut self.oracle, &Node::logs_dir(), who, disk.clone());
        self.nodes[usize::from(node)].wipe(disk);
    }

    /// One to three bits flip in closed segments of one partition of a node.
    fn rot(&mut self, node: u16) {
        let machine = &self.nodes[usize::from(node)];
        let Some((partition, life, active)) = self.rng.pick(&machine.replicas_with_closed_segments()) else { return };
        if !losses::may_rot(&mut self.oracle, partition) || self.lacks_elsewhere(node) {
            return;
        }
        let machine = &self.nodes[usize::from(node)];
        let mut flips = Vec::new();
        for _ in 0..self.rng.range(1, 3) {
            flips.extend(faults::flip_bit(machine, &[(partition, active)], &Node::logs_dir(), &mut self.rng));
        }
        let when = self.applied_index();
        losses::rotten(&mut self.oracle, partition, node, (life, when), &flips);
    }

    /// How far the node that knows most has applied the metadata.
    fn applied_index(&self) -> u64 {
        self.nodes.iter().filter_map(Node::applied_index).max().unwrap_or_default()
    }

    fn pause(&mut self, node: u16) {
        let index = usize::from(node);
        if self.paused[index].is_none() && self.nodes[index].is_running() {
            self.paused[index] = Some(VecDeque::new());
            let long = self.rng.range(500 * MILLISECOND, 5 * SECOND);
            self.wake(Address::Node(node, Part::Process), Wake::Resume, long);
        }
    }

    /// A process goes on: what came meanwhile comes all at once.
    pub(super) fn resume(&mut self, node: u16) {
        for envelope in self.paused[usize::from(node)].take().into_iter().flatten() {
            self.deliver(envelope);
        }
    }

    pub(super) fn heal_network(&mut self) {
        for envelope in self.network.heal() {
            self.deliver(envelope);
        }
    }

    /// Its clients hear, some time later, that their connections are gone.
    fn break_connections(&mut self, node: u16, connections: &[u64]) {
        for &connection in connections {
            let to = Address::Client((connection >> 20) as u16);
            let from = Address::Node(node, Part::Connection(connection));
            let envelope = Envelope { from, to, boot: 0, mail: Mail::Closed(connection) };
            let delay = self.rng.range(100_000, 300 * MILLISECOND);
            self.scheduler.send(envelope, delay);
        }
    }

    pub(super) fn kill(&mut self, node: u16, pause_ns: u64) {
        let index = usize::from(node);
        let connections = self.nodes[index].connections();
        self.break_connections(node, &connections);
        self.paused[index] = None;
        self.nodes[index].kill();
        self.wake(Address::Node(node, Part::Process), Wake::Start, pause_ns);
    }

    /// Whether replicas of other nodes may lack what they confirmed: a majority keeps it, so nobody else loses it meanwhile.
    fn lacks_elsewhere(&mut self, node: u16) -> bool {
        let nodes = &self.nodes;
        self.torn.retain(|torn| !nodes[usize::from(*torn)].has_sound_logs());
        let view = nodes.iter().filter_map(Node::view).max_by_key(|view| view.applied);
        let topics = view.iter().flat_map(|view| view.sorted_topics());
        let mut unadmitted = topics.flat_map(|topic| &topic.members).flat_map(|members| &members.unadmitted);
        unadmitted.any(|other| other.0 != node + 1)
            || self.torn.iter().any(|torn| *torn != node)
            || losses::outstanding_elsewhere(&mut self.oracle, node)
    }

    pub(super) fn power_cut(&mut self, node: u16) {
        let lacks = self.lacks_elsewhere(node);
        self.cut_power(node, lacks);
    }

    fn cut_power(&mut self, node: u16, others_lack: bool) {
        // A replica that is far behind may be torn below what is committed, and is refilled then.
        let policy = if others_lack { CrashPolicy::DropUnsynced } else { self.crash_policy() };
        if matches!(policy, CrashPolicy::Random { .. }) {
            self.torn.insert(node);
        }
        let disk = &self.nodes[usize::from(node)].disk;
        disk.power_on(policy);
        disk.memory().clear_faults();
        let pause = self.rng.range(MILLISECOND, 2 * SECOND);
        self.kill(node, pause);
    }
}
