//! The node's clock: the one place that reads time for cores.

use crate::ingestion::core::Now;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

    /// The time.
    pub fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ns = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        Now { wall_ns, elapsed: self.origin.elapsed() }
    }
}
