//! The sparse index of a segment: an entry about every 64 KiB, in pages of 4 KiB that carry a checksum.
//!
//! A page: `[crc u32][version u8 = 1][zero u8][entry count u16][segment base position u64]`, then up to 170 entries of
//! 24 bytes, `[sort key 16][offset − base u32][position − base u32]`, then zeroes. The checksum covers the bytes from 4
//! on, seeded with the segment's partition. Every page but the last is full. An entry stands for the first batch that
//! begins at or behind the next multiple of the interval; the first batch of the segment always has one.

use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use crate::segment::{HeaderWalk, Segment, WalkError};
use lance_messages::batch::BatchHeader;
use lance_messages::id::TopicPartition;
use lance_messages::sort_key::SortKey;
use memmap2::Mmap;
use std::path::PathBuf;
use thiserror::Error;

/// Bytes of an index page.
pub const INDEX_PAGE_BYTES: usize = 4096;
/// Entries of a full page.
pub const ENTRIES_PER_PAGE: usize = 170;
/// Distance of entries where nothing else is asked for.
pub const DEFAULT_INTERVAL_BYTES: u64 = 64 * 1024;

const PAGE_HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 24;
const PAGE_VERSION: u8 = 1;

/// One batch the index knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The batch's sort key.
    pub sort_key: SortKey,
    /// Its base offset, counted from the segment's.
    pub offset_delta: u32,
    /// Its log position, counted from the segment's.
    pub position_delta: u32,
}

/// Why there is no index.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IndexError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The system would not map the file.
    #[error("cannot map {}: errno {errno}", path.display())]
    Map {
        /// The index file.
        path: PathBuf,
        /// The errno.
        errno: i32,
    },
    /// A page does not check.
    #[error("{} page {page} is damaged", path.display())]
    Damaged {
        /// The index file.
        path: PathBuf,
        /// Which page, from 0.
        page: usize,
    },
    /// It could not be rebuilt either.
    #[error("cannot rebuild the index: {0}")]
    Segment(#[from] WalkError),
    /// An index belongs to a closed segment.
    #[error("{} is still written, it has no index file", path.display())]
    Open {
        /// The segment.
        path: PathBuf,
    },
}

impl IndexEntry {
    pub(crate) fn encode(&self, out: &mut [u8; ENTRY_BYTES]) {
        out[..16].copy_from_slice(&self.sort_key.to_le_bytes());
        out[16..20].copy_from_slice(&self.offset_delta.to_le_bytes());
        out[20..].copy_from_slice(&self.position_delta.to_le_bytes());
    }

    pub(crate) fn decode(raw: &[u8; ENTRY_BYTES]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&raw[..16]);
        Self {
            sort_key: SortKey::from_le_bytes(key),
            offset_delta: u32::from_le_bytes([raw[16], raw[17], raw[18], raw[19]]),
            position_delta: u32::from_le_bytes([raw[20], raw[21], raw[22], raw[23]]),
        }
    }
}

/// Entries for which a builder keeps room: as many as a group of 1 MiB can add.
const ROOM_ENTRIES: usize = 16;

/// Collects the entries of a segment while it is written or walked.
#[derive(Clone, Debug)]
pub struct IndexBuilder {
    interval_bytes: u64,
    entries: Vec<IndexEntry>,
}

impl IndexBuilder {
    /// No entries yet; one is made about every `interval_bytes`.
    pub fn new(interval_bytes: u64) -> Self {
        Self { interval_bytes: interval_bytes.max(1), entries: Vec::new() }
    }

    /// Takes note of the next batch of `segment`.
    pub fn note(&mut self, base_position: u64, base_offset: u64, header: &BatchHeader) {
        let delta = header.position.saturating_sub(base_position);
        let due = match self.entries.last() {
            None => true,
            Some(last) => delta - delta % self.interval_bytes > u64::from(last.position_delta),
        };
        let (Ok(position_delta), Ok(offset_delta)) =
            (u32::try_from(delta), u32::try_from(header.base_offset.saturating_sub(base_offset)))
        else {
            return;
        };
        if due {
            self.entries.push(IndexEntry { sort_key: header.sort_key, offset_delta, position_delta });
        }
    }

    /// Makes room ahead of need, so that noting a batch of the next groups allocates nothing.
    pub(crate) fn make_room(&mut self) {
        if self.entries.capacity() - self.entries.len() < ROOM_ENTRIES {
            self.entries.reserve(self.entries.len().max(2 * ROOM_ENTRIES));
        }
    }

    /// The entries so far, in order.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// Takes over `entries` of the same segment.
    pub(crate) fn restore(&mut self, entries: Vec<IndexEntry>) {
        self.entries = entries;
    }
}

/// Bytes of the index file of `entries` entries.
pub(crate) fn file_bytes(entries: usize) -> usize {
    entries.div_ceil(ENTRIES_PER_PAGE) * INDEX_PAGE_BYTES
}

/// Writes page `page` of the index file of `entries`.
pub(crate) fn encode_page(
    out: &mut [u8; INDEX_PAGE_BYTES],
    entries: &[IndexEntry],
    page: usize,
    partition: TopicPartition,
    base_position: u64,
) {
    out.fill(0);
    let from = (page * ENTRIES_PER_PAGE).min(entries.len());
    let to = (from + ENTRIES_PER_PAGE).min(entries.len());
    let on_page = &entries[from..to];
    out[4] = PAGE_VERSION;
    out[6..8].copy_from_slice(&(on_page.len() as u16).to_le_bytes());
    out[8..16].copy_from_slice(&base_position.to_le_bytes());
    let (raw, _) = out[PAGE_HEADER_BYTES..].as_chunks_mut::<ENTRY_BYTES>();
    on_page.iter().zip(raw).for_each(|(entry, raw)| entry.encode(raw));
    let crc = page_crc(out, partition);
    out[..4].copy_from_slice(&crc.to_le_bytes());
}

