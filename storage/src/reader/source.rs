//! One segment opened for reading, up to where it may be read.

use super::ReadError;
use super::check::BatchFlaw;
use super::plan::read_full;
use crate::disk::{DiskError, DiskFile};
use crate::index::{Index, IndexEntry};
use crate::segment::{Segment, SegmentFiles, SegmentSlice};
use lance_messages::batch::{BatchHeader, BatchSeed};
use lance_messages::id::TopicPartition;
use lance_messages::sort_key::SortKey;
use std::sync::Arc;

/// Plain bytes between the start of a slice and an offset from which on the index is worth a look.
const INDEX_WORTH_BYTES: u64 = 64 * 1024;
/// The most that is read ahead for one fetch; as much again for the next one.
const AHEAD_BYTES: u64 = 8 * 1024 * 1024;
/// Fetches below this are left to the kernel's own read-ahead.
const AHEAD_WORTH_BYTES: u64 = 128 * 1024;

/// A slice with its file, and with its index where that helps.
pub(super) struct Source {
    segment: Arc<Segment>,
    pub file: Arc<dyn DiskFile>,
    index: Option<Arc<Index>>,
    start_position: u64,
    /// Nothing at or above this log position may be read.
    pub limit_position: u64,
    /// Closed segments stay as they are; the active one is read past the page cache.
    pub closed: bool,
}

impl Source {
    /// Opens `slice` for a read from `offset`, or for a look-up when there is none.
    pub fn open(files: &mut SegmentFiles, slice: &SegmentSlice, offset: Option<u64>) -> Result<Self, ReadError> {
        let segment = Arc::clone(&slice.segment);
        let file = files.get(&segment).map_err(|error| match error.is_not_found() {
            true => ReadError::Removed { partition: segment.partition(), position: segment.base().position },
            false => ReadError::Disk(error),
        })?;
        let far = offset.is_none_or(|offset| offset.saturating_sub(slice.start_offset) > INDEX_WORTH_BYTES);
        // Without an index, which could not even be rebuilt, the way is longer and the answer the same.
        let index = (far && slice.closed).then(|| segment.index(&**files.disk(), &*file).ok()).flatten();
        Ok(Self {
            file,
            index,
            start_position: slice.start_position,
            limit_position: slice.limit.position,
            closed: slice.closed,
            segment,
        })
    }

    /// The log it belongs to.
    pub fn partition(&self) -> TopicPartition {
        self.segment.partition()
    }

    /// The seed of its headers' checksums.
    pub fn seed(&self) -> BatchSeed {
        self.segment.seed()
    }

    /// Log position of its first batch.
    pub fn base_position(&self) -> u64 {
        self.segment.base().position
    }

    /// Whether some reader, or the scrubber, has checked everything below `end_position` since start.
    pub fn is_checked(&self, end_position: u64) -> bool {
        self.segment.is_verified() || end_position <= self.segment.checked_through()
    }

    /// Tells other readers that a batch was checked, or needs no check.
    pub fn note_checked(&self, header: &BatchHeader) {
        if self.closed {
            self.segment.note_checked(header.position, header.end_position());
        }
    }

    /// Has the device read `wanted` bytes from `position` on, and as many behind them for the fetch that comes next.
    pub fn read_ahead(&self, position: u64, wanted: u64) {
        let wanted = wanted.min(AHEAD_BYTES);
        if !self.closed || wanted < AHEAD_WORTH_BYTES {
            return;
        }
        let limit = self.file_offset_of(self.limit_position);
        let mut at = self.file_offset_of(position);
        for _ in 0..2 {
            let len = wanted.min(limit.saturating_sub(at));
            self.file.will_need(at, len);
            at += len;
        }
    }

    /// A batch boundary at or before the batch that holds `offset`.
    pub fn position_before(&self, offset: u64) -> u64 {
        let delta = offset.saturating_sub(self.segment.base().offset);
        self.last_position_where(|entry| u64::from(entry.offset_delta) <= delta)
    }

    /// A batch boundary before the first batch whose sort key is at least `sort_key`.
    pub fn position_before_key(&self, sort_key: SortKey) -> u64 {
        self.last_position_where(|entry| entry.sort_key < sort_key)
    }

    /// The position of the last index entry for which `holds`, which is true up to some entry and false from there on.
    pub fn last_position_where(&self, mut holds: impl FnMut(&IndexEntry) -> bool) -> u64 {
        let Some(index) = &self.index else {
            return self.start_position;
        };
        let (mut low, mut high, mut position) = (0, index.len(), self.start_position);
        while low < high {
            let middle = low + (high - low) / 2;
            match index.entry(middle) {
                Some(entry) if self.position_of(&entry) < self.limit_position && holds(&entry) => {
                    position = position.max(self.position_of(&entry));
                    low = middle + 1;
                }
                _ => high = middle,
            }
        }
        position
    }

    /// Log position of an index entry.
    pub fn position_of(&self, entry: &IndexEntry) -> u64 {
        self.base_position() + u64::from(entry.position_delta)
    }

    /// Where a log position lies in the file.
    pub fn file_offset_of(&self, position: u64) -> u64 {
        self.segment.file_offset(position)
    }

    /// Fills `out` as far as the file goes; the page cache never sees the active segment.
    pub fn read(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        read_full(&self.file, out, file_offset, !self.closed)
    }

    /// Like [`Self::read`] past the page cache: what goes to a replica is not read again soon, and would push out what is.
    pub fn read_once(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        read_full(&self.file, out, file_offset, true)
    }

    /// Names the place of a flaw.
    pub fn damaged(&self, file_offset: u64, flaw: BatchFlaw) -> ReadError {
        ReadError::Damaged {
            path: self.file.path().to_path_buf(),
            file_offset,
            position: self.base_position() + file_offset,
            partition: self.partition(),
            flaw,
        }
    }
}
