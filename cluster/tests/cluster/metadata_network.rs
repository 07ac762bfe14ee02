//! Several metadata cores over a network that loses, repeats and reorders, on disks that lose what was not synced.

use crate::support::{Chance, RaftDisk};
use bytes::Bytes;
use lance_cluster::metadata::{
    GenesisNode, MetadataAnswer, MetadataCommand, MetadataCore, MetadataEffect, MetadataEvent, MetadataOptions,
    MetadataState, PromiseAnswer, PromiseOutcome, ProposeFailure, RaftConf, RaftConfig, ReplicaIncarnation,
};
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use lance_messages::peer::PeerIdentity;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Mail {
    Raft(Bytes),
    Register(MetadataCommand),
    Heartbeat,
    Ask(Vec<(TopicPartition, LeaderEpoch)>),
    Promised(Vec<PromiseAnswer>),
    Led(TopicPartition, LeaderEpoch),
    Move(TopicPartition, LeaderEpoch, NodeId),
    MoveReady(TopicPartition, LeaderEpoch, NodeId),
}

pub struct Host {
    pub incarnation: u64,
    boot_number: u64,
    pub core: Option<MetadataCore>,
    disk: RaftDisk,
    answers: BTreeMap<u64, Result<MetadataAnswer, ProposeFailure>>,
    pub snapshots_received: usize,
}

pub struct Network {
    chance: Chance,
    pub now_ms: u64,
    pub hosts: BTreeMap<u16, Host>,
    /// From, to, message.
    mail: Vec<(PeerIdentity, u16, Mail)>,
    pub lost_percent: u64,
    genesis: Vec<GenesisNode>,
    next_request: u64,
}

impl Network {
    /// A cluster of nodes 1..=count that starts for the first time, each with incarnation 100 + its number.
    pub fn new(seed: u64, count: u16) -> Self {
        let genesis = (1..=count).map(|node| GenesisNode {
            node: NodeId(node),
            incarnation: 100 + u64::from(node),
            address: format!("lance-{node}:9000"),
        });
        let mut network = Self {
            chance: Chance(seed),
            now_ms: 0,
            hosts: BTreeMap::new(),
            mail: Vec::new(),
            lost_percent: 10,
            genesis: genesis.collect(),
            next_request: 1,
        };
        let voters: Vec<u64> = network.genesis.iter().map(|node| node.incarnation).collect();
        for node in 1..=count {
            network.put(node, 100 + u64::from(node), RaftDisk::new(&voters));
        }
        network
    }

    /// Starts a node with an empty disk that knows no members.
    pub fn join(&mut self, node: u16, incarnation: u64) {
        let mut disk = RaftDisk::new(&[]);
        disk.durable.conf = RaftConf::default();
        self.put(node, incarnation, disk);
    }

    fn put(&mut self, node: u16, incarnation: u64, disk: RaftDisk) {
        let host =
            Host { incarnation, boot_number: 0, core: None, disk, answers: BTreeMap::new(), snapshots_received: 0 };
        self.hosts.insert(node, host);
        self.start(node);
    }

    pub fn start(&mut self, node: u16) {
        let seed = self.chance.next();
        let host = self.hosts.get_mut(&node).unwrap();
        host.boot_number += 1;
        let raft =
            RaftConfig { snapshot_interval_entries: 30, kept_entries: 5, ..RaftConfig::new(host.incarnation, seed) };
        let options = MetadataOptions { genesis: self.genesis.clone(), ..MetadataOptions::from(raft) };
        let mut effects = Vec::new();
        host.core = Some(MetadataCore::new(options, &host.disk.durable, self.now_ms, &mut effects).unwrap());
        self.obey(node, effects);
    }

    pub fn crash(&mut self, node: u16) {
        let host = self.hosts.get_mut(&node).unwrap();
        host.core = None;
        host.disk.crash(&mut self.chance);
    }

    pub fn run_ms(&mut self, duration_ms: u64) {
        let until = self.now_ms + duration_ms;
        while self.now_ms < until {
            self.tick();
        }
    }

