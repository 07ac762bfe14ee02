//! Files of a data dir around any bytes, with the checksums they need to be read further than that.

use lance_messages::batch::BATCH_HEADER_BYTES;
use lance_messages::id::{TopicId, TopicPartition};
use lance_storage::disk::memory::{MemoryConfig, MemoryDisk};
use lance_storage::disk::{Disk, OpenMode};
use lance_storage::index::INDEX_PAGE_BYTES;
use lance_storage::log::LogOptions;
use lance_storage::sync_log::SyncLogOptions;
use std::path::Path;
use std::sync::Arc;

pub const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
pub const FOLDER: &str = "/data/1-0";
const SEGMENT_BYTES: u64 = 1 << 20;
/// A disk that gives out no more: opening makes files, and reads them.
const DISK_BYTES: u64 = 64 << 20;

/// A disk with these files in [`FOLDER`].
pub fn disk_with(files: &[(&str, &[u8])]) -> Arc<dyn Disk> {
    let config = MemoryConfig { capacity_bytes: Some(DISK_BYTES), ..MemoryConfig::default() };
    let disk = MemoryDisk::new(config).as_disk();
    disk.create_dir_all(Path::new(FOLDER)).unwrap();
    for (name, bytes) in files {
        disk.open(&Path::new(FOLDER).join(name), OpenMode::Create).unwrap().write_all_at(bytes, 0).unwrap();
    }
    disk
}

/// A log in [`FOLDER`].
pub fn log_options() -> LogOptions {
    LogOptions {
        dir: FOLDER.into(),
        partition: PARTITION,
        segment_bytes: SEGMENT_BYTES,
        index_interval_bytes: 4096,
        zero_ahead_bytes: 0,
    }
}

/// A log of entries in [`FOLDER`].
pub fn sync_log_options() -> SyncLogOptions {
    SyncLogOptions { dir: FOLDER.into(), partition: PARTITION, segment_bytes: SEGMENT_BYTES }
}

/// A frame of a small file around `body`, both checksums right.
pub fn framed(magic: &[u8; 4], body: &[u8]) -> Vec<u8> {
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
pub fn log_state(body: &[u8]) -> Vec<u8> {
    let length = ((16 + body.len()) as u32).to_le_bytes();
    [&b"LNPS\x01\0\0\0"[..], &seeded(&[&length, body]), &length, body].concat()
}

/// The bytes, the header of a first batch with its checksum.
pub fn with_sealed_header(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= BATCH_HEADER_BYTES {
        let crc = seeded(&[&bytes[..8], &bytes[12..BATCH_HEADER_BYTES]]);
        bytes[8..12].copy_from_slice(&crc);
    }
    bytes
}

/// A page of an index that begins with these bytes, padded, its checksum right.
pub fn index_page(begin: &[u8]) -> Vec<u8> {
    let mut page = begin.to_vec();
    page.resize(INDEX_PAGE_BYTES - 4, 0);
    [&seeded(&[&page])[..], &page].concat()
}
