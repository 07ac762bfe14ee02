//! A member that follows the protocol.

use super::Sabotage;
use super::rng::Rng;
use lance_messages::id::TopicPartition;
use lance_messages::wire::group::{
    AssignmentStrategy, GroupAssignment, GroupCommit, GroupHeartbeat, GroupOffset, JOIN_EPOCH,
};
use std::collections::BTreeMap;
use std::time::Duration;

pub const GROUP: &str = "g";

pub struct Client {
    pub number: usize,
    pub id: String,
    pub instance: Option<String>,
    /// Not running; `None` in it: for good.
    pub down: Option<Option<Duration>>,
    pub epoch: i32,
    /// What it believes to be its own, for as long as its session lasts.
    pub held: BTreeMap<TopicPartition, Holding>,
    /// The heartbeat whose answer counts, and when it was sent.
    pub outstanding: Option<(u64, Duration)>,
    /// When the heartbeat was sent that was answered last.
    pub heard_from: Option<Duration>,
    pub next_beat: Duration,
    pub session: Duration,
    pub rebalance: Duration,
    pub strategy: AssignmentStrategy,
    pub topics: Vec<String>,
    /// Commits of one connection arrive in order.
    pub connection: u64,
    pub commits_arrive: Duration,
    commit_number: u64,
    /// How long giving up takes at most.
    pub slowness: u64,
    lives: u32,
    sabotage: Option<Sabotage>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Holding {
    /// Where it goes on; not known before it was asked for.
    pub position: Option<u64>,
    pub give_up_at: Option<Duration>,
}

impl Client {
    pub fn new(
        number: usize,
        instance: Option<String>,
        topics: Vec<String>,
        rng: &mut Rng,
        sabotage: Option<Sabotage>,
    ) -> Self {
        let mut client = Self {
            number,
            id: String::new(),
            instance,
            down: None,
            epoch: JOIN_EPOCH,
            held: BTreeMap::new(),
            outstanding: None,
            heard_from: None,
            next_beat: Duration::ZERO,
            session: Duration::from_millis(1500 + 500 * rng.below(5)),
            rebalance: Duration::from_millis(1500 + 500 * rng.below(4)),
            strategy: AssignmentStrategy::Sticky,
            topics,
            connection: 0,
            commits_arrive: Duration::ZERO,
            commit_number: 0,
            slowness: [0, 100, 600, 4000][rng.below(4) as usize],
            lives: 0,
            sabotage,
        };
        client.new_id();
        client
    }

    fn new_id(&mut self) {
        self.lives += 1;
        self.id = format!("m{}-{}", self.number, self.lives);
    }

    pub fn is_running(&self) -> bool {
        self.down.is_none()
    }

    /// Whether its session, as it counts it, is over.
    pub fn is_lapsed(&self, now: Duration) -> bool {
        self.heard_from.is_none_or(|heard| heard + self.session <= now)
    }

    pub fn believes(&self, partition: TopicPartition, now: Duration) -> bool {
        self.is_running() && !self.is_lapsed(now) && self.held.contains_key(&partition)
    }

    /// Drops everything and joins again.
    pub fn start_over(&mut self, now: Duration, new_id: bool) {
        if new_id {
            self.new_id();
        }
        self.epoch = JOIN_EPOCH;
        self.held.clear();
        self.outstanding = None;
        self.heard_from = None;
        self.next_beat = now;
        self.reconnect(now);
    }

    /// Whatever it sent before may still arrive, at any time.
    pub fn reconnect(&mut self, now: Duration) {
        self.connection += 1;
        self.commits_arrive = now;
    }

    pub fn stop(&mut self, until: Option<Duration>) {
        self.down = Some(until);
        self.held.clear();
        self.outstanding = None;
        self.heard_from = None;
    }

    pub fn heartbeat(&self, epoch: i32) -> GroupHeartbeat {
        GroupHeartbeat {
            group: GROUP.to_owned(),
            member: self.id.clone(),
            epoch,
            instance: self.instance.clone(),
            rack: String::new(),
            session_timeout_ms: self.session.as_millis() as u32,
            rebalance_timeout_ms: self.rebalance.as_millis() as u32,
            strategy: self.strategy,
            topics: self.topics.clone(),
            owned: if epoch > JOIN_EPOCH { self.held.keys().copied().collect() } else { Vec::new() },
        }
    }

    /// Takes what it was told; gives what it has now and had not.
    pub fn on_assignment(
        &mut self,
        sent: Duration,
        now: Duration,
        told: &GroupAssignment,
        rng: &mut Rng,
    ) -> Result<Vec<TopicPartition>, String> {
        if told.epoch < self.epoch {
            return Err(format!("{} had epoch {} and is told {}", self.id, self.epoch, told.epoch));
        }
        let keeps_epoch = self.sabotage == Some(Sabotage::OldEpochsAreKept) && self.epoch > 0 && rng.percent(50);
        self.epoch = if keeps_epoch { self.epoch } else { told.epoch };
        self.heard_from = Some(if self.sabotage == Some(Sabotage::SessionFromTheAnswer) { now } else { sent });
        self.next_beat =
            now + Duration::from_millis(u64::from(told.heartbeat_interval_ms) * (50 + rng.below(50)) / 100);
        let is_told: std::collections::BTreeSet<TopicPartition> = told.partitions().collect();
        let slowness = self.slowness;
        for (partition, holding) in &mut self.held {
            if is_told.contains(partition) {
                holding.give_up_at = None;
            } else {
                holding.give_up_at.get_or_insert_with(|| now + rng.millis(0, slowness));
            }
        }
        let new: Vec<TopicPartition> =
            is_told.into_iter().filter(|partition| !self.held.contains_key(partition)).collect();
        self.held.extend(new.iter().map(|partition| (*partition, Holding::default())));
        Ok(new)
    }

    /// Gives up what is ready for it.
    pub fn give_up(&mut self, now: Duration) {
        let before = self.held.len();
        self.held.retain(|_, holding| holding.give_up_at.is_none_or(|at| at > now));
        if self.held.len() < before {
            self.next_beat = now;
        }
    }

    /// Reads on, and says how far it is.
    pub fn commit(&mut self, rng: &mut Rng) -> Option<GroupCommit> {
        let mut offsets = Vec::new();
        for (partition, holding) in &mut self.held {
            if let Some(position) = holding.position.as_mut().filter(|_| rng.percent(50)) {
                *position += 1 + rng.below(10);
                offsets.push(GroupOffset { partition: *partition, offset: *position, metadata: String::new() });
            }
        }
        self.commit_number += 1;
        let (group, member, number) = (GROUP.to_owned(), self.id.clone(), self.commit_number);
        let commit = GroupCommit { group, member, epoch: self.epoch, offsets, number };
        (!commit.offsets.is_empty()).then_some(commit)
    }
}
