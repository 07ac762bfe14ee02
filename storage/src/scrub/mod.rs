//! Re-reads closed segments at a bounded rate and checks every checksum, so that damage is found while a peer can mend it.
//!
//! A [`SegmentScrub`] reads past the page cache, what the disk really holds, in small steps. Behind a damaged batch it
//! looks for the next good header, so that one report names all damage of a segment and nothing that is sound.

#[cfg(test)]
mod tests;

use crate::disk::{DiskError, DiskFile};
use crate::reader::BatchFlaw;
use crate::reader::check::{Chain, check_records, find_header, header_at};
use crate::segment::{Segment, SegmentEnd};
use crc32fast::Hasher;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchHeader};
use lance_messages::id::TopicPartition;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// The most one step reads at a time.
const CHUNK_BYTES: u64 = 256 * 1024;
/// Damages named one by one; further ones widen the last.
const DAMAGES: usize = 64;

/// A damaged range of a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} at {}..{}: partition {partition} is damaged at positions {}..{}: {flaw}",
    path.display(), file_offsets.start, file_offsets.end, positions.start, positions.end)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// The log.
    pub partition: TopicPartition,
    /// Bytes of the file.
    pub file_offsets: Range<u64>,
    /// The same as log positions.
    pub positions: Range<u64>,
    /// What is wrong where it starts.
    pub flaw: BatchFlaw,
}

impl Damage {
    /// The batch boundary at which the damage begins: a replica that gives up what it holds above is cut here.
    pub fn good_end(&self) -> u64 {
        self.positions.start
    }
}

/// What a finished scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubReport {
    /// Bytes read.
    pub bytes: u64,
    /// Sound batches.
    pub batches: u64,
    /// Everything that is not sound.
    pub damages: Vec<Damage>,
}

/// The scrub of one closed segment.
pub struct SegmentScrub {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    end: SegmentEnd,
    chain: Chain,
    state: State,
    report: ScrubReport,
    buffer: Vec<u8>,
}

enum State {
    /// Before a header.
    Header,
    /// In the records of a batch, whose bytes up to a file offset were hashed.
    Records(BatchHeader, Hasher, u64),
    /// Behind a damaged batch: looking for a header from a file offset on.
    Lost { damaged_from: u64, look_from: u64, flaw: BatchFlaw },
}

impl SegmentScrub {
    /// A scrub of `segment`, whose open file is `file`; `None` while it is the active one.
    pub fn new(segment: &Arc<Segment>, file: Arc<dyn DiskFile>) -> Option<Self> {
        let base = segment.base();
        let chain = Chain { position: base.position, offset: Some(base.offset), record: Some(base.record) };
        Some(Self {
            end: segment.end()?,
            segment: Arc::clone(segment),
            file,
            chain,
            state: State::Header,
            report: ScrubReport::default(),
            buffer: Vec::new(),
        })
    }

    /// The segment that is read.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Reads on for about `budget_bytes`; the report once all was read.
    ///
    /// A sound segment is marked verified, a damaged one is no longer.
    pub fn step(&mut self, budget_bytes: u64) -> Result<Option<ScrubReport>, DiskError> {
        let until = self.report.bytes.saturating_add(budget_bytes.max(1));
        while self.report.bytes < until {
            if self.is_done() {
                self.check_end();
                self.segment.set_verified(self.report.damages.is_empty());
                return Ok(Some(std::mem::take(&mut self.report)));
            }
            match std::mem::replace(&mut self.state, State::Header) {
                State::Header => self.header()?,
                State::Records(header, hasher, hashed) => self.records(header, hasher, hashed)?,
                State::Lost { damaged_from, look_from, flaw } => self.look(damaged_from, look_from, flaw)?,
            }
        }
        Ok(None)
    }

    /// Where the segment ends in its file.
    fn end_offset(&self) -> u64 {
        self.segment.file_offset(self.end.mark.position)
    }

    fn is_done(&self) -> bool {
        matches!(self.state, State::Header) && self.chain.position >= self.end.mark.position
    }

    fn header(&mut self) -> Result<(), DiskError> {
        let file_offset = self.segment.file_offset(self.chain.position);
        let filled = self.read(file_offset, BATCH_HEADER_BYTES as u64)?;
        let checked = header_at(&self.buffer[..filled], self.segment.seed(), &self.chain).and_then(|header| {
            let left = self.end.mark.position.saturating_sub(header.position + BATCH_HEADER_BYTES as u64);
            let needed = u64::from(header.stored_len);
            if needed > left { Err(BatchFlaw::Cut { needed, left }) } else { Ok(header) }
        });
        self.state = match checked {
            Ok(header) => State::Records(header, Hasher::new(), file_offset + BATCH_HEADER_BYTES as u64),
            Err(flaw) => State::Lost { damaged_from: file_offset, look_from: file_offset + 1, flaw },
        };
        Ok(())
    }

