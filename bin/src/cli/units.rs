//! Durations, sizes, offsets and escapes as people write them.

use lance_client::StartOffset;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where to begin reading, as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetArg(pub StartOffset);

impl FromStr for OffsetArg {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let start = match given {
            "earliest" | "beginning" | "start" => StartOffset::Earliest,
            "latest" | "end" => StartOffset::Latest,
            _ => match given.strip_prefix('@') {
                Some(time) => StartOffset::Timestamp(parse_time(time)?),
                None => StartOffset::At(given.parse().map_err(|_| {
                    format!("'{given}' is no offset: expected earliest, latest, a byte offset or @RFC3339")
                })?),
            },
        };
        Ok(Self(start))
    }
}

fn parse_time(given: &str) -> Result<u64, String> {
    let invalid = || format!("'{given}' is no time: expected RFC 3339, for example 2026-01-31T12:00:00Z");
    let time: SystemTime = humantime::parse_rfc3339_weak(given).map_err(|_| invalid())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| invalid())?;
    u64::try_from(since.as_nanos()).map_err(|_| invalid())
}

/// Seconds of an age such as `7d`, `12h`, `3600`; `unlimited` and 0 are 0.
pub fn parse_age_secs(given: &str) -> Result<u64, String> {
    if given == "unlimited" {
        return Ok(0);
    }
    if let Ok(seconds) = given.parse() {
        return Ok(seconds);
    }
    let age = humantime::parse_duration(given);
    let age =
        age.map_err(|_| format!("'{given}' is no age: expected for example 7d, 12h, 3600 (seconds), unlimited"))?;
    if age.as_secs() == 0 {
        return Err(format!("'{given}' is less than a second"));
    }
    Ok(age.as_secs())
}

/// Bytes of a size such as `10GiB`, `500MB`, `1048576`; `unlimited` is 0.
pub fn parse_bytes(given: &str) -> Result<u64, String> {
    if given == "unlimited" {
        return Ok(0);
    }
    let invalid = || format!("'{given}' is no size: expected for example 10GiB, 500MB, 1048576, unlimited");
    let digits = given.find(|c: char| !c.is_ascii_digit()).unwrap_or(given.len());
    let count: u64 = given[..digits].parse().map_err(|_| invalid())?;
    let unit: u64 = match given[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "kb" => 1_000,
        "m" | "mib" => 1 << 20,
        "mb" => 1_000_000,
        "g" | "gib" => 1 << 30,
        "gb" => 1_000_000_000,
        "t" | "tib" => 1 << 40,
        "tb" => 1_000_000_000_000,
        _ => return Err(invalid()),
    };
    count.checked_mul(unit).ok_or_else(invalid)
}

/// The bytes of a text with `\n`, `\r`, `\t`, `\0`, `\\` and `\xHH`.
pub fn unescape(given: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(given.len());
    let mut rest = given.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                match (high, low) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(format!("'{given}': \\x wants two hexadecimal digits")),
                }
            }
            Some(other) => return Err(format!("'{given}': unknown escape \\{}", char::from(other))),
            None => return Err(format!("'{given}' ends in the middle of an escape")),
        });
    }
    Ok(bytes)
}

/// A count of bytes for people.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value.fract() == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Reads `NAME=VALUE`; the value may hold more equals signs.
pub fn parse_header(given: &str) -> Result<(String, String), String> {
    match given.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_read_as_people_write_them() {
        assert_eq!(parse_age_secs("7d"), Ok(604_800));
        assert_eq!(parse_age_secs("90"), Ok(90));
        assert_eq!(parse_age_secs("unlimited"), Ok(0));
        assert_eq!(parse_bytes("10GiB"), Ok(10 << 30));
        assert_eq!(parse_bytes("5mb"), Ok(5_000_000));
        assert_eq!(parse_bytes("77"), Ok(77));
        for wrong in ["", "x", "GiB", "1XB", "99999999999999999TiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
        assert!(parse_age_secs("5ms").is_err());
        assert!(parse_age_secs("soon").is_err());
    }

    #[test]
    fn offsets_are_names_numbers_or_times() {
        assert_eq!("earliest".parse(), Ok(OffsetArg(StartOffset::Earliest)));
        assert_eq!("12".parse(), Ok(OffsetArg(StartOffset::At(12))));
        assert_eq!("@1970-01-01T00:00:01Z".parse(), Ok(OffsetArg(StartOffset::Timestamp(1_000_000_000))));
        assert!("@yesterday".parse::<OffsetArg>().is_err());
        assert!("-1".parse::<OffsetArg>().is_err());
    }

    #[test]
    fn escapes_become_bytes() {
        assert_eq!(unescape(r"a\n\t\0\\\x41"), Ok(b"a\n\t\0\\A".to_vec()));
        assert!(unescape(r"\q").is_err());
        assert!(unescape("\\").is_err());
        assert!(unescape(r"\x4").is_err());
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(show_bytes(512), "512 B");
        assert_eq!(show_bytes(10 << 30), "10 GiB");
        assert_eq!(show_bytes(1536), "1.5 KiB");
    }

    #[test]
    fn headers_have_a_name_and_any_value() {
        assert_eq!(parse_header("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_header("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_header("=b").is_err() && parse_header("a").is_err());
    }
}
