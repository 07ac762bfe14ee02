//! What has to hold, and when.

use super::Violation;
use super::client::{Client, GROUP};
use super::world::{Event, World};
use lance_cluster::group::{ConsumerKey, GroupDescription, GroupState, MemberDescription};
use lance_messages::id::TopicPartition;
use lance_messages::wire::group::{AssignmentStrategy, LEAVE_EPOCH};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl World {
    /// Faults stop; once everything that was lost is noticed, each has what it is to have.
    pub fn heal(&mut self) -> Result<(), Violation> {
        self.faulty = false;
        if !self.is_up {
            self.at(Duration::ZERO, Event::Start);
        }
        for client in &mut self.clients {
            // Some never come back.
            let comes_back = self.rng.percent(70);
            client.slowness = client.slowness.min(100);
            client.topics = vec!["t".to_owned(), "u".to_owned()];
            client.strategy = AssignmentStrategy::Sticky;
            if let Some(until) = &mut client.down {
                *until = comes_back.then_some(self.now);
            }
        }
        // The last late heartbeat, then a session that nobody keeps.
        self.run_until(self.now + Duration::from_secs(16))?;
        self.check_settled().map(drop)
    }

    /// One joins, one leaves, the coordinator moves: nothing moves that need not.
    pub fn calm(&mut self) -> Result<(), Violation> {
        let before = self.check_settled()?;
        let number = self.clients.len();
        self.add_client(number, false, &["t", "u"]);
        self.settle()?;
        let joined = self.check_settled()?;
        let running = self.clients.iter().filter(|client| client.is_running()).count();
        let moved = |before: &BTreeMap<TopicPartition, usize>, after: &BTreeMap<TopicPartition, usize>| {
            before.iter().filter(|(partition, owner)| after.get(partition) != Some(owner)).count()
        };
        if moved(&before, &joined) > joined.len().div_ceil(running) && running > 1 {
            return Err(self.violation(format!("one joined of {running}: {before:?} became {joined:?}")));
        }
        self.crash();
        self.settle()?;
        let moved_by_restart = moved(&joined, &self.check_settled()?);
        let leaving = self.clients.iter().position(Client::is_running).unwrap_or(number);
        if running > 1 {
            self.send(leaving, LEAVE_EPOCH);
            self.clients[leaving].stop(None);
            self.settle()?;
        }
        let own = joined.values().filter(|owner| running > 1 && **owner == leaving).count();
        let moved_by_leaving = moved(&joined, &self.check_settled()?);
        if moved_by_restart > 0 || moved_by_leaving > own {
            return Err(self.violation(format!("{moved_by_restart} and {moved_by_leaving} of {own} moved")));
        }
        Ok(())
    }

    /// A few heartbeats of each.
    fn settle(&mut self) -> Result<(), Violation> {
        self.run_until(self.now + Duration::from_millis(2500))
    }

    pub fn describe(&self) -> Option<GroupDescription> {
        self.coordinator.describe(GROUP, self.now)
    }

    /// Everybody has its share, knows it, and all is read; gives who reads what.
    fn check_settled(&self) -> Result<BTreeMap<TopicPartition, usize>, Violation> {
        let running: Vec<&Client> = self.clients.iter().filter(|client| client.is_running()).collect();
        let Some(group) = self.describe().filter(|_| !running.is_empty()) else { return Ok(BTreeMap::new()) };
        let mut owners = BTreeMap::new();
        for client in &running {
            let member = group.members.iter().find(|member| member.member == client.id);
            let told: Option<Vec<TopicPartition>> = member.map(|member| member.assigned.iter().collect());
            let held: Vec<TopicPartition> = client.held.keys().copied().collect();
            if told.as_ref() != Some(&held) {
                return Err(self.violation(format!("{} holds {held:?}, is to hold {told:?}", client.id)));
            }
            owners.extend(held.iter().map(|partition| (*partition, client.number)));
        }
        let all: usize = self.partitions.values().map(|(_, partitions)| usize::from(*partitions)).sum();
        let loads = || running.iter().map(|client| client.held.len());
        let is_even = loads().max().unwrap_or(0) <= loads().min().unwrap_or(0) + 1;
        let is_settled = group.state == GroupState::Stable && group.members.len() == running.len();
        if !is_settled || !is_even || owners.len() != all {
            return Err(self.violation(format!("of {all} partitions {} are read, {group:#?}", owners.len())));
        }
        Ok(owners)
    }

    pub fn check_commits(&mut self) -> Result<(), Violation> {
        let group = ConsumerKey::Group(GROUP.to_owned());
        let found: BTreeMap<TopicPartition, u64> =
            self.coordinator.offsets().of_consumer(&group).map(|(partition, at, _)| (partition, at.offset)).collect();
        for (partition, furthest) in &self.committed {
            let committed = found.get(partition).copied().unwrap_or(0);
            if committed < *furthest {
                return Err(self.violation(format!("{partition} was committed to {furthest}, now {committed}")));
            }
        }
        self.committed = found;
        Ok(())
    }

    pub fn check_owners(&self, number: usize, new: &[TopicPartition]) -> Result<(), Violation> {
        for partition in new.iter().filter(|partition| self.clients[number].believes(**partition, self.now)) {
            let other =
                self.clients.iter().find(|other| other.number != number && other.believes(*partition, self.now));
            if let Some(other) = other {
                let (one, other) = (&self.clients[number].id, &other.id);
                return Err(self.violation(format!("{partition} is {one}'s and {other}'s")));
            }
        }
        Ok(())
    }

    /// What members believe to be theirs the coordinator takes for theirs, and nothing for two members'.
    pub fn check_coordinator(&mut self) -> Result<(), Violation> {
        let Some(group) = self.describe().filter(|_| self.is_up) else { return Ok(()) };
        let mut taken = BTreeSet::new();
        for member in &group.members {
            self.stats.expelled += u64::from(member.expelled);
            let twice =
                member.assigned.iter().chain(member.revoking.iter()).find(|partition| !taken.insert(*partition));
            if let Some(partition) = twice {
                return Err(self.violation(format!("{partition} is taken twice: {group:#?}")));
            }
        }
        for client in &self.clients {
            // A joining of an earlier process, come late, takes the place of a static member that still reads.
            let is_it = |member: &&MemberDescription| match &client.instance {
                Some(instance) => member.instance.as_ref() == Some(instance),
                None => member.member == client.id,
            };
            let member = group.members.iter().find(is_it);
            let believed = client.held.keys().filter(|partition| client.believes(**partition, self.now));
            for partition in believed {
                let may_hold = |member: &MemberDescription| {
                    member.assigned.contains(*partition) || member.revoking.contains(*partition)
                };
                if !member.is_some_and(may_hold) {
                    return Err(self.violation(format!("{} believes that {partition} is its own", client.id)));
                }
            }
        }
        Ok(())
    }
}
