//! From a stream of bytes to records, over the cuts between answers.

use super::ConsumedRecord;
use crate::record::Header;
use bytes::{Bytes, BytesMut};
use lance_messages::record::{Record, RecordError, records};
use lance_messages::wire::MAX_PAYLOAD_BYTES;

/// Cuts one partition's stream into records; keeps what is cut off at the end of an answer.
#[derive(Debug)]
pub(super) struct Splitter {
    /// Offset of the first byte of `carry`, or of the next data.
    offset: u64,
    carry: BytesMut,
}

impl Splitter {
    pub(super) fn new(offset: u64) -> Self {
        Self { offset, carry: BytesMut::new() }
    }

    /// Offset of the first byte that belongs to no record handed out.
    pub(super) fn next_offset(&self) -> u64 {
        self.offset
    }

    /// Where to fetch from.
    pub(super) fn fetch_offset(&self) -> u64 {
        self.offset + self.carry.len() as u64
    }

    /// Takes data that starts at `data_offset`, appends its whole records to `out`. Bytes that are no records, written
    /// by clients that know of none, come out as one record with the bytes as they are.
    pub(super) fn feed(
        &mut self,
        data_offset: u64,
        data: Bytes,
        timestamp: Option<u64>,
        out: &mut Vec<ConsumedRecord>,
    ) {
        if data_offset != self.fetch_offset() {
            // The log start moved on: what was kept has no end any more.
            self.carry.clear();
            self.offset = data_offset;
        }
        let data = if self.carry.is_empty() {
            data
        } else {
            self.carry.extend_from_slice(&data);
            self.carry.split().freeze()
        };
        let mut iterator = records(&data);
        let mut start = 0;
        while let Some(parsed) = iterator.next() {
            match parsed {
                Ok(record) => {
                    let end = iterator.consumed_bytes();
                    let (offset, next_offset) = (self.offset + start as u64, self.offset + end as u64);
                    out.push(ConsumedRecord { offset, next_offset, ..consumed(&data, &record, timestamp) });
                    start = end;
                }
                Err(RecordError::Truncated { needed, .. }) if needed <= u64::from(MAX_PAYLOAD_BYTES) => {
                    self.carry.extend_from_slice(&data[start..]);
                    break;
                }
                Err(_) => {
                    let (offset, next_offset) = (self.offset + start as u64, self.offset + data.len() as u64);
                    let value = Some(data.slice(start..));
                    let foreign = ConsumedRecord { offset, next_offset, value, ..ConsumedRecord::default() };
                    out.push(ConsumedRecord { timestamp_ns: timestamp, ..foreign });
                    start = data.len();
                    break;
                }
            }
        }
        self.offset += start as u64;
    }
}

/// A record without its place; one whose value does not hold what its type says is handed out as it is.
fn consumed(data: &Bytes, record: &Record<'_>, timestamp: Option<u64>) -> ConsumedRecord {
    let Some(parts) = record.parts() else {
        let value = Some(data.slice_ref(record.value));
        return ConsumedRecord { value, timestamp_ns: timestamp, ..ConsumedRecord::default() };
    };
    let header = |(name, value): (&str, &[u8])| Header { name: name.to_owned(), value: data.slice_ref(value) };
    ConsumedRecord {
        key: parts.key.map(|key| data.slice_ref(key)),
        value: parts.data.map(|value| data.slice_ref(value)),
        timestamp_ns: parts.timestamp_ns.or(timestamp),
        headers: parts.headers.map(header).collect(),
        ..ConsumedRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::record::{put_data, put_data_with_headers};

    fn stream() -> (Vec<u8>, Vec<u64>) {
        let (mut bytes, mut offsets) = (Vec::new(), Vec::new());
        for at in 0..20u8 {
            offsets.push(bytes.len() as u64);
            let key = (at % 2 == 0).then(|| vec![at; 3]);
            let value = [at];
            let headers = [("name", &value[..])].into_iter().take(usize::from(at % 5 == 0));
            let time = (at % 3 == 0).then_some(77);
            put_data_with_headers(&mut bytes, key.as_deref(), time, headers, &vec![at; usize::from(at)]).unwrap();
        }
        (bytes, offsets)
    }

    #[test]
    fn records_survive_every_cut_of_the_stream() {
        let (bytes, offsets) = stream();
        for step in 1..40 {
            let mut splitter = Splitter::new(0);
            let mut out = Vec::new();
            for part in bytes.chunks(step) {
                splitter.feed(splitter.fetch_offset(), Bytes::copy_from_slice(part), Some(5), &mut out);
            }
            assert_eq!(out.iter().map(|record| record.offset).collect::<Vec<_>>(), offsets);
            assert_eq!(splitter.next_offset(), bytes.len() as u64);
            for (at, record) in (0u8..).zip(&out) {
                assert_eq!(record.value.as_deref(), Some(&vec![at; usize::from(at)][..]));
                assert_eq!(record.key.is_some(), at % 2 == 0);
                assert_eq!(record.timestamp_ns, Some(if at % 3 == 0 { 77 } else { 5 }));
                assert_eq!(record.header("name").map(|value| &value[..]), (at % 5 == 0).then_some(&[at][..]));
                let next = offsets.get(usize::from(at) + 1).copied().unwrap_or(bytes.len() as u64);
                assert_eq!(record.next_offset, next);
            }
        }
    }

    #[test]
    fn foreign_bytes_come_out_as_they_are() {
        let mut splitter = Splitter::new(100);
        let mut out = Vec::new();
        let mut data = Vec::new();
        put_data(&mut data, None, None, b"mine").unwrap();
        data.extend_from_slice(b"{\"not\":\"ours\"}");
        splitter.feed(100, Bytes::from(data), None, &mut out);
        assert_eq!(out[0].value.as_deref(), Some(&b"mine"[..]));
        assert_eq!((out[1].offset, out[1].value.as_deref()), (109, Some(&b"{\"not\":\"ours\"}"[..])));
        assert_eq!((splitter.fetch_offset(), out[1].next_offset), (123, 123));
    }

    #[test]
    fn a_log_start_that_moved_on_drops_the_half_record() {
        let (bytes, offsets) = stream();
        let mut splitter = Splitter::new(0);
        let mut out = Vec::new();
        splitter.feed(0, Bytes::copy_from_slice(&bytes[..offsets[5] as usize + 2]), None, &mut out);
        let start = offsets[10] as usize;
        splitter.feed(start as u64, Bytes::copy_from_slice(&bytes[start..]), None, &mut out);
        let expected: Vec<_> = offsets[..5].iter().chain(&offsets[10..]).copied().collect();
        assert_eq!(out.iter().map(|record| record.offset).collect::<Vec<_>>(), expected);
    }
}
