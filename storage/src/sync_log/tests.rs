//! The log of entries against a model, with the power cut at every step, and with every kind of fault.

use super::*;
use crate::disk::Operation;
use crate::disk::memory::{CrashPolicy, Fault, FaultKind, MemoryDisk};
use lance_messages::id::TopicId;
use std::collections::BTreeMap;

const DIR: &str = "meta";

fn options() -> SyncLogOptions {
    SyncLogOptions { dir: DIR.into(), partition: TopicPartition::new(TopicId(u32::MAX), 0), segment_bytes: 1_000 }
}

fn open(disk: &MemoryDisk) -> Result<(SyncLog, Vec<LogEntry>, SyncLogReport), SyncLogError> {
    SyncLog::open(&disk.as_disk(), options())
}

fn entry(index: u64, term: u64) -> LogEntry {
    let data = vec![index as u8 ^ term as u8; (index * 37 % 200) as usize];
    LogEntry { index, term, data: data.into() }
}

fn entries(indexes: std::ops::Range<u64>, term: u64) -> Vec<LogEntry> {
    indexes.map(|index| entry(index, term)).collect()
}

fn segment_names(disk: &MemoryDisk) -> Vec<PathBuf> {
    disk.files()
}

#[test]
fn entries_come_back_over_many_segments() {
    let disk = MemoryDisk::default();
    let (mut log, found, report) = open(&disk).unwrap();
    assert_eq!((found, report, log.last_index()), (vec![], SyncLogReport::default(), None));
    for start in (5..65).step_by(3) {
        log.append(&entries(start..start + 3, start / 20 + 1)).unwrap();
    }
    assert!(segment_names(&disk).len() > 5);
    let all: Vec<_> = (5..65).step_by(3).flat_map(|start| entries(start..start + 3, start / 20 + 1)).collect();
    assert_eq!(log.read_from(5).unwrap(), all);
    assert_eq!(log.read_from(40).unwrap(), all[35..]);
    let (log, found, report) = open(&disk).unwrap();
    assert_eq!((found, report.truncated_bytes), (all, 0));
    assert_eq!((log.first_index(), log.last_index(), log.last_term()), (Some(5), Some(64), 4));
}

#[test]
fn a_suffix_is_replaced_and_a_prefix_dropped() {
    let disk = MemoryDisk::default();
    let (mut log, ..) = open(&disk).unwrap();
    for index in 1..=30 {
        log.append(&[entry(index, 1)]).unwrap();
    }
    log.truncate_from(11).unwrap();
    assert_eq!((log.last_index(), log.last_term()), (Some(10), 1));
    log.append(&entries(11..40, 2)).unwrap();
    log.drop_before(25).unwrap();
    let first = log.first_index().unwrap();
    assert!((2..=25).contains(&first), "{first}");
    let (mut log, found, _) = open(&disk).unwrap();
    let expected: Vec<_> = entries(1..11, 1).into_iter().chain(entries(11..40, 2)).collect();
    assert_eq!(found, expected[first as usize - 1..]);
    assert_eq!(log.read_from(38).unwrap(), entries(38..40, 2));
    log.clear().unwrap();
    assert_eq!((log.first_index(), log.last_term()), (None, 0));
    log.append(&entries(100..103, 9)).unwrap();
    assert_eq!(open(&disk).unwrap().1, entries(100..103, 9));
}

/// One step of a script.
#[derive(Clone, Copy)]
enum Step {
    Append(u64, u64, u64),
    Truncate(u64),
    Drop(u64),
    Clear,
}

const SCRIPT: [Step; 14] = [
    Step::Append(3, 5, 1),
    Step::Append(5, 20, 1),
    Step::Append(20, 21, 1),
    Step::Append(21, 30, 2),
    Step::Truncate(18),
    Step::Append(18, 26, 3),
    Step::Append(26, 40, 3),
    Step::Drop(22),
    Step::Append(40, 44, 3),
    Step::Truncate(23),
    Step::Append(23, 30, 4),
    Step::Clear,
    Step::Append(50, 60, 5),
    Step::Append(60, 70, 5),
];

/// What must, and what may, be found after a power cut.
#[derive(Default, Clone)]
struct Model {
    must: BTreeMap<u64, LogEntry>,
    may: BTreeMap<u64, LogEntry>,
}

