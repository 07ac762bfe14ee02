//! Random schedules, and what must hold at the end of each.

use super::source::plain_of;
use super::world::{Faults, World};
use lance_actors::tee::core::TeeNote;
use lance_actors::tee::core::flow::SourceBatch;

/// Fifty times as many with `LANCE_LONG_TESTS=1`.
const SEEDS: u64 = 400;
const STEPS: usize = 1500;

/// Runs one schedule from each seed; a failure names its seed.
fn for_seeds(faults: Faults, from_ns: u64, check: impl Fn(&World)) {
    let first = std::env::var("LANCE_SEED").ok().map(|seed| seed.parse().expect("LANCE_SEED is a number"));
    let is_long = std::env::var("LANCE_LONG_TESTS").is_ok_and(|value| value == "1");
    let all = if is_long { 50 * SEEDS } else { SEEDS };
    let seeds = first.map_or(0..all, |seed: u64| seed..seed + 1);
    for seed in seeds {
        println!("LANCE_SEED={seed}");
        let mut world = World::new(seed, faults, from_ns);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        check(&world);
    }
}

fn numbers(world: &World) -> Vec<usize> {
    let of_batch = |plain: &Vec<u8>| {
        let text = String::from_utf8(plain.clone()).unwrap();
        text.split(';').next().unwrap().parse().unwrap()
    };
    world.forwarded().iter().map(of_batch).collect()
}

const CRASHES: Faults =
    Faults { crashes: true, leaders: true, refusals: true, recreation: false, target_loss: false, retention: false };

#[test]
fn everything_is_there_once_and_in_order_whatever_crashes_and_whatever_is_lost_on_the_way() {
    let mut duplicates = std::cell::Cell::new(0);
    for_seeds(CRASHES, 0, |world| {
        assert_eq!(world.forwarded(), world.source.plain());
        duplicates.set(duplicates.get() + world.target.duplicates);
    });
    assert!(std::env::var("LANCE_SEED").is_ok() || *duplicates.get_mut() > SEEDS, "batches were sent again at times");
}

#[test]
fn batches_arrive_as_they_were_stored() {
    for_seeds(Faults::default(), 0, |world| {
        let sent: Vec<_> = world.source.log.iter().filter(|stored| !stored.control).map(|it| &it.batch).collect();
        let kept = &world.target.partitions[0].log;
        assert_eq!(kept.len(), sent.len());
        for (kept, sent) in kept.iter().zip(sent) {
            assert_eq!(kept.plain, plain_of(sent));
            assert_eq!((kept.record_count, kept.timestamp_ns), (sent.record_count, sent.timestamp_ns));
        }
        assert_eq!(world.target.duplicates, 0);
    });
}

#[test]
fn a_target_topic_that_was_made_anew_gets_what_comes_after_the_last_checkpoint() {
    for_seeds(Faults { recreation: true, ..CRASHES }, 0, |world| {
        let (there, all) = (world.forwarded(), world.source.plain());
        assert!(all.ends_with(&there), "no gap, nothing twice: {:?}", numbers(world));
    });
}

#[test]
fn what_a_target_loses_after_its_ack_is_sent_again_since_the_last_checkpoint_and_nothing_twice() {
    for_seeds(Faults { target_loss: true, ..CRASHES }, 0, |world| {
        let numbers = numbers(world);
        assert!(numbers.is_sorted_by(|a, b| a < b), "in order, nothing twice: {numbers:?}");
    });
}

#[test]
fn what_retention_removes_is_counted_and_everything_else_is_there() {
    for_seeds(Faults { retention: true, ..Faults::default() }, 0, |world| {
        let numbers = numbers(world);
        assert!(numbers.is_sorted_by(|a, b| a < b), "in order, nothing twice: {numbers:?}");
        // What was removed before the rule looked for its beginning is not its loss.
        let began = world.nodes[world.leader].notes.iter().find_map(|note| match note {
            TeeNote::Began { position } => Some(*position),
            _ => None,
        });
        let expected = |at: &usize, batch: &SourceBatch| Some(batch.start.position) >= began && !numbers.contains(at);
        let stored = world.source.log.iter().enumerate().filter(|(_, stored)| !stored.control);
        let missing = stored.filter(|(at, stored)| expected(at, &stored.batch));
        let missing_records: u64 = missing.map(|(_, stored)| u64::from(stored.batch.record_count)).sum();
        let status = world.nodes[world.leader].core.status(1);
        assert_eq!(status[0].counts.lost_records, missing_records);
    });
}

#[test]
fn from_latest_begins_with_the_first_batch_stored_after_the_rule() {
    for_seeds(CRASHES, 1_000 + 40, |world| {
        let all: Vec<Vec<u8>> =
            world.source.log[40..].iter().filter(|it| !it.control).map(|it| plain_of(&it.batch)).collect();
        assert_eq!(world.forwarded(), all);
    });
}

#[test]
fn retention_and_crashes_together_put_nothing_out_of_order() {
    for_seeds(Faults { retention: true, leaders: false, ..CRASHES }, 0, |world| {
        let numbers = numbers(world);
        // Twice at most what was sent after the last checkpoint, should the place of that be gone: never out of order
        // within what one producer wrote.
        let turns = numbers.windows(2).filter(|pair| pair[0] >= pair[1]).count();
        let restarts = world.nodes.iter().flat_map(|node| &node.notes);
        let losses = restarts.filter(|note| matches!(note, TeeNote::Lost { .. })).count();
        assert!(turns <= losses, "{turns} returns, {losses} losses: {numbers:?}");
    });
}
