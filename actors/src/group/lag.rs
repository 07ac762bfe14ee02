//! How far groups are behind: what has to be looked up for that, and what was found.

use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::mail::ingestion::OffsetQuery;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Look-ups of one round at most: the rest is looked up in later rounds.
const MAX_ROUND: usize = 20_000;

/// A place of a log as a look-up found it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub offset: u64,
    /// Number of the record there.
    pub record: u64,
    /// Timestamp of its batch, ns; 0 at the end.
    pub timestamp_ns: u64,
}

/// How far a group is behind in a partition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lag {
    /// The high watermark.
    pub end_offset: u64,
    /// Records up to it.
    pub records: u64,
    /// Bytes up to it.
    pub bytes: u64,
    /// Age of the first of those records; zero without any.
    pub age: Duration,
}

/// A look-up to make.
pub type LookUp = (TopicPartition, OffsetQuery);

/// What is known of the partitions that groups read.
#[derive(Debug, Default)]
pub struct LagBook {
    ends: BTreeMap<TopicPartition, Place>,
    committed: BTreeMap<(TopicPartition, u64), Place>,
    /// The round under way, by request.
    waiting: BTreeMap<u64, LookUp>,
    next_request: u64,
}

impl LagBook {
    /// A book whose look-ups are numbered from `first_request` on.
    pub fn new(first_request: u64) -> Self {
        Self { next_request: first_request, ..Self::default() }
    }

    /// Whether a round is under way.
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Begins a round for these committed offsets; gives what to look up. What nobody asks for any more is forgotten.
    pub fn begin(&mut self, offsets: &[(TopicPartition, u64)]) -> Vec<(u64, LookUp)> {
        let wanted: BTreeSet<(TopicPartition, u64)> = offsets.iter().copied().collect();
        let partitions: BTreeSet<TopicPartition> = offsets.iter().map(|(partition, _)| *partition).collect();
        self.committed.retain(|key, _| wanted.contains(key));
        self.ends.retain(|partition, _| partitions.contains(partition));
        self.waiting.clear();
        let ends = partitions.into_iter().map(|partition| (partition, OffsetQuery::Latest));
        let unknown = wanted.into_iter().filter(|key| !self.committed.contains_key(key));
        let places = unknown.map(|(partition, offset)| (partition, OffsetQuery::Offset(offset)));
        let mut round = Vec::new();
        for look_up in ends.chain(places).take(MAX_ROUND) {
            self.next_request += 1;
            round.push((self.next_request, look_up));
        }
        self.waiting.extend(round.iter().copied());
        round
    }

    /// A look-up was answered; `false`: it is none of this round.
    pub fn on_answer(&mut self, request: u64, answer: Result<Place, ErrorCode>) -> bool {
        let Some((partition, query)) = self.waiting.remove(&request) else { return false };
        match (query, answer) {
            (OffsetQuery::Offset(offset), Ok(place)) => {
                // At the end there is no record yet whose age would be known later.
                if place.timestamp_ns != 0 {
                    self.committed.insert((partition, offset), place);
                }
            }
            (_, Ok(place)) => {
                self.ends.insert(partition, place);
            }
            (_, Err(_)) => {}
        }
        true
    }

    /// What does not come is not waited for.
    pub fn abandon(&mut self) {
        self.waiting.clear();
    }

    /// How far a committed offset is behind; `None` while that is not known.
    pub fn lag(&self, partition: TopicPartition, committed: u64, wall_ns: u64) -> Option<Lag> {
        let end = self.ends.get(&partition)?;
        let nothing = Lag { end_offset: end.offset, records: 0, bytes: 0, age: Duration::ZERO };
        if committed >= end.offset {
            return Some(nothing);
        }
        let place = self.committed.get(&(partition, committed))?;
        Some(Lag {
            records: end.record.saturating_sub(place.record),
            // What retention removed is behind nobody any more.
            bytes: end.offset.saturating_sub(committed.max(place.offset)),
            age: Duration::from_nanos(wall_ns.saturating_sub(place.timestamp_ns)),
            ..nothing
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::TopicId;

    const READ: TopicPartition = TopicPartition::new(TopicId(1), 0);

    fn place(offset: u64, record: u64, timestamp_ns: u64) -> Result<Place, ErrorCode> {
        Ok(Place { offset, record, timestamp_ns })
    }

    #[test]
    fn a_lag_is_known_once_both_ends_are() {
        let mut book = LagBook::new(100);
        let round = book.begin(&[(READ, 50)]);
        assert_eq!(round, [(101, (READ, OffsetQuery::Latest)), (102, (READ, OffsetQuery::Offset(50)))]);
        assert!(book.on_answer(101, place(200, 20, 0)));
        assert_eq!(book.lag(READ, 50, 9), None);
        assert_eq!(book.lag(READ, 200, 9).unwrap().records, 0);
        assert!(book.on_answer(102, place(50, 5, 4)) && !book.is_busy());
        let expected = Lag { end_offset: 200, records: 15, bytes: 150, age: Duration::from_nanos(5) };
        assert_eq!(book.lag(READ, 50, 9), Some(expected));
        // The place of an offset does not change; the end does.
        assert_eq!(book.begin(&[(READ, 50)]), [(103, (READ, OffsetQuery::Latest))]);
        assert!(!book.on_answer(101, place(0, 0, 0)), "a late answer is none of this round");
        assert!(book.on_answer(103, Err(ErrorCode::NotLeader)));
        assert_eq!(book.lag(READ, 50, 9), Some(expected), "the last known end stays");
    }

    #[test]
    fn where_no_record_is_yet_the_age_is_asked_for_again() {
        let mut book = LagBook::new(0);
        for (request, look_up) in book.begin(&[(READ, 7)]) {
            let _ = look_up;
            assert!(book.on_answer(request, place(7, 1, 0)));
        }
        assert_eq!(book.lag(READ, 7, 9).unwrap().bytes, 0);
        assert_eq!(book.begin(&[(READ, 7)]).len(), 2);
        assert_eq!(book.begin(&[]), []);
        assert_eq!(book.lag(READ, 7, 9), None);
    }
}
