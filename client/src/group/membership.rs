//! What a member knows of its membership. No clock, no task: times come in.

use lance_messages::id::TopicPartition;
use lance_messages::wire::group::{AssignmentStrategy, GroupAssignment, GroupHeartbeat, JOIN_EPOCH};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A partition of a named topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssignedPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Its id when the partition was assigned: a topic made again has another.
    pub id: TopicPartition,
}

/// How a member presents itself.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) group: String,
    pub(super) instance: Option<String>,
    pub(super) rack: String,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) strategy: AssignmentStrategy,
    pub(super) topics: Vec<String>,
}

/// What an answer changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// To be read from now on.
    pub(super) gained: Vec<AssignedPartition>,
    /// To be given up.
    pub(super) revoked: Vec<AssignedPartition>,
}

/// The membership of one consumer.
#[derive(Debug)]
pub(super) struct Membership {
    profile: Profile,
    member: String,
    epoch: i32,
    held: BTreeMap<TopicPartition, Arc<str>>,
    /// Those of `held` that the consumer was told to give up and has not yet.
    revoking: BTreeSet<TopicPartition>,
    /// When the heartbeat was sent that was answered last.
    confirmed: Option<Duration>,
}

impl Membership {
    pub(super) fn new(profile: Profile, member: String) -> Self {
        let (held, revoking) = (BTreeMap::new(), BTreeSet::new());
        Self { profile, member, epoch: JOIN_EPOCH, held, revoking, confirmed: None }
    }

    pub(super) fn member(&self) -> &str {
        &self.member
    }

    pub(super) fn epoch(&self) -> i32 {
        self.epoch
    }

    pub(super) fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What is held and not to be given up.
    pub(super) fn assigned(&self) -> impl Iterator<Item = AssignedPartition> + '_ {
        let kept = self.held.iter().filter(|(id, _)| !self.revoking.contains(*id));
        kept.map(|(id, topic)| AssignedPartition { topic: Arc::clone(topic), id: *id })
    }

    /// The next heartbeat, with the member's own epoch or one that leaves.
    pub(super) fn heartbeat(&self, epoch: i32) -> GroupHeartbeat {
        let profile = &self.profile;
        GroupHeartbeat {
            group: profile.group.clone(),
            member: self.member.clone(),
            epoch,
            instance: profile.instance.clone(),
            rack: profile.rack.clone(),
            session_timeout_ms: millis(profile.session_timeout),
            rebalance_timeout_ms: millis(profile.rebalance_timeout),
            strategy: profile.strategy,
            topics: profile.topics.clone(),
            owned: self.held.keys().copied().collect(),
        }
    }

    /// The answer to a heartbeat sent at `sent`.
    pub(super) fn on_assignment(&mut self, sent: Duration, assignment: &GroupAssignment) -> Change {
        self.epoch = assignment.epoch;
        self.confirmed = Some(sent);
        let mut change = Change::default();
        let wanted: BTreeSet<TopicPartition> = assignment.partitions().collect();
        for (id, topic) in &self.held {
            if !wanted.contains(id) && self.revoking.insert(*id) {
                change.revoked.push(AssignedPartition { topic: Arc::clone(topic), id: *id });
            }
        }
        for topic in &assignment.topics {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            for number in &topic.partitions {
                let id = TopicPartition::new(topic.id, *number);
                // One that is being given up comes back only after the coordinator has heard of that.
                if let Entry::Vacant(vacant) = self.held.entry(id) {
                    vacant.insert(Arc::clone(&name));
                    change.gained.push(AssignedPartition { topic: Arc::clone(&name), id });
                }
            }
        }
        change
    }

    /// The consumer has given partitions up.
    pub(super) fn release(&mut self, partitions: &[AssignedPartition]) {
        for partition in partitions {
            self.held.remove(&partition.id);
            self.revoking.remove(&partition.id);
        }
    }

    /// Whether the coordinator may have given the partitions to others: nothing it answered is younger than a session.
    pub(super) fn is_expired(&self, now: Duration) -> bool {
        self.confirmed.is_some_and(|confirmed| now >= confirmed + self.profile.session_timeout)
    }

    /// The member is one no more and joins again under another name; gives what it held.
    pub(super) fn start_over(&mut self, member: String) -> Vec<AssignedPartition> {
        self.member = member;
        self.epoch = JOIN_EPOCH;
        self.confirmed = None;
        self.revoking.clear();
        let held = std::mem::take(&mut self.held);
        held.into_iter().map(|(id, topic)| AssignedPartition { topic, id }).collect()
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;
    use lance_messages::wire::group::AssignedTopic;

    const SESSION: Duration = Duration::from_secs(10);

    fn member() -> Membership {
        let profile = Profile {
            group: "g".into(),
            instance: None,
            rack: String::new(),
            session_timeout: SESSION,
            rebalance_timeout: SESSION,
            strategy: AssignmentStrategy::Sticky,
            topics: vec!["t".into()],
        };
        Membership::new(profile, "m".into())
    }

    fn assignment(epoch: i32, partitions: &[u16]) -> GroupAssignment {
        let topic = AssignedTopic { id: TopicId(1), name: "t".into(), partitions: partitions.to_vec() };
        GroupAssignment { epoch, heartbeat_interval_ms: 300, topics: vec![topic] }
    }

    fn numbers(partitions: &[AssignedPartition]) -> Vec<u16> {
        partitions.iter().map(|partition| partition.id.partition).collect()
    }

    #[test]
    fn a_partition_is_held_until_the_consumer_has_given_it_up() {
        let mut member = member();
        let change = member.on_assignment(Duration::ZERO, &assignment(1, &[0, 1]));
        assert_eq!((numbers(&change.gained), numbers(&change.revoked)), (vec![0, 1], vec![]));
        let change = member.on_assignment(Duration::ZERO, &assignment(1, &[1]));
        assert_eq!((numbers(&change.gained), numbers(&change.revoked)), (vec![], vec![0]));
        assert_eq!(member.heartbeat(1).owned.len(), 2);
        // Told again, nothing new happens; and what comes back meanwhile waits.
        assert_eq!(member.on_assignment(Duration::ZERO, &assignment(1, &[1])), Change::default());
        assert_eq!(member.on_assignment(Duration::ZERO, &assignment(1, &[0, 1])), Change::default());
        member.release(&change.revoked);
        assert_eq!(member.heartbeat(1).owned, [TopicPartition::new(TopicId(1), 1)]);
        let change = member.on_assignment(Duration::ZERO, &assignment(2, &[0, 1]));
        assert_eq!((numbers(&change.gained), member.epoch()), (vec![0], 2));
    }

    #[test]
    fn a_session_counts_from_when_the_answered_heartbeat_was_sent() {
        let mut member = member();
        assert!(!member.is_expired(SESSION * 9));
        member.on_assignment(Duration::from_secs(1), &assignment(1, &[0]));
        assert!(!member.is_expired(Duration::from_millis(10_999)));
        assert!(member.is_expired(Duration::from_secs(11)));
        assert_eq!(numbers(&member.start_over("n".into())), [0]);
        assert_eq!((member.member(), member.epoch(), member.heartbeat(0).owned.len()), ("n", JOIN_EPOCH, 0));
    }
}
