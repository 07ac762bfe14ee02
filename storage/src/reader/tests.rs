//! Fetches and look-ups over segments made byte by byte, whole and damaged.

use super::*;
use crate::disk::{DiskFile, Operation};
use bytes::BytesMut;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader, BatchSeed, Codec};
use lance_messages::id::{LeaderEpoch, NodeId, TopicId};
use lance_messages::record::{RecordType, put_record};
use lance_messages::sort_key::SortKey;
use std::any::Any;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const PARTITION: TopicPartition = TopicPartition::new(TopicId(7), 3);
const MAX: u32 = u32::MAX;

/// A file that only reads, and counts how often.
#[derive(Debug)]
struct Bytes {
    path: PathBuf,
    bytes: Vec<u8>,
    reads: AtomicUsize,
}

impl DiskFile for Bytes {
    fn path(&self) -> &Path {
        &self.path
    }
    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.bytes.len() as u64)
    }
    fn read_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let rest = self.bytes.get(file_offset as usize..).unwrap_or_default();
        // Short reads are legal; callers must carry on.
        let len = rest.len().min(out.len()).min(300_000);
        out[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
    fn read_uncached_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.read_at(out, file_offset)
    }
    fn write_all_at(&self, _: &[u8], _: u64) -> Result<(), DiskError> {
        Err(DiskError::os(Operation::Write, &self.path, libc::EBADF))
    }
    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
    fn set_len(&self, _: u64) -> Result<(), DiskError> {
        Err(DiskError::os(Operation::SetLen, &self.path, libc::EBADF))
    }
    fn raw_fd(&self) -> Option<RawFd> {
        None
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl SegmentIndex for Vec<IndexPoint> {
    fn entry_count(&self) -> usize {
        self.len()
    }
    fn entry(&self, at: usize) -> Option<IndexPoint> {
        self.get(at).copied()
    }
}

/// A log under construction, and what a reader must see of it.
struct Maker {
    segments: Vec<(u64, u64, Vec<u8>, Vec<IndexPoint>)>,
    position: u64,
    plain: Vec<u8>,
    record: u64,
    /// Offsets at which records start, and at which batches do.
    records: Vec<u64>,
    batches: Vec<u64>,
    time: u64,
}

impl Maker {
    fn new() -> Self {
        let (segments, plain, records, batches) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut maker = Self {
            segments,
            position: 0,
            plain,
            record: 0,
            records,
            batches,
            time: 1_000,
        };
        maker.roll();
        maker
    }

    fn roll(&mut self) {
        self.segments
            .push((self.position, self.plain.len() as u64, Vec::new(), Vec::new()));
    }

    /// A batch of records whose values have these lengths.
    fn batch(&mut self, values: &[usize], codec: Option<Codec>) -> &mut Self {
        let mut plain = Vec::new();
        self.batches.push(self.plain.len() as u64);
        for (number, len) in values.iter().enumerate() {
            self.records.push((self.plain.len() + plain.len()) as u64);
            let value: Vec<u8> = (0..*len).map(|at| (at * 7 + number + self.plain.len()) as u8).collect();
            put_record(&mut plain, RecordType::Raw, &value).unwrap();
        }
        let stored = match codec {
            None => plain.clone(),
            Some(codec) => codec.compress(&plain).unwrap(),
        };
        let flags = BatchFlags::RECORDS.with_codec(codec);
        self.store(flags, &stored, &plain, values.len() as u32)
    }

    fn opaque(&mut self, len: usize) -> &mut Self {
        self.batches.push(self.plain.len() as u64);
        self.records.push(self.plain.len() as u64);
        let plain: Vec<u8> = (0..len).map(|at| (at * 13) as u8).collect();
        self.store(BatchFlags::OPAQUE, &plain.clone(), &plain, 1)
    }

    fn control(&mut self) -> &mut Self {
        self.store(BatchFlags::CONTROL, &[1, 1, 1, 0], &[], 0)
    }

    fn store(&mut self, flags: BatchFlags, stored: &[u8], plain: &[u8], record_count: u32) -> &mut Self {
        self.time += 10;
        let header = BatchHeader {
            flags,
            records_crc: crc32fast::hash(stored),
            position: self.position,
            base_offset: self.plain.len() as u64,
            base_record: self.record,
            stored_len: stored.len() as u32,
            plain_len: plain.len() as u32,
            record_count,
            leader_epoch: LeaderEpoch(1),
            committed_through: 0,
            sort_key: SortKey::new(self.time, NodeId(1), 0, 0),
            max_timestamp_ns: 0,
            producer: None,
        };
        let (base, _, bytes, index) = self.segments.last_mut().unwrap();
        if index.last().map_or(*base, |point| point.position) + 65_536 <= self.position {
            let (sort_key, offset, position) = (header.sort_key, header.base_offset, header.position);
            index.push(IndexPoint {
                sort_key,
                offset,
                position,
            });
        }
        bytes.extend_from_slice(&header.encode(BatchSeed::new(PARTITION)));
        bytes.extend_from_slice(stored);
        self.position = header.end_position();
        self.record = header.end_record();
        self.plain.extend_from_slice(plain);
        self
    }

    fn sources(&self) -> Vec<SegmentSource> {
        let last = self.segments.len() - 1;
        let source = |(number, (base, offset, bytes, index)): (usize, &(u64, u64, Vec<u8>, Vec<IndexPoint>))| {
            let path = PathBuf::from(format!("{base:020}.lnc"));
            let file = Arc::new(Bytes {
                path,
                bytes: bytes.clone(),
                reads: AtomicUsize::new(0),
            });
            SegmentSource {
                partition: PARTITION,
                seed: BatchSeed::new(PARTITION),
                file,
                base_position: *base,
                base_offset: *offset,
                limit_position: base + bytes.len() as u64,
                index: Some(Arc::new(index.clone())),
                closed: number != last,
            }
        };
        self.segments.iter().enumerate().map(source).collect()
    }
}

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
                assert_eq!(
                    plan::read_full(file, &mut part, *file_offset, false).unwrap() as u64,
                    *len
                );
                out.extend_from_slice(&part);
            }
        }
    }
    assert_eq!(out.len() as u64, plan.bytes);
    assert_eq!(crc32fast::hash(&out), plan.crc);
    out.to_vec()
}

