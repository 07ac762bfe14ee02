//! The simulator with several nodes: seeds, the same seed twice, and nodes that are broken on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

use lance_integration::sim::cluster::faults::ClusterTrouble;
use lance_integration::sim::cluster::{ClusterOptions, ClusterOutcome, run};
use lance_integration::sim::sabotage::Sabotage;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seeds of the default run; `LANCE_SIM_SEEDS` asks for another number.
const SEEDS: u64 = 300;
/// What happens in each run at least.
const LEAST_MESSAGES: u64 = 10_000;

/// The first of them: 0, or what `LANCE_SIM_FIRST_SEED` says, for seeds that nobody has seen yet.
fn first_seed() -> u64 {
    std::env::var("LANCE_SIM_FIRST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn asked_seeds() -> u64 {
    std::env::var("LANCE_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

/// The command that runs a seed again.
fn how_to_run(seed: u64, options: &ClusterOptions) -> String {
    let faults = options.faults.as_ref().map(|kinds| {
        let names: Vec<String> = kinds.iter().map(|kind| format!("{kind:?}")).collect();
        format!("LANCE_SIM_FAULTS='{}' ", names.join(","))
    });
    format!(
        "LANCE_SIM_SEED={seed} LANCE_SIM_NODES={} {}cargo test -p lance-integration --test simulated_cluster one_seed \
         -- --nocapture",
        options.nodes,
        faults.unwrap_or_default(),
    )
}

/// The one of this name; fails with all there are when there is none.
fn named<T: std::fmt::Debug>(name: &str, all: impl IntoIterator<Item = T>) -> T {
    let mut others = Vec::new();
    for one in all {
        if format!("{one:?}") == name {
            return one;
        }
        others.push(one);
    }
    panic!("there is no {name:?}: there are {others:?}");
}

/// Faults by name; none of an empty text.
fn faults_named(names: &str) -> Vec<ClusterTrouble> {
    let names = names.split(',').filter(|name| !name.is_empty());
    names.map(|name| named(name, ClusterTrouble::all())).collect()
}

/// Runs a seed; a failure says how to see it again.
fn must_hold(seed: u64, options: &ClusterOptions) -> ClusterOutcome {
    let again = how_to_run(seed, options);
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

/// Runs all of them, as many at a time as there are cores.
fn must_hold_all(seeds: Range<u64>, options: &ClusterOptions) -> Vec<ClusterOutcome> {
    let started = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut outcomes = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return outcomes;
            }
            outcomes.push(must_hold(seed, options));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<ClusterOutcome> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.collect::<Vec<_>>().concat()
    });
    let sum = |figure: fn(&ClusterOutcome) -> u64| outcomes.iter().map(figure).sum::<u64>();
    let (simulated, real) = (sum(|outcome| outcome.simulated.as_secs()), started.elapsed().as_secs_f64());
    let least = outcomes.iter().map(|outcome| outcome.events).min().unwrap_or_default();
    println!(
        "{} seeds from {}, {} nodes: {simulated} s simulated in {real:.1} s ({:.0} times as fast); {} messages, at least \
         {least} a seed; {} entries judged, {} faults, {} elections, {} cuts, {} admissions, {} removals, {} flips, {} repairs, \
         {} vanished, {} evictions, {} returns, {} exchanges, {} acks, {} MB read",
        outcomes.len(),
        seeds.start,
        options.nodes,
        simulated as f64 / real,
        sum(|outcome| outcome.events),
        sum(|outcome| outcome.entries),
        sum(|outcome| outcome.faults),
        sum(|outcome| outcome.elections),
        sum(|outcome| outcome.cuts),
        sum(|outcome| outcome.admissions),
        sum(|outcome| outcome.removals),
        sum(|outcome| outcome.flips),
        sum(|outcome| outcome.repairs),
        sum(|outcome| outcome.vanished),
        sum(|outcome| outcome.evictions),
        sum(|outcome| outcome.returns),
        sum(|outcome| outcome.exchanges),
        sum(|outcome| outcome.acks),
        sum(|outcome| outcome.read_bytes) >> 20,
    );
    assert!(outcomes.is_empty() || least >= LEAST_MESSAGES, "{least} messages of a seed are few");
    outcomes
}

/// So many seeds from the first one that was asked for.
fn seeds(count: u64) -> Range<u64> {
    let first = first_seed();
    first..first + count
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
    let outcomes = must_hold_all(seeds(asked_seeds() / 10), &copies_come_and_go());
    let sum = |figure: fn(&ClusterOutcome) -> u64| outcomes.iter().map(figure).sum::<u64>();
    let changed = sum(|outcome| outcome.exchanges) > 0 && sum(|outcome| outcome.admissions) > 0;
    assert!(asked_seeds() < SEEDS || changed, "some replica sets change, some replicas count again");
}

/// In these an eviction came between the proposal of a replica set and its commit, and left it without a quorum.
#[test]
fn a_replica_set_that_can_become_none_is_planned_anew() {
    must_hold_all(300..310, &copies_come_and_go());
    must_hold_all(364..366, &copies_come_and_go());
}

/// In this one a leader's disk fails before its epoch has begun, and a reader asks it all the same.
#[test]
fn a_leader_that_never_began_serves_nobody() {
    must_hold_all(95..96, &ClusterOptions::default());
}

fn bits_rot() -> ClusterOptions {
    use ClusterTrouble::{BitRot, Isolate, Kill, PowerCut};
    let faults = Some(vec![BitRot, BitRot, BitRot, BitRot, BitRot, Kill, PowerCut, Isolate]);
    ClusterOptions { faults, ..ClusterOptions::default() }
}

#[test]
fn rotten_replicas_are_found_and_refilled_while_nodes_die() {
    let outcomes = must_hold_all(seeds(asked_seeds() / 3), &bits_rot());
    let sum = |figure: fn(&ClusterOutcome) -> u64| outcomes.iter().map(figure).sum::<u64>();
    let repaired = sum(|outcome| outcome.flips) > 0 && sum(|outcome| outcome.repairs) > 0;
    assert!(asked_seeds() < SEEDS || repaired, "some bits flip, and replicas with flipped bits count again");
}

#[test]
fn three_nodes_keep_what_they_acked() {
    let outcomes = must_hold_all(seeds(asked_seeds()), &ClusterOptions::default());
    let cuts: u64 = outcomes.iter().map(|outcome| outcome.cuts).sum();
    assert!(asked_seeds() < SEEDS || cuts > 0, "some logs part and are cut");
    let sum = |figure: fn(&ClusterOutcome) -> u64| outcomes.iter().map(figure).sum::<u64>();
    assert!(asked_seeds() < SEEDS || sum(|outcome| outcome.removals) > 0, "some old segments are removed");
    let moved = sum(|outcome| outcome.evictions) > 0 && sum(|outcome| outcome.returns) > 0;
    assert!(asked_seeds() < SEEDS || moved, "some replicas are evicted and come back");
}

#[test]
fn five_nodes_keep_what_they_acked() {
    must_hold_all(seeds(asked_seeds() / 10), &ClusterOptions { nodes: 5, ..ClusterOptions::default() });
}

/// For looking closer: `LANCE_SIM_SEED=7` shows how that seed ends (all of it with `LANCE_SIM_VERBOSE=1`),
/// `LANCE_SIM_SEED=0..50` what is wrong with each; `LANCE_SIM_NODES=5` with that many nodes, and
/// `LANCE_SIM_COPIES=1` with replica sets that change, `LANCE_SIM_ROT=1` with bits that flip; `LANCE_SIM_FAULTS=Kill,Wipe` with
/// these faults only, and `LANCE_SIM_BROKEN=AckBeforeSync` with nodes that are broken on purpose.
#[test]
fn one_seed() {
    let Ok(asked) = std::env::var("LANCE_SIM_SEED") else { return };
    let nodes = std::env::var("LANCE_SIM_NODES").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let verbose = std::env::var("LANCE_SIM_VERBOSE").is_ok();
    let asked_mix = |name| std::env::var(name).is_ok();
    let mix = match () {
        () if asked_mix("LANCE_SIM_COPIES") => copies_come_and_go(),
        () if asked_mix("LANCE_SIM_ROT") => bits_rot(),
        () => ClusterOptions::default(),
    };
    let broken = std::env::var("LANCE_SIM_BROKEN").ok();
    let sabotage = broken.map_or(Sabotage::None, |broken| named(&broken, Sabotage::AMONG_NODES));
    let faults = std::env::var("LANCE_SIM_FAULTS").ok().map(|names| faults_named(&names)).or(mix.faults);
    let options = ClusterOptions { nodes, verbose, sabotage, faults };
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
            println!("seed {seed}, {}: {violation}\n    {}", checker_of(&violation), outcome.setup);
        }
    }
    assert_eq!(wrong, 0);
}

