//! Fetches and look-ups over segments made byte by byte, whole and damaged.

pub(crate) mod maker;

use super::*;
use crate::segment::{Mark, Segment, SegmentSlice};
use bytes::BytesMut;
use lance_messages::batch::{BATCH_HEADER_BYTES, Codec};
use lance_messages::id::TopicId;
use maker::{Files, Maker};
use std::path::Path;

const MAX: u32 = u32::MAX;

/// A bit of everything over three segments.
fn mixture() -> Maker {
    let mut maker = Maker::new();
    maker.control();
    for round in 0..40 {
        maker.batch(&[10, 0, 200, 5], None).batch(&[1000 + round], None);
    }
    maker.batch(&[30_000, 20_000, 16_000], None).control().opaque(70_000);
    maker.batch(&[500; 300], Some(Codec::Lz4));
    maker.roll();
    maker.control().batch(&[100_000], None).batch(&[65_000], None).opaque(3);
    maker.batch(&[400; 50], Some(Codec::Zstd)).batch(&[2_000_000, 7], None);
    maker.roll();
    for _ in 0..60 {
        maker.batch(&[3_000; 10], None);
    }
    maker.batch(&[1_500_000], None).control();
    maker
}

fn bytes_of(plan: &ReadPlan) -> Vec<u8> {
    let mut out = BytesMut::new();
    for piece in &plan.pieces {
        match piece {
            Piece::Inline(bytes) => out.extend_from_slice(bytes),
            Piece::File { file, file_offset, len } => {
                assert!(*len >= 32 * 1024);
                let mut part = vec![0; *len as usize];
                assert_eq!(plan::read_full(file, &mut part, *file_offset, false).unwrap() as u64, *len);
                out.extend_from_slice(&part);
            }
        }
    }
    assert_eq!(out.len() as u64, plan.bytes);
    assert_eq!(crc32fast::hash(&out), plan.crc);
    out.to_vec()
}

/// Checks one plan against the log it comes from.
fn check(maker: &Maker, reader: &mut Reader, slices: &[SegmentSlice], offset: u64, max_bytes: u32) -> u64 {
    let first = slices.iter().rposition(|slice| slice.start_offset <= offset).unwrap();
    let plan = reader.plan(&slices[first..], offset, max_bytes).unwrap();
    let got = bytes_of(&plan);
    assert!(got == maker.plain[offset as usize..][..got.len()], "bytes at {offset}");
    assert_eq!(plan.next_offset, offset + got.len() as u64);
    assert!(got.len() as u64 <= u64::from(max_bytes));
    let count = maker.records.iter().filter(|start| (offset..plan.next_offset).contains(start)).count();
    assert_eq!(plan.record_count as usize, count, "records from {offset} to {}", plan.next_offset);
    assert!(!got.is_empty() || max_bytes == 0 || offset == maker.plain.len() as u64);
    plan.next_offset
}

#[test]
fn every_fetch_size_reads_the_whole_log_back() {
    let maker = mixture();
    for max_bytes in [777, 4_096, 65_536, 65_541, 100_005, 1 << 20, 3 << 20, MAX] {
        let (files, slices) = maker.make();
        let (mut reader, mut offset) = (files.reader(), 0);
        while offset < maker.plain.len() as u64 {
            offset = check(&maker, &mut reader, &slices, offset, max_bytes);
        }
        assert_eq!(check(&maker, &mut reader, &slices, offset, max_bytes), offset);
    }
}

#[test]
fn any_offset_may_be_asked_for() {
    let maker = mixture();
    let (files, slices) = maker.make();
    let mut reader = files.reader();
    let mut offset = 0;
    while offset < maker.plain.len() as u64 {
        for max_bytes in [1, 50, 1_000, 40_000] {
            check(&maker, &mut reader, &slices, offset, max_bytes);
        }
        offset += 1 + offset % 977 + offset / 100;
    }
}

#[test]
fn a_reply_ends_behind_a_batch_else_a_record_and_inside_one_only_when_it_must() {
    let mut maker = Maker::new();
    maker.batch(&[95; 10], None).batch(&[95; 10], None).batch(&[9_995], None);
    let (files, slices) = maker.make();
    let mut reader = files.reader();
    for (offset, max_bytes, next_offset) in [
        (0, 1_999, 1_000),
        (0, 2_000, 2_000),
        (0, 999, 900),
        (0, 99, 99),
        (950, 1_000, 1_000),
        (950, 1_050, 2_000),
        (2_000, 5_000, 7_000),
        (7_000, 5_000, 12_000),
    ] {
        assert_eq!(check(&maker, &mut reader, &slices, offset, max_bytes), next_offset, "{offset} {max_bytes}");
    }
}

