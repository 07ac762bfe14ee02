//! One member of a group: what it was told, what it is to have, and when it was heard.

use super::limits::{GroupLimits, MAX_LABEL_BYTES, MAX_MEMBER_BYTES, MAX_TOPIC_BYTES};
use super::partitions::Partitions;
use super::record::MemberRecord;
use super::timers::Slot;
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::group::{AssignmentStrategy, GroupHeartbeat};
use std::sync::Arc;
use std::time::Duration;

/// Topic names, in order and once each; members with the same share them.
pub(super) type Subscription = Arc<[String]>;

/// What a member says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) rack: String,
    pub(super) client: String,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) strategy: AssignmentStrategy,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) instance: Option<String>,
    pub(super) profile: Profile,
    pub(super) topics: Subscription,
    /// The same epoch always tells the same partitions: a heartbeat that carries it was sent by one who knows them.
    pub(super) epoch: i32,
    pub(super) commit_floor: i32,
    /// Number of the last commit that was taken. A new process does not know it: no earlier connection reaches that.
    pub(super) commit_number: u64,
    /// The highest epoch of a commit that was taken with a number: the member was told it, so it is durable.
    pub(super) commit_epoch: i32,
    pub(super) replaced: Vec<String>,
    pub(super) assigned: Partitions,
    pub(super) revoking: Partitions,
    pub(super) target: Partitions,
    pub(super) last_heard: Duration,
    /// Since when it has been giving up without any progress.
    pub(super) revoking_since: Option<Duration>,
    /// It took too long to give up: it is heard no more unless it joins again, and its session runs out.
    pub(super) expelled: bool,
    pub(super) timer: Slot,
}

impl Profile {
    /// What a heartbeat says, or what is wrong with it.
    pub(super) fn of(heartbeat: &GroupHeartbeat, client: &str, limits: &GroupLimits) -> Result<Self, ErrorCode> {
        let session_timeout = Duration::from_millis(u64::from(heartbeat.session_timeout_ms));
        let rebalance_timeout = Duration::from_millis(u64::from(heartbeat.rebalance_timeout_ms));
        // The member counts on exactly the session it asked for.
        if session_timeout < limits.min_session_timeout
            || session_timeout > limits.max_session_timeout
            || heartbeat.rack.len() > MAX_LABEL_BYTES
            || heartbeat.topics.iter().any(|topic| topic.is_empty() || topic.len() > MAX_TOPIC_BYTES)
        {
            return Err(ErrorCode::InvalidRequest);
        }
        if heartbeat.topics.len() > limits.topics {
            return Err(ErrorCode::LimitReached);
        }
        let longest = limits.max_rebalance_timeout.max(limits.min_session_timeout);
        Ok(Self {
            rack: heartbeat.rack.clone(),
            client: cut(client, MAX_LABEL_BYTES).to_owned(),
            session_timeout,
            rebalance_timeout: rebalance_timeout.clamp(limits.min_session_timeout, longest),
            strategy: heartbeat.strategy,
        })
    }
}

impl Member {
    pub(super) fn new(profile: Profile, topics: Subscription, epoch: i32, now: Duration) -> Self {
        Self {
            instance: None,
            profile,
            topics,
            epoch,
            commit_floor: epoch,
            commit_number: 0,
            commit_epoch: epoch,
            replaced: Vec::new(),
            assigned: Partitions::new(),
            revoking: Partitions::new(),
            target: Partitions::new(),
            last_heard: now,
            revoking_since: None,
            expelled: false,
            timer: None,
        }
    }

    /// The member of a record. What it was to get is not in it: what it has is a good beginning.
    pub(super) fn from_record(record: &MemberRecord, topics: Subscription, now: Duration) -> Self {
        let millis = |ms: u32| Duration::from_millis(u64::from(ms));
        let profile = Profile {
            rack: record.rack.clone(),
            client: record.client.clone(),
            session_timeout: millis(record.session_timeout_ms),
            rebalance_timeout: millis(record.rebalance_timeout_ms),
            strategy: record.strategy,
        };
        Self {
            instance: record.instance.clone(),
            commit_floor: record.commit_floor,
            replaced: record.replaced.clone(),
            assigned: record.assigned.clone(),
            revoking: record.revoking.clone(),
            target: record.assigned.clone(),
            revoking_since: (!record.revoking.is_empty()).then_some(now),
            ..Self::new(profile, topics, record.epoch, now)
        }
    }

    /// A new life begins: commits of earlier ones are refused from now on.
    pub(super) fn begin_commits(&mut self) {
        self.commit_floor = self.epoch;
        self.commit_number = 0;
        self.commit_epoch = self.epoch;
    }

    pub(super) fn record(&self, group: &str, id: &str) -> MemberRecord {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        MemberRecord {
            group: group.to_owned(),
            member: id.to_owned(),
            instance: self.instance.clone(),
            rack: self.profile.rack.clone(),
            client: self.profile.client.clone(),
            session_timeout_ms: millis(self.profile.session_timeout),
            rebalance_timeout_ms: millis(self.profile.rebalance_timeout),
            strategy: self.profile.strategy,
            epoch: self.epoch,
            commit_floor: self.commit_floor,
            topics: self.topics.to_vec(),
            replaced: self.replaced.clone(),
            assigned: self.assigned.clone(),
            revoking: self.revoking.clone(),
        }
    }

    /// Its epoch becomes one it never had.
    pub(super) fn raise_epoch(&mut self, group_epoch: i32) {
        self.epoch = self.epoch.saturating_add(1).max(group_epoch);
    }

    /// No epoch is left that it never had.
    pub(super) fn is_out_of_epochs(&self) -> bool {
        self.epoch == i32::MAX
    }

    pub(super) fn session_end(&self) -> Duration {
        self.last_heard.saturating_add(self.profile.session_timeout)
    }

    /// When it has to have given up, if it is to.
    pub(super) fn patience_end(&self) -> Option<Duration> {
        let since = self.revoking_since.filter(|_| !self.expelled)?;
        Some(since.saturating_add(self.profile.rebalance_timeout))
    }

    pub(super) fn due(&self) -> Duration {
        self.patience_end().map_or(self.session_end(), |end| end.min(self.session_end()))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.revoking.is_empty() && self.assigned == self.target
    }

    pub(super) fn may_hold(&self, partition: lance_messages::id::TopicPartition) -> bool {
        self.assigned.contains(partition) || self.revoking.contains(partition)
    }
}

pub(super) fn is_member_id(id: &str) -> bool {
    (1..=MAX_MEMBER_BYTES).contains(&id.len())
}

/// Cuts a text to at most `bytes`, between characters.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}
