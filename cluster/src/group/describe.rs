//! How groups stand, for people and tools.

use super::coordinator::Coordinator;
use super::offsets::{CommittedOffset, ConsumerKey};
use super::partitions::Partitions;
use lance_messages::id::TopicPartition;
use lance_messages::wire::group::AssignmentStrategy;
use std::time::Duration;

/// How far a group is with its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// It has no members.
    Empty,
    /// Every member has what it is to have, and knows it or will be told with its next heartbeat.
    Stable,
    /// Partitions are on their way from one member to another.
    Reconciling,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: GroupState,
    /// Counts its targets.
    pub epoch: i32,
    /// How partitions are spread.
    pub strategy: AssignmentStrategy,
    /// Its members, by id.
    pub members: Vec<MemberDescription>,
    /// What it has committed and the texts beside that, by partition.
    pub offsets: Vec<(TopicPartition, CommittedOffset, String)>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member: String,
    /// The name of a static member.
    pub instance: Option<String>,
    /// What its client calls itself.
    pub client: String,
    /// Where it runs.
    pub rack: String,
    /// Its epoch.
    pub epoch: i32,
    /// What it reads, by name.
    pub topics: Vec<String>,
    /// What it may hold.
    pub assigned: Partitions,
    /// What it is to give up.
    pub revoking: Partitions,
    /// How long it was not heard.
    pub silent: Duration,
    /// It took too long to give up, and goes when its session ends.
    pub expelled: bool,
}

impl GroupState {
    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Stable => "stable",
            Self::Reconciling => "reconciling",
        }
    }
}

impl Coordinator {
    /// The names of all groups, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(|name| &**name)
    }

    /// How a group stands.
    pub fn describe(&self, name: &str, now: Duration) -> Option<GroupDescription> {
        let group = self.groups.get(name)?;
        let state = match group.members.is_empty() {
            true => GroupState::Empty,
            false if group.is_stable() => GroupState::Stable,
            false => GroupState::Reconciling,
        };
        let members = group.members.iter().map(|(id, member)| MemberDescription {
            member: id.to_string(),
            instance: member.instance.clone(),
            client: member.profile.client.clone(),
            rack: member.profile.rack.clone(),
            epoch: member.epoch,
            topics: member.topics.to_vec(),
            assigned: member.assigned.clone(),
            revoking: member.revoking.clone(),
            silent: now.saturating_sub(member.last_heard),
            expelled: member.expelled,
        });
        let consumer = ConsumerKey::Group(name.to_owned());
        let offsets = self.offsets.of_consumer(&consumer);
        Some(GroupDescription {
            name: name.to_owned(),
            state,
            epoch: group.epoch,
            strategy: group.strategy,
            members: members.collect(),
            offsets: offsets.map(|(partition, at, metadata)| (partition, at, metadata.to_owned())).collect(),
        })
    }
}
