//! Every schedule of a small partition, exhaustively: the cores that ship, under every order of delivery, loss, repetition,
//! crash, wipe, eviction and change of leader within bounds. Each rule, broken alone, is found out.
//!
//! An append or an ack that was ever sent may arrive at any time, any number of times, or never. Batches are all
//! [`UNIT`] bytes long, so that a log is a list and a position an index times that.

mod elections;
mod state;
mod steps;

use state::State;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use steps::Action;

/// Bytes of a batch without records.
const UNIT: u64 = 104;

/// How far schedules go.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    replicas: u8,
    /// The last epoch; the first one is 1.
    epochs: u8,
    records: u8,
    crashes: u8,
    wipes: u8,
    /// Of so many nodes, from the first.
    failing: u8,
    evictions: u8,
    /// The first epoch's start is on every disk already.
    settled: bool,
    /// Appends carry the high watermark.
    tells: bool,
    /// Nodes sync as soon as they write.
    syncs_at_once: bool,
}

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sabotage {
    /// Batches of older epochs are committed without one of the leader's own.
    NoEpochStartGate,
    /// An ack of another epoch counts.
    StaleAckCounts,
    /// A follower confirms what is only written.
    AckBeforeSync,
    /// A follower confirms all that is synced, the leader's or not.
    UnmatchedConfirmed,
    /// The leader counts what it has only written.
    LeaderVoteBeforeSync,
    /// A follower confirms to the old leader after its promise.
    AckAfterPromise,
    /// A promise is answered with the log's end, and a start between answer and role goes unnoticed.
    AnswerLogEnd,
    /// An election takes one answer less.
    OneAnswerFewer,
    /// An election takes whoever answers.
    AnyWinner,
    /// A promise is answered before it is persisted.
    PromiseInMemory,
    /// An append is taken whatever lies before it.
    NoPrevEpochCheck,
    /// A truncation is obeyed whatever state it answers.
    AnyTruncate,
    /// The quorum is one of the in-quorum set.
    QuorumOfInQuorum,
    /// A leader that was started again takes the role it was chosen for before.
    LeadsAfterRestart,
    /// A replica that lost its disk is asked like any other.
    UncleanAnswers,
    /// The ack of any life of a replica counts.
    AnyIncarnation,
    /// A refilled replica is admitted at the high watermark, epoch start or not.
    AdmitAtHighWatermark,
}

/// What a search has seen.
struct Search {
    states: usize,
    violation: Option<String>,
}

/// Quick, and wide enough: two of ten million states share a fingerprint once in many thousand runs.
#[derive(Default)]
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = Fingerprint::default();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Visits every state within the bounds, nearest first, until a check fails.
fn search(bounds: Bounds, sabotage: Option<Sabotage>) -> Search {
    let first = State::first(&bounds);
    let mut seen = HashSet::from([fingerprint(&first)]);
    let mut came_by: Vec<(usize, Option<Action>)> = vec![(0, None)];
    let mut waiting = VecDeque::from([(0, first)]);
    let mut actions = Vec::new();
    while let Some((from, state)) = waiting.pop_front() {
        actions.clear();
        state.actions(&bounds, sabotage, &mut actions);
        for &action in &actions {
            let mut next = state.clone();
            let outcome = next.act(action, sabotage).and_then(|()| next.check());
            let violated = outcome.is_err();
            if !violated && !seen.insert(fingerprint(&next)) {
                continue;
            }
            came_by.push((from, Some(action)));
            if let Err(broken) = outcome {
                let violation = format!("{broken}\nafter {:#?}\nin {next:#?}", way_to(came_by.len() - 1, &came_by));
                return Search { states: seen.len(), violation: Some(violation) };
            }
            waiting.push_back((came_by.len() - 1, next));
        }
    }
    Search { states: seen.len(), violation: None }
}

/// The actions that lead to a state.
fn way_to(mut state: usize, came_by: &[(usize, Option<Action>)]) -> Vec<Action> {
    let mut way = Vec::new();
    while let (from, Some(action)) = came_by[state] {
        way.push(action);
        state = from;
    }
    way.reverse();
    way
}

const SMALL: Bounds = Bounds {
    replicas: 3,
    epochs: 2,
    records: 1,
    crashes: 0,
    wipes: 0,
    failing: 3,
    evictions: 0,
    settled: false,
    tells: false,
    syncs_at_once: false,
};