fn page_crc(page: &[u8; INDEX_PAGE_BYTES], partition: TopicPartition) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&partition.topic.0.to_le_bytes());
    hasher.update(&partition.partition.to_le_bytes());
    hasher.update(&page[4..]);
    hasher.finalize()
}

/// The index of a closed segment.
#[derive(Debug)]
pub struct Index {
    pages: Pages,
    entries: usize,
}

#[derive(Debug)]
enum Pages {
    Mapped(Mmap),
    Read(Vec<u8>),
    Rebuilt(Vec<IndexEntry>),
}

impl Index {
    /// Maps (or, without a descriptor, reads) the index file of `segment` and checks every page.
    pub fn load(disk: &dyn Disk, segment: &Segment) -> Result<Self, IndexError> {
        let path = segment.index_path();
        let file = disk.open(&path, OpenMode::Read)?;
        let pages = match file.raw_fd() {
            Some(fd) => {
                // SAFETY: an index file is written once, before its segment counts as closed, and later only removed.
                let map = unsafe { Mmap::map(fd) };
                Pages::Mapped(map.map_err(|error| IndexError::Map {
                    path: path.clone(),
                    errno: error.raw_os_error().unwrap_or_default(),
                })?)
            }
            None => {
                let mut bytes = vec![0; file.len()? as usize];
                let read = file.read_at(&mut bytes, 0)?;
                bytes.truncate(read);
                Pages::Read(bytes)
            }
        };
        let mut index = Self { pages, entries: 0 };
        index.entries = index.check(segment).map_err(|page| IndexError::Damaged { path, page })?;
        Ok(index)
    }

    /// Makes the index of a closed segment anew by walking through `file`.
    pub fn rebuild(segment: &Segment, file: &dyn DiskFile) -> Result<Self, IndexError> {
        let Some(end) = segment.end() else {
            return Err(IndexError::Open { path: segment.path().to_owned() });
        };
        let base = segment.base();
        let mut builder = IndexBuilder::new(DEFAULT_INTERVAL_BYTES);
        let mut walk = HeaderWalk::new(segment, file, false);
        let mut position = base.position;
        while position < end.mark.position {
            let header = walk.header_at(position)?;
            builder.note(base.position, base.offset, &header);
            position = header.end_position();
        }
        Ok(Self { entries: builder.entries.len(), pages: Pages::Rebuilt(builder.entries) })
    }

    /// Entries there are.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Entry number `at`, from 0.
    pub fn entry(&self, at: usize) -> Option<IndexEntry> {
        let bytes: &[u8] = match &self.pages {
            Pages::Rebuilt(entries) => return entries.get(at).copied(),
            Pages::Mapped(map) => map,
            Pages::Read(bytes) => bytes,
        };
        if at >= self.entries {
            return None;
        }
        let start = at / ENTRIES_PER_PAGE * INDEX_PAGE_BYTES + PAGE_HEADER_BYTES + at % ENTRIES_PER_PAGE * ENTRY_BYTES;
        bytes.get(start..)?.first_chunk().map(IndexEntry::decode)
    }

    /// The last entry that begins at or before `offset_delta`.
    pub fn by_offset(&self, offset_delta: u32) -> Option<IndexEntry> {
        self.last_where(|entry| entry.offset_delta <= offset_delta)
    }

    /// The last entry that begins at or before `position_delta`.
    pub fn by_position(&self, position_delta: u32) -> Option<IndexEntry> {
        self.last_where(|entry| entry.position_delta <= position_delta)
    }

    /// The last entry with a key below `key`: the first batch at or above it stands there or behind.
    pub fn before_key(&self, key: SortKey) -> Option<IndexEntry> {
        self.last_where(|entry| entry.sort_key < key)
    }

    /// Binary search over what is true of a prefix of the entries.
    fn last_where(&self, holds: impl Fn(&IndexEntry) -> bool) -> Option<IndexEntry> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(middle) {
                Some(entry) if holds(&entry) => low = middle + 1,
                _ => high = middle,
            }
        }
        low.checked_sub(1).and_then(|at| self.entry(at))
    }

    /// Counts the entries; an error names the page that is wrong.
    fn check(&self, segment: &Segment) -> Result<usize, usize> {
        let bytes: &[u8] = match &self.pages {
            Pages::Mapped(map) => map,
            Pages::Read(bytes) => bytes,
            Pages::Rebuilt(entries) => return Ok(entries.len()),
        };
        let (pages, rest) = bytes.as_chunks::<INDEX_PAGE_BYTES>();
        if !rest.is_empty() || pages.is_empty() {
            return Err(pages.len());
        }
        let mut entries = 0;
        for (number, page) in pages.iter().enumerate() {
            let count = usize::from(u16::from_le_bytes([page[6], page[7]]));
            let full = count == ENTRIES_PER_PAGE || (number + 1 == pages.len() && count <= ENTRIES_PER_PAGE);
            let right = page[..4] == page_crc(page, segment.partition()).to_le_bytes()
                && page[4] == PAGE_VERSION
                && page[8..16] == segment.base().position.to_le_bytes();
            if !full || !right || count == 0 {
                return Err(number);
            }
            entries += count;
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests;
