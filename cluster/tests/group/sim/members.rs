//! What members do when they wake, and what goes wrong with them.

use super::Sabotage;
use super::client::GROUP;
use super::world::{Event, World};
use lance_cluster::group::ConsumerKey;
use lance_messages::wire::group::{AssignmentStrategy, JOIN_EPOCH, LEAVE_EPOCH, PAUSE_EPOCH};

impl World {
    /// A member does what it has to do now.
    pub fn wake(&mut self, number: usize) {
        let mut wait = self.rng.millis(20, 80);
        if self.faulty && self.rng.per_mille(3) {
            // It stands still; when it goes on, it looks at the clock first.
            wait = self.rng.millis(500, 6000);
        }
        self.at(wait, Event::Wake(number));
        let now = self.now;
        match self.clients[number].down {
            Some(Some(until)) if until <= now => {
                let again = self.sabotage == Some(Sabotage::IdsAreUsedAgain);
                self.clients[number].down = None;
                self.clients[number].start_over(now, !again);
                self.stats.restarts += 1;
            }
            Some(_) => return,
            None => {}
        }
        let client = &mut self.clients[number];
        if client.epoch > JOIN_EPOCH && client.is_lapsed(now) {
            self.stats.lapses += 1;
            self.start_over(number);
        }
        if self.faulty && self.rng.per_mille(6) {
            self.trouble(number);
            return;
        }
        self.learn_positions(number);
        if self.rng.percent(30) {
            self.commit(number);
        }
        let client = &mut self.clients[number];
        client.give_up(now);
        if client.outstanding.is_some_and(|(_, sent)| sent + client.session / 3 <= now) {
            client.outstanding = None;
        }
        if client.outstanding.is_none() && client.next_beat <= now {
            let epoch = client.epoch;
            let request = self.send(number, epoch);
            self.clients[number].outstanding = Some((request, now));
        }
    }

    fn learn_positions(&mut self, number: usize) {
        if !self.is_up || self.rng.percent(30) {
            return;
        }
        let group = ConsumerKey::Group(GROUP.to_owned());
        for (partition, holding) in self.clients[number].held.iter_mut().filter(|(_, at)| at.position.is_none()) {
            let mut committed = self.coordinator.offsets().of_consumer(&group);
            holding.position = Some(committed.find(|(at, _, _)| at == partition).map_or(0, |(_, at, _)| at.offset));
        }
    }

    fn commit(&mut self, number: usize) {
        if self.clients[number].is_lapsed(self.now) {
            return;
        }
        let Some(commit) = self.clients[number].commit(&mut self.rng) else { return };
        let delay = self.delay();
        let reconnects = self.faulty && self.rng.percent(10);
        let client = &mut self.clients[number];
        if reconnects {
            self.stats.reconnections += 1;
            client.reconnect(self.now);
        }
        client.commits_arrive = client.commits_arrive.max(self.now + delay);
        let wait = client.commits_arrive - self.now;
        self.at(wait, Event::Commit(commit));
    }

    /// Sends a heartbeat, which may be lost, late or doubled.
    pub fn send(&mut self, number: usize, epoch: i32) -> u64 {
        self.tokens += 1;
        let (client, request) = (number, self.tokens);
        let heartbeat = self.clients[number].heartbeat(epoch);
        for copy in 0..2 {
            let arrives =
                if copy == 0 { !self.faulty || !self.rng.percent(5) } else { self.faulty && self.rng.percent(10) };
            if arrives {
                let delay = self.delay();
                self.at(delay, Event::Heartbeat { client, request, heartbeat: heartbeat.clone() });
            }
        }
        request
    }

    fn trouble(&mut self, number: usize) {
        let until = self.now + self.rng.millis(0, 5000);
        let is_static = self.clients[number].instance.is_some();
        match self.rng.below(5) {
            0 => self.clients[number].stop(Some(until)),
            1 => {
                self.send(number, LEAVE_EPOCH);
                self.clients[number].stop(Some(until));
            }
            2 if is_static => {
                self.send(number, PAUSE_EPOCH);
                self.clients[number].stop(Some(until));
            }
            3 => {
                let topics: &[&str] = [&["t", "u"][..], &["t"], &["u"], &["u", "none"]][self.rng.below(4) as usize];
                self.clients[number].topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
            }
            _ => {
                let strategies =
                    [AssignmentStrategy::Sticky, AssignmentStrategy::Range, AssignmentStrategy::RoundRobin];
                self.clients[number].strategy = strategies[self.rng.below(3) as usize];
            }
        }
    }
}
