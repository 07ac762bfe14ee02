//! What is appended where, which step comes when, and what a roll leaves behind.

use crate::rig::{Rig, dir, records};
use lance_messages::batch::MAX_BATCH_BYTES;
use lance_messages::id::LeaderEpoch;
use lance_storage::disk::memory::{MemoryConfig, MemoryDisk};
use lance_storage::disk::{OpKind, OpenMode};
use lance_storage::index::Index;
use lance_storage::log::{AppendError, NewBatch, UNKNOWN_OFFSET};
use lance_storage::segment::{MIN_SEGMENT_BYTES, Segment, file_name};
use std::sync::Arc;

#[test]
fn offsets_positions_and_records_follow_each_other() {
    let mut rig = Rig::new();
    let first = rig.append(&records(2, 10, 1));
    let second = rig.append(&records(1, 5, 2));
    assert_eq!((first.position, first.base_offset, first.base_record, first.record_count), (0, 0, 0, 2));
    assert_eq!((second.position, second.base_offset, second.base_record), (134, 30, 2));
    assert_eq!((rig.log.log_end(), rig.log.end_offset(), rig.log.end_record()), (248, 40, 3));
    assert_eq!(rig.log.durable_end(), 0);
    rig.settle();
    assert_eq!(rig.log.durable_end(), 248);
    rig.check();
}

#[test]
fn control_batches_move_positions_but_not_offsets() {
    let mut rig = Rig::new();
    rig.append_control(4);
    let data = rig.append(&records(1, 5, 1));
    assert_eq!((data.position, data.base_offset, data.base_record), (108, 0, 0));
    assert_eq!(rig.log.last_epoch(), LeaderEpoch(4));
    rig.settle();
    rig.check();
}

#[test]
fn many_batches_become_durable_with_one_step() {
    let mut rig = Rig::new();
    for _ in 0..50 {
        rig.append(&records(1, 100, 1));
    }
    let step = rig.log.take_flush(true).unwrap();
    assert_eq!(step.end_position, rig.log.log_end());
    assert!(rig.log.take_flush(true).is_none(), "one step at a time");
    rig.append(&records(1, 100, 2));
    let completion = rig.perform(step);
    let completed = rig.complete(completion).unwrap();
    assert_eq!(completed.durable_end, 50 * (104 + 105));
    assert!(completed.more);
    rig.settle();
    rig.check();
}

#[test]
fn a_large_backlog_is_written_in_groups_that_are_durable_one_by_one() {
    const GROUP_BYTES: u64 = 2 << 20;
    let mut rig = Rig::on(MemoryDisk::new(MemoryConfig::default()), 16 << 20, 0);
    for turn in 0..90 {
        rig.append(&records(1, 60_000, turn));
    }
    let batch_bytes = rig.log.log_end() / 90;
    let mut ends = vec![0];
    while let Some(step) = rig.log.take_flush(true) {
        let end = step.end_position;
        if ends.len() == 1 {
            rig.append(&records(1, 60_000, 90));
        }
        let completion = rig.perform(step);
        assert_eq!(rig.complete(completion).unwrap().durable_end, end);
        ends.push(end);
        rig.check();
    }
    let groups: Vec<u64> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(groups.len(), 3);
    assert!(
        groups[..2].iter().all(|bytes| (GROUP_BYTES - 4096..GROUP_BYTES + batch_bytes).contains(bytes)),
        "{groups:?}"
    );
    assert_eq!(rig.log.durable_end(), rig.log.log_end());
}

#[test]
fn a_batch_may_span_slots_up_to_16_mib() {
    let mut rig = Rig::new();
    rig.pool = lance_storage::disk::SlotPool::new(lance_storage::disk::Arena::new(1 << 20, 20).unwrap());
    rig.queue = rig.disk.write_queue(&Default::default(), rig.pool.arena()).unwrap();
    rig.append(&records(1, 10, 1));
    rig.append(&vec![7; MAX_BATCH_BYTES as usize]);
    rig.settle();
    rig.check();
    assert_eq!(rig.log.segments().len(), 2, "a larger batch gets a segment of its own");
    let vast = vec![0; MAX_BATCH_BYTES as usize + 1];
    let batch = rig.batch(&vast, 1);
    assert!(matches!(rig.try_append(&batch), Err(AppendError::TooLarge { .. })));
}

