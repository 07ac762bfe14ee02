//! Records as clients write them: TLVs one after another, `[type u8][length u32 LE][value]`.
//!
//! | type | value |
//! |---|---|
//! | 01 raw, 02 JSON, 03 MessagePack, 04 Protobuf, 05 Avro | the data |
//! | 10 key-value | `[key length u16][key][data]` |
//! | 11 timestamped | `[timestamp ns u64][data]` |
//! | 12 key and timestamp | `[timestamp ns u64][key length u16][key][data]` |
//! | 13 headers | `[timestamp ns u64][key length u32][key][count u16]`, each header `[name length u16][name][length u32][value]`, `[data]` |
//! | 80..=FE | the user's own |
//! | FF null | nothing: the record has no data |
//!
//! In type 13 a timestamp of u64::MAX and a key length of u32::MAX stand for none. Names of headers are UTF-8 and may repeat.
//!
//! Nothing here trusts a length: every accessor answers `None` or an error instead of reading past the end.

use thiserror::Error;

/// Bytes before the value of every TLV: type and length.
pub const TLV_HEADER_BYTES: usize = 5;
/// Timestamp of a record with headers that has none.
const NO_TIMESTAMP: u64 = u64::MAX;
/// Key length of a record with headers that has no key.
const NO_KEY: u32 = u32::MAX;

/// What the value of a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// Bytes without a meaning to anybody but their reader.
    Raw,
    /// JSON text.
    Json,
    /// MessagePack.
    MessagePack,
    /// Protobuf.
    Protobuf,
    /// Avro.
    Avro,
    /// A key and data.
    KeyValue,
    /// A timestamp and data.
    Timestamped,
    /// A timestamp, a key and data.
    KeyTimestamped,
    /// Headers and data, with or without a timestamp and a key.
    WithHeaders,
    /// A type of the user's own, 0x80..=0xFE.
    User(u8),
    /// No data at all.
    Null,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The type is none that a client may write.
    #[error("record type {found:#04x} at byte {at} is not a record type")]
    UnknownType {
        /// The type byte.
        found: u8,
        /// Where it stands in the payload.
        at: usize,
    },
    /// The payload ends inside a record.
    #[error("record at byte {at} needs {needed} bytes but {left} are left")]
    Truncated {
        /// Where the record starts in the payload.
        at: usize,
        /// Bytes of the record, as far as they are known.
        needed: u64,
        /// Bytes from its start to the end of the payload.
        left: usize,
    },
}

impl RecordType {
    /// The type written as `byte`, if a client may write it.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Raw,
            0x02 => Self::Json,
            0x03 => Self::MessagePack,
            0x04 => Self::Protobuf,
            0x05 => Self::Avro,
            0x10 => Self::KeyValue,
            0x11 => Self::Timestamped,
            0x12 => Self::KeyTimestamped,
            0x13 => Self::WithHeaders,
            0x80..=0xFE => Self::User(byte),
            0xFF => Self::Null,
            _ => return None,
        })
    }

    /// The byte that stands for this type.
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Raw => 0x01,
            Self::Json => 0x02,
            Self::MessagePack => 0x03,
            Self::Protobuf => 0x04,
            Self::Avro => 0x05,
            Self::KeyValue => 0x10,
            Self::Timestamped => 0x11,
            Self::KeyTimestamped => 0x12,
            Self::WithHeaders => 0x13,
            Self::User(byte) => byte,
            Self::Null => 0xFF,
        }
    }
}

/// True for the bytes [`RecordType::from_byte`] knows; a table, since the count of every payload asks it.
static IS_RECORD_TYPE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = RecordType::from_byte(byte as u8).is_some();
        byte += 1;
    }
    table
};

/// What the records of a payload come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsMeasure {
    /// How many there are.
    pub count: u32,
    /// Bytes of the longest one, its TLV header included; 0 when there is none.
    pub longest_bytes: usize,
}

/// Measures the records of `payload`, or answers `None` when it is anything but whole records.
///
/// An empty payload holds 0 records.
pub fn measure_records(payload: &[u8]) -> Option<RecordsMeasure> {
    let mut rest = payload;
    let (mut count, mut longest_bytes) = (0u32, 0);
    while let Some((header, values)) = rest.split_first_chunk::<TLV_HEADER_BYTES>() {
        if !IS_RECORD_TYPE[usize::from(header[0])] {
            return None;
        }
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        rest = values.get(length..)?;
        count = count.checked_add(1)?;
        longest_bytes = longest_bytes.max(TLV_HEADER_BYTES + length);
    }
    rest.is_empty().then_some(RecordsMeasure { count, longest_bytes })
}

/// Counts the records of `payload`, or answers `None` when it is anything but whole records.
pub fn count_records(payload: &[u8]) -> Option<u32> {
    measure_records(payload).map(|measure| measure.count)
}

/// One record of a payload; borrows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the value holds.
    pub kind: RecordType,
    /// The value of the TLV as it stands in the payload.
    pub value: &'a [u8],
}

