//! Durations ("7d", "1h30m") and sizes ("10GiB") as people write them.

use std::time::Duration;

const DURATIONS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads one or more numbers with units, largest unit first by custom but in any order.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (count, tail) = leading_number(rest)?;
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (_, milliseconds) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(count.checked_mul(*milliseconds)?)?;
        rest = tail.trim_start();
    }
    Some(Duration::from_millis(total))
}

/// Reads a number with a unit; KiB and its kin are powers of 1024, KB and its kin of 1000. Case does not matter.
pub fn parse_size(text: &str) -> Option<u64> {
    let (count, unit) = leading_number(text.trim())?;
    let (_, bytes) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    count.checked_mul(*bytes)
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(len);
    Some((digits.parse().ok()?, rest.trim_start()))
}

/// Writes a duration so that [`parse_duration`] reads it back: the largest unit that divides it.
pub fn duration_text(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, factor) =
        DURATIONS.iter().rev().find(|(_, factor)| milliseconds.is_multiple_of(*factor)).unwrap_or(&DURATIONS[0]);
    match milliseconds {
        0 => "0s".to_owned(),
        _ => format!("{}{unit}", milliseconds / factor),
    }
}

/// Writes a size so that [`parse_size`] reads it back: the largest binary unit that divides it.
pub fn size_text(bytes: u64) -> String {
    let fits = |entry: &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(entry.1);
    match SIZES[..5].iter().rev().find(fits) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => "0B".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_every_unit() {
        let cases = [("7d", 604_800), ("1h30m", 5_400), ("30 s", 30), ("2w", 1_209_600), ("1d 12h", 129_600)];
        for (text, seconds) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
    }

    #[test]
    fn sizes_are_read_with_every_unit() {
        let cases = [("10GiB", 10 << 30), ("10 gib", 10 << 30), ("5MB", 5_000_000), ("1TiB", 1 << 40), ("9B", 9)];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "d", "7", "7 parsecs", "-1s", "1.5h", "99999999999999999999s", "18446744073709551615w"] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
        for text in ["", "GiB", "12", "1 GiBs", "-1B", "18446744073709551615TiB"] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }

    #[test]
    fn written_units_are_read_back() {
        for milliseconds in [0, 1, 999, 1_000, 90_000, 3_600_000, 604_800_000] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse_duration(&duration_text(duration)), Some(duration));
        }
        for bytes in [0, 1, 4096, 262_144, 1 << 40, 4_261_412_864] {
            assert_eq!(parse_size(&size_text(bytes)), Some(bytes));
        }
    }
}
