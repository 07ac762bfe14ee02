//! Reads segment files for people: what `lnc log inspect` and `lnc log verify` show, without a server.
//!
//! A path is a segment file, the folder of a partition, `logs`, or a data directory. Files of a running server may be
//! read too; what it is just writing then looks like a torn tail.

mod places;
mod scan;
#[cfg(test)]
mod tests;

use lance_messages::batch::{BatchHeader, Codec};
use lance_storage::disk::{BackendChoice, Disk, DiskError, DiskOptions, open_disk};
use lance_storage::reader::BatchFlaw;
use places::{SegmentPlace, find};
use scan::SegmentScan;
use serde::Serialize;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The damages that a report names one by one; further ones are only counted.
pub const NAMED_DAMAGES: usize = 1000;

/// Why files cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum LogToolError {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The name of the file is not one of a segment.
    #[error("{} is no segment: those are named after their log position, 20 digits and .lnc", path.display())]
    NotASegment {
        /// The file.
        path: PathBuf,
    },
    /// The folder does not say which partition the file belongs to, and its checksums depend on that.
    #[error("{} does not lie in a folder named <topic id>-<partition>, which its checksums depend on", path.display())]
    UnknownPartition {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to read.
    #[error("{} holds no segments", path.display())]
    NoSegments {
        /// The folder.
        path: PathBuf,
    },
}

/// One thing found in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LogRow {
    /// A batch.
    Batch(BatchRow),
    /// Bytes that are no batch.
    Damage(DamageRow),
}

/// One batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchRow {
    /// The segment's file.
    pub path: PathBuf,
    /// Where the header stands in it.
    pub file_offset: u64,
    /// Log position of the header.
    pub position: u64,
    /// `records`, `opaque` or `control`.
    pub kind: &'static str,
    /// `lz4` or `zstd`.
    pub codec: Option<&'static str>,
    /// The first batch of a segment.
    pub starts_segment: bool,
    /// Offset of its first plain byte.
    pub base_offset: u64,
    /// Number of its first record.
    pub base_record: u64,
    /// Records.
    pub record_count: u32,
    /// Bytes of the records as stored.
    pub stored_bytes: u32,
    /// Bytes of the records decompressed.
    pub plain_bytes: u32,
    /// The leader epoch it was made in.
    pub leader_epoch: u32,
    /// The high watermark when it was made, a log position.
    pub committed_through: u64,
    /// `timestamp.node.actor.sequence`.
    pub sort_key: String,
    /// Greatest timestamp of its records, ns since the Unix epoch.
    pub max_timestamp_ns: u64,
    /// The idempotent producer that made it.
    pub producer: Option<ProducerRow>,
    /// Checksum of the stored records.
    pub records_crc: u32,
    /// Whether the stored bytes have that checksum; `None` where they were not read.
    pub records_ok: Option<bool>,
}

/// Who made a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProducerRow {
    /// Its id.
    pub id: u64,
    /// Its incarnation.
    pub epoch: u16,
    /// The number of the batch among its batches.
    pub sequence: u32,
}

/// Bytes that are not what belongs there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamageRow {
    /// The segment's file.
    pub path: PathBuf,
    /// Where they begin.
    pub file_offset: u64,
    /// Where the next good batch begins, or the file ends.
    pub end_file_offset: u64,
    /// Log position of the first of them.
    pub position: u64,
    /// Nothing good follows in the newest segment: an interrupted write, which a start cuts off unless it was acked.
    pub is_tail: bool,
    /// What is wrong.
    pub flaw: String,
}

/// What was found in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogSummary {
    /// Segments read.
    pub segments: u64,
    /// Good batches.
    pub batches: u64,
    /// Their records.
    pub records: u64,
    /// Bytes of their records as stored.
    pub stored_bytes: u64,
    /// Bytes of their records decompressed.
    pub plain_bytes: u64,
    /// Zeroes behind the last batch of segments: written ahead, and not used yet.
    pub unwritten_bytes: u64,
    /// Damaged ranges that are no torn tail.
    pub damages: u64,
    /// Torn tails.
    pub torn_tails: u64,
}

impl LogSummary {
    /// Whether everything but an interrupted last write is sound.
    pub fn is_sound(&self) -> bool {
        self.damages == 0
    }
}

/// The outcome of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// What was found in all.
    pub summary: LogSummary,
    /// Damage and torn tails, at most [`NAMED_DAMAGES`].
    pub damages: Vec<DamageRow>,
}

/// Shows every batch below `path` to `visit`, in log order, until it breaks off; records are not read.
pub fn inspect(path: &Path, visit: &mut dyn FnMut(&LogRow) -> ControlFlow<()>) -> Result<LogSummary, LogToolError> {
    walk(path, false, visit)
}

