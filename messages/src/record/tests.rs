//! Records: golden bytes, round trips, hostile bytes.

use super::*;
use proptest::prelude::*;

#[test]
fn every_record_type_has_golden_bytes() {
    let mut out = Vec::new();
    put_data(&mut out, None, None, b"hi").unwrap();
    put_data(&mut out, Some(b"k"), None, b"v").unwrap();
    put_data(&mut out, None, Some(0x0102), b"t").unwrap();
    put_data(&mut out, Some(b"k"), Some(1), b"v").unwrap();
    put_data_with_headers(&mut out, Some(b"k"), Some(1), [("n", &b"w"[..]), ("", b"")].into_iter(), b"v").unwrap();
    put_data_with_headers(&mut out, None, None, [("n", &b"w"[..])].into_iter(), b"").unwrap();
    put_record(&mut out, RecordType::Json, b"{}").unwrap();
    put_record(&mut out, RecordType::User(0x80), b"").unwrap();
    put_record(&mut out, RecordType::Null, b"").unwrap();
    let golden: &[&[u8]] = &[
        b"\x01\x02\0\0\0hi",
        b"\x10\x04\0\0\0\x01\0kv",
        b"\x11\x09\0\0\0\x02\x01\0\0\0\0\0\0t",
        b"\x12\x0c\0\0\0\x01\0\0\0\0\0\0\0\x01\0kv",
        b"\x13\x1e\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0k\x02\0\x01\0n\x01\0\0\0w\0\0\0\0\0\0v",
        b"\x13\x16\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\x01\0n\x01\0\0\0w",
        b"\x02\x02\0\0\0{}",
        b"\x80\0\0\0\0",
        b"\xff\0\0\0\0",
    ];
    assert_eq!(out, golden.concat());
    assert_eq!(count_records(&out), Some(9));
}

#[test]
fn parts_of_each_type_come_back() {
    let mut out = Vec::new();
    put_data(&mut out, Some(b"key"), Some(77), b"data").unwrap();
    put_record(&mut out, RecordType::Null, b"").unwrap();
    let all: Vec<_> = records(&out).map(Result::unwrap).collect();
    assert_eq!(all[0].key(), Some(&b"key"[..]));
    assert_eq!(all[0].timestamp_ns(), Some(77));
    assert_eq!(all[0].data(), Some(&b"data"[..]));
    assert_eq!(
        all[1].parts(),
        Some(RecordParts { key: None, timestamp_ns: None, headers: RecordHeaders::default(), data: None })
    );
    assert_eq!(max_timestamp_ns(&out), Some(77));
}

#[test]
fn a_key_longer_than_its_value_has_no_parts() {
    let record = Record { kind: RecordType::KeyValue, value: &[9, 0, b'k'] };
    assert_eq!(record.parts(), None);
    let short = Record { kind: RecordType::KeyTimestamped, value: &[1, 2, 3] };
    assert_eq!(short.timestamp_ns(), None);
}

#[test]
fn headers_that_are_cut_or_no_text_have_no_parts() {
    let mut out = Vec::new();
    put_data_with_headers(&mut out, Some(b"k"), None, [("name", &b"value"[..])].into_iter(), b"").unwrap();
    let value = &out[TLV_HEADER_BYTES..];
    let parts = |value| Record { kind: RecordType::WithHeaders, value }.parts();
    assert_eq!(parts(value).map(|parts| parts.headers.collect()), Some(vec![("name", &b"value"[..])]));
    for length in 0..value.len() {
        assert_eq!(parts(&value[..length]), None, "{length} bytes");
    }
    let mut no_text = value.to_vec();
    let name = value.windows(4).position(|window| window == b"name").unwrap();
    no_text[name] = 0xFF;
    assert_eq!(parts(&no_text), None);
}

#[test]
fn a_record_without_headers_is_written_as_before() {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    put_data_with_headers(&mut with, Some(b"k"), Some(7), [].into_iter(), b"data").unwrap();
    put_data(&mut without, Some(b"k"), Some(7), b"data").unwrap();
    assert_eq!(with, without);
}

