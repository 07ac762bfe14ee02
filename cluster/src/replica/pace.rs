//! How fast replicas that are not waited for are fed: as fast as producers of the same leader do not notice.
//!
//! Ten times a second the time from append to commit is compared with what it is while nobody catches up. Where it has grown
//! the rate falls, where it has not the rate rises, and where nothing is produced it doubles. The rate never falls to that of
//! the producers, or a replica would never arrive.

use std::time::Duration;

const WINDOW: Duration = Duration::from_millis(100);
/// Bytes a second on top of the load …
const HEADROOM: f64 = 4.0 * 1024.0 * 1024.0;
/// … which is exceeded by this factor at least.
const OVER_LOAD: f64 = 1.25;
/// Where the rate begins, in bytes a second on top of the lowest one.
const START: f64 = 28.0 * 1024.0 * 1024.0;
const MAX: f64 = 8.0 * 1024.0 * 1024.0 * 1024.0;
/// Commits that take so many times as long as usual lower the rate …
const SLOWER: f64 = 1.25;
/// … and those that take no more than this raise it.
const AS_USUAL: f64 = 1.1;
const FALL: f64 = 0.7;
const RISE: f64 = 1.1;
/// What may be sent at once after a pause: so much time's worth, and this many bytes.
const BURST: f64 = 0.01;
const BURST_BYTES: f64 = 512.0 * 1024.0;
/// Less than this is not worth a message.
const LEAST_BYTES: f64 = 256.0 * 1024.0;
/// Commits measured in a window at most.
const MAX_SAMPLES: usize = 256;

/// The rate of one shard's catch-up streams together. `now` is the time since the process started.
#[derive(Clone, Debug)]
pub struct CatchUpPace {
    window_began: Duration,
    /// Of this window: times from append to commit, in seconds.
    samples: Vec<f64>,
    appended_bytes: u64,
    /// Somebody wanted to catch up in this window.
    wanted: bool,
    /// What nine of ten commits took no longer than while nobody caught up, in seconds.
    usual: Option<f64>,
    /// Produced bytes a second.
    load: f64,
    /// Bytes a second above the load that can't be gone below.
    rate: f64,
    tokens: f64,
    refilled_at: Duration,
}

impl Default for CatchUpPace {
    fn default() -> Self {
        Self {
            window_began: Duration::ZERO,
            samples: Vec::with_capacity(MAX_SAMPLES),
            appended_bytes: 0,
            wanted: false,
            usual: None,
            load: 0.0,
            rate: START,
            tokens: BURST_BYTES,
            refilled_at: Duration::ZERO,
        }
    }
}

impl CatchUpPace {
    /// A producer's batch was appended.
    pub fn on_appended(&mut self, bytes: u64) {
        self.appended_bytes += bytes;
    }

