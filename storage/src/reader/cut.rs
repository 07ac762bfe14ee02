//! Where a reply may end inside a batch: behind a record, or inside one that is too large by itself.

use lance_messages::record::TLV_HEADER_BYTES;

/// A part of the plain bytes of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Where the part ends in the plain bytes.
    pub end: usize,
    /// Records that start in the part.
    pub records: u32,
}

/// How a batch divides into records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// TLV records.
    Records,
    /// Bytes that only their reader understands; one record, which may be cut anywhere.
    Opaque,
}

/// The longest part of `plain` from `start` with at most `max_bytes` that ends behind a record, or, when the first
/// record is longer than that alone, exactly `max_bytes`.
///
/// Records are counted where they start, so that the counts of adjoining parts add up to the batch's.
pub(super) fn cut(plain: &[u8], layout: Layout, start: usize, max_bytes: usize) -> Cut {
    let limit = start.saturating_add(max_bytes).min(plain.len());
    if layout == Layout::Opaque {
        return Cut { end: limit, records: u32::from(start == 0 && limit > 0) };
    }
    let mut part = Cut { end: start, records: 0 };
    let mut at = 0;
    while let Some(end) = record_end(plain, at) {
        if end > limit {
            break;
        }
        if at >= start {
            part.records += 1;
        }
        if end > start {
            part.end = end;
        }
        at = end;
    }
    if part.end == start && limit > start {
        // Even one record is too long: the reader gets a piece of it and carries on inside.
        part = Cut { end: limit, records: part.records + u32::from(at >= start && at < limit) };
    }
    part
}

/// Where the record that holds byte `at` of `plain` ends; `at` itself where bytes are no record, or may be cut anywhere.
pub(super) fn end_of_record(plain: &[u8], layout: Layout, at: usize) -> usize {
    if layout == Layout::Opaque {
        return at;
    }
    let mut start = 0;
    while let Some(end) = record_end(plain, start) {
        if end > at {
            return end;
        }
        start = end;
    }
    at
}

/// Where record number `skip` of `plain` starts; the end when there are not so many.
pub(super) fn start_of_record(plain: &[u8], layout: Layout, skip: u64) -> usize {
    if layout == Layout::Opaque {
        return if skip == 0 { 0 } else { plain.len() };
    }
    let mut at = 0;
    for _ in 0..skip {
        match record_end(plain, at) {
            Some(end) => at = end,
            None => return plain.len(),
        }
    }
    at
}

/// The first record that starts at or after `offset` of a batch: where, and how many come before it (`u64::MAX`: all).
pub(super) fn record_from(plain: &[u8], layout: Layout, offset: usize) -> (usize, u64) {
    if layout == Layout::Opaque {
        return if offset == 0 { (0, 0) } else { (plain.len(), u64::MAX) };
    }
    let (mut at, mut before) = (0, 0);
    while at < offset {
        match record_end(plain, at) {
            Some(end) => (at, before) = (end, before + 1),
            None => return (plain.len(), before),
        }
    }
    (at, before)
}

/// Where the record at `at` ends; `None` at the end, and for bytes that are no record.
fn record_end(plain: &[u8], at: usize) -> Option<usize> {
    let header = plain.get(at..)?.first_chunk::<TLV_HEADER_BYTES>()?;
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    let end = (at + TLV_HEADER_BYTES).checked_add(usize::try_from(length).ok()?)?;
    (end <= plain.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of 10, 20, 5 and 15 bytes: boundaries 0, 10, 30, 35, 50.
    fn plain() -> Vec<u8> {
        let mut out = Vec::new();
        for len in [5u32, 15, 0, 10] {
            out.push(1);
            out.extend_from_slice(&len.to_le_bytes());
            out.resize(out.len() + len as usize, 0xAA);
        }
        out
    }

    #[test]
    fn a_part_ends_behind_the_last_record_that_fits() {
        for (start, max_bytes, end, records) in [
            (0, 50, 50, 4),
            (0, 49, 35, 3),
            (0, 34, 30, 2),
            (0, 10, 10, 1),
            (10, 24, 30, 1),
            (10, 25, 35, 2),
            (35, 15, 50, 1),
            (3, 27, 30, 1),
            (3, 7, 10, 0),
        ] {
            assert_eq!(cut(&plain(), Layout::Records, start, max_bytes), Cut { end, records }, "{start} {max_bytes}");
        }
    }

    #[test]
    fn only_a_record_longer_than_the_limit_is_cut_inside() {
        for (start, max_bytes, end, records) in
            [(0, 9, 9, 1), (9, 1, 10, 0), (10, 3, 13, 1), (13, 3, 16, 0), (0, 0, 0, 0)]
        {
            assert_eq!(cut(&plain(), Layout::Records, start, max_bytes), Cut { end, records }, "{start} {max_bytes}");
        }
    }

    #[test]
    fn counts_of_adjoining_parts_add_up_whatever_the_limit() {
        for max_bytes in 1..60 {
            let (mut at, mut records) = (0, 0);
            while at < 50 {
                let part = cut(&plain(), Layout::Records, at, max_bytes);
                assert!(part.end > at && part.end - at <= max_bytes);
                (at, records) = (part.end, records + part.records);
            }
            assert_eq!(records, 4, "{max_bytes}");
        }
    }

    #[test]
    fn opaque_bytes_are_one_record_and_end_anywhere() {
        assert_eq!(cut(&[0; 50], Layout::Opaque, 0, 7), Cut { end: 7, records: 1 });
        assert_eq!(cut(&[0; 50], Layout::Opaque, 7, 70), Cut { end: 50, records: 0 });
    }

    #[test]
    fn the_end_of_a_record_is_found_from_any_byte_of_it() {
        for (at, end) in [(0, 10), (9, 10), (10, 30), (34, 35), (49, 50), (50, 50)] {
            assert_eq!(end_of_record(&plain(), Layout::Records, at), end, "{at}");
        }
        assert_eq!(end_of_record(&[0; 9], Layout::Opaque, 4), 4);
    }

    #[test]
    fn records_are_found_by_number() {
        let starts: Vec<_> = (0..6).map(|skip| start_of_record(&plain(), Layout::Records, skip)).collect();
        assert_eq!(starts, [0, 10, 30, 35, 50, 50]);
        assert_eq!(start_of_record(&[0; 9], Layout::Opaque, 0), 0);
    }
}
