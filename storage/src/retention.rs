//! Which closed segments go, by age and by size: a pure decision, carried out by the owner of the log.

use std::time::Duration;

/// How long and how much a topic keeps; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionPolicy {
    /// A segment goes once its newest batch was appended longer ago than this.
    pub max_age: Option<Duration>,
    /// The oldest segments go while at least this many bytes of log stay behind.
    pub max_bytes: Option<u64>,
}

impl RetentionPolicy {
    /// The policy as the wire says it: whole seconds and bytes, 0 = unlimited.
    pub fn from_wire(max_age_secs: u64, max_bytes: u64) -> Self {
        Self {
            max_age: (max_age_secs != 0).then(|| Duration::from_secs(max_age_secs)),
            max_bytes: (max_bytes != 0).then_some(max_bytes),
        }
    }
}

/// What the decision needs to know of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Log position of its first batch.
    pub base_position: u64,
    /// Log position behind its last batch.
    pub end_position: u64,
    /// When its last batch was appended (the time in that batch's sort key), in ns since the Unix epoch.
    ///
    /// Not the records' own timestamps: a producer could then expire, or pin, what others wrote.
    pub last_append_ns: u64,
    /// Whether it is closed; the active segment never goes.
    pub closed: bool,
}

/// Segments that go, always a prefix of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The new log start: segments that end at or below it go.
    pub keep_from: u64,
    /// How many go.
    pub segments: usize,
    /// Bytes given back.
    pub bytes: u64,
    /// How many of them age alone had already condemned.
    pub by_age: usize,
}

/// Decides over the segments of one log, oldest first; `None` when all stay.
///
/// Nothing at or above `high_watermark` goes: what is not committed may still be needed by a follower.
pub fn expired(segments: &[SegmentFacts], policy: RetentionPolicy, high_watermark: u64, now_ns: u64) -> Option<Expiry> {
    let removable = segments.iter().take_while(|segment| segment.closed && segment.end_position <= high_watermark);
    let total: u64 = segments.iter().map(SegmentFacts::bytes).fold(0, u64::saturating_add);
    let mut expiry: Option<Expiry> = None;
    for segment in removable {
        let gone = expiry.map_or(0, |expiry| expiry.bytes);
        let old = policy.max_age.is_some_and(|age| segment.is_older_than(age, now_ns));
        let too_much = policy.max_bytes.is_some_and(|limit| (total - gone).saturating_sub(segment.bytes()) >= limit);
        if !old && !too_much {
            break;
        }
        let so_far = expiry.unwrap_or(Expiry { keep_from: 0, segments: 0, bytes: 0, by_age: 0 });
        expiry = Some(Expiry {
            keep_from: segment.end_position,
            segments: so_far.segments + 1,
            bytes: so_far.bytes + segment.bytes(),
            by_age: so_far.by_age + usize::from(old),
        });
    }
    expiry
}

impl SegmentFacts {
    fn bytes(&self) -> u64 {
        self.end_position.saturating_sub(self.base_position)
    }

    fn is_older_than(&self, age: Duration, now_ns: u64) -> bool {
        let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        now_ns.saturating_sub(self.last_append_ns) > age_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Closed segments of 100 bytes, appended at second 0, 10, 20 …, and an active one behind them.
    fn log(closed: u64) -> Vec<SegmentFacts> {
        let segment = |number: u64, closed| SegmentFacts {
            base_position: number * 100,
            end_position: number * 100 + 100,
            last_append_ns: number * 10 * SECOND,
            closed,
        };
        (0..closed).map(|number| segment(number, true)).chain([segment(closed, false)]).collect()
    }

    fn policy(age_secs: u64, bytes: u64) -> RetentionPolicy {
        RetentionPolicy::from_wire(age_secs, bytes)
    }

    #[test]
    fn zero_keeps_everything() {
        assert_eq!(expired(&log(5), policy(0, 0), u64::MAX, u64::MAX), None);
    }

    #[test]
    fn only_what_is_older_than_the_age_goes() {
        let expiry = expired(&log(5), policy(30, 0), u64::MAX, 41 * SECOND).unwrap();
        assert_eq!(expiry, Expiry { keep_from: 200, segments: 2, bytes: 200, by_age: 2 });
        assert_eq!(expired(&log(5), policy(30, 0), u64::MAX, 30 * SECOND), None);
    }

    #[test]
    fn the_active_segment_never_goes() {
        let expiry = expired(&log(2), policy(1, 1), u64::MAX, u64::MAX).unwrap();
        assert_eq!(expiry.keep_from, 200);
        assert_eq!(expired(&log(0), policy(1, 1), u64::MAX, u64::MAX), None);
    }

    #[test]
    fn the_newest_bytes_up_to_the_limit_stay() {
        // 600 bytes in all: without three segments 300 stay, without four only 200 would.
        let expiry = expired(&log(5), policy(0, 250), u64::MAX, 0).unwrap();
        assert_eq!(expiry, Expiry { keep_from: 300, segments: 3, bytes: 300, by_age: 0 });
        assert_eq!(expired(&log(5), policy(0, 600), u64::MAX, 0), None);
    }

    #[test]
    fn nothing_above_the_high_watermark_goes() {
        let expiry = expired(&log(5), policy(0, 1), 250, 0).unwrap();
        assert_eq!(expiry.keep_from, 200);
        assert_eq!(expired(&log(5), policy(0, 1), 99, 0), None);
    }

    #[test]
    fn a_young_segment_protects_the_older_looking_ones_behind_it() {
        let mut segments = log(3);
        segments[0].last_append_ns = 100 * SECOND;
        assert_eq!(expired(&segments, policy(30, 0), u64::MAX, 101 * SECOND), None);
    }

    #[test]
    fn a_clock_that_went_back_expires_nothing() {
        assert_eq!(expired(&log(3)[1..], policy(1, 0), u64::MAX, 0), None);
    }

    #[test]
    fn age_and_size_add_up() {
        let expiry = expired(&log(5), policy(35, 300), u64::MAX, 46 * SECOND).unwrap();
        assert_eq!(expiry, Expiry { keep_from: 300, segments: 3, bytes: 300, by_age: 2 });
    }
}
