//! A walk through one segment file that goes on behind damage.

use super::{BatchRow, DamageRow, LogRow, LogToolError};
use lance_messages::batch::{BATCH_HEADER_BYTES, BATCH_TYPE, BatchError, BatchHeader, BatchSeed};
use lance_messages::id::TopicPartition;
use lance_storage::disk::{Disk, DiskError, DiskFile, OpenMode};
use lance_storage::reader::BatchFlaw;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes read at once.
const WINDOW_BYTES: usize = 256 * 1024;
const HEADER_BYTES: u64 = BATCH_HEADER_BYTES as u64;

/// Where the next batch continues; offset and record are not known behind damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ScanEnd {
    position: u64,
    offset: Option<u64>,
    record: Option<u64>,
}

/// The scan of one segment.
pub(super) struct SegmentScan {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    len: u64,
    seed: BatchSeed,
    base_position: u64,
    is_newest: bool,
    read_records: bool,
    expected: ScanEnd,
    /// A segment that does not begin where the one before it ends is reported once, before its own batches.
    gap: Option<BatchFlaw>,
    unwritten_bytes: u64,
    finished: bool,
    window: Vec<u8>,
    window_start: u64,
}

impl SegmentScan {
    /// Opens the file of a segment.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        partition: TopicPartition,
        base_position: u64,
        is_newest: bool,
        read_records: bool,
    ) -> Result<Self, LogToolError> {
        let file = disk.open(path, OpenMode::Read)?;
        Ok(Self {
            len: file.len()?,
            file,
            path: path.to_owned(),
            seed: BatchSeed::new(partition),
            base_position,
            is_newest,
            read_records,
            expected: ScanEnd { position: base_position, offset: None, record: None },
            gap: None,
            unwritten_bytes: 0,
            finished: false,
            window: Vec::new(),
            window_start: 0,
        })
    }

    /// The segment before this one ended there.
    pub(super) fn continue_after(&mut self, end: ScanEnd) {
        if end.position == self.base_position {
            self.expected = end;
        } else {
            let (found, expected) = (self.base_position, end.position);
            self.gap = Some(BatchFlaw::Chain { field: "segment position", found, expected });
        }
    }

    /// Zeroes behind the last batch.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        self.unwritten_bytes
    }

    /// Where the next segment must begin.
    pub(super) fn end(&self) -> ScanEnd {
        self.expected
    }

    /// The next batch or damage; `None` at the end.
    pub(super) fn next_row(&mut self) -> Result<Option<LogRow>, DiskError> {
        if let Some(flaw) = self.gap.take() {
            return Ok(Some(self.damage(0..0, false, &flaw)));
        }
        let file_offset = self.expected.position - self.base_position;
        if self.finished || file_offset >= self.len {
            return Ok(None);
        }
        let header = match self.header_at(file_offset)? {
            Ok(header) => header,
            Err(flaw) => return self.on_flaw(file_offset, &flaw),
        };
        match self.check_records(file_offset, &header)? {
            Ok(records_ok) => {
                self.expect_after(&header);
                Ok(Some(LogRow::Batch(BatchRow::new(&self.path, file_offset, &header, records_ok))))
            }
            // The header says where the next batch is, whatever happened to the records.
            Err(flaw @ BatchFlaw::Records { .. }) => {
                self.expect_after(&header);
                Ok(Some(self.damage(file_offset..file_offset + header.batch_bytes(), false, &flaw)))
            }
            Err(flaw) => self.on_flaw(file_offset, &flaw),
        }
    }

    fn expect_after(&mut self, header: &BatchHeader) {
        self.expected = ScanEnd {
            position: header.end_position(),
            offset: Some(header.end_offset()),
            record: Some(header.end_record()),
        };
    }

    /// What is behind bytes that are no batch: zeroes, another batch, or nothing.
    fn on_flaw(&mut self, file_offset: u64, flaw: &BatchFlaw) -> Result<Option<LogRow>, DiskError> {
        // A segment that lost its last batches to zeroes is found out by the next one, which does not continue it.
        if self.is_zero_from(file_offset)? {
            self.unwritten_bytes = self.len - file_offset;
            self.finished = true;
            return Ok(None);
        }
        if let Some(next) = self.find_header(file_offset + 1)? {
            self.expected = ScanEnd { position: self.base_position + next, offset: None, record: None };
            return Ok(Some(self.damage(file_offset..next, false, flaw)));
        }
        self.finished = true;
        Ok(Some(self.damage(file_offset..self.len, self.is_newest, flaw)))
    }

    fn damage(&self, file_offsets: std::ops::Range<u64>, is_tail: bool, flaw: &BatchFlaw) -> LogRow {
        let position = self.base_position + file_offsets.start;
        LogRow::Damage(DamageRow::new(&self.path, file_offsets, position, is_tail, flaw))
    }

    fn header_at(&mut self, file_offset: u64) -> Result<Result<BatchHeader, BatchFlaw>, DiskError> {
        let (seed, expected) = (self.seed, self.expected);
        let bytes = self.bytes_at(file_offset, BATCH_HEADER_BYTES)?;
        Ok(BatchHeader::decode(bytes, seed).map_err(BatchFlaw::from).and_then(|header| {
            let links = [
                ("position", header.position, Some(expected.position)),
                ("base offset", header.base_offset, expected.offset),
                ("base record", header.base_record, expected.record),
            ];
            let broken = links.into_iter().find_map(|(field, found, expected)| {
                let expected = expected.filter(|expected| *expected != found)?;
                Some(BatchFlaw::Chain { field, found, expected })
            });
            broken.map_or(Ok(header), Err)
        }))
    }

    /// Whether the records are as stored; `None` when they are not to be read.
    fn check_records(
        &mut self,
        file_offset: u64,
        header: &BatchHeader,
    ) -> Result<Result<Option<bool>, BatchFlaw>, DiskError> {
        let (start, needed) = (file_offset + HEADER_BYTES, u64::from(header.stored_len));
        let left = self.len.saturating_sub(start);
        if needed > left {
            return Ok(Err(BatchFlaw::Cut { needed, left }));
        }
        if !self.read_records {
            return Ok(Ok(None));
        }
        let mut hasher = crc32fast::Hasher::new();
        let mut at = start;
        while at < start + needed {
            let wanted = usize::try_from(start + needed - at).unwrap_or(WINDOW_BYTES).min(WINDOW_BYTES);
            let bytes = self.bytes_at(at, wanted)?;
            if bytes.is_empty() {
                return Ok(Err(BatchFlaw::Cut { needed, left: at - start }));
            }
            hasher.update(bytes);
            at += bytes.len() as u64;
        }
        let computed = hasher.finalize();
        let stored = header.records_crc;
        Ok(if computed == stored { Ok(Some(true)) } else { Err(BatchFlaw::Records { stored, computed }) })
    }

    fn is_zero_from(&mut self, file_offset: u64) -> Result<bool, DiskError> {
        let mut at = file_offset;
        while at < self.len {
            let bytes = self.bytes_at(at, WINDOW_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += bytes.len() as u64;
        }
        Ok(true)
    }

    /// Where the next good header begins, at `from` or behind it. A header carries its own position under its
    /// checksum, so that nothing else passes for one.
    fn find_header(&mut self, from: u64) -> Result<Option<u64>, DiskError> {
        let (seed, base_position) = (self.seed, self.base_position);
        let mut at = from;
        while at + HEADER_BYTES <= self.len {
            let bytes = self.bytes_at(at, WINDOW_BYTES)?;
            let Some(last) = bytes.len().checked_sub(BATCH_HEADER_BYTES) else { break };
            let found = (0..=last).find(|&start| {
                let position = base_position + at + start as u64;
                bytes[start] == BATCH_TYPE
                    && bytes[start + 16..start + 24] == position.to_le_bytes()
                    && !matches!(
                        BatchHeader::decode(&bytes[start..], seed),
                        Err(BatchError::Checksum { .. } | BatchError::Short { .. })
                    )
            });
            if let Some(found) = found {
                return Ok(Some(at + found as u64));
            }
            at += last as u64 + 1;
        }
        Ok(None)
    }

    /// Up to `wanted` bytes of the file, fewer at its end.
    fn bytes_at(&mut self, file_offset: u64, wanted: usize) -> Result<&[u8], DiskError> {
        let window_end = self.window_start + self.window.len() as u64;
        let needed_end = (file_offset + wanted as u64).min(self.len);
        if file_offset < self.window_start || needed_end > window_end {
            self.window.resize(WINDOW_BYTES, 0);
            self.window_start = file_offset;
            let mut filled = 0;
            while filled < self.window.len() {
                match self.file.read_at(&mut self.window[filled..], file_offset + filled as u64)? {
                    0 => break,
                    read => filled += read,
                }
            }
            self.window.truncate(filled);
        }
        let start = usize::try_from(file_offset - self.window_start).unwrap_or(usize::MAX).min(self.window.len());
        let end = start.saturating_add(wanted).min(self.window.len());
        Ok(&self.window[start..end])
    }
}
