//! Reads of what is no longer in memory, on threads that may block: which bytes of which files answer a fetch.
//!
//! A [`Reader`] belongs to one thread. It finds the batch by index and hops from header to header, checks what it has
//! not checked since start, skips control batches, and answers with a [`ReadPlan`]: ranges of closed, checked files
//! for `sendfile`, and bytes in memory for everything else. A damaged batch is an error, never data.

pub(crate) mod check;
mod cursor;
mod cut;
mod lookup;
mod partial;
mod plan;
mod replica;
mod source;
mod stored;
mod verified;

#[cfg(test)]
pub(crate) mod tests;

pub use check::BatchFlaw;
pub use lookup::{Found, Lookup};
pub use plan::{Piece, ReadPlan};
pub use replica::{PlacedBatch, ReplicaSlice, SplitError, split_batches};

use crate::disk::{Disk, DiskError};
use crate::segment::SegmentFiles;
use lance_messages::id::TopicPartition;
use std::path::PathBuf;
use std::sync::Arc;

/// The most data one reply carries: a 1.0 client takes frames of 16 MiB in total, headers included.
pub const MAX_REPLY_DATA_BYTES: u32 = 16 * 1024 * 1024 - 60;

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The batch that was asked for is not what was stored.
    #[error("{} at {file_offset}: partition {partition} is damaged at position {position}: {flaw}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where its batch starts in the file.
        file_offset: u64,
        /// Where its batch starts in the log.
        position: u64,
        /// The log.
        partition: TopicPartition,
        /// What is wrong.
        flaw: BatchFlaw,
    },
    /// Retention removed the segment meanwhile: ask the log again.
    #[error("partition {partition}: the segment of position {position} was removed")]
    Removed {
        /// The log.
        partition: TopicPartition,
        /// Where the segment started.
        position: u64,
    },
    /// The segments at hand start later.
    #[error("partition {partition}: offset {offset} is below {start}, where the segments start")]
    BelowStart {
        /// The log.
        partition: TopicPartition,
        /// What was asked for.
        offset: u64,
        /// The first offset there is.
        start: u64,
    },
    /// A replica asked for batches from within one on.
    #[error("partition {partition}: position {position} lies inside the batch at {batch_position}")]
    NotABoundary {
        /// The log.
        partition: TopicPartition,
        /// What was asked for.
        position: u64,
        /// Where the batch begins.
        batch_position: u64,
    },
}

impl ReadError {
    /// The batch boundary at which the damage begins, if this is damage: a replica that gives up what it holds above is
    /// cut here.
    pub fn good_end(&self) -> Option<u64> {
        match self {
            Self::Damaged { position, .. } => Some(*position),
            Self::Disk(_) | Self::Removed { .. } | Self::BelowStart { .. } | Self::NotABoundary { .. } => None,
        }
    }
}

/// Plans reads; owned by one thread, with what that thread has already checked.
pub struct Reader {
    files: SegmentFiles,
    verified: verified::Verified,
    partial: partial::PartialBatches,
    window: cursor::Window,
    scratch: Vec<u8>,
}

impl Reader {
    /// A reader that has checked nothing yet and keeps at most `open_files` segments open.
    pub fn new(disk: &Arc<dyn Disk>, open_files: usize) -> Self {
        Self {
            files: SegmentFiles::new(Arc::clone(disk), open_files),
            verified: verified::Verified::default(),
            partial: partial::PartialBatches::default(),
            window: cursor::Window::default(),
            scratch: Vec::new(),
        }
    }

    /// Forgets what it knows of a partition, whose files were truncated, refilled or removed.
    pub fn forget(&mut self, partition: TopicPartition) {
        self.verified.forget(partition);
        self.partial.forget(partition);
    }

    /// Gives buffers back; for a thread that has had nothing to do for a while. Costs nothing but reading again.
    pub fn release_idle(&mut self) {
        self.files.sweep();
        self.partial.release();
        self.window.release();
        self.scratch = Vec::new();
    }
}
