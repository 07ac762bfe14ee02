//! A log for few, precious entries: the Raft log and small journals. Blocking; one append, one sync.
//!
//! The files are segments like those of any log, `<base position, 20 digits>.lnc`, without index. Each entry is one
//! opaque batch of one record: `leader_epoch` is its term, `base_record` its index, `committed_through` the position
//! known to be synced when it was written. That last field tells a torn tail, which is cut at open, from damage,
//! which is refused: a bad batch below the `committed_through` of a later good one was synced once.

mod open;

#[cfg(test)]
mod tests;

use crate::disk::{Disk, DiskError, DiskFile, OpenMode};
use crate::reader::check::{BatchFlaw, Chain, batch_at};
use bytes::Bytes;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader, BatchSeed, MAX_BATCH_BYTES};
use lance_messages::id::{LeaderEpoch, TopicPartition};
use lance_messages::sort_key::SortKey;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a log of this kind is told.
#[derive(Debug, Clone)]
pub struct SyncLogOptions {
    /// Its folder; no other log may live there.
    pub dir: PathBuf,
    /// Seeds the checksums, so that batches of another log never check; may be a reserved name.
    pub partition: TopicPartition,
    /// A segment that would grow past this is followed by a new one.
    pub segment_bytes: u64,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place: each is one more than the one before.
    pub index: u64,
    /// Its term; must fit 32 bits.
    pub term: u64,
    /// Its content, at most 16 MiB.
    pub data: Bytes,
}

/// What opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SyncLogReport {
    /// Bytes of a torn tail that were cut off.
    pub truncated_bytes: u64,
}

/// Why the log did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum SyncLogError {
    /// The disk refused; nothing was confirmed. After ENOSPC the same append may be tried again.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An earlier write or sync failed: what is on disk is unknown until the log is opened again.
    #[error("{}: stopped after: {reason}", dir.display())]
    Latched {
        /// The folder of the log.
        dir: PathBuf,
        /// The first failure.
        reason: DiskError,
    },
    /// Something that was synced once is gone or changed; nothing was touched.
    #[error("{} at {file_offset}: damaged below position {synced}, which was synced once: {flaw}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the bad batch starts.
        file_offset: u64,
        /// Positions below this were synced.
        synced: u64,
        /// What is wrong.
        flaw: BatchFlaw,
    },
    /// A whole segment is missing, or one is longer or shorter than its successor's name says.
    #[error("{}: starts at position {found}, the segment before it ends at {expected}", path.display())]
    Gap {
        /// The later file.
        path: PathBuf,
        /// Where it starts.
        found: u64,
        /// Where it should start.
        expected: u64,
    },
    /// The entry does not continue the log.
    #[error("entry {found} does not follow, entry {expected} does")]
    OutOfOrder {
        /// Its index.
        found: u64,
        /// The next free index.
        expected: u64,
    },
    /// The entry has no room in a batch.
    #[error("entry {index}: {field} {found} is over {limit}")]
    TooLarge {
        /// Its index.
        index: u64,
        /// Which part.
        field: &'static str,
        /// Its size.
        found: u64,
        /// The greatest allowed.
        limit: u64,
    },
}

/// A synchronous, crash-safe log of entries; owned by one thread.
pub struct SyncLog {
    disk: Arc<dyn Disk>,
    options: SyncLogOptions,
    seed: BatchSeed,
    /// Oldest first; the last one is written to.
    segments: Vec<Segment>,
    /// Index of the first entry, and the log position of every one.
    first_index: u64,
    positions: VecDeque<u64>,
    end_position: u64,
    end_offset: u64,
    last_term: u64,
    latched: Option<DiskError>,
    buffer: Vec<u8>,
}

struct Segment {
    base_position: u64,
    file: Arc<dyn DiskFile>,
}

impl SyncLog {
    /// Index of the oldest entry, `None` when there is none.
    pub fn first_index(&self) -> Option<u64> {
        (!self.positions.is_empty()).then_some(self.first_index)
    }

    /// Index of the newest entry, `None` when there is none.
    pub fn last_index(&self) -> Option<u64> {
        (!self.positions.is_empty()).then(|| self.next_index() - 1)
    }

    /// Term of the newest entry, 0 when there is none.
    pub fn last_term(&self) -> u64 {
        self.last_term
    }

    /// Log position behind the newest entry; everything below it is synced.
    pub fn end_position(&self) -> u64 {
        self.end_position
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.end_position - self.segments.first().map_or(self.end_position, |segment| segment.base_position)
    }

    /// The failure that stopped the log, if one did.
    pub fn latched(&self) -> Option<&DiskError> {
        self.latched.as_ref()
    }