#[test]
fn nothing_at_or_above_the_limit_is_served() {
    let mut maker = Maker::new();
    maker.batch(&[100], None).batch(&[40_000], None);
    let limit = maker.end();
    maker.batch(&[100], None);
    for closed in [true, false] {
        let (files, mut slice) = maker.changed(closed, |_| {});
        slice.limit = limit;
        let plan = files.reader().plan(&[slice], 0, MAX).unwrap();
        assert_eq!((plan.next_offset, plan.record_count), (105 + 40_005, 2));
        bytes_of(&plan);
    }
}

#[test]
fn large_batches_of_closed_segments_go_from_file_to_socket_after_one_check() {
    let mut maker = Maker::new();
    for _ in 0..16 {
        maker.batch(&[65_531], None);
    }
    let (files, slice) = maker.changed(true, |_| {});
    let mut reader = files.reader();
    for expected_reads in [1 + 16 + 15, 16] {
        let before = files.reads(&slice);
        let plan = reader.plan(std::slice::from_ref(&slice), 0, 1 << 20).unwrap();
        assert_eq!(files.reads(&slice) - before, expected_reads);
        assert!(plan.pieces.iter().all(|piece| matches!(piece, Piece::File { .. })));
        assert_eq!((plan.pieces.len(), plan.bytes), (16, 1 << 20));
        bytes_of(&plan);
    }
    // What another thread has checked need not be checked again, until a scrub finds damage.
    let before = files.reads(&slice);
    files.reader().plan(std::slice::from_ref(&slice), 0, 1 << 20).unwrap();
    assert_eq!(files.reads(&slice) - before, 16);
    slice.segment.set_verified(false);
    let before = files.reads(&slice);
    files.reader().plan(std::slice::from_ref(&slice), 0, 1 << 20).unwrap();
    assert_eq!(files.reads(&slice) - before, 1 + 16 + 15);
}

#[test]
fn small_batches_come_in_one_piece_from_few_reads() {
    let mut maker = Maker::new();
    for _ in 0..2_000 {
        maker.batch(&[1_019], None);
    }
    for closed in [true, false] {
        let (files, mut slice) = maker.changed(closed, |_| {});
        // The log knows the way through its active segment.
        if !closed {
            (slice.start_position, slice.start_offset) = (900 * 1_128, 900 * 1_024);
        }
        let plan = files.reader().plan(std::slice::from_ref(&slice), 1_000 * 1_024, 1 << 20).unwrap();
        assert_eq!((plan.pieces.len(), plan.record_count), (1, 1_000));
        // The test's files give 300,000 bytes at most at a time.
        assert!(files.reads(&slice) <= 8, "{}", files.reads(&slice));
        bytes_of(&plan);
    }
}

#[test]
fn a_flipped_bit_is_an_error_and_never_data() {
    let mut maker = Maker::new();
    maker.batch(&[300, 20], None).control().batch(&[40_000], None);
    maker.batch(&[900; 9], Some(Codec::Lz4)).opaque(50);
    let len = maker.parts[0].bytes.len();
    for at in (0..len).filter(|at| at % 97 == 0 || at % 1_000 < 30) {
        for closed in [true, false] {
            let (files, slice) = maker.changed(closed, |bytes| bytes[at] ^= 1 << (at % 8));
            for max_bytes in [200, MAX] {
                read_until_damage(&maker, &mut files.reader(), &slice, max_bytes);
            }
        }
    }
}

/// Reads on until an error comes, which must be before the end of the log; all data before it must be right.
fn read_until_damage(maker: &Maker, reader: &mut Reader, slice: &SegmentSlice, max_bytes: u32) {
    let mut offset = 0;
    for _ in 0..1_000 {
        match reader.plan(std::slice::from_ref(slice), offset, max_bytes) {
            Err(ReadError::Damaged { position, .. }) => return assert!(position < maker.position),
            Err(other) => panic!("{other}"),
            Ok(plan) => {
                // The body of a control batch is served to nobody, so that all data was read.
                if plan.bytes == 0 {
                    return assert_eq!(offset, maker.plain.len() as u64);
                }
                let got = bytes_of(&plan);
                assert!(got == maker.plain[offset as usize..][..got.len()]);
                offset = plan.next_offset;
            }
        }
    }
    panic!("no end");
}

