//! The simulator with several nodes: seeds, the same seed twice, and nodes that are broken on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

use lance_integration::sim::cluster::faults::ClusterTrouble;
use lance_integration::sim::cluster::{ClusterOptions, ClusterOutcome, run};
use lance_integration::sim::sabotage::Sabotage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Seeds of the default run; `LANCE_SIM_SEEDS` asks for another number.
const SEEDS: u64 = 300;

fn asked_seeds() -> u64 {
    std::env::var("LANCE_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

/// Runs a seed; a failure says how to see it again.
fn must_hold(seed: u64, options: &ClusterOptions) -> ClusterOutcome {
    let again = format!(
        "LANCE_SIM_SEED={seed} LANCE_SIM_NODES={} cargo test -p lance-integration --test simulated_cluster one_seed -- --nocapture",
        options.nodes
    );
    match catch_unwind(AssertUnwindSafe(|| run(seed, options))) {
        Ok(outcome) => {
            if let Some(violation) = &outcome.violation {
                panic!("seed {seed}: {violation}\n{}\n{}\nagain: {again}", outcome.setup, outcome.recent);
            }
            outcome
        }
        Err(_) => panic!("seed {seed} panicked; again: {again}"),
    }
}

fn must_hold_all(seeds: impl Iterator<Item = u64>, options: &ClusterOptions) -> Vec<ClusterOutcome> {
    let started = Instant::now();
    let outcomes: Vec<ClusterOutcome> = seeds.map(|seed| must_hold(seed, options)).collect();
    let sum = |figure: fn(&ClusterOutcome) -> u64| outcomes.iter().map(figure).sum::<u64>();
    println!(
        "{} seeds, {} nodes: {} s simulated in {:.1} s ({:.0} times as fast); {} messages, at least {} a seed; {} faults, \
         {} elections, {} cuts, {} admissions, {} evictions, {} returns, {} exchanges, {} acks, {} MB read",
        outcomes.len(),
        options.nodes,
        sum(|outcome| outcome.simulated.as_secs()),
        started.elapsed().as_secs_f64(),
        sum(|outcome| outcome.simulated.as_secs()) as f64 / started.elapsed().as_secs_f64(),
        sum(|outcome| outcome.events),
        outcomes.iter().map(|outcome| outcome.events).min().unwrap_or_default(),
        sum(|outcome| outcome.faults),
        sum(|outcome| outcome.elections),
        sum(|outcome| outcome.cuts),
        sum(|outcome| outcome.admissions),
        sum(|outcome| outcome.evictions),
        sum(|outcome| outcome.returns),
        sum(|outcome| outcome.exchanges),
        sum(|outcome| outcome.acks),
        sum(|outcome| outcome.read_bytes) >> 20,
    );
    outcomes
}

#[test]
fn three_nodes_replicate_without_faults() {
    let options = ClusterOptions { faults: Some(Vec::new()), ..ClusterOptions::default() };
    let outcomes = must_hold_all(0..4, &options);
    assert!(outcomes.iter().all(|outcome| outcome.acks > 20));
}

/// A metadata core built anew begins with a state of the past, in which topics are missing.
#[test]
fn actors_that_fail_take_no_log_with_them() {
    let options = ClusterOptions { faults: Some(vec![ClusterTrouble::ActorFailure]), ..ClusterOptions::default() };
    must_hold_all(0..3, &options);
}

fn copies_come_and_go() -> ClusterOptions {
    use ClusterTrouble::{Isolate, Kill, PowerCut, Recopy, Wipe};
    let faults = Some(vec![Recopy, Recopy, Recopy, Wipe, Kill, PowerCut, Isolate]);
    ClusterOptions { faults, ..ClusterOptions::default() }
}

#[test]
fn a_wiped_node_refills_and_copies_come_and_go_while_nodes_die() {
    let outcomes = must_hold_all(0..asked_seeds() / 10, &copies_come_and_go());
    let sum = |figure: fn(&ClusterOutcome) -> u64| outcomes.iter().map(figure).sum::<u64>();
    assert!(sum(|outcome| outcome.exchanges) > 0 && sum(|outcome| outcome.admissions) > 0);
}

#[test]
fn three_nodes_keep_what_they_acked() {
    let outcomes = must_hold_all(0..asked_seeds(), &ClusterOptions::default());
    let cuts: u64 = outcomes.iter().map(|outcome| outcome.cuts).sum();
    assert!(asked_seeds() < SEEDS || cuts > 0, "some logs part and are cut");
    let sum = |figure: fn(&ClusterOutcome) -> u64| outcomes.iter().map(figure).sum::<u64>();
    let moved = sum(|outcome| outcome.evictions) > 0 && sum(|outcome| outcome.returns) > 0;
    assert!(asked_seeds() < SEEDS || moved, "some replicas are evicted and come back");
}

#[test]
fn five_nodes_keep_what_they_acked() {
    must_hold_all(0..asked_seeds() / 10, &ClusterOptions { nodes: 5, ..ClusterOptions::default() });
}

/// For looking closer: `LANCE_SIM_SEED=7` shows how that seed ends (all of it with `LANCE_SIM_VERBOSE=1`),
/// `LANCE_SIM_SEED=0..50` what is wrong with each; `LANCE_SIM_NODES=5` with that many nodes, and
/// `LANCE_SIM_COPIES=1` with replica sets that change.
#[test]
fn one_seed() {
    let Ok(asked) = std::env::var("LANCE_SIM_SEED") else { return };
    let nodes = std::env::var("LANCE_SIM_NODES").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let verbose = std::env::var("LANCE_SIM_VERBOSE").is_ok();
    let mix = if std::env::var("LANCE_SIM_COPIES").is_ok() { copies_come_and_go() } else { ClusterOptions::default() };
    let options = ClusterOptions { nodes, verbose, ..mix };
    let (first, end) = match asked.split_once("..") {
        Some((first, end)) => (first.parse().unwrap(), end.parse().unwrap()),
        None => (asked.parse().unwrap(), asked.parse::<u64>().unwrap() + 1),
    };
    let mut wrong = 0;
    for seed in first..end {
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| run(seed, &options))) else {
            wrong += 1;
            println!("seed {seed} panicked");
            continue;
        };
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
    let options = ClusterOptions::default();
    for seed in 1000..1003 {
        let (first, second) = (must_hold(seed, &options), must_hold(seed, &options));
        assert_eq!((first.trace_hash, first.events, first.acks), (second.trace_hash, second.events, second.acks));
    }
}

/// How many of some seeds see that something is broken, and what they say.
fn seen(sabotage: Sabotage, faults: &[ClusterTrouble], words: &[&str]) {
    let options = ClusterOptions { sabotage, faults: Some(faults.to_vec()), ..ClusterOptions::default() };
    let mut violations = Vec::new();
    for seed in 0..20 {
        violations.extend(run(seed, &options).violation);
        if violations.iter().any(|violation| words.iter().any(|word| violation.contains(word))) {
            return;
        }
    }
    panic!("{sabotage:?} was not seen: {violations:#?}");
}

#[test]
fn a_leader_that_commits_alone_is_seen() {
    seen(Sabotage::CommitAlone, &[ClusterTrouble::Kill], &["not durable on a quorum"]);
}

#[test]
fn a_follower_that_acks_before_its_sync_is_seen() {
    seen(Sabotage::AckBeforeSync, &[ClusterTrouble::PowerCut], &["not durable"]);
}
