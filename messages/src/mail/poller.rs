//! Messages that a poller receives.

/// Disk operations to carry out; `O` is the disk's operation.
#[derive(Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct Submit<O: 'static> {
    /// The ingestion actor's count of its own starts; comes back with the completions.
    pub ingestion_life: u64,
    /// The operations; at most one for each partition.
    pub operations: Vec<O>,
}

/// The ingestion actor restarted: answered once nothing is in flight any more.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct Drain;