    /// Runs until something is so; panics after a minute.
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let until = self.now_ms + 60_000;
        while !done(self) {
            assert!(self.now_ms < until, "{what}: {}", self.describe());
            self.tick();
        }
    }

    fn describe(&self) -> String {
        let state = |host: &Host| {
            host.core.as_ref().map(|core| (core.raft().leader(), core.raft().conf(), core.state().applied_index()))
        };
        format!("{:?}", self.hosts.iter().map(|(node, host)| (node, state(host))).collect::<Vec<_>>())
    }

    fn tick(&mut self) {
        self.now_ms += 25;
        let now_ms = self.now_ms;
        for node in self.alive() {
            self.input(node, |core, effects| core.on_tick(now_ms, effects).unwrap());
            let from = self.identity(node);
            for other in self.alive() {
                self.mail.push((from, other, Mail::Heartbeat));
            }
            self.register(node);
        }
        for _ in 0..self.mail.len() * 2 + 8 {
            self.deliver();
            let alive = self.alive();
            if !alive.is_empty() {
                let node = alive[self.chance.below(alive.len())];
                self.sync(node);
            }
        }
        self.alive().into_iter().for_each(|node| self.sync(node));
    }

    /// A start that the node does not find registered is told to everyone: whoever leads proposes it.
    fn register(&mut self, node: u16) {
        let from = self.identity(node);
        let host = &self.hosts[&node];
        let known = host.core.as_ref().and_then(|core| core.state().node(NodeId(node)));
        if known.is_some_and(|known| (known.incarnation, known.boot_number) == (from.incarnation, from.boot_number)) {
            return;
        }
        let command = MetadataCommand::RegisterNode {
            node: NodeId(node),
            incarnation: from.incarnation,
            boot_number: from.boot_number,
            nonce: from.boot_number * 1000,
            address: format!("lance-{node}:9000"),
            rack: String::new(),
        };
        for other in self.alive() {
            self.mail.push((from, other, Mail::Register(command.clone())));
        }
    }

    fn alive(&self) -> Vec<u16> {
        self.hosts.iter().filter(|(_, host)| host.core.is_some()).map(|(node, _)| *node).collect()
    }

    fn identity(&self, node: u16) -> PeerIdentity {
        let host = &self.hosts[&node];
        PeerIdentity { node: NodeId(node), incarnation: host.incarnation, boot_number: host.boot_number }
    }

    fn sync(&mut self, node: u16) {
        let host = self.hosts.get_mut(&node).unwrap();
        if let Some(number) = host.core.is_some().then(|| host.disk.sync_one()).flatten() {
            self.input(node, |core, effects| core.on_persisted(number, effects).unwrap());
        }
    }

    fn input(&mut self, node: u16, input: impl FnOnce(&mut MetadataCore, &mut Vec<MetadataEffect>)) {
        let mut effects = Vec::new();
        if let Some(core) = self.hosts.get_mut(&node).and_then(|host| host.core.as_mut()) {
            input(core, &mut effects);
            self.obey(node, effects);
        }
    }

    fn obey(&mut self, node: u16, effects: Vec<MetadataEffect>) {
        let from = self.identity(node);
        for effect in effects {
            let host = self.hosts.get_mut(&node).unwrap();
            let core = host.core.as_ref().unwrap();
            match effect {
                MetadataEffect::Persist(persist) => {
                    host.snapshots_received += usize::from(persist.snapshot.is_some());
                    host.disk.pending.push(persist);
                }
                MetadataEffect::SaveSnapshot { snapshot, drop_through } => {
                    host.disk.save_snapshot(snapshot, drop_through);
                }
                MetadataEffect::Send { to, message } => {
                    if let Some(to) = core.node_of_raft_id(to) {
                        self.mail.push((from, to.0, Mail::Raft(message)));
                    }
                }
                MetadataEffect::Answer { request, result, .. } => {
                    host.answers.insert(request, result);
                }
                MetadataEffect::AskPromises { node, partitions } => {
                    self.mail.push((from, node.0, Mail::Ask(partitions)));
                }
                MetadataEffect::MoveLeader { partition, epoch, from: leads, to } => {
                    self.mail.push((from, leads.0, Mail::Move(partition, epoch, to)));
                }
                MetadataEffect::Committed { events, .. } => {
                    for event in events {
                        if let MetadataEvent::LeaderChosen { partition, epoch, leader, boot_number, .. } = event
                            && (leader, boot_number) == (from.node, from.boot_number)
                        {
                            let everyone = (1..=9).map(|other| (from, other, Mail::Led(partition, epoch)));
                            self.mail.extend(everyone);
                        }
                    }
                }
                MetadataEffect::LeaderChanged { .. } | MetadataEffect::Leading { .. } => {}
            }
        }
    }

    fn deliver(&mut self) {
        if self.mail.is_empty() {
            return;
        }
        let at = self.chance.below(self.mail.len());
        let (from, to, mail) = self.mail.swap_remove(at);
        if self.chance.percent(self.lost_percent) || !self.hosts.contains_key(&to) {
            return;
        }
        if self.chance.percent(self.lost_percent / 2) {
            self.mail.push((from, to, mail.clone()));
        }
        let now_ms = self.now_ms;
        let own = self.identity(to);
        let answer = match &mail {
            Mail::Ask(partitions) => self.promises(to, partitions).map(Mail::Promised),
            Mail::Move(partition, epoch, target) => Some(Mail::MoveReady(*partition, *epoch, *target)),
            _ => None,
        };
        self.mail.extend(answer.map(|answer| (own, from.node.0, answer)));
        let request = self.next_request;
        self.next_request += 1;
        self.input(to, |core, effects| {
            core.on_peer(from);
            let result = match mail {
                Mail::Raft(bytes) => core.on_message(&bytes, effects),
                Mail::Register(command) if core.is_leading() => core.on_propose(request, &command, effects),
                Mail::Heartbeat => {
                    core.on_heard(from, now_ms);
                    Ok(())
                }
                Mail::Promised(answers) => core.on_promises(from.node, &answers, effects),
                Mail::Led(partition, epoch) => {
                    core.on_leading(partition, epoch);
                    Ok(())
                }
                Mail::MoveReady(partition, epoch, to) => core.on_move_ready(from.node, partition, epoch, to, effects),
                Mail::Register(_) | Mail::Ask(_) | Mail::Move(..) => Ok(()),
            };
            assert!(!result.is_err_and(|error| error.is_fatal()));
        });
    }

    /// Logs are empty here: whoever is admitted is clean.
    fn promises(&self, node: u16, partitions: &[(TopicPartition, LeaderEpoch)]) -> Option<Vec<PromiseAnswer>> {
        let host = &self.hosts[&node];
        let state = host.core.as_ref()?.state();
        let incarnation = ReplicaIncarnation { node: host.incarnation, copy_version: 0, damage_count: 0 };
        let answers = partitions.iter().map(|&(partition, epoch)| {
            let replica = state.partition(partition).and_then(|decided| decided.replica(NodeId(node)).copied());
            let (boot_number, last_epoch) = (host.boot_number, LeaderEpoch(epoch.0 - 1));
            let outcome = match replica {
                Some(replica) if replica.admitted == incarnation => {
                    PromiseOutcome::Clean { incarnation, boot_number, last_epoch, durable_end: 0 }
                }
                _ => PromiseOutcome::Unclean,
            };
            PromiseAnswer { partition, epoch, outcome }
        });
        Some(answers.collect())
    }

    /// The node that leads the metadata and knows that it does.
    pub fn leading(&self) -> Option<u16> {
        let leads = |host: &Host| host.core.as_ref().filter(|core| core.is_leading()).map(|core| core.raft().term());
        self.hosts.iter().filter_map(|(node, host)| Some((leads(host)?, *node))).max().map(|(_, node)| node)
    }

    /// What the metadata leader has applied.
    pub fn state(&self) -> Option<&MetadataState> {
        self.core().map(MetadataCore::state)
    }

    pub fn core(&self) -> Option<&MetadataCore> {
        self.hosts[&self.leading()?].core.as_ref()
    }

    /// Proposes until it is answered.
    pub fn ask(&mut self, command: &MetadataCommand) -> Result<MetadataAnswer, ProposeFailure> {
        for _ in 0..20 {
            self.run_until("a metadata leader", |network| network.leading().is_some());
            let leading = self.leading().unwrap();
            let request = self.next_request;
            self.next_request += 1;
            self.input(leading, |core, effects| core.on_propose(request, command, effects).unwrap());
            for _ in 0..200 {
                self.tick();
                match self.hosts.get_mut(&leading).and_then(|host| host.answers.remove(&request)) {
                    Some(Err(ProposeFailure::Failed(_))) => break,
                    Some(answer) => return answer,
                    None => {}
                }
            }
        }
        panic!("nobody answers: {}", self.describe());
    }

    /// Whether all members vote or learn as they shall, and every node has applied the same.
    pub fn is_quiet(&self) -> bool {
        let states = self.hosts.values().filter_map(|host| host.core.as_ref()).map(MetadataCore::state);
        let states: Vec<&MetadataState> = states.collect();
        states.windows(2).all(|pair| pair[0] == pair[1])
    }

    pub fn voters(&self) -> Vec<u64> {
        let mut voters = self.core().map_or_else(Vec::new, |core| core.raft().conf().voters);
        voters.sort_unstable();
        voters
    }

    /// Partitions that nobody alive leads.
    pub fn leaderless(&self) -> usize {
        let Some(state) = self.state() else { return usize::MAX };
        let led = |leader: u16| self.hosts.get(&leader).is_some_and(|host| host.core.is_some());
        state
            .partitions()
            .filter(|(_, decided)| {
                !state.leader_is_current(decided) || !decided.leader.is_some_and(|leader| led(leader.node.0))
            })
            .count()
    }
}
