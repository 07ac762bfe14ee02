//! Steps from batch to batch through one segment, reading as little as the sizes of its batches allow.
//!
//! Large batches cost one read of 104 bytes each. Once batches turn out small, up to 1 MiB is read at a time and the
//! following headers and records come out of that window.

use super::ReadError;
use super::check::{BatchFlaw, Chain, header_at};
use super::source::Source;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchHeader};

/// Batches whose records are at least this long are worth a read, or a `sendfile`, of their own.
pub(super) const LARGE_BYTES: u64 = 32 * 1024;
/// The most that is read ahead.
pub(super) const WINDOW_BYTES: usize = 1024 * 1024;
/// What the first read of a plan takes: it tells small batches from large ones.
const FIRST_READ_BYTES: usize = 4096;

/// The memory a cursor reads into; kept by the reader from plan to plan.
#[derive(Default)]
pub(super) struct Window {
    bytes: Vec<u8>,
    file_offset: u64,
    filled: usize,
}

impl Window {
    /// Forgets the content: the next cursor may be for another file.
    fn clear(&mut self) {
        self.filled = 0;
    }

    /// Gives the memory back.
    pub fn release(&mut self) {
        *self = Self::default();
    }

    fn get(&self, file_offset: u64, len: usize) -> Option<&[u8]> {
        let at = usize::try_from(file_offset.checked_sub(self.file_offset)?).ok()?;
        self.bytes[..self.filled].get(at..at.checked_add(len)?)
    }
}

/// A place between two batches of a segment.
pub(super) struct Cursor<'a> {
    source: &'a Source,
    window: &'a mut Window,
    chain: Chain,
    /// Bytes the caller still wants; no point in reading further ahead.
    wanted: u64,
    batches: Batches,
}

/// What the batch before tells about the next one.
#[derive(Clone, Copy)]
enum Batches {
    Unknown,
    Small,
    Large,
}

impl<'a> Cursor<'a> {
    /// A cursor before the batch at `position`, for a caller that wants `wanted` bytes of records.
    pub fn new(source: &'a Source, window: &'a mut Window, position: u64, wanted: u64) -> Self {
        window.clear();
        Self {
            source,
            window,
            chain: Chain::at(position),
            wanted,
            batches: Batches::Unknown,
        }
    }

    /// The header of the next batch, which [`Cursor::advance`] then passes; `None` at the limit of the segment.
    pub fn peek(&mut self) -> Result<Option<BatchHeader>, ReadError> {
        if self.chain.position >= self.source.limit_position {
            return Ok(None);
        }
        let file_offset = self.source.file_offset_of(self.chain.position);
        if self.window.get(file_offset, BATCH_HEADER_BYTES).is_none() {
            let ahead = self.ahead_bytes();
            self.fill(file_offset, ahead)?;
        }
        let bytes = self.window.get(file_offset, BATCH_HEADER_BYTES).unwrap_or_default();
        let header =
            header_at(bytes, self.source.seed(), &self.chain).map_err(|flaw| self.source.damaged(file_offset, flaw))?;
        if header.end_position() > self.source.limit_position {
            let flaw = BatchFlaw::Cut {
                needed: header.stored_len.into(),
                left: (self.source.limit_position - header.position).saturating_sub(BATCH_HEADER_BYTES as u64),
            };
            return Err(self.source.damaged(file_offset, flaw));
        }
        Ok(Some(header))
    }

    /// Passes the batch of `header`; `wanted` bytes of records are still of interest behind it.
    pub fn advance(&mut self, header: &BatchHeader, wanted: u64) {
        self.chain = Chain::after(header);
        let small = u64::from(header.stored_len) < LARGE_BYTES;
        self.batches = if small { Batches::Small } else { Batches::Large };
        self.wanted = wanted;
    }

    /// The stored records of the batch just peeked, unchecked, when they fit the window; read when they are not there.
    pub fn records(&mut self, header: &BatchHeader) -> Result<Option<&[u8]>, ReadError> {
        let len = header.stored_len as usize;
        let file_offset = self.source.file_offset_of(header.position);
        let records_at = file_offset + BATCH_HEADER_BYTES as u64;
        if self.window.get(records_at, len).is_none() {
            let batch_bytes = BATCH_HEADER_BYTES + len;
            if batch_bytes > WINDOW_BYTES {
                return Ok(None);
            }
            let ahead = if self.source.closed {
                self.ahead_bytes()
            } else {
                self.wanted_bytes()
            };
            self.fill(file_offset, ahead.max(batch_bytes))?;
        }
        match self.window.get(records_at, len) {
            Some(_) => Ok(self.window.get(records_at, len)),
            None => {
                let left = self.window.filled.saturating_sub(BATCH_HEADER_BYTES) as u64;
                Err(self.source.damaged(
                    file_offset,
                    BatchFlaw::Cut {
                        needed: len as u64,
                        left,
                    },
                ))
            }
        }
    }

    /// How much to read for a header. Past the page cache every read is dear, so one takes all that may be wanted.
    fn ahead_bytes(&self) -> usize {
        match self.batches {
            Batches::Unknown if self.source.closed => FIRST_READ_BYTES,
            Batches::Large if self.source.closed => BATCH_HEADER_BYTES,
            _ => self.wanted_bytes(),
        }
    }

    /// What is wanted, some room for headers, and the batches between the index entry and the offset.
    fn wanted_bytes(&self) -> usize {
        let room = self
            .wanted
            .saturating_add(self.wanted / 8)
            .saturating_add(2 * LARGE_BYTES);
        usize::try_from(room).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES)
    }

    fn fill(&mut self, file_offset: u64, len: usize) -> Result<(), ReadError> {
        let left = self
            .source
            .file_offset_of(self.source.limit_position)
            .saturating_sub(file_offset);
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.window.bytes.len() < len {
            self.window.bytes.resize(len, 0);
        }
        self.window.filled = 0;
        self.window.file_offset = file_offset;
        self.window.filled = self.source.read(&mut self.window.bytes[..len], file_offset)?;
        Ok(())
    }
}
