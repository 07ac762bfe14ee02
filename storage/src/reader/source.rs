//! One segment as a reader sees it.

use super::check::BatchFlaw;
use super::{ReadError, plan::read_full};
use crate::disk::{DiskError, DiskFile};
use lance_messages::batch::BatchSeed;
use lance_messages::id::TopicPartition;
use lance_messages::sort_key::SortKey;
use std::fmt;
use std::sync::Arc;

/// One entry of a sparse index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexPoint {
    /// Sort key of the batch.
    pub sort_key: SortKey,
    /// Its first offset.
    pub offset: u64,
    /// Its log position.
    pub position: u64,
}

/// The sparse index of one segment, ascending in all its columns.
pub trait SegmentIndex: Send + Sync {
    /// Entries there are.
    fn entry_count(&self) -> usize;
    /// Entry number `at`; `None` past the end, and where the index cannot be trusted.
    fn entry(&self, at: usize) -> Option<IndexPoint>;
}

/// What a reader is handed of a segment: enough to read it on another thread, whatever the log does meanwhile.
#[derive(Clone)]
pub struct SegmentSource {
    /// The log.
    pub partition: TopicPartition,
    /// Seeds its checksums.
    pub seed: BatchSeed,
    /// The open file.
    pub file: Arc<dyn DiskFile>,
    /// Log position of its first batch.
    pub base_position: u64,
    /// Offset of its first batch.
    pub base_offset: u64,
    /// Nothing at or above this log position may be read: the end of the segment or the high watermark.
    pub limit_position: u64,
    /// Where its batches are, roughly; without one a look-up hops from the first header on.
    pub index: Option<Arc<dyn SegmentIndex>>,
    /// Closed segments stay as they are; the active one is read past the page cache.
    pub closed: bool,
}

impl fmt::Debug for SegmentSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SegmentSource")
            .field("file", &self.file)
            .field("base_position", &self.base_position)
            .field("limit_position", &self.limit_position)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl SegmentSource {
    /// A batch boundary at or before the batch that holds `offset`.
    pub(super) fn position_before(&self, offset: u64) -> u64 {
        self.last_point_where(|point| point.offset <= offset)
    }

    /// A batch boundary before the first batch whose sort key is at least `sort_key`.
    pub(super) fn position_before_key(&self, sort_key: SortKey) -> u64 {
        self.last_point_where(|point| point.sort_key < sort_key)
    }

    /// The position of the last index entry for which `holds`, which is true up to some entry and false from there on.
    pub(super) fn last_point_where(&self, mut holds: impl FnMut(&IndexPoint) -> bool) -> u64 {
        let Some(index) = &self.index else {
            return self.base_position;
        };
        let (mut low, mut high, mut position) = (0, index.entry_count(), self.base_position);
        while low < high {
            let middle = low + (high - low) / 2;
            match index.entry(middle) {
                Some(point) if point.position < self.limit_position && holds(&point) => {
                    position = point.position;
                    low = middle + 1;
                }
                _ => high = middle,
            }
        }
        position
    }

    /// Where a log position lies in the file.
    pub(super) fn file_offset_of(&self, position: u64) -> u64 {
        position.saturating_sub(self.base_position)
    }

    /// Fills `out` as far as the file goes; the page cache never sees the active segment.
    pub(super) fn read(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        read_full(&self.file, out, file_offset, !self.closed)
    }

    /// Names the place of a flaw.
    pub(super) fn damaged(&self, file_offset: u64, flaw: BatchFlaw) -> ReadError {
        ReadError::Damaged {
            path: self.file.path().to_path_buf(),
            file_offset,
            position: self.base_position + file_offset,
            partition: self.partition,
            flaw,
        }
    }
}
