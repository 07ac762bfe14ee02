//! From a time, a sort key, a record number or any offset to a record's offset: binary search over segments and index, then hops.

use super::cursor::Cursor;
use super::cut::{record_from, start_of_record};
use super::plan::{layout_of, plain_bytes};
use super::source::Source;
use super::{ReadError, Reader};
use crate::segment::SegmentSlice;
use lance_messages::batch::BatchHeader;
use lance_messages::sort_key::SortKey;

/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The first batch appended at or after this time, in ns since the Unix epoch.
    AppendTime(u64),
    /// The first batch whose sort key is at least this.
    SortKey(SortKey),
    /// The record with this number.
    Record(u64),
    /// The first record that starts at or after this offset.
    Offset(u64),
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Log position of its batch.
    pub position: u64,
    /// Offset of the batch, or of the very record that was looked for.
    pub offset: u64,
    /// Number of the record at that offset.
    pub record: u64,
    /// When its batch was made.
    pub sort_key: SortKey,
}

impl Reader {
    /// Looks through adjoining slices, each from the start of its segment; `None` when everything in them lies before what is looked for.
    ///
    /// What lies before the first slice is answered by its first batch.
    pub fn find(&mut self, slices: &[SegmentSlice], lookup: Lookup) -> Result<Option<Found>, ReadError> {
        let lookup = match lookup {
            Lookup::AppendTime(timestamp_ns) => Lookup::SortKey(SortKey::at_time(timestamp_ns)),
            other => other,
        };
        let first = self.first_slice(slices, lookup)?;
        for slice in slices.get(first..).unwrap_or_default() {
            if let Some(found) = self.find_in(slice, lookup)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The last segment that starts before what is looked for.
    fn first_slice(&mut self, slices: &[SegmentSlice], lookup: Lookup) -> Result<usize, ReadError> {
        let (mut low, mut high) = (0, slices.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.slice_starts_before(&slices[middle], lookup)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.saturating_sub(1))
    }

    fn slice_starts_before(&mut self, slice: &SegmentSlice, lookup: Lookup) -> Result<bool, ReadError> {
        match lookup {
            Lookup::Record(record) => return Ok(slice.segment.base().record <= record),
            Lookup::Offset(offset) => return Ok(slice.segment.base().offset <= offset),
            Lookup::AppendTime(_) | Lookup::SortKey(_) => {}
        }
        let source = Source::open(&mut self.files, slice, Some(slice.start_offset))?;
        let header = Cursor::new(&source, &mut self.window, source.base_position(), 0).peek()?;
        Ok(header.is_some_and(|header| starts_before(&header, lookup)))
    }

    fn find_in(&mut self, slice: &SegmentSlice, lookup: Lookup) -> Result<Option<Found>, ReadError> {
        let source = &Source::open(&mut self.files, slice, None)?;
        let start = match lookup {
            Lookup::SortKey(sort_key) => source.position_before_key(sort_key),
            other => self.position_before_header(source, other)?,
        };
        let mut cursor = Cursor::new(source, &mut self.window, start, 0);
        while let Some(header) = cursor.peek()? {
            match lookup {
                _ if header.flags.is_control() => {}
                Lookup::Record(record) if record < header.end_record() => {
                    let skip = record.saturating_sub(header.base_record);
                    // Only a record inside a batch costs reading it.
                    let inside = match skip {
                        0 => 0,
                        _ => start_of_record(&plain_bytes(source, &header, &mut cursor)?, layout_of(&header), skip),
                    };
                    return Ok(Some(Found {
                        position: header.position,
                        offset: header.base_offset + inside as u64,
                        record: header.base_record + skip,
                        sort_key: header.sort_key,
                    }));
                }
                Lookup::Offset(offset) if offset < header.end_offset() => {
                    let inside = offset.saturating_sub(header.base_offset) as usize;
                    let (inside, skip) = match inside {
                        0 => (0, 0),
                        _ => record_from(&plain_bytes(source, &header, &mut cursor)?, layout_of(&header), inside),
                    };
                    return Ok(Some(Found {
                        position: header.position,
                        offset: header.base_offset + inside as u64,
                        record: (header.base_record.saturating_add(skip)).min(header.end_record()),
                        sort_key: header.sort_key,
                    }));
                }
                Lookup::SortKey(sort_key) if header.sort_key >= sort_key => {
                    let (position, offset, record) = (header.position, header.base_offset, header.base_record);
                    return Ok(Some(Found { position, offset, record, sort_key: header.sort_key }));
                }
                _ => {}
            }
            cursor.advance(&header, 0);
        }
        Ok(None)
    }

    /// A start for what the index does not know: binary search that reads the header behind each entry it tries.
    fn position_before_header(&mut self, source: &Source, lookup: Lookup) -> Result<u64, ReadError> {
        let mut failed = None;
        let position = source.last_position_where(|entry| {
            match Cursor::new(source, &mut self.window, source.position_of(entry), 0).peek() {
                Ok(header) => header.is_some_and(|header| starts_before(&header, lookup)),
                Err(error) => {
                    failed.get_or_insert(error);
                    false
                }
            }
        });
        failed.map_or(Ok(position), Err)
    }
}

/// Whether the batch may hold, or stand before, what is looked for.
fn starts_before(header: &BatchHeader, lookup: Lookup) -> bool {
    match lookup {
        Lookup::SortKey(sort_key) => header.sort_key < sort_key,
        Lookup::AppendTime(timestamp_ns) => header.sort_key.timestamp_ns() < timestamp_ns,
        Lookup::Record(record) => header.base_record <= record,
        Lookup::Offset(offset) => header.base_offset <= offset,
    }
}
