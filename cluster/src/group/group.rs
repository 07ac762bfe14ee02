//! One group: its members, its target, and how it comes from one to the other.
//!
//! A partition is in `assigned` or `revoking` of one member at most (`taken` has them all). It leaves a member only by that
//! member's word, its leaving, or the end of its session.

use super::assignor::{Subscriber, assign};
use super::earlier::EarlierCommits;
use super::image::GroupImage;
use super::limits::{GroupLimits, MAX_GROUP_PARTITIONS, MAX_REPLACED};
use super::member::{Member, Profile, Subscription};
use super::partitions::Partitions;
use super::record::{GroupRecord, OffsetRecord};
use super::timers::{Slot, TimerOwner, Timers};
use super::topics::{TopicCatalog, TopicIndex};
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::group::AssignmentStrategy;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Between one target and the next, for each member and partition: a hundred times what they cost. However often members
/// come and go, computing targets takes about a hundredth of the time, and many that join at once share one.
const TARGET_SPACING: Duration = Duration::from_micros(10);
/// One group causes so many heartbeats a second at most.
const HEARTBEATS_PER_SECOND: u64 = 2_000;
const MIN_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(300);

/// What a change of a group may touch beside the group.
pub(super) struct Surroundings<'a> {
    pub(super) now: Duration,
    pub(super) limits: &'a GroupLimits,
    pub(super) topics: &'a mut TopicIndex,
    pub(super) timers: &'a mut Timers,
    /// What changed, to be appended.
    pub(super) records: &'a mut Vec<OffsetRecord>,
    pub(super) earlier_commits: &'a mut EarlierCommits,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: Arc<str>,
    pub(super) epoch: i32,
    pub(super) strategy: AssignmentStrategy,
    pub(super) empty_since_ms: u64,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Static members, by instance.
    pub(super) instances: BTreeMap<String, Arc<str>>,
    /// Former ids of static members.
    pub(super) replaced: BTreeSet<String>,
    taken: BTreeSet<TopicPartition>,
    /// How many members have each subscription, and how many subscriptions name each topic.
    subscriptions: BTreeMap<Subscription, usize>,
    topics: BTreeMap<String, usize>,
    pub(super) staleness: Staleness,
    /// No target is computed before.
    target_not_before: Duration,
    pub(super) timer: Slot,
    /// The last append that says anything about group or members, and the last that commits.
    pub(super) depends: u64,
    pub(super) commits: u64,
    /// It lost its last member, and the time is not noted yet.
    pub(super) just_emptied: bool,
}

/// Whether the target is what the members ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Staleness {
    Fresh,
    /// It was not computed since the group was loaded.
    Loaded,
    Changed,
}

impl Group {
    pub(super) fn new(name: Arc<str>, epoch: i32) -> Self {
        Self {
            name,
            epoch,
            strategy: AssignmentStrategy::default(),
            empty_since_ms: 0,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            replaced: BTreeSet::new(),
            taken: BTreeSet::new(),
            subscriptions: BTreeMap::new(),
            topics: BTreeMap::new(),
            staleness: Staleness::Fresh,
            target_not_before: Duration::ZERO,
            timer: None,
            depends: 0,
            commits: 0,
            just_emptied: false,
        }
    }

    /// The group of an image: sessions begin anew, so that a coordinator that moved moves nothing else.
    pub(super) fn load(name: Arc<str>, image: GroupImage, around: &mut Surroundings<'_>) -> Self {
        let mut group = Self::new(name, image.epoch);
        group.strategy = image.strategy;
        group.empty_since_ms = image.empty_since_ms;
        for (id, record) in image.members {
            let topics = group.subscribe(record.topics.clone(), None, around);
            let mut member = Member::from_record(&record, topics, around.now);
            // Records that contradict each other never give a partition to two.
            let free = |partition: &TopicPartition| group.taken.insert(*partition);
            let mut free = free;
            member.assigned = member.assigned.iter().filter(&mut free).collect();
            member.revoking = member.revoking.iter().filter(&mut free).collect();
            group.insert(Arc::from(id), member, around);
        }
        if group.members.is_empty() {
            group.just_emptied = group.empty_since_ms == 0 && image.epoch > 0;
        } else {
            group.empty_since_ms = 0;
            group.staleness = Staleness::Loaded;
        }
        group.set_timer(around.now, around.timers);
        group
    }

