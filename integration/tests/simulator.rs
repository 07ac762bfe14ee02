//! The simulator: fixed seeds, fresh ones, the same seed twice, and nodes that are broken on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

use lance_integration::sim::disk::FileKind;
use lance_integration::sim::faults::Trouble;
use lance_integration::sim::sabotage::Sabotage;
use lance_integration::sim::{Options, Outcome, run};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seeds of the default run; `LANCE_SIM_SEEDS` asks for another number.
const SEEDS: u64 = 300;

fn asked_seeds() -> u64 {
    std::env::var("LANCE_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

/// Runs a seed; a failure says how to see it again.
fn must_hold(seed: u64) -> Outcome {
    let again =
        format!("LANCE_SIM_SEED={seed} cargo test -p lance-integration --test simulator one_seed -- --nocapture");
    let options = Options::default();
    match catch_unwind(AssertUnwindSafe(|| run(seed, &options))) {
        Ok(outcome) => {
            if let Some(violation) = &outcome.violation {
                panic!("seed {seed}: {violation}\n{}\n{}\nagain: {again}", outcome.setup, outcome.recent);
            }
            outcome
        }
        Err(_) => panic!("seed {seed} panicked; again: {again}"),
    }
}

fn must_hold_all(seeds: impl Iterator<Item = u64>) -> Vec<Outcome> {
    let started = Instant::now();
    let outcomes: Vec<Outcome> = seeds.map(must_hold).collect();
    let real = started.elapsed().as_secs_f64();
    let simulated: Duration = outcomes.iter().map(|outcome| outcome.simulated).sum();
    let sum = |figure: fn(&Outcome) -> u64| outcomes.iter().map(figure).sum::<u64>();
    println!(
        "{} seeds: {:.0} s simulated in {real:.1} s, {:.1} times as fast; {} messages, {} faults, {} acks, {} MB read",
        outcomes.len(),
        simulated.as_secs_f64(),
        simulated.as_secs_f64() / real,
        sum(|outcome| outcome.events),
        sum(|outcome| outcome.faults),
        sum(|outcome| outcome.acks),
        sum(|outcome| outcome.read_bytes) >> 20,
    );
    outcomes
}

#[test]
fn fixed_seeds_hold_every_invariant() {
    let seeds = asked_seeds() * 2 / 3;
    let outcomes = must_hold_all(0..seeds);
    if seeds >= 200 {
        let cut: BTreeSet<FileKind> = outcomes.iter().flat_map(|outcome| outcome.cuts.iter().copied()).collect();
        assert_eq!(cut, BTreeSet::from(FileKind::ALL), "the power fails at changes of every kind of file");
    }
}

#[test]
fn fresh_seeds_hold_every_invariant() {
    let first = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let count = asked_seeds() - asked_seeds() * 2 / 3;
    must_hold_all((0..count).map(|number| first.wrapping_add(number)));
}

/// For looking closer: `LANCE_SIM_SEED=7` shows how that seed ends (all of it with `LANCE_SIM_VERBOSE=1`),
/// `LANCE_SIM_SEED=0..50` what is wrong with each.
#[test]
fn one_seed() {
    let Ok(asked) = std::env::var("LANCE_SIM_SEED") else { return };
    let options = Options { verbose: std::env::var("LANCE_SIM_VERBOSE").is_ok(), ..Options::default() };
    let (first, end) = match asked.split_once("..") {
        Some((first, end)) => (first.parse().unwrap(), end.parse().unwrap()),
        None => (asked.parse().unwrap(), asked.parse::<u64>().unwrap() + 1),
    };
    let mut wrong = 0;
    for seed in first..end {
        let outcome = run(seed, &options);
        if end == first + 1 {
            println!("{}", outcome.recent);
        }
        if let Some(violation) = outcome.violation {
            wrong += 1;
            println!("seed {seed}: {violation}\n    {}", outcome.setup);
        }
    }
    assert_eq!(wrong, 0);
}

#[test]
fn the_same_seed_runs_the_same_twice() {
    let mut hashes = BTreeSet::new();
    for seed in 1000..1020 {
        let (first, second) = (must_hold(seed), must_hold(seed));
        assert_eq!((first.trace_hash, first.events, first.acks), (second.trace_hash, second.events, second.acks));
        hashes.insert(first.trace_hash);
    }
    assert_eq!(hashes.len(), 20, "other seeds run otherwise");
}

/// How many of some seeds see that something is broken, and what they say.
fn seen(sabotage: Sabotage, faults: &[Trouble], words: &[&str]) {
    let options = Options { sabotage, faults: Some(faults.to_vec()), verbose: false };
    let violations: Vec<String> = (0..12).filter_map(|seed| run(seed, &options).violation).collect();
    let about = |violation: &&String| words.iter().any(|word| violation.contains(word));
    assert!(violations.iter().find(about).is_some(), "{sabotage:?} was not seen: {violations:#?}");
    let honest = Options { sabotage: Sabotage::None, ..options };
    for seed in 0..12 {
        assert_eq!(run(seed, &honest).violation, None, "seed {seed} without sabotage, {faults:?}");
    }
}

#[test]
fn an_ack_before_the_sync_is_seen() {
    seen(Sabotage::AckBeforeSync, &[Trouble::CutAfter], &["not durable"]);
}

#[test]
fn an_overlooked_failed_sync_is_seen() {
    seen(Sabotage::IgnoreFailedSync, &[Trouble::SyncError], &["not durable"]);
}

#[test]
fn a_forgotten_idempotence_table_is_seen() {
    seen(Sabotage::ForgetProducers, &[Trouble::Kill, Trouble::CutAfter], &["stored again"]);
}

#[test]
fn unsynced_metadata_is_seen() {
    // A node whose Raft log has lost what was synced once says so and serves nothing.
    seen(Sabotage::UnsyncedMetadata, &[Trouble::CutAfter], &["topic", "producer id", "unfinished"]);
}

#[test]
fn a_recovery_that_cuts_what_was_acked_is_seen() {
    seen(Sabotage::CutAckedTail, &[Trouble::Kill], &["watermark", "not in the log", "not durable", "another one"]);
}