/// Checks one plan against the log it comes from.
fn check(maker: &Maker, reader: &mut Reader, sources: &[SegmentSource], offset: u64, max_bytes: u32) -> u64 {
    let first = sources.iter().rposition(|source| source.base_offset <= offset).unwrap();
    let plan = reader.plan(&sources[first..], offset, max_bytes).unwrap();
    let got = bytes_of(&plan);
    assert!(got == maker.plain[offset as usize..][..got.len()], "bytes at {offset}");
    assert_eq!(plan.next_offset, offset + got.len() as u64);
    assert!(got.len() as u64 <= u64::from(max_bytes));
    let count = maker
        .records
        .iter()
        .filter(|start| (offset..plan.next_offset).contains(start))
        .count();
    assert_eq!(
        plan.record_count as usize, count,
        "records from {offset} to {}",
        plan.next_offset
    );
    assert!(!got.is_empty() || max_bytes == 0 || offset == maker.plain.len() as u64);
    plan.next_offset
}

#[test]
fn every_fetch_size_reads_the_whole_log_back() {
    let maker = mixture();
    for max_bytes in [777, 4_096, 65_536, 65_541, 100_005, 1 << 20, 3 << 20, MAX] {
        let (mut reader, sources, mut offset) = (Reader::new(), maker.sources(), 0);
        while offset < maker.plain.len() as u64 {
            offset = check(&maker, &mut reader, &sources, offset, max_bytes);
        }
        assert_eq!(check(&maker, &mut reader, &sources, offset, max_bytes), offset);
    }
}

#[test]
fn any_offset_may_be_asked_for() {
    let maker = mixture();
    let (mut reader, sources) = (Reader::new(), maker.sources());
    let mut offset = 0;
    while offset < maker.plain.len() as u64 {
        for max_bytes in [1, 50, 1_000, 40_000] {
            check(&maker, &mut reader, &sources, offset, max_bytes);
        }
        offset += 1 + offset % 977 + offset / 100;
    }
}

#[test]
fn a_reply_ends_behind_a_batch_else_a_record_and_inside_one_only_when_it_must() {
    let mut maker = Maker::new();
    maker
        .batch(&[95; 10], None)
        .batch(&[95; 10], None)
        .batch(&[9_995], None);
    let sources = maker.sources();
    let mut reader = Reader::new();
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
        assert_eq!(
            check(&maker, &mut reader, &sources, offset, max_bytes),
            next_offset,
            "{offset} {max_bytes}"
        );
    }
}