#[test]
fn hostile_files_never_panic() {
    let maker = mixture();
    let mut state = 1u64;
    for round in 0..300 {
        let (mut files, slices) = maker.make_files();
        let slice = slices[round % 3].clone();
        let mut bytes = maker.parts[round % 3].bytes.clone();
        for _ in 0..1 + round % 5 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 33) as usize % bytes.len();
            match round % 4 {
                0 => bytes[at..].fill(0),
                1 => bytes.truncate(at + 1),
                2 => bytes[at] = (state >> 20) as u8,
                _ => bytes.rotate_left(at),
            }
        }
        files.put(slice.segment.path(), bytes);
        let mut reader = Arc::new(files).reader();
        for offset in [slice.start_offset, slice.start_offset + 50_000] {
            if let Ok(plan) = reader.plan(std::slice::from_ref(&slice), offset, 1 << 20) {
                let got = bytes_of(&plan);
                assert!(got == maker.plain[offset as usize..][..got.len()]);
            }
        }
        if let Ok(Some(found)) = reader.find(&[slice], Lookup::Record(50)) {
            assert!(found.record >= 50);
        }
    }
}

#[test]
fn a_batch_of_another_partition_is_refused() {
    let mut maker = Maker::new();
    maker.batch(&[100], None);
    let (files, mut slice) = maker.changed(false, |_| {});
    let other = TopicPartition::new(TopicId(8), 3);
    slice.segment = Arc::new(Segment::new(Path::new("log"), other, Mark::default()));
    let refused = files.reader().plan(&[slice], 0, MAX);
    assert!(matches!(refused, Err(ReadError::Damaged { position: 0, .. })), "{refused:?}");
}

#[test]
fn an_offset_below_the_slices_is_named() {
    let (files, slices) = mixture().make();
    let refused = files.reader().plan(&slices[1..], 5, MAX);
    assert!(matches!(refused, Err(ReadError::BelowStart { offset: 5, .. })), "{refused:?}");
}

#[test]
fn a_segment_that_retention_removed_is_told_from_a_failing_disk() {
    let (_, slices) = mixture().make();
    let refused = Arc::new(Files::default()).reader().plan(&slices, 5, MAX);
    assert!(matches!(refused, Err(ReadError::Removed { position: 0, .. })), "{refused:?}");
}

#[test]
fn replies_are_capped_whatever_is_asked_for() {
    let mut maker = Maker::new();
    for _ in 0..5 {
        maker.batch(&[4 << 20], None);
    }
    let (files, slices) = maker.make();
    let plan = files.reader().plan(&slices, 0, MAX).unwrap();
    assert_eq!(plan.bytes, 3 * ((4 << 20) + 5));
    let mut maker = Maker::new();
    maker.opaque(16 << 20);
    let (files, slices) = maker.make();
    let plan = files.reader().plan(&slices, 0, MAX).unwrap();
    assert_eq!(plan.bytes, u64::from(MAX_REPLY_DATA_BYTES));
    assert_eq!(plan.bytes as usize + 44 + 16, 16 << 20);
}

#[test]
fn a_large_batch_taken_in_parts_is_read_once() {
    let mut maker = Maker::new();
    maker.batch(&[10_000; 300], Some(Codec::Lz4)).batch(&[10_000; 300], None);
    let (files, slice) = maker.changed(false, |_| {});
    let (mut reader, mut offset) = (files.reader(), 0);
    while offset < maker.plain.len() as u64 {
        offset = check(&maker, &mut reader, std::slice::from_ref(&slice), offset, 50_000);
    }
    // 120 replies with some headers each; the 3 MB of a batch in 11 of the test's short reads.
    let reads = files.reads(&slice);
    assert!(reads < 120 * 3, "{reads}");
}

