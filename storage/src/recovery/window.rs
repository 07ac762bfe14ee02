//! Reading a file past the page cache, in pieces, while recovery walks through it.

use crate::disk::{BLOCK, DiskError, DiskFile};

/// Read at once where everything is looked at.
const NEAR_BYTES: u64 = 1024 * 1024;
/// Read at once where only headers are.
const FAR_BYTES: u64 = 4096;

/// A piece of a file in memory.
pub(super) struct Window<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    bytes: Vec<u8>,
    start: u64,
    /// Whether much of what follows is wanted too.
    pub(super) near: bool,
}

impl<'a> Window<'a> {
    /// For a file of `len` bytes.
    pub(super) fn new(file: &'a dyn DiskFile, len: u64) -> Self {
        Self { file, len, bytes: Vec::new(), start: 0, near: true }
    }

    /// Bytes of the file.
    pub(super) fn file_len(&self) -> u64 {
        self.len
    }

    /// The `wanted` bytes at `file_offset`, or fewer where the file ends.
    pub(super) fn bytes(&mut self, file_offset: u64, wanted: u64) -> Result<&[u8], DiskError> {
        let wanted = wanted.min(self.len.saturating_sub(file_offset));
        let end = self.start + self.bytes.len() as u64;
        if file_offset < self.start || file_offset + wanted > end {
            let ahead = if self.near { NEAR_BYTES } else { FAR_BYTES };
            let read = wanted.max(ahead).min(self.len.saturating_sub(file_offset));
            self.bytes.clear();
            self.bytes.resize(read as usize, 0);
            self.start = file_offset;
            match self.file.read_uncached_at(&mut self.bytes, file_offset) {
                Ok(read) => self.bytes.truncate(read),
                Err(error) => {
                    self.bytes.clear();
                    return Err(error);
                }
            }
        }
        let from = (file_offset - self.start) as usize;
        let to = (from + wanted as usize).min(self.bytes.len());
        Ok(self.bytes.get(from..to).unwrap_or_default())
    }

    /// What is in memory from `file_offset` on, after making sure that it is at least `least` bytes (or the file's rest).
    pub(super) fn rest(&mut self, file_offset: u64, least: u64) -> Result<&[u8], DiskError> {
        self.bytes(file_offset, least)?;
        let from = (file_offset - self.start) as usize;
        Ok(self.bytes.get(from..).unwrap_or_default())
    }

    /// The first byte at or behind `from` that is not zero.
    pub(super) fn find_nonzero(&mut self, from: u64) -> Result<Option<u64>, DiskError> {
        let mut at = from;
        while at < self.len {
            let piece = self.bytes(at, NEAR_BYTES)?;
            if piece.is_empty() {
                break;
            }
            // Whole blocks first: comparing them is far faster than looking at each byte.
            let zeroes: usize = piece.chunks(BLOCK).take_while(|block| is_zero(block)).map(<[u8]>::len).sum();
            if let Some(found) = piece[zeroes..].iter().position(|byte| *byte != 0) {
                return Ok(Some(at + (zeroes + found) as u64));
            }
            at += piece.len() as u64;
        }
        Ok(None)
    }

    /// Where what is not zero ends, looking backwards from the end of the file no further than `from`.
    pub(super) fn end_of_data(&mut self, from: u64) -> Result<u64, DiskError> {
        let mut end = self.len;
        while end > from {
            let start = end.saturating_sub(NEAR_BYTES).max(from);
            let piece = self.bytes(start, end - start)?;
            let zeroes: usize = piece.rchunks(BLOCK).take_while(|block| is_zero(block)).map(<[u8]>::len).sum();
            if let Some(last) = piece[..piece.len() - zeroes].iter().rposition(|byte| *byte != 0) {
                return Ok(start + last as u64 + 1);
            }
            end = start;
        }
        Ok(from)
    }
}

fn is_zero(block: &[u8]) -> bool {
    static ZEROES: [u8; BLOCK] = [0; BLOCK];
    ZEROES.get(..block.len()) == Some(block)
}
