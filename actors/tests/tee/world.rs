//! Everything together: two nodes that lead in turn, one of them at times without knowing that it does no more; a network
//! that loses; a target that restarts. Each step is drawn from a seed.

use super::node::{Asked, CLUSTER, Link, Node, command_of};
use super::source::Source;
use super::target::{Target, skip_frame};
use lance_actors::view::ClusterView;
use lance_cluster::metadata::{
    EpochOpening, LeaderChoice, MetadataAnswer, MetadataCommand, MetadataState, ReplicaIncarnation, TeeRule, TeeTarget,
    TopicConfig,
};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// What may go wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Nodes crash, connections break, answers of the metadata are lost.
    pub crashes: bool,
    /// Leaders change, and who led before goes on for a while.
    pub leaders: bool,
    /// The target refuses for a while.
    pub refusals: bool,
    /// The target topic is deleted and made anew.
    pub recreation: bool,
    /// The target loses batches that it acked.
    pub target_loss: bool,
    /// The source removes what was not forwarded.
    pub retention: bool,
}

pub const PARTITION: TopicPartition = TopicPartition { topic: TopicId(1), partition: 0 };
const BUFFER: usize = 1 << 20;

pub struct World {
    pub rng: StdRng,
    pub faults: Faults,
    pub state: MetadataState,
    index: u64,
    pub source: Source,
    pub target: Target,
    pub nodes: Vec<Node>,
    /// Who leads, and how much each node knows to be committed.
    pub leader: usize,
    committed: Vec<usize>,
    pub now_ms: u64,
    pub recreations: u64,
    /// Plain batches of the source that were removed before anybody had forwarded them.
    pub appends_left: usize,
}