#[test]
fn nothing_at_or_above_the_limit_is_served() {
    let mut maker = Maker::new();
    maker.batch(&[100], None).batch(&[40_000], None);
    let limit = maker.position;
    maker.batch(&[100], None);
    for closed in [true, false] {
        let mut source = maker.sources().remove(0);
        (source.limit_position, source.closed) = (limit, closed);
        let plan = Reader::new().plan(&[source], 0, MAX).unwrap();
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
    let mut source = maker.sources().remove(0);
    source.closed = true;
    let file = Arc::new(Bytes {
        path: "counted".into(),
        bytes: maker.segments[0].2.clone(),
        reads: AtomicUsize::new(0),
    });
    source.file = file.clone();
    let mut reader = Reader::new();
    for expected_reads in [1 + 16 + 15, 16] {
        let before = file.reads.load(Ordering::Relaxed);
        let plan = reader.plan(&[source.clone()], 0, 1 << 20).unwrap();
        assert_eq!(file.reads.load(Ordering::Relaxed) - before, expected_reads);
        assert!(plan.pieces.iter().all(|piece| matches!(piece, Piece::File { .. })));
        assert_eq!((plan.pieces.len(), plan.bytes), (16, 1 << 20));
        bytes_of(&plan);
    }
}

#[test]
fn small_batches_come_in_one_piece_from_few_reads() {
    let mut maker = Maker::new();
    for _ in 0..2_000 {
        maker.batch(&[1_019], None);
    }
    for closed in [true, false] {
        let mut source = maker.sources().remove(0);
        source.closed = closed;
        let file = Arc::new(Bytes {
            path: "counted".into(),
            bytes: maker.segments[0].2.clone(),
            reads: AtomicUsize::new(0),
        });
        source.file = file.clone();
        let plan = Reader::new().plan(&[source], 1_024_000, 1 << 20).unwrap();
        assert_eq!((plan.pieces.len(), plan.record_count), (1, 1_000));
        // The test's file gives 300,000 bytes at most at a time.
        assert!(file.reads.load(Ordering::Relaxed) <= 8, "{file:?}");
        bytes_of(&plan);
    }
}

#[test]
fn a_flipped_bit_is_an_error_and_never_data() {
    let mut maker = Maker::new();
    maker
        .batch(&[300, 20], None)
        .control()
        .batch(&[40_000], None)
        .batch(&[900; 9], Some(Codec::Lz4))
        .opaque(50);
    let whole = maker.sources().remove(0);
    let bytes = maker.segments[0].2.clone();
    for at in (0..bytes.len()).filter(|at| at % 97 == 0 || at % 1_000 < 30) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        for closed in [true, false] {
            for max_bytes in [200, MAX] {
                let file = Arc::new(Bytes {
                    path: "flipped".into(),
                    bytes: flipped.clone(),
                    reads: AtomicUsize::new(0),
                });
                let source = SegmentSource {
                    file,
                    closed,
                    ..whole.clone()
                };
                read_until_damage(&maker, &source, max_bytes);
            }
        }
    }
}

