//! The board under any order of events.

use super::*;
use crate::consumer::ConsumedRecord;
use proptest::prelude::*;

fn key(partition: u16) -> Key {
    Key::new("events", partition)
}

fn chunk(ask: &Ask, bytes: u64) -> ConsumedChunk {
    let record = ConsumedRecord { offset: ask.offset, next_offset: ask.offset + bytes, ..ConsumedRecord::default() };
    ConsumedChunk {
        topic: Arc::clone(&ask.key.topic),
        partition: ask.key.partition,
        next_offset: record.next_offset,
        records: vec![record],
        high_watermark: None,
    }
}

fn asks(board: &mut Board, reader: ReaderId) -> Vec<Ask> {
    match board.plan(reader, 1 << 20) {
        Plan::Ask { asks, .. } => asks,
        _ => Vec::new(),
    }
}

/// A board with one reader and this partition.
fn reading(partition: u16, offset: u64) -> (Board, ReaderId) {
    let mut board = Board::new(1 << 20);
    let reader = board.add_reader();
    board.assign(key(partition), offset);
    board.place(&key(partition), reader, TopicId(1));
    (board, reader)
}

#[test]
fn what_was_asked_for_before_a_seek_is_refused_and_what_was_fetched_is_dropped() {
    let (mut board, reader) = reading(0, 100);
    let old = asks(&mut board, reader).remove(0);
    assert!(board.offer(reader, &old, chunk(&old, 10), 10));
    let next = asks(&mut board, reader).remove(0);
    assert_eq!(next.offset, 110);
    assert!(board.seek(&key(0), 500));
    assert!(board.take().is_none());
    assert!(!board.offer(reader, &next, chunk(&next, 10), 10));
    assert!(board.overtakes(reader, &[next]));
    let new = asks(&mut board, reader).remove(0);
    assert_eq!(new.offset, 500);
    assert!(board.offer(reader, &new, chunk(&new, 10), 10));
    assert_eq!(board.take().unwrap().unwrap().next_offset, 510);
    assert_eq!(board.held_bytes(), 0);
}

#[test]
fn a_paused_partition_keeps_its_position_and_takes_no_room() {
    let (mut board, reader) = reading(0, 100);
    let ask = asks(&mut board, reader).remove(0);
    board.offer(reader, &ask, chunk(&ask, 10), 10);
    board.pause(&key(0));
    assert!(board.take().is_none());
    assert_eq!((board.held_bytes(), board.position(&key(0))), (0, Some(100)));
    assert_eq!(board.plan(reader, 1 << 20), Plan::Wait);
    board.resume(&key(0));
    assert_eq!(asks(&mut board, reader)[0].offset, 100);
}

#[test]
fn a_reader_waits_while_its_share_is_full_and_ends_without_partitions() {
    let mut board = Board::new(100_000);
    let (one, two) = (board.add_reader(), board.add_reader());
    for (partition, reader) in [(0, one), (1, two)] {
        board.assign(key(partition), 0);
        board.place(&key(partition), reader, TopicId(1));
    }
    let Plan::Ask { asks, max_bytes } = board.plan(one, 1 << 20) else { panic!("there is room") };
    assert_eq!(max_bytes, 50_000);
    board.offer(one, &asks[0], chunk(&asks[0], 40_000), 40_000);
    assert_eq!(board.plan(one, 1 << 20), Plan::Wait);
    assert!(matches!(board.plan(two, 1 << 20), Plan::Ask { max_bytes: 50_000, .. }));
    board.take();
    assert!(matches!(board.plan(one, 1 << 20), Plan::Ask { .. }));
    board.unassign(&key(0));
    assert_eq!(board.plan(one, 1 << 20), Plan::End);
    assert!(!board.place(&key(1), one, TopicId(1)), "it has ended");
}

