//! `ScrubCore`: what is read next, and how fast: every closed segment once an interval, never above the rate allowed.

use lance_storage::scrub::ScrubPace;
use std::collections::VecDeque;
use std::time::Duration;

/// Less than this is not worth a read.
const STEP_BYTES: u64 = 256 * 1024;
/// A pass goes at least this fast, if it is allowed to: there is no point in spreading little over a week.
const MIN_BYTES_PER_SECOND: u64 = 1024 * 1024;

/// The progress of passes over items `T`.
#[derive(Debug)]
pub struct ScrubCore<T> {
    interval: Duration,
    max_bytes_per_second: u64,
    queue: VecDeque<T>,
    pace: ScrubPace,
    step_bytes: u64,
    next_pass: Duration,
}

impl<T> ScrubCore<T> {
    /// A scrubber whose first pass is due at `first_pass`.
    pub fn new(interval: Duration, max_bytes_per_second: u64, first_pass: Duration) -> Self {
        let pace = ScrubPace::new(0, 0);
        Self {
            interval,
            max_bytes_per_second,
            queue: VecDeque::new(),
            pace,
            step_bytes: STEP_BYTES,
            next_pass: first_pass,
        }
    }

    /// Whether a new pass has to begin.
    pub fn is_pass_due(&self, now: Duration) -> bool {
        self.queue.is_empty() && now >= self.next_pass
    }

    /// Begins a pass over `items` of `bytes` in all; gives the rate it will go at.
    pub fn start_pass(&mut self, items: Vec<T>, bytes: u64, now: Duration) -> u64 {
        let spread = u128::from(bytes) * 1_000_000_000 / self.interval.as_nanos().max(1);
        let spread = u64::try_from(spread).unwrap_or(u64::MAX);
        let rate = spread.max(MIN_BYTES_PER_SECOND).min(self.max_bytes_per_second.max(1));
        self.queue = items.into();
        self.pace = ScrubPace::new(rate, nanos(now));
        self.step_bytes = STEP_BYTES.min(rate);
        self.next_pass = now.saturating_add(self.interval);
        rate
    }

    /// The next item of the pass.
    pub fn take_next(&mut self) -> Option<T> {
        self.queue.pop_front()
    }

    /// The item was not worth a read yet.
    pub fn put_back(&mut self, item: T) {
        self.queue.push_front(item);
    }

    /// Bytes that may be read now, when they are worth it.
    pub fn budget_bytes(&mut self, now: Duration) -> Option<u64> {
        Some(self.pace.budget_bytes(nanos(now))).filter(|budget| *budget >= self.step_bytes)
    }

    /// Bytes were read.
    pub fn on_read(&mut self, bytes: u64) {
        self.pace.spend(bytes);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn passes_follow_each_other_at_the_interval_and_never_overlap() {
        let mut core = ScrubCore::new(at(100), 32 * MIB, at(60));
        assert!(!core.is_pass_due(at(59)));
        assert!(core.is_pass_due(at(60)));
        core.start_pass(vec![1, 2], 100, at(60));
        assert!(!core.is_pass_due(at(1000)), "the pass is not over");
        assert_eq!([core.take_next(), core.take_next(), core.take_next()], [Some(1), Some(2), None]);
        assert!(!core.is_pass_due(at(159)));
        assert!(core.is_pass_due(at(160)));
    }

    #[test]
    fn the_rate_spreads_a_pass_over_the_interval_within_its_bounds() {
        let mut core = ScrubCore::<()>::new(at(100), 32 * MIB, at(0));
        assert_eq!(core.start_pass(Vec::new(), 10, at(0)), MIB);
        assert_eq!(core.start_pass(Vec::new(), 1000 * MIB, at(0)), 10 * MIB);
        assert_eq!(core.start_pass(Vec::new(), u64::MAX, at(0)), 32 * MIB);
        let mut slow = ScrubCore::<()>::new(at(100), 1000, at(0));
        assert_eq!(slow.start_pass(Vec::new(), 1000 * MIB, at(0)), 1000);
    }

    #[test]
    fn small_budgets_are_saved_up_and_spent_at_once() {
        let mut core = ScrubCore::<()>::new(at(100), 32 * MIB, at(0));
        core.start_pass(Vec::new(), 10, at(0));
        assert_eq!(core.budget_bytes(Duration::from_millis(125)), None);
        let budget = core.budget_bytes(Duration::from_millis(500)).unwrap();
        assert_eq!(budget, MIB / 2);
        core.on_read(budget);
        assert_eq!(core.budget_bytes(Duration::from_millis(600)), None);
    }
}
