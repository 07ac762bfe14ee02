//! Assignors: who of a group reads which partitions. Pure functions, the same everywhere for the same input.
//!
//! Members are taken in the order of their keys, whatever order they come in. Topics with the same subscribers are
//! one *pool*: any of its partitions can go to any of its subscribers.

use super::limits::MAX_GROUP_PARTITIONS;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::group::AssignmentStrategy;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// One member, as an assignor sees it.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber<'a> {
    /// Puts members in order; different for each.
    pub key: &'a str,
    /// What it reads, ascending and once each; topics that do not exist count for nothing.
    pub topics: &'a [TopicId],
    /// What it holds.
    pub held: &'a [TopicPartition],
    /// What it was to get; it does where nobody holds it.
    pub meant: &'a [TopicPartition],
}

/// Spreads all partitions of `topics` over the members that read them: for each member, in the order they were given, its
/// partitions in ascending order. Partitions past [`MAX_GROUP_PARTITIONS`] go to nobody.
pub fn assign(
    strategy: AssignmentStrategy,
    members: &[Subscriber<'_>],
    topics: &BTreeMap<TopicId, u16>,
) -> Vec<Vec<TopicPartition>> {
    let mut board = Board::new(members, topics);
    match strategy {
        AssignmentStrategy::Sticky => board.sticky(members),
        AssignmentStrategy::Range => board.range(),
        AssignmentStrategy::RoundRobin => board.round_robin(),
    }
    board.spread(members.len())
}

/// Nobody.
const NOBODY: u32 = u32::MAX;

/// All partitions in a row, and who has each. Members are numbered in the order of their keys.
struct Board {
    /// Number → place among the members that were given.
    order: Vec<u32>,
    topics: Vec<Topic>,
    owners: Vec<u32>,
    /// Whether the owner holds it already.
    held: Vec<bool>,
    loads: Vec<u32>,
    pools: Vec<Pool>,
}

struct Topic {
    id: TopicId,
    /// Where its partitions begin in the row.
    begin: usize,
    count: usize,
    pool: usize,
}

/// Topics with the same subscribers.
struct Pool {
    /// Ascending.
    subscribers: Vec<u32>,
    /// Places in the list of topics, ascending.
    topics: Vec<usize>,
}

impl Board {
    fn new(members: &[Subscriber<'_>], topics: &BTreeMap<TopicId, u16>) -> Self {
        let mut order: Vec<u32> = (0..members.len() as u32).collect();
        order.sort_by_key(|place| members[*place as usize].key);
        let mut begin = 0;
        let topics = topics.iter().map_while(|(id, count)| {
            let topic = Topic { id: *id, begin, count: usize::from(*count), pool: 0 };
            begin += topic.count;
            (begin <= MAX_GROUP_PARTITIONS).then_some(topic)
        });
        let mut topics: Vec<Topic> = topics.collect();
        let pools = pools(members, &order, &mut topics);
        let partitions = topics.last().map_or(0, |last| last.begin + last.count);
        let (owners, held, loads) = (vec![NOBODY; partitions], vec![false; partitions], vec![0; members.len()]);
        Self { order, topics, owners, held, loads, pools }
    }

    fn give(&mut self, place: usize, member: u32) {
        self.owners[place] = member;
        self.loads[member as usize] += 1;
    }

    fn spread(&self, members: usize) -> Vec<Vec<TopicPartition>> {
        let mut spread = vec![Vec::new(); members];
        for topic in &self.topics {
            let owners = self.owners[topic.begin..topic.begin + topic.count].iter().enumerate();
            for (partition, owner) in owners.filter(|(_, owner)| **owner != NOBODY) {
                let place = self.order[*owner as usize] as usize;
                spread[place].push(TopicPartition::new(topic.id, partition as u16));
            }
        }
        spread
    }

    /// Each topic's partitions in equal runs, the longer ones first.
    fn range(&mut self) {
        for at in 0..self.topics.len() {
            let Topic { begin, count, pool, .. } = self.topics[at];
            let subscribers = self.pools[pool].subscribers.len();
            for place in 0..if subscribers == 0 { 0 } else { count } {
                let (each, longer) = (count / subscribers, count % subscribers);
                let in_longer = longer * (each + 1);
                let rank = if place < in_longer { place / (each + 1) } else { longer + (place - in_longer) / each };
                let member = self.pools[pool].subscribers[rank];
                self.give(begin + place, member);
            }
        }
    }

    /// One partition after the other to the next member that reads its topic.
    fn round_robin(&mut self) {
        let mut next = 0;
        for at in 0..self.topics.len() {
            let Topic { begin, count, pool, .. } = self.topics[at];
            for place in begin..begin + count {
                let subscribers = &self.pools[pool].subscribers;
                let rank = subscribers.partition_point(|member| *member < next);
                let Some(member) = subscribers.get(rank).or(subscribers.first()).copied() else { break };
                self.give(place, member);
                next = member + 1;
            }
        }
    }

    fn sticky(&mut self, members: &[Subscriber<'_>]) {
        self.keep(members, |member| member.held);
        self.held = self.owners.iter().map(|owner| *owner != NOBODY).collect();
        self.keep(members, |member| member.meant);
        // Topics that few read first: the others' partitions can even out what those leave uneven.
        let mut pools: Vec<usize> = (0..self.pools.len()).collect();
        pools.sort_by_key(|pool| (self.pools[*pool].subscribers.len(), self.pools[*pool].topics.first().copied()));
        for pool in &pools {
            self.give_out(*pool);
        }
        // Each move makes loads more equal, so that this ends.
        while pools.iter().filter(|pool| self.even_out(**pool)).count() > 0 && pools.len() > 1 {}
    }

    /// What `of` names stays where it is, as far as it exists, is read and is nobody else's.
    fn keep<'a>(&mut self, members: &[Subscriber<'a>], of: impl Fn(&Subscriber<'a>) -> &'a [TopicPartition]) {
        for number in 0..self.order.len() {
            let member = &members[self.order[number] as usize];
            for same in of(member).chunk_by(|a, b| a.topic == b.topic) {
                let id = same.first().map(|partition| partition.topic);
                let found = id.and_then(|id| self.topics.binary_search_by_key(&id, |topic| topic.id).ok());
                let Some(topic) = found.map(|at| &self.topics[at]) else { continue };
                if member.topics.binary_search(&topic.id).is_err() {
                    continue;
                }
                let (begin, count) = (topic.begin, topic.count);
                for partition in same.iter().map(|partition| usize::from(partition.partition)) {
                    if partition < count && self.owners[begin + partition] == NOBODY {
                        self.give(begin + partition, number as u32);
                    }
                }
            }
        }
    }

    fn places(&self, pool: usize) -> impl Iterator<Item = usize> + '_ {
        self.pools[pool].topics.iter().flat_map(|at| {
            let topic = &self.topics[*at];
            topic.begin..topic.begin + topic.count
        })
    }

    /// What nobody has goes to whoever has least.
    fn give_out(&mut self, pool: usize) {
        let free: Vec<usize> = self.places(pool).filter(|place| self.owners[*place] == NOBODY).collect();
        if free.is_empty() {
            return;
        }
        let entry = |member: u32, loads: &[u32]| std::cmp::Reverse((loads[member as usize], member));
        let mut least: BinaryHeap<_> =
            self.pools[pool].subscribers.iter().map(|member| entry(*member, &self.loads)).collect();
        for place in free {
            let Some(std::cmp::Reverse((_, member))) = least.pop() else { return };
            self.give(place, member);
            least.push(entry(member, &self.loads));
        }
    }

    /// Moves partitions of a pool from who has most to who has least, while that makes them more equal.
    fn even_out(&mut self, pool: usize) -> bool {
        let loads = || self.pools[pool].subscribers.iter().map(|member| self.loads[*member as usize]);
        if loads().max().unwrap_or(0) < loads().min().unwrap_or(0) + 2 {
            return false;
        }
        let mut holdings: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        // The last go first: what nobody holds yet moves without anybody's giving it up.
        for held in [true, false] {
            for place in self.places(pool).filter(|place| self.owners[*place] != NOBODY && self.held[*place] == held) {
                holdings.entry(self.owners[place]).or_default().push(place);
            }
        }
        let entry = |member: u32, loads: &[u32]| (loads[member as usize], member);
        let mut givers: BTreeSet<_> = holdings.keys().map(|member| entry(*member, &self.loads)).collect();
        let mut takers: BTreeSet<_> =
            self.pools[pool].subscribers.iter().map(|member| entry(*member, &self.loads)).collect();
        let mut moved = false;
        while let (Some((most, from)), Some((least, to))) = (givers.last().copied(), takers.first().copied()) {
            if most < least + 2 {
                break;
            }
            let Some(place) = holdings.get_mut(&from).and_then(Vec::pop) else {
                givers.remove(&(most, from));
                continue;
            };
            givers.remove(&(most, from));
            givers.remove(&(least, to));
            takers.remove(&(most, from));
            takers.remove(&(least, to));
            self.loads[from as usize] -= 1;
            self.give(place, to);
            self.held[place] = false;
            holdings.entry(to).or_default().push(place);
            for member in [from, to] {
                givers.insert(entry(member, &self.loads));
                takers.insert(entry(member, &self.loads));
            }
            moved = true;
        }
        moved
    }
}

/// The pools of all topics; each topic learns which is its own.
fn pools(members: &[Subscriber<'_>], order: &[u32], topics: &mut [Topic]) -> Vec<Pool> {
    // Members with the same subscriptions are one class; a pool is a set of classes.
    let mut classes: BTreeMap<&[TopicId], Vec<u32>> = BTreeMap::new();
    for (number, place) in order.iter().enumerate() {
        classes.entry(members[*place as usize].topics).or_default().push(number as u32);
    }
    let mut readers: Vec<Vec<u32>> = vec![Vec::new(); topics.len()];
    for (class, subscription) in classes.keys().enumerate() {
        for id in *subscription {
            if let Ok(at) = topics.binary_search_by_key(id, |topic| topic.id) {
                readers[at].push(class as u32);
            }
        }
    }
    let classes: Vec<Vec<u32>> = classes.into_values().collect();
    let mut numbers: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
    let mut pools: Vec<Pool> = Vec::new();
    for (at, of_classes) in readers.into_iter().enumerate() {
        let pool = *numbers.entry(of_classes).or_insert_with_key(|of_classes| {
            let mut subscribers: Vec<u32> =
                of_classes.iter().flat_map(|class| &classes[*class as usize]).copied().collect();
            subscribers.sort_unstable();
            pools.push(Pool { subscribers, topics: Vec::new() });
            pools.len() - 1
        });
        pools[pool].topics.push(at);
        topics[at].pool = pool;
    }
    pools
}
