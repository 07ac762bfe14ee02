//! Flipped bits, missing and foreign files: damage is told from a torn tail, and never cut.

use crate::rig::{Dice, Rig, dir, options, partition, records};
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchSeed};
use lance_messages::id::{TopicId, TopicPartition};
use lance_storage::disk::OpenMode;
use lance_storage::log::{AppendError, Log, LogOptions, OpenContext, OpenError};
use lance_storage::segment::file_name;

fn filled(turns: u8) -> Rig {
    let mut rig = Rig::new();
    for turn in 0..turns {
        rig.append(&records(2, 900, turn));
        rig.settle();
    }
    rig
}

#[test]
fn a_flip_below_the_flushed_mark_takes_the_log_offline_and_cuts_nothing() {
    let mut rig = filled(10);
    rig.flushed = Some(rig.durable);
    let path = dir().join(file_name(0));
    let before = rig.memory.read_file(&path).unwrap();
    let third = rig.known[3].position;
    assert!(rig.memory.flip_bit(&path, third + 20, 3));
    let report = rig.reopen().unwrap();
    let damage = report.offline.unwrap();
    assert_eq!((damage.position, damage.file_offset), (third, third));
    assert_eq!(damage.durable_position, rig.durable);
    assert_eq!(rig.memory.read_file(&path).unwrap().len(), before.len());
    assert_eq!(rig.log.log_end(), third, "readable below");
    let bytes = records(1, 1, 1);
    let batch = rig.batch(&bytes, 1);
    assert!(matches!(rig.try_append(&batch), Err(AppendError::Offline(_))));
    assert!(rig.log.take_flush(true).is_none());
}

#[test]
fn a_flip_below_what_a_later_batch_knew_as_committed_is_damage() {
    let mut rig = filled(10);
    rig.flushed = Some(rig.known[2].position);
    let path = dir().join(file_name(0));
    let bad = rig.known[4].position;
    assert!(rig.memory.flip_bit(&path, bad + BATCH_HEADER_BYTES as u64 + 30, 0));
    let report = rig.reopen().unwrap();
    assert_eq!(report.offline.unwrap().position, bad);
}

#[test]
fn a_flip_in_the_last_batch_above_every_mark_is_a_torn_tail() {
    let mut rig = filled(10);
    let last = rig.known[9].position;
    rig.flushed = Some(last);
    assert!(rig.memory.flip_bit(&dir().join(file_name(0)), last + 150, 0));
    let report = rig.reopen().unwrap();
    assert_eq!(report.offline, None);
    assert_eq!(report.log_end, last);
    assert_eq!(report.truncated_bytes, rig.durable - last);
}

#[test]
fn any_flip_in_durable_bytes_is_damage_or_beyond_every_mark() {
    let mut dice = Dice(4);
    for _ in 0..60 {
        let mut rig = filled(6);
        rig.flushed = Some(rig.durable);
        let at = dice.below(rig.durable);
        assert!(rig.memory.flip_bit(&dir().join(file_name(0)), at, dice.below(8) as u8));
        let holder = rig.known.iter().find(|known| at < known.end_position()).unwrap().clone();
        let report = rig.reopen().unwrap();
        let in_header = at < holder.position + BATCH_HEADER_BYTES as u64;
        match report.offline {
            Some(damage) => assert_eq!(damage.position, holder.position),
            // Records below the mark are checked by the readers and the scrubber.
            None => assert!(!in_header, "byte {at}"),
        }
        assert_eq!(report.truncated_bytes, 0);
    }
}

#[test]
fn a_file_shorter_than_the_flushed_mark_is_damage() {
    let mut rig = filled(5);
    rig.flushed = Some(rig.durable);
    let file = rig.disk.open(&dir().join(file_name(0)), OpenMode::ReadWrite).unwrap();
    let cut = rig.known[3].position;
    file.set_len(cut).unwrap();
    let report = rig.reopen().unwrap();
    let damage = report.offline.unwrap();
    assert_eq!((damage.position, damage.durable_position), (cut, rig.durable));
}

fn rolled() -> Rig {
    let mut rig = Rig::new();
    for turn in 0..50 {
        rig.append(&records(1, 90_000, turn));
        rig.step(true);
    }
    rig.settle();
    rig.flushed = Some(rig.durable);
    rig
}

