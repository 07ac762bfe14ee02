//! `flushed-<shard>`: log positions known to be synced, so that recovery need not read what lies below.
//!
//! Two slots of equal size, the halves of a preallocated file, each with one frame of [`super`] (magic `LNCF`, body version 1).
//! Writes alternate between them, so a torn one costs a second of recovery and nothing else. Body, little-endian:
//! sequence u64 · shard u32 · entry count u32 · then per entry topic u32 · partition u16 · zero u16 · position u64.

use super::{CheckpointError, Flaw, at, folder_of, frame, read_file, replace_file};
use crate::disk::{Disk, DiskFile, OpenMode};
use hashbrown::HashMap;
use lance_messages::id::{TopicId, TopicPartition};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 4] = *b"LNCF";
const BODY_VERSION: u8 = 1;
const PREFIX: &str = "flushed-";
const BODY_HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 16;
/// A slot is a multiple of this and starts with room for about 250 partitions.
const SLOT_QUANTUM_BYTES: usize = 4096;

/// What all `flushed` files of a data dir said at start.
#[derive(Debug, Default)]
pub struct FlushedMarks {
    /// The greatest position known to be synced, for each partition that was ever named.
    pub positions: HashMap<TopicPartition, u64>,
    /// Files in which no slot could be trusted: their partitions only recover more slowly.
    pub damaged: Vec<PathBuf>,
}

/// The `flushed` file of one shard, written by that shard's owner only.
pub struct FlushedFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    shard: u32,
    slot_bytes: usize,
    sequence: u64,
    buffer: Vec<u8>,
}

impl FlushedMarks {
    /// Reads what any earlier number of shards left in `dir` and hands out one file for each of today's shards.
    ///
    /// Must run before any log is opened: afterwards each partition is named by one file only, so that a
    /// mark which is later lowered (truncation) cannot be outvoted by a stale one.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        shard_count: u32,
        shard_of: impl Fn(TopicPartition) -> u32,
    ) -> Result<(Self, Vec<FlushedFile>), CheckpointError> {
        let mut marks = Self::default();
        let mut found = Vec::new();
        for entry in disk.list(dir)? {
            let Some(shard) = entry.name.strip_prefix(PREFIX).and_then(|text| text.parse::<u32>().ok()) else {
                continue;
            };
            let path = dir.join(&entry.name);
            match read_slots(disk, &path)? {
                Some((_, positions)) => marks.merge(positions),
                None => marks.damaged.push(path.clone()),
            }
            found.push((shard, path));
        }
        let mut files = Vec::new();
        for shard in 0..shard_count {
            let own = marks.positions.iter().filter(|(partition, _)| shard_of(**partition) == shard);
            let own: Vec<_> = own.map(|(partition, position)| (*partition, *position)).collect();
            files.push(FlushedFile::create(disk, dir, shard, &own)?);
        }
        for (_, path) in found.iter().filter(|(shard, _)| *shard >= shard_count) {
            disk.remove_file(path)?;
        }
        disk.sync_dir(dir)?;
        Ok((marks, files))
    }

    fn merge(&mut self, positions: Vec<(TopicPartition, u64)>) {
        for (partition, position) in positions {
            let mark = self.positions.entry(partition).or_default();
            *mark = position.max(*mark);
        }
    }
}

impl FlushedFile {
    fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        shard: u32,
        marks: &[(TopicPartition, u64)],
    ) -> Result<Self, CheckpointError> {
        let path = dir.join(format!("{PREFIX}{shard}"));
        let sequence = read_slots(disk, &path)?.map_or(0, |(sequence, _)| sequence) + 1;
        let (mut buffer, slot_bytes) = (Vec::new(), slot_bytes_for(marks.len()));
        write_image(disk, &path, &mut buffer, slot_bytes, sequence, shard, marks)?;
        let file = disk.open(&path, OpenMode::ReadWrite)?;
        Ok(Self { disk: Arc::clone(disk), path, file, shard, slot_bytes, sequence, buffer })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces all marks of this shard: one write over blocks written before, and one sync.
    pub fn store(&mut self, marks: &[(TopicPartition, u64)]) -> Result<(), CheckpointError> {
        if frame_bytes_for(marks.len()) > self.slot_bytes {
            return self.store_everywhere(marks);
        }
        let sequence = self.sequence + 1;
        self.buffer.clear();
        encode_slot(&mut self.buffer, sequence, self.shard, marks);
        let slot = (sequence % 2) * self.slot_bytes as u64;
        self.file.write_all_at(&self.buffer, slot)?;
        self.file.sync()?;
        // Only now: after a failure the next attempt overwrites the same slot, never the last good one.
        self.sequence = sequence;
        Ok(())
    }

    /// Lowers the mark of one partition to `position` (0 removes it), durably and in both slots; blocking. A mark that is
    /// not above stays.
    ///
    /// For an owner about to cut a log, who lowers its own idea of the mark first: the next [`FlushedFile::store`] must
    /// not raise it again before the log is synced further.
    pub fn lower(&mut self, partition: TopicPartition, position: u64) -> Result<(), CheckpointError> {
        let stored = read_slots(&self.disk, &self.path)?;
        let mut marks = stored.map_or_else(Vec::new, |(_, marks)| marks);
        for mark in marks.iter_mut().filter(|mark| mark.0 == partition) {
            mark.1 = mark.1.min(position);
        }
        marks.retain(|mark| mark.1 > 0);
        self.store_everywhere(&marks)
    }

    /// Replaces all marks in both slots, so that no older mark can come back: needed before a log is truncated
    /// below a mark, which would otherwise make the cut look like damage.
    pub fn store_everywhere(&mut self, marks: &[(TopicPartition, u64)]) -> Result<(), CheckpointError> {
        let slot_bytes = self.slot_bytes.max(slot_bytes_for(marks.len()));
        let sequence = self.sequence + 1;
        write_image(&self.disk, &self.path, &mut self.buffer, slot_bytes, sequence, self.shard, marks)?;
        self.file = self.disk.open(&self.path, OpenMode::ReadWrite)?;
        self.slot_bytes = slot_bytes;
        self.sequence = sequence;
        Ok(())
    }
}