impl Model {
    /// Notes that a step has begun.
    fn begin(&mut self, step: Step) {
        match step {
            Step::Append(from, to, term) => self.may.extend(entries(from..to, term).into_iter().map(|e| (e.index, e))),
            Step::Truncate(index) => self.must.retain(|other, _| *other < index),
            Step::Drop(index) => self.must.retain(|other, _| *other >= index),
            Step::Clear => self.must.clear(),
        }
    }

    /// Notes that it was confirmed.
    fn confirm(&mut self, step: Step) {
        match step {
            Step::Append(from, to, term) => self.must.extend(entries(from..to, term).into_iter().map(|e| (e.index, e))),
            Step::Truncate(index) => self.may.retain(|other, _| *other < index),
            Step::Drop(_) => {}
            Step::Clear => self.may.clear(),
        }
    }

    fn check(&self, found: &[LogEntry]) {
        for pair in found.windows(2) {
            assert_eq!(pair[0].index + 1, pair[1].index);
        }
        for entry in found {
            assert_eq!(self.may.get(&entry.index), Some(entry), "unconfirmed and unknown");
        }
        let missing = self.must.values().find(|entry| !found.contains(entry));
        assert!(missing.is_none(), "confirmed and lost: {missing:?}");
    }
}

fn perform(log: &mut SyncLog, step: Step) -> Result<(), SyncLogError> {
    match step {
        Step::Append(from, to, term) => log.append(&entries(from..to, term)),
        Step::Truncate(index) => log.truncate_from(index),
        Step::Drop(index) => log.drop_before(index),
        Step::Clear => log.clear(),
    }
}

/// Runs the script until it ends or fails.
fn run(disk: &MemoryDisk, model: &mut Model) {
    let Ok((mut log, ..)) = open(disk) else { return };
    for step in SCRIPT {
        model.begin(step);
        if perform(&mut log, step).is_err() {
            return;
        }
        model.confirm(step);
    }
}

#[test]
fn a_power_cut_at_any_step_loses_nothing_confirmed() {
    let whole = MemoryDisk::default();
    run(&whole, &mut Model::default());
    let steps = whole.mutations();
    assert!(steps > 40, "{steps}");
    let random = (0..12).map(|seed| CrashPolicy::Random { seed });
    let policies: Vec<_> = [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll].into_iter().chain(random).collect();
    for step in 0..=steps {
        for policy in &policies {
            let (disk, mut model) = (MemoryDisk::default(), Model::default());
            disk.power_off_at(step);
            run(&disk, &mut model);
            disk.crash(*policy);
            let opened = open(&disk);
            let (mut log, found, _) = opened.unwrap_or_else(|error| panic!("cut at {step}, {policy:?}: {error}"));
            model.check(&found);
            // Life goes on, and what is written now survives the next cut.
            let next = log.last_index().map_or(1, |last| last + 1);
            log.append(&[entry(next, 99)]).unwrap();
            disk.crash(CrashPolicy::DropUnsynced);
            let again = open(&disk).unwrap().1;
            assert_eq!(again[..again.len() - 1], found);
            assert_eq!(again.last(), Some(&entry(next, 99)));
        }
    }
}

