//! Leadership that goes to and fro between two copies of a log, with power cuts: the follower is cut to what both hold,
//! takes the rest, and is the leader's log again.

use crate::rig::{Dice, Rig, records};
use lance_storage::disk::memory::{CrashPolicy, MemoryConfig, MemoryDisk};
use lance_storage::reader::Reader;
use lance_storage::segment::MIN_SEGMENT_BYTES;

/// Segments of another length on each copy: where they end is decided by who leads.
fn copies(seed: u64) -> [Rig; 2] {
    let rig = |number: u64| {
        let memory = MemoryDisk::new(MemoryConfig { reorder: true, ..MemoryConfig::seeded(seed * 2 + number) });
        Rig::on(memory, MIN_SEGMENT_BYTES * (1 + number), [0, 256 * 1024][((seed + number) % 2) as usize])
    };
    [rig(0), rig(1)]
}

fn lead(leader: &mut Rig, dice: &mut Dice, epoch: u32) {
    leader.append_control(epoch);
    for turn in 0..dice.below(12) {
        let bytes = records(1 + dice.below(3) as usize, [15, 5_000, 300_000][dice.below(3) as usize], turn as u8);
        if dice.below(3) == 0 {
            let sequence = leader.sequence;
            leader.sequence += 1;
            leader.append_as(&bytes, sequence).unwrap();
        } else {
            leader.append(&bytes);
        }
        for _ in 0..dice.below(3) {
            let _ = leader.step(dice.below(4) > 0);
        }
    }
}

/// Where the two logs part: behind the last batch that both hold.
fn common_end(leader: &Rig, follower: &Rig) -> u64 {
    let same = leader.known.iter().zip(&follower.known).take_while(|(ours, theirs)| ours == theirs);
    same.last().map_or(0, |(known, _)| known.end_position())
}

/// Cuts the follower, which has written by then at least what stays.
fn cut(follower: &mut Rig, to_position: u64) {
    while follower.log.written_end() < to_position {
        follower.step(false).unwrap().unwrap();
    }
    follower.truncate(to_position).unwrap();
}

fn follow(leader: &Rig, follower: &mut Rig, dice: &mut Dice, rounds: u64) {
    let mut reader = Reader::new(&leader.disk, 2);
    for _ in 0..rounds {
        let max_bytes = 1 + dice.below(600_000) as usize;
        let batches = leader.batches_at(follower.log.log_end(), max_bytes, &mut reader);
        follower.append_batches(&batches);
        for _ in 0..dice.below(3) {
            let _ = follower.step(dice.below(4) > 0);
        }
    }
}

/// Cuts the power; what was damaged in the course of it (batches that others called committed, torn here) is given up.
fn cut_power(rig: &mut Rig, dice: &mut Dice) {
    rig.memory.crash(CrashPolicy::Random { seed: dice.below(u64::MAX) });
    rig.flushed = (dice.below(2) == 0).then_some(rig.durable).filter(|mark| *mark > 0);
    let report = rig.reopen().unwrap();
    if let Some(damage) = report.offline {
        assert!(damage.good_end() >= rig.durable, "{damage}");
        rig.truncate(damage.good_end()).unwrap();
    }
    rig.check();
    rig.learn_sequence();
}

#[test]
fn a_copy_that_went_another_way_becomes_its_leaders_log_again() {
    let mut closed = 0;
    for seed in 0..60u64 {
        let (mut dice, mut copies) = (Dice(seed ^ 0xFEED), copies(seed));
        let mut epoch = 0;
        for _ in 0..8 {
            let [first, second] = &mut copies;
            let (leader, follower) = if dice.below(2) == 0 { (first, second) } else { (second, first) };
            epoch += 1;
            // Both go their own way for a while, as a leader does that nobody hears.
            if dice.below(2) == 0 {
                lead(follower, &mut dice, epoch);
                epoch += 1;
            }
            lead(leader, &mut dice, epoch);
            if dice.below(3) == 0 {
                cut_power(follower, &mut dice);
            }
            let common = common_end(leader, follower);
            if common < follower.log.log_end() {
                cut(follower, common);
            }
            follow(leader, follower, &mut dice, 6);
            if dice.below(3) == 0 {
                cut_power(follower, &mut dice);
                let common = common_end(leader, follower);
                assert_eq!(common, follower.log.log_end(), "what recovery leaves is the leader's");
            }
            let rounds = dice.below(30);
            follow(leader, follower, &mut dice, rounds);
            follower.learn_sequence();
        }
        let [leader, follower] = &mut copies;
        leader.settle();
        let common = common_end(leader, follower);
        cut(follower, common);
        while follower.log.log_end() < leader.log.log_end() {
            follow(leader, follower, &mut dice, 1);
        }
        follower.settle();
        for rig in [&mut *leader, &mut *follower] {
            rig.check();
            rig.reopen().unwrap();
            rig.settle();
            rig.check();
        }
        assert_eq!(leader.log.log_end_place(), follower.log.log_end_place());
        assert_eq!(leader.log.epoch_history(), follower.log.epoch_history());
        assert_eq!(leader.log.producers(), follower.log.producers());
        assert_eq!(leader.log.closed_segments().count(), follower.log.closed_segments().count(), "seed {seed}");
        closed += leader.same_closed_segments(follower);
    }
    assert!(closed > 60, "{closed}");
}
