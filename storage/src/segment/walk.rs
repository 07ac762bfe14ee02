//! Hopping through a segment from batch header to batch header, without reading the records between them.

use super::Segment;
use crate::disk::{DiskError, DiskFile};
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader, BatchSeed};
use std::path::PathBuf;
use thiserror::Error;

/// Read at once where headers stand close together.
const NEAR_BYTES: usize = 256 * 1024;
/// Read at once where they stand far apart.
const FAR_BYTES: usize = 4096;
/// Batches from this size on are far apart.
const FAR_BATCH_BYTES: u64 = 32 * 1024;

/// Why a header could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WalkError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The bytes are no batch header of this log.
    #[error("{} at byte {file_offset}: {reason}", path.display())]
    Header {
        /// The segment's file.
        path: PathBuf,
        /// Where the header should stand.
        file_offset: u64,
        /// What stands there instead.
        reason: BatchError,
    },
    /// A header that checks, but belongs to another position: an older or copied batch.
    #[error("{} at byte {file_offset}: a batch of log position {found} where {expected} belongs", path.display())]
    Position {
        /// The segment's file.
        path: PathBuf,
        /// Where the header stands.
        file_offset: u64,
        /// The position it says.
        found: u64,
        /// The position it stands at.
        expected: u64,
    },
}

/// A reader of batch headers of one segment's file.
#[derive(Debug)]
pub struct HeaderWalk<'a> {
    file: &'a dyn DiskFile,
    base_position: u64,
    seed: BatchSeed,
    /// Past the page cache: for what is or was the active segment.
    uncached: bool,
    window: Vec<u8>,
    window_start: u64,
    far: bool,
}

impl<'a> HeaderWalk<'a> {
    /// A walk through `segment`, whose open file is `file`.
    pub fn new(segment: &Segment, file: &'a dyn DiskFile, uncached: bool) -> Self {
        Self {
            file,
            base_position: segment.base().position,
            seed: segment.seed(),
            uncached,
            window: Vec::new(),
            window_start: 0,
            far: true,
        }
    }

    /// The header of the batch that begins at the log position `position`.
    pub fn header_at(&mut self, position: u64) -> Result<BatchHeader, WalkError> {
        let file_offset = position.saturating_sub(self.base_position);
        let seed = self.seed;
        let bytes = self.bytes_at(file_offset)?;
        let header = BatchHeader::decode(bytes, seed).map_err(|reason| WalkError::Header {
            path: self.file.path().to_owned(),
            file_offset,
            reason,
        })?;
        if header.position != position {
            return Err(WalkError::Position {
                path: self.file.path().to_owned(),
                file_offset,
                found: header.position,
                expected: position,
            });
        }
        self.far = header.batch_bytes() >= FAR_BATCH_BYTES;
        Ok(header)
    }

    fn bytes_at(&mut self, file_offset: u64) -> Result<&[u8], DiskError> {
        let window_end = self.window_start + self.window.len() as u64;
        if file_offset < self.window_start || file_offset + BATCH_HEADER_BYTES as u64 > window_end {
            let bytes = if self.far { FAR_BYTES } else { NEAR_BYTES };
            self.window.resize(bytes, 0);
            let read = if self.uncached {
                self.file.read_uncached_at(&mut self.window, file_offset)
            } else {
                self.file.read_at(&mut self.window, file_offset)
            };
            self.window_start = file_offset;
            match read {
                Ok(read) => self.window.truncate(read),
                Err(error) => {
                    self.window.clear();
                    return Err(error);
                }
            }
        }
        let start = (file_offset - self.window_start) as usize;
        let end = (start + BATCH_HEADER_BYTES).min(self.window.len());
        Ok(self.window.get(start..end).unwrap_or_default())
    }
}