    /// Appends entries that continue the log, with one write and one sync; all are durable when this returns.
    ///
    /// An empty log takes any first index.
    pub fn append(&mut self, entries: &[LogEntry]) -> Result<(), SyncLogError> {
        self.check_running()?;
        let Some(first) = entries.first() else { return Ok(()) };
        let expected = self.last_index().map_or(first.index, |last| last + 1);
        self.check_entries(entries, expected)?;
        let bytes: u64 = entries.iter().map(|entry| (BATCH_HEADER_BYTES + entry.data.len()) as u64).sum();
        let active_bytes = self.active_bytes();
        if self.segments.is_empty() || (active_bytes > 0 && active_bytes + bytes > self.options.segment_bytes) {
            self.roll()?;
        }
        let mut positions = Vec::with_capacity(entries.len());
        let (end_position, end_offset) = self.encode_group(entries, &mut positions);
        self.write_group()?;
        if self.positions.is_empty() {
            self.first_index = first.index;
        }
        self.positions.extend(positions);
        self.end_position = end_position;
        self.end_offset = end_offset;
        self.last_term = entries.last().map_or(0, |entry| entry.term);
        Ok(())
    }

    /// Removes the entries from `index` on, durably, so that others may take their place.
    pub fn truncate_from(&mut self, index: u64) -> Result<(), SyncLogError> {
        self.check_running()?;
        if index >= self.next_index() || self.positions.is_empty() {
            return Ok(());
        }
        let keep = index.saturating_sub(self.first_index) as usize;
        let Some(&cut) = self.positions.get(keep) else {
            return Ok(());
        };
        let term = match keep.checked_sub(1) {
            Some(last) => self.header_of(last)?.leader_epoch.0.into(),
            None => 0,
        };
        let end_offset = self.header_of(keep)?.base_offset;
        // Newest first, each removal durable before the next: a power cut leaves a prefix, never a gap.
        while self.segments.len() > 1 && self.segments.last().is_some_and(|segment| segment.base_position >= cut) {
            let removed = self.segments.pop();
            self.remove(removed)?;
        }
        self.cut_active(cut)?;
        self.positions.truncate(keep);
        self.end_position = cut;
        self.end_offset = end_offset;
        self.last_term = term;
        Ok(())
    }

    /// Gives back the space of whole segments below `index`. Some entries below it may stay and be seen again at open.
    pub fn drop_before(&mut self, index: u64) -> Result<(), SyncLogError> {
        self.check_running()?;
        let keep_from = match self.positions.get(index.saturating_sub(self.first_index) as usize) {
            Some(&position) => position,
            None => self.end_position,
        };
        // Oldest first, each removal durable before the next: a power cut leaves a suffix, never a gap.
        while self.segments.len() > 1 && self.segments[1].base_position <= keep_from {
            let removed = self.segments.remove(0);
            self.remove(Some(removed))?;
            let base = self.segments[0].base_position;
            let gone = self.positions.partition_point(|position| *position < base);
            self.positions.drain(..gone);
            self.first_index += gone as u64;
        }
        Ok(())
    }

    /// Removes all entries, durably; the next append may start at any index.
    ///
    /// For a log overtaken by a snapshot. A power cut in the middle leaves a prefix of the entries: who calls this
    /// must recognise at open, by the snapshot it stored first, that the log is behind it, and call this again.
    pub fn clear(&mut self) -> Result<(), SyncLogError> {
        self.truncate_from(self.first_index)
    }

    /// Reads entries from `index` to the end, checked.
    pub fn read_from(&self, index: u64) -> Result<Vec<LogEntry>, SyncLogError> {
        let skip = index.saturating_sub(self.first_index) as usize;
        let mut entries = Vec::new();
        for at in skip..self.positions.len() {
            let header = self.header_of(at)?;
            let mut bytes = vec![0; header.batch_bytes() as usize];
            let (segment, file_offset) = self.locate(at)?;
            let filled = read_full(&segment.file, &mut bytes, file_offset)?;
            let chain = Chain::at(header.position);
            let (header, data) = batch_at(&bytes[..filled], self.seed, &chain)
                .map_err(|flaw| self.damaged(segment, file_offset, flaw))?;
            entries.push(entry_of(&header, data));
        }
        Ok(entries)
    }

    fn next_index(&self) -> u64 {
        self.first_index + self.positions.len() as u64
    }

    fn active_bytes(&self) -> u64 {
        self.segments.last().map_or(0, |segment| self.end_position - segment.base_position)
    }

    fn check_running(&self) -> Result<(), SyncLogError> {
        match &self.latched {
            None => Ok(()),
            Some(reason) => Err(SyncLogError::Latched { dir: self.options.dir.clone(), reason: reason.clone() }),
        }
    }

    fn check_entries(&self, entries: &[LogEntry], mut expected: u64) -> Result<(), SyncLogError> {
        for entry in entries {
            if entry.index != expected {
                return Err(SyncLogError::OutOfOrder { found: entry.index, expected });
            }
            let sizes = [
                ("term", entry.term, u64::from(u32::MAX)),
                ("bytes", entry.data.len() as u64, u64::from(MAX_BATCH_BYTES)),
            ];
            for (field, found, limit) in sizes {
                if found > limit {
                    return Err(SyncLogError::TooLarge { index: entry.index, field, found, limit });
                }
            }
            expected += 1;
        }
        Ok(())
    }