#[test]
fn headers_that_a_record_cannot_carry_are_refused() {
    let mut out = Vec::new();
    let name = "n".repeat(65_536);
    let refused = put_data_with_headers(&mut out, None, None, [(&name[..], &b""[..])].into_iter(), b"");
    assert_eq!(refused, Err(EncodeRecordError::HeaderNameTooLong { bytes: 65_536 }));
    let many = vec![("n", &b""[..]); 65_536];
    let refused = put_data_with_headers(&mut out, None, None, many.into_iter(), b"");
    assert_eq!(refused, Err(EncodeRecordError::TooManyHeaders { count: 65_536 }));
    assert!(out.is_empty());
}

#[test]
fn text_and_internal_types_are_not_records() {
    assert_eq!(count_records(b"hello world"), None);
    assert_eq!(count_records(b"\x0f\0\0\0\0"), None);
    assert_eq!(count_records(b"\0\0\0\0\0"), None);
    assert_eq!(count_records(b"\x01\x02\0\0\0h"), None);
    assert_eq!(count_records(b"\x01\xff\xff\xff\xffh"), None);
    assert_eq!(count_records(b""), Some(0));
    assert_eq!(measure_records(b""), Some(RecordsMeasure { count: 0, longest_bytes: 0 }));
    assert_eq!(
        measure_records(b"\x01\x01\0\0\0a\x01\x03\0\0\0abc\xff\0\0\0\0"),
        Some(RecordsMeasure { count: 3, longest_bytes: 8 })
    );
}

#[test]
fn a_truncated_record_says_where_and_ends_the_iteration() {
    let mut iterator = records(b"\x01\x01\0\0\0a\x01\x05\0\0\0b");
    assert!(iterator.next().unwrap().is_ok());
    assert_eq!(iterator.next(), Some(Err(RecordError::Truncated { at: 6, needed: 10, left: 6 })));
    assert_eq!(iterator.next(), None);
}

#[test]
fn a_key_over_65535_bytes_is_refused() {
    let mut out = Vec::new();
    let refused = put_data(&mut out, Some(&[0; 65_536]), None, b"");
    assert_eq!(refused, Err(EncodeRecordError::KeyTooLong { bytes: 65_536 }));
    assert!(out.is_empty());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_both_parsers_agree(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let parsed: Result<Vec<_>, _> = records(&bytes).collect();
        if let Ok(all) = &parsed {
            all.iter().for_each(|record| { record.parts(); });
        }
        let record = Record { kind: RecordType::WithHeaders, value: &bytes };
        if let Some(parts) = record.parts() {
            let count = parts.headers.len();
            let (key, data) = (parts.key.map(<[u8]>::len), parts.data.unwrap().len());
            prop_assert_eq!(parts.headers.count(), count);
            prop_assert!(key.unwrap_or_default() + data <= bytes.len());
        }
        let measured = parsed.ok().map(|all| RecordsMeasure {
            count: all.len() as u32,
            longest_bytes: all.iter().map(Record::encoded_bytes).max().unwrap_or(0),
        });
        prop_assert_eq!(measured, measure_records(&bytes));
    }

    #[test]
    fn written_records_come_back(
        parts in prop::collection::vec(
            (prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), prop::option::of(0..u64::MAX),
             prop::collection::vec((".{0,5}", prop::collection::vec(any::<u8>(), 0..9)), 0..4),
             prop::collection::vec(any::<u8>(), 0..50)), 0..20)
    ) {
        let mut out = Vec::new();
        for (key, time, headers, data) in &parts {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            let before = out.len();
            put_data_with_headers(&mut out, key.as_deref(), *time, headers.clone(), data).unwrap();
            if headers.len() > 0 {
                let value = headers_value_bytes(key.as_deref(), headers, data);
                prop_assert_eq!(out.len() - before, TLV_HEADER_BYTES + value);
            }
        }
        let owned = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
        let back: Vec<_> = records(&out).map(|record| record.unwrap().parts().unwrap())
            .map(|part| (part.key.map(<[u8]>::to_vec), part.timestamp_ns, part.headers.map(owned).collect::<Vec<_>>(),
                part.data.unwrap().to_vec())).collect();
        prop_assert_eq!(back, parts);
    }
}