/// The parts a record's value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordParts<'a> {
    /// The key, for the types that carry one.
    pub key: Option<&'a [u8]>,
    /// The timestamp in ns since the Unix epoch, for the types that carry one.
    pub timestamp_ns: Option<u64>,
    /// The headers; empty for the types that carry none.
    pub headers: RecordHeaders<'a>,
    /// The data; `None` for a null record.
    pub data: Option<&'a [u8]>,
}

/// The headers of one record, in the order they were written; borrows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeaders<'a> {
    left: u16,
    bytes: &'a [u8],
}

impl RecordHeaders<'_> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl<'a> Iterator for RecordHeaders<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (name, rest) = split_sized::<2>(self.bytes)?;
        let (value, rest) = split_sized::<4>(rest)?;
        self.bytes = rest;
        Some((std::str::from_utf8(name).ok()?, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for RecordHeaders<'_> {}

impl<'a> Record<'a> {
    /// Bytes of the record in a payload, its TLV header included.
    pub fn encoded_bytes(&self) -> usize {
        TLV_HEADER_BYTES + self.value.len()
    }

    /// Takes the value apart; `None` when it is shorter than its type asks for.
    pub fn parts(&self) -> Option<RecordParts<'a>> {
        let headers = RecordHeaders::default();
        let mut parts = RecordParts { key: None, timestamp_ns: None, headers, data: Some(self.value) };
        match self.kind {
            RecordType::KeyValue => split_key(self.value, &mut parts)?,
            RecordType::Timestamped => parts.data = Some(split_timestamp(self.value, &mut parts)?),
            RecordType::KeyTimestamped => {
                let rest = split_timestamp(self.value, &mut parts)?;
                split_key(rest, &mut parts)?;
            }
            RecordType::WithHeaders => split_headers(self.value, &mut parts)?,
            RecordType::Null => parts.data = None,
            _ => {}
        }
        Some(parts)
    }

    /// The key, if the record carries a whole one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.parts()?.key
    }

    /// The data without key and timestamp; `None` for a null record and for a malformed value.
    pub fn data(&self) -> Option<&'a [u8]> {
        self.parts()?.data
    }

    /// The timestamp in ns since the Unix epoch, if the record carries one.
    pub fn timestamp_ns(&self) -> Option<u64> {
        self.parts()?.timestamp_ns
    }
}

fn split_timestamp<'a>(value: &'a [u8], parts: &mut RecordParts<'a>) -> Option<&'a [u8]> {
    let (timestamp, rest) = value.split_first_chunk::<8>()?;
    parts.timestamp_ns = Some(u64::from_le_bytes(*timestamp));
    Some(rest)
}

fn split_key<'a>(value: &'a [u8], parts: &mut RecordParts<'a>) -> Option<()> {
    let (key, data) = split_sized::<2>(value)?;
    parts.key = Some(key);
    parts.data = Some(data);
    Some(())
}

/// The bytes behind their length of `N` bytes, and what follows them.
fn split_sized<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<N>()?;
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(length);
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(wide)).ok()?)
}

fn split_headers<'a>(value: &'a [u8], parts: &mut RecordParts<'a>) -> Option<()> {
    let rest = split_timestamp(value, parts)?;
    parts.timestamp_ns = parts.timestamp_ns.filter(|&time| time != NO_TIMESTAMP);
    let (key_length, after_length) = rest.split_first_chunk::<4>()?;
    let rest = match u32::from_le_bytes(*key_length) {
        NO_KEY => after_length,
        _ => {
            let (key, rest) = split_sized::<4>(rest)?;
            parts.key = Some(key);
            rest
        }
    };
    let (count, rest) = rest.split_first_chunk::<2>()?;
    let mut headers = RecordHeaders { left: u16::from_le_bytes(*count), bytes: rest };
    parts.headers = headers;
    while !headers.is_empty() {
        headers.next()?;
    }
    parts.data = Some(headers.bytes);
    // What follows is the data and none of the headers' business: equal headers are equal whatever comes after them.
    parts.headers.bytes = &rest[..rest.len() - headers.bytes.len()];
    Some(())
}

/// The records of `payload`, in order; an error ends the iteration.
pub fn records(payload: &[u8]) -> Records<'_> {
    Records { payload, at: 0 }
}

/// Iterator of [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    payload: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// Bytes of the payload that the records answered so far occupy: where the next one starts.
    pub fn consumed_bytes(&self) -> usize {
        self.at
    }

    fn parse(&self) -> Result<Record<'a>, RecordError> {
        let rest = self.payload.get(self.at..).unwrap_or_default();
        let truncated = |needed| RecordError::Truncated { at: self.at, needed, left: rest.len() };
        let Some((header, values)) = rest.split_first_chunk::<TLV_HEADER_BYTES>() else {
            return Err(truncated(TLV_HEADER_BYTES as u64));
        };
        let kind =
            RecordType::from_byte(header[0]).ok_or(RecordError::UnknownType { found: header[0], at: self.at })?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
        let needed = TLV_HEADER_BYTES as u64 + u64::from(length);
        let value = values.get(..length as usize).ok_or(truncated(needed))?;
        Ok(Record { kind, value })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.payload.len() {
            return None;
        }
        let parsed = self.parse();
        self.at = match &parsed {
            Ok(record) => self.at + record.encoded_bytes(),
            Err(_) => self.payload.len(),
        };
        Some(parsed)
    }
}

