//! How `lnc consume` prints a record: a format, or JSON.

use super::units::unescape;
use lance_client::{ConsumedRecord, Header};
use serde_json::{Map, Value};
use std::io::{self, Write};

/// A parsed `--format`.
#[derive(Debug, PartialEq, Eq)]
pub struct RecordFormat {
    pieces: Vec<Piece>,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Bytes(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
}

impl RecordFormat {
    /// Reads a format such as `%p %o %k %v\n`.
    pub fn parse(format: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            if at > 0 {
                pieces.push(Piece::Bytes(unescape(&rest[..at])?));
            }
            let mut after = rest[at + 1..].chars();
            pieces.push(match after.next() {
                Some('t') => Piece::Topic,
                Some('p') => Piece::Partition,
                Some('o') => Piece::Offset,
                Some('T') => Piece::Timestamp,
                Some('k') => Piece::Key,
                Some('v') => Piece::Value,
                Some('h') => Piece::Headers,
                Some('%') => Piece::Bytes(b"%".to_vec()),
                Some(other) => return Err(format!("unknown '%{other}' in format: %t %p %o %T %k %v %h %% are known")),
                None => return Err("format ends with a single '%': write %% for a percent sign".to_owned()),
            });
            rest = after.as_str();
        }
        if !rest.is_empty() {
            pieces.push(Piece::Bytes(unescape(rest)?));
        }
        Ok(Self { pieces })
    }

    /// Prints a record.
    pub fn write(&self, out: &mut impl Write, topic: &str, partition: u16, record: &ConsumedRecord) -> io::Result<()> {
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) => out.write_all(bytes)?,
                Piece::Topic => out.write_all(topic.as_bytes())?,
                Piece::Partition => write!(out, "{partition}")?,
                Piece::Offset => write!(out, "{}", record.offset)?,
                Piece::Timestamp => write!(out, "{}", record.timestamp_ns.unwrap_or(0))?,
                Piece::Key => out.write_all(record.key.as_deref().unwrap_or_default())?,
                Piece::Value => out.write_all(record.value.as_deref().unwrap_or_default())?,
                Piece::Headers => write_headers(out, &record.headers)?,
            }
        }
        Ok(())
    }
}

fn write_headers(out: &mut impl Write, headers: &[Header]) -> io::Result<()> {
    for (at, header) in headers.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        write!(out, "{comma}{}=", header.name)?;
        out.write_all(&header.value)?;
    }
    Ok(())
}

/// A record as a JSON object; `headers` is there when it has some. Bytes that are no UTF-8 go into `key_base64` and `value_base64`.
pub fn record_json(topic: &str, partition: u16, record: &ConsumedRecord) -> Value {
    let mut object = Map::new();
    object.insert("topic".to_owned(), topic.into());
    object.insert("partition".to_owned(), partition.into());
    object.insert("offset".to_owned(), record.offset.into());
    object.insert("timestamp".to_owned(), record.timestamp_ns.into());
    insert_bytes(&mut object, "key", record.key.as_deref());
    insert_bytes(&mut object, "value", record.value.as_deref());
    if !record.headers.is_empty() {
        object.insert("headers".to_owned(), record.headers.iter().map(header_json).collect());
    }
    Value::Object(object)
}

fn header_json(header: &Header) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), header.name.as_str().into());
    insert_bytes(&mut object, "value", Some(&header.value));
    Value::Object(object)
}

fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => object.insert(name.to_owned(), Value::Null),
        Some(Ok(text)) => object.insert(name.to_owned(), text.into()),
        Some(Err(_)) => object.insert(format!("{name}_base64"), base64(bytes.unwrap_or_default()).into()),
    };
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            if at <= group.len() {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn record(value: &'static [u8]) -> ConsumedRecord {
        ConsumedRecord {
            offset: 7,
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::from_static(value)),
            timestamp_ns: Some(5),
            ..ConsumedRecord::default()
        }
    }

    fn printed(format: &str) -> String {
        let mut out = Vec::new();
        RecordFormat::parse(format).unwrap().write(&mut out, "events", 3, &record(b"hello")).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn formats_print_what_they_name() {
        assert_eq!(printed(r"%t %p %o %T %k %v\n"), "events 3 7 5 k hello\n");
        assert_eq!(printed("100%%"), "100%");
        assert!(RecordFormat::parse("%q").is_err());
        assert!(RecordFormat::parse("%").is_err());
    }

    #[test]
    fn json_keeps_text_and_encodes_bytes() {
        let text = record_json("t", 0, &record(b"{\"a\":1}")).to_string();
        assert_eq!(text, r#"{"key":"k","offset":7,"partition":0,"timestamp":5,"topic":"t","value":"{\"a\":1}"}"#);
        let bytes = record_json("t", 0, &record(b"\xFF\x00"));
        assert_eq!(bytes["value_base64"], "/wA=");
        assert!(bytes.get("value").is_none());
    }

    #[test]
    fn headers_are_printed_in_order_and_are_in_json_only_where_there_are_some() {
        let headers = vec![Header::new("a", "1"), Header::new("b", &b"\xFF"[..]), Header::new("a", "")];
        let with = ConsumedRecord { headers, ..record(b"v") };
        let mut out = Vec::new();
        RecordFormat::parse("%v %h").unwrap().write(&mut out, "t", 0, &with).unwrap();
        assert_eq!(out, b"v a=1,b=\xFF,a=");
        assert_eq!(
            record_json("t", 0, &with)["headers"].to_string(),
            r#"[{"name":"a","value":"1"},{"name":"b","value_base64":"/w=="},{"name":"a","value":""}]"#
        );
        assert!(record_json("t", 0, &record(b"v")).get("headers").is_none());
        assert_eq!(printed("<%h>"), "<>");
    }

    #[test]
    fn base64_pads_as_usual() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foo"), "Zm9v");
        assert_eq!(base64(b"foob"), "Zm9vYg==");
    }
}