/// Checks every checksum below `path`, and that each batch continues the one before it.
pub fn verify(path: &Path) -> Result<VerifyReport, LogToolError> {
    let mut damages = Vec::new();
    let summary = walk(path, true, &mut |row| {
        if let LogRow::Damage(damage) = row
            && damages.len() < NAMED_DAMAGES
        {
            damages.push(damage.clone());
        }
        ControlFlow::Continue(())
    })?;
    Ok(VerifyReport { summary, damages })
}

fn walk(
    path: &Path,
    read_records: bool,
    visit: &mut dyn FnMut(&LogRow) -> ControlFlow<()>,
) -> Result<LogSummary, LogToolError> {
    let disk: Arc<dyn Disk> = open_disk(DiskOptions { backend: BackendChoice::Blocking, o_direct: false })?;
    let mut summary = LogSummary::default();
    let mut chain = None;
    for SegmentPlace { path, partition, base_position, is_newest } in find(&*disk, path)? {
        let mut scan = SegmentScan::open(&*disk, &path, partition, base_position, is_newest, read_records)?;
        // A segment continues the one before it; the first one found begins anywhere.
        if let Some((last_partition, last)) = chain.take()
            && last_partition == partition
        {
            scan.continue_after(last);
        }
        summary.segments += 1;
        while let Some(row) = scan.next_row()? {
            summary.count(&row);
            if visit(&row).is_break() {
                return Ok(summary);
            }
        }
        summary.unwritten_bytes += scan.unwritten_bytes();
        chain = Some((partition, scan.end()));
    }
    Ok(summary)
}

impl LogSummary {
    fn count(&mut self, row: &LogRow) {
        match row {
            LogRow::Batch(batch) => {
                self.batches += 1;
                self.records += u64::from(batch.record_count);
                self.stored_bytes += u64::from(batch.stored_bytes);
                self.plain_bytes += u64::from(batch.plain_bytes);
            }
            LogRow::Damage(damage) if damage.is_tail => self.torn_tails += 1,
            LogRow::Damage(_) => self.damages += 1,
        }
    }
}

impl BatchRow {
    fn new(path: &Path, file_offset: u64, header: &BatchHeader, records_ok: Option<bool>) -> Self {
        let flags = header.flags;
        Self {
            path: path.to_owned(),
            file_offset,
            position: header.position,
            kind: match (flags.is_control(), flags.is_opaque()) {
                (true, _) => "control",
                (false, true) => "opaque",
                (false, false) => "records",
            },
            codec: flags.codec().map(|codec| match codec {
                Codec::Lz4 => "lz4",
                Codec::Zstd => "zstd",
            }),
            starts_segment: flags.starts_segment(),
            base_offset: header.base_offset,
            base_record: header.base_record,
            record_count: header.record_count,
            stored_bytes: header.stored_len,
            plain_bytes: header.plain_len,
            leader_epoch: header.leader_epoch.0,
            committed_through: header.committed_through,
            sort_key: header.sort_key.to_string(),
            max_timestamp_ns: header.max_timestamp_ns,
            producer: header.producer.map(|producer| ProducerRow {
                id: producer.id.0,
                epoch: producer.epoch,
                sequence: producer.sequence,
            }),
            records_crc: header.records_crc,
            records_ok,
        }
    }
}

impl DamageRow {
    fn new(path: &Path, file_offsets: std::ops::Range<u64>, position: u64, is_tail: bool, flaw: &BatchFlaw) -> Self {
        Self {
            path: path.to_owned(),
            file_offset: file_offsets.start,
            end_file_offset: file_offsets.end,
            position,
            is_tail,
            flaw: flaw.to_string(),
        }
    }
}

impl fmt::Display for LogRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(batch) => batch.fmt(f),
            Self::Damage(damage) => damage.fmt(f),
        }
    }
}

/// One line: `position … offset … records …`.
impl fmt::Display for BatchRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "position {} offset {} record {} records {} bytes {} {}",
            self.position, self.base_offset, self.base_record, self.record_count, self.stored_bytes, self.kind
        )?;
        if let Some(codec) = self.codec {
            write!(f, " {codec} ({} plain)", self.plain_bytes)?;
        }
        write!(f, " epoch {} key {} committed {}", self.leader_epoch, self.sort_key, self.committed_through)?;
        if let Some(producer) = self.producer {
            write!(f, " producer {}/{} sequence {}", producer.id, producer.epoch, producer.sequence)?;
        }
        if self.starts_segment {
            f.write_str(" starts-segment")?;
        }
        Ok(())
    }
}

impl fmt::Display for DamageRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_tail { "TORN TAIL" } else { "DAMAGE" };
        write!(
            f,
            "{what} {} at {}..{} (position {}): {}",
            self.path.display(),
            self.file_offset,
            self.end_file_offset,
            self.position,
            self.flaw
        )
    }
}

impl fmt::Display for LogSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} segments, {} batches, {} records, {} bytes stored ({} plain), {} bytes written ahead, {} damages, {} torn tails",
            self.segments,
            self.batches,
            self.records,
            self.stored_bytes,
            self.plain_bytes,
            self.unwritten_bytes,
            self.damages,
            self.torn_tails
        )
    }
}
