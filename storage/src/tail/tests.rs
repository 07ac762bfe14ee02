//! Overwriting, chains and look-ups of the tail ring.

use super::*;
use lance_messages::id::{LeaderEpoch, TopicId};
use lance_messages::sort_key::SortKey;
use proptest::prelude::*;

fn partition(number: u16) -> TopicPartition {
    TopicPartition::new(TopicId(1), number)
}

fn header(base_offset: u64, len: usize) -> BatchHeader {
    BatchHeader {
        flags: BatchFlags::RECORDS,
        records_crc: 0,
        position: base_offset * 2,
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

#[test]
fn a_batch_is_found_by_any_offset_inside_it() {
    let mut ring = TailRing::new(4096);
    let first = ring.push(partition(0), &header(100, 10), &[1; 10], TailNumber::default());
    let second = ring.push(partition(0), &header(110, 20), &[2; 20], first);
    assert_eq!(ring.find(partition(0), 100, second), Some(first));
    assert_eq!(ring.find(partition(0), 109, second), Some(first));
    assert_eq!(ring.find(partition(0), 110, second), Some(second));
    assert_eq!(ring.find(partition(0), 130, second), None);
    assert_eq!(ring.find(partition(0), 99, second), None);
    assert_eq!(ring.find(partition(1), 100, second), None);
    let entry = ring.entry(first).unwrap();
    assert_eq!(ring.stored(entry), [1; 10]);
    assert_eq!(ring.next(entry), Some(second));
}

#[test]
fn the_oldest_bytes_go_first() {
    let mut ring = TailRing::new(100);
    let first = ring.push(partition(0), &header(0, 60), &[1; 60], TailNumber::default());
    let second = ring.push(partition(0), &header(60, 40), &[2; 40], first);
    assert!(ring.entry(first).is_some());
    let third = ring.push(partition(0), &header(100, 10), &[3; 10], second);
    assert!(ring.entry(first).is_none());
    assert_eq!(ring.find(partition(0), 59, third), None);
    assert_eq!(ring.find(partition(0), 60, third), Some(second));
}

#[test]
fn a_batch_larger_than_the_ring_breaks_the_chain() {
    let mut ring = TailRing::new(100);
    let first = ring.push(partition(0), &header(0, 60), &[1; 60], TailNumber::default());
    let huge = ring.push(partition(0), &header(60, 101), &[2; 101], first);
    assert_eq!(huge, TailNumber::default());
    let third = ring.push(partition(0), &header(161, 10), &[3; 10], huge);
    assert_eq!(ring.find(partition(0), 0, third), None);
    assert_eq!(ring.find(partition(0), 165, third), Some(third));
}

#[test]
fn an_empty_ring_keeps_nothing() {
    let mut ring = TailRing::new(0);
    let number = ring.push(partition(0), &header(0, 1), &[1], TailNumber::default());
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
        for (turn, (number, len)) in pushes.into_iter().enumerate() {
            let log = &mut logs[usize::from(number)];
            let stored = vec![turn as u8; len];
            let header = header(log.len() as u64, len);
            last[usize::from(number)] = ring.push(partition(number), &header, &stored, last[usize::from(number)]);
            if len <= capacity {
                prop_assert_eq!(ring.find(partition(number), log.len() as u64, last[usize::from(number)]),
                    Some(last[usize::from(number)]));
            }
            log.extend(stored);
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
