//! `reserve`: space really occupied, given back when the disk is full so that promises and the Raft log can still be synced.

use super::{CheckpointError, folder_of};
use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use std::path::Path;
use std::sync::Arc;

/// What a server keeps back.
pub const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

const CHUNK_BYTES: usize = 1024 * 1024;
/// What a released reserve still keeps, for the next start: that writes a few small files before anything else.
const SPARE_BYTES: u64 = 1024 * 1024;
/// With less free than this part of the reserve, a start counts the disk as full.
const FULL: u64 = 4;

/// What is kept of a reserve of `bytes`; of a small one nothing.
fn spare_of(bytes: u64) -> u64 {
    if bytes >= 8 * SPARE_BYTES { SPARE_BYTES } else { 0 }
}

/// Gives the reserve at `path` back when the disk is full, so that a server can start; says how many bytes that were.
///
/// A start needs space before anything else runs: without, a full disk would not even serve reads.
pub fn make_room(disk: &Arc<dyn Disk>, path: &Path) -> Result<u64, CheckpointError> {
    let file = match disk.open(path, OpenMode::ReadWrite) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let bytes = file.len()?;
    if bytes == 0 || disk.space(path)?.free_bytes >= bytes / FULL {
        return Ok(0);
    }
    let kept = spare_of(bytes);
    file.set_len(kept)?;
    file.sync()?;
    Ok(bytes - kept)
}

/// The reserve of one data dir.
pub struct Reserve {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// Opens the reserve at `path` and fills it up to `bytes`; on a disk too full for that it opens unheld.
    pub fn open(disk: &Arc<dyn Disk>, path: &Path, bytes: u64) -> Result<Self, CheckpointError> {
        let file = disk.open(path, OpenMode::CreateOrOpen)?;
        disk.sync_dir(folder_of(path))?;
        let held = file.len()? == bytes;
        let mut reserve = Self { disk: Arc::clone(disk), file, bytes, held };
        if !reserve.held {
            reserve.refill()?;
        }
        Ok(reserve)
    }

    /// Whether the space is there to be given back.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Gives the space back, all but what the next start may need; `false` when there was nothing left to give.
    pub fn release(&mut self) -> Result<bool, CheckpointError> {
        if !self.held {
            return Ok(false);
        }
        self.held = false;
        self.file.set_len(spare_of(self.bytes))?;
        self.file.sync()?;
        Ok(true)
    }

    /// Takes the space again, once as much again would stay free; says whether it is held now.
    pub fn refill(&mut self) -> Result<bool, CheckpointError> {
        if self.held {
            return Ok(true);
        }
        if self.disk.space(self.file.path())?.free_bytes < self.bytes.saturating_mul(2) {
            return Ok(false);
        }
        match self.write_all() {
            Ok(()) => self.held = true,
            Err(error) if error.is_no_space() => {
                self.file.set_len(0)?;
                self.file.sync()?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(self.held)
    }

    /// Not zeroes, not one block repeated: a file system that compresses or shares blocks must give the space too.
    fn write_all(&self) -> Result<(), DiskError> {
        self.file.set_len(0)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut file_offset = 0;
        while file_offset < self.bytes {
            for word in chunk.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            let len = (self.bytes - file_offset).min(CHUNK_BYTES as u64);
            self.file.write_all_at(&chunk[..len as usize], file_offset)?;
            file_offset += len;
        }
        self.file.sync()
    }
}
