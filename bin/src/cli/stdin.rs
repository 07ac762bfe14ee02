//! Records from standard input, cut at a delimiter.

use std::io::{self, BufRead};
use std::thread;
use tokio::sync::mpsc;

/// Largest record read.
const MAX_RECORD_BYTES: usize = 16 * 1024 * 1024;

/// Reads records on a thread of its own; the channel ends at the end of input.
pub fn read_records(delimiter: Vec<u8>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, records) = mpsc::channel(1024);
    thread::spawn(move || {
        let mut input = io::BufReader::with_capacity(1 << 20, io::stdin().lock());
        loop {
            let record = match next_record(&mut input, &delimiter) {
                Ok(Some(record)) => Ok(record),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let failed = record.is_err();
            if sender.blocking_send(record).is_err() || failed {
                break;
            }
        }
    });
    records
}

/// The next record without its delimiter; a last one may lack it.
fn next_record(input: &mut impl BufRead, delimiter: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut record = Vec::new();
    let Some(&last) = delimiter.last() else {
        input.read_to_end(&mut record)?;
        return Ok((!record.is_empty()).then_some(record));
    };
    loop {
        let available = input.fill_buf()?;
        if available.is_empty() {
            return Ok((!record.is_empty()).then_some(record));
        }
        let found = available.iter().position(|&byte| byte == last);
        let taken = found.map_or(available.len(), |at| at + 1);
        record.extend_from_slice(&available[..taken]);
        input.consume(taken);
        if found.is_some() && record.ends_with(delimiter) {
            record.truncate(record.len() - delimiter.len());
            return Ok(Some(record));
        }
        if record.len() > MAX_RECORD_BYTES {
            return Err(io::Error::other(format!("a record is over {MAX_RECORD_BYTES} bytes: wrong --delimiter?")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(input: &str, delimiter: &str) -> Vec<String> {
        let mut input = io::BufReader::with_capacity(3, input.as_bytes());
        let mut records = Vec::new();
        while let Some(record) = next_record(&mut input, delimiter.as_bytes()).unwrap() {
            records.push(String::from_utf8(record).unwrap());
        }
        records
    }

    #[test]
    fn records_end_at_the_delimiter_and_the_last_may_lack_it() {
        assert_eq!(cut("a\n\nbcdef\nlast", "\n"), ["a", "", "bcdef", "last"]);
        assert_eq!(cut("a\n", "\n"), ["a"]);
        assert_eq!(cut("a--b-c--", "--"), ["a", "b-c"]);
        assert_eq!(cut("", "\n"), Vec::<String>::new());
        assert_eq!(cut("all of it\n", ""), ["all of it\n"]);
    }
}
