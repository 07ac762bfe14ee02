//! Cutting a log and beginning one anew, with the power failing at every step of it.

use crate::rig::{Dice, Rig, dir, options, records};
use lance_messages::peer::{BelowStart, LogPlace};
use lance_storage::checkpoint::FlushedMarks;
use lance_storage::disk::memory::{CrashPolicy, MemoryConfig, MemoryDisk};
use lance_storage::disk::{BLOCK, OpenMode};
use lance_storage::log::{Log, OpenContext, TruncateError, restart_log, truncate_log};
use lance_storage::reader::Reader;
use lance_storage::segment::{MIN_SEGMENT_BYTES, file_name};
use std::path::Path;

/// Batches of a log to be cut.
const TURNS: u64 = 40;

/// A log of several segments with epochs, control batches and a producer, all of it durable.
fn filled(seed: u64, zero_ahead_bytes: u64) -> Rig {
    let memory = MemoryDisk::new(MemoryConfig::seeded(seed));
    let (mut rig, mut dice) = (Rig::on(memory, MIN_SEGMENT_BYTES, zero_ahead_bytes), Dice(seed));
    for turn in 0..TURNS {
        more(&mut rig, &mut dice, turn);
    }
    rig.settle();
    rig.flushed = Some(rig.durable);
    assert!(rig.log.segments().len() >= 3);
    rig
}

fn more(rig: &mut Rig, dice: &mut Dice, turn: u64) {
    let bytes = records(1 + dice.below(3) as usize, [20, 3_000, 200_000][dice.below(3) as usize], turn as u8);
    match dice.below(5) {
        0 => {
            let epoch = rig.log.last_epoch().0 + 1;
            rig.append_control(epoch);
        }
        1 | 2 => {
            let sequence = rig.sequence;
            rig.sequence += 1;
            rig.append_as(&bytes, sequence).unwrap();
        }
        _ => {
            rig.append(&bytes);
        }
    }
    rig.step(true);
}

/// Grows a cut log past all it ever held: nothing of what was cut may come back.
fn grow_and_check(rig: &mut Rig, seed: u64) {
    rig.check();
    let mut dice = Dice(seed);
    for turn in 0..12 {
        more(rig, &mut dice, 100 + turn);
    }
    rig.reopen().unwrap();
    rig.settle();
    rig.check();
    rig.flushed = Some(rig.durable);
    rig.reopen().unwrap();
    rig.check();
}

#[test]
fn a_log_is_cut_at_any_batch() {
    for cut in 0..=TURNS as usize {
        let mut rig = filled(3, [0, 256 * 1024][cut % 2]);
        let to_position = rig.known.get(cut).map_or(rig.log.log_end(), |known| known.position);
        rig.truncate(to_position).unwrap();
        let files = rig.memory.files();
        assert!(files.iter().all(|path| !path.to_string_lossy().ends_with(".tmp")));
        grow_and_check(&mut rig, cut as u64);
    }
}

#[test]
fn a_cut_anywhere_else_is_refused_and_changes_nothing() {
    let rig = filled(4, 256 * 1024);
    let (options, end) = (options(MIN_SEGMENT_BYTES, 0), rig.log.log_end());
    let image = || rig.memory.files().iter().map(|path| rig.memory.read_file(path)).collect::<Vec<_>>();
    let before = image();
    for known in &rig.known {
        for inside in [known.position + 1, known.position + 104, known.end_position() - 1] {
            let refused = truncate_log(&rig.disk, &options, inside).unwrap_err();
            let expected = TruncateError::NotABoundary { batch_position: known.position, to_position: inside };
            assert_eq!(refused, expected);
        }
    }
    for beyond in [end + 200, end + (1 << 30)] {
        let refused = truncate_log(&rig.disk, &options, beyond).unwrap_err();
        assert_eq!(refused, TruncateError::BeyondEnd { log_end: end, to_position: beyond });
    }
    assert!(before == image());
    let nowhere = lance_storage::log::LogOptions { dir: "/data/logs/none".into(), ..options };
    assert!(matches!(truncate_log(&rig.disk, &nowhere, 0), Err(TruncateError::NoLog { .. })));
}