#[test]
fn an_exhausted_pool_changes_nothing_and_is_retriable() {
    let mut rig = Rig::new();
    rig.append(&records(1, 10, 1));
    let taken: Vec<_> = std::iter::from_fn(|| rig.pool.take()).collect();
    let big = records(1, 200_000, 2);
    let batch = rig.batch(&big, 1);
    assert!(matches!(rig.try_append(&batch), Err(AppendError::PoolExhausted { .. })));
    assert_eq!(rig.log.log_end(), 104 + 15);
    drop(taken);
    rig.try_append(&batch).unwrap();
    rig.settle();
    rig.check();
}

#[test]
fn a_full_segment_is_closed_indexed_and_cut_to_length() {
    let mut rig = Rig::new();
    for turn in 0..40 {
        rig.append(&records(1, 50_000, turn));
        rig.step(true);
    }
    rig.settle();
    rig.check();
    let closed: Vec<_> = rig.log.closed_segments().cloned().collect();
    assert_eq!(closed.len(), 1);
    assert!(rig.log.holds(&closed[0]));
    let end = closed[0].end().unwrap().mark;
    let same_file = Arc::new(Segment::new(&dir(), closed[0].partition(), closed[0].base()));
    assert!(!rig.log.holds(&same_file), "as the log knew it before it was opened again");
    assert!(end.position <= MIN_SEGMENT_BYTES);
    assert_eq!(rig.memory.read_file(closed[0].path()).unwrap().len() as u64, end.position);
    let index = Index::load(&*rig.disk, &closed[0]).unwrap();
    let file = closed[0].open(&*rig.disk).unwrap();
    let rebuilt = Index::rebuild(&closed[0], &*file).unwrap();
    assert_eq!(index.len(), rebuilt.len());
    assert!((0..index.len()).all(|at| index.entry(at) == rebuilt.entry(at)));
    assert!(rig.memory.read_file(&dir().join("producers")).is_some());
}

#[test]
fn a_new_segment_is_made_only_when_all_below_is_durable() {
    let mut rig = Rig::new();
    for turn in 0..30 {
        rig.append(&records(1, 90_000, turn));
        while let Some(step) = rig.log.take_flush(false) {
            if let OpKind::Create { path } = &step.kind
                && path.extension().is_some_and(|kind| kind == "lnc")
            {
                let base: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
                assert_eq!(rig.log.durable_end(), base);
            }
            let completion = rig.perform(step);
            rig.complete(completion).unwrap();
        }
    }
    assert!(rig.log.segments().len() > 2);
}

#[test]
fn unsynced_writes_become_durable_with_a_later_sync() {
    let mut rig = Rig::new();
    rig.append(&records(1, 100, 1));
    let completed = rig.step(false).unwrap().unwrap();
    assert_eq!((completed.durable_end, completed.written_end), (0, 209));
    assert!(rig.log.take_flush(false).is_none());
    let step = rig.log.take_flush(true).unwrap();
    assert!(matches!(step.kind, OpKind::Sync));
    let completion = rig.perform(step);
    assert_eq!(rig.complete(completion).unwrap().durable_end, 209);
}

#[test]
fn a_retry_is_stored_once_and_gets_the_first_answer() {
    let mut rig = Rig::new();
    let first = rig.append_as(&records(1, 10, 1), 0).unwrap();
    for sequence in 1..6 {
        rig.append_as(&records(1, 10, 2), sequence).unwrap();
    }
    let end = rig.log.log_end();
    let retried = rig.append_as(&records(1, 10, 2), 1).unwrap();
    assert!(retried.duplicate && retried.base_offset == first.end_offset);
    let forgotten = rig.append_as(&records(1, 10, 1), 0).unwrap();
    assert!(forgotten.duplicate && forgotten.base_offset == UNKNOWN_OFFSET);
    assert_eq!(rig.append_as(&records(1, 10, 1), 9), Err(AppendError::OutOfOrderSequence { expected: 6, got: 9 }));
    assert_eq!(rig.log.log_end(), end);
    rig.settle();
    rig.reopen().unwrap();
    let retried = rig.append_as(&records(1, 10, 2), 1).unwrap();
    assert!(retried.duplicate && retried.base_offset == first.end_offset, "also after a restart");
}

