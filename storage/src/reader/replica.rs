//! Whole batches for a follower, header and records as they stand in the segment, every checksum checked.

use super::check::{BatchFlaw, Chain, batch_at, check_records, header_at};
use super::cursor::{Cursor, LARGE_BYTES};
use super::plan::Piece;
use super::source::Source;
use super::{ReadError, Reader};
use crate::segment::{Segment, SegmentSlice};
use bytes::Bytes;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchSeed};
use lance_messages::id::TopicPartition;
use lance_messages::peer::ReplicaBatch;
use std::sync::Arc;

/// The part of a segment from a batch on, as far as it was written; a reader thread reads it.
///
/// Worth nothing once the log was cut or begun anew: what it then calls damage is none.
#[derive(Clone, Debug)]
pub struct ReplicaSlice {
    slice: SegmentSlice,
    position: u64,
}

/// A batch, and where its records are.
#[derive(Clone, Debug)]
pub struct PlacedBatch {
    /// Its header.
    pub header: BatchHeader,
    /// Its records as they are stored.
    pub records: Piece,
}

/// Why bytes are not whole batches that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("batch {number} of what was read, at byte {at}: {flaw}")]
pub struct SplitError {
    /// Which batch, from 0.
    pub number: usize,
    /// Where it begins.
    pub at: usize,
    /// What is wrong with it.
    pub flaw: BatchFlaw,
}

impl ReplicaSlice {
    pub(crate) fn new(slice: SegmentSlice, position: u64) -> Self {
        Self { slice, position }
    }

    /// Log position of the first batch wanted.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Log position up to which the segment may be read.
    pub fn limit_position(&self) -> u64 {
        self.slice.limit.position
    }

    /// The partition.
    pub fn partition(&self) -> TopicPartition {
        self.slice.segment.partition()
    }

    /// The segment that is read.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.slice.segment
    }

    /// Reads whole batches, at most `max_bytes` of them but at least one; blocking.
    ///
    /// Damage behind good batches ends the answer there; the next read from that place says what is wrong.
    pub fn read(&self, reader: &mut Reader, max_bytes: usize) -> Result<Bytes, ReadError> {
        let Reader { files, window, .. } = reader;
        let source = &Source::open(files, &self.slice, Some(self.slice.start_offset))?;
        let file_offset = source.file_offset_of(self.position);
        let damaged = |flaw| source.damaged(file_offset, flaw);
        let left = self.limit_position().saturating_sub(self.position);
        let wanted = left.min((max_bytes as u64).max(BATCH_HEADER_BYTES as u64));
        let mut bytes = vec![0; wanted as usize];
        let filled = source.read_once(&mut bytes, file_offset)?;
        bytes.truncate(filled);
        let first = match header_at(&bytes, source.seed(), &Chain::at(self.position)) {
            Ok(first) => first,
            // Only the batches before it tell a damaged batch from a place that is none.
            Err(flaw) => {
                let whole = &Source::open(files, &self.slice, None)?;
                let start = whole.last_position_where(|entry| whole.position_of(entry) <= self.position);
                return Err(self.refusal(Cursor::new(whole, window, start, 0), flaw, damaged));
            }
        };
        if first.batch_bytes() > left {
            return Err(damaged(BatchFlaw::Cut { needed: first.stored_len.into(), left }));
        }
        let read = bytes.len();
        if (read as u64) < first.batch_bytes() {
            bytes.resize(first.batch_bytes() as usize, 0);
            let more = source.read(&mut bytes[read..], file_offset + read as u64)?;
            bytes.truncate(read + more);
        }
        let good = good_bytes(&bytes, source.seed(), self.position).map_err(damaged)?;
        bytes.truncate(good);
        Ok(bytes.into())
    }

    /// Finds whole batches, at most `max_bytes` of them but at least one, and leaves the records of large ones where they
    /// are; blocking. What is left there is not checked: whoever gets it has to.
    ///
    /// `None` where only [`Self::read`] can tell: the segment is not closed, its disk has no descriptors, the batches are
    /// small, or the first one is damaged. Damage behind good batches ends the answer there.
    pub fn place(&self, reader: &mut Reader, max_bytes: usize) -> Option<Vec<PlacedBatch>> {
        let Reader { files, window, .. } = reader;
        let source = &Source::open(files, &self.slice, Some(self.slice.start_offset)).ok()?;
        if !source.closed {
            return None;
        }
        source.file.raw_fd()?;
        let mut cursor = Cursor::new(source, window, self.position, max_bytes as u64);
        let (mut placed, mut bytes) = (Vec::new(), 0);
        while let Ok(Some(header)) = cursor.peek() {
            let stored = u64::from(header.stored_len);
            if bytes > 0 && bytes + stored > max_bytes as u64 {
                break;
            }
            let records = if stored >= LARGE_BYTES {
                if placed.is_empty() {
                    // Only what stays in the file goes through the page cache.
                    source.read_ahead(self.position, max_bytes as u64);
                }
                let file_offset = source.file_offset_of(header.position) + BATCH_HEADER_BYTES as u64;
                Piece::File { file: Arc::clone(&source.file), file_offset, len: stored }
            } else {
                // A first batch that is small has others like it behind: one read is better than many.
                if placed.is_empty() && !header.flags.is_control() {
                    return None;
                }
                match cursor.records(&header) {
                    Ok(Some(records)) if check_records(&header, crc32fast::hash(records)).is_ok() => {
                        Piece::Inline(Bytes::copy_from_slice(records))
                    }
                    _ => break,
                }
            };
            bytes += stored;
            placed.push(PlacedBatch { header, records });
            cursor.advance(&header, (max_bytes as u64).saturating_sub(bytes));
        }
        (!placed.is_empty()).then_some(placed)
    }

    /// Walks up to the position: a batch that reaches over it, or a damaged one.
    fn refusal(
        &self,
        mut before: Cursor<'_>,
        flaw: BatchFlaw,
        damaged: impl FnOnce(BatchFlaw) -> ReadError,
    ) -> ReadError {
        loop {
            match before.peek() {
                Ok(Some(header)) if header.end_position() <= self.position => before.advance(&header, 0),
                Ok(Some(header)) if header.position < self.position => {
                    let (partition, position) = (self.partition(), self.position);
                    return ReadError::NotABoundary { partition, position, batch_position: header.position };
                }
                Ok(_) => return damaged(flaw),
                Err(error) => return error,
            }
        }
    }
}

