//! `Coordinator`: all groups of one partition of `__groups`, with what they have committed.
//!
//! It changes its state at once and tells nobody before the log has it: see `appends`. After a failed append it answers
//! nothing any more; its successor reads the log anew.

use super::appends::{Appends, GroupAnswer, GroupEffect};
use super::earlier::EarlierCommits;
use super::group::Group;
use super::image::GroupsImage;
use super::limits::{GroupLimits, MAX_APPEND_RECORDS};
use super::offsets::{GroupOffsets, Replayed};
use super::record::{OffsetRecord, OffsetRecordError};
use super::timers::Timers;
use super::topics::{TopicCatalog, TopicIndex};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a group may touch, borrowed beside `groups`.
macro_rules! surroundings {
    ($coordinator:expr, $now:expr) => {
        $crate::group::group::Surroundings {
            now: $now,
            limits: &$coordinator.limits,
            topics: &mut $coordinator.topics,
            timers: &mut $coordinator.timers,
            records: &mut $coordinator.records,
            earlier_commits: &mut $coordinator.earlier_commits,
        }
    };
}
pub(super) use surroundings;

/// All groups of one partition of `__groups`. `now` is a monotonic time of any origin, `wall_ms` milliseconds since the Unix
/// epoch.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) limits: GroupLimits,
    pub(super) groups: BTreeMap<Arc<str>, Group>,
    pub(super) topics: TopicIndex,
    pub(super) timers: Timers,
    pub(super) offsets: GroupOffsets,
    pub(super) appends: Appends,
    /// What a request changed so far.
    pub(super) records: Vec<OffsetRecord>,
    /// No epoch of a group that is gone was higher.
    pub(super) epoch_floor: i32,
    /// What was read of the log, until that is all of it.
    loading: Option<GroupsImage>,
    /// What late commits of members are told by that the log may bring back.
    pub(super) earlier_commits: EarlierCommits,
}

impl Coordinator {
    /// A coordinator that has still to read the log.
    pub fn new(limits: GroupLimits) -> Self {
        Self {
            limits,
            groups: BTreeMap::new(),
            topics: TopicIndex::default(),
            timers: Timers::default(),
            offsets: GroupOffsets::new(),
            appends: Appends::default(),
            records: Vec::new(),
            epoch_floor: 0,
            loading: Some(GroupsImage::default()),
            earlier_commits: EarlierCommits::default(),
        }
    }

    /// One that has still to read the log and numbers its appends from where `before` stopped: what was appended for that
    /// one may still be reported, and is no append of this one.
    pub fn after(before: &Self) -> Self {
        let (appends, earlier_commits) = (Appends::after(&before.appends), before.kept_commits());
        Self { appends, earlier_commits, ..Self::new(before.limits) }
    }

    fn kept_commits(&self) -> EarlierCommits {
        let mut kept = self.earlier_commits.clone();
        for (name, group) in &self.groups {
            group.members.iter().for_each(|(id, member)| kept.keep(name, id, member));
        }
        kept
    }

    /// Takes a record of the log, in order. Once it is loaded there is nothing more to read.
    pub fn replay(&mut self, record: &[u8]) -> Result<Replayed, OffsetRecordError> {
        self.loading.as_mut().map_or(Ok(Replayed::Taken), |image| image.replay(record))
    }

    /// The log is read to its end. All sessions begin anew, so that a coordinator that moved moves no partition.
    pub fn on_loaded(&mut self, now: Duration) {
        let Some(image) = self.loading.take() else { return };
        self.offsets = image.offsets;
        self.epoch_floor = image.groups.epoch_floor;
        for (name, image) in image.groups.by_name {
            let name: Arc<str> = name.into();
            let group = Group::load(Arc::clone(&name), image, &mut surroundings!(self, now));
            self.groups.insert(name, group);
        }
        for ((group, member), (epoch, number)) in self.earlier_commits.take() {
            let member = self.groups.get_mut(&group).and_then(|group| group.members.get_mut(&member));
            // A higher floor in the log is that of another life, or refuses by epoch what is late.
            if let Some(member) = member.filter(|member| member.commit_floor <= epoch) {
                (member.commit_epoch, member.commit_number) = (epoch, number);
            }
        }
        for name in self.offsets.group_names() {
            let name: Arc<str> = name.into();
            let new = || Group::new(Arc::clone(&name), self.epoch_floor);
            let group = self.groups.entry(Arc::clone(&name)).or_insert_with(new);
            group.set_timer(now, &mut self.timers);
        }
    }

    /// Whether requests are served.
    pub fn is_loaded(&self) -> bool {
        self.loading.is_none()
    }

    /// An append of this number is durable, or was refused. `false`: it is no append of this coordinator, and if it is
    /// durable the log holds what this one has not read.
    pub fn on_appended(&mut self, append: u64, durable: bool, effects: &mut Vec<GroupEffect>) -> bool {
        let is_own = self.appends.on_appended(append, durable, &mut self.offsets, effects);
        if self.is_loaded() {
            let (durable, last) = self.appends.durable_and_last();
            self.earlier_commits.on_durable(durable, last);
        }
        is_own
    }

