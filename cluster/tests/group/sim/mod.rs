//! Whole groups under faults, from a seed: members that join, leave, crash, stall, start again and are slow; heartbeats and
//! answers that are lost, late, doubled and out of order; a coordinator that crashes and reads what is durable of its
//! records; topics that grow and go.
//!
//! What is checked: no partition has two who believe that it is theirs; no commit that was acknowledged is lost, and none
//! goes back; epochs only rise; once faults stop, everybody has what it is to have, evenly. Each rule, broken alone, is
//! found out.

mod checks;
mod client;
mod members;
mod rng;
mod stats;
mod world;

use stats::Stats;
use world::World;

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A partition is free before its member gave it up.
    FreedWithoutTheMember,
    /// Answers leave before their records are durable.
    AnswersBeforeDurable,
    /// Heartbeats of any epoch count as current ones.
    AnyEpochBeats,
    /// A joining of a known member says that it holds nothing.
    JoiningFrees,
    /// The coordinator ends sessions earlier than members do.
    ShorterSessions,
    /// Sessions do not begin anew with a new coordinator.
    SessionsGoOnOverRestarts,
    /// Commits of any epoch count as current ones.
    AnyEpochCommits,
    /// Commits count whoever sends them.
    AnyMemberCommits,
    /// Commits count whichever was sent before.
    CommitsOvertake,
    /// A member takes answers to heartbeats that it has given up on.
    LateAnswersCount,
    /// A member counts its session from the answer, not from the heartbeat.
    SessionFromTheAnswer,
    /// A member that left comes back under its old id.
    IdsAreUsedAgain,
    /// A member goes on by its old epoch while it starts what it got.
    OldEpochsAreKept,
}

const ALL: [Sabotage; 13] = [
    Sabotage::FreedWithoutTheMember,
    Sabotage::AnswersBeforeDurable,
    Sabotage::AnyEpochBeats,
    Sabotage::JoiningFrees,
    Sabotage::ShorterSessions,
    Sabotage::SessionsGoOnOverRestarts,
    Sabotage::AnyEpochCommits,
    Sabotage::AnyMemberCommits,
    Sabotage::CommitsOvertake,
    Sabotage::LateAnswersCount,
    Sabotage::SessionFromTheAnswer,
    Sabotage::IdsAreUsedAgain,
    Sabotage::OldEpochsAreKept,
];

/// What is wrong, and when it was seen.
pub type Violation = String;

fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<Stats, Violation> {
    let mut world = World::new(seed, sabotage);
    world.faults()?;
    world.heal()?;
    world.calm()?;
    Ok(world.stats)
}

fn seeds() -> u64 {
    if std::env::var_os("LANCE_LONG_TESTS").is_some() { 20_000 } else { 2_000 }
}

#[test]
fn no_partition_has_two_owners_and_no_commit_is_lost_whatever_happens() {
    let mut total = Stats::default();
    for seed in 0..seeds() {
        match run(seed, None) {
            Ok(stats) => total.add(&stats),
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    println!("{total:?}");
    // Faults that never happen prove nothing.
    for (what, count) in total.each() {
        assert!(count > seeds() / 10, "{what}: {count} in {} runs", seeds());
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None));
    }
}

#[test]
fn each_rule_broken_alone_is_found_out() {
    for sabotage in ALL {
        let found = (0..5_000).find_map(|seed| run(seed, Some(sabotage)).err().map(|violation| (seed, violation)));
        let (seed, violation) = found.unwrap_or_else(|| panic!("{sabotage:?} went unnoticed"));
        println!("{sabotage:?}: seed {seed}: {violation}");
    }
}
