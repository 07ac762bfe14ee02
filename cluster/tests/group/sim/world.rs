//! The coordinator, its log, the network and the members, one event after the other.

use super::client::Client;
use super::rng::Rng;
use super::stats::Stats;
use super::{Sabotage, Violation};
use crate::support::Catalog;
use lance_cluster::group::{Coordinator, GroupAnswer, GroupEffect, GroupLimits, TopicCatalog};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::wire::group::{GroupAssignment, GroupCommit, GroupHeartbeat, JOIN_EPOCH};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Debug)]
pub enum Event {
    Heartbeat { client: usize, request: u64, heartbeat: GroupHeartbeat },
    Answer { client: usize, request: u64, result: Result<GroupAssignment, ErrorCode> },
    Commit(GroupCommit),
    Appended(u64),
    Wake(usize),
    Tick,
    Start,
    Chaos,
}

enum Asked {
    Heartbeat { client: usize, request: u64 },
    Commit(GroupCommit),
}

pub struct World {
    pub rng: Rng,
    pub sabotage: Option<Sabotage>,
    pub faulty: bool,
    pub now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    event_count: u64,
    pub coordinator: Coordinator,
    pub is_up: bool,
    log: Vec<Vec<u8>>,
    flying: VecDeque<(u64, Vec<Vec<u8>>)>,
    /// Appends up to this one are of earlier lives.
    decided: u64,
    last_append: u64,
    asked: BTreeMap<u64, Asked>,
    pub tokens: u64,
    catalog: Catalog,
    pub partitions: BTreeMap<String, (u32, u16)>,
    next_topic: u32,
    pub clients: Vec<Client>,
    /// The furthest that was ever seen committed, or acknowledged.
    pub committed: BTreeMap<TopicPartition, u64>,
    pub stats: Stats,
}