#[test]
fn a_batch_of_an_older_epoch_is_refused() {
    let mut rig = Rig::new();
    rig.append_control(3);
    let bytes = records(1, 1, 1);
    let batch = rig.batch(&bytes, 2);
    let refused = AppendError::StaleEpoch { last: LeaderEpoch(3), got: LeaderEpoch(2) };
    assert_eq!(rig.try_append(&batch), Err(refused));
}

#[test]
fn small_groups_get_zeroes_written_ahead_and_large_ones_do_not() {
    let run = |bytes: usize| {
        let mut rig = Rig::on(MemoryDisk::new(MemoryConfig::default()), 8 << 20, 1 << 20);
        for _ in 0..40 {
            rig.append(&records(1, bytes, 1));
            while let Some(done) = rig.step(true) {
                done.unwrap();
            }
        }
        rig.check();
        let file_bytes = rig.memory.read_file(&dir().join(file_name(0))).unwrap().len() as u64;
        rig.reopen().unwrap();
        rig.check();
        file_bytes - rig.log.log_end()
    };
    assert!(run(500) > 100_000);
    assert!(run(150_000) < 4096);
}

#[test]
fn an_idle_log_gives_its_file_back_and_opens_it_again() {
    let mut rig = Rig::new();
    rig.append(&records(3, 100, 1));
    rig.log.release_idle();
    assert!(rig.log.has_open_file(), "not while something is to be written");
    rig.settle();
    rig.log.release_idle();
    assert!(!rig.log.has_open_file());
    rig.append(&records(3, 100, 2));
    rig.settle();
    rig.check();
}

#[test]
fn retention_drops_closed_segments_below_the_high_watermark() {
    let mut rig = Rig::new();
    for turn in 0..60 {
        rig.append(&records(1, 90_000, turn));
        rig.step(true);
    }
    rig.settle();
    let segments = rig.log.segments();
    assert!(segments.len() >= 4);
    let removed = rig.log.remove_segments_before(segments[2].base_position + 1);
    assert_eq!(removed.len(), 2);
    assert_eq!(rig.log.log_start().position, segments[2].base_position);
    lance_storage::segment::remove(&*rig.disk, &removed).unwrap();
    let start = rig.log.log_start();
    rig.reopen().unwrap();
    assert_eq!(rig.log.log_start(), start);
    assert_eq!(rig.log.end_offset(), rig.known.last().map(|last| last.base_offset + last.bytes.len() as u64).unwrap());
    assert!(rig.log.remove_segments_before(u64::MAX).is_empty(), "the high watermark is not known yet");
    rig.log.advance_high_watermark(u64::MAX);
    rig.log.remove_segments_before(u64::MAX);
    assert!(rig.log.segments().len() <= 2);
}

#[test]
fn the_high_watermark_never_moves_back_nor_past_what_is_durable() {
    let mut rig = Rig::new();
    let first = rig.append(&records(1, 10, 1));
    rig.append(&records(1, 10, 1));
    assert_eq!(rig.log.advance_high_watermark(u64::MAX).position, 0);
    rig.step(true);
    assert_eq!(rig.log.high_watermark().position, rig.log.durable_end());
    assert_eq!(rig.log.advance_high_watermark(first.end_position).position, rig.log.durable_end());
    assert_eq!(rig.log.mark_at(rig.log.log_end()).unwrap().record, 2);
    assert_eq!(rig.log.mark_at(77), None);
}

#[test]
fn an_opaque_batch_is_kept_byte_for_byte() {
    let mut rig = Rig::new();
    let bytes = b"not a record at all".to_vec();
    let flags = lance_messages::batch::BatchFlags::OPAQUE;
    let batch = NewBatch { flags, record_count: 1, ..rig.batch(&bytes, 1) };
    let appended = rig.try_append(&batch).unwrap();
    assert_eq!(appended.end_offset, bytes.len() as u64);
    rig.settle();
    rig.reopen().unwrap();
    rig.check();
}