    /// An append failed: nobody knows what the log says. Requests are refused until a successor has read it.
    pub fn needs_reload(&self) -> bool {
        self.appends.has_failed()
    }

    /// Whether every append is durable: only then is a snapshot all there is.
    pub fn is_settled(&self) -> bool {
        self.appends.is_settled()
    }

    /// Everything as records, to be appended without anything between them. Taken while appends are under way, they would
    /// void those.
    pub fn snapshot_records(&self) -> impl Iterator<Item = OffsetRecord> + '_ {
        let groups = || self.groups.values().filter(|group| group.has_state());
        let states = groups().map(|group| group.members.len() as u64 + 1).sum::<u64>();
        let count = self.offsets.len() as u64 + states + 1;
        let states = groups().flat_map(|group| {
            let members = group.members.iter().map(|(id, member)| member.record(&group.name, id));
            let members = members.map(|member| OffsetRecord::Member(Box::new(member)));
            std::iter::once(OffsetRecord::Group(group.record())).chain(members)
        });
        let states = std::iter::once(OffsetRecord::EpochFloor(self.epoch_floor)).chain(states);
        std::iter::once(OffsetRecord::SnapshotBegin { count })
            .chain(states.map(|state| OffsetRecord::InSnapshot(Box::new(state))))
            .chain(self.offsets.snapshot_entries())
            .chain(std::iter::once(OffsetRecord::SnapshotEnd { count }))
    }

    /// What is committed and durable.
    pub fn offsets(&self) -> &GroupOffsets {
        &self.offsets
    }

    /// When [`Coordinator::on_tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.refusal().is_some() { None } else { self.timers.next() }
    }

    /// All offsets of a topic that was deleted are void.
    pub fn on_topic_deleted(&mut self, topic: TopicId, effects: &mut Vec<GroupEffect>) {
        let is_read = |(key, _): (super::offsets::OffsetKey, _)| key.partition.topic == topic;
        if self.refusal().is_none() && self.offsets.iter().any(is_read) {
            self.appends.begin(vec![OffsetRecord::TopicDeleted(topic)], effects);
        }
    }

    /// Forgets a group without members, and its offsets.
    pub fn delete_group(&mut self, token: u64, name: &str, effects: &mut Vec<GroupEffect>) {
        let refusal = self.refusal().or(match self.groups.get(name) {
            None => Some(ErrorCode::GroupNotFound),
            Some(group) if !group.members.is_empty() => Some(ErrorCode::GroupNotEmpty),
            Some(_) => None,
        });
        let depends = match refusal {
            Some(_) => self.groups.get(name).map_or(0, |group| group.depends),
            None => {
                self.drop_group(name);
                self.append(effects)
            }
        };
        self.appends.answer(depends, token, GroupAnswer::Deleted(refusal.map_or(Ok(()), Err)), effects);
    }

    /// Why no request is served, if none is.
    pub(super) fn refusal(&self) -> Option<ErrorCode> {
        let is_ready = self.is_loaded() && !self.needs_reload();
        (!is_ready).then_some(ErrorCode::Unavailable)
    }

    pub(super) fn drop_group(&mut self, name: &str) {
        let Some(mut group) = self.groups.remove(name) else { return };
        self.timers.cancel(&mut group.timer, || super::timers::TimerOwner::Group(Arc::clone(&group.name)));
        self.epoch_floor = self.epoch_floor.max(group.epoch);
        self.records.push(OffsetRecord::GroupGone { group: name.to_owned(), epoch: group.epoch });
    }

    /// Appends what changed; gives the last append, 0 when nothing changed.
    pub(super) fn append(&mut self, effects: &mut Vec<GroupEffect>) -> u64 {
        let mut last = 0;
        let mut records = std::mem::take(&mut self.records);
        while !records.is_empty() {
            let rest = records.split_off(records.len().min(MAX_APPEND_RECORDS));
            last = self.appends.begin(std::mem::replace(&mut records, rest), effects);
        }
        last
    }

    /// Appends what changed in a group, and says what an answer about the group depends on.
    pub(super) fn append_of(&mut self, group: &str, effects: &mut Vec<GroupEffect>) -> u64 {
        let append = self.append(effects);
        match self.groups.get_mut(group) {
            Some(group) => {
                group.depends = group.depends.max(append);
                group.depends
            }
            None => append,
        }
    }

    /// Topics that changed change what their groups read.
    pub(super) fn look_at_topics(&mut self, catalog: &dyn TopicCatalog, now: Duration) {
        for name in self.topics.refresh(catalog) {
            if let Some(group) = self.groups.get_mut(&name) {
                group.note_change(&mut surroundings!(self, now));
            }
        }
    }
}