#[test]
fn a_failed_seed_is_run_again_with_the_same_faults() {
    let command = |faults| how_to_run(7, &ClusterOptions { faults, ..ClusterOptions::default() });
    assert!(!command(None).contains("LANCE_SIM_FAULTS"), "the seed picks them");
    assert!(command(Some(Vec::new())).contains(" LANCE_SIM_FAULTS='' "));
    assert_eq!(faults_named(""), []);
    let twice = [Wipe, Wipe].into_iter().chain(ClusterTrouble::all()).collect::<Vec<_>>();
    let command = command(Some(twice.clone()));
    assert_eq!(faults_named(command.split('\'').nth(1).unwrap()), twice);
}

#[test]
#[should_panic(expected = "there is no \"Wipes\": there are [PowerCut, ")]
fn a_fault_that_does_not_exist_is_no_fault_that_never_strikes() {
    faults_named("Kill,Wipes");
}

#[test]
fn the_same_seed_runs_the_same_twice() {
    let options = ClusterOptions::default();
    for seed in 1000..1003 {
        let (first, second) = (must_hold(seed, &options), must_hold(seed, &options));
        assert_eq!((first.trace_hash, first.events, first.acks), (second.trace_hash, second.events, second.acks));
    }
}

/// What sees that something is wrong, by what it says.
const CHECKERS: [(&str, &str); 20] = [
    ("is rotten", "losses"),
    ("acked what is not durable", "durable"),
    ("not durable on a quorum", "quorum"),
    ("holds other bytes below", "log matching"),
    ("is led by", "one leader"),
    ("served high watermark", "watermark"),
    ("what is committed, which it holds", "committed: cut"),
    ("of what is committed up to", "committed: leader"),
    ("counts again with", "committed: admission"),
    ("hold it from now on", "committed: exchange"),
    ("in the quorum, which takes", "decided: in-quorum set"),
    ("in the quorum, version", "decided: version"),
    ("removes what lies below", "removals"),
    ("nothing was cut", "alarm of the node"),
    ("was another one before", "reads"),
    ("was acked at", "reads"),
    ("not in the log", "order"),
    ("comes after", "order"),
    ("stored again", "order"),
    ("still unfinished", "liveness"),
];

