//! Files written by hand, whole and damaged, and what is said of them.

use super::*;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchSeed};
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use lance_messages::sort_key::SortKey;
use lance_storage::segment::file_name;

const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
const RECORD_BYTES: u32 = 1000;
const BATCH_BYTES: u64 = BATCH_HEADER_BYTES as u64 + RECORD_BYTES as u64;

/// Batches `first..first + count` of a log of equal ones, ten records each.
fn batches(first: u64, count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in first..first + count {
        let records = vec![number as u8; RECORD_BYTES as usize];
        let header = BatchHeader {
            flags: if number == first { BatchFlags::STARTS_SEGMENT } else { BatchFlags::RECORDS },
            records_crc: crc32fast::hash(&records),
            position: number * BATCH_BYTES,
            base_offset: number * u64::from(RECORD_BYTES),
            base_record: number * 10,
            stored_len: RECORD_BYTES,
            plain_len: RECORD_BYTES,
            record_count: 10,
            leader_epoch: LeaderEpoch(1),
            committed_through: 0,
            sort_key: SortKey::new(number + 1, NodeId(1), 0, 0),
            max_timestamp_ns: 0,
            producer: None,
        };
        bytes.extend(header.encode(BatchSeed::new(PARTITION)));
        bytes.extend(records);
    }
    bytes
}

struct Folder {
    root: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = Self { root: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(folder.partition()).unwrap();
        folder
    }

    fn partition(&self) -> PathBuf {
        self.root.path().join("logs").join(PARTITION.to_string())
    }

    fn write(&self, first: u64, bytes: &[u8]) -> PathBuf {
        let path = self.partition().join(file_name(first * BATCH_BYTES));
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn rows(path: &Path) -> Vec<LogRow> {
    let mut rows = Vec::new();
    inspect(path, &mut |row| {
        rows.push(row.clone());
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

#[test]
fn a_sound_log_is_found_from_any_of_its_folders() {
    let folder = Folder::new();
    folder.write(0, &batches(0, 3));
    let mut newest = batches(3, 2);
    newest.extend(vec![0; 8192]);
    let file = folder.write(3, &newest);
    for path in [folder.root.path().to_owned(), folder.root.path().join("logs"), folder.partition()] {
        let report = verify(&path).unwrap();
        assert_eq!(report.damages, []);
        let summary = LogSummary {
            segments: 2,
            batches: 5,
            records: 50,
            stored_bytes: 5000,
            plain_bytes: 5000,
            unwritten_bytes: 8192,
            ..LogSummary::default()
        };
        assert_eq!(report.summary, summary);
        assert!(report.summary.is_sound());
    }
    let rows = rows(&file);
    assert_eq!(rows.len(), 2);
    assert_eq!(
        rows[1].to_string(),
        "position 4416 offset 4000 record 40 records 10 bytes 1000 records epoch 1 key 5.1.0.0 committed 0"
    );
    let json = serde_json::to_value(&rows[0]).unwrap();
    assert_eq!(
        (&json["type"], &json["position"], &json["starts_segment"]),
        (&"batch".into(), &3312.into(), &true.into())
    );
}

#[test]
fn inspection_ends_when_it_is_told_to() {
    let folder = Folder::new();
    folder.write(0, &batches(0, 100));
    let mut seen = 0;
    let summary = inspect(folder.root.path(), &mut |_| {
        seen += 1;
        if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((seen, summary.unwrap().batches), (3, 3));
}

#[test]
fn a_flipped_bit_in_records_is_named_and_the_next_batch_is_read() {
    let folder = Folder::new();
    let mut bytes = batches(0, 3);
    bytes[BATCH_BYTES as usize + 500] ^= 4;
    let path = folder.write(0, &bytes);
    let report = verify(&path).unwrap();
    assert_eq!((report.summary.batches, report.summary.damages, report.summary.torn_tails), (2, 1, 0));
    assert!(!report.summary.is_sound());
    let damage = &report.damages[0];
    assert_eq!(
        (damage.file_offset, damage.end_file_offset, damage.position),
        (BATCH_BYTES, 2 * BATCH_BYTES, BATCH_BYTES)
    );
    assert!(damage.flaw.contains("records checksum"), "{}", damage.flaw);
    assert_eq!(rows(&path).len(), 3, "inspection does not read records");
}

#[test]
fn a_damaged_header_costs_its_own_batch_only() {
    let folder = Folder::new();
    let mut bytes = batches(0, 300);
    bytes[BATCH_BYTES as usize * 7 + 20] ^= 1;
    let path = folder.write(0, &bytes);
    let report = verify(&path).unwrap();
    assert_eq!((report.summary.batches, report.summary.damages), (299, 1));
    assert_eq!(report.damages[0].end_file_offset, BATCH_BYTES * 8);
    let rows = rows(&path);
    assert!(matches!(&rows[7], LogRow::Damage(damage) if damage.file_offset == BATCH_BYTES * 7));
}

#[test]
fn a_torn_tail_of_the_newest_segment_is_no_damage_elsewhere_it_is() {
    let folder = Folder::new();
    let torn = &batches(0, 3)[..BATCH_BYTES as usize * 2 + 300];
    folder.write(0, torn);
    let report = verify(&folder.partition()).unwrap();
    assert_eq!((report.summary.batches, report.summary.damages, report.summary.torn_tails), (2, 0, 1));
    assert!(report.damages[0].to_string().starts_with("TORN TAIL"));
    folder.write(3, &batches(3, 1));
    let report = verify(&folder.partition()).unwrap();
    assert_eq!((report.summary.batches, report.summary.torn_tails), (3, 0));
    assert_eq!(report.summary.damages, 2, "the cut, and the gap before the next segment");
}

#[test]
fn a_missing_segment_is_damage() {
    let folder = Folder::new();
    folder.write(0, &batches(0, 2));
    folder.write(5, &batches(5, 2));
    let report = verify(&folder.partition()).unwrap();
    assert_eq!((report.summary.batches, report.summary.damages), (4, 1));
    assert!(report.damages[0].flaw.contains("segment position"), "{}", report.damages[0].flaw);
}

#[test]
fn a_log_whose_oldest_segments_are_gone_is_sound() {
    let folder = Folder::new();
    folder.write(5, &batches(5, 2));
    assert!(verify(&folder.partition()).unwrap().summary.is_sound());
}

#[test]
fn a_segment_of_another_partition_is_all_damage() {
    let folder = Folder::new();
    let other = folder.root.path().join("logs/1-1");
    std::fs::create_dir_all(&other).unwrap();
    let path = other.join(file_name(0));
    std::fs::write(&path, batches(0, 2)).unwrap();
    let report = verify(&path).unwrap();
    assert_eq!(report.summary.batches, 0);
    assert_eq!(report.damages.len(), 1);
}

#[test]
fn what_cannot_be_read_is_said() {
    let folder = Folder::new();
    let stray = folder.root.path().join("x.lnc");
    std::fs::write(&stray, b"").unwrap();
    assert!(matches!(verify(&stray), Err(LogToolError::NotASegment { .. })));
    let homeless = folder.root.path().join(file_name(0));
    std::fs::write(&homeless, b"").unwrap();
    assert!(matches!(verify(&homeless), Err(LogToolError::UnknownPartition { .. })));
    assert!(matches!(verify(&folder.partition()), Err(LogToolError::NoSegments { .. })));
    assert!(matches!(verify(&folder.root.path().join("nowhere")), Err(LogToolError::Disk(_))));
    assert!(matches!(verify(&folder.partition().join(file_name(7))), Err(LogToolError::Disk(_))));
}
