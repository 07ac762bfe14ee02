//! What a producer counts.

use crate::connection::Throttled;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a producer did so far; all but [`in_flight_bytes`](Self::in_flight_bytes) only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Records delivered.
    pub records: u64,
    /// Their bytes, as stored.
    pub bytes: u64,
    /// Their batches.
    pub batches: u64,
    /// Records that failed for good.
    pub failed_records: u64,
    /// Batches sent again.
    pub retries: u64,
    /// Batches that the server had stored before, answering an attempt whose answer was lost.
    pub duplicates: u64,
    /// Bytes of batches handed to connections, compressed as they were, each attempt counted.
    pub wire_bytes: u64,
    /// Bytes of records taken whose outcome is not known yet.
    pub in_flight_bytes: u64,
    /// How often servers said Backpressure.
    pub throttled_count: u64,
    /// How long batches waited because of it.
    pub throttled: Duration,
}

/// Counters, changed once a batch.
#[derive(Debug, Default)]
pub(super) struct Counters {
    records: AtomicU64,
    bytes: AtomicU64,
    batches: AtomicU64,
    failed_records: AtomicU64,
    retries: AtomicU64,
    duplicates: AtomicU64,
    wire_bytes: AtomicU64,
    throttled: Arc<Throttled>,
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn throttled(&self) -> Arc<Throttled> {
        Arc::clone(&self.throttled)
    }

    pub(super) fn on_sent(&self, bytes: u64, again: bool) {
        add(&self.wire_bytes, bytes);
        add(&self.retries, u64::from(again));
    }

    pub(super) fn on_delivered(&self, records: u32, bytes: u64, duplicate: bool) {
        add(&self.records, u64::from(records));
        add(&self.bytes, bytes);
        add(&self.batches, 1);
        add(&self.duplicates, u64::from(duplicate));
    }

    pub(super) fn on_failed(&self, records: u32) {
        add(&self.failed_records, u64::from(records));
    }

    pub(super) fn snapshot(&self, in_flight_bytes: u64) -> ProducerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProducerStats {
            records: read(&self.records),
            bytes: read(&self.bytes),
            batches: read(&self.batches),
            failed_records: read(&self.failed_records),
            retries: read(&self.retries),
            duplicates: read(&self.duplicates),
            wire_bytes: read(&self.wire_bytes),
            in_flight_bytes,
            throttled_count: read(&self.throttled.count),
            throttled: Duration::from_nanos(read(&self.throttled.ns)),
        }
    }
}
