//! Readers, look-ups, retention and the scrubber over what a log has written.

use crate::rig::{Dice, Rig, records};
use lance_messages::batch::{BatchFlags, Codec};
use lance_storage::disk::OpenMode;
use lance_storage::log::NewBatch;
use lance_storage::reader::{Lookup, Piece, ReadError, ReadPlan, Reader};
use lance_storage::retention::{RetentionPolicy, expired};
use lance_storage::scrub::SegmentScrub;

/// Appends a bit of everything; answers the plain bytes and where each record starts.
fn fill(rig: &mut Rig, seed: u64, turns: u64) -> (Vec<u8>, Vec<u64>) {
    let (mut dice, mut plain, mut starts) = (Dice(seed), Vec::new(), Vec::new());
    for turn in 0..turns {
        let count = 1 + dice.below(4) as usize;
        let value_bytes = [30, 900, 20_000, 120_000][dice.below(4) as usize];
        let bytes = records(count, value_bytes, turn as u8);
        starts.extend((0..count).map(|at| (plain.len() + at * (value_bytes + 5)) as u64));
        plain.extend_from_slice(&bytes);
        if dice.below(4) == 0 {
            let stored = Codec::Zstd.compress(&bytes).unwrap();
            let flags = BatchFlags::RECORDS.with_codec(Some(Codec::Zstd));
            let batch =
                NewBatch { flags, plain_len: bytes.len() as u32, record_count: count as u32, ..rig.batch(&stored, 1) };
            rig.log.append(&batch, &mut rig.pool, &mut rig.tail).unwrap();
        } else {
            rig.append(&bytes);
        }
        if dice.below(9) == 0 {
            rig.append_control(1);
        }
        if dice.below(3) == 0 {
            rig.settle();
        }
    }
    rig.settle();
    (plain, starts)
}

fn bytes_of(plan: &ReadPlan) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in &plan.pieces {
        match piece {
            Piece::Inline(bytes) => out.extend_from_slice(bytes),
            Piece::File { file, file_offset, len } => {
                let mut part = vec![0; *len as usize];
                assert_eq!(file.read_at(&mut part, *file_offset).unwrap() as u64, *len);
                out.extend_from_slice(&part);
            }
        }
    }
    assert_eq!((out.len() as u64, crc32fast::hash(&out)), (plan.bytes, plan.crc));
    out
}

#[test]
fn a_consumer_far_behind_reads_everything_in_order() {
    for seed in 0..6 {
        let mut rig = Rig::new();
        let (plain, starts) = fill(&mut rig, seed, 80);
        assert!(rig.log.segments().len() > 2);
        for reopened in [false, true] {
            if reopened {
                rig.reopen().unwrap();
                let end = rig.log.durable_end();
                rig.log.advance_high_watermark(end);
            }
            let mut reader = Reader::new(&rig.disk, 2);
            let (mut dice, mut offset, mut count) = (Dice(seed), 0, 0);
            while let Some(slice) = rig.log.slice_at(offset).filter(|_| offset < plain.len() as u64) {
                let max_bytes = 1 + dice.below(400_000) as u32;
                let plan = reader.plan(&[slice], offset, max_bytes).unwrap();
                assert!(bytes_of(&plan) == plain[offset as usize..plan.next_offset as usize]);
                assert!(plan.bytes > 0 && plan.bytes <= u64::from(max_bytes));
                (offset, count) = (plan.next_offset, count + plan.record_count as usize);
            }
            assert_eq!((offset, count), (plain.len() as u64, starts.len()));
            let plan = reader.plan(&rig.log.view().slices, 0, u32::MAX).unwrap();
            assert!(bytes_of(&plan) == plain[..plan.next_offset as usize]);
        }
    }
}

#[test]
fn records_are_found_by_number_through_the_index() {
    let mut rig = Rig::new();
    let (_, starts) = fill(&mut rig, 7, 80);
    let (view, mut reader) = (rig.log.view(), Reader::new(&rig.disk, 2));
    for (number, start) in starts.iter().enumerate() {
        let found = reader.find(&view.slices, Lookup::Record(number as u64)).unwrap().unwrap();
        assert_eq!((found.offset, found.record), (*start, number as u64));
    }
    assert_eq!(reader.find(&view.slices, Lookup::Record(starts.len() as u64)).unwrap(), None);
}

#[test]
fn what_retention_removes_is_refused_and_the_rest_is_read() {
    let mut rig = Rig::new();
    let (plain, _) = fill(&mut rig, 8, 80);
    let (old, mut reader) = (rig.log.slice_at(0).unwrap(), Reader::new(&rig.disk, 2));
    let policy = RetentionPolicy::from_wire(0, 2 << 20);
    let expiry = expired(&rig.log.segments(), policy, rig.log.high_watermark().position, 0).unwrap();
    let removed = rig.log.remove_segments_before(expiry.keep_from);
    assert_eq!(removed.len(), expiry.segments);
    for segment in &removed {
        rig.disk.remove_file(segment.path()).unwrap();
    }
    assert!(matches!(reader.plan(&[old], 0, 100), Err(ReadError::Removed { position: 0, .. })));
    assert!(rig.log.bytes() >= 2 << 20);
    let start = rig.log.log_start().offset;
    let plan = reader.plan(&rig.log.view().slices, start, 1 << 20).unwrap();
    assert!(plan.bytes > 0 && bytes_of(&plan) == plain[start as usize..plan.next_offset as usize]);
}

#[test]
fn what_a_log_writes_is_sound() {
    let mut rig = Rig::new();
    fill(&mut rig, 9, 80);
    let mut bytes = 0;
    for segment in rig.log.closed_segments() {
        let file = rig.disk.open(segment.path(), OpenMode::Read).unwrap();
        let report = SegmentScrub::new(segment, file).unwrap().step(u64::MAX).unwrap().unwrap();
        assert!(report.damages.is_empty(), "{report:?}");
        bytes += report.bytes;
    }
    assert!(bytes > 0 && bytes < rig.log.log_end());
}
