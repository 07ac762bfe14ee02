//! What happens by time alone: sessions end, patience ends, targets are due, offsets grow old.

use super::appends::GroupEffect;
use super::coordinator::{Coordinator, surroundings};
use super::group::Staleness;
use super::offsets::{ConsumerKey, OffsetKey};
use super::record::OffsetRecord;
use super::timers::TimerOwner;
use super::topics::TopicCatalog;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// An empty group whose last commit is still being appended is looked at again after this.
const RETENTION_RETRY: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Does what is due. Costs what is due and what changed, however many groups there are.
    pub fn on_tick<C: TopicCatalog>(
        &mut self,
        now: Duration,
        wall_ms: u64,
        catalog: &C,
        effects: &mut Vec<GroupEffect>,
    ) {
        if self.refusal().is_some() {
            return;
        }
        self.look_at_topics(catalog, now);
        let mut concerned = BTreeSet::new();
        while let Some(owner) = self.timers.pop(now) {
            let name = match owner {
                TimerOwner::Member(group, id) => {
                    self.on_member_timer(&group, &id, now);
                    group
                }
                TimerOwner::Group(group) => {
                    self.on_group_timer(&group, now, wall_ms);
                    group
                }
            };
            concerned.insert(name);
        }
        // Together: a node that was cut off costs one append, not one for each member.
        let append = self.append(effects);
        for name in concerned.iter().filter(|_| append > 0) {
            if let Some(group) = self.groups.get_mut(name) {
                group.depends = group.depends.max(append);
            }
        }
    }

    fn on_member_timer(&mut self, group: &str, id: &Arc<str>, now: Duration) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let Some(member) = group.members.get_mut(id) else { return };
        member.timer = None;
        if member.session_end() <= now {
            group.drop_member(id, &mut surroundings!(self, now));
            return;
        }
        if member.patience_end().is_some_and(|end| end <= now) {
            // It counts on its session: what it holds is free when that ends, or when it joins again and gives it up.
            member.expelled = true;
        }
        group.set_member_timer(id, &mut self.timers);
    }

    fn on_group_timer(&mut self, name: &Arc<str>, now: Duration, wall_ms: u64) {
        let Some(group) = self.groups.get_mut(name) else { return };
        group.timer = None;
        if !group.members.is_empty() {
            let mut around = surroundings!(self, now);
            group.retarget(&mut around);
            if group.staleness != Staleness::Fresh {
                group.note_change(&mut around);
            }
            return;
        }
        if std::mem::take(&mut group.just_emptied) {
            group.empty_since_ms = wall_ms;
            self.records.push(OffsetRecord::Group(group.record()));
        }
        self.forget_old(name, now, wall_ms);
    }

    /// Forgets what is old of a group without members, and the group with the last of it.
    fn forget_old(&mut self, name: &Arc<str>, now: Duration, wall_ms: u64) {
        let Some(group) = self.groups.get_mut(name) else { return };
        if !self.appends.is_durable(group.commits) {
            group.set_timer(now.saturating_add(RETENTION_RETRY), &mut self.timers);
            return;
        }
        let retention = u64::try_from(self.limits.offsets_retention.as_millis()).unwrap_or(u64::MAX);
        let consumer = ConsumerKey::Group(name.to_string());
        let ends = |at_ms: u64| at_ms.max(group.empty_since_ms).saturating_add(retention);
        let offsets = self.offsets.of_consumer(&consumer);
        let ends = offsets.map(|(partition, at, _)| (partition, ends(at.committed_at_ms)));
        let (old, kept): (Vec<_>, Vec<_>) = ends.partition(|(_, end)| *end <= wall_ms);
        let group_end = group.empty_since_ms.saturating_add(retention);
        let next = match kept.iter().map(|(_, end)| *end).min() {
            Some(end) => Some(end),
            None => (group_end > wall_ms && group.empty_since_ms > 0).then_some(group_end),
        };
        match next {
            Some(end) => {
                group.set_timer(now.saturating_add(Duration::from_millis(end - wall_ms)), &mut self.timers);
                self.records.extend(old.into_iter().map(|(partition, _)| {
                    OffsetRecord::ForgetOffset(OffsetKey { partition, consumer: consumer.clone() })
                }));
            }
            None => self.drop_group(name),
        }
    }
}