#[test]
fn a_failure_comes_after_what_was_fetched_before_and_not_at_all_for_what_is_read_no_more() {
    let (mut board, reader) = reading(0, 0);
    let ask = asks(&mut board, reader).remove(0);
    board.offer(reader, &ask, chunk(&ask, 10), 10);
    board.fail(&ask, ClientError::Closed { what: "test" });
    assert!(board.take().unwrap().is_ok());
    assert!(board.take().unwrap().is_err());
    assert!(board.take().is_none());
    let (mut board, reader) = reading(0, 0);
    let ask = asks(&mut board, reader).remove(0);
    board.fail(&ask, ClientError::Closed { what: "test" });
    board.unassign(&key(0));
    assert!(board.take().is_none());
}

#[test]
fn leaders_of_the_past_are_told_from_later_ones_even_after_a_seek() {
    let (mut board, _) = reading(0, 0);
    assert!(!board.is_deposed(&key(0), 3));
    board.seek(&key(0), 50);
    assert!(board.is_deposed(&key(0), 2));
    assert!(!board.is_deposed(&key(0), 0), "a node that names none");
}

#[derive(Clone, Debug)]
enum Event {
    Assign(u16, u64),
    Unassign(u16),
    Seek(u16, u64),
    Pause(u16),
    Resume(u16),
    Ask,
    Answer(usize, u64),
    Take,
    Move(u16),
}

fn event() -> impl Strategy<Value = Event> {
    let partition = || 0..3u16;
    prop_oneof![
        (partition(), 0..1000u64).prop_map(|(partition, offset)| Event::Assign(partition, offset)),
        partition().prop_map(Event::Unassign),
        (partition(), 0..1000u64).prop_map(|(partition, offset)| Event::Seek(partition, offset)),
        partition().prop_map(Event::Pause),
        partition().prop_map(Event::Resume),
        Just(Event::Ask),
        (0..8usize, 1..50u64).prop_map(|(at, bytes)| Event::Answer(at, bytes)),
        Just(Event::Take),
        partition().prop_map(Event::Move),
    ]
}

proptest! {
    #[test]
    fn every_chunk_begins_where_the_one_before_ended(events in prop::collection::vec(event(), 0..200)) {
        let mut board = Board::new(1 << 20);
        let reader = board.add_reader();
        // What the user expects next, by partition; none while it is paused or not assigned.
        let mut expected: HashMap<u16, u64> = HashMap::new();
        let mut paused: HashSet<u16> = HashSet::new();
        let mut asked: Vec<Ask> = Vec::new();
        for event in events {
            match event {
                Event::Assign(partition, offset) => {
                    board.assign(key(partition), offset);
                    expected.insert(partition, offset);
                }
                Event::Unassign(partition) => {
                    prop_assert_eq!(board.unassign(&key(partition)), expected.remove(&partition).is_some());
                    paused.remove(&partition);
                }
                Event::Seek(partition, offset) => {
                    if board.seek(&key(partition), offset) {
                        expected.insert(partition, offset);
                    }
                }
                Event::Pause(partition) => {
                    board.pause(&key(partition));
                    if expected.contains_key(&partition) {
                        paused.insert(partition);
                    }
                }
                Event::Resume(partition) => {
                    board.resume(&key(partition));
                    paused.remove(&partition);
                }
                Event::Ask => asked.extend(asks(&mut board, reader)),
                Event::Answer(at, bytes) => {
                    if !asked.is_empty() {
                        let ask = asked.remove(at % asked.len());
                        board.offer(reader, &ask, chunk(&ask, bytes), bytes as usize);
                    }
                }
                Event::Take => {
                    if let Some(chunk) = board.take() {
                        let chunk = chunk.unwrap();
                        prop_assert_eq!(expected.get(&chunk.partition), Some(&chunk.records[0].offset));
                        prop_assert!(!paused.contains(&chunk.partition));
                        expected.insert(chunk.partition, chunk.next_offset);
                    }
                }
                Event::Move(partition) => board.displace(&key(partition)),
            }
            for key in board.homeless() {
                board.place(&key, reader, TopicId(1));
            }
            for (partition, offset) in &expected {
                prop_assert_eq!(board.position(&key(*partition)), Some(*offset));
            }
        }
        while board.take().is_some() {}
        prop_assert_eq!(board.held_bytes(), 0);
    }
}
