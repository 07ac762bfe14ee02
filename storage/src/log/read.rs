//! Reading: the tail from the ring, everything else as the part of a segment that a reader thread may read.

use super::Log;
use crate::segment::{Mark, Segment, SegmentSlice};
use crate::tail::{TailEntry, TailRing};
use bytes::{BufMut, BytesMut};
use lance_messages::batch::BatchSeed;
use lance_messages::id::TopicPartition;
use lance_messages::record::records;
use std::sync::Arc;

/// From this size on a stored checksum is joined rather than computed again.
const COMBINE_BYTES: usize = 2048;

/// Where the data at an offset is.
#[derive(Clone, Debug)]
pub enum LogRead {
    /// Here: it was copied out of the tail ring.
    Tail(TailRead),
    /// In a segment; a reader thread reads it.
    Segments(SegmentSlice),
    /// Nowhere yet: the offset is the end of what may be read.
    Empty,
    /// Nowhere: outside of what the log holds for readers.
    OutOfRange {
        /// The first offset there is.
        log_start: u64,
        /// The first offset that is not readable yet.
        end: u64,
    },
}

/// What was copied out of the tail ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailRead {
    /// Where to read on.
    pub next_offset: u64,
    /// Records that begin in the data.
    pub record_count: u32,
    /// Bytes copied.
    pub bytes: usize,
    /// Their CRC-32.
    pub crc: u32,
    /// Timestamp of the newest batch in them, ns; 0 when unknown.
    pub timestamp_ns: u64,
}

/// All segments of a log at one moment, for look-ups on a reader thread.
#[derive(Clone, Debug)]
pub struct LogView {
    /// Whose log.
    pub partition: TopicPartition,
    /// The seed of its headers' checksums.
    pub seed: BatchSeed,
    /// The first batch boundary that is there.
    pub log_start: Mark,
    /// The limit of readers.
    pub high_watermark: Mark,
    /// Every segment that holds something readable, oldest first.
    pub slices: Vec<SegmentSlice>,
}

impl Log {
    /// Finds the data at `offset`: appends up to `max_bytes` of it to `out` when the tail ring has it.
    ///
    /// Ends at a batch, else at a record, and inside a record only when a single one is longer than `max_bytes`.
    pub fn read(&self, offset: u64, max_bytes: usize, tail: &TailRing, out: &mut BytesMut) -> LogRead {
        let (log_start, end) = (self.start.offset, self.high_watermark.offset);
        if offset < log_start || offset > end {
            return LogRead::OutOfRange { log_start, end };
        }
        if offset == end || max_bytes == 0 {
            return LogRead::Empty;
        }
        if let Some(read) = self.read_tail(offset, max_bytes, tail, out) {
            return LogRead::Tail(read);
        }
        match self.slice_at(offset) {
            Some(slice) => LogRead::Segments(slice),
            None => LogRead::Empty,
        }
    }

    fn read_tail(&self, offset: u64, max_bytes: usize, tail: &TailRing, out: &mut BytesMut) -> Option<TailRead> {
        let mut at = tail.find(self.options.partition, offset, self.newest_in_tail);
        let mut read = TailRead { next_offset: offset, record_count: 0, bytes: 0, crc: 0, timestamp_ns: 0 };
        while let Some(entry) = at.and_then(|number| tail.entry(number)) {
            let committed = entry.end_position <= self.high_watermark.position;
            let served = !entry.flags.is_control();
            if !committed || (served && entry.flags.codec().is_some()) {
                break;
            }
            if served && !read.take(entry, tail.stored(entry), max_bytes, out) {
                break;
            }
            at = tail.next(entry);
        }
        (read.bytes > 0).then_some(read)
    }

    /// The part of the segment that holds `offset`, up to the high watermark.
    pub fn slice_at(&self, offset: u64) -> Option<SegmentSlice> {
        let above = self.closed.partition_point(|segment| segment.base().offset <= offset);
        let in_closed = above.checked_sub(1).and_then(|at| self.closed.get(at));
        if let Some(segment) = in_closed.filter(|segment| segment.end().is_some_and(|end| offset < end.mark.offset)) {
            return self.closed_slice(segment);
        }
        let mut writing = self.closing.iter().chain([&self.active]).rev();
        let holder = writing.find(|writing| writing.segment.base().offset <= offset)?;
        let base = holder.segment.base();
        let entries = holder.index.entries();
        let wanted = offset - base.offset;
        let behind = entries.partition_point(|entry| u64::from(entry.offset_delta) <= wanted);
        let entry = behind.checked_sub(1).and_then(|at| entries.get(at));
        let (position_delta, offset_delta) =
            entry.map_or((0, 0), |entry| (u64::from(entry.position_delta), u64::from(entry.offset_delta)));
        self.open_slice(holder.end.map(|end| end.mark), &holder.segment, position_delta, offset_delta)
    }

