//! Reads from the tail ring and the choice of segments.

use crate::rig::{Dice, Rig, records};
use bytes::BytesMut;
use lance_messages::record::count_records;
use lance_storage::log::{LogRead, TailRead};

fn read(rig: &Rig, offset: u64, max_bytes: usize) -> (LogRead, Vec<u8>) {
    let mut out = BytesMut::new();
    let answer = rig.log.read(offset, max_bytes, &rig.tail, &mut out);
    (answer, out.to_vec())
}

fn tail(rig: &Rig, offset: u64, max_bytes: usize) -> (TailRead, Vec<u8>) {
    match read(rig, offset, max_bytes) {
        (LogRead::Tail(tail), bytes) => (tail, bytes),
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn only_what_is_below_the_high_watermark_is_served() {
    let mut rig = Rig::new();
    rig.append(&records(1, 10, 1));
    assert!(matches!(read(&rig, 0, 100).0, LogRead::Empty));
    rig.settle();
    rig.append(&records(1, 10, 2));
    let (answer, bytes) = tail(&rig, 0, 100);
    assert_eq!(bytes, records(1, 10, 1));
    assert_eq!(
        answer,
        TailRead {
            next_offset: 15,
            record_count: 1,
            bytes: 15,
            crc: crc32fast::hash(&bytes),
            timestamp_ns: rig.clock - 1,
        }
    );
    assert!(matches!(read(&rig, 15, 100).0, LogRead::Empty));
    assert!(matches!(read(&rig, 16, 100).0, LogRead::OutOfRange { log_start: 0, end: 15 }));
}

#[test]
fn a_read_ends_at_a_batch_else_at_a_record_else_inside_one() {
    let mut rig = Rig::new();
    let batch = records(3, 95, 1);
    rig.append(&batch);
    rig.append(&batch);
    rig.settle();
    assert_eq!(tail(&rig, 0, 599).0.next_offset, 300, "a whole batch");
    assert_eq!(tail(&rig, 0, 600).0.next_offset, 600);
    let (cut, bytes) = tail(&rig, 0, 250);
    assert_eq!((cut.next_offset, cut.record_count), (200, 2));
    assert_eq!(count_records(&bytes), Some(2));
    assert_eq!(tail(&rig, 0, 50).0.next_offset, 50, "a record longer than that");
    let (rest, bytes) = tail(&rig, 50, 200);
    assert_eq!((rest.next_offset, rest.record_count), (200, 1));
    assert_eq!(bytes, batch[50..200]);
}

#[test]
fn random_reads_of_the_tail_agree_with_what_was_appended() {
    let mut rig = Rig::new();
    let mut dice = Dice(11);
    let mut plain = Vec::new();
    for turn in 0..120 {
        if turn % 17 == 0 {
            rig.append_control(turn + 1);
        }
        let bytes = records(1 + dice.below(5) as usize, dice.below(3000) as usize, turn as u8);
        plain.extend_from_slice(&bytes);
        rig.append(&bytes);
        rig.settle();
    }
    let mut served = 0;
    for _ in 0..2000 {
        let offset = dice.below(plain.len() as u64);
        let max_bytes = 1 + dice.below(20_000) as usize;
        if let (LogRead::Tail(answer), bytes) = read(&rig, offset, max_bytes) {
            served += 1;
            let end = answer.next_offset as usize;
            assert_eq!(bytes, plain[offset as usize..end]);
            assert!(bytes.len() == answer.bytes && (1..=max_bytes).contains(&bytes.len()));
            assert_eq!(answer.crc, crc32fast::hash(&bytes));
        }
    }
    assert!(served > 1000);
}

#[test]
fn what_has_left_the_ring_is_found_in_its_segment() {
    let mut rig = Rig::new();
    for turn in 0..60 {
        rig.append(&records(1, 90_000, turn));
        rig.step(true);
    }
    rig.settle();
    let known = rig.known.clone();
    let mut from_segments = 0;
    for batch in &known {
        for offset in [batch.base_offset, batch.base_offset + 7, batch.base_offset + batch.bytes.len() as u64 - 1] {
            match read(&rig, offset, 1 << 20).0 {
                LogRead::Segments(slice) => {
                    from_segments += 1;
                    let base = slice.segment.base();
                    assert!(base.offset <= offset && offset < slice.limit.offset);
                    assert!(slice.start_offset <= offset);
                    assert!(known.iter().any(|known| known.position == slice.start_position));
                    assert_eq!(slice.closed, slice.segment.end().is_some());
                }
                LogRead::Tail(answer) => assert!(answer.bytes > 0),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(from_segments > 100);
    assert_eq!(rig.log.view().slices.len(), rig.log.segments().len());
}

#[test]
fn a_compressed_batch_is_left_to_the_readers() {
    use lance_messages::batch::{BatchFlags, Codec};
    use lance_storage::log::NewBatch;
    let mut rig = Rig::new();
    let packed = vec![9; 50];
    let flags = BatchFlags::RECORDS.with_codec(Some(Codec::Lz4));
    let batch = NewBatch { flags, plain_len: 500, record_count: 5, ..rig.batch(&packed, 1) };
    let appended = rig.log.append(&batch, &mut rig.pool, &mut rig.tail).unwrap();
    assert_eq!(appended.end_offset, 500);
    rig.settle();
    assert!(matches!(read(&rig, 0, 1000).0, LogRead::Segments(_)));
}
