//! Whole batches for who copies logs: header and records as they stand in the segment, control batches left out, every
//! checksum checked.

use super::cursor::Cursor;
use super::plan::stored_records;
use super::source::Source;
use super::{MAX_REPLY_DATA_BYTES, Piece, ReadError, ReadPlan, Reader};
use crate::segment::SegmentSlice;
use bytes::BytesMut;

impl Reader {
    /// Plans a reply of whole batches, from the one that holds `offset` on: at most `max_bytes`, but at least one batch.
    ///
    /// An empty plan: nothing there yet. Damage behind good batches ends the plan there.
    pub fn plan_stored(&mut self, slices: &[SegmentSlice], offset: u64, max_bytes: u32) -> Result<ReadPlan, ReadError> {
        let max_bytes = u64::from(max_bytes.min(MAX_REPLY_DATA_BYTES));
        let mut plan = ReadPlan { next_offset: offset, ..ReadPlan::default() };
        let mut out = BytesMut::new();
        for slice in slices {
            match self.collect_stored(slice, max_bytes, &mut plan, &mut out) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) if !out.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        plan.bytes = out.len() as u64;
        plan.crc = crc32fast::hash(&out);
        if !out.is_empty() {
            plan.pieces.push(Piece::Inline(out.freeze()));
        }
        Ok(plan)
    }

    /// Adds the batches of one segment that fit; `false` once the reply is full.
    fn collect_stored(
        &mut self,
        slice: &SegmentSlice,
        max_bytes: u64,
        plan: &mut ReadPlan,
        out: &mut BytesMut,
    ) -> Result<bool, ReadError> {
        let source = &Source::open(&mut self.files, slice, Some(plan.next_offset))?;
        let start = source.position_before(plan.next_offset);
        let mut cursor = Cursor::new(source, &mut self.window, start, max_bytes);
        while let Some(header) = cursor.peek()? {
            if header.end_offset() > plan.next_offset {
                if !out.is_empty() && out.len() as u64 + header.batch_bytes() > max_bytes {
                    return Ok(false);
                }
                let records = stored_records(source, &header, &mut cursor)?;
                out.extend_from_slice(&header.encode(source.seed()));
                out.extend_from_slice(&records);
                plan.next_offset = header.end_offset();
                plan.timestamp_ns = header.max_timestamp_ns;
                plan.record_count = plan.record_count.saturating_add(header.record_count);
            }
            cursor.advance(&header, max_bytes.saturating_sub(out.len() as u64));
        }
        Ok(true)
    }
}
