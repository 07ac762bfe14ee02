//! A coordinator with a log, a clock and topics.

use lance_cluster::group::{
    Coordinator, GroupAnswer, GroupDescription, GroupEffect, GroupLimits, GroupState, TopicCatalog,
};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::group::{
    AssignmentStrategy, GroupAssignment, GroupCommit, GroupCommitted, GroupHeartbeat, GroupOffset, JOIN_EPOCH,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub const GROUP: &str = "readers";
pub const SESSION: Duration = Duration::from_secs(10);
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default)]
pub struct Catalog {
    version: u64,
    topics: BTreeMap<String, (TopicId, u16)>,
}

impl Catalog {
    pub fn set(&mut self, name: &str, id: u32, partitions: u16) {
        self.version += 1;
        self.topics.insert(name.to_owned(), (TopicId(id), partitions));
    }

    pub fn remove(&mut self, name: &str) {
        self.version += 1;
        self.topics.remove(name);
    }
}

impl TopicCatalog for Catalog {
    fn version(&self) -> u64 {
        self.version
    }

    fn topic(&self, name: &str) -> Option<(TopicId, u16)> {
        self.topics.get(name).copied()
    }

    fn name(&self, topic: TopicId) -> Option<&str> {
        self.topics.iter().find(|(_, (id, _))| *id == topic).map(|(name, _)| name.as_str())
    }
}

pub fn heartbeat(member: &str, epoch: i32, owned: &[TopicPartition]) -> GroupHeartbeat {
    GroupHeartbeat {
        group: GROUP.to_owned(),
        member: member.to_owned(),
        epoch,
        instance: None,
        rack: "r1".to_owned(),
        session_timeout_ms: SESSION.as_millis() as u32,
        rebalance_timeout_ms: PATIENCE.as_millis() as u32,
        strategy: AssignmentStrategy::Sticky,
        topics: vec!["t".to_owned()],
        owned: owned.to_vec(),
    }
}

pub fn commit(member: &str, epoch: i32, offsets: &[(TopicPartition, u64)]) -> GroupCommit {
    let offset = |(partition, offset): &(TopicPartition, u64)| GroupOffset {
        partition: *partition,
        offset: *offset,
        metadata: String::new(),
    };
    let offsets = offsets.iter().map(offset).collect();
    GroupCommit { group: GROUP.to_owned(), member: member.to_owned(), epoch, offsets, number: 0 }
}

/// Partitions of topic 1.
pub fn parts(numbers: impl IntoIterator<Item = u16>) -> Vec<TopicPartition> {
    numbers.into_iter().map(|number| TopicPartition::new(TopicId(1), number)).collect()
}

pub fn held(assignment: &GroupAssignment) -> Vec<TopicPartition> {
    assignment.partitions().collect()
}

/// A coordinator whose appends are durable at once, or when told.
pub struct Bench {
    pub coordinator: Coordinator,
    pub catalog: Catalog,
    pub now: Duration,
    pub wall_ms: u64,
    /// Appends are durable at once.
    pub durable_at_once: bool,
    /// What is durable.
    pub log: Vec<Vec<u8>>,
    /// What is not yet.
    pub flying: Vec<(u64, Vec<Vec<u8>>)>,
    /// How many appends there were.
    pub appends: usize,
    answers: BTreeMap<u64, GroupAnswer>,
    tokens: u64,
}

impl Bench {
    pub fn new(partitions: u16) -> Self {
        Self::with_limits(partitions, GroupLimits::default())
    }

    pub fn with_limits(partitions: u16, limits: GroupLimits) -> Self {
        let mut catalog = Catalog::default();
        catalog.set("t", 1, partitions);
        let mut coordinator = Coordinator::new(limits);
        coordinator.on_loaded(Duration::ZERO);
        Self {
            coordinator,
            catalog,
            now: Duration::from_secs(1000),
            wall_ms: 1_000_000,
            durable_at_once: true,
            log: Vec::new(),
            flying: Vec::new(),
            appends: 0,
            answers: BTreeMap::new(),
            tokens: 0,
        }
    }

