//! TLV records: `[type u8][length u32 LE][value]`.

/// A raw record around these bytes.
pub fn record(value: &[u8]) -> Vec<u8> {
    typed_record(1, value)
}

/// A record of any type.
pub fn typed_record(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u32).to_le_bytes(), value].concat()
}

/// Type and value of every record of a stream; fails where it does not end with a record.
pub fn split(stream: &[u8]) -> Vec<(u8, &[u8])> {
    let mut records = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        assert!(rest.len() >= 5, "{} bytes after the last whole record", rest.len());
        let length = u32::from_le_bytes(rest[1..5].try_into().unwrap()) as usize;
        assert!(rest.len() >= 5 + length, "a record of {length} bytes, {} left", rest.len() - 5);
        records.push((rest[0], &rest[5..5 + length]));
        rest = &rest[5 + length..];
    }
    records
}

/// The values of a stream of records as text.
pub fn texts(stream: &[u8]) -> Vec<String> {
    split(stream).into_iter().map(|(_, value)| String::from_utf8(value.to_vec()).unwrap()).collect()
}
