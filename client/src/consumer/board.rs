//! What a consumer reads, and what was fetched for it and not handed out yet: plain state, without I/O.
//!
//! Every seek, pause and assignment gives a partition another generation and drops what was fetched under the one before,
//! and an offer is taken only under the present one: nothing from an old position is ever handed out.

use super::record::{ConsumedChunk, Position};
use crate::error::ClientError;
use lance_messages::id::TopicId;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Least a reader may fetch ahead, however many there are.
const LEAST_QUOTA_BYTES: usize = 4096;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) topic: Arc<str>,
    pub(super) partition: u16,
}

impl Key {
    pub(super) fn new(topic: impl Into<Arc<str>>, partition: u16) -> Self {
        Self { topic: topic.into(), partition }
    }
}

/// A task that reads from one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ReaderId(u64);

#[derive(Debug)]
struct Assigned {
    generation: u64,
    /// Where the next record starts that was not handed out.
    position: u64,
    /// Where the next record starts that was not fetched.
    fetched: u64,
    /// The latest leader epoch that answered: earlier leaders are not believed any more.
    epoch: u32,
    paused: bool,
    home: Option<ReaderId>,
    topic_id: TopicId,
}

/// A partition as a reader asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) key: Key,
    pub(super) topic_id: TopicId,
    pub(super) generation: u64,
    pub(super) offset: u64,
}

/// What a reader does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Ask for these.
    Ask { asks: Vec<Ask>, max_bytes: u32 },
    /// Wait: there is no room, or everything is paused.
    Wait,
    /// End: nothing is read from its node any more.
    End,
}

#[derive(Debug)]
enum Item {
    Fetched {
        key: Key,
        reader: ReaderId,
        bytes: usize,
        chunk: ConsumedChunk,
    },
    /// Of one partition, or of all that a reader had.
    Failed {
        key: Option<Key>,
        error: ClientError,
    },
}

#[derive(Debug)]
pub(super) struct Board {
    assigned: HashMap<Key, Assigned>,
    queue: VecDeque<Item>,
    /// Bytes in the queue by who fetched them; those of readers that have ended until they are taken.
    held: HashMap<ReaderId, usize>,
    readers: HashSet<ReaderId>,
    prefetch_bytes: usize,
    generations: u64,
    next_reader: u64,
}

impl Board {
    pub(super) fn new(prefetch_bytes: usize) -> Self {
        Self {
            assigned: HashMap::new(),
            queue: VecDeque::new(),
            held: HashMap::new(),
            readers: HashSet::new(),
            prefetch_bytes,
            generations: 0,
            next_reader: 0,
        }
    }

    fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    /// Reads a partition from `offset` on, also one that is read already.
    pub(super) fn assign(&mut self, key: Key, offset: u64) {
        if self.seek(&key, offset) {
            return;
        }
        let generation = self.next_generation();
        let (epoch, paused, home, topic_id) = (0, false, None, TopicId(0));
        let assigned = Assigned { generation, position: offset, fetched: offset, epoch, paused, home, topic_id };
        self.assigned.insert(key, assigned);
    }

    /// False: it is not assigned.
    pub(super) fn unassign(&mut self, key: &Key) -> bool {
        self.purge(key);
        self.assigned.remove(key).is_some()
    }

    /// False: it is not assigned.
    pub(super) fn seek(&mut self, key: &Key, offset: u64) -> bool {
        let generation = self.next_generation();
        let Some(assigned) = self.assigned.get_mut(key) else { return false };
        (assigned.generation, assigned.position, assigned.fetched) = (generation, offset, offset);
        self.purge(key);
        true
    }

    /// What was fetched ahead is dropped and fetched again later: it would take room from those that go on.
    pub(super) fn pause(&mut self, key: &Key) {
        if let Some(position) = self.position(key) {
            self.seek(key, position);
        }
        if let Some(assigned) = self.assigned.get_mut(key) {
            assigned.paused = true;
        }
    }