#[test]
fn a_power_cut_in_the_middle_leaves_the_log_or_a_shorter_one() {
    for (number, at) in [0, 1, 7, 20, 33, 39].into_iter().enumerate() {
        let mut calm = filled(5, 0);
        let to_position = calm.known[at].position;
        let before = calm.memory.mutations();
        calm.truncate(to_position).unwrap();
        let changes = calm.memory.mutations() - before;
        for cut in 0..=changes {
            for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll, CrashPolicy::Random { seed: cut }] {
                let label = format!("cut at batch {at}, power at {cut}, {policy:?}");
                let mut rig = filled(5, 0);
                rig.memory.power_off_at(rig.memory.mutations() + cut);
                rig.lower(to_position);
                let _ = truncate_log(&rig.disk, &options(MIN_SEGMENT_BYTES, 0), to_position);
                rig.memory.crash(policy);
                let report = rig.reopen().unwrap_or_else(|error| panic!("{label}: {error}"));
                assert_eq!((report.offline, report.truncated_bytes), (None, 0), "{label}");
                assert!(rig.log.log_end() >= to_position, "{label}");
                rig.check();
                rig.truncate(to_position).unwrap();
                if cut % 5 == number as u64 % 5 {
                    grow_and_check(&mut rig, cut);
                }
            }
        }
    }
}

#[test]
fn a_cut_is_durable_once_it_is_answered() {
    for at in 0..TURNS as usize {
        let mut rig = filled(6, 0);
        let to_position = rig.known[at].position;
        rig.lower(to_position);
        truncate_log(&rig.disk, &options(MIN_SEGMENT_BYTES, 0), to_position).unwrap();
        rig.memory.crash(CrashPolicy::DropUnsynced);
        rig.reopen().unwrap();
        rig.check();
        assert_eq!((rig.log.log_end(), rig.known.len()), (to_position, at));
    }
}

#[test]
fn a_damaged_log_is_cut_where_the_damage_begins() {
    let mut dice = Dice(9);
    for _ in 0..40 {
        let mut rig = filled(7, 0);
        let bad = rig.known[dice.below(rig.known.len() as u64) as usize].clone();
        let holder = rig.log.segments().into_iter().rfind(|segment| segment.base_position <= bad.position).unwrap();
        let path = dir().join(file_name(holder.base_position));
        assert!(rig.memory.flip_bit(&path, bad.position - holder.base_position + 50, 2));
        let _ = rig.disk.remove_file(&dir().join("producers"));
        let known = rig.known.clone();
        let Some(damage) = rig.reopen().unwrap().offline else {
            panic!("a flipped header at {} went unnoticed", bad.position)
        };
        assert_eq!(damage.good_end(), bad.position);
        rig.known = known;
        rig.truncate(damage.good_end()).unwrap();
        assert_eq!(rig.log.offline(), None);
        grow_and_check(&mut rig, 1);
    }
}

#[test]
fn a_cut_above_damage_is_refused() {
    let rig = filled(7, 0);
    let bad = &rig.known[3];
    assert!(rig.memory.flip_bit(&dir().join(file_name(0)), bad.position + 50, 2));
    rig.disk.remove_file(&dir().join("producers")).unwrap();
    let refused = truncate_log(&rig.disk, &options(MIN_SEGMENT_BYTES, 0), rig.known[20].position).unwrap_err();
    assert!(matches!(refused, TruncateError::Damaged { damage, .. } if damage.good_end() == bad.position));
}

/// A log whose first segments are gone, as retention leaves it.
fn retained(seed: u64) -> Rig {
    let mut rig = filled(seed, 0);
    let removed = rig.log.remove_segments_before(rig.log.segments()[2].base_position);
    lance_storage::segment::remove(&*rig.disk, &removed).unwrap();
    let start = rig.log.log_start().position;
    rig.known.retain(|known| known.position >= start);
    rig
}

#[test]
fn a_log_cut_at_its_start_begins_there_still() {
    for with_state in [true, false] {
        let mut rig = retained(8);
        let start = rig.log.log_start_place();
        if !with_state {
            rig.disk.remove_file(&dir().join("producers")).unwrap();
        }
        let below = truncate_log(&rig.disk, &options(MIN_SEGMENT_BYTES, 0), start.position - 1).unwrap_err();
        assert!(matches!(below, TruncateError::BelowStart { log_start, .. } if log_start == start.position));
        rig.truncate(start.position).unwrap();
        assert_eq!((rig.log.log_start_place(), rig.log.log_end_place()), (start, start));
        let appended = rig.append(&records(1, 10, 1));
        assert_eq!((appended.base_offset, appended.base_record), (start.offset, start.record));
        rig.settle();
        rig.reopen().unwrap();
        assert_eq!(rig.log.log_start_place(), start);
    }
}

fn restart(rig: &mut Rig, at: LogPlace) {
    rig.lower(0);
    rig.known.clear();
    restart_log(&rig.disk, options(MIN_SEGMENT_BYTES, 0), at, &BelowStart::default()).unwrap();
    rig.reopen().unwrap();
    assert_eq!((rig.log.log_start_place(), rig.log.log_end_place()), (at, at));
    assert_eq!(rig.log.log_start_place(), at, "also when it is opened once more");
}

