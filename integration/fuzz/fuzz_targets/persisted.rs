//! Hostile bytes where a node reads back what it or another one wrote: metadata, what Raft keeps, control messages, and
//! the small files and logs of a data dir. Whatever decodes is encoded to bytes that decode to the same.
#![no_main]

use lance_cluster::control::ControlMessage;
use lance_cluster::formation::{FormationReport, Genesis};
use lance_cluster::metadata::{FeatureLevel, HardStateRecord, MetadataCommand, MetadataState, RaftSnapshot};
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
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::Arc;

const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
const SEGMENT_BYTES: u64 = 1 << 20;
/// A disk that gives out no more: opening makes files, and reads them.
const DISK_BYTES: u64 = 64 << 20;
const FOLDER: &str = "/data/1-0";

/// What decodes comes back from the bytes it is encoded to.
fn comes_back<T, E: std::fmt::Debug>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Result<Vec<u8>, E>,
) {
    if let Ok(value) = decode(data) {
        let bytes = encode(&value).expect("what was decoded is encoded");
        let again = decode(&bytes).expect("what was encoded decodes");
        assert_eq!(encode(&again).expect("as before"), bytes);
    }
}

fn decode_values(data: &[u8]) {
    comes_back(data, MetadataCommand::decode, MetadataCommand::encode);
    comes_back(data, MetadataState::decode_snapshot, MetadataState::encode_snapshot);
    comes_back(data, HardStateRecord::decode, HardStateRecord::encode);
    comes_back(data, RaftSnapshot::decode, RaftSnapshot::encode);
    comes_back(data, ControlMessage::decode, ControlMessage::encode);
    comes_back(data, Genesis::decode, Genesis::encode);
    comes_back(data, FormationReport::decode, FormationReport::encode);
    let _ = MetadataCommand::decode_up_to(FeatureLevel::FIRST, data);
    let _ = MetadataState::decode_snapshot_up_to(FeatureLevel::FIRST, data);
}

/// A disk with these files in [`FOLDER`].
fn disk_with(files: &[(&str, &[u8])]) -> Arc<dyn Disk> {
    let config = MemoryConfig { capacity_bytes: Some(DISK_BYTES), ..MemoryConfig::default() };
    let disk = MemoryDisk::new(config).as_disk();
    disk.create_dir_all(Path::new(FOLDER)).expect("there is room");
    for (name, bytes) in files {
        let file = disk.open(&Path::new(FOLDER).join(name), OpenMode::Create).expect("it is new");
        file.write_all_at(bytes, 0).expect("there is room");
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

fn read_small_files(data: &[u8]) {
    let sealed = framed(b"LNCK", data);
    for (bytes, is_sealed) in [(data, false), (&sealed[..], true)] {
        let disk = disk_with(&[("checkpoint", bytes)]);
        let body = Checkpoint::new(&disk, Path::new(FOLDER).join("checkpoint"), 1).read();
        assert!(!is_sealed || body.is_ok_and(|body| body.as_deref() == Some(data)));
    }
    let slot = framed(b"LNCF", data);
    for bytes in [data, &[&slot[..], &slot].concat()] {
        let disk = disk_with(&[("flushed-0", bytes)]);
        if let Ok((marks, _)) = FlushedMarks::open(&disk, Path::new(FOLDER), 1, |_| 0) {
            assert!(marks.positions.len() * 16 <= data.len());
        }
    }
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
fn with_sealed_header(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if bytes.len() >= BATCH_HEADER_BYTES {
        let crc = seeded(&[&bytes[..8], &bytes[12..BATCH_HEADER_BYTES]]);
        bytes[8..12].copy_from_slice(&crc);
    }
    bytes
}

/// An index of pages from the input, padded, their checksums right.
fn load_index(data: &[u8]) {
    let sealed = data.chunks(INDEX_PAGE_BYTES - 4).flat_map(|page| {
        let mut page = page.to_vec();
        page.resize(INDEX_PAGE_BYTES - 4, 0);
        [&seeded(&[&page])[..], &page].concat()
    });
    let segment = Segment::new(Path::new(FOLDER), PARTITION, Mark::default());
    let name = segment.index_path();
    let name = name.file_name().and_then(|name| name.to_str()).expect("it is text");
    let disk = disk_with(&[(name, &sealed.collect::<Vec<u8>>())]);
    if let Ok(index) = Index::load(&*disk, &segment) {
        assert!(index.entry(index.len()).is_none());
        let wanted = index.len() as u32;
        let _ = (index.by_offset(wanted), index.by_position(wanted), index.before_key(SortKey(wanted.into())));
    }
}

fn open_logs(data: &[u8]) {
    // The first byte says where the file of the state ends and the segment begins.
    let Some((&first, data)) = data.split_first() else { return };
    let (state, segment) = data.split_at((usize::from(first) * 8).min(data.len()));
    let (state, segment) = (log_state(state), with_sealed_header(segment));
    let disk = disk_with(&[(&file_name(0), &segment), ("producers", &state)]);
    let options = LogOptions {
        dir: FOLDER.into(),
        partition: PARTITION,
        segment_bytes: SEGMENT_BYTES,
        index_interval_bytes: 4096,
        zero_ahead_bytes: 0,
    };
    if let Ok((log, _)) = Log::open(&disk, options, OpenContext::default()) {
        assert!(log.log_end() <= segment.len() as u64);
    }
    let disk = disk_with(&[(&file_name(0), &segment)]);
    let options = SyncLogOptions { dir: FOLDER.into(), partition: PARTITION, segment_bytes: SEGMENT_BYTES };
    if let Ok((log, entries, _)) = SyncLog::open(&disk, options) {
        assert!(log.end_position() <= segment.len() as u64);
        assert!(entries.iter().map(|entry| entry.data.len()).sum::<usize>() <= segment.len());
    }
}

fuzz_target!(|data: &[u8]| {
    decode_values(data);
    read_small_files(data);
    load_index(data);
    open_logs(data);
});
