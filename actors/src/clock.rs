//! The node's clock: the one place that reads time for cores.

use crate::ingestion::core::Now;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two clocks that were read within this time were read as one.
const TIGHT: Duration = Duration::from_micros(5);

/// Reads both clocks; cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct NodeClock {
    origin: Instant,
}

impl NodeClock {
    /// A clock whose elapsed time starts now.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// A moment as time since the clock was started.
    pub fn elapsed_at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.origin)
    }

    /// The time, both clocks read as one: for spans, which are laid beside those of others.
    pub fn stamp(&self) -> Now {
        let mut tries = 0;
        loop {
            let before = self.origin.elapsed();
            let Now { wall_ns, elapsed } = self.now();
            tries += 1;
            // Unless the thread lost its processor between the two.
            if elapsed - before <= TIGHT || tries == 4 {
                return Now { wall_ns, elapsed: before + (elapsed - before) / 2 };
            }
        }
    }

    /// The time.
    pub fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        Now { wall_ns, elapsed: self.origin.elapsed() }
    }
}