impl World {
    pub fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut rng = Rng(seed);
        let mut coordinator = Coordinator::new(GroupLimits::default());
        coordinator.on_loaded(Duration::ZERO);
        let mut world = Self {
            sabotage,
            faulty: true,
            now: Duration::from_secs(1),
            events: BTreeMap::new(),
            event_count: 0,
            coordinator,
            is_up: true,
            log: Vec::new(),
            flying: VecDeque::new(),
            decided: 0,
            last_append: 0,
            asked: BTreeMap::new(),
            tokens: 0,
            catalog: Catalog::default(),
            partitions: BTreeMap::new(),
            next_topic: 1,
            clients: Vec::new(),
            committed: BTreeMap::new(),
            stats: Stats::default(),
            rng: Rng(rng.next()),
        };
        for name in ["t", "u"] {
            let partitions = 1 + rng.below(8) as u16;
            world.set_topic(name, partitions);
        }
        for number in 0..2 + rng.below(5) as usize {
            world.add_client(number, number.is_multiple_of(3), &["t", "u"]);
        }
        world.at(Duration::from_millis(10), Event::Tick);
        world.at(Duration::from_millis(10), Event::Chaos);
        world
    }

    pub fn add_client(&mut self, number: usize, is_static: bool, topics: &[&str]) {
        let instance = is_static.then(|| format!("i{number}"));
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let client = Client::new(number, instance, topics, &mut self.rng, self.sabotage);
        self.clients.push(client);
        self.at(Duration::from_millis(1), Event::Wake(number));
    }

    fn set_topic(&mut self, name: &str, partitions: u16) {
        let id = self.partitions.get(name).map_or(self.next_topic, |(id, _)| *id);
        self.next_topic = self.next_topic.max(id + 1);
        self.partitions.insert(name.to_owned(), (id, partitions));
        self.catalog.set(name, id, partitions);
    }

    pub fn at(&mut self, after: Duration, event: Event) {
        self.event_count += 1;
        self.events.insert((self.now + after, self.event_count), event);
    }

    pub fn violation(&self, what: impl std::fmt::Display) -> Violation {
        format!("at {:?}: {what}", self.now)
    }

    /// Time in which anything can happen.
    pub fn faults(&mut self) -> Result<(), Violation> {
        let end = self.now + self.rng.millis(10_000, 30_000);
        self.run_until(end)
    }

    pub fn run_until(&mut self, end: Duration) -> Result<(), Violation> {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((now, _), event) = entry.remove_entry();
            self.now = now;
            self.take(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Heartbeat { client, request, heartbeat } => self.deliver_heartbeat(client, request, heartbeat),
            Event::Answer { client, request, result } => self.deliver_answer(client, request, result),
            Event::Commit(commit) => self.deliver_commit(commit),
            Event::Appended(append) => self.on_appended(append),
            Event::Wake(client) => {
                self.wake(client);
                Ok(())
            }
            Event::Tick => {
                let wait = if self.faulty { self.rng.millis(1, 300) } else { Duration::from_millis(20) };
                self.at(wait, Event::Tick);
                let mut effects = Vec::new();
                if self.is_up {
                    self.coordinator.on_tick(self.now, 0, &self.catalog, &mut effects);
                }
                self.perform(effects)
            }
            Event::Start => self.start(),
            Event::Chaos => {
                self.check_coordinator()?;
                if self.faulty {
                    self.chaos();
                    let wait = self.rng.millis(50, 1000);
                    self.at(wait, Event::Chaos);
                }
                Ok(())
            }
        }
    }

    pub fn delay(&mut self) -> Duration {
        match self.rng.below(100) {
            _ if !self.faulty => self.rng.millis(1, 20),
            0..80 => self.rng.millis(1, 30),
            80..95 => self.rng.millis(30, 700),
            _ => self.rng.millis(700, 5000),
        }
    }

    fn deliver_heartbeat(&mut self, client: usize, request: u64, heartbeat: GroupHeartbeat) -> Result<(), Violation> {
        if !self.is_up {
            return Ok(());
        }
        self.stats.heartbeats += 1;
        let mut heartbeat = heartbeat;
        self.tamper(&mut heartbeat);
        self.tokens += 1;
        self.asked.insert(self.tokens, Asked::Heartbeat { client, request });
        let mut effects = Vec::new();
        self.coordinator.on_heartbeat(self.tokens, &heartbeat, "sim", &self.catalog, self.now, &mut effects);
        self.perform(effects)
    }

    fn tamper(&self, heartbeat: &mut GroupHeartbeat) {
        let members = self.describe().filter(|_| self.sabotage.is_some()).map(|group| group.members);
        let member = members.and_then(|members| members.into_iter().find(|member| member.member == heartbeat.member));
        let owned = |heartbeat: &GroupHeartbeat, member: &lance_cluster::group::MemberDescription| {
            let owned = heartbeat.owned.iter().copied().filter(|at| member.assigned.contains(*at));
            owned.collect::<Vec<_>>()
        };
        match (self.sabotage, member) {
            (Some(Sabotage::FreedWithoutTheMember), Some(member)) if heartbeat.epoch == member.epoch => {
                heartbeat.owned = owned(heartbeat, &member);
            }
            (Some(Sabotage::AnyEpochBeats), Some(member)) if heartbeat.epoch > JOIN_EPOCH => {
                heartbeat.epoch = member.epoch;
            }
            (Some(Sabotage::JoiningFrees), Some(member)) if heartbeat.epoch == JOIN_EPOCH => {
                heartbeat.epoch = member.epoch;
            }
            (Some(Sabotage::ShorterSessions), _) => heartbeat.session_timeout_ms = 1000,
            _ => {}
        }
    }

    fn deliver_commit(&mut self, mut commit: GroupCommit) -> Result<(), Violation> {
        if !self.is_up {
            return Ok(());
        }
        self.stats.commits += 1;
        if let Some(group) = self.describe() {
            let own = group.members.iter().find(|member| member.member == commit.member);
            let first = commit.offsets[0].partition;
            let owner = group.members.iter().find(|member| member.assigned.contains(first));
            match (self.sabotage, own, owner) {
                (Some(Sabotage::AnyEpochCommits), Some(own), _) => commit.epoch = own.epoch,
                (Some(Sabotage::AnyMemberCommits), _, Some(owner)) => {
                    commit.member.clone_from(&owner.member);
                    commit.epoch = owner.epoch;
                }
                (Some(Sabotage::CommitsOvertake), _, _) => commit.number = 0,
                _ => {}
            }
        }
        self.tokens += 1;
        let mut effects = Vec::new();
        self.coordinator.on_commit(self.tokens, &commit, self.now, 0, &mut effects);
        self.asked.insert(self.tokens, Asked::Commit(commit));
        self.perform(effects)
    }

    fn perform(&mut self, effects: Vec<GroupEffect>) -> Result<(), Violation> {
        let mut effects: VecDeque<GroupEffect> = effects.into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                GroupEffect::Append { append, records } => {
                    self.last_append = append;
                    let encoded: Result<Vec<_>, _> = records.iter().map(|record| record.encode()).collect();
                    self.flying.push_back((append, encoded.map_err(|error| self.violation(error))?));
                    let wait = if self.faulty { self.rng.millis(1, 150) } else { Duration::from_millis(2) };
                    self.at(wait, Event::Appended(append));
                    if self.sabotage == Some(Sabotage::AnswersBeforeDurable) {
                        let mut more = Vec::new();
                        self.coordinator.on_appended(append, true, &mut more);
                        effects.extend(more);
                    }
                }
                GroupEffect::Answer { token, answer } => self.route(token, answer)?,
            }
        }
        Ok(())
    }

    fn route(&mut self, token: u64, answer: GroupAnswer) -> Result<(), Violation> {
        match (self.asked.remove(&token), answer) {
            (Some(Asked::Heartbeat { client, request }), GroupAnswer::Heartbeat(result)) => {
                if !self.faulty || !self.rng.percent(5) {
                    let delay = self.delay();
                    self.at(delay, Event::Answer { client, request, result });
                }
                Ok(())
            }
            (Some(Asked::Commit(commit)), GroupAnswer::Commit(result)) => {
                let results = result.map_or(Vec::new(), |committed| committed.results);
                let acknowledged = commit.offsets.iter().zip(&results).filter(|(_, (_, error))| error.is_none());
                for (offset, _) in acknowledged.clone() {
                    let furthest = self.committed.entry(offset.partition).or_default();
                    *furthest = (*furthest).max(offset.offset);
                }
                self.stats.refused_commits += (commit.offsets.len() - acknowledged.count()) as u64;
                self.check_commits()
            }
            (_, answer) => Err(self.violation(format!("nobody asked for {answer:?}"))),
        }
    }

    fn on_appended(&mut self, append: u64) -> Result<(), Violation> {
        if append <= self.decided {
            // A crash decided what became of it.
            return Ok(());
        }
        let mut effects = Vec::new();
        if self.faulty && self.rng.per_mille(2) {
            self.stats.failed_appends += 1;
            self.coordinator.on_appended(append, false, &mut effects);
            if !self.coordinator.needs_reload() && self.sabotage.is_none() {
                return Err(self.violation("a failed append went unnoticed"));
            }
            self.crash();
            return Ok(());
        }
        while self.flying.front().is_some_and(|(flying, _)| *flying <= append) {
            self.log.extend(self.flying.pop_front().into_iter().flat_map(|(_, records)| records));
        }
        self.coordinator.on_appended(append, true, &mut effects);
        self.check_commits()?;
        self.perform(effects)
    }

    /// The coordinator ends; of what was being appended a part is there.
    pub fn crash(&mut self) {
        self.stats.crashes += 1;
        self.is_up = false;
        self.decided = self.last_append;
        let records: Vec<Vec<u8>> = self.flying.drain(..).flat_map(|(_, records)| records).collect();
        let kept = self.rng.below(records.len() as u64 + 1) as usize;
        self.stats.lost_records += (records.len() - kept) as u64;
        self.log.extend(records.into_iter().take(kept));
        self.asked.clear();
        let down = if self.faulty { self.rng.millis(1, 1500) } else { Duration::from_millis(100) };
        self.at(down, Event::Start);
    }

    fn start(&mut self) -> Result<(), Violation> {
        if self.is_up {
            return Ok(());
        }
        self.coordinator = Coordinator::after(&self.coordinator);
        for record in &self.log {
            self.coordinator.replay(record).map_err(|error| format!("at {:?}: {error}", self.now))?;
        }
        let goes_on = self.sabotage == Some(Sabotage::SessionsGoOnOverRestarts);
        self.coordinator.on_loaded(self.now - Duration::from_millis(if goes_on { 900 } else { 0 }));
        self.is_up = true;
        self.check_commits()
    }

    fn deliver_answer(
        &mut self,
        number: usize,
        request: u64,
        result: Result<GroupAssignment, ErrorCode>,
    ) -> Result<(), Violation> {
        let (now, late_counts) = (self.now, self.sabotage == Some(Sabotage::LateAnswersCount));
        let client = &mut self.clients[number];
        let awaited = client.outstanding.filter(|(awaited, _)| *awaited == request);
        let late = client.heard_from.filter(|_| late_counts && result.is_ok()).map(|heard| (request, heard));
        let Some((_, sent)) = awaited.or(late).filter(|_| client.is_running()) else { return Ok(()) };
        client.outstanding = None;
        if sent + client.session <= now {
            self.start_over(number);
            return Ok(());
        }
        match result {
            Ok(told) if late_counts && told.epoch < client.epoch => Ok(()),
            Ok(told) => {
                let new = client.on_assignment(sent, now, &told, &mut self.rng).map_err(|what| self.violation(what))?;
                self.check_owners(number, &new)?;
                self.stats.gained += new.len() as u64;
                self.clients[number].give_up(now);
                Ok(())
            }
            Err(ErrorCode::UnknownMember) => {
                self.stats.fences += 1;
                self.start_over(number);
                Ok(())
            }
            // Its supervisor starts it again.
            Err(ErrorCode::FencedInstance) if client.instance.is_some() => {
                client.stop(Some(now));
                Ok(())
            }
            Err(code) if code.is_retriable() => {
                client.next_beat = now + Duration::from_millis(100);
                Ok(())
            }
            Err(ErrorCode::InvalidRequest) if self.sabotage.is_some() => Ok(()),
            Err(code) => Err(format!("at {now:?}: {} is refused: {code}", client.id)),
        }
    }

    pub fn start_over(&mut self, number: usize) {
        let new_id = self.rng.percent(50);
        self.clients[number].start_over(self.now, new_id);
    }

    fn chaos(&mut self) {
        match self.rng.below(20) {
            0 | 1 if self.is_up => self.crash(),
            2 | 3 if self.is_up && self.coordinator.is_settled() && self.flying.is_empty() => {
                self.stats.snapshots += 1;
                self.log = self.coordinator.snapshot_records().filter_map(|record| record.encode().ok()).collect();
            }
            4 => {
                self.stats.topics += 1;
                let (_, partitions) = self.partitions["u"];
                let more = 1 + self.rng.below(3) as u16;
                self.set_topic("u", partitions + more);
            }
            5 => {
                self.stats.topics += 1;
                self.partitions.remove("u");
                self.catalog.remove("u");
                let partitions = 1 + self.rng.below(6) as u16;
                self.set_topic("u", partitions);
            }
            _ => {}
        }
        debug_assert!(self.catalog.topic("t").is_some());
    }
}