    /// A batch was committed so long after it was appended.
    pub fn on_committed(&mut self, latency: Duration) {
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(latency.as_secs_f64());
        }
    }

    /// Time has passed; called about as often as a window is long.
    pub fn on_tick(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.window_began);
        if elapsed < WINDOW {
            return;
        }
        let load = self.appended_bytes as f64 / elapsed.as_secs_f64();
        self.load = if load > self.load { load } else { self.load * 0.8 + load * 0.2 };
        let slow = self.slow_commit();
        match (self.wanted, slow, self.usual) {
            (false, Some(slow), usual) => {
                self.usual = Some(usual.map_or(slow, |usual| usual * 0.8 + slow * 0.2));
                self.rate = self.floor() + START;
            }
            (false, None, _) => self.rate = self.floor() + START,
            (true, None, _) => self.rate *= 2.0,
            // The least that was seen while it was not known.
            (true, Some(slow), None) => self.usual = Some(slow),
            (true, Some(slow), Some(usual)) if slow > usual * SLOWER => self.rate *= FALL,
            (true, Some(slow), Some(usual)) if slow <= usual * AS_USUAL => {
                self.rate *= RISE;
                self.usual = Some(usual.min(slow).max(usual * 0.99));
            }
            (true, Some(_), Some(_)) => {}
        }
        self.rate = self.rate.clamp(self.floor(), MAX);
        self.window_began = now;
        self.samples.clear();
        (self.appended_bytes, self.wanted) = (0, false);
    }

    /// Bytes that may be sent now to those that catch up; 0 for a while when that is too few.
    pub fn allowance(&mut self, now: Duration) -> u64 {
        self.wanted = true;
        self.on_tick(now);
        let elapsed = now.saturating_sub(self.refilled_at).as_secs_f64();
        self.refilled_at = now;
        self.tokens = (self.tokens + self.rate * elapsed).min(self.rate * BURST + BURST_BYTES);
        if self.tokens < LEAST_BYTES { 0 } else { self.tokens as u64 }
    }

    /// So many bytes were sent, or will be.
    pub fn on_sent(&mut self, bytes: u64) {
        self.tokens -= bytes as f64;
    }

    /// Bytes a second at the moment.
    pub fn bytes_per_second(&self) -> u64 {
        self.rate as u64
    }

    fn floor(&self) -> f64 {
        self.load * OVER_LOAD + HEADROOM
    }

    /// What nine of ten commits of the window took no longer than.
    fn slow_commit(&mut self) -> Option<f64> {
        self.samples.sort_unstable_by(f64::total_cmp);
        self.samples.get(self.samples.len() * 9 / 10).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1024.0 * 1024.0;

    struct Rig {
        pace: CatchUpPace,
        now: Duration,
    }

    impl Rig {
        fn new() -> Self {
            Self { pace: CatchUpPace::default(), now: Duration::from_secs(1) }
        }

        /// So much time in which commits take as long as `commit` says of the bytes sent in the last step.
        fn run(&mut self, time: Duration, load: f64, catches_up: bool, commit: impl Fn(f64) -> Duration) -> f64 {
            let step = Duration::from_millis(1);
            let mut sent = 0.0;
            for _ in 0..time.as_millis() / step.as_millis() {
                self.now += step;
                self.pace.on_tick(self.now);
                let allowed = if catches_up { self.pace.allowance(self.now) } else { 0 };
                self.pace.on_sent(allowed);
                sent += allowed as f64;
                self.pace.on_appended((load * step.as_secs_f64()) as u64);
                if load > 0.0 {
                    let rate = self.pace.bytes_per_second() as f64;
                    self.pace.on_committed(commit(if catches_up { rate } else { 0.0 }));
                }
            }
            sent / time.as_secs_f64()
        }
    }

    #[test]
    fn without_producers_the_rate_is_soon_that_of_the_disk() {
        let mut rig = Rig::new();
        let rate = rig.run(Duration::from_secs(2), 0.0, true, |_| Duration::ZERO);
        assert!(rate > 500.0 * MIB, "{rate}");
    }

    #[test]
    fn producers_who_do_not_notice_do_not_hold_it_back() {
        let mut rig = Rig::new();
        let steady = |_| Duration::from_micros(300);
        rig.run(Duration::from_secs(2), 50.0 * MIB, false, steady);
        let rate = rig.run(Duration::from_secs(10), 50.0 * MIB, true, steady);
        assert!(rate > 500.0 * MIB, "{rate}");
    }

    #[test]
    fn it_settles_where_producers_begin_to_notice() {
        let mut rig = Rig::new();
        // Commits take twice as long from 200 MiB a second on.
        let commit = |rate: f64| Duration::from_secs_f64(300e-6 * if rate > 200.0 * MIB { 2.0 } else { 1.0 });
        rig.run(Duration::from_secs(2), 50.0 * MIB, false, commit);
        rig.run(Duration::from_secs(10), 50.0 * MIB, true, commit);
        let rate = rig.run(Duration::from_secs(10), 50.0 * MIB, true, commit);
        assert!((120.0 * MIB..230.0 * MIB).contains(&rate), "{rate}");
    }

    #[test]
    fn it_stays_above_the_load_however_slow_commits_are() {
        let mut rig = Rig::new();
        rig.run(Duration::from_secs(2), 100.0 * MIB, false, |_| Duration::from_micros(300));
        let rate = rig.run(Duration::from_secs(20), 100.0 * MIB, true, |_| Duration::from_millis(50));
        assert!((120.0 * MIB..150.0 * MIB).contains(&rate), "{rate}");
    }
}
