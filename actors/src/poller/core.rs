//! `PollerCore`: which operations are with the disk, which still wait for room in its queue.

use lance_storage::disk::{DiskCompletion, DiskOp};
use std::collections::VecDeque;

/// The bookkeeping of one poller.
#[derive(Debug, Default)]
pub struct PollerCore {
    backlog: VecDeque<DiskOp>,
    in_flight: usize,
    operations: u64,
    failures: u64,
}

impl PollerCore {
    /// Takes an operation.
    pub fn on_submit(&mut self, operation: DiskOp) {
        self.backlog.push_back(operation);
    }

    /// The next operation for the disk, in the order they came.
    pub fn next_operation(&mut self) -> Option<DiskOp> {
        let operation = self.backlog.pop_front()?;
        self.in_flight += 1;
        self.operations += 1;
        Some(operation)
    }

    /// The disk's queue was full: the operation goes back to the front.
    pub fn on_refused(&mut self, operation: DiskOp) {
        self.in_flight -= 1;
        self.operations -= 1;
        self.backlog.push_front(operation);
    }

    /// The disk finished operations.
    pub fn on_completed(&mut self, completions: &[DiskCompletion]) {
        self.in_flight = self.in_flight.saturating_sub(completions.len());
        self.failures += completions.iter().filter(|completion| completion.result.is_err()).count() as u64;
    }

    /// Whether nothing waits and nothing is with the disk.
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.backlog.is_empty()
    }

    /// Operations handed to the disk, and how many of those failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.operations, self.failures)
    }
}