    /// Fills the buffer with the batches of `entries`; answers the new end of the log.
    fn encode_group(&mut self, entries: &[LogEntry], positions: &mut Vec<u64>) -> (u64, u64) {
        let (mut position, mut offset) = (self.end_position, self.end_offset);
        let base = self.segments.last().map_or(0, |segment| segment.base_position);
        self.buffer.clear();
        for entry in entries {
            let flags = if position == base { BatchFlags::STARTS_SEGMENT } else { BatchFlags::RECORDS };
            let header = BatchHeader {
                flags: flags.with(BatchFlags::OPAQUE),
                records_crc: crc32fast::hash(&entry.data),
                position,
                base_offset: offset,
                base_record: entry.index,
                stored_len: entry.data.len() as u32,
                plain_len: entry.data.len() as u32,
                record_count: 1,
                leader_epoch: LeaderEpoch(entry.term as u32),
                committed_through: self.end_position,
                sort_key: SortKey::default(),
                max_timestamp_ns: 0,
                producer: None,
            };
            self.buffer.extend_from_slice(&header.encode(self.seed));
            self.buffer.extend_from_slice(&entry.data);
            positions.push(position);
            position = header.end_position();
            offset = header.end_offset();
        }
        (position, offset)
    }

    fn write_group(&mut self) -> Result<(), SyncLogError> {
        let Some(segment) = self.segments.last() else {
            return Ok(());
        };
        let file = Arc::clone(&segment.file);
        let file_offset = self.end_position - segment.base_position;
        if let Err(error) = file.write_all_at(&self.buffer, file_offset) {
            // A full disk may have taken a part. It must not stay: batches of the failed attempt could otherwise
            // follow those of the next one and pass for entries.
            let undone = file.set_len(file_offset).and_then(|()| file.sync());
            if !error.is_no_space() || undone.is_err() {
                self.latched = Some(error.clone());
            }
            return Err(error.into());
        }
        file.sync().map_err(|error| self.latch(error))
    }

    /// Starts a new segment at the end of the log.
    fn roll(&mut self) -> Result<(), SyncLogError> {
        let path = segment_path(&self.options.dir, self.end_position);
        let file = self.disk.open(&path, OpenMode::CreateOrOpen)?;
        // Left by an attempt that failed between these steps; it can hold nothing of the log.
        file.set_len(0)?;
        self.disk.sync_dir(&self.options.dir).map_err(|error| self.latch(error))?;
        self.segments.push(Segment { base_position: self.end_position, file });
        Ok(())
    }

    fn remove(&mut self, segment: Option<Segment>) -> Result<(), SyncLogError> {
        let Some(segment) = segment else { return Ok(()) };
        let removed = self.disk.remove_file(segment.file.path());
        let removed = removed.and_then(|()| self.disk.sync_dir(&self.options.dir));
        removed.map_err(|error| self.latch(error))
    }

    fn cut_active(&mut self, position: u64) -> Result<(), SyncLogError> {
        let Some(segment) = self.segments.last() else {
            return Ok(());
        };
        let (file, len) = (Arc::clone(&segment.file), position - segment.base_position);
        file.set_len(len).and_then(|()| file.sync()).map_err(|error| self.latch(error))
    }

    fn latch(&mut self, error: DiskError) -> SyncLogError {
        self.latched = Some(error.clone());
        error.into()
    }

    fn locate(&self, at: usize) -> Result<(&Segment, u64), SyncLogError> {
        let position = self.positions.get(at).copied().unwrap_or(self.end_position);
        let number = self.segments.partition_point(|segment| segment.base_position <= position);
        match number.checked_sub(1).and_then(|number| self.segments.get(number)) {
            Some(segment) => Ok((segment, position - segment.base_position)),
            None => {
                Err(SyncLogError::Gap { path: self.options.dir.clone(), found: self.end_position, expected: position })
            }
        }
    }

    fn header_of(&self, at: usize) -> Result<BatchHeader, SyncLogError> {
        let (segment, file_offset) = self.locate(at)?;
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let filled = read_full(&segment.file, &mut bytes, file_offset)?;
        let chain = Chain::at(segment.base_position + file_offset);
        crate::reader::check::header_at(&bytes[..filled], self.seed, &chain)
            .map_err(|flaw| self.damaged(segment, file_offset, flaw))
    }

    fn damaged(&self, segment: &Segment, file_offset: u64, flaw: BatchFlaw) -> SyncLogError {
        let path = segment.file.path().to_path_buf();
        SyncLogError::Damaged { path, file_offset, synced: self.end_position, flaw }
    }
}

fn segment_path(dir: &Path, base_position: u64) -> PathBuf {
    dir.join(format!("{base_position:020}.lnc"))
}

fn entry_of(header: &BatchHeader, data: &[u8]) -> LogEntry {
    LogEntry { index: header.base_record, term: header.leader_epoch.0.into(), data: Bytes::copy_from_slice(data) }
}

/// Fills `out` from `file_offset`, past the page cache, as far as the file goes.
fn read_full(file: &Arc<dyn DiskFile>, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
    let mut filled = 0;
    while filled < out.len() {
        match file.read_uncached_at(&mut out[filled..], file_offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
