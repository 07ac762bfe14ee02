//! Segment files on disk, to look at and to damage: batches one after the other, each a header of 104 bytes and its
//! stored records.
//!
//! ```text
//! 0 type 0F · 5 version · 6 flags u16 (1 = control) · 16 log position u64 · 24 base offset u64 · 40 stored length u32
//! 56 high watermark when it was made u64
//! ```

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes of a batch header.
pub const BATCH_HEADER_BYTES: u64 = 104;

/// Where a batch is in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlace {
    /// Byte of the file where its header begins.
    pub file_offset: u64,
    /// Log position.
    pub position: u64,
    /// Offset of its first plain byte.
    pub base_offset: u64,
    /// Stored bytes behind the header.
    pub stored_bytes: u64,
    /// High watermark when it was made.
    pub committed_through: u64,
    /// Made by the broker for itself.
    pub is_control: bool,
}

impl BatchPlace {
    /// Byte of the file behind the batch.
    pub fn end(&self) -> u64 {
        self.file_offset + BATCH_HEADER_BYTES + self.stored_bytes
    }
}

/// The batches of a segment file, up to where nothing was written.
pub fn batches(path: &Path) -> Vec<BatchPlace> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let mut found = Vec::new();
    let mut at = 0;
    while bytes.len() >= at + BATCH_HEADER_BYTES as usize && bytes[at] == 0x0F {
        let stored_bytes = u32::from_le_bytes(bytes[at + 40..at + 44].try_into().unwrap());
        found.push(BatchPlace {
            file_offset: at as u64,
            position: u64_at(at + 16),
            base_offset: u64_at(at + 24),
            stored_bytes: u64::from(stored_bytes),
            committed_through: u64_at(at + 56),
            is_control: bytes[at + 6] & 1 == 1,
        });
        at += BATCH_HEADER_BYTES as usize + stored_bytes as usize;
    }
    found
}

/// Changes one bit of a file.
pub fn flip_bit(path: &Path, file_offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0u8; 1];
    file.read_exact_at(&mut byte, file_offset).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, file_offset).unwrap();
    file.sync_all().unwrap();
}

/// Writes bytes over what is there.
pub fn overwrite(path: &Path, file_offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, file_offset).unwrap();
    file.sync_all().unwrap();
}