    pub fn take(&mut self, mut effects: Vec<GroupEffect>) {
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    GroupEffect::Append { append, records } => {
                        self.appends += 1;
                        let records: Vec<_> = records.iter().map(|record| record.encode().unwrap()).collect();
                        self.flying.push((append, records));
                        if self.durable_at_once {
                            self.settle_one(&mut effects);
                        }
                    }
                    GroupEffect::Answer { token, answer } => {
                        assert!(self.answers.insert(token, answer).is_none(), "answered twice");
                    }
                }
            }
        }
    }

    fn settle_one(&mut self, effects: &mut Vec<GroupEffect>) {
        let (append, records) = self.flying.remove(0);
        self.log.extend(records);
        assert!(self.coordinator.on_appended(append, true, effects));
    }

    /// Everything that flies becomes durable.
    pub fn settle(&mut self) {
        while !self.flying.is_empty() {
            let mut effects = Vec::new();
            self.settle_one(&mut effects);
            self.take(effects);
        }
    }

    /// A new coordinator reads what is durable.
    pub fn reload(&mut self) {
        self.flying.clear();
        self.coordinator = Coordinator::after(&self.coordinator);
        for record in &self.log {
            self.coordinator.replay(record).unwrap();
        }
        self.coordinator.on_loaded(self.now);
    }

    /// The answer to a request, if there is one.
    pub fn answer(&mut self, token: u64) -> Option<GroupAnswer> {
        self.answers.remove(&token)
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    pub fn send(&mut self, heartbeat: &GroupHeartbeat) -> u64 {
        let (token, mut effects) = (self.token(), Vec::new());
        self.coordinator.on_heartbeat(token, heartbeat, "test", &self.catalog, self.now, &mut effects);
        self.take(effects);
        token
    }

    pub fn beats(&mut self, heartbeat: &GroupHeartbeat) -> Result<GroupAssignment, ErrorCode> {
        let token = self.send(heartbeat);
        match self.answer(token) {
            Some(GroupAnswer::Heartbeat(result)) => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn beat(&mut self, member: &str, epoch: i32, owned: &[TopicPartition]) -> Result<GroupAssignment, ErrorCode> {
        self.beats(&heartbeat(member, epoch, owned))
    }

    /// Joins; gives epoch and partitions.
    pub fn join(&mut self, member: &str) -> (i32, Vec<TopicPartition>) {
        let joined = self.beat(member, JOIN_EPOCH, &[]).unwrap();
        (joined.epoch, held(&joined))
    }

    pub fn send_commit(&mut self, commit: &GroupCommit) -> u64 {
        let (token, mut effects) = (self.token(), Vec::new());
        self.coordinator.on_commit(token, commit, self.now, self.wall_ms, &mut effects);
        self.take(effects);
        token
    }

    pub fn commits(&mut self, commit: &GroupCommit) -> Result<GroupCommitted, ErrorCode> {
        let token = self.send_commit(commit);
        match self.answer(token) {
            Some(GroupAnswer::Commit(result)) => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn delete(&mut self, group: &str) -> Result<(), ErrorCode> {
        let (token, mut effects) = (self.token(), Vec::new());
        self.coordinator.delete_group(token, group, &mut effects);
        self.take(effects);
        match self.answer(token) {
            Some(GroupAnswer::Deleted(result)) => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        self.wall_ms += time.as_millis() as u64;
        let mut effects = Vec::new();
        self.coordinator.on_tick(self.now, self.wall_ms, &self.catalog, &mut effects);
        self.take(effects);
    }

    pub fn describe(&self) -> GroupDescription {
        self.coordinator.describe(GROUP, self.now).unwrap()
    }

    pub fn members(&self) -> Vec<String> {
        self.describe().members.into_iter().map(|member| member.member).collect()
    }

    pub fn committed(&self, partition: TopicPartition) -> Option<u64> {
        let offsets = self.describe().offsets;
        offsets.iter().find(|(at, _, _)| *at == partition).map(|(_, committed, _)| committed.offset)
    }
}

/// Members that follow the protocol, each with what it was told last.
pub struct Members {
    pub told: BTreeMap<String, GroupAssignment>,
    pub heartbeats: usize,
}

impl Members {
    pub fn new() -> Self {
        Self { told: BTreeMap::new(), heartbeats: 0 }
    }

    pub fn join(&mut self, bench: &mut Bench, member: &str) {
        self.heartbeats += 1;
        let told = bench.beat(member, JOIN_EPOCH, &[]).unwrap();
        self.told.insert(member.to_owned(), told);
    }

    /// One heartbeat of each.
    pub fn round(&mut self, bench: &mut Bench) {
        for (member, told) in &mut self.told {
            self.heartbeats += 1;
            *told = bench.beat(member, told.epoch, &held(told)).unwrap();
        }
    }

    /// Heartbeats until the group is stable.
    pub fn converge(&mut self, bench: &mut Bench) {
        for _ in 0..20 {
            bench.wait(Duration::from_millis(300));
            self.round(bench);
            if bench.describe().state == GroupState::Stable {
                return;
            }
        }
        panic!("not stable: {:#?}", bench.describe());
    }

    pub fn owners(&self) -> BTreeMap<TopicPartition, String> {
        let of = |(member, told): (&String, &GroupAssignment)| {
            held(told).into_iter().map(|partition| (partition, member.clone())).collect::<Vec<_>>()
        };
        let all: Vec<_> = self.told.iter().flat_map(of).collect();
        let owners: BTreeMap<_, _> = all.iter().cloned().collect();
        assert_eq!(owners.len(), all.len(), "a partition has two owners: {all:?}");
        owners
    }

    pub fn loads(&self) -> BTreeSet<usize> {
        self.told.values().map(|told| held(told).len()).collect()
    }
}

/// How many partitions have another owner.
pub fn moved(before: &BTreeMap<TopicPartition, String>, after: &BTreeMap<TopicPartition, String>) -> usize {
    before.iter().filter(|(partition, owner)| after.get(partition) != Some(owner)).count()
}