    pub(super) fn resume(&mut self, key: &Key) {
        if let Some(assigned) = self.assigned.get_mut(key) {
            assigned.paused = false;
        }
    }

    pub(super) fn position(&self, key: &Key) -> Option<u64> {
        self.assigned.get(key).map(|assigned| assigned.position)
    }

    pub(super) fn positions(&self) -> Vec<Position> {
        let positions = self.assigned.iter();
        positions.map(|(key, found)| Position::new(Arc::clone(&key.topic), key.partition, found.position)).collect()
    }

    /// The partitions of a topic that are assigned.
    pub(super) fn partitions_of(&self, topic: &str) -> Vec<u16> {
        self.assigned.keys().filter(|key| &*key.topic == topic).map(|key| key.partition).collect()
    }

    pub(super) fn is_paused(&self, key: &Key) -> bool {
        self.assigned.get(key).is_some_and(|assigned| assigned.paused)
    }

    /// What is to be handed out next.
    pub(super) fn take(&mut self) -> Option<Result<ConsumedChunk, ClientError>> {
        match self.queue.pop_front()? {
            Item::Fetched { key, reader, bytes, chunk } => {
                self.give_back(reader, bytes);
                if let Some(assigned) = self.assigned.get_mut(&key) {
                    assigned.position = chunk.next_offset;
                }
                Some(Ok(chunk))
            }
            Item::Failed { error, .. } => Some(Err(error)),
        }
    }

    fn give_back(&mut self, reader: ReaderId, bytes: usize) {
        if let Some(held) = self.held.get_mut(&reader) {
            *held -= bytes;
            if *held == 0 {
                self.held.remove(&reader);
            }
        }
    }

    fn purge(&mut self, key: &Key) {
        for item in std::mem::take(&mut self.queue) {
            match item {
                Item::Fetched { key: of, reader, bytes, .. } if of == *key => self.give_back(reader, bytes),
                Item::Failed { key: Some(of), .. } if of == *key => {}
                other => self.queue.push_back(other),
            }
        }
    }

    /// A chunk was fetched; false when the partition has moved on since it was asked for.
    pub(super) fn offer(&mut self, reader: ReaderId, ask: &Ask, chunk: ConsumedChunk, bytes: usize) -> bool {
        let Some(assigned) = self.current(ask).filter(|assigned| assigned.fetched == ask.offset) else { return false };
        assigned.fetched = chunk.next_offset;
        *self.held.entry(reader).or_default() += bytes;
        self.queue.push_back(Item::Fetched { key: ask.key.clone(), reader, bytes, chunk });
        true
    }

    /// The partition as long as nothing changed since it was asked for.
    fn current(&mut self, ask: &Ask) -> Option<&mut Assigned> {
        let assigned = self.assigned.get_mut(&ask.key)?;
        (assigned.generation == ask.generation && !assigned.paused).then_some(assigned)
    }

    /// Whether an answer of `epoch` is of the past; else it is what later answers are held against.
    pub(super) fn is_deposed(&mut self, key: &Key, epoch: u32) -> bool {
        match self.assigned.get_mut(key) {
            Some(assigned) if epoch != 0 => {
                let deposed = epoch < assigned.epoch;
                assigned.epoch = assigned.epoch.max(epoch);
                deposed
            }
            _ => false,
        }
    }

    /// Reading goes on elsewhere, because the partition does not have what was asked for.
    pub(super) fn reset(&mut self, ask: &Ask, offset: u64) {
        if self.current(ask).is_some() {
            self.seek(&ask.key, offset);
        }
    }

    /// A partition cannot be read any further: that is reported after what was fetched before.
    pub(super) fn fail(&mut self, ask: &Ask, error: ClientError) {
        if self.current(ask).is_some() {
            self.fail_partition(&ask.key, error);
        }
    }