    /// The part of the segment that holds `offset`, up to what is committed and written: what is read for its batches as they are
    /// stored never comes from memory.
    pub fn written_slice_at(&self, offset: u64) -> LogRead {
        let (log_start, end) = (self.start.offset, self.high_watermark.offset);
        if offset < log_start || offset > end {
            return LogRead::OutOfRange { log_start, end };
        }
        let Some(mut slice) = self.slice_at(offset) else { return LogRead::Empty };
        if self.written.position < slice.limit.position {
            slice.limit = self.written;
        }
        let holds = offset < slice.limit.offset && slice.start_position < slice.limit.position;
        if holds { LogRead::Segments(slice) } else { LogRead::Empty }
    }

    /// Every segment that holds something readable: for look-ups by time, record number and sort key.
    pub fn view(&self) -> LogView {
        let closed = self.closed.iter().filter_map(|segment| self.closed_slice(segment));
        let writing = self.closing.iter().chain([&self.active]);
        let open = writing.filter_map(|open| self.open_slice(open.end.map(|end| end.mark), &open.segment, 0, 0));
        LogView {
            partition: self.options.partition,
            seed: self.seed,
            log_start: self.start,
            high_watermark: self.high_watermark,
            slices: closed.chain(open).collect(),
        }
    }

    fn closed_slice(&self, segment: &Arc<Segment>) -> Option<SegmentSlice> {
        let end = segment.end()?.mark;
        let mut slice = self.open_slice(Some(end), segment, 0, 0)?;
        slice.closed = true;
        Some(slice)
    }

    fn open_slice(
        &self,
        end: Option<Mark>,
        segment: &Arc<Segment>,
        position_delta: u64,
        offset_delta: u64,
    ) -> Option<SegmentSlice> {
        let base = segment.base();
        let limit = end.filter(|end| end.position < self.high_watermark.position).unwrap_or(self.high_watermark);
        (limit.position > base.position).then(|| SegmentSlice {
            segment: Arc::clone(segment),
            start_position: base.position + position_delta,
            start_offset: base.offset + offset_delta,
            limit,
            closed: false,
        })
    }
}

impl TailRead {
    /// Copies what is wanted of a batch; answers whether reading may go on behind it.
    fn take(&mut self, entry: &TailEntry, stored: &[u8], max_bytes: usize, out: &mut BytesMut) -> bool {
        let skip = (self.next_offset - entry.base_offset) as usize;
        let room = max_bytes - self.bytes;
        let Some(wanted) = stored.get(skip..) else { return false };
        let whole = wanted.len() <= room;
        if !whole && self.bytes > 0 {
            return false;
        }
        let end = if whole { stored.len() } else { cut(stored, skip, room, entry.flags.is_opaque()) };
        let data = stored.get(skip..end).unwrap_or_default();
        out.put_slice(data);
        let from_start = skip == 0 && whole;
        let known = if from_start { Some(entry.records_crc) } else { None };
        self.crc = join(self.crc, data, known);
        self.record_count += if from_start { entry.record_count } else { begun(stored, skip, end, entry) };
        self.timestamp_ns = entry.timestamp_ns;
        self.bytes += data.len();
        self.next_offset += data.len() as u64;
        whole
    }
}

/// Where to cut a batch that is longer than `room` from `skip` on: behind the last whole record, else inside one.
fn cut(stored: &[u8], skip: usize, room: usize, opaque: bool) -> usize {
    let limit = skip.saturating_add(room).min(stored.len());
    if opaque {
        return limit;
    }
    let mut end = 0;
    let mut at = 0;
    for record in records(stored).map_while(Result::ok) {
        at += record.encoded_bytes();
        if at > limit {
            break;
        }
        end = at;
    }
    if end > skip { end } else { limit }
}

/// Records of `stored` that begin in `skip..end`; an opaque batch is one record.
fn begun(stored: &[u8], skip: usize, end: usize, entry: &TailEntry) -> u32 {
    if entry.flags.is_opaque() {
        return if skip == 0 { entry.record_count } else { 0 };
    }
    let mut at = 0;
    let mut count = 0;
    for record in records(stored).map_while(Result::ok) {
        if at >= end {
            break;
        }
        count += u32::from(at >= skip);
        at += record.encoded_bytes();
    }
    count
}

fn join(crc: u32, data: &[u8], known: Option<u32>) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    match known.filter(|_| data.len() >= COMBINE_BYTES) {
        Some(known) => hasher.combine(&crc32fast::Hasher::new_with_initial_len(known, data.len() as u64)),
        None => hasher.update(data),
    }
    hasher.finalize()
}
