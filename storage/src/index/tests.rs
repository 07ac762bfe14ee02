//! Golden bytes, damage and look-ups of index pages.

use super::*;
use crate::segment::Mark;
use lance_messages::id::TopicId;
use std::path::Path;

fn partition() -> TopicPartition {
    TopicPartition::new(TopicId(1), 2)
}

fn entries(count: u32) -> Vec<IndexEntry> {
    let entry =
        |n: u32| IndexEntry { sort_key: SortKey(u128::from(n) * 10), offset_delta: n * 100, position_delta: n * 104 };
    (0..count).map(entry).collect()
}

fn bytes_of(entries: &[IndexEntry]) -> Vec<u8> {
    let mut bytes = vec![0; file_bytes(entries.len())];
    let (pages, _) = bytes.as_chunks_mut::<INDEX_PAGE_BYTES>();
    for (number, page) in pages.iter_mut().enumerate() {
        encode_page(page, entries, number, partition(), 4096);
    }
    bytes
}

fn read(bytes: Vec<u8>) -> Result<Index, usize> {
    let base = Mark { position: 4096, offset: 0, record: 0 };
    let segment = Segment::new(Path::new("/log"), partition(), base);
    let mut index = Index { pages: Pages::Read(bytes), entries: 0 };
    index.entries = index.check(&segment)?;
    Ok(index)
}

#[test]
fn a_page_has_golden_bytes() {
    let bytes = bytes_of(&entries(2));
    assert_eq!(bytes.len(), 4096);
    assert_eq!(bytes[4..16], [1, 0, 2, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[16..40], [0; 24]);
    assert_eq!(bytes[40..64], [10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 104, 0, 0, 0]);
    assert!(bytes[64..].iter().all(|byte| *byte == 0));
}

#[test]
fn look_ups_find_the_last_entry_at_or_before() {
    let index = read(bytes_of(&entries(500))).unwrap();
    assert_eq!(index.len(), 500);
    assert_eq!(index.by_offset(0).unwrap().position_delta, 0);
    assert_eq!(index.by_offset(199).unwrap().position_delta, 104);
    assert_eq!(index.by_offset(u32::MAX).unwrap().position_delta, 499 * 104);
    assert_eq!(index.by_position(103).unwrap().offset_delta, 0);
    assert_eq!(index.before_key(SortKey(0)), None);
    assert_eq!(index.before_key(SortKey(20)).unwrap().sort_key, SortKey(10));
}

#[test]
fn every_flipped_byte_of_a_page_is_noticed() {
    let bytes = bytes_of(&entries(200));
    for at in (0..bytes.len()).step_by(7) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x40;
        assert!(read(flipped).is_err(), "byte {at}");
    }
    assert!(read(bytes[..4000].to_vec()).is_err());
    assert!(read(Vec::new()).is_err());
}

#[test]
fn entries_stand_about_an_interval_apart() {
    let mut builder = IndexBuilder::new(1000);
    let mut header = header();
    for position in (0..10_000).step_by(300) {
        header.position = 4096 + position;
        builder.note(4096, 0, &header);
    }
    let deltas: Vec<u32> = builder.entries().iter().map(|entry| entry.position_delta).collect();
    assert_eq!(deltas, [0, 1200, 2100, 3000, 4200, 5100, 6000, 7200, 8100, 9000]);
}

fn header() -> BatchHeader {
    BatchHeader {
        flags: lance_messages::batch::BatchFlags::RECORDS,
        records_crc: 0,
        position: 0,
        base_offset: 0,
        base_record: 0,
        stored_len: 10,
        plain_len: 10,
        record_count: 1,
        leader_epoch: lance_messages::id::LeaderEpoch(1),
        committed_through: 0,
        sort_key: SortKey(1),
        max_timestamp_ns: 0,
        producer: None,
    }
}