    fn records(&mut self, header: BatchHeader, mut hasher: Hasher, hashed: u64) -> Result<(), DiskError> {
        let end = self.segment.file_offset(header.end_position());
        let filled = self.read(hashed, end - hashed)?;
        hasher.update(&self.buffer[..filled]);
        let hashed = hashed + filled as u64;
        if hashed < end && filled > 0 {
            self.state = State::Records(header, hasher, hashed);
            return Ok(());
        }
        match check_records(&header, hasher.finalize()) {
            Ok(()) => self.report.batches += 1,
            Err(flaw) => self.damaged(self.segment.file_offset(header.position)..end, flaw),
        }
        self.chain = Chain::after(&header);
        Ok(())
    }

    /// Looks for a good header; the damage ends there, or with the segment.
    fn look(&mut self, damaged_from: u64, look_from: u64, flaw: BatchFlaw) -> Result<(), DiskError> {
        let end = self.end_offset();
        let filled = self.read(look_from, end.saturating_sub(look_from))?;
        let position = self.segment.base().position + look_from;
        if let Some((at, header)) = find_header(&self.buffer[..filled], self.segment.seed(), position) {
            self.damaged(damaged_from..look_from + at as u64, flaw);
            self.chain = Chain { position: header.position, offset: None, record: None };
        } else if filled <= BATCH_HEADER_BYTES || look_from + filled as u64 >= end {
            self.damaged(damaged_from..end, flaw);
            self.chain = Chain::at(self.end.mark.position);
        } else {
            // A header may begin in what was read and end in what was not.
            let look_from = look_from + (filled - BATCH_HEADER_BYTES + 1) as u64;
            self.state = State::Lost { damaged_from, look_from, flaw };
        }
        Ok(())
    }

    /// A last batch that ends elsewhere than the next segment begins leads nowhere.
    fn check_end(&mut self) {
        let end = self.end.mark;
        let ends = [("end offset", self.chain.offset, end.offset), ("end record", self.chain.record, end.record)];
        for (field, found, expected) in ends {
            if let Some(found) = found.filter(|found| *found != expected) {
                let at = self.end_offset();
                self.damaged(at..at, BatchFlaw::Chain { field, found, expected });
            }
        }
    }

    fn damaged(&mut self, file_offsets: Range<u64>, flaw: BatchFlaw) {
        let base = self.segment.base().position;
        let positions = base + file_offsets.start..base + file_offsets.end;
        if self.report.damages.len() >= DAMAGES
            && let Some(last) = self.report.damages.last_mut()
        {
            last.file_offsets.end = file_offsets.end;
            last.positions.end = positions.end;
            return;
        }
        let (path, partition) = (self.file.path().to_path_buf(), self.segment.partition());
        self.report.damages.push(Damage { path, partition, file_offsets, positions, flaw });
    }

    /// Reads at most a chunk into the buffer, as far as the file goes.
    fn read(&mut self, file_offset: u64, wanted: u64) -> Result<usize, DiskError> {
        self.buffer.resize(CHUNK_BYTES as usize, 0);
        let wanted = wanted.min(CHUNK_BYTES) as usize;
        let mut filled = 0;
        while filled < wanted {
            match self.file.read_uncached_at(&mut self.buffer[filled..wanted], file_offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        self.report.bytes += filled as u64;
        Ok(filled)
    }
}

/// How much may be read when: a rate, with what was saved up in at most one second.
#[derive(Debug, Clone)]
pub struct ScrubPace {
    bytes_per_second: u64,
    allowance_bytes: u64,
    last_ns: u64,
}

impl ScrubPace {
    /// A pace that starts with nothing saved up.
    pub fn new(bytes_per_second: u64, now_ns: u64) -> Self {
        Self { bytes_per_second, allowance_bytes: 0, last_ns: now_ns }
    }

    /// Bytes that may be read now.
    pub fn budget_bytes(&mut self, now_ns: u64) -> u64 {
        let passed_ns = now_ns.saturating_sub(self.last_ns);
        let earned = u128::from(passed_ns) * u128::from(self.bytes_per_second) / 1_000_000_000;
        // Time too short to earn a byte is kept until it does.
        if earned > 0 || now_ns < self.last_ns {
            self.last_ns = now_ns;
        }
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        self.allowance_bytes = self.allowance_bytes.saturating_add(earned).min(self.bytes_per_second);
        self.allowance_bytes
    }

    /// Takes note of bytes that were read.
    pub fn spend(&mut self, bytes: u64) {
        self.allowance_bytes = self.allowance_bytes.saturating_sub(bytes);
    }
}
