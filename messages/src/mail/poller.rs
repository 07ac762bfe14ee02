//! Messages that a poller receives.

use std::time::Duration;

/// Disk operations to carry out; `O` is the disk's operation.
#[derive(Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct Submit<O: 'static> {
    /// The ingestion actor's count of its own starts; comes back with the completions.
    pub ingestion_life: u64,
    /// The operations; at most one for each partition.
    pub operations: Vec<O>,
    /// How long to look for their completions without parking the thread; zero where that is not worth a core.
    pub watch: Duration,
}

/// The ingestion actor restarted: answered once nothing is in flight any more.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct Drain;
