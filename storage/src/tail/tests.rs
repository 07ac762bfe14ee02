//! Overwriting, chains and look-ups of the tail ring.

use super::*;
use lance_messages::batch::BatchSeed;
use lance_messages::id::{LeaderEpoch, TopicId};
use lance_messages::sort_key::SortKey;
use proptest::prelude::*;

fn partition(number: u16) -> TopicPartition {
    TopicPartition::new(TopicId(1), number)
}

/// Of a batch with `before` others before it.
fn header(before: u64, base_offset: u64, len: usize) -> BatchHeader {
    BatchHeader {
        flags: BatchFlags::RECORDS,
        records_crc: 0,
        position: base_offset + 104 * before,
        base_offset,
        base_record: 0,
        stored_len: len as u32,
        plain_len: len as u32,
        record_count: 1,
        leader_epoch: LeaderEpoch(1),
        committed_through: 0,
        sort_key: SortKey(0),
        max_timestamp_ns: 0,
        producer: None,
    }
}

fn push(ring: &mut TailRing, number: u16, header: &BatchHeader, fill: u8, last: TailNumber) -> TailNumber {
    let raw = header.encode(BatchSeed::new(partition(number)));
    ring.push(partition(number), header, &raw, &vec![fill; header.stored_len as usize], last)
}

#[test]
fn a_batch_is_found_by_any_offset_or_position_inside_it() {
    let mut ring = TailRing::new(4096);
    let first = push(&mut ring, 0, &header(1, 100, 10), 1, TailNumber::default());
    let second = push(&mut ring, 0, &header(2, 110, 20), 2, first);
    assert_eq!(ring.find(partition(0), 100, second), Some(first));
    assert_eq!(ring.find(partition(0), 109, second), Some(first));
    assert_eq!(ring.find(partition(0), 110, second), Some(second));
    assert_eq!(ring.find(partition(0), 130, second), None);
    assert_eq!(ring.find(partition(0), 99, second), None);
    assert_eq!(ring.find(partition(1), 100, second), None);
    for (position, found) in [(203, None), (204, Some(first)), (317, Some(first)), (318, Some(second)), (442, None)] {
        assert_eq!(ring.find_position(partition(0), position, second), found, "{position}");
    }
    let entry = ring.entry(first).unwrap();
    assert_eq!(ring.stored(entry), [1; 10]);
    assert_eq!(ring.batch(entry)[..104], header(1, 100, 10).encode(BatchSeed::new(partition(0))));
    assert_eq!(ring.next(entry), Some(second));
}

#[test]
fn a_control_batch_holds_no_offset_and_breaks_no_chain() {
    let mut ring = TailRing::new(4096);
    let first = push(&mut ring, 0, &header(0, 0, 10), 1, TailNumber::default());
    let control = BatchHeader { flags: BatchFlags::CONTROL, plain_len: 0, stored_len: 4, ..header(1, 10, 0) };
    let second = push(&mut ring, 0, &control, 2, first);
    assert_eq!((ring.find(partition(0), 9, second), ring.find(partition(0), 10, second)), (Some(first), None));
    let third = push(&mut ring, 0, &BatchHeader { position: control.end_position(), ..header(2, 10, 5) }, 3, second);
    assert_eq!((ring.find(partition(0), 9, third), ring.find(partition(0), 10, third)), (Some(first), Some(third)));
    assert_eq!(ring.find_position(partition(0), control.position, third), Some(second));
}

#[test]
fn the_oldest_bytes_go_first() {
    let mut ring = TailRing::new(308);
    let first = push(&mut ring, 0, &header(0, 0, 60), 1, TailNumber::default());
    let second = push(&mut ring, 0, &header(1, 60, 40), 2, first);
    assert!(ring.entry(first).is_some());
    let third = push(&mut ring, 0, &header(2, 100, 10), 3, second);
    assert!(ring.entry(first).is_none());
    assert_eq!(ring.find(partition(0), 59, third), None);
    assert_eq!(ring.find(partition(0), 60, third), Some(second));
}

#[test]
fn a_batch_larger_than_the_ring_breaks_the_chain() {
    let mut ring = TailRing::new(204);
    let first = push(&mut ring, 0, &header(0, 0, 60), 1, TailNumber::default());
    let huge = push(&mut ring, 0, &header(1, 60, 101), 2, first);
    assert_eq!(huge, TailNumber::default());
    let third = push(&mut ring, 0, &header(2, 161, 10), 3, huge);
    assert_eq!(ring.find(partition(0), 0, third), None);
    assert_eq!(ring.find(partition(0), 165, third), Some(third));
}

#[test]
fn an_empty_ring_keeps_nothing() {
    let mut ring = TailRing::new(0);
    let number = push(&mut ring, 0, &header(0, 0, 1), 1, TailNumber::default());
    assert!(ring.entry(number).is_none());
}

proptest! {
    /// Whatever was pushed: a look-up answers the right bytes or nothing, and the newest batches are always there.
    #[test]
    fn look_ups_agree_with_a_model(
        capacity in 1usize..5000,
        pushes in prop::collection::vec((0u16..3, 1usize..400), 1..400),
        probes in prop::collection::vec((0u16..3, 0u64..40_000), 50)
    ) {
        let mut ring = TailRing::new(capacity);
        let mut last = [TailNumber::default(); 3];
        let mut logs: [Vec<u8>; 3] = Default::default();
        let mut counts = [0; 3];
        for (turn, (number, len)) in pushes.into_iter().enumerate() {
            let log = &mut logs[usize::from(number)];
            let header = header(counts[usize::from(number)], log.len() as u64, len);
            counts[usize::from(number)] += 1;
            let newest = push(&mut ring, number, &header, turn as u8, last[usize::from(number)]);
            last[usize::from(number)] = newest;
            if 104 + len <= capacity {
                prop_assert_eq!(ring.find(partition(number), log.len() as u64, newest), Some(newest));
                prop_assert_eq!(ring.find_position(partition(number), header.position, newest), Some(newest));
            }
            log.extend(vec![turn as u8; len]);
        }
        for (number, offset) in probes {
            let log = &logs[usize::from(number)];
            if let Some(found) = ring.find(partition(number), offset, last[usize::from(number)]) {
                let entry = ring.entry(found).unwrap();
                prop_assert!(entry.base_offset <= offset && offset < entry.end_offset);
                prop_assert_eq!(ring.stored(entry), &log[entry.base_offset as usize..entry.end_offset as usize]);
            }
        }
    }
}
