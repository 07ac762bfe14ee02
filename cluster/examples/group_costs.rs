//! What groups cost: heartbeats and appends until a group has settled after one joins, time for a heartbeat and for a target.
//!
//! `cargo run --release -p lance-cluster --example group_costs`

use lance_cluster::group::assignor::{Subscriber, assign};
use lance_cluster::group::{Coordinator, GroupAnswer, GroupEffect, GroupLimits, GroupState, TopicCatalog};
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::group::{AssignmentStrategy, GroupAssignment, GroupHeartbeat, JOIN_EPOCH};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

struct Topics(u16);

impl TopicCatalog for Topics {
    fn version(&self) -> u64 {
        1
    }

    fn topic(&self, _: &str) -> Option<(TopicId, u16)> {
        Some((TopicId(1), self.0))
    }

    fn name(&self, _: TopicId) -> Option<&str> {
        Some("t")
    }
}

/// A group whose appends are durable at once, and its members by the time of their next heartbeat.
struct Group {
    coordinator: Coordinator,
    topics: Topics,
    now: Duration,
    told: BTreeMap<String, GroupAssignment>,
    due: BTreeSet<(Duration, String)>,
    heartbeats: u64,
    appends: u64,
    bytes: u64,
    busy: Duration,
}

impl Group {
    fn new(partitions: u16) -> Self {
        let mut coordinator = Coordinator::new(GroupLimits::default());
        coordinator.on_loaded(Duration::ZERO);
        Self {
            coordinator,
            topics: Topics(partitions),
            now: Duration::ZERO,
            told: BTreeMap::new(),
            due: BTreeSet::new(),
            heartbeats: 0,
            appends: 0,
            bytes: 0,
            busy: Duration::ZERO,
        }
    }

    fn beat(&mut self, member: &str, epoch: i32, owned: Vec<TopicPartition>) -> Option<GroupAssignment> {
        let heartbeat = GroupHeartbeat {
            group: "g".to_owned(),
            member: member.to_owned(),
            epoch,
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 60_000,
            topics: vec!["t".to_owned()],
            owned,
            ..GroupHeartbeat::default()
        };
        self.heartbeats += 1;
        let mut effects = Vec::new();
        let begun = Instant::now();
        self.coordinator.on_heartbeat(1, &heartbeat, "", &self.topics, self.now, &mut effects);
        self.busy += begun.elapsed();
        self.perform(effects)
    }

    fn perform(&mut self, mut effects: Vec<GroupEffect>) -> Option<GroupAssignment> {
        let mut answer = None;
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    GroupEffect::Append { append, records } => {
                        self.appends += 1;
                        let encoded = records.iter().filter_map(|record| record.encode().ok());
                        self.bytes += encoded.map(|record| record.len() as u64).sum::<u64>();
                        self.coordinator.on_appended(append, true, &mut effects);
                    }
                    GroupEffect::Answer { answer: GroupAnswer::Heartbeat(result), .. } => answer = result.ok(),
                    GroupEffect::Answer { .. } => {}
                }
            }
        }
        answer
    }

    /// Sends a heartbeat, and another at once when there is something to give up.
    fn turn(&mut self, member: &str) {
        let before = self.told.remove(member).unwrap_or_default();
        let owned: Vec<TopicPartition> = before.partitions().collect();
        let Some(mut told) = self.beat(member, before.epoch, owned.clone()) else { return };
        let kept: Vec<TopicPartition> = told.partitions().collect();
        if owned.iter().any(|partition| kept.binary_search(partition).is_err()) {
            told = self.beat(member, told.epoch, kept).unwrap_or(told);
        }
        let next = self.now + Duration::from_millis(u64::from(told.heartbeat_interval_ms));
        self.told.insert(member.to_owned(), told);
        self.due.insert((next, member.to_owned()));
    }

    fn join(&mut self, member: &str) {
        self.told.insert(member.to_owned(), GroupAssignment { epoch: JOIN_EPOCH, ..GroupAssignment::default() });
        self.turn(member);
    }

    fn is_stable(&self) -> bool {
        self.coordinator.describe("g", self.now).is_some_and(|group| group.state == GroupState::Stable)
    }

    /// Heartbeats at their times until the group is stable; gives how long that took.
    fn settle(&mut self) -> Duration {
        let begun = self.now;
        while !self.is_stable() {
            let Some((now, member)) = self.due.pop_first() else { break };
            self.now = self.now.max(now);
            let mut effects = Vec::new();
            self.coordinator.on_tick(self.now, 0, &self.topics, &mut effects);
            self.perform(effects);
            self.turn(&member);
        }
        self.now - begun
    }
}

