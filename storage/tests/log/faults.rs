//! Disks that refuse: failed syncs latch, full disks wait.

use crate::rig::{Rig, records};
use lance_storage::disk::Operation;
use lance_storage::disk::memory::{Fault, FaultKind};
use lance_storage::log::{AppendError, DiskFailed};

#[test]
fn a_failed_sync_latches_the_log_and_nothing_more_is_acked() {
    let mut rig = Rig::new();
    rig.append(&records(1, 100, 1));
    rig.settle();
    let durable = rig.log.durable_end();
    rig.append(&records(1, 100, 2));
    rig.memory.inject(Fault::new(Operation::Sync, FaultKind::Errno(libc::EIO)));
    assert!(matches!(rig.step(true), Some(Err(DiskFailed::Latched(_)))));
    assert_eq!(rig.log.durable_end(), durable);
    assert!(rig.log.take_flush(true).is_none());
    let bytes = records(1, 1, 3);
    let batch = rig.batch(&bytes, 1);
    assert!(matches!(rig.try_append(&batch), Err(AppendError::Latched(_))));
    assert_eq!(rig.pool.free_count(), rig.pool.capacity(), "every slot is given back");
    let latch = rig.log.latched().cloned().unwrap();
    assert_eq!(latch.durable_end, durable);
    rig.reopen().unwrap();
    rig.log.latch(latch);
    let batch = rig.batch(&bytes, 1);
    assert!(matches!(rig.try_append(&batch), Err(AppendError::Latched(_))), "a restart of the owner keeps it");
}

#[test]
fn a_failed_write_latches_the_log() {
    let mut rig = Rig::new();
    rig.append(&records(1, 100, 1));
    rig.memory.inject(Fault::new(Operation::Write, FaultKind::Errno(libc::EIO)));
    assert!(matches!(rig.step(true), Some(Err(DiskFailed::Latched(_)))));
    assert_eq!(rig.pool.free_count(), rig.pool.capacity());
}

#[test]
fn a_full_disk_keeps_everything_until_there_is_space() {
    for bytes in [100, 70_000, 300_000] {
        let mut rig = Rig::new();
        rig.append(&records(1, 50, 1));
        rig.settle();
        rig.append(&records(1, bytes, 2));
        rig.memory.inject(Fault::new(Operation::Write, FaultKind::Errno(libc::ENOSPC)).times(2));
        let step = rig.log.take_flush(true).unwrap();
        rig.append(&records(1, bytes, 3));
        let completion = rig.perform(step);
        assert!(matches!(rig.complete(completion), Err(DiskFailed::NoSpace { .. })));
        rig.append(&records(1, 10, 4));
        assert!(matches!(rig.step(true), Some(Err(DiskFailed::NoSpace { .. }))));
        assert!(rig.log.latched().is_none());
        rig.settle();
        rig.check();
        rig.reopen().unwrap();
        rig.check();
        assert_eq!(rig.known.len(), 4);
        assert_eq!(rig.pool.free_count(), rig.pool.capacity());
    }
}

#[test]
fn a_disk_that_fills_up_during_a_roll_loses_nothing() {
    for skip in 0..30 {
        let mut rig = Rig::new();
        rig.memory.inject(Fault::any(FaultKind::Errno(libc::ENOSPC)).after(skip));
        let mut refused = 0;
        for turn in 0..30 {
            rig.append(&records(1, 90_000, turn));
            for _ in 0..3 {
                match rig.step(true) {
                    Some(Err(DiskFailed::NoSpace { .. })) => refused += 1,
                    // A sync that fails is final, whatever the reason.
                    Some(Err(DiskFailed::Latched(_))) => refused += 100,
                    _ => {}
                }
            }
            if refused >= 100 {
                break;
            }
        }
        rig.memory.clear_faults();
        if refused < 100 {
            rig.settle();
            rig.check();
            rig.reopen().unwrap();
        } else {
            rig.memory.crash(lance_storage::disk::memory::CrashPolicy::DropUnsynced);
            rig.reopen().unwrap();
        }
        rig.check();
    }
}

#[test]
fn a_segment_whose_folder_could_not_be_synced_is_made_durable_at_the_next_start() {
    for skip in 0..6 {
        let mut rig = Rig::new();
        rig.memory.inject(Fault::new(Operation::SyncDir, FaultKind::Errno(libc::EIO)).after(skip));
        for turn in 0..40 {
            rig.append(&records(1, 90_000, turn));
            if let Some(Err(_)) = rig.step(true) {
                break;
            }
        }
        rig.memory.clear_faults();
        // All of the log is known to be durable; only the name of its newest, empty segment may not be.
        rig.flushed = Some(rig.log.durable_end());
        rig.known.retain(|known| known.end_position() <= rig.durable);
        rig.reopen().unwrap();
        rig.append(&records(1, 100, 99));
        while rig.log.is_dirty() {
            rig.step(true).unwrap().unwrap();
        }
        rig.memory.crash(lance_storage::disk::memory::CrashPolicy::DropUnsynced);
        rig.flushed = None;
        rig.reopen().unwrap();
        assert_eq!(rig.log.durable_end(), rig.durable, "folder sync {skip} failed");
        rig.check();
    }
}

#[test]
fn out_of_descriptors_is_waited_for() {
    let mut rig = Rig::new();
    rig.append(&records(1, 100, 1));
    rig.settle();
    rig.log.release_idle();
    rig.append(&records(1, 100, 2));
    rig.memory.inject(Fault::new(Operation::Open, FaultKind::Errno(libc::EMFILE)));
    assert!(rig.log.take_flush(true).is_none());
    assert!(rig.log.latched().is_none());
    assert!(rig.log.wants_flush(true));
    rig.settle();
    rig.check();
}