#[test]
fn a_header_never_speaks_of_more_than_was_durable() {
    let mut rig = Rig::new();
    let bytes = records(1, 10, 1);
    for expected in [0, 119] {
        let batch = NewBatch { committed_through: u64::MAX, ..rig.batch(&bytes, 1) };
        let appended = rig.try_append(&batch).unwrap();
        rig.settle();
        let file = rig.memory.read_file(&dir().join(file_name(0))).unwrap();
        let seed = lance_messages::batch::BatchSeed::new(crate::rig::partition());
        let header = lance_messages::batch::BatchHeader::decode(&file[appended.position as usize..], seed).unwrap();
        assert_eq!(header.committed_through, expected);
    }
}

#[test]
fn retention_waits_for_a_state_that_knows_the_producers_of_what_goes() {
    let mut rig = Rig::new();
    rig.append_as(&records(1, 20, 1), 0).unwrap();
    // There are slots for these batches, and none for a state when one of them begins a segment.
    while rig.log.segments().len() < 4 {
        let mut taken: Vec<_> = std::iter::from_fn(|| rig.pool.take()).collect();
        taken.drain(..4).for_each(|slot| rig.pool.put(slot));
        rig.append(&records(1, 200_000, 2));
        taken.into_iter().for_each(|slot| rig.pool.put(slot));
        rig.settle();
    }
    rig.flushed = Some(rig.durable);
    let before = rig.log.segments()[2].base_position;
    let mut removed = rig.log.remove_segments_before(before);
    assert!(removed.is_empty(), "nothing saved knows the producer yet");
    for _ in 0..3 {
        rig.log.resume_chores(&mut rig.pool);
        rig.settle();
        if let Some(before) = rig.log.overdue_removal() {
            removed.extend(rig.log.remove_segments_before(before));
        }
    }
    assert_eq!(rig.log.log_start().position, before);
    lance_storage::segment::remove(&*rig.disk, &removed).unwrap();
    rig.known.retain(|known| known.position >= before);
    rig.reopen().unwrap();
    rig.learn_sequence();
    assert_eq!(rig.sequence, 1);
    assert_eq!(rig.log.overdue_removal(), None);
}

#[test]
fn an_opening_reads_no_further_than_the_log_was_ever_written() {
    for known in [false, true] {
        let mut rig = Rig::on(MemoryDisk::new(MemoryConfig::default()), MIN_SEGMENT_BYTES, 512 * 1024);
        rig.append(&records(3, 5_000, 1));
        rig.settle();
        rig.flushed = Some(rig.durable);
        let end = rig.log.log_end();
        // What nobody wrote lies behind.
        let path = dir().join(file_name(0));
        let file = rig.disk.open(&path, OpenMode::ReadWrite).unwrap();
        file.set_len(end + 200_000).unwrap();
        assert!(rig.memory.flip_bit(&path, end + 100_000, 0));
        rig.written = known.then_some(end);
        let report = rig.reopen().unwrap();
        assert_eq!((rig.log.log_end(), report.offline), (end, None));
        assert_eq!(report.truncated_bytes > 0, !known, "all of the file is read where that is not known");
        rig.check();
    }
}

#[test]
fn a_torn_tail_is_cut_where_it_is_known_how_far_the_log_was_written() {
    let mut rig = Rig::on(MemoryDisk::new(MemoryConfig::default()), MIN_SEGMENT_BYTES, 512 * 1024);
    rig.append(&records(3, 5_000, 1));
    rig.settle();
    rig.flushed = Some(rig.durable);
    let end = rig.log.log_end();
    rig.append(&records(1, 30_000, 2));
    rig.step(false);
    rig.written = Some(rig.log.log_end());
    let path = dir().join(file_name(0));
    assert!(rig.memory.flip_bit(&path, end + 20_000, 0));
    let report = rig.reopen().unwrap();
    assert_eq!((rig.log.log_end(), report.offline), (end, None));
    assert!(report.truncated_bytes > 0);
    rig.check();
}