/// The greatest timestamp of the records of `payload` that carry one, in ns since the Unix epoch.
pub fn max_timestamp_ns(payload: &[u8]) -> Option<u64> {
    records(payload).map_while(Result::ok).filter_map(|record| record.timestamp_ns()).max()
}

/// A record was not written because a part of it is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeRecordError {
    /// Keys have a length of two bytes.
    #[error("a key of {bytes} bytes is over the 65,535 a record can carry")]
    KeyTooLong {
        /// Bytes of the key.
        bytes: usize,
    },
    /// Names of headers have a length of two bytes.
    #[error("a header name of {bytes} bytes is over the 65,535 a record can carry")]
    HeaderNameTooLong {
        /// Bytes of the name.
        bytes: usize,
    },
    /// Headers have a count of two bytes.
    #[error("{count} headers are over the 65,535 a record can carry")]
    TooManyHeaders {
        /// How many there are.
        count: usize,
    },
    /// Values have a length of four bytes.
    #[error("a record value of {bytes} bytes is over the 4,294,967,295 a record can carry")]
    ValueTooLong {
        /// Bytes of the value.
        bytes: usize,
    },
}

/// Appends one TLV of type `kind` with `value` as it is.
pub fn put_record(out: &mut Vec<u8>, kind: RecordType, value: &[u8]) -> Result<(), EncodeRecordError> {
    put_parts(out, kind, &[value])
}

/// Appends one record of raw data, with the type its key and timestamp ask for.
pub fn put_data(
    out: &mut Vec<u8>,
    key: Option<&[u8]>,
    timestamp_ns: Option<u64>,
    data: &[u8],
) -> Result<(), EncodeRecordError> {
    let key_length = match key {
        None => [0; 2],
        Some(key) => {
            u16::try_from(key.len()).map_err(|_| EncodeRecordError::KeyTooLong { bytes: key.len() })?.to_le_bytes()
        }
    };
    let time = timestamp_ns.unwrap_or_default().to_le_bytes();
    match (key, timestamp_ns) {
        (None, None) => put_parts(out, RecordType::Raw, &[data]),
        (Some(key), None) => put_parts(out, RecordType::KeyValue, &[&key_length, key, data]),
        (None, Some(_)) => put_parts(out, RecordType::Timestamped, &[&time, data]),
        (Some(key), Some(_)) => put_parts(out, RecordType::KeyTimestamped, &[&time, &key_length, key, data]),
    }
}

/// Appends one record of raw data with headers; one without headers is what [`put_data`] writes.
pub fn put_data_with_headers<'h>(
    out: &mut Vec<u8>,
    key: Option<&[u8]>,
    timestamp_ns: Option<u64>,
    headers: impl ExactSizeIterator<Item = (&'h str, &'h [u8])> + Clone,
    data: &[u8],
) -> Result<(), EncodeRecordError> {
    if headers.len() == 0 {
        return put_data(out, key, timestamp_ns, data);
    }
    let count = u16::try_from(headers.len());
    let count = count.map_err(|_| EncodeRecordError::TooManyHeaders { count: headers.len() })?;
    if let Some((name, _)) = headers.clone().find(|(name, _)| name.len() > usize::from(u16::MAX)) {
        return Err(EncodeRecordError::HeaderNameTooLong { bytes: name.len() });
    }
    let bytes = headers_value_bytes(key, headers.clone(), data);
    // Below the limit every length inside fits its four bytes, and that of a key is not the one that stands for none.
    let length = u32::try_from(bytes).map_err(|_| EncodeRecordError::ValueTooLong { bytes })?;
    out.reserve(TLV_HEADER_BYTES + bytes);
    out.push(RecordType::WithHeaders.to_byte());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&timestamp_ns.unwrap_or(NO_TIMESTAMP).to_le_bytes());
    out.extend_from_slice(&key.map_or(NO_KEY, |key| key.len() as u32).to_le_bytes());
    out.extend_from_slice(key.unwrap_or_default());
    out.extend_from_slice(&count.to_le_bytes());
    for (name, value) in headers {
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
    out.extend_from_slice(data);
    Ok(())
}

/// Bytes of the value of a record with headers, its TLV header not included.
pub fn headers_value_bytes<'h>(
    key: Option<&[u8]>,
    headers: impl Iterator<Item = (&'h str, &'h [u8])>,
    data: &[u8],
) -> usize {
    let headers: usize = headers.map(|(name, value)| 2 + name.len() + 4 + value.len()).sum();
    8 + 4 + key.map_or(0, <[u8]>::len) + 2 + headers + data.len()
}

fn put_parts(out: &mut Vec<u8>, kind: RecordType, parts: &[&[u8]]) -> Result<(), EncodeRecordError> {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(bytes).map_err(|_| EncodeRecordError::ValueTooLong { bytes })?;
    out.reserve(TLV_HEADER_BYTES + bytes);
    out.push(kind.to_byte());
    out.extend_from_slice(&length.to_le_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

#[cfg(test)]
mod tests;