#[test]
fn records_times_and_keys_are_found() {
    let maker = mixture();
    let (files, slices) = maker.make();
    let mut reader = files.reader();
    for (number, offset) in maker.records.iter().enumerate().step_by(7) {
        let found = reader.find(&slices, Lookup::Record(number as u64)).unwrap().unwrap();
        assert_eq!((found.offset, found.record), (*offset, number as u64));
    }
    assert_eq!(reader.find(&slices, Lookup::Record(maker.record)).unwrap(), None);
    for (number, offset) in maker.records.iter().enumerate().skip(1).step_by(7) {
        for before in [0, 1, 2] {
            let found = reader.find(&slices, Lookup::Offset(offset - before)).unwrap().unwrap();
            assert_eq!((found.offset, found.record), (*offset, number as u64));
        }
    }
    assert_eq!(reader.find(&slices, Lookup::Offset(maker.plain.len() as u64)).unwrap(), None);
    // Ascending times find ascending batches, each the first at or after its time.
    let mut batches = Vec::new();
    for time in 0..=maker.time {
        let Some(found) = reader.find(&slices, Lookup::AppendTime(time)).unwrap() else {
            continue;
        };
        assert!(found.sort_key.timestamp_ns() >= time);
        assert_eq!(reader.find(&slices, Lookup::SortKey(found.sort_key)).unwrap(), Some(found));
        batches.push(found.offset);
    }
    batches.dedup();
    assert_eq!(batches, maker.batches);
    assert_eq!(reader.find(&slices, Lookup::AppendTime(maker.time + 1)).unwrap(), None);
}

#[test]
fn a_missing_index_only_costs_hops() {
    let maker = mixture();
    let (mut files, slices) = maker.make_files();
    files.0.retain(|path, _| path.extension() != Some("idx".as_ref()));
    let mut reader = Arc::new(files).reader();
    for offset in [0, 50_000, 500_000, 3_000_000] {
        check(&maker, &mut reader, &slices, offset, 10_000);
    }
    let number = maker.records.len() - 1;
    let found = reader.find(&slices, Lookup::Record(number as u64)).unwrap().unwrap();
    assert_eq!(found.offset, maker.records[number]);
}

#[test]
fn a_batch_shorter_than_its_header_says_is_damage() {
    let mut maker = Maker::new();
    maker.batch(&[100_000], None);
    for closed in [true, false] {
        let (files, slice) = maker.changed(closed, |bytes| bytes.truncate(BATCH_HEADER_BYTES + 500));
        assert!(matches!(files.reader().plan(&[slice], 0, MAX), Err(ReadError::Damaged { .. })));
    }
}

#[test]
fn what_is_copied_stays_within_its_limit_and_files_do_not_count() {
    let mut maker = Maker::new();
    for _ in 0..20 {
        maker.batch(&[10_000], None);
    }
    maker.batch(&[200_000], None).batch(&[90, 90, 150_000, 90], None);
    for (closed, ends) in [(true, [100_050, 550_395]), (false, [100_050, 200_100])] {
        let (files, slice) = maker.changed(closed, |_| {});
        let mut reader = files.reader();
        let first = reader.plan_within(std::slice::from_ref(&slice), 0, MAX, 105_000).unwrap();
        assert_eq!(first.next_offset, ends[0]);
        bytes_of(&first);
        let second = reader.plan_within(std::slice::from_ref(&slice), first.next_offset, MAX, 105_000).unwrap();
        assert_eq!(second.next_offset, ends[1]);
        bytes_of(&second);
    }
    // A record longer than the limit is not cut inside while the fetch has room for it, and ends the reply.
    let (files, slice) = maker.changed(false, |_| {});
    let mut reader = files.reader();
    for (offset, next_offset) in [(200_100, 400_105), (400_105, 400_295), (400_295, 550_300), (550_300, 550_395)] {
        let plan = reader.plan_within(std::slice::from_ref(&slice), offset, MAX, 1_000).unwrap();
        assert_eq!(plan.next_offset, next_offset);
        assert_eq!(bytes_of(&plan), &maker.plain[offset as usize..next_offset as usize]);
    }
}

#[test]
fn a_reply_names_the_time_of_its_newest_batch() {
    let mut maker = Maker::new();
    maker.batch(&[100], None).batch(&[100], None).control().batch(&[100], Some(Codec::Lz4));
    for (max_bytes, timestamp_ns) in [(105, 1_010), (210, 1_020), (250, 1_020), (MAX, 1_040)] {
        let (files, slices) = maker.make();
        assert_eq!(files.reader().plan(&slices, 0, max_bytes).unwrap().timestamp_ns, timestamp_ns);
    }
    let (files, slices) = maker.make();
    assert_eq!(files.reader().plan(&slices, 315, MAX).unwrap().timestamp_ns, 0);
}
