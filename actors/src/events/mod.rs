//! What happened to the node and its cluster lately: a bounded list in memory, for the admin interface.
//!
//! Events are rare; the list is replaced as a whole, so that nobody waits for a reader.

pub mod changes;

use arc_swap::ArcSwap;
use lance_cluster::replica::{EvictionCause, Figures};
use lance_messages::id::NodeId;
use serde::Serialize;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// Events that are kept; the oldest go first.
pub const MAX_EVENTS: usize = 512;
/// Partitions that one event names, at most.
pub const MAX_NAMED: usize = 8;
/// Characters of a reason that are kept.
const REASON_CHARS: usize = 300;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A follower is slow and pushed nothing from now on; it still counts.
    Demote,
    /// A follower is pushed to again.
    Promote,
    /// A follower is waited for no longer.
    Evict,
    /// A spare has taken the place of a follower.
    SwapIn,
    /// A follower is waited for again.
    Rejoin,
    /// Replicas that began a new life hold everything, and count.
    Admit,
    /// This node found itself slower than its followers.
    SlowLeader,
    /// A node left in-quorum sets.
    QuorumLeft,
    /// A node came into in-quorum sets.
    QuorumJoined,
    /// Partitions have another leader.
    LeaderChange,
    /// The metadata have another leader.
    MetadataLeader,
    /// A node has not been heard of for too long.
    NodeDown,
    /// A node is heard of again.
    NodeUp,
    /// There is a new topic.
    TopicCreated,
    /// A topic is gone.
    TopicDeleted,
    /// An actor failed and starts again.
    ActorRestart,
}

/// What a follower was judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct JudgedBy {
    /// Its 99th percentile from append to ack, µs.
    pub ack_p99_us: Option<u32>,
    /// The median of the other followers, µs.
    pub others_median_us: Option<u32>,
    /// What its percentile was held against, µs.
    pub threshold_us: u32,
    /// Windows in a row in which it was slow or silent.
    pub slow_windows: u32,
    /// How long it had owed an ack, ms.
    pub outstanding_ms: Option<u64>,
}

impl From<Figures> for JudgedBy {
    fn from(figures: Figures) -> Self {
        Self {
            ack_p99_us: figures.p99_micros,
            others_median_us: figures.others_median_micros,
            threshold_us: figures.threshold_micros,
            slow_windows: figures.slow_count,
            outstanding_ms: figures.outstanding_ms,
        }
    }
}

/// One event. What does not apply is null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Counts the events of this process, from 1.
    pub number: u64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What happened.
    pub kind: EventKind,
    /// The node it happened to.
    pub node: Option<NodeId>,
    /// The node before: that of a leader that changed.
    pub before: Option<NodeId>,
    /// `slow` or `silent`, of an eviction.
    pub cause: Option<&'static str>,
    /// What a follower was judged by.
    pub figures: Option<JudgedBy>,
    /// How many partitions it concerns.
    pub partition_count: usize,
    /// The first of them, as `topic-number`.
    pub partitions: Vec<String>,
    /// The topic, where it concerns a whole one.
    pub topic: Option<String>,
    /// The actor that restarts.
    pub actor: Option<String>,
    /// Why it restarts.
    pub reason: Option<String>,
}

impl Event {
    /// An event that has not been noted yet.
    pub fn new(kind: EventKind) -> Self {
        Self {
            number: 0,
            time_ms: 0,
            kind,
            node: None,
            before: None,
            cause: None,
            figures: None,
            partition_count: 0,
            partitions: Vec::new(),
            topic: None,
            actor: None,
            reason: None,
        }
    }

    /// A decision about a follower.
    pub fn of_follower(
        kind: EventKind,
        node: NodeId,
        cause: Option<EvictionCause>,
        figures: Option<Figures>,
        partition_count: usize,
    ) -> Self {
        let cause = cause.map(|cause| match cause {
            EvictionCause::Slow => "slow",
            EvictionCause::Silent => "silent",
        });
        let figures = figures.map(JudgedBy::from);
        Self { node: Some(node), cause, figures, partition_count, ..Self::new(kind) }
    }

    /// An actor that failed.
    pub fn of_restart(actor: &str, reason: &str) -> Self {
        let reason = reason.chars().take(REASON_CHARS).collect();
        Self { actor: Some(actor.to_owned()), reason: Some(reason), ..Self::new(EventKind::ActorRestart) }
    }
}

/// The last events, oldest first.
#[derive(Debug, Default)]
pub struct EventList {
    events: ArcSwap<Vec<Arc<Event>>>,
}

impl EventList {
    /// Adds an event that happened at this time, and lets go of the oldest.
    pub fn note_at(&self, event: Event, time_ms: u64) {
        self.events.rcu(|events| {
            let number = events.last().map_or(0, |last| last.number) + 1;
            let added = Arc::new(Event { number, time_ms, ..event.clone() });
            let kept = events.iter().skip((events.len() + 1).saturating_sub(MAX_EVENTS));
            kept.cloned().chain([added]).collect::<Vec<_>>()
        });
    }

    /// Adds an event that happens now.
    pub fn note(&self, event: Event) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.note_at(event, u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    }

    /// The events after the one of this number, oldest first.
    pub fn after(&self, number: u64) -> Vec<Event> {
        self.events.load().iter().filter(|event| event.number > number).map(|event| Event::clone(event)).collect()
    }
}

/// The events of this process: one node a process.
pub fn events() -> &'static EventList {
    static EVENTS: LazyLock<EventList> = LazyLock::new(EventList::default);
    &EVENTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_go_and_numbers_go_on() {
        let list = EventList::default();
        for at in 0..MAX_EVENTS as u64 + 5 {
            list.note_at(Event::of_restart("poller-0", "panic"), at);
        }
        let all = list.after(0);
        let ends = (all.len(), all[0].number, all[all.len() - 1].number, all[0].time_ms);
        assert_eq!(ends, (MAX_EVENTS, 6, MAX_EVENTS as u64 + 5, 5));
        assert_eq!(list.after(MAX_EVENTS as u64 + 3).len(), 2);
        assert!(list.after(u64::MAX).is_empty());
    }

    #[test]
    fn a_reason_is_cut() {
        let event = Event::of_restart("a", &"ä".repeat(1000));
        assert_eq!(event.reason.map(|reason| reason.chars().count()), Some(REASON_CHARS));
    }
}