#[test]
fn a_log_begun_anew_takes_a_leaders_batches_from_there() {
    let leader = retained(8);
    let start = leader.log.log_start_place();
    for wiped in [true, false] {
        let mut follower = if wiped { Rig::new() } else { filled(9, 0) };
        restart(&mut follower, start);
        assert_eq!(follower.log.epoch_before(start.position), None);
        let mut reader = Reader::new(&leader.disk, 2);
        while follower.log.log_end() < leader.log.log_end() {
            let batches = leader.batches_at(follower.log.log_end(), 100_000, &mut reader);
            follower.append_batches(&batches);
        }
        follower.settle();
        assert!(leader.same_closed_segments(&follower) > 0);
        follower.flushed = Some(follower.durable);
        follower.reopen().unwrap();
        assert_eq!(leader.log.log_start_place(), follower.log.log_start_place());
        assert_eq!(leader.log.log_end_place(), follower.log.log_end_place());
        restart(&mut follower, LogPlace::default());
        follower.sequence = 0;
        grow_and_check(&mut follower, 1);
    }
}

/// A log whose first segments are gone, and with them all that a producer wrote: two batches.
fn retained_without_the_batches_of_a_producer() -> Rig {
    let mut rig = Rig::new();
    for sequence in 0..2 {
        rig.append_as(&records(1, 20, 1), sequence).unwrap();
    }
    while rig.log.segments().len() < 6 {
        rig.append(&records(1, 200_000, 2));
        rig.settle();
    }
    rig.flushed = Some(rig.durable);
    let removed = rig.log.remove_segments_before(rig.log.segments()[2].base_position);
    lance_storage::segment::remove(&*rig.disk, &removed).unwrap();
    let start = rig.log.log_start().position;
    rig.known.retain(|known| known.position >= start);
    rig
}

/// The producer's next batch is taken, and what it sends again is stored once.
fn goes_on_for_the_producer(rig: &mut Rig) {
    rig.learn_sequence();
    assert_eq!(rig.sequence, 2);
    assert!(rig.append_as(&records(1, 20, 1), 1).unwrap().duplicate);
    assert!(!rig.append_as(&records(1, 20, 3), 2).unwrap().duplicate);
    rig.settle();
}

#[test]
fn a_cut_forgets_no_producer_whose_batches_are_gone() {
    let ends = |rig: &Rig| [rig.known[0].position, rig.known[0].end_position(), rig.known[9].end_position()];
    for cut in 0..3 {
        let mut rig = retained_without_the_batches_of_a_producer();
        let start = rig.log.log_start().position;
        let epoch_before = rig.log.epoch_before(start);
        let to_position = ends(&rig)[cut];
        rig.truncate(to_position).unwrap();
        assert_eq!((rig.log.epoch_before(start), epoch_before.is_some()), (epoch_before, true));
        goes_on_for_the_producer(&mut rig);
    }
}

#[test]
fn a_log_begun_anew_knows_what_its_leader_knew_of_what_lay_below() {
    let leader = retained_without_the_batches_of_a_producer();
    let start = leader.log.log_start_place();
    let last_epoch = leader.log.epoch_history().first().map(|first| (first.epoch, first.position));
    let producers = leader.log.producers().as_of(start.position).to_bytes().into();
    let mut follower = filled(9, 0);
    follower.lower(0);
    follower.known.clear();
    let below = BelowStart { last_epoch, producers };
    restart_log(&follower.disk, options(MIN_SEGMENT_BYTES, 0), start, &below).unwrap();
    follower.reopen().unwrap();
    assert_eq!(follower.log.epoch_before(start.position), leader.log.epoch_before(start.position));
    let mut reader = Reader::new(&leader.disk, 2);
    while follower.log.log_end() < leader.log.log_end() {
        let batches = leader.batches_at(follower.log.log_end(), 100_000, &mut reader);
        follower.append_batches(&batches);
    }
    follower.settle();
    follower.flushed = Some(follower.durable);
    follower.truncate(leader.known[3].position).unwrap();
    goes_on_for_the_producer(&mut follower);
}

