//! `lnc backup verify`: every file that the manifest names is there, whole and unchanged.

use super::error::BackupError;
use super::files::BatchReader;
use super::manifest::{Manifest, PartitionBackup, TopicBackup};
use crate::cli::output::Progress;
use crate::cli::units::show_bytes;
use std::path::Path;

/// What was found sound.
#[derive(Debug, Default)]
pub struct Verified {
    /// What the backup holds.
    pub manifest: Manifest,
    /// Files read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
}

/// Reads and checks all of a backup; the first thing that is wrong ends it.
pub fn verify(dir: &Path) -> Result<Verified, BackupError> {
    let manifest = Manifest::read(dir)?;
    let mut progress = Progress::new();
    let mut verified = Verified::default();
    for (topic, number, held) in manifest.partitions() {
        check_partition(dir, (topic, number, held), &mut verified, &mut progress)?;
    }
    Ok(Verified { manifest, ..verified })
}

fn check_partition(
    dir: &Path,
    (topic, number, held): (&TopicBackup, u16, &PartitionBackup),
    verified: &mut Verified,
    progress: &mut Progress,
) -> Result<(), BackupError> {
    let (folder, mut next) = (topic.dir(dir, number), held.start);
    for file in &held.files {
        let path = folder.join(&file.name);
        let found = std::fs::metadata(&path).map_err(BackupError::io(&path, "read"))?.len();
        if found != file.bytes {
            return Err(BackupError::FileSize { path, found, expected: file.bytes });
        }
        let mut reader = BatchReader::open(&path, topic.partition(number), Some(next))?;
        loop {
            match reader.next() {
                Ok(Some(_)) => progress.show(|| format!("{} checked", show_bytes(verified.bytes + reader.so_far().1))),
                Ok(None) => break,
                Err(error) => return Err(error),
            }
        }
        let (end, _, computed, _) = reader.so_far();
        if computed != file.crc32 {
            return Err(BackupError::FileChecksum { path, computed, expected: file.crc32 });
        }
        next = end.unwrap_or(next);
        verified.files += 1;
        verified.bytes += file.bytes;
    }
    if next != held.end {
        let (path, at) = (folder, 0);
        let (field, found, expected) = ("the end of the partition", next.offset, held.end.offset);
        return Err(BackupError::Chain { path, at, field, found, expected });
    }
    verified.records += held.end.record - held.start.record.min(held.end.record);
    Ok(())
}