    /// As [`Board::fail`], whatever was asked for.
    pub(super) fn fail_partition(&mut self, key: &Key, error: ClientError) {
        if self.assigned.remove(key).is_some() {
            self.queue.push_back(Item::Failed { key: Some(key.clone()), error });
        }
    }

    /// None of a reader's partitions can be read any further: reported once.
    pub(super) fn fail_reader(&mut self, reader: ReaderId, error: ClientError) {
        self.readers.remove(&reader);
        let before = self.assigned.len();
        self.assigned.retain(|_, assigned| assigned.home != Some(reader));
        if self.assigned.len() < before {
            self.queue.push_back(Item::Failed { key: None, error });
        }
    }

    pub(super) fn add_reader(&mut self) -> ReaderId {
        self.next_reader += 1;
        let reader = ReaderId(self.next_reader);
        self.readers.insert(reader);
        reader
    }

    /// Partitions that nobody reads.
    pub(super) fn homeless(&self) -> Vec<Key> {
        let homeless = self.assigned.iter().filter(|(_, assigned)| assigned.home.is_none() && !assigned.paused);
        homeless.map(|(key, _)| key.clone()).collect()
    }

    /// Gives a partition to a reader; false when that one has ended.
    pub(super) fn place(&mut self, key: &Key, reader: ReaderId, topic_id: TopicId) -> bool {
        let alive = self.readers.contains(&reader);
        if let Some(assigned) = self.assigned.get_mut(key).filter(|_| alive) {
            (assigned.home, assigned.topic_id) = (Some(reader), topic_id);
        }
        alive
    }

    /// A partition needs another reader.
    pub(super) fn displace(&mut self, key: &Key) {
        if let Some(assigned) = self.assigned.get_mut(key) {
            assigned.home = None;
        }
    }

    /// A reader has ended; the partitions it leaves.
    pub(super) fn remove_reader(&mut self, reader: ReaderId) -> Vec<Key> {
        self.readers.remove(&reader);
        let left = self.assigned.iter_mut().filter(|(_, assigned)| assigned.home == Some(reader));
        left.map(|(key, assigned)| {
            assigned.home = None;
            key.clone()
        })
        .collect()
    }

    /// What a reader does next. One that is to end gets nothing any more.
    pub(super) fn plan(&mut self, reader: ReaderId, max_bytes: u32) -> Plan {
        if !self.assigned.values().any(|assigned| assigned.home == Some(reader)) {
            self.readers.remove(&reader);
            return Plan::End;
        }
        let quota = (self.prefetch_bytes / self.readers.len().max(1)).max(LEAST_QUOTA_BYTES);
        let room = quota.saturating_sub(self.held.get(&reader).copied().unwrap_or(0));
        let max_bytes = max_bytes.max(1) as usize;
        let asks = self.asks(reader);
        // Small answers cost as much as large ones: half of a quota is worth waiting for.
        if asks.is_empty() || room < max_bytes.min(quota / 2) {
            return Plan::Wait;
        }
        Plan::Ask { asks, max_bytes: max_bytes.min(room) as u32 }
    }

    fn asks(&self, reader: ReaderId) -> Vec<Ask> {
        let read = self.assigned.iter().filter(|(_, found)| found.home == Some(reader) && !found.paused);
        let asks = read.map(|(key, found)| Ask {
            key: key.clone(),
            topic_id: found.topic_id,
            generation: found.generation,
            offset: found.fetched,
        });
        asks.collect()
    }

    /// Whether a reader has something to ask for that is not in `asked`.
    pub(super) fn overtakes(&self, reader: ReaderId, asked: &[Ask]) -> bool {
        let asked: HashSet<(&Key, u64)> = asked.iter().map(|ask| (&ask.key, ask.generation)).collect();
        self.asks(reader).iter().any(|ask| !asked.contains(&(&ask.key, ask.generation)))
    }

    /// Bytes in the queue.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.held.values().sum()
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