#[test]
fn a_flipped_bit_is_refused_or_cut_but_never_read() {
    let disk = MemoryDisk::default();
    let (mut log, ..) = open(&disk).unwrap();
    let groups = [entries(1..8, 1), entries(8..9, 1), entries(9..12, 1)];
    for group in &groups {
        log.append(group).unwrap();
    }
    let all = groups.concat();
    let last_group = log.end_position() - log.positions[8];
    let snapshot = disk.snapshot();
    let mut names = segment_names(&disk);
    let newest = names.pop().unwrap();
    for path in names.iter().chain([&newest]) {
        let bytes = disk.read_file(path).unwrap();
        for at in 0..bytes.len() as u64 {
            let flipped = MemoryDisk::from_snapshot(&snapshot, CrashPolicy::DropUnsynced);
            assert!(flipped.flip_bit(path, at, at as u8));
            match open(&flipped) {
                Err(SyncLogError::Damaged { file_offset, .. }) => assert!(file_offset <= at),
                Err(other) => panic!("{other}"),
                Ok((_, found, report)) => {
                    // Only the last group can be taken for torn: nothing says that it was synced.
                    assert!(*path == newest && at + last_group >= bytes.len() as u64, "{at} of {path:?}");
                    assert!(report.truncated_bytes > 0);
                    assert!(found.len() >= 8 && all.starts_with(&found));
                }
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_an_append_and_takes_it_later() {
    let disk = MemoryDisk::default();
    let (mut log, ..) = open(&disk).unwrap();
    log.append(&entries(1..4, 1)).unwrap();
    for torn_bytes in [0, 50, 104, 150, 230, 400] {
        let full = FaultKind::Torn { bytes: torn_bytes, errno: libc::ENOSPC };
        disk.inject(Fault::new(Operation::Write, full));
        let refused = log.append(&entries(4..9, 7)).unwrap_err();
        assert!(matches!(&refused, SyncLogError::Disk(error) if error.is_no_space()), "{refused}");
        // Nothing of it stays, whatever had been written.
        assert_eq!(open(&disk).unwrap().1, entries(1..4, 1));
    }
    log.append(&[entry(4, 2)]).unwrap();
    log.append(&entries(5..30, 2)).unwrap();
    let expected: Vec<_> = entries(1..4, 1).into_iter().chain(entries(4..30, 2)).collect();
    assert_eq!(open(&disk).unwrap().1, expected);
}

#[test]
fn a_failed_sync_or_write_stops_the_log_until_it_is_opened_again() {
    for operation in [Operation::Sync, Operation::Write] {
        let disk = MemoryDisk::default();
        let (mut log, ..) = open(&disk).unwrap();
        log.append(&entries(1..4, 1)).unwrap();
        disk.inject(Fault::new(operation, FaultKind::Errno(libc::EIO)));
        assert!(log.append(&entries(4..6, 1)).is_err());
        assert!(log.latched().is_some());
        assert!(matches!(log.append(&entries(4..6, 1)), Err(SyncLogError::Latched { .. })));
        assert!(matches!(log.truncate_from(2), Err(SyncLogError::Latched { .. })));
        let (mut log, found, _) = open(&disk).unwrap();
        assert_eq!(found[..3], entries(1..4, 1));
        log.append(&[entry(log.last_index().unwrap() + 1, 2)]).unwrap();
    }
}

#[test]
fn a_missing_segment_is_named() {
    let disk = MemoryDisk::default();
    let (mut log, ..) = open(&disk).unwrap();
    for index in 1..40 {
        log.append(&[entry(index, 1)]).unwrap();
    }
    let names = segment_names(&disk);
    disk.as_disk().remove_file(&names[1]).unwrap();
    let refused = open(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, SyncLogError::Gap { path, .. } if *path == names[2]), "{refused}");
}

#[test]
fn entries_that_do_not_follow_or_do_not_fit_are_refused() {
    let disk = MemoryDisk::default();
    let (mut log, ..) = open(&disk).unwrap();
    log.append(&entries(1..4, 1)).unwrap();
    let refused = log.append(&[entry(5, 1)]).unwrap_err();
    assert!(matches!(refused, SyncLogError::OutOfOrder { found: 5, expected: 4 }));
    let refused = log.append(&[entry(4, 1 << 32)]).unwrap_err();
    assert!(matches!(refused, SyncLogError::TooLarge { index: 4, field: "term", .. }));
    let data = Bytes::from(vec![0; MAX_BATCH_BYTES as usize + 1]);
    let large = LogEntry { index: 4, term: 1, data };
    assert!(matches!(log.append(&[large]), Err(SyncLogError::TooLarge { field: "bytes", .. })));
    log.append(&[]).unwrap();
    assert_eq!(log.last_index(), Some(3));
}

#[test]
fn the_files_are_segments_of_batches() {
    let disk = MemoryDisk::default();
    let (mut log, ..) = open(&disk).unwrap();
    log.append(&entries(1..3, 6)).unwrap();
    let path = Path::new(DIR).join("00000000000000000000.lnc");
    let bytes = disk.durable_file(&path).unwrap();
    let (header, data) = batch_at(&bytes, BatchSeed::new(options().partition), &Chain::at(0)).unwrap();
    assert!(header.flags.starts_segment() && header.flags.is_opaque());
    assert_eq!((header.base_record, header.leader_epoch.0, header.record_count), (1, 6, 1));
    assert_eq!(data, &entry(1, 6).data[..]);
    assert_eq!(log.bytes(), bytes.len() as u64);
}

#[test]
fn the_log_of_another_owner_is_refused() {
    let disk = MemoryDisk::default();
    let (mut log, ..) = open(&disk).unwrap();
    for index in 1..40 {
        log.append(&[entry(index, 1)]).unwrap();
    }
    let mut other = options();
    other.partition = TopicPartition::new(TopicId(1), 0);
    assert!(matches!(SyncLog::open(&disk.as_disk(), other), Err(SyncLogError::Damaged { .. })));
}