    pub(super) fn set_timer(&mut self, at: Duration, timers: &mut Timers) {
        timers.set(&mut self.timer, at, || TimerOwner::Group(Arc::clone(&self.name)));
    }

    pub(super) fn set_member_timer(&mut self, id: &Arc<str>, timers: &mut Timers) {
        if let Some(member) = self.members.get_mut(id) {
            let due = member.due();
            timers.set(&mut member.timer, due, || TimerOwner::Member(Arc::clone(&self.name), Arc::clone(id)));
        }
    }

    /// Topics in order and once each, shared with everybody who reads the same.
    pub(super) fn subscribe(
        &mut self,
        mut topics: Vec<String>,
        catalog: Option<&dyn TopicCatalog>,
        around: &mut Surroundings<'_>,
    ) -> Subscription {
        topics.sort_unstable();
        topics.dedup();
        if let Some((known, _)) = self.subscriptions.get_key_value(topics.as_slice()) {
            let known = Arc::clone(known);
            self.subscriptions.entry(Arc::clone(&known)).and_modify(|members| *members += 1);
            return known;
        }
        for topic in &topics {
            *self.topics.entry(topic.clone()).or_default() += 1;
            around.topics.add(topic, &self.name, catalog);
        }
        let subscription: Subscription = topics.into();
        self.subscriptions.insert(Arc::clone(&subscription), 1);
        subscription
    }

    pub(super) fn unsubscribe(&mut self, subscription: &Subscription, around: &mut Surroundings<'_>) {
        match self.subscriptions.get_mut(subscription) {
            Some(members) if *members > 1 => {
                *members -= 1;
                return;
            }
            _ => drop(self.subscriptions.remove(subscription)),
        }
        for topic in subscription.iter() {
            match self.topics.get_mut(topic) {
                Some(subscriptions) if *subscriptions > 1 => *subscriptions -= 1,
                _ => {
                    self.topics.remove(topic);
                    around.topics.remove(topic, &self.name);
                }
            }
        }
    }

    /// Partitions of all topics the group reads, with those of `topics`.
    pub(super) fn partitions_with(&self, topics: &[String], catalog: &dyn TopicCatalog, index: &TopicIndex) -> usize {
        let new = topics.iter().filter(|topic| !self.topics.contains_key(*topic));
        let new = new.filter_map(|topic| catalog.topic(topic));
        let known = self.topics.keys().filter_map(|topic| index.get(topic));
        new.chain(known).map(|(_, partitions)| usize::from(partitions)).sum()
    }

    /// A member that is new here, or comes in the place of another.
    pub(super) fn insert(&mut self, id: Arc<str>, member: Member, around: &mut Surroundings<'_>) {
        if let Some(instance) = &member.instance {
            self.instances.insert(instance.clone(), Arc::clone(&id));
            self.replaced.extend(member.replaced.iter().cloned());
        }
        self.members.insert(Arc::clone(&id), member);
        self.set_member_timer(&id, around.timers);
    }

