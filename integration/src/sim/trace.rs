//! What happened, as a hash over all of it and as text of the last of it.

use std::collections::VecDeque;
use std::fmt::Write as _;

/// Entries kept for printing.
const KEPT: usize = 400;

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at_ns: u64,
    what: &'static str,
    first: u64,
    second: u64,
}

/// The trace of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    count: u64,
    recent: VecDeque<Entry>,
}

impl Trace {
    /// Notes that something happened.
    pub fn note(&mut self, at_ns: u64, what: &'static str, first: u64, second: u64) {
        for number in [at_ns, first, second] {
            self.mix(number);
        }
        for byte in what.bytes() {
            self.mix(u64::from(byte));
        }
        self.count += 1;
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(Entry { at_ns, what, first, second });
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(5) ^ number).wrapping_mul(0x517C_C1B7_2722_0A95);
    }

    /// Equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things happened.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last things that happened, a line each.
    pub fn recent(&self, lines: usize) -> String {
        let mut text = String::new();
        for entry in self.recent.iter().skip(self.recent.len().saturating_sub(lines)) {
            let Entry { at_ns, what, first, second } = entry;
            let millis = *at_ns as f64 / 1e6;
            // Writing to a String never fails.
            let _ = writeln!(text, "{millis:12.4} ms  {what} {first} {second}");
        }
        text
    }
}
