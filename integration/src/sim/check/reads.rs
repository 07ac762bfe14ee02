//! Each read returns the right bytes: whatever was once shown at an offset, or acked there, stays there for ever.

use std::collections::BTreeMap;

/// The parts of a stream that somebody was shown.
#[derive(Debug, Default)]
pub struct KnownBytes {
    image: Vec<u8>,
    /// Start → end of what is known; parts neither touch nor overlap.
    parts: BTreeMap<u64, u64>,
}

impl KnownBytes {
    /// Takes in bytes shown at `offset`; an error when others were shown there before.
    pub fn learn(&mut self, offset: u64, data: &[u8]) -> Result<(), String> {
        let end = offset + data.len() as u64;
        for (&start, &known_end) in self.parts.range(..end).filter(|(_, known_end)| **known_end > offset) {
            let (from, to) = (start.max(offset), known_end.min(end));
            let before = &self.image[from as usize..to as usize];
            let now = &data[(from - offset) as usize..(to - offset) as usize];
            if let Some(at) = before.iter().zip(now).position(|(before, now)| before != now) {
                return Err(format!("the byte at offset {} was another one before", from + at as u64));
            }
        }
        if data.is_empty() {
            return Ok(());
        }
        if self.image.len() < end as usize {
            self.image.resize(end as usize, 0);
        }
        self.image[offset as usize..end as usize].copy_from_slice(data);
        self.add(offset, end);
        Ok(())
    }

    fn add(&mut self, mut start: u64, mut end: u64) {
        while let Some((&before, &before_end)) = self.parts.range(..=end).next_back() {
            if before_end < start {
                break;
            }
            (start, end) = (start.min(before), end.max(before_end));
            self.parts.remove(&before);
        }
        self.parts.insert(start, end);
    }

    /// Behind the last byte that is known.
    pub fn end(&self) -> u64 {
        self.image.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_once_must_not_change() {
        let mut known = KnownBytes::default();
        known.learn(10, b"abc").unwrap();
        known.learn(20, b"xyz").unwrap();
        known.learn(8, b"..abc.").unwrap();
        assert_eq!(known.parts.len(), 2);
        known.learn(14, b"......xyz").unwrap();
        assert_eq!(known.parts.len(), 1);
        assert!(known.learn(11, b"B").is_err());
        assert_eq!(known.end(), 23);
    }
}