fn checker_of(violation: &str) -> &'static str {
    CHECKERS.iter().find(|(says, _)| violation.contains(says)).map_or("unknown", |(_, checker)| checker)
}

/// Runs seeds until one of these checkers sees that something is broken; nothing of them is wrong where nothing is broken.
fn seen(sabotage: Sabotage, faults: &[ClusterTrouble], checkers: &[&str], most: u64) {
    let honest = ClusterOptions { faults: Some(faults.to_vec()), ..ClusterOptions::default() };
    let broken = ClusterOptions { sabotage, ..honest.clone() };
    let mut others = Vec::new();
    for seed in 0..most {
        let Some(violation) = run(seed, &broken).violation else { continue };
        if checkers.contains(&checker_of(&violation)) {
            println!("{sabotage:?}: seed {seed}, {}: {violation}", checker_of(&violation));
            must_hold_all(0..seed + 1, &honest);
            return;
        }
        others.push(violation);
    }
    panic!("{sabotage:?} was not seen in {most} seeds: {others:#?}");
}

use ClusterTrouble::{Isolate, Kill, Pause, PowerCut, Recopy, Wipe};

#[test]
fn a_leader_that_commits_alone_is_seen() {
    seen(Sabotage::CommitAlone, &[Kill], &["quorum"], 20);
}

#[test]
fn a_follower_that_acks_before_its_sync_is_seen() {
    seen(Sabotage::AckBeforeSync, &[PowerCut], &["durable", "quorum"], 20);
}

#[test]
fn a_cut_below_what_is_committed_is_seen() {
    seen(Sabotage::CutBelowHighWatermark, &[Kill, PowerCut, Isolate], &["committed: cut"], 100);
}

#[test]
fn an_epoch_without_a_start_is_seen() {
    seen(
        Sabotage::NoEpochStart,
        &[Kill, PowerCut, Isolate, Pause],
        &["alarm of the node", "committed: cut", "committed: leader"],
        200,
    );
}

#[test]
fn an_eviction_below_the_quorum_is_seen() {
    // The first follower that is left out was decided by nobody; the next one is too many.
    seen(Sabotage::EvictBelowQuorum, &[Pause], &["decided: in-quorum set", "decided: version"], 50);
}

#[test]
fn a_refilled_replica_is_seen_to_count_too_early() {
    seen(Sabotage::AdmitAtHighWatermark, &[Wipe, Wipe, Kill, PowerCut], &["committed: admission"], 100);
}

#[test]
fn a_rotten_replica_is_seen_to_count_too_early() {
    let faults = [ClusterTrouble::BitRot, ClusterTrouble::BitRot, ClusterTrouble::BitRot, Kill, PowerCut];
    seen(Sabotage::AdmitAtHighWatermark, &faults, &["committed: admission"], 50);
}

#[test]
fn a_replica_set_changed_in_one_step_is_seen() {
    seen(Sabotage::ReplaceInOneStep, &[Recopy, Recopy, Pause, Isolate], &["committed: exchange"], 100);
}

#[test]
fn a_damaged_replica_that_is_cut_in_the_life_it_was_in_is_seen() {
    let faults = [ClusterTrouble::BitRot, ClusterTrouble::Kill, ClusterTrouble::Isolate];
    seen(Sabotage::KeepDamagedLife, &faults, &["losses", "quorum"], 50);
}