#[test]
fn a_power_cut_while_a_log_begins_anew_never_leaves_wrong_offsets() {
    let at = LogPlace { position: 5_000, offset: 3_000, record: 70 };
    let mut calm = filled(10, 0);
    let before = calm.memory.mutations();
    restart(&mut calm, at);
    for cut in 0..=calm.memory.mutations() - before {
        for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll, CrashPolicy::Random { seed: cut }] {
            let label = format!("power at {cut}, {policy:?}");
            let mut rig = filled(10, 0);
            rig.memory.power_off_at(rig.memory.mutations() + cut);
            rig.lower(0);
            let _ = restart_log(&rig.disk, options(MIN_SEGMENT_BYTES, 0), at, &BelowStart::default());
            rig.memory.crash(policy);
            let report = rig.reopen().unwrap_or_else(|error| panic!("{label}: {error}"));
            assert_eq!(report.offline, None, "{label}");
            let end = rig.log.log_end_place();
            if rig.log.log_start().position == 0 {
                rig.check();
                rig.append(&records(1, 900_000, 1));
                rig.append(&records(1, 900_000, 1));
                rig.settle();
                rig.reopen().unwrap();
                rig.check();
            } else {
                assert_eq!((rig.log.log_start_place(), end), (at, at), "{label}");
            }
            restart(&mut rig, at);
        }
    }
}

fn lone_segment(rig: &Rig, base_position: u64, bytes: &[u8]) {
    for path in rig.memory.files() {
        rig.disk.remove_file(&path).unwrap();
    }
    let file = rig.disk.open(&dir().join(file_name(base_position)), OpenMode::Create).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync().unwrap();
    rig.disk.sync_dir(&dir()).unwrap();
}

#[test]
fn an_empty_segment_that_begins_nobody_knows_where_is_no_log() {
    for bytes in [Vec::new(), vec![0; 3 * BLOCK]] {
        let mut rig = Rig::new();
        lone_segment(&rig, 5_000, &bytes);
        rig.flushed = Some(5_000);
        let report = rig.reopen().unwrap();
        assert!(report.created);
        assert_eq!((rig.log.log_start().position, rig.log.log_end(), report.offline), (0, 0, None));
        assert_eq!(rig.memory.files(), [dir().join(file_name(0))]);
    }
}

#[test]
fn a_torn_batch_that_begins_nobody_knows_where_is_damage() {
    let mut rig = Rig::new();
    lone_segment(&rig, 5_000, &[7; 300]);
    let report = rig.reopen().unwrap();
    assert_eq!(report.offline.unwrap().good_end(), 5_000);
    let refused = truncate_log(&rig.disk, &options(MIN_SEGMENT_BYTES, 0), 5_000).unwrap_err();
    assert_eq!(refused, TruncateError::UnknownStart { log_start: 5_000 });
    restart(&mut rig, LogPlace { position: 6_000, offset: 2, record: 1 });
}

#[test]
fn an_empty_segment_behind_others_is_taken_back() {
    let mut rig = filled(11, 0);
    let end = rig.log.log_end();
    let segments = rig.log.segments().len();
    let file = rig.disk.open(&dir().join(file_name(end)), OpenMode::Create).unwrap();
    file.sync().unwrap();
    rig.disk.sync_dir(&dir()).unwrap();
    rig.reopen().unwrap();
    rig.check();
    assert_eq!((rig.log.log_end(), rig.log.segments().len()), (end, segments));
    assert!(rig.memory.read_file(&dir().join(file_name(end))).is_none());
    grow_and_check(&mut rig, 2);
}

#[test]
fn a_lowered_mark_stays_lowered() {
    let memory = MemoryDisk::default();
    let disk = memory.as_disk();
    let (data, mine, other) = (Path::new("/data"), crate::rig::partition(), Default::default());
    let other = lance_messages::id::TopicPartition::new(lance_messages::id::TopicId(1), other);
    disk.create_dir_all(data).unwrap();
    let (_, mut files) = FlushedMarks::open(&disk, data, 1, |_| 0).unwrap();
    files[0].store(&[(mine, 900), (other, 70)]).unwrap();
    files[0].store(&[(mine, 1_000), (other, 80)]).unwrap();
    files[0].lower(mine, 500).unwrap();
    memory.crash(CrashPolicy::DropUnsynced);
    // Whichever slot is damaged afterwards: the other does not bring the mark back.
    for slot in 0..2 {
        let path = files[0].path().to_owned();
        assert!(memory.flip_bit(&path, slot * BLOCK as u64 + 30, 1));
        let (marks, _) = FlushedMarks::open(&disk, data, 1, |_| 0).unwrap();
        assert_eq!((marks.positions[&mine], marks.positions[&other]), (500, 80));
    }
    let (_, mut files) = FlushedMarks::open(&disk, data, 1, |_| 0).unwrap();
    files[0].lower(mine, 700).unwrap();
    files[0].lower(other, 0).unwrap();
    let (marks, _) = FlushedMarks::open(&disk, data, 1, |_| 0).unwrap();
    assert_eq!((marks.positions[&mine], marks.positions.get(&other)), (500, None));
    let (log, _) = Log::open(&disk, options(MIN_SEGMENT_BYTES, 0), OpenContext::default()).unwrap();
    assert_eq!(log.log_end(), 0);
}