/// Twice what is needed now, so that a growing shard seldom starts a new file.
fn slot_bytes_for(entries: usize) -> usize {
    frame_bytes_for(entries * 2).next_multiple_of(SLOT_QUANTUM_BYTES)
}

fn frame_bytes_for(entries: usize) -> usize {
    frame::HEADER_BYTES + BODY_HEADER_BYTES + entries * ENTRY_BYTES
}

fn encode_slot(out: &mut Vec<u8>, sequence: u64, shard: u32, marks: &[(TopicPartition, u64)]) {
    frame::encode(out, MAGIC, BODY_VERSION, |out| {
        out.extend_from_slice(&sequence.to_le_bytes());
        out.extend_from_slice(&shard.to_le_bytes());
        out.extend_from_slice(&(marks.len() as u32).to_le_bytes());
        for (partition, position) in marks {
            out.extend_from_slice(&partition.topic.0.to_le_bytes());
            out.extend_from_slice(&partition.partition.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&position.to_le_bytes());
        }
    });
}

/// Writes a whole new file with the marks in both slots, atomically.
fn write_image(
    disk: &Arc<dyn Disk>,
    path: &Path,
    buffer: &mut Vec<u8>,
    slot_bytes: usize,
    sequence: u64,
    shard: u32,
    marks: &[(TopicPartition, u64)],
) -> Result<(), CheckpointError> {
    buffer.clear();
    encode_slot(buffer, sequence, shard, marks);
    let frame_bytes = buffer.len();
    buffer.resize(slot_bytes, 0);
    buffer.extend_from_within(..frame_bytes);
    buffer.resize(2 * slot_bytes, 0);
    replace_file(disk, path, buffer)?;
    disk.sync_dir(folder_of(path))?;
    Ok(())
}

type SlotContent = (u64, Vec<(TopicPartition, u64)>);

/// The newer trustworthy slot of a file; `None` when there is no file or no such slot.
fn read_slots(disk: &Arc<dyn Disk>, path: &Path) -> Result<Option<SlotContent>, CheckpointError> {
    let Some(bytes) = read_file(disk, path)? else {
        return Ok(None);
    };
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut newest: Option<SlotContent> = None;
    for slot in [first, second] {
        match decode_slot(path, slot)? {
            Ok(content) if newest.as_ref().is_none_or(|best| best.0 < content.0) => newest = Some(content),
            Ok(_) => {}
            Err(flaw) => tracing::debug!(file = %path.display(), %flaw, "slot of flushed marks ignored"),
        }
    }
    Ok(newest)
}

/// Outer error: refuse to start. Inner error: a slot to ignore.
fn decode_slot(path: &Path, slot: &[u8]) -> Result<Result<SlotContent, Flaw>, CheckpointError> {
    let frame = match frame::decode(slot, MAGIC) {
        Ok(frame) => frame,
        Err(flaw @ Flaw::FrameVersion { .. }) => return Err(at(path, flaw)),
        Err(flaw) => return Ok(Err(flaw)),
    };
    if frame.body_version != BODY_VERSION {
        return Err(CheckpointError::UnknownVersion {
            path: path.to_path_buf(),
            what: "the content",
            found: frame.body_version.into(),
            supported: BODY_VERSION.into(),
        });
    }
    let short = Flaw::Short { found: frame.body.len() as u64, needed: BODY_HEADER_BYTES as u64 };
    let Some((head, entries)) = frame.body.split_at_checked(BODY_HEADER_BYTES) else {
        return Ok(Err(short));
    };
    let expected = u64::from(frame::u32_at(head, 12)) * ENTRY_BYTES as u64;
    if entries.len() as u64 != expected {
        return Ok(Err(Flaw::Field { what: "bytes of entries", found: entries.len() as u64, expected }));
    }
    let entries = entries.chunks_exact(ENTRY_BYTES).map(|entry| {
        let partition = u16::from_le_bytes([entry[4], entry[5]]);
        (TopicPartition::new(TopicId(frame::u32_at(entry, 0)), partition), frame::u64_at(entry, 8))
    });
    Ok(Ok((frame::u64_at(head, 0), entries.collect())))
}