fn joining(members: usize, partitions: u16) {
    let mut group = Group::new(partitions);
    for number in 0..members {
        group.now += Duration::from_millis(1);
        group.join(&format!("m{number:05}"));
    }
    let filled = group.settle();
    let (heartbeats, appends) = (group.heartbeats, group.appends);
    let together = format!("{heartbeats:>7} {appends:>7} {:>7.0}", filled.as_secs_f64() * 1e3);
    group.now += Duration::from_secs(1);
    let before: BTreeMap<TopicPartition, String> = owners(&group);
    (group.heartbeats, group.appends, group.bytes, group.busy) = (0, 0, 0, Duration::ZERO);
    group.join("new");
    let took = group.settle();
    let after = owners(&group);
    let moved = before.iter().filter(|(partition, owner)| after.get(partition) != Some(owner)).count();
    let per_heartbeat = group.busy.as_secs_f64() * 1e6 / group.heartbeats as f64;
    println!(
        "{members:>7} {partitions:>10} | {together} | {moved:>5} {:>10} {:>7} {:>7} {:>7.0} {per_heartbeat:>12.1}",
        group.heartbeats,
        group.appends,
        group.bytes,
        took.as_secs_f64() * 1e3,
    );
}

fn owners(group: &Group) -> BTreeMap<TopicPartition, String> {
    group.told.iter().flat_map(|(member, told)| told.partitions().map(|at| (at, member.clone()))).collect()
}

/// Time of one target; every fourth member reads only one of four topics when `uneven`.
fn target(strategy: AssignmentStrategy, members: usize, partitions: u16, uneven: bool) {
    let topics: BTreeMap<TopicId, u16> = (1..5).map(|id| (TopicId(id), partitions / 4)).collect();
    let all: Vec<TopicId> = topics.keys().copied().collect();
    let keys: Vec<String> = (0..members).map(|number| format!("m{number:05}")).collect();
    let reads = |number: usize| if uneven && number.is_multiple_of(4) { &all[number / 4 % 4..][..1] } else { &all[..] };
    let subscriber = |number: usize| Subscriber { key: &keys[number], topics: reads(number), held: &[], meant: &[] };
    let empty: Vec<Subscriber<'_>> = (0..members).map(subscriber).collect();
    let first = assign(strategy, &empty, &topics);
    // All but one have what they had.
    let again: Vec<Subscriber<'_>> = empty
        .iter()
        .zip(&first)
        .enumerate()
        .map(|(number, (member, held))| Subscriber { held: if number == 0 { &[] } else { held }, ..*member })
        .collect();
    let time = |members: &[Subscriber<'_>]| {
        let begun = Instant::now();
        for _ in 0..20 {
            std::hint::black_box(assign(strategy, std::hint::black_box(members), &topics));
        }
        begun.elapsed().as_secs_f64() * 1e3 / 20.0
    };
    let kind = if uneven { "uneven" } else { "even" };
    let (from_nothing, one_missing) = (time(&empty), time(&again));
    println!(
        "{:>12} {kind:>7} {members:>7} {partitions:>10} | {from_nothing:>9.2} {one_missing:>9.2}",
        strategy.name()
    );
}

fn main() {
    println!("                   | all join, 1 ms apart    | one joins a settled group");
    println!("members partitions |  beats appends      ms | moved heartbeats appends   bytes      ms us/heartbeat");
    for members in [10, 100, 1000] {
        joining(members, 1000);
    }
    joining(1000, 10_000);
    println!("\n    strategy                            | ms for a target");
    println!("              reads members partitions | from none  one back");
    for strategy in [AssignmentStrategy::Sticky, AssignmentStrategy::Range, AssignmentStrategy::RoundRobin] {
        for partitions in [1000, 10_000] {
            target(strategy, 1000, partitions, false);
            target(strategy, 1000, partitions, true);
        }
    }
}
