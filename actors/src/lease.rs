//! Until when this node may take it that nobody was put in its place: see `lance_cluster::metadata::lease`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The node's lease, for actors that answer from memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct LeaseWatch {
    until_ms: Arc<AtomicU64>,
}

impl LeaseWatch {
    /// The lease lasts until this time of the node's clock, or longer.
    pub fn extend(&self, until: Duration) {
        let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.until_ms.fetch_max(until_ms, Ordering::Relaxed);
    }

    /// Whether it lasts at this time.
    pub fn holds(&self, now: Duration) -> bool {
        now < Duration::from_millis(self.until_ms.load(Ordering::Relaxed))
    }
}
