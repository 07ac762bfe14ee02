//! One segment of a log: a file of batches named after the log position of its first one.
//!
//! `<base position, 20 digits>.lnc` holds batches, each a 104-byte header and its stored records, and nothing else;
//! zeroes behind the last batch mean that nothing is written there. `<base position>.idx` is its sparse index.

use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use crate::index::{Index, IndexError};
use lance_messages::batch::BatchSeed;
use lance_messages::id::TopicPartition;
use lance_messages::peer::LogPlace;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

mod files;
mod walk;

pub use files::SegmentFiles;
pub use walk::{HeaderWalk, WalkError};

/// Least bytes that a node may be configured to keep in a segment.
pub const MIN_SEGMENT_BYTES: u64 = 1024 * 1024;
/// Most bytes of a segment, stored and plain: index entries count in u32 from its start.
pub const MAX_SEGMENT_BYTES: u64 = 4 * 1024 * 1024 * 1024 - 32 * 1024 * 1024;

/// A batch boundary, counted in all three ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Log position.
    pub position: u64,
    /// Offset of the next plain byte.
    pub offset: u64,
    /// Number of the next record.
    pub record: u64,
}

impl From<LogPlace> for Mark {
    fn from(place: LogPlace) -> Self {
        Self { position: place.position, offset: place.offset, record: place.record }
    }
}

impl From<Mark> for LogPlace {
    fn from(mark: Mark) -> Self {
        Self { position: mark.position, offset: mark.offset, record: mark.record }
    }
}

/// Where a closed segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEnd {
    /// The boundary behind its last batch: where the next segment begins.
    pub mark: Mark,
    /// When its last batch was appended or, after a restart, the next segment's first: ns since the Unix epoch.
    pub last_append_ns: u64,
}

/// One segment, shared between its log and the readers.
#[derive(Debug)]
pub struct Segment {
    partition: TopicPartition,
    seed: BatchSeed,
    path: PathBuf,
    base: Mark,
    end: OnceLock<SegmentEnd>,
    index: OnceLock<Arc<Index>>,
    verified: AtomicBool,
    checked_through: AtomicU64,
    /// Log position of the lowest damage that was noted; the greatest number while there is none.
    damaged_from: AtomicU64,
}

impl Segment {
    /// The segment of `partition` in folder `dir` that begins at `base`; still open.
    pub fn new(dir: &Path, partition: TopicPartition, base: Mark) -> Self {
        Self {
            partition,
            seed: BatchSeed::new(partition),
            path: dir.join(file_name(base.position)),
            base,
            end: OnceLock::new(),
            index: OnceLock::new(),
            verified: AtomicBool::new(false),
            checked_through: AtomicU64::new(base.position),
            damaged_from: AtomicU64::new(u64::MAX),
        }
    }

    /// The partition it belongs to.
    pub fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// The seed of its headers' checksums.
    pub fn seed(&self) -> BatchSeed {
        self.seed
    }

    /// The segment's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of its index.
    pub fn index_path(&self) -> PathBuf {
        self.path.with_extension("idx")
    }

    /// Its first batch boundary.
    pub fn base(&self) -> Mark {
        self.base
    }

    /// Where it ends; `None` while it is the active one.
    pub fn end(&self) -> Option<SegmentEnd> {
        self.end.get().copied()
    }

    /// Says where it ends, from now on for good.
    pub(crate) fn close(&self, end: SegmentEnd) {
        let _ = self.end.set(end);
    }

    /// True once every checksum of the closed segment was found right since the process started.
    pub fn is_verified(&self) -> bool {
        self.verified.load(Ordering::Acquire)
    }

    /// Remembers the outcome of a verification of the whole segment.
    pub fn set_verified(&self, verified: bool) {
        self.verified.store(verified, Ordering::Release);
        if !verified {
            self.checked_through.store(self.base.position, Ordering::Release);
        }
    }

    /// The log position up to which readers, taken together, have found every checksum right since the process started.
    pub fn checked_through(&self) -> u64 {
        self.checked_through.load(Ordering::Acquire)
    }

    /// Notes that it is damaged from a log position on; whether that was not known before.
    pub fn note_damage(&self, good_end: u64) -> bool {
        self.damaged_from.fetch_min(good_end, Ordering::AcqRel) > good_end
    }

    /// Whoever was to be told of its damage was not: the next who finds it is to try again.
    pub fn forget_damage(&self) {
        self.damaged_from.store(u64::MAX, Ordering::Release);
    }

    /// Remembers that every checksum in `start..end` was found right; parts that leave a gap are not remembered.
    pub fn note_checked(&self, start: u64, end: u64) {
        let grown = |through: u64| (start <= through && end > through).then_some(end);
        let _ = self.checked_through.fetch_update(Ordering::AcqRel, Ordering::Acquire, grown);
    }

    /// Opens the file for reading.
    pub fn open(&self, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>, DiskError> {
        disk.open(&self.path, OpenMode::Read)
    }

    /// The index of a closed segment: mapped from its file or, if that is missing or damaged, rebuilt from `file`.
    ///
    /// Blocking at first use; for reader threads.
    pub fn index(&self, disk: &dyn Disk, file: &dyn DiskFile) -> Result<Arc<Index>, IndexError> {
        if let Some(index) = self.index.get() {
            return Ok(Arc::clone(index));
        }
        let index = match Index::load(disk, self) {
            Ok(index) => index,
            Err(_) => Index::rebuild(self, file)?,
        };
        Ok(Arc::clone(self.index.get_or_init(|| Arc::new(index))))
    }

    /// The byte of the file at which the log position `position` stands; 0 below the segment.
    pub fn file_offset(&self, position: u64) -> u64 {
        position.saturating_sub(self.base.position)
    }
}

/// A part of one segment that a reader thread may read.
#[derive(Clone, Debug)]
pub struct SegmentSlice {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Log position of a batch at or before what is wanted.
    pub start_position: u64,
    /// The offset that batch begins with.
    pub start_offset: u64,
    /// Nothing at or above may be read; at most the end of the segment.
    pub limit: Mark,
    /// Whether the segment is closed: its index may be used, its file sent as it is once verified.
    pub closed: bool,
}

/// Removes the files of segments that retention has dropped, oldest first, and syncs their folder; blocking.
pub fn remove(disk: &dyn Disk, segments: &[Arc<Segment>]) -> Result<(), DiskError> {
    segments.iter().try_for_each(|segment| remove_files(disk, segment.path()))
}

/// Removes the segment file at `path` and its index, and syncs their folder: done one by one, a crash leaves no gap.
pub(crate) fn remove_files(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    remove_if_there(disk, &path.with_extension("idx"))?;
    remove_if_there(disk, path)?;
    path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))
}

/// Removes a file; one that is not there is as good. Not durable before a sync of its folder.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.remove_file(path) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The name of the segment file that begins at `position`.
pub fn file_name(position: u64) -> String {
    format!("{position:020}.lnc")
}

/// The log position in the name of a segment file; `None` for other files.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".lnc")?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_positions_of_twenty_digits() {
        assert_eq!(file_name(4096), "00000000000000004096.lnc");
        assert_eq!(parse_file_name("00000000000000004096.lnc"), Some(4096));
        assert_eq!(parse_file_name(&file_name(u64::MAX)), Some(u64::MAX));
        for other in ["4096.lnc", "00000000000000004096.idx", "+0000000000000004096.lnc", "99999999999999999999.lnc"] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }
}
