//! Retries, gaps, fencing and expiry.

use super::*;
use lance_messages::batch::BatchFlags;
use lance_messages::id::LeaderEpoch;
use lance_messages::sort_key::SortKey;

pub(crate) fn header(id: u64, epoch: u16, sequence: u32, position: u64, now_ns: u64) -> BatchHeader {
    BatchHeader {
        flags: BatchFlags::RECORDS,
        records_crc: 0,
        position,
        base_offset: position / 2,
        base_record: position / 10,
        stored_len: 10,
        plain_len: 10,
        record_count: 1,
        leader_epoch: LeaderEpoch(1),
        committed_through: 0,
        sort_key: SortKey::at_time(now_ns),
        max_timestamp_ns: 0,
        producer: Some(ProducerSequence { id: ProducerId(id), epoch, sequence }),
    }
}

fn wanted(epoch: u16, sequence: u32) -> ProducerSequence {
    ProducerSequence { id: ProducerId(1), epoch, sequence }
}

fn table(sequences: std::ops::Range<u32>) -> ProducerTable {
    let mut table = ProducerTable::default();
    sequences.for_each(|sequence| table.note(&header(1, 0, sequence, u64::from(sequence) * 100, 1)));
    table
}

#[test]
fn the_next_sequence_is_stored_and_a_gap_is_refused() {
    let table = table(0..3);
    assert_eq!(table.check(&wanted(0, 3), 1), SequenceCheck::Next);
    assert_eq!(table.check(&wanted(0, 4), 1), SequenceCheck::OutOfOrder { expected: 3 });
}

#[test]
fn a_retry_among_the_last_five_gets_its_first_answer() {
    let table = table(0..10);
    for sequence in 5..10u32 {
        let SequenceCheck::Duplicate(batch) = table.check(&wanted(0, sequence), 1) else { panic!("{sequence}") };
        assert_eq!(batch.position, u64::from(sequence) * 100);
    }
    let SequenceCheck::DuplicateBefore(oldest) = table.check(&wanted(0, 4), 1) else { panic!() };
    assert_eq!(oldest.position, 500);
}

#[test]
fn an_unknown_producer_begins_at_zero() {
    let mut table = ProducerTable::default();
    // Its first batch was refused for a moment, the second one came through: storing that would lose the first.
    assert_eq!(table.check(&wanted(3, 1), 1), SequenceCheck::OutOfOrder { expected: 0 });
    assert_eq!(table.check(&wanted(3, 0), 1), SequenceCheck::Next);
    table.note(&header(1, 3, 0, 0, 1));
    assert_eq!(table.check(&wanted(3, 1), 1), SequenceCheck::Next);
    assert_eq!(table.check(&wanted(3, 2), 1), SequenceCheck::OutOfOrder { expected: 1 });
    assert_eq!(table.check(&wanted(4, 1), 1), SequenceCheck::OutOfOrder { expected: 0 });
}

#[test]
fn a_higher_epoch_resets_and_a_lower_one_is_fenced() {
    let mut table = table(0..3);
    assert_eq!(table.check(&wanted(1, 0), 1), SequenceCheck::Next);
    table.note(&header(1, 1, 0, 900, 1));
    assert_eq!(table.check(&wanted(0, 3), 1), SequenceCheck::Fenced { current: 1 });
    assert!(matches!(table.check(&wanted(1, 0), 1), SequenceCheck::Duplicate(batch) if batch.position == 900));
}

#[test]
fn sequences_wrap_around() {
    let mut table = ProducerTable::default();
    table.note(&header(1, 0, u32::MAX, 100, 1));
    assert_eq!(table.check(&wanted(0, 0), 1), SequenceCheck::Next);
    table.note(&header(1, 0, 0, 200, 1));
    assert!(matches!(table.check(&wanted(0, u32::MAX), 1), SequenceCheck::Duplicate(batch) if batch.position == 100));
    assert_eq!(table.check(&wanted(0, 2), 1), SequenceCheck::OutOfOrder { expected: 1 });
}

#[test]
fn a_producer_is_forgotten_after_seven_days() {
    let mut table = table(0..3);
    let later = 1 + EXPIRY_NS;
    assert!(matches!(table.check(&wanted(0, 2), later), SequenceCheck::Duplicate(_)));
    assert_eq!(table.check(&wanted(0, 2), later + 1), SequenceCheck::OutOfOrder { expected: 0 });
    // While it is remembered at all, its next batch is the next one.
    assert_eq!(table.check(&wanted(0, 3), later + 1), SequenceCheck::Next);
    table.expire(later + 1);
    assert!(table.is_empty());
}

/// The sequence that a producer sends next, and whether the one before is answered as stored where it was.
fn continues_at(table: &ProducerTable, sequence: u32) -> bool {
    let stored = matches!(
        table.check(&wanted(0, sequence - 1), 1),
        SequenceCheck::Duplicate(batch) if batch.position == u64::from(sequence - 1) * 100
    );
    stored && table.check(&wanted(0, sequence), 1) == SequenceCheck::Next
}

#[test]
fn a_table_as_of_a_position_knows_what_lay_below_it() {
    let all = table(0..10);
    for sequence in 6..=10 {
        assert!(continues_at(&all.as_of(u64::from(sequence) * 100), sequence), "{sequence}");
    }
    assert!(all.as_of(500).is_empty(), "whether a sequence came before the last five is not remembered");
    assert!(table(0..3).as_of(0).is_empty());
    assert_eq!(all.as_of(1000), all);
}

#[test]
fn producers_that_wrote_nothing_since_are_inherited() {
    let mut since = ProducerTable::default();
    since.note(&header(2, 0, 9, 900, 1));
    let mut earlier = table(0..3);
    earlier.note(&header(2, 0, 4, 300, 1));
    since.inherit(earlier);
    assert!(continues_at(&since, 3));
    let newest = since.last_sequence(ProducerId(2)).map(|known| known.sequence);
    assert_eq!(newest, Some(9), "what the log holds says more");
}
