//! Power cuts at every step of a run, and random runs with crashes: the log comes back with every durable batch.

use crate::rig::{Dice, Rig, records};
use lance_storage::disk::memory::{CrashPolicy, MemoryConfig, MemoryDisk};
use lance_storage::segment::MIN_SEGMENT_BYTES;

/// Appends, flushes and rolls in an order decided by `seed`, until the power fails or the script ends.
fn script(rig: &mut Rig, seed: u64, turns: u64) {
    let mut dice = Dice(seed);
    for turn in 0..turns {
        let bytes = match dice.below(8) {
            0 => records(1, 1 + dice.below(300) as usize, turn as u8),
            1..=3 => records(1 + dice.below(20) as usize, 1 + dice.below(2_000) as usize, turn as u8),
            4 | 5 => records(3, 60_000, turn as u8),
            _ => records(1, 300_000 + dice.below(500_000) as usize, turn as u8),
        };
        if dice.below(10) == 0 {
            let epoch = rig.log.last_epoch().0 + 1;
            rig.append_control(epoch);
        }
        let appended = if dice.below(3) == 0 {
            let sequence = rig.sequence;
            rig.sequence += 1;
            rig.append_as(&bytes, sequence)
        } else {
            let batch = rig.batch(&bytes, rig.log.last_epoch().0.max(1));
            rig.try_append(&batch)
        };
        if appended.is_err() {
            return;
        }
        for _ in 0..dice.below(4) {
            match rig.step(dice.below(8) != 0) {
                Some(Err(_)) => return,
                Some(Ok(completed)) if dice.below(3) == 0 => rig.flushed = Some(completed.durable_end),
                _ => {}
            }
        }
    }
}

/// After a crash: everything durable is there, appending goes on, and another start finds that too.
fn recover_and_go_on(rig: &mut Rig, label: &str) {
    let report = rig.reopen().unwrap_or_else(|error| panic!("{label}: {error}"));
    assert_eq!(report.offline, None, "{label}");
    rig.check();
    rig.sequence = rig.log.producers().last_sequence(lance_messages::id::ProducerId(5)).map_or(0, |p| p.sequence + 1);
    rig.append(&records(2, 100, 0xAA));
    let sequence = rig.sequence;
    rig.append_as(&records(1, 9, 0xBB), sequence).unwrap();
    rig.append(&records(1, 700_000, 0xCC));
    rig.append(&records(1, 600_000, 0xDD));
    rig.settle();
    rig.check();
    rig.flushed = Some(rig.durable);
    rig.reopen().unwrap();
    rig.check();
    assert_eq!(rig.log.durable_end(), rig.durable, "{label}");
}

#[test]
fn a_power_cut_at_every_change_of_the_disk_loses_nothing_durable() {
    for seed in 0..2u64 {
        let mut calm = Rig::new();
        let before = calm.memory.mutations();
        script(&mut calm, seed, 24);
        let changes = calm.memory.mutations() - before;
        assert!(calm.log.segments().len() > 2, "the script rolls");
        for cut in 0..=changes {
            let policies =
                [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll, CrashPolicy::Random { seed: seed * 1000 + cut }];
            for policy in policies {
                let mut rig = Rig::new();
                rig.memory.power_off_at(rig.memory.mutations() + cut);
                script(&mut rig, seed, 24);
                rig.memory.crash(policy);
                recover_and_go_on(&mut rig, &format!("seed {seed} cut {cut} {policy:?}"));
            }
        }
    }
}

#[test]
fn a_power_cut_during_recovery_loses_nothing_either() {
    for cut in 0..12 {
        let mut rig = Rig::new();
        script(&mut rig, 5, 20);
        rig.memory.crash(CrashPolicy::Random { seed: cut });
        rig.memory.power_off_at(rig.memory.mutations() + cut);
        let _ = rig.reopen();
        rig.memory.crash(CrashPolicy::Random { seed: cut + 100 });
        recover_and_go_on(&mut rig, &format!("cut {cut}"));
    }
}

#[test]
fn random_runs_with_crashes_agree_with_the_model() {
    for seed in 0..200u64 {
        let mut dice = Dice(seed ^ 0xFACE);
        let zero_ahead = [0, 256 * 1024, 1 << 20][dice.below(3) as usize];
        let config = MemoryConfig { reorder: true, ..MemoryConfig::seeded(seed) };
        let mut rig = Rig::on(MemoryDisk::new(config), MIN_SEGMENT_BYTES, zero_ahead);
        for round in 0..3 {
            let cut = rig.memory.mutations() + dice.below(60);
            if dice.below(3) > 0 {
                rig.memory.power_off_at(cut);
            }
            script(&mut rig, dice.below(u64::MAX), 12);
            rig.memory.crash(CrashPolicy::Random { seed: dice.below(u64::MAX) });
            recover_and_go_on(&mut rig, &format!("seed {seed} round {round}"));
        }
    }
}

#[test]
fn a_process_that_dies_without_a_power_cut_loses_nothing_written() {
    for seed in 0..20 {
        let mut rig = Rig::new();
        script(&mut rig, seed, 20);
        let written = rig.log.written_end();
        rig.reopen().unwrap();
        rig.check();
        assert!(rig.log.log_end() >= written);
    }
}

#[test]
fn an_end_that_recovery_has_reported_survives_a_power_cut() {
    for seed in 0..20 {
        let mut rig = Rig::new();
        script(&mut rig, seed, 15);
        rig.append(&records(1, 3_000, 9));
        while let Some(done) = rig.step(false) {
            done.unwrap();
        }
        let report = rig.reopen().unwrap();
        rig.durable = report.log_end;
        rig.memory.crash(CrashPolicy::DropUnsynced);
        rig.reopen().unwrap();
        rig.check();
        assert_eq!(rig.log.log_end(), report.log_end, "seed {seed}");
    }
}

#[test]
fn a_lost_flushed_mark_only_costs_time() {
    let mut rig = Rig::new();
    script(&mut rig, 1, 30);
    rig.settle();
    rig.flushed = Some(rig.durable);
    let known = rig.reopen().unwrap();
    rig.flushed = None;
    let unknown = rig.reopen().unwrap();
    assert_eq!(known.log_end, unknown.log_end);
    rig.check();
}

#[test]
fn without_the_saved_state_everything_is_found_from_the_headers() {
    let mut rig = Rig::new();
    script(&mut rig, 2, 40);
    rig.settle();
    let state = crate::rig::dir().join("producers");
    assert!(rig.memory.read_file(&state).is_some(), "rolling saves the state");
    rig.flushed = Some(rig.durable);
    let with = rig.reopen().unwrap();
    rig.disk.remove_file(&state).unwrap();
    let without = rig.reopen().unwrap();
    rig.check();
    assert!(with.replayed_batches < without.replayed_batches);
}
