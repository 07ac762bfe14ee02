//! Hostile bytes where records, batch headers and compressed blocks are expected.
#![no_main]

use lance_messages::batch::{BatchHeader, BatchSeed, Codec, ControlBatch};
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::record::{
    Record, RecordType, TLV_HEADER_BYTES, count_records, max_timestamp_ns, put_data_with_headers, records,
};
use lance_messages::wire::compression::decompress_unnamed;
use libfuzzer_sys::fuzz_target;

const MAX_PLAIN_BYTES: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let parsed: Result<Vec<_>, _> = records(data).collect();
    let count = parsed.as_ref().ok().map(Vec::len);
    if let (Some(counted), Some(parsed)) = (count_records(data), count) {
        assert_eq!(counted as usize, parsed);
    }
    for record in records(data).flatten() {
        let _ = (record.key(), record.data(), record.timestamp_ns());
    }
    // Headers straight from the input: behind a TLV header few inputs get that far.
    let record = Record { kind: RecordType::WithHeaders, value: data };
    if let Some(parts) = record.parts() {
        let mut again = Vec::new();
        let written = put_data_with_headers(&mut again, parts.key, parts.timestamp_ns, parts.headers, parts.data.unwrap());
        assert!(written.is_ok());
        if !parts.headers.is_empty() {
            assert_eq!(again[TLV_HEADER_BYTES..], *data);
        }
    }
    let _ = max_timestamp_ns(data);
    let seed = BatchSeed::new(TopicPartition::new(TopicId(7), 3));
    if let Ok(header) = BatchHeader::decode(data, seed) {
        assert_eq!(header.encode(seed)[..], data[..header.encode(seed).len()]);
    }
    let _ = ControlBatch::decode(data);
    let bound = data.len().min(64) << 10;
    for codec in [Codec::Lz4, Codec::Zstd] {
        if let Ok(plain) = codec.decompress(data, bound) {
            assert_eq!(plain.len(), bound);
        }
    }
    if let Ok(plain) = decompress_unnamed(data, MAX_PLAIN_BYTES) {
        assert!(plain.len() <= MAX_PLAIN_BYTES);
    }
});
