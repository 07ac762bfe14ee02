//! Which parts of closed segments this thread has checked since start.
//!
//! A checked part may go to a socket with `sendfile`; should it change on disk afterwards, the checksum sent along,
//! which is combined from those stored, still tells the client.

use hashbrown::HashMap;
use lance_messages::id::TopicPartition;

/// Segments remembered; the least recently used is forgotten and checked again when it is next read.
const SEGMENTS: usize = 4096;
/// Separate parts remembered of one segment.
const PARTS: usize = 64;

#[derive(Default)]
pub(super) struct Verified {
    segments: HashMap<(TopicPartition, u64), Parts>,
    uses: u64,
}

#[derive(Default)]
struct Parts {
    /// Log positions, sorted, neither overlapping nor touching.
    ranges: Vec<(u64, u64)>,
    used: u64,
}

impl Verified {
    /// Whether all of `start..end` was checked.
    pub fn contains(&mut self, partition: TopicPartition, base_position: u64, start: u64, end: u64) -> bool {
        self.uses += 1;
        let Some(parts) = self.segments.get_mut(&(partition, base_position)) else {
            return false;
        };
        parts.used = self.uses;
        let behind = parts.ranges.partition_point(|range| range.0 <= start);
        behind.checked_sub(1).is_some_and(|at| end <= parts.ranges[at].1)
    }

    /// Remembers that `start..end` was checked.
    pub fn insert(&mut self, partition: TopicPartition, base_position: u64, start: u64, end: u64) {
        self.uses += 1;
        let key = (partition, base_position);
        if self.segments.len() >= SEGMENTS && !self.segments.contains_key(&key) {
            self.forget_least_used();
        }
        let parts = self.segments.entry(key).or_default();
        parts.used = self.uses;
        parts.insert(start, end);
    }

    /// Forgets a partition whose files were changed: truncated, refilled, removed.
    pub fn forget(&mut self, partition: TopicPartition) {
        self.segments.retain(|(other, _), _| *other != partition);
    }

    fn forget_least_used(&mut self) {
        let oldest = self.segments.iter().min_by_key(|(_, parts)| parts.used).map(|(key, _)| *key);
        if let Some(key) = oldest {
            self.segments.remove(&key);
        }
    }
}

impl Parts {
    fn insert(&mut self, start: u64, end: u64) {
        let first = self.ranges.partition_point(|range| range.1 < start);
        let last = self.ranges.partition_point(|range| range.0 <= end);
        let joined =
            self.ranges[first..last].iter().fold((start, end), |all, range| (all.0.min(range.0), all.1.max(range.1)));
        self.ranges.splice(first..last, [joined]);
        if self.ranges.len() > PARTS {
            let shortest = (0..self.ranges.len()).min_by_key(|at| self.ranges[*at].1 - self.ranges[*at].0);
            shortest.map(|at| self.ranges.remove(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;

    const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);

    #[test]
    fn adjoining_parts_become_one() {
        let mut verified = Verified::default();
        for (start, end) in [(100, 200), (300, 400), (200, 300)] {
            verified.insert(PARTITION, 0, start, end);
        }
        assert!(verified.contains(PARTITION, 0, 100, 400));
        assert!(!verified.contains(PARTITION, 0, 99, 400));
        assert!(!verified.contains(PARTITION, 0, 100, 401));
        assert!(!verified.contains(PARTITION, 1, 100, 200));
    }

    #[test]
    fn a_hole_is_not_taken_for_checked() {
        let mut verified = Verified::default();
        verified.insert(PARTITION, 0, 0, 100);
        verified.insert(PARTITION, 0, 101, 200);
        assert!(!verified.contains(PARTITION, 0, 50, 150));
        verified.forget(PARTITION);
        assert!(!verified.contains(PARTITION, 0, 0, 100));
    }

    #[test]
    fn memory_stays_bounded() {
        let mut verified = Verified::default();
        for at in 0..10_000u64 {
            verified.insert(PARTITION, at, 0, 10);
            verified.insert(PARTITION, 0, at * 10, at * 10 + 5);
        }
        assert!(verified.segments.len() <= SEGMENTS);
        assert!(verified.segments.values().all(|parts| parts.ranges.len() <= PARTS));
        assert!(verified.contains(PARTITION, 9_999, 0, 10));
    }
}
