//! Steps from batch to batch through one segment, reading as little as the sizes of its batches allow.
//!
//! Large batches cost one read of 104 bytes each. Once batches turn out small, about 1 MiB is read at a time and the
//! following headers and records come out of that window.

use super::ReadError;
use super::check::{BatchFlaw, Chain, header_at};
use super::source::Source;
use crate::disk::BLOCK;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchHeader};

/// Batches whose records are at least this long are worth a read, or a `sendfile`, of their own.
pub(super) const LARGE_BYTES: u64 = 32 * 1024;
/// The most that is read ahead: a fetch of 1 MiB with its headers.
pub(super) const WINDOW_BYTES: usize = 1024 * 1024 + 128 * 1024;
/// What the first read of a plan takes: it tells small batches from large ones.
const FIRST_READ_BYTES: usize = 4096;

/// The memory a cursor reads into, aligned like the blocks of the disk; kept by the reader from plan to plan.
#[derive(Default)]
pub(super) struct Window {
    memory: Vec<u8>,
    /// Where its first aligned byte is.
    start: usize,
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
        let filled = self.memory.get(self.start..self.start + self.filled)?;
        filled.get(at..at.checked_add(len)?)
    }

    /// Room for `len` bytes from `file_offset` on, which count as read once `filled` says so.
    fn room(&mut self, file_offset: u64, len: usize) -> &mut [u8] {
        (self.filled, self.file_offset) = (0, file_offset);
        if self.memory.len() < self.start + len {
            self.memory = vec![0; len + BLOCK];
            // An address that cannot be aligned would only cost a copy.
            self.start = Some(self.memory.as_ptr().align_offset(BLOCK)).filter(|start| *start < BLOCK).unwrap_or(0);
        }
        &mut self.memory[self.start..self.start + len]
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
        Self { source, window, chain: Chain::at(position), wanted, batches: Batches::Unknown }
    }

    /// Whether the next header is here already, or costs no more than a read of the page cache.
    pub fn is_cheap(&self) -> bool {
        let file_offset = self.source.file_offset_of(self.chain.position);
        self.source.closed || self.window.get(file_offset, BATCH_HEADER_BYTES).is_some()
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
            let ahead = self.ahead_bytes();
            self.fill(file_offset, ahead.max(batch_bytes))?;
        }
        match self.window.get(records_at, len) {
            Some(_) => Ok(self.window.get(records_at, len)),
            None => {
                let read_to = self.window.file_offset + self.window.filled as u64;
                let left = read_to.saturating_sub(records_at);
                Err(self.source.damaged(file_offset, BatchFlaw::Cut { needed: len as u64, left }))
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

    /// What is wanted with its headers and, at first, with the batches between the index entry and the offset.
    fn wanted_bytes(&self) -> usize {
        let extra = match self.batches {
            Batches::Unknown => self.wanted / 8 + 2 * LARGE_BYTES,
            Batches::Small => self.wanted / 8 + BLOCK as u64,
            Batches::Large => self.wanted / LARGE_BYTES * BATCH_HEADER_BYTES as u64 + BLOCK as u64,
        };
        usize::try_from(self.wanted.saturating_add(extra)).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES)
    }

    fn fill(&mut self, file_offset: u64, len: usize) -> Result<(), ReadError> {
        let limit = self.source.file_offset_of(self.source.limit_position);
        let (mut from, mut to) = (file_offset, limit.min(file_offset.saturating_add(len as u64)));
        if !self.source.closed {
            // Past the page cache whole blocks move anyway; asked for as such, they need no second copy.
            from -= from % BLOCK as u64;
            to = to.next_multiple_of(BLOCK as u64);
        }
        let room = self.window.room(from, to.saturating_sub(from) as usize);
        self.window.filled = self.source.read(room, from)?;
        Ok(())
    }
}