/// Whether the wide bounds were asked for.
fn long() -> bool {
    std::env::var("LANCE_LONG_TESTS").is_ok_and(|value| value == "1")
}

fn holds(bounds: Bounds) {
    let Search { states, violation } = search(bounds, None);
    println!("{states} states of {bounds:?}");
    assert_eq!(violation, None);
    assert!(states > 1000, "the bounds leave nothing to see: {states} states");
}

fn is_found(sabotage: Sabotage, bounds: Bounds) {
    let Search { states, violation } = search(bounds, Some(sabotage));
    println!("{sabotage:?}: {states} states, {}", violation.as_deref().unwrap_or("not found"));
    assert!(violation.is_some(), "{sabotage:?} is not found in {states} states of {bounds:?}");
}

#[test]
fn nothing_committed_is_lost_through_changes_of_leader() {
    holds(Bounds { epochs: 3, syncs_at_once: true, ..SMALL });
    if long() {
        holds(Bounds { epochs: 3, records: 2, syncs_at_once: true, ..SMALL });
        holds(Bounds { epochs: 4, records: 0, syncs_at_once: true, ..SMALL });
    }
}

#[test]
fn nothing_committed_is_lost_through_a_crash() {
    holds(Bounds { records: 1, crashes: 1, settled: true, ..SMALL });
    if long() {
        holds(Bounds { records: 1, crashes: 1, ..SMALL });
        holds(Bounds { epochs: 3, records: 0, crashes: 1, failing: 1, settled: true, ..SMALL });
    }
}

#[test]
fn nothing_committed_is_lost_with_an_eviction() {
    holds(Bounds { evictions: 1, tells: true, settled: true, syncs_at_once: true, ..SMALL });
    if long() {
        holds(Bounds { records: 2, evictions: 1, tells: true, syncs_at_once: true, ..SMALL });
    }
}

#[test]
fn nothing_committed_is_lost_when_a_replica_loses_its_disk_and_refills() {
    holds(Bounds { wipes: 1, syncs_at_once: true, ..SMALL });
    if long() {
        holds(Bounds { epochs: 3, wipes: 1, failing: 1, syncs_at_once: true, ..SMALL });
    }
}

#[test]
fn each_broken_rule_of_sync_and_quorum_is_found() {
    is_found(Sabotage::AckBeforeSync, Bounds { crashes: 1, ..SMALL });
    is_found(Sabotage::LeaderVoteBeforeSync, Bounds { crashes: 1, ..SMALL });
    is_found(Sabotage::AnswerLogEnd, Bounds { crashes: 1, records: 0, ..SMALL });
    let four = Bounds { replicas: 4, evictions: 1, settled: true, syncs_at_once: true, ..SMALL };
    is_found(Sabotage::QuorumOfInQuorum, four);
}

#[test]
fn each_broken_rule_of_elections_is_found() {
    is_found(Sabotage::OneAnswerFewer, SMALL);
    is_found(Sabotage::AnyWinner, SMALL);
    is_found(Sabotage::AckAfterPromise, SMALL);
    is_found(Sabotage::PromiseInMemory, Bounds { crashes: 1, settled: true, ..SMALL });
    is_found(Sabotage::LeadsAfterRestart, Bounds { crashes: 1, ..SMALL });
}

#[test]
fn each_broken_rule_of_epochs_is_found() {
    let synced = Bounds { syncs_at_once: true, ..SMALL };
    is_found(Sabotage::NoEpochStartGate, Bounds { epochs: 4, records: 0, ..synced });
    is_found(Sabotage::StaleAckCounts, Bounds { epochs: 3, settled: true, ..SMALL });
    is_found(Sabotage::NoPrevEpochCheck, Bounds { epochs: 3, settled: true, ..synced });
    is_found(Sabotage::AnyTruncate, Bounds { epochs: 3, settled: true, ..synced });
    is_found(Sabotage::UnmatchedConfirmed, Bounds { epochs: 3, settled: true, ..synced });
}

#[test]
fn each_broken_rule_of_incarnations_is_found() {
    let wiped = Bounds { wipes: 1, syncs_at_once: true, ..SMALL };
    is_found(Sabotage::UncleanAnswers, wiped);
    is_found(Sabotage::AnyIncarnation, Bounds { settled: true, ..wiped });
    is_found(Sabotage::AdmitAtHighWatermark, Bounds { epochs: 3, failing: 1, settled: true, ..wiped });
}
