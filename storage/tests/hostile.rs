//! Hostile bytes in the files of a data dir, with checksums that are right: refused, or read without anything that was not
//! there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use lance_messages::batch::BATCH_HEADER_BYTES;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::sort_key::SortKey;
use lance_storage::checkpoint::{Checkpoint, FlushedMarks};
use lance_storage::disk::memory::{MemoryConfig, MemoryDisk};
use lance_storage::disk::{Disk, OpenMode};
use lance_storage::index::{INDEX_PAGE_BYTES, Index};
use lance_storage::log::{Log, LogOptions, OpenContext};
use lance_storage::segment::{Mark, Segment, file_name};
use lance_storage::sync_log::{SyncLog, SyncLogOptions};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
const SEGMENT_BYTES: u64 = 1 << 20;
const FOLDER: &str = "/data/1-0";

/// A disk with these files in [`FOLDER`].
fn disk_with(files: &[(&str, &[u8])]) -> Arc<dyn Disk> {
    let config = MemoryConfig { capacity_bytes: Some(64 << 20), ..MemoryConfig::default() };
    let disk = MemoryDisk::new(config).as_disk();
    disk.create_dir_all(Path::new(FOLDER)).unwrap();
    for (name, bytes) in files {
        disk.open(&Path::new(FOLDER).join(name), OpenMode::Create).unwrap().write_all_at(bytes, 0).unwrap();
    }
    disk
}

/// A frame of a small file around `body`, both checksums right.
fn framed(magic: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = [&magic[..], &[1, 1, 0, 0]].concat();
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A checksum that is seeded with the partition.
fn seeded(parts: &[&[u8]]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&PARTITION.topic.0.to_le_bytes());
    crc.update(&PARTITION.partition.to_le_bytes());
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize().to_le_bytes()
}

/// The state of a log around `body`, its length and checksum right.
fn log_state(body: &[u8]) -> Vec<u8> {
    let length = ((16 + body.len()) as u32).to_le_bytes();
    [&b"LNPS\x01\0\0\0"[..], &seeded(&[&length, body]), &length, body].concat()
}

/// The bytes, the header of a first batch with its checksum.
fn with_sealed_header(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() >= BATCH_HEADER_BYTES {
        let crc = seeded(&[&bytes[..8], &bytes[12..BATCH_HEADER_BYTES]]);
        bytes[8..12].copy_from_slice(&crc);
    }
    bytes
}

/// A page of an index with these entries, padded, its checksum right; as many as `count` says.
fn index_page(count: u16, entries: &[u8]) -> Vec<u8> {
    let mut page = [&[1, 0][..], &count.to_le_bytes(), &[0; 8], entries].concat();
    page.resize(INDEX_PAGE_BYTES - 4, 0);
    [&seeded(&[&page])[..], &page].concat()
}

/// A state's body: places, then counts that may be true, then whatever.
fn state_body() -> impl Strategy<Value = Vec<u8>> {
    let places = prop::collection::vec(prop_oneof![0u64..4096, any::<u64>()], 8);
    let counts = prop::collection::vec(prop_oneof![0u32..4, any::<u32>()], 3);
    (places, counts, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(places, counts, rest)| {
        let mut body: Vec<u8> = places.iter().flat_map(|place| place.to_le_bytes()).collect();
        body.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
        body.extend(rest);
        body
    })
}

proptest! {
    #[test]
    fn a_small_file_gives_its_body_or_nothing(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let path = Path::new(FOLDER).join("checkpoint");
        let disk = disk_with(&[("checkpoint", &framed(b"LNCK", &body))]);
        prop_assert_eq!(Checkpoint::new(&disk, &path, 1).read().unwrap(), Some(body.clone()));
        let disk = disk_with(&[("checkpoint", &body)]);
        prop_assert!(Checkpoint::new(&disk, &path, 1).read().is_err());
    }

    #[test]
    fn marks_are_no_more_than_the_file_holds(body in prop::collection::vec(any::<u8>(), 0..300), entries in 0u32..20) {
        let mut body = body;
        if body.len() >= 16 {
            body[12..16].copy_from_slice(&entries.to_le_bytes());
        }
        let slot = framed(b"LNCF", &body);
        for bytes in [[&slot[..], &slot].concat(), body.clone()] {
            let disk = disk_with(&[("flushed-0", &bytes)]);
            let (marks, _) = FlushedMarks::open(&disk, Path::new(FOLDER), 1, |_| 0).unwrap();
            prop_assert!(marks.positions.len() * 16 <= body.len());
        }
    }

    #[test]
    fn a_log_beside_a_hostile_state_ends_within_its_segment(
        body in state_body(),
        segment in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let segment = with_sealed_header(segment);
        let disk = disk_with(&[(&file_name(0), &segment), ("producers", &log_state(&body))]);
        let options = LogOptions {
            dir: FOLDER.into(),
            partition: PARTITION,
            segment_bytes: SEGMENT_BYTES,
            index_interval_bytes: 4096,
            zero_ahead_bytes: 0,
        };
        if let Ok((log, _)) = Log::open(&disk, options, OpenContext::default()) {
            prop_assert!(log.log_end() <= segment.len() as u64);
        }
    }

    #[test]
    fn a_hostile_index_is_refused_or_searched_within_its_entries(
        pages in prop::collection::vec((prop_oneof![Just(170u16), 0..200u16], prop::collection::vec(any::<u8>(), 0..4080)), 0..3),
        wanted in any::<u32>(),
        rest in 0usize..2,
    ) {
        let mut bytes: Vec<u8> = pages.iter().flat_map(|(count, entries)| index_page(*count, entries)).collect();
        bytes.truncate(bytes.len().saturating_sub(rest));
        let segment = Segment::new(Path::new(FOLDER), PARTITION, Mark::default());
        let disk = disk_with(&[(segment.index_path().file_name().unwrap().to_str().unwrap(), &bytes)]);
        if let Ok(index) = Index::load(&*disk, &segment) {
            prop_assert_eq!(index.len(), pages.iter().map(|(count, _)| usize::from(*count)).sum::<usize>());
            prop_assert!(index.entry(index.len()).is_none());
            let _ = (index.by_offset(wanted), index.by_position(wanted), index.before_key(SortKey(wanted.into())));
        }
    }

    #[test]
    fn a_hostile_log_of_entries_is_refused_or_ends_within_its_segment(
        segment in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let segment = with_sealed_header(segment);
        let disk = disk_with(&[(&file_name(0), &segment)]);
        let options = SyncLogOptions { dir: FOLDER.into(), partition: PARTITION, segment_bytes: SEGMENT_BYTES };
        if let Ok((log, entries, _)) = SyncLog::open(&disk, options) {
            prop_assert!(log.end_position() <= segment.len() as u64);
            prop_assert!(entries.iter().map(|entry| entry.data.len()).sum::<usize>() <= segment.len());
        }
    }
}