    /// Takes a member out; what it had is still taken.
    fn remove(&mut self, id: &str, timers: &mut Timers) -> Option<Member> {
        let (id, mut member) = self.members.remove_entry(id)?;
        timers.cancel(&mut member.timer, || TimerOwner::Member(Arc::clone(&self.name), Arc::clone(&id)));
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
            for id in &member.replaced {
                self.replaced.remove(id);
            }
        }
        Some(member)
    }

    /// A member is gone, and what it had is free.
    pub(super) fn drop_member(&mut self, id: &str, around: &mut Surroundings<'_>) -> Option<Member> {
        let member = self.remove(id, around.timers)?;
        around.earlier_commits.keep(&self.name, id, &member);
        for partition in member.assigned.iter().chain(member.revoking.iter()) {
            self.taken.remove(&partition);
        }
        self.unsubscribe(&member.topics, around);
        // If it comes back under its old id, it begins above every epoch it ever had.
        self.epoch = self.epoch.max(member.epoch);
        around.records.push(OffsetRecord::MemberGone { group: self.name.to_string(), member: id.to_owned() });
        if self.members.is_empty() {
            self.just_emptied = true;
            self.staleness = Staleness::Fresh;
            self.set_timer(around.now, around.timers);
        } else {
            self.note_change(around);
        }
        Some(member)
    }

    /// A new process of a static member takes its place, and what it has.
    pub(super) fn take_place(&mut self, old: &str, new: &Arc<str>, around: &mut Surroundings<'_>) -> Option<()> {
        let mut member = self.remove(old, around.timers)?;
        around.earlier_commits.keep(&self.name, old, &member);
        member.replaced.push(old.to_owned());
        let forgotten = member.replaced.len().saturating_sub(MAX_REPLACED);
        member.replaced.drain(..forgotten);
        member.last_heard = around.now;
        member.expelled = false;
        member.revoking_since = member.revoking_since.map(|_| around.now);
        self.insert(Arc::clone(new), member, around);
        Some(())
    }

    /// What a member says about itself has changed, perhaps.
    pub(super) fn update_profile(
        &mut self,
        id: &str,
        profile: Profile,
        topics: &[String],
        catalog: &dyn TopicCatalog,
        around: &mut Surroundings<'_>,
    ) -> bool {
        let Some(member) = self.members.get_mut(id) else { return false };
        let strategy_changed = member.profile.strategy != profile.strategy;
        let mut changed = member.profile != profile;
        member.profile = profile;
        let before = Arc::clone(&member.topics);
        let sorted = topics.is_sorted_by(|a, b| a < b);
        let same = before[..] == *topics || !sorted && before.iter().eq(topics.iter().collect::<BTreeSet<_>>());
        if !same {
            let subscription = self.subscribe(topics.to_vec(), Some(catalog), around);
            self.unsubscribe(&before, around);
            if let Some(member) = self.members.get_mut(id) {
                member.topics = subscription;
            }
            changed = true;
        }
        if strategy_changed || !same {
            self.note_change(around);
        }
        changed
    }

    /// The target is not what the members ask for any more.
    pub(super) fn note_change(&mut self, around: &mut Surroundings<'_>) {
        self.staleness = Staleness::Changed;
        self.set_timer(self.target_not_before.max(around.now), around.timers);
    }

    /// Computes the target anew if that is due.
    pub(super) fn retarget(&mut self, around: &mut Surroundings<'_>) {
        if self.staleness == Staleness::Fresh || self.members.is_empty() || around.now < self.target_not_before {
            return;
        }
        let strategy = self.wanted_strategy();
        let partitions = self.compute_target(strategy, around);
        // A coordinator that moved finds everything as it should be.
        let as_it_was = || strategy == self.strategy && self.members.values().all(Member::is_settled);
        if self.staleness == Staleness::Changed || !as_it_was() {
            self.epoch = self.epoch.saturating_add(1);
            self.strategy = strategy;
            self.empty_since_ms = 0;
            around.records.push(OffsetRecord::Group(self.record()));
        }
        self.staleness = Staleness::Fresh;
        let work = u32::try_from(self.members.len() + partitions).unwrap_or(u32::MAX);
        self.target_not_before = around.now.saturating_add(TARGET_SPACING.saturating_mul(work));
    }

    pub(super) fn record(&self) -> GroupRecord {
        GroupRecord {
            group: self.name.to_string(),
            epoch: self.epoch,
            strategy: self.strategy,
            empty_since_ms: self.empty_since_ms,
        }
    }

    /// The one most members ask for.
    fn wanted_strategy(&self) -> AssignmentStrategy {
        let mut asked: BTreeMap<AssignmentStrategy, usize> = BTreeMap::new();
        for member in self.members.values() {
            *asked.entry(member.profile.strategy).or_default() += 1;
        }
        let most = asked.iter().max_by_key(|(strategy, members)| (**members, std::cmp::Reverse(**strategy)));
        most.map_or(self.strategy, |(strategy, _)| *strategy)
    }

    /// Gives how many partitions there are.
    fn compute_target(&mut self, strategy: AssignmentStrategy, around: &Surroundings<'_>) -> usize {
        let limit = around.limits.partitions.min(MAX_GROUP_PARTITIONS);
        let mut partitions = 0;
        let mut topics: BTreeMap<TopicId, u16> = BTreeMap::new();
        for (id, count) in self.topics.keys().filter_map(|topic| around.topics.get(topic)) {
            // A topic that grew past the limit waits until there is room.
            if partitions + usize::from(count) <= limit {
                partitions += usize::from(count);
                topics.insert(id, count);
            }
        }
        let resolve = |subscription: &Subscription| {
            let mut ids: Vec<TopicId> =
                subscription.iter().filter_map(|topic| Some(around.topics.get(topic)?.0)).collect();
            ids.sort_unstable();
            (Arc::as_ptr(subscription).cast::<String>(), ids)
        };
        // Members with the same subscription share it: the address names it, an empty one has nothing to name.
        let resolved: BTreeMap<*const String, Vec<TopicId>> = self.subscriptions.keys().map(resolve).collect();
        let subscribers: Vec<Subscriber<'_>> = self
            .members
            .iter()
            .map(|(id, member)| Subscriber {
                // A static member keeps its place in the order when it starts again.
                key: member.instance.as_deref().unwrap_or(id),
                topics: resolved.get(&Arc::as_ptr(&member.topics).cast()).map_or(&[], Vec::as_slice),
                held: member.assigned.as_slice(),
                meant: member.target.as_slice(),
            })
            .collect();
        let targets = assign(strategy, &subscribers, &topics);
        for (member, target) in self.members.values_mut().zip(targets) {
            member.target = target.into();
        }
        partitions
    }

    /// One step of a member towards its target; `knows` is what it holds, if it said so knowing what it was told last.
    /// `true`: something changed.
    pub(super) fn reconcile(&mut self, id: &str, knows: Option<&Partitions>, now: Duration) -> bool {
        let Some(member) = self.members.get_mut(id) else { return false };
        if member.is_settled() {
            return false;
        }
        let mut changed = false;
        if let Some(owned) = knows {
            let given_up = member.revoking.minus(owned);
            if !given_up.is_empty() {
                for partition in given_up.iter() {
                    self.taken.remove(&partition);
                }
                member.revoking = member.revoking.minus(&given_up);
                member.revoking_since = Some(now);
                changed = true;
            }
        }
        if member.is_out_of_epochs() {
            return changed;
        }
        let back = member.revoking.common(&member.target);
        let leaving = member.assigned.minus(&member.target);
        let mut told = false;
        if !back.is_empty() || !leaving.is_empty() {
            member.assigned = member.assigned.minus(&leaving).plus(&back);
            member.revoking = member.revoking.minus(&back).plus(&leaving);
            told = true;
        }
        let mut gained = !back.is_empty();
        if member.revoking.is_empty() {
            member.revoking_since = None;
            let free: Partitions = member
                .target
                .minus(&member.assigned)
                .iter()
                .filter(|partition| self.taken.insert(*partition))
                .collect();
            gained |= !free.is_empty();
            member.assigned = member.assigned.plus(&free);
        } else {
            member.revoking_since.get_or_insert(now);
        }
        if told || gained {
            member.raise_epoch(self.epoch);
            if gained {
                member.commit_floor = member.epoch;
            }
        }
        changed || told || gained
    }

    /// What a member that has just come can have at once. It was told nothing yet: its epoch need not change.
    pub(super) fn take_first(&mut self, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.assigned = member.target.iter().filter(|partition| self.taken.insert(*partition)).collect();
        }
    }

    /// A member goes away and holds nothing any more of what it was to give up.
    pub(super) fn free_revoking(&mut self, id: &str) -> bool {
        let Some(member) = self.members.get_mut(id) else { return false };
        let freed = std::mem::take(&mut member.revoking);
        member.revoking_since = None;
        for partition in freed.iter() {
            self.taken.remove(&partition);
        }
        !freed.is_empty()
    }

    pub(super) fn push_member(&self, id: &str, records: &mut Vec<OffsetRecord>) {
        if let Some(member) = self.members.get(id) {
            records.push(OffsetRecord::Member(Box::new(member.record(&self.name, id))));
        }
    }

    /// How long a member with this session waits from one heartbeat to the next.
    pub(super) fn heartbeat_interval(&self, session: Duration) -> Duration {
        let shared = Duration::from_millis(self.members.len() as u64 * 1000 / HEARTBEATS_PER_SECOND);
        shared.max(MIN_HEARTBEAT_INTERVAL).min(session / 3)
    }

    /// Whether there is more to it than offsets.
    pub(super) fn has_state(&self) -> bool {
        !self.members.is_empty() || self.empty_since_ms > 0 || self.just_emptied
    }

    pub(super) fn is_stable(&self) -> bool {
        self.staleness == Staleness::Fresh && self.members.values().all(Member::is_settled)
    }
}
