//! What opening a log can find wrong.

use crate::disk::DiskError;
use lance_messages::batch::BatchError;
use lance_messages::peer::LogPlace;
use std::fmt;
use std::path::PathBuf;
use thiserror::Error;

/// What opening a log found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The log was made.
    pub created: bool,
    /// Where the log ends.
    pub log_end: u64,
    /// Bytes of a torn tail that were cut.
    pub truncated_bytes: u64,
    /// Segments whose interrupted closing was finished.
    pub closed_segments: u32,
    /// Headers that were read again.
    pub replayed_batches: u64,
    /// The damage that keeps the log offline.
    pub offline: Option<Damage>,
}

/// A batch that was durable and is not readable any more: nothing is cut, and nothing is appended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{} from byte {file_offset} (log positions {position}..{durable_position}): {reason}", path.display())]
pub struct Damage {
    /// The segment's file.
    pub path: PathBuf,
    /// Where the damage begins in it.
    pub file_offset: u64,
    /// Log position of the bad batch: the log is readable below.
    pub position: u64,
    /// Log position up to which the log is known to have been durable.
    pub durable_position: u64,
    /// What is wrong there.
    pub reason: DamageReason,
}

impl Damage {
    /// The last batch boundary below the damage: a replica that gives up what it holds above is cut here.
    pub fn good_end(&self) -> u64 {
        self.position
    }
}

/// What is wrong with a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamageReason {
    /// Its header.
    Header(BatchError),
    /// Its records: their checksum as stored and as computed.
    Records {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// A field does not continue the batch before.
    Chain {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What the batch before asks for.
        expected: u64,
    },
    /// The file ends inside it.
    Short {
        /// Bytes of the batch.
        needed: u64,
        /// Bytes there are.
        left: u64,
    },
}

impl fmt::Display for DamageReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(reason) => reason.fmt(f),
            Self::Records { stored, computed } => {
                write!(f, "records checksum {stored:#010x}, the bytes give {computed:#010x}")
            }
            Self::Chain { field, found, expected } => {
                write!(f, "{field} {found} where {expected} continues the batch before")
            }
            Self::Short { needed, left } => write!(f, "a batch of {needed} bytes, of which {left} are there"),
        }
    }
}

/// Why a log cannot be opened at all; nothing was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A segment is missing, or shorter than it was when it was closed.
    #[error("{} ends at log position {end_position}, the next segment begins at {next_position}", path.display())]
    Gap {
        /// The segment before the gap.
        path: PathBuf,
        /// Where it ends.
        end_position: u64,
        /// Where the next one begins.
        next_position: u64,
    },
    /// A segment holds bytes behind the base of the next one.
    #[error("{} holds data at byte {file_offset}, but the next segment begins at log position {next_position}", path.display())]
    Overlap {
        /// The segment.
        path: PathBuf,
        /// The first byte that is too many.
        file_offset: u64,
        /// Where the next one begins.
        next_position: u64,
    },
    /// No segment is there, though the log was durable up to a position.
    #[error("{} holds no segment, but the log was flushed to position {flushed}", dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// The position.
        flushed: u64,
    },
    /// Written by a version that this one does not know.
    #[error("{} at byte {file_offset}: batch version {version} is unknown to this version of LANCE", path.display())]
    UnknownVersion {
        /// The segment.
        path: PathBuf,
        /// Where the batch stands.
        file_offset: u64,
        /// Its version.
        version: u8,
    },
}

/// Why a log was not cut. Before the first change nothing was lost; a disk that fails later leaves the log, or a shorter one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TruncateError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// What lies below the cut is no log that could be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no log.
    #[error("{} holds no segment to be cut at log position {to_position}", dir.display())]
    NoLog {
        /// The folder.
        dir: PathBuf,
        /// Where it was to be cut.
        to_position: u64,
    },
    /// The cut lies below the first batch that is still there.
    #[error("a log that begins at position {log_start} cannot be cut at {to_position}")]
    BelowStart {
        /// Where the log begins.
        log_start: u64,
        /// Where it was to be cut.
        to_position: u64,
    },
    /// The log ends before the cut.
    #[error("a log that ends at position {log_end} cannot be cut at {to_position}")]
    BeyondEnd {
        /// Where the log ends.
        log_end: u64,
        /// Where it was to be cut.
        to_position: u64,
    },
    /// The cut would go through a batch.
    #[error("log position {to_position} lies inside the batch at {batch_position}")]
    NotABoundary {
        /// Where the batch begins.
        batch_position: u64,
        /// Where the log was to be cut.
        to_position: u64,
    },
    /// The log is damaged below the cut.
    #[error("cannot cut at log position {to_position}: {damage}")]
    Damaged {
        /// Where it was to be cut.
        to_position: u64,
        /// The damage.
        damage: Damage,
    },
    /// All would go, and nothing readable says at which offset the log begins: it can only be restarted.
    #[error("nothing says which offset the log has at its beginning, position {log_start}")]
    UnknownStart {
        /// Where the log begins.
        log_start: u64,
    },
}

/// Why a log was not begun anew; what is left is the old log, a shorter one, or none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RestartError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The new log did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new log is not the one that was begun.
    #[error("{} was begun at {wanted:?} and opens at {found:?}", dir.display())]
    Elsewhere {
        /// The folder.
        dir: PathBuf,
        /// Where it ends.
        found: LogPlace,
        /// Where it should.
        wanted: LogPlace,
    },
}