/// Reads on until an error comes, which must be before the end of the log; all data before it must be right.
fn read_until_damage(maker: &Maker, source: &SegmentSource, max_bytes: u32) {
    let (mut reader, mut offset) = (Reader::new(), 0);
    for _ in 0..1_000 {
        match reader.plan(std::slice::from_ref(source), offset, max_bytes) {
            Err(ReadError::Damaged { position, .. }) => return assert!(position < maker.position),
            Err(other) => panic!("{other}"),
            Ok(plan) => {
                // Not a flip of the control batch's body, which nobody is served: all data was read.
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
    let whole = maker.sources();
    let mut state = 1u64;
    for round in 0..300 {
        let source = &whole[round % 3];
        let mut bytes = maker.segments[round % 3].2.clone();
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
        let file = Arc::new(Bytes {
            path: "hostile".into(),
            bytes,
            reads: AtomicUsize::new(0),
        });
        let source = SegmentSource { file, ..source.clone() };
        for offset in [source.base_offset, source.base_offset + 50_000] {
            if let Ok(plan) = Reader::new().plan(std::slice::from_ref(&source), offset, 1 << 20) {
                let got = bytes_of(&plan);
                assert!(got == maker.plain[offset as usize..][..got.len()]);
            }
        }
        let _ = Reader::new().find(&[source], Lookup::Record(50));
    }
}

#[test]
fn a_batch_of_another_partition_is_refused() {
    let mut maker = Maker::new();
    maker.batch(&[100], None);
    let mut source = maker.sources().remove(0);
    source.seed = BatchSeed::new(TopicPartition::new(TopicId(8), 3));
    assert!(matches!(
        Reader::new().plan(&[source], 0, MAX),
        Err(ReadError::Damaged { position: 0, .. })
    ));
}

#[test]
fn an_offset_below_the_segments_is_named() {
    let maker = mixture();
    let sources = maker.sources();
    let refused = Reader::new().plan(&sources[1..], 5, MAX);
    assert!(
        matches!(refused, Err(ReadError::BelowStart { offset: 5, .. })),
        "{refused:?}"
    );
}

#[test]
fn replies_are_capped_whatever_is_asked_for() {
    let mut maker = Maker::new();
    for _ in 0..5 {
        maker.batch(&[4 << 20], None);
    }
    let plan = Reader::new().plan(&maker.sources(), 0, MAX).unwrap();
    assert_eq!(plan.bytes, 3 * ((4 << 20) + 5));
    let mut maker = Maker::new();
    maker.opaque(16 << 20);
    let plan = Reader::new().plan(&maker.sources(), 0, MAX).unwrap();
    assert_eq!(plan.bytes, u64::from(MAX_REPLY_DATA_BYTES));
    assert_eq!(plan.bytes as usize + 44 + 16, 16 << 20);
}

#[test]
fn a_large_batch_taken_in_parts_is_read_once() {
    let mut maker = Maker::new();
    maker
        .batch(&[10_000; 300], Some(Codec::Lz4))
        .batch(&[10_000; 300], None);
    let mut source = maker.sources().remove(0);
    let file = Arc::new(Bytes {
        path: "counted".into(),
        bytes: maker.segments[0].2.clone(),
        reads: AtomicUsize::new(0),
    });
    source.file = file.clone();
    let (mut reader, mut offset) = (Reader::new(), 0);
    while offset < maker.plain.len() as u64 {
        offset = check(&maker, &mut reader, std::slice::from_ref(&source), offset, 50_000);
    }
    // 120 replies: some headers each, the 3 MB of the second batch once (11 short reads), and the first batch once.
    let reads = file.reads.load(Ordering::Relaxed);
    assert!(reads < 120 * 3, "{reads}");
}

#[test]
fn records_times_and_keys_are_found() {
    let maker = mixture();
    let (mut reader, sources) = (Reader::new(), maker.sources());
    for (number, offset) in maker.records.iter().enumerate().step_by(7) {
        let found = reader.find(&sources, Lookup::Record(number as u64)).unwrap().unwrap();
        assert_eq!((found.offset, found.record), (*offset, number as u64));
    }
    assert_eq!(reader.find(&sources, Lookup::Record(maker.record)).unwrap(), None);
    // Ascending times find ascending batches, each the first at or after its time.
    let mut batches = Vec::new();
    for time in 0..=maker.time {
        let Some(found) = reader.find(&sources, Lookup::AppendTime(time)).unwrap() else {
            continue;
        };
        assert!(found.sort_key.timestamp_ns() >= time);
        assert_eq!(
            reader.find(&sources, Lookup::SortKey(found.sort_key)).unwrap(),
            Some(found)
        );
        batches.push(found.offset);
    }
    batches.dedup();
    assert_eq!(batches, maker.batches);
    assert_eq!(reader.find(&sources, Lookup::AppendTime(maker.time + 1)).unwrap(), None);
}

#[test]
fn a_missing_index_only_costs_hops() {
    let maker = mixture();
    let mut sources = maker.sources();
    sources.iter_mut().for_each(|source| source.index = None);
    let mut reader = Reader::new();
    for offset in [0, 50_000, 500_000, 3_000_000] {
        check(&maker, &mut reader, &sources, offset, 10_000);
    }
    let number = maker.records.len() - 1;
    let found = reader.find(&sources, Lookup::Record(number as u64)).unwrap().unwrap();
    assert_eq!(found.offset, maker.records[number]);
}

#[test]
fn a_batch_shorter_than_its_header_says_is_damage() {
    let mut maker = Maker::new();
    maker.batch(&[100_000], None);
    let mut source = maker.sources().remove(0);
    let cut = maker.segments[0].2[..BATCH_HEADER_BYTES + 500].to_vec();
    source.file = Arc::new(Bytes {
        path: "cut".into(),
        bytes: cut,
        reads: AtomicUsize::new(0),
    });
    for closed in [true, false] {
        let source = SegmentSource {
            closed,
            ..source.clone()
        };
        assert!(matches!(
            Reader::new().plan(&[source], 0, MAX),
            Err(ReadError::Damaged { .. })
        ));
    }
}
