//! How fast ingest leaves: as fast as it goes, until the server says Backpressure. That halves the rate at which it took
//! bytes; afterwards the rate rises by equal steps, until it is no limit any more.

use std::time::Duration;
use tokio::time::Instant;

/// Over which time the rate is measured, and how often a limit is raised.
const STEP: Duration = Duration::from_millis(100);
/// Share of the rate before the halving that each step adds.
const RAISE: f64 = 1.0 / 16.0;
/// A limit this many times the rate before the halving limits nothing.
const LIFTED_AT: f64 = 2.0;
/// Pause after a Backpressure frame; another one within it belongs to the same.
const PAUSE: Duration = Duration::from_millis(5);
/// What may leave at once after a time in which less left than allowed.
const BURST: Duration = Duration::from_millis(5);
/// Longest wait for one frame.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Least rate, bytes a second.
const LEAST: f64 = 128.0 * 1024.0;
/// Rate that is halved when none was measured yet.
const UNMEASURED: f64 = 16.0 * 1024.0 * 1024.0;

/// The pace of one connection's ingest.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Option<Limit>,
    /// No frame leaves before.
    next: Option<Instant>,
    /// Bytes answered since the measuring began.
    answered: u64,
    measured_since: Instant,
    /// Bytes a second over the last whole step.
    measured: f64,
}

#[derive(Debug)]
struct Limit {
    /// Bytes a second.
    rate: f64,
    /// The rate before it was halved.
    before: f64,
    /// When it was halved or raised.
    changed: Instant,
    halved: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { limit: None, next: None, answered: 0, measured_since: now, measured: 0.0 }
    }

    /// When the next frame may leave; `None`: now.
    pub(super) fn wait_until(&mut self, now: Instant) -> Option<Instant> {
        self.raise(now);
        self.next.filter(|&next| next > now)
    }

    /// A frame leaves.
    pub(super) fn on_sent(&mut self, bytes: u64, now: Instant) {
        let Some(limit) = &self.limit else {
            self.next = None;
            return;
        };
        let takes = Duration::from_secs_f64(bytes as f64 / limit.rate).min(LONGEST_WAIT);
        let begins = self.next.unwrap_or(now).max(now.checked_sub(BURST).unwrap_or(now));
        self.next = Some(begins + takes);
    }

    /// The server took or refused a frame.
    pub(super) fn on_answered(&mut self, bytes: u64, now: Instant) {
        self.answered += bytes;
        let took = now.saturating_duration_since(self.measured_since);
        if took >= STEP {
            self.measured = self.answered as f64 / took.as_secs_f64();
            (self.answered, self.measured_since) = (0, now);
        }
    }

    /// The server says Backpressure.
    pub(super) fn on_backpressure(&mut self, now: Instant) {
        self.raise(now);
        if self.limit.as_ref().is_some_and(|limit| now < limit.halved + PAUSE) {
            return;
        }
        let measured = if self.measured > 0.0 { self.measured } else { UNMEASURED };
        let before = self.limit.as_ref().map_or(measured, |limit| limit.rate.min(measured.max(LEAST)));
        let rate = (before / 2.0).max(LEAST);
        self.limit = Some(Limit { rate, before: before.max(LEAST), changed: now, halved: now });
        self.next = Some(self.next.unwrap_or(now).max(now + PAUSE));
    }

    fn raise(&mut self, now: Instant) {
        let Some(limit) = &mut self.limit else { return };
        let steps = now.saturating_duration_since(limit.changed).as_millis() / STEP.as_millis();
        let steps = steps.min(1000) as u32;
        limit.rate += limit.before * RAISE * f64::from(steps);
        limit.changed += STEP * steps;
        if limit.rate >= limit.before * LIFTED_AT {
            (self.limit, self.next) = (None, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 10_000;

    struct Line {
        pace: Pace,
        now: Instant,
    }

    impl Line {
        /// A line that was busy with `rate` bytes a second.
        fn busy(rate: u64) -> Self {
            let now = Instant::now();
            let mut line = Self { pace: Pace::new(now), now };
            for _ in 0..10 {
                line.now += STEP;
                line.pace.on_answered(rate / 10, line.now);
            }
            line
        }

        /// Bytes that leave within a time, with a producer that always has more and a server that answers at once.
        fn send_for(&mut self, time: Duration) -> u64 {
            let end = self.now + time;
            let mut sent = 0;
            while self.now < end {
                match self.pace.wait_until(self.now) {
                    Some(next) => self.now = next,
                    // A frame takes its time on the wire.
                    None => {
                        self.pace.on_sent(FRAME, self.now);
                        sent += FRAME;
                        self.now += Duration::from_micros(100);
                        self.pace.on_answered(FRAME, self.now);
                    }
                }
            }
            sent
        }
    }

    fn is_near(found: u64, wanted: u64) -> bool {
        found.abs_diff(wanted) * 10 <= wanted
    }

    #[test]
    fn backpressure_halves_the_rate_and_equal_steps_bring_it_back() {
        let mut line = Line::busy(40_000_000);
        line.pace.on_backpressure(line.now);
        let tenths: Vec<u64> = (0..9).map(|_| line.send_for(STEP)).collect();
        assert!(is_near(tenths[0], 2_000_000), "{tenths:?}");
        for pair in tenths.windows(2) {
            assert!(is_near(pair[1], pair[0] + 250_000), "{tenths:?}");
        }
        assert!(is_near(tenths[8], 4_000_000), "{tenths:?}");
        line.send_for(Duration::from_secs(2));
        assert!(line.pace.limit.is_none(), "no limit is left");
        assert!(is_near(line.send_for(STEP), 10_000_000), "as fast as the line");
    }

    #[test]
    fn each_episode_halves_again_down_to_a_least_rate() {
        let mut line = Line::busy(40_000_000);
        line.pace.on_backpressure(line.now);
        line.pace.on_backpressure(line.now + PAUSE / 2);
        assert!(is_near(line.send_for(STEP), 2_000_000), "twice within the pause is once");
        line.pace.on_backpressure(line.now);
        assert!(is_near(line.send_for(STEP), 1_000_000));
        for _ in 0..100 {
            line.pace.on_backpressure(line.now);
            line.now += PAUSE;
        }
        assert!(line.send_for(Duration::from_secs(1)) >= LEAST as u64);
    }

    #[test]
    fn without_a_measurement_there_is_a_rate_to_begin_with() {
        let now = Instant::now();
        let mut line = Line { pace: Pace::new(now), now };
        line.pace.on_backpressure(now);
        assert_eq!(line.pace.wait_until(now), Some(now + PAUSE));
        assert!(line.send_for(STEP) > 500_000);
    }

    #[test]
    fn a_frame_of_any_size_leaves_in_the_end() {
        let mut line = Line::busy(1);
        line.pace.on_backpressure(line.now);
        line.pace.on_sent(16 << 20, line.now);
        assert!(line.pace.wait_until(line.now).unwrap() <= line.now + LONGEST_WAIT + PAUSE);
    }
}