#[test]
fn a_missing_or_short_closed_segment_is_named_and_nothing_is_deleted() {
    let mut rig = rolled();
    let paths: Vec<_> = rig.log.closed_segments().map(|segment| segment.path().to_owned()).collect();
    let file = rig.disk.open(&paths[1], OpenMode::ReadWrite).unwrap();
    let len = file.len().unwrap();
    file.set_len(len - 1).unwrap();
    let files = rig.memory.files();
    assert!(matches!(rig.reopen(), Err(OpenError::Gap { path, .. }) if path == paths[1]));
    file.set_len(len).unwrap();
    rig.disk.remove_file(&paths[1]).unwrap();
    assert!(matches!(rig.reopen(), Err(OpenError::Gap { path, .. }) if path == paths[0]));
    assert_eq!(rig.memory.files().len(), files.len() - 1);
}

#[test]
fn data_behind_the_end_of_a_closed_segment_is_named() {
    let mut rig = rolled();
    let path = rig.log.closed_segments().next().unwrap().path().to_owned();
    let file = rig.disk.open(&path, OpenMode::ReadWrite).unwrap();
    let len = file.len().unwrap();
    file.write_all_at(&[0, 0, 1], len).unwrap();
    assert!(matches!(rig.reopen(), Err(OpenError::Overlap { file_offset, .. }) if file_offset == len + 2));
}

#[test]
fn a_closed_segment_with_a_bad_first_batch_leaves_those_below_readable() {
    let mut rig = rolled();
    let segments: Vec<_> = rig.log.closed_segments().cloned().collect();
    let bad = segments[2].base();
    assert!(rig.memory.flip_bit(segments[2].path(), 40, 1));
    let report = rig.reopen().unwrap();
    assert_eq!(report.offline.unwrap().position, bad.position);
    assert_eq!((rig.log.log_end(), rig.log.end_offset()), (bad.position, bad.offset));
    rig.log.advance_high_watermark(u64::MAX);
    let slice = rig.log.slice_at(bad.offset - 1).unwrap();
    assert_eq!(slice.segment.path(), segments[1].path());
}

#[test]
fn a_segment_of_another_partition_is_never_taken_for_ours() {
    let mut rig = filled(3);
    rig.flushed = Some(rig.durable);
    let other = LogOptions { partition: TopicPartition::new(TopicId(8), 3), ..options(1 << 20, 0) };
    let context = OpenContext { flushed_position: rig.flushed, ..OpenContext::default() };
    let (_, report) = Log::open(&rig.disk, other, context).unwrap();
    assert_eq!(report.offline.unwrap().position, 0);
    rig.reopen().unwrap();
    rig.check();
}

#[test]
fn another_version_is_refused_and_named() {
    let mut rig = filled(2);
    let path = dir().join(file_name(0));
    let mut bytes = rig.memory.read_file(&path).unwrap();
    let at = rig.known[1].position as usize;
    bytes[at + 5] = 2;
    let header = &mut bytes[at..at + BATCH_HEADER_BYTES];
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&partition().topic.0.to_le_bytes());
    hasher.update(&partition().partition.to_le_bytes());
    hasher.update(&header[..8]);
    hasher.update(&header[12..]);
    let crc = hasher.finalize().to_le_bytes();
    header[8..12].copy_from_slice(&crc);
    let file = rig.disk.open(&path, OpenMode::ReadWrite).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.sync().unwrap();
    let refused = rig.reopen().unwrap_err();
    assert!(matches!(refused, OpenError::UnknownVersion { version: 2, file_offset, .. } if file_offset == at as u64));
}

#[test]
fn an_emptied_folder_is_not_taken_for_a_new_log() {
    let mut rig = filled(2);
    rig.flushed = Some(rig.durable);
    rig.disk.remove_file(&dir().join(file_name(0))).unwrap();
    assert!(matches!(rig.reopen(), Err(OpenError::Missing { .. })));
}

#[test]
fn a_damaged_state_file_is_done_without() {
    let mut rig = rolled();
    let state = dir().join("producers");
    for at in 0..2 {
        rig.memory.flip_bit(&state, at * 4096 + 30, 2);
    }
    rig.reopen().unwrap();
    rig.check();
}

#[test]
fn a_batch_copied_to_another_place_never_checks() {
    let seed = BatchSeed::new(partition());
    let mut rig = filled(4);
    let path = dir().join(file_name(0));
    let bytes = rig.memory.read_file(&path).unwrap();
    let (first, last) = (rig.known[1].clone(), rig.known[3].clone());
    let batch = &bytes[first.position as usize..first.end_position() as usize];
    assert!(lance_messages::batch::BatchHeader::decode(batch, seed).is_ok());
    let file = rig.disk.open(&path, OpenMode::ReadWrite).unwrap();
    file.write_all_at(batch, last.end_position()).unwrap();
    file.sync().unwrap();
    let report = rig.reopen().unwrap();
    assert_eq!(report.log_end, last.end_position());
    assert_eq!(report.truncated_bytes, batch.len() as u64);
    rig.check();
}