/// How many of `bytes` are whole, sound batches that follow each other from `position` on; an error when there is none.
fn good_bytes(bytes: &[u8], seed: BatchSeed, position: u64) -> Result<usize, BatchFlaw> {
    let (mut good, mut chain) = (0, Chain::at(position));
    while good < bytes.len() {
        match batch_at(&bytes[good..], seed, &chain) {
            Ok((header, _)) => {
                good += header.batch_bytes() as usize;
                chain = Chain::after(&header);
            }
            Err(flaw) if good == 0 => return Err(flaw),
            Err(_) => break,
        }
    }
    Ok(good)
}

/// Takes apart what [`ReplicaSlice::read`] or the tail ring gave, without copying: whole batches that follow each other.
///
/// The records' checksums are not computed again: whoever appends them does.
pub fn split_batches(bytes: &Bytes, partition: TopicPartition) -> Result<Vec<ReplicaBatch>, SplitError> {
    let seed = BatchSeed::new(partition);
    let (mut batches, mut at) = (Vec::new(), 0);
    let mut before: Option<BatchHeader> = None;
    while at < bytes.len() {
        let refused = |flaw| SplitError { number: batches.len(), at, flaw };
        let rest = &bytes[at..];
        let header = BatchHeader::decode(rest, seed).map_err(|reason| refused(reason.into()))?;
        if let Some(before) = &before {
            Chain::after(before).check(&header).map_err(refused)?;
        }
        let end = at + header.batch_bytes() as usize;
        let left = rest.len() - BATCH_HEADER_BYTES;
        let (Some(raw_header), true) = (rest.first_chunk(), end <= bytes.len()) else {
            return Err(refused(BatchFlaw::Cut { needed: header.stored_len.into(), left: left as u64 }));
        };
        let raw_header = *raw_header;
        batches.push(ReplicaBatch { raw_header, header, records: bytes.slice(at + BATCH_HEADER_BYTES..end) });
        before = Some(header);
        at = end;
    }
    Ok(batches)
}
