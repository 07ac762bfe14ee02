//! Commits: how far a group, or a consumer of LWP 1.0, has come.

use super::appends::{GroupAnswer, GroupEffect};
use super::coordinator::Coordinator;
use super::group::Group;
use super::limits::{MAX_COMMIT_OFFSETS, MAX_GROUP_NAME_BYTES, MAX_METADATA_BYTES};
use super::offsets::{CommittedOffset, ConsumerKey, OffsetCommit, OffsetKey};
use super::record::{NotedCommit, OffsetRecord};
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::group::{GroupCommit, GroupCommitted, GroupOffset};
use std::sync::Arc;
use std::time::Duration;

impl Coordinator {
    /// A member, or a tool while there are no members, says how far the group is. It shows once it is durable.
    pub fn on_commit(
        &mut self,
        token: u64,
        commit: &GroupCommit,
        now: Duration,
        wall_ms: u64,
        effects: &mut Vec<GroupEffect>,
    ) {
        let answer = match self.refusal().or(self.commit_refusal(commit)) {
            Some(code) => Err(code),
            None => Ok(GroupCommitted { results: self.take_commits(commit, wall_ms) }),
        };
        let takes_some = |committed: &GroupCommitted| committed.results.iter().any(|(_, refusal)| refusal.is_none());
        let group = self.groups.get_mut(commit.group.as_str()).filter(|_| answer.as_ref().is_ok_and(takes_some));
        if let Some(member) = group.and_then(|group| group.members.get_mut(commit.member.as_str())) {
            member.commit_number = member.commit_number.max(commit.number);
            member.commit_epoch = member.commit_epoch.max(commit.epoch);
        }
        let append = self.append(effects);
        let retention = self.limits.offsets_retention;
        let mut depends = append;
        if let Some(group) = self.groups.get_mut(commit.group.as_str()) {
            group.commits = group.commits.max(append);
            depends = depends.max(group.depends);
            if group.members.is_empty() {
                // One that was made for offsets that were all refused goes with the next tick.
                let look_at = if append > 0 { now.saturating_add(retention) } else { now };
                group.set_timer(look_at, &mut self.timers);
            }
        }
        self.appends.answer(depends, token, GroupAnswer::Commit(answer), effects);
    }

    /// A consumer of LWP 1.0 says how far it is. It shows once it is durable.
    pub fn on_plain_commit(&mut self, token: u64, commit: OffsetCommit, effects: &mut Vec<GroupEffect>) {
        let refusal = self.refusal().or(match &commit.key.consumer {
            // Groups have rules of their own.
            ConsumerKey::Group(_) => Some(ErrorCode::InvalidRequest),
            ConsumerKey::Id(_) if self.is_full(&commit.key) => Some(ErrorCode::LimitReached),
            ConsumerKey::Id(_) => None,
        });
        let depends = match refusal {
            Some(_) => 0,
            None => self.appends.begin(vec![OffsetRecord::Commit(commit)], effects),
        };
        self.appends.answer(depends, token, GroupAnswer::Plain(refusal.map_or(Ok(()), Err)), effects);
    }

    fn is_full(&self, key: &OffsetKey) -> bool {
        self.offsets.len() >= self.limits.offsets && self.offsets.committed(key).is_none()
    }

    /// Why nothing of a commit is taken, if so. A tool's commit makes its group.
    fn commit_refusal(&mut self, commit: &GroupCommit) -> Option<ErrorCode> {
        if !(1..=MAX_GROUP_NAME_BYTES).contains(&commit.group.len()) {
            return Some(ErrorCode::InvalidRequest);
        }
        if commit.offsets.len() > MAX_COMMIT_OFFSETS {
            return Some(ErrorCode::LimitReached);
        }
        let group = self.groups.get(commit.group.as_str());
        if !commit.member.is_empty() {
            return group.map_or(Some(ErrorCode::UnknownMember), |group| member_refusal(group, commit));
        }
        match group {
            Some(group) => (!group.members.is_empty()).then_some(ErrorCode::GroupNotEmpty),
            None if self.groups.len() >= self.limits.groups => Some(ErrorCode::LimitReached),
            None if commit.offsets.is_empty() => None,
            None => {
                let name: Arc<str> = commit.group.as_str().into();
                self.groups.insert(Arc::clone(&name), Group::new(name, self.epoch_floor));
                None
            }
        }
    }

    fn take_commits(
        &mut self,
        commit: &GroupCommit,
        committed_at_ms: u64,
    ) -> Vec<(lance_messages::id::TopicPartition, Option<ErrorCode>)> {
        let member = self.groups.get(commit.group.as_str()).and_then(|group| group.members.get(commit.member.as_str()));
        let take = |offset: &GroupOffset| {
            let key = OffsetKey { partition: offset.partition, consumer: ConsumerKey::Group(commit.group.clone()) };
            if offset.metadata.len() > MAX_METADATA_BYTES {
                return (offset.partition, Err(ErrorCode::TooLarge));
            }
            if member.is_some_and(|member| !member.may_hold(offset.partition)) {
                return (offset.partition, Err(ErrorCode::PartitionNotOwned));
            }
            if self.is_full(&key) {
                return (offset.partition, Err(ErrorCode::LimitReached));
            }
            let commit = OffsetCommit { key, committed: CommittedOffset { offset: offset.offset, committed_at_ms } };
            let record = match offset.metadata.as_str() {
                "" => OffsetRecord::Commit(commit),
                text => OffsetRecord::Noted(NotedCommit { commit, metadata: text.to_owned() }),
            };
            (offset.partition, Ok(record))
        };
        let taken: Vec<_> = commit.offsets.iter().map(take).collect();
        let results = taken.iter().map(|(partition, taken)| (*partition, taken.as_ref().err().copied())).collect();
        self.records.extend(taken.into_iter().filter_map(|(_, taken)| taken.ok()));
        results
    }
}

fn member_refusal(group: &Group, commit: &GroupCommit) -> Option<ErrorCode> {
    match group.members.get(commit.member.as_str()) {
        None if group.replaced.contains(&commit.member) => Some(ErrorCode::FencedInstance),
        None => Some(ErrorCode::UnknownMember),
        Some(member) if member.expelled => Some(ErrorCode::UnknownMember),
        // Since the floor it was given nothing: whatever an epoch from there on read is its own, uninterrupted.
        Some(member) if !(member.commit_floor..=member.epoch).contains(&commit.epoch) => {
            Some(ErrorCode::StaleMemberEpoch)
        }
        Some(member) if (1..member.commit_number).contains(&commit.number) => Some(ErrorCode::StaleMemberEpoch),
        Some(_) => None,
    }
}
