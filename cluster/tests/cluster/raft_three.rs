//! Three voters over a network that loses, repeats and reorders, on disks that lose what was not synced.

use crate::support::{Chance, RaftDisk};
use bytes::Bytes;
use lance_cluster::metadata::{RaftConfig, RaftCore, RaftEffect};
use std::collections::{BTreeMap, BTreeSet};

const IDS: [u64; 3] = [11, 12, 13];

struct Node {
    core: Option<RaftCore>,
    disk: RaftDisk,
    /// The state machine: the commands applied so far, 8 bytes each.
    state: Vec<u8>,
}

struct World {
    chance: Chance,
    now_ms: u64,
    nodes: BTreeMap<u64, Node>,
    /// From, to, message.
    network: Vec<(u64, u64, Bytes)>,
    /// A node that nobody hears and that hears nobody.
    cut_off: Option<u64>,
    /// Whichever node applies an index first says what it is.
    committed: BTreeMap<u64, (u64, Bytes)>,
    next_command: u64,
    acked: BTreeSet<u64>,
    acked_amid_faults: usize,
    snapshots_restored: usize,
    trace: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let node = || Node { core: None, disk: RaftDisk::new(&IDS), state: Vec::new() };
        let mut world = Self {
            chance: Chance(seed),
            now_ms: 0,
            nodes: IDS.iter().map(|id| (*id, node())).collect(),
            network: Vec::new(),
            cut_off: None,
            committed: BTreeMap::new(),
            next_command: 1,
            acked: BTreeSet::new(),
            acked_amid_faults: 0,
            snapshots_restored: 0,
            trace: seed,
        };
        IDS.iter().for_each(|id| world.start(*id));
        world
    }

    fn start(&mut self, id: u64) {
        let seed = self.chance.next();
        let config = RaftConfig { snapshot_interval_entries: 12, kept_entries: 3, ..RaftConfig::new(id, seed) };
        let node = self.nodes.get_mut(&id).unwrap();
        node.state = node.disk.durable.snapshot.as_ref().map_or_else(Vec::new, |snapshot| snapshot.data.to_vec());
        let mut effects = Vec::new();
        node.core = Some(RaftCore::new(config, &node.disk.durable, &mut effects).unwrap());
        self.take(id, effects);
    }

    fn crash(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.core = None;
        node.disk.crash(&mut self.chance);
    }

    fn input(&mut self, id: u64, input: impl FnOnce(&mut RaftCore, &mut Vec<RaftEffect>)) {
        let mut effects = Vec::new();
        let Some(core) = self.nodes.get_mut(&id).and_then(|node| node.core.as_mut()) else {
            return;
        };
        input(core, &mut effects);
        self.take(id, effects);
        let node = self.nodes.get_mut(&id).unwrap();
        let mut effects = Vec::new();
        if let Some(core) = node.core.as_mut().filter(|core| core.wants_snapshot()) {
            core.compact(core.applied_index(), node.state.clone().into(), &mut effects).unwrap();
        }
        self.take(id, effects);
    }

    fn take(&mut self, id: u64, effects: Vec<RaftEffect>) {
        for effect in effects {
            let node = self.nodes.get_mut(&id).unwrap();
            match effect {
                RaftEffect::Persist(persist) => node.disk.pending.push(persist),
                RaftEffect::SaveSnapshot { snapshot, drop_through } => node.disk.save_snapshot(snapshot, drop_through),
                RaftEffect::Send { to, message } => self.network.push((id, to, message)),
                RaftEffect::Restore { data, .. } => {
                    node.state = data.to_vec();
                    self.snapshots_restored += 1;
                }
                RaftEffect::Apply { index, term, command, proposal } => {
                    node.state.extend_from_slice(&command);
                    self.trace = self.trace.rotate_left(5) ^ index ^ (id << 32) ^ term;
                    let first = self.committed.entry(index).or_insert((term, command.clone()));
                    assert_eq!(*first, (term, command), "index {index} is the same everywhere");
                    self.acked.extend(proposal);
                }
                RaftEffect::LeaderChanged { .. } | RaftEffect::Leading { .. } => {}
                RaftEffect::ProposalFailed { .. } => {}
            }
        }
    }

    fn sync(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        if let Some(number) = node.core.is_some().then(|| node.disk.sync_one()).flatten() {
            self.input(id, |core, effects| core.on_persisted(number, effects).unwrap());
        }
    }

    fn deliver(&mut self, lossy: bool) {
        if self.network.is_empty() {
            return;
        }
        let at = if lossy { self.chance.below(self.network.len()) } else { 0 };
        let (from, to, message) = self.network.remove(at);
        let cut_off = [Some(from), Some(to)].contains(&self.cut_off);
        if lossy && (cut_off || self.chance.percent(8)) {
            return;
        }
        if lossy && self.chance.percent(10) {
            self.network.push((from, to, message.clone()));
        }
        self.input(to, |core, effects| core.on_message(&message, effects).unwrap());
    }

    fn propose(&mut self, id: u64) {
        let command = self.next_command;
        self.next_command += 1;
        self.input(id, |core, effects| core.on_propose(command, command.to_le_bytes().to_vec(), effects).unwrap());
    }

    fn tick(&mut self, id: u64) {
        let now_ms = self.now_ms;
        self.input(id, |core, effects| core.on_tick(now_ms, effects).unwrap());
    }

    fn step(&mut self) {
        let id = IDS[self.chance.below(3)];
        match self.chance.below(1000) {
            0..650 => self.deliver(true),
            650..850 => self.sync(id),
            850..930 => {
                self.now_ms += 20;
                IDS.iter().for_each(|id| self.tick(*id));
            }
            930..995 => self.propose(id),
            995..998 => self.crash(id),
            _ => self.cut_off = self.chance.percent(50).then_some(id),
        }
        if self.chance.percent(3) && self.nodes[&id].core.is_none() {
            self.start(id);
        }
    }

    fn heal(&mut self) {
        for id in IDS {
            if self.nodes[&id].core.is_none() {
                self.start(id);
            }
        }
        for _ in 0..400 {
            self.now_ms += 50;
            for id in IDS {
                self.tick(id);
                if self.chance.percent(20) {
                    self.propose(id);
                }
            }
            while !self.network.is_empty() || self.nodes.values().any(|node| !node.disk.pending.is_empty()) {
                IDS.iter().for_each(|id| self.sync(*id));
                self.deliver(false);
            }
        }
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..5000 {
        world.step();
    }
    let before = world.committed.len();
    world.acked_amid_faults = world.acked.len();
    world.heal();
    assert!(world.committed.len() > before + 20, "seed {seed}: writes resume after the faults");
    let states: Vec<&Vec<u8>> = world.nodes.values().map(|node| &node.state).collect();
    assert!(states.iter().all(|state| *state == states[0]), "seed {seed}: all states are equal");
    let kept: BTreeSet<u64> =
        states[0].chunks(8).map(|command| u64::from_le_bytes(command.try_into().unwrap())).collect();
    assert_eq!(kept.len() * 8, states[0].len(), "seed {seed}: nothing is applied twice");
    assert!(world.acked.is_subset(&kept), "seed {seed}: nothing acked is lost");
    let indexes: Vec<u64> = world.committed.keys().copied().collect();
    assert_eq!(indexes, (1..=indexes.len() as u64).collect::<Vec<_>>(), "seed {seed}: no index is left out");
    world
}

#[test]
fn three_voters_commit_in_one_order_and_lose_nothing_acked() {
    let (mut restored, mut acked) = (0, 0);
    for seed in 0..200 {
        let world = run(seed);
        restored += world.snapshots_restored;
        acked += world.acked_amid_faults;
    }
    assert!(restored > 50 && acked > 5000, "{restored} snapshots restored, {acked} proposals acked amid faults");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (first, second) = (run(12345), run(12345));
    assert_eq!((first.trace, first.committed), (second.trace, second.committed));
}
