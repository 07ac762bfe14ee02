//! What answers a fetch: walking the batches from an offset on and collecting the pieces of a reply.

use super::check::{BatchFlaw, check_records};
use super::cursor::{Cursor, LARGE_BYTES, WINDOW_BYTES};
use super::cut::{Layout, cut, end_of_record};
use super::partial::PartialBatches;
use super::source::Source;
use super::verified::Verified;
use super::{MAX_REPLY_DATA_BYTES, ReadError, Reader};
use crate::disk::{DiskError, DiskFile};
use crate::segment::SegmentSlice;
use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchHeader};
use std::sync::Arc;

/// How much of a large batch is read at a time to check it; stays in the processor's cache.
const CHECK_BYTES: usize = 256 * 1024;

/// A part of a reply.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Bytes in memory.
    Inline(Bytes),
    /// A range of a closed, checked segment, at least 32 KiB long.
    File {
        /// The segment.
        file: Arc<dyn DiskFile>,
        /// First byte in the file.
        file_offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// The answer to a fetch.
#[derive(Debug, Clone, Default)]
pub struct ReadPlan {
    /// The data, in order.
    pub pieces: Vec<Piece>,
    /// Bytes of all pieces.
    pub bytes: u64,
    /// CRC-32 of all pieces together; what `sendfile` sends is covered by the checksum made when it was stored.
    pub crc: u32,
    /// Offset behind the data.
    pub next_offset: u64,
    /// Records that start in the data.
    pub record_count: u32,
    /// Timestamp of the newest batch in the data, ns; 0 when there is none.
    pub timestamp_ns: u64,
}

impl Reader {
    /// Plans a reply of at most `max_bytes` from `offset` on.
    ///
    /// `slices` adjoin each other, the first one holds `offset`. The reply ends behind a batch if it can, else behind
    /// a record, and inside a record only when that is longer than `max_bytes` alone. An empty plan: nothing there yet.
    /// Damage behind good data ends the plan there; the next one from that place says what is wrong.
    pub fn plan(&mut self, slices: &[SegmentSlice], offset: u64, max_bytes: u32) -> Result<ReadPlan, ReadError> {
        self.plan_within(slices, offset, max_bytes, MAX_REPLY_DATA_BYTES)
    }

    /// As [`Reader::plan`], with at most `max_copied` bytes in memory unless a single record needs more; what goes out
    /// by `sendfile` does not count.
    pub fn plan_within(
        &mut self,
        slices: &[SegmentSlice],
        offset: u64,
        max_bytes: u32,
        max_copied: u32,
    ) -> Result<ReadPlan, ReadError> {
        let mut reply = Assembly::new(offset, max_bytes.min(MAX_REPLY_DATA_BYTES).into(), max_copied.max(1).into());
        for slice in slices {
            if slice.start_offset > reply.next_offset {
                let (partition, start) = (slice.segment.partition(), slice.start_offset);
                return Err(ReadError::BelowStart { partition, offset, start });
            }
            match self.collect(slice, &mut reply) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) if reply.bytes > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(reply.finish())
    }

    /// Adds what fits of one segment; `false` once the reply is full.
    fn collect(&mut self, slice: &SegmentSlice, reply: &mut Assembly) -> Result<bool, ReadError> {
        let source = &Source::open(&mut self.files, slice, Some(reply.next_offset))?;
        let start = source.position_before(reply.next_offset);
        let Self { verified, partial, window, scratch, .. } = self;
        source.read_ahead(start, reply.room());
        let mut cursor = Cursor::new(source, window, start, reply.copy_room());
        while reply.room() > 0 {
            // For the last bit of a reply another read past the page cache is too dear.
            if reply.bytes > 0 && reply.copy_room() < LARGE_BYTES && !cursor.is_cheap() {
                return Ok(false);
            }
            let Some(header) = cursor.peek()? else { return Ok(true) };
            // Control batches have no offsets of their own, so they are passed here too.
            if header.end_offset() > reply.next_offset {
                let skip = reply.next_offset.saturating_sub(header.base_offset);
                let rest = u64::from(header.plain_len) - skip;
                let room = match skip == 0 && goes_by_file(source, &header) {
                    true => reply.room(),
                    false => reply.copy_room(),
                };
                if reply.bytes > 0 && rest > room {
                    return Ok(false);
                }
                if header.base_offset > reply.next_offset {
                    let flaw = BatchFlaw::Chain {
                        field: "base offset",
                        found: header.base_offset,
                        expected: reply.next_offset,
                    };
                    return Err(source.damaged(source.file_offset_of(header.position), flaw));
                }
                reply.plan.timestamp_ns = header.max_timestamp_ns;
                if skip == 0 && rest <= room && header.flags.codec().is_none() {
                    whole_batch(source, &header, &mut cursor, verified, scratch, reply)?;
                } else {
                    part_of_batch(source, &header, &mut cursor, partial, skip as usize, reply)?;
                    if reply.next_offset < header.end_offset() {
                        return Ok(false);
                    }
                }
                source.note_checked(&header);
            } else if header.flags.is_control() {
                // Never served, so that there is nothing to check.
                source.note_checked(&header);
            }
            cursor.advance(&header, reply.copy_room());
        }
        Ok(false)
    }
}

/// Whether the records of a whole batch may go from the file to the socket.
fn goes_by_file(source: &Source, header: &BatchHeader) -> bool {
    source.closed && u64::from(header.stored_len) >= LARGE_BYTES && header.flags.codec().is_none()
}

/// Adds all records of a batch stored plainly.
fn whole_batch(
    source: &Source,
    header: &BatchHeader,
    cursor: &mut Cursor<'_>,
    verified: &mut Verified,
    scratch: &mut Vec<u8>,
    reply: &mut Assembly,
) -> Result<(), ReadError> {
    if goes_by_file(source, header) {
        let (start, end) = (header.position, header.end_position());
        let (partition, base) = (source.partition(), source.base_position());
        if !source.is_checked(end) && !verified.contains(partition, base, start, end) {
            check_on_disk(source, header, scratch)?;
            verified.insert(partition, base, start, end);
        }
        reply.push_file(&source.file, records_at(source, header), header);
    } else if let Some(records) = cursor.records(header)? {
        checked(source, header, crc32fast::hash(records))?;
        reply.push_copy(records, header.record_count, source.limit_position - header.position);
    } else {
        reply.push_bytes(stored_bytes(source, header)?, header.record_count);
    }
    Ok(())
}

/// Adds what fits of a batch that is compressed, or that starts before the reply or ends behind it.
fn part_of_batch(
    source: &Source,
    header: &BatchHeader,
    cursor: &mut Cursor<'_>,
    partial: &mut PartialBatches,
    skip: usize,
    reply: &mut Assembly,
) -> Result<(), ReadError> {
    let plain = match partial.get(source.partition(), header.position) {
        Some(plain) => plain,
        None => plain_bytes(source, header, cursor)?,
    };
    let layout = layout_of(header);
    // A record is only cut inside when the fetch has no room for it, however little is to be copied.
    let record = end_of_record(&plain, layout, skip).saturating_sub(skip) as u64;
    let room = reply.copy_room().max(record).min(reply.room());
    let part = cut(&plain, layout, skip, usize::try_from(room).unwrap_or(usize::MAX));
    let bytes = match part.end - skip < plain.len() / 2 {
        // A small part must not keep a large batch in memory until a slow reader has it.
        true => Bytes::copy_from_slice(plain.get(skip..part.end).unwrap_or_default()),
        false => plain.slice(skip..part.end),
    };
    reply.push_bytes(bytes, part.records);
    if part.end < plain.len() {
        partial.put(source.partition(), header.position, plain);
    } else {
        partial.remove(source.partition(), header.position);
    }
    Ok(())
}

/// How the plain bytes of a batch divide.
pub(super) fn layout_of(header: &BatchHeader) -> Layout {
    if header.flags.is_opaque() { Layout::Opaque } else { Layout::Records }
}

/// The plain bytes of a batch, checked and decompressed.
pub(super) fn plain_bytes(source: &Source, header: &BatchHeader, cursor: &mut Cursor<'_>) -> Result<Bytes, ReadError> {
    let stored = stored_records(source, header, cursor)?;
    let Some(codec) = header.flags.codec() else {
        return Ok(stored);
    };
    let plain = codec.decompress(&stored, header.plain_len as usize).map_err(|_| {
        let flaw = BatchFlaw::Compressed { plain_len: header.plain_len };
        source.damaged(source.file_offset_of(header.position), flaw)
    })?;
    Ok(plain.into())
}

/// The stored records of a batch, checked.
pub(super) fn stored_records(
    source: &Source,
    header: &BatchHeader,
    cursor: &mut Cursor<'_>,
) -> Result<Bytes, ReadError> {
    match cursor.records(header)? {
        Some(records) => {
            checked(source, header, crc32fast::hash(records))?;
            Ok(Bytes::copy_from_slice(records))
        }
        None => stored_bytes(source, header),
    }
}

/// The stored records of a batch too large for the window, checked.
fn stored_bytes(source: &Source, header: &BatchHeader) -> Result<Bytes, ReadError> {
    let mut bytes = vec![0; header.stored_len as usize];
    let filled = source.read(&mut bytes, records_at(source, header))?;
    checked(source, header, crc32fast::hash(&bytes[..filled]))?;
    Ok(bytes.into())
}

/// Reads the records of a batch once, for their checksum only.
fn check_on_disk(source: &Source, header: &BatchHeader, scratch: &mut Vec<u8>) -> Result<(), ReadError> {
    scratch.resize(CHECK_BYTES, 0);
    let (mut hasher, mut file_offset) = (Hasher::new(), records_at(source, header));
    let end = file_offset + u64::from(header.stored_len);
    while file_offset < end {
        let len = (end - file_offset).min(CHECK_BYTES as u64) as usize;
        let filled = source.read(&mut scratch[..len], file_offset)?;
        if filled == 0 {
            break;
        }
        hasher.update(&scratch[..filled]);
        file_offset += filled as u64;
    }
    checked(source, header, hasher.finalize())
}

fn checked(source: &Source, header: &BatchHeader, computed: u32) -> Result<(), ReadError> {
    check_records(header, computed).map_err(|flaw| source.damaged(source.file_offset_of(header.position), flaw))
}

fn records_at(source: &Source, header: &BatchHeader) -> u64 {
    source.file_offset_of(header.position) + BATCH_HEADER_BYTES as u64
}

/// A reply under construction.
struct Assembly {
    plan: ReadPlan,
    /// Copied records that wait to become one piece.
    copied: BytesMut,
    hasher: Hasher,
    max_bytes: u64,
    bytes: u64,
    max_copied: u64,
    copied_bytes: u64,
    next_offset: u64,
}

impl Assembly {
    fn new(offset: u64, max_bytes: u64, max_copied: u64) -> Self {
        let (plan, copied, hasher) = (ReadPlan::default(), BytesMut::new(), Hasher::new());
        Self { plan, copied, hasher, max_bytes, bytes: 0, max_copied, copied_bytes: 0, next_offset: offset }
    }

    /// Bytes that still fit.
    fn room(&self) -> u64 {
        self.max_bytes - self.bytes
    }

    /// Bytes that still fit and may be copied.
    fn copy_room(&self) -> u64 {
        self.room().min(self.max_copied.saturating_sub(self.copied_bytes))
    }

    /// Adds records to the piece being copied together, of at most `left` more bytes in this segment.
    fn push_copy(&mut self, records: &[u8], record_count: u32, left: u64) {
        if self.copied.len() + records.len() > self.copied.capacity() {
            self.flush();
            let room = self.copy_room().min(left).min(WINDOW_BYTES as u64);
            self.copied.reserve(records.len().max(room as usize));
        }
        self.copied.extend_from_slice(records);
        self.copied_bytes += records.len() as u64;
        self.count(records.len() as u64, record_count);
    }

    fn push_bytes(&mut self, bytes: Bytes, record_count: u32) {
        self.flush();
        self.hasher.update(&bytes);
        self.copied_bytes += bytes.len() as u64;
        self.count(bytes.len() as u64, record_count);
        self.plan.pieces.push(Piece::Inline(bytes));
    }

    fn push_file(&mut self, file: &Arc<dyn DiskFile>, file_offset: u64, header: &BatchHeader) {
        self.flush();
        let len = u64::from(header.stored_len);
        self.hasher.combine(&Hasher::new_with_initial_len(header.records_crc, len));
        self.count(len, header.record_count);
        self.plan.pieces.push(Piece::File { file: Arc::clone(file), file_offset, len });
    }

    fn count(&mut self, bytes: u64, records: u32) {
        self.bytes += bytes;
        self.next_offset += bytes;
        self.plan.record_count = self.plan.record_count.saturating_add(records);
    }

    fn flush(&mut self) {
        if !self.copied.is_empty() {
            let copied = self.copied.split().freeze();
            self.hasher.update(&copied);
            self.plan.pieces.push(Piece::Inline(copied));
        }
    }

    fn finish(mut self) -> ReadPlan {
        self.flush();
        ReadPlan { bytes: self.bytes, crc: self.hasher.finalize(), next_offset: self.next_offset, ..self.plan }
    }
}

/// Fills `out` from `file_offset` as far as the file goes.
pub(super) fn read_full(
    file: &Arc<dyn DiskFile>,
    out: &mut [u8],
    file_offset: u64,
    uncached: bool,
) -> Result<usize, DiskError> {
    let mut filled = 0;
    while filled < out.len() {
        let (rest, at) = (&mut out[filled..], file_offset + filled as u64);
        let count = if uncached { file.read_uncached_at(rest, at)? } else { file.read_at(rest, at)? };
        if count == 0 {
            break;
        }
        filled += count;
    }
    Ok(filled)
}