impl World {
    pub fn new(seed: u64, faults: Faults, from_ns: u64) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            faults,
            state: MetadataState::new(),
            index: 0,
            source: Source::default(),
            target: Target::new(1),
            nodes: (0..2).map(|_| Node::new(BUFFER)).collect(),
            leader: 0,
            committed: vec![0, 0],
            now_ms: 1,
            recreations: 0,
            appends_left: 120,
        };
        for node in 1..=2 {
            world.apply(&MetadataCommand::RegisterNode {
                node: NodeId(node),
                incarnation: u64::from(node),
                boot_number: 1,
                nonce: 1,
                address: "a:1".to_owned(),
                rack: String::new(),
            });
        }
        let config = TopicConfig { replication_factor: 2, ..TopicConfig::default() };
        let name = "events".to_owned();
        world.apply(&MetadataCommand::CreateTopic { name, config, created_at_secs: 1, request: 0 });
        let target = TeeTarget { addresses: vec!["t:1".to_owned()], topic: "copy".to_owned(), cluster: 5 };
        let rule = TeeRule { topic: PARTITION.topic, target, bytes_per_second: 0, from_ns, created_at_secs: 1 };
        world.apply(&MetadataCommand::AddTee { rule, own_cluster: CLUSTER });
        world.lead(0);
        while from_ns > 0 && world.source.log.len() < 40 {
            world.append();
        }
        world.show_all();
        world
    }

    fn apply(&mut self, command: &MetadataCommand) -> Option<MetadataAnswer> {
        self.index += 1;
        self.state.apply(self.index, command).answer.ok()
    }

    fn epoch(&self) -> LeaderEpoch {
        self.state.partition(PARTITION).unwrap().epoch
    }

    /// Opens an epoch, led by `node`.
    pub fn lead(&mut self, node: usize) {
        let epoch = LeaderEpoch(self.epoch().0 + 1);
        let partitions = vec![EpochOpening { partition: PARTITION, epoch }];
        self.apply(&MetadataCommand::OpenEpoch { partitions });
        let id = node as u16 + 1;
        let incarnation = ReplicaIncarnation { node: u64::from(id), copy_version: 0, damage_count: 0 };
        let choice = LeaderChoice { partition: PARTITION, epoch, leader: NodeId(id), incarnation, boot_number: 1 };
        self.apply(&MetadataCommand::LeaderChosen { partitions: vec![choice] });
        self.leader = node;
        // The epoch begins with a batch of the broker's own.
        self.source.append(true, false);
        self.committed[node] = self.source.log.len();
    }

    fn view(&self, node: usize) -> ClusterView {
        let mut view = ClusterView::new(&self.state, NodeId(node as u16 + 1), Some(NodeId(1)), 1);
        view.cluster = CLUSTER;
        view
    }

    pub fn show(&mut self, node: usize) {
        let view = self.view(node);
        self.nodes[node].show(view, self.now_ms);
    }

    pub fn show_all(&mut self) {
        (0..2).for_each(|node| self.show(node));
    }

    /// Records are appended, and committed.
    pub fn append(&mut self) {
        let (control, compressed) = (self.rng.random_bool(0.1), self.rng.random_bool(0.2));
        self.source.append(control, compressed);
        self.committed[self.leader] = self.source.log.len();
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.rng.random_ratio(1, one_in)
    }

    /// One step of anything.
    pub fn step(&mut self) {
        self.now_ms += self.rng.random_range(0..30);
        let node = self.rng.random_range(0..2);
        match self.rng.random_range(0..100) {
            0..15 if self.appends_left > 0 => {
                self.appends_left -= 1;
                self.append();
            }
            0..20 => self.tick(node),
            20..50 => self.answer_one(node),
            50..75 => self.deliver(node),
            75..92 => self.deliver_back(node),
            _ => self.disturb(node),
        }
    }

    pub fn tick(&mut self, node: usize) {
        let now_ms = self.now_ms;
        self.nodes[node].with(|core, effects| core.on_tick(now_ms, effects), now_ms);
    }

    fn disturb(&mut self, node: usize) {
        let Faults { crashes, recreation, target_loss, retention, .. } = self.faults;
        if crashes && self.chance(3) {
            let now_ms = self.now_ms;
            match self.rng.random_range(0..6) {
                0 => self.nodes[node].crash(BUFFER, now_ms),
                1 | 2 => self.break_link(node),
                3 if self.faults.leaders => {
                    let next = self.rng.random_range(0..2);
                    self.lead(next);
                    self.show(next);
                    // The other one may go on for a while as if nothing had happened.
                }
                4 => self.show_all(),
                _ => {
                    // The target restarts: nobody hears the answers that were under way.
                    while !self.nodes[0].links.is_empty() || !self.nodes[1].links.is_empty() {
                        (0..2).for_each(|node| self.break_link(node));
                    }
                }
            }
        }
        if recreation && self.recreations < 3 && self.chance(15) {
            self.recreations += 1;
            self.target.recreate();
        }
        if target_loss && self.chance(10) {
            let count = self.rng.random_range(1..4);
            self.target.lose_last(0, count);
            while !self.nodes[0].links.is_empty() || !self.nodes[1].links.is_empty() {
                (0..2).for_each(|node| self.break_link(node));
            }
        }
        if retention && self.chance(20) {
            let most = self.source.log.len().min(self.source.removed + 20);
            self.source.removed = self.rng.random_range(self.source.removed..=most);
        }
    }

    fn break_link(&mut self, node: usize) {
        let links: Vec<u64> = self.nodes[node].links.keys().copied().collect();
        let Some(link) = links.choose(&mut self.rng).copied() else { return };
        self.nodes[node].links.remove(&link);
        let now_ms = self.now_ms;
        self.nodes[node].with(|core, effects| core.on_link_ended(link, "broken", now_ms, effects), now_ms);
    }

    /// One thing that a node asked for comes to an end.
    pub fn answer_one(&mut self, node: usize) {
        if self.nodes[node].asked.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.nodes[node].asked.len());
        let Some(asked) = self.nodes[node].asked.remove(at) else { return };
        let now_ms = self.now_ms;
        let lost = self.faults.crashes && self.chance(8);
        match asked {
            asked @ (Asked::Claim(_) | Asked::Advance(_)) => {
                // It may be applied or not, and the answer may be lost or not.
                let applied = !(lost && self.chance(2));
                let answer = if applied { self.apply(&command_of(&asked)) } else { None };
                let answer = answer.filter(|_| !lost);
                self.nodes[node].asked.push_back(match asked {
                    Asked::Claim(claims) => Asked::Claimed(claims, answer),
                    Asked::Advance(advances) => Asked::Advanced(advances, answer),
                    other => other,
                });
            }
            Asked::Claimed(claims, answer) => {
                let claimed = match answer {
                    Some(MetadataAnswer::TeesClaimed { claimed }) => Some(claimed),
                    _ => None,
                };
                self.nodes[node]
                    .with(|core, effects| core.on_claimed(&claims, claimed.as_deref(), now_ms, effects), now_ms);
            }
            Asked::Advanced(advances, answer) => {
                let advanced = match answer {
                    Some(MetadataAnswer::TeesAdvanced { advanced }) => Some(advanced),
                    _ => None,
                };
                self.nodes[node]
                    .with(|core, effects| core.on_advanced(&advances, advanced.as_deref(), now_ms, effects), now_ms);
            }
            Asked::Read { flow, ticket, from, max_bytes } => {
                let max_bytes = max_bytes.min(self.rng.random_range(1..200));
                let outcome = self.source.read(from, max_bytes, self.committed[node]);
                self.nodes[node].with(|core, effects| core.on_read(flow, ticket, outcome, now_ms, effects), now_ms);
            }
            Asked::Wait { flow, offset, until_ms } => {
                let end = self.source.end(self.committed[node]).offset;
                if end > offset || now_ms >= until_ms {
                    self.nodes[node].with(|core, effects| core.on_waited(flow, Some(end), now_ms, effects), now_ms);
                } else {
                    self.nodes[node].asked.push_back(Asked::Wait { flow, offset, until_ms });
                }
            }
            Asked::Look => {}
            Asked::Survey(tee) => {
                let found = if lost { Err("nobody answers".to_owned()) } else { Ok(self.target.found()) };
                self.nodes[node].with(|core, effects| core.on_survey(tee, found, now_ms, effects), now_ms);
            }
        }
    }

    /// The target takes one frame of a connection of a node, or the connection comes to stand.
    pub fn deliver(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let links: Vec<u64> = self.nodes[node].links.keys().copied().collect();
        let Some(id) = links.choose(&mut self.rng).copied() else { return };
        let refuse = (self.faults.refusals && self.chance(12)).then(|| {
            *[ErrorCode::Overloaded, ErrorCode::NotLeader, ErrorCode::OutcomeUnknown, ErrorCode::Unavailable]
                .choose(&mut self.rng)
                .unwrap()
        });
        // Who hears that the outcome is unknown may have been served all the same.
        let served_all_the_same = refuse == Some(ErrorCode::OutcomeUnknown) && self.chance(2);
        let Some(Link { up, bound, to_target, from_target }) = self.nodes[node].links.get_mut(&id) else { return };
        if !*up {
            *up = true;
            let hello = lance_messages::wire::hello::HelloResponse {
                minor_version: 1,
                node_id: NodeId(1),
                features: lance_actors::tee::core::TEE_FEATURES,
                max_payload_bytes: 1 << 20,
                max_in_flight_bytes: 1 << 20,
            };
            return self.nodes[node].with(|core, effects| core.on_link_up(id, hello, now_ms, effects), now_ms);
        }
        let response = match refuse {
            Some(code) if !to_target.is_empty() && to_target[5] & 0x40 != 0 => {
                skip_frame(to_target).map(|_| Target::refuse_binding(code))
            }
            Some(_) if served_all_the_same => {
                let mut again = to_target.clone();
                self.target.serve(&mut again, bound, None);
                self.target.serve(to_target, bound, refuse)
            }
            refuse => self.target.serve(to_target, bound, refuse),
        };
        from_target.extend(response);
    }

    /// Some answers of a connection reach their node.
    pub fn deliver_back(&mut self, node: usize) {
        let links: Vec<u64> = self.nodes[node].links.keys().copied().collect();
        let Some(id) = links.choose(&mut self.rng).copied() else { return };
        let count = self.rng.random_range(1..6);
        let Some(link) = self.nodes[node].links.get_mut(&id) else { return };
        let count = count.min(link.from_target.len());
        let answers: Vec<_> = link.from_target.drain(..count).collect();
        if !answers.is_empty() {
            let now_ms = self.now_ms;
            self.nodes[node].answers(id, answers, now_ms);
        }
    }

    /// Everything heals, everybody sees who leads, and time passes until everything is forwarded.
    pub fn settle(&mut self) {
        self.faults = Faults::default();
        self.show_all();
        for _ in 0..20_000 {
            self.now_ms += 20;
            for node in 0..2 {
                self.tick(node);
                for _ in 0..4 {
                    self.answer_one(node);
                    self.deliver(node);
                    self.deliver_back(node);
                }
            }
            if self.is_settled() {
                return;
            }
        }
        let status: Vec<_> = self.nodes.iter().map(|node| node.core.status(1)).collect();
        panic!("it does not come to an end: {status:?}\nnotes {:?}", self.nodes[self.leader].notes);
    }

    /// Whether everything is forwarded, and remembered.
    fn is_settled(&self) -> bool {
        let end = self.source.end(self.source.log.len());
        let last_records = self.source.log.iter().rev().find(|stored| !stored.control);
        let needed = last_records.map_or(0, |stored| stored.batch.end.position);
        let tee = self.state.tees().next().unwrap().0;
        let progress = self.state.tee_progress(tee, 0);
        let checkpoint = progress.and_then(|progress| progress.checkpoint);
        let stored = checkpoint.is_some_and(|it| it.position >= needed && it.position <= end.position);
        let of_topic =
            |it: lance_cluster::metadata::TeeCheckpoint| it.producer.is_none() || it.topic.0 == self.target.topic;
        stored && checkpoint.is_some_and(of_topic)
    }

    pub fn forwarded(&self) -> Vec<Vec<u8>> {
        self.target.partitions[0].log.iter().map(|kept| kept.plain.clone()).collect()
    }
}
