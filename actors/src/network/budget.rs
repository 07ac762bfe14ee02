//! One budget of a node for the bytes of large frames that are still being received: a client that announces much
//! and never sends the rest must not hold memory without bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Frames up to this size are received without asking.
pub const FREE_FRAME_BYTES: usize = 256 * 1024;
/// Bytes of larger frames that may be under way together.
const BUDGET_BYTES: usize = 256 * 1024 * 1024;

/// The budget; clones share it.
#[derive(Clone, Debug, Default)]
pub struct FrameBudget(Arc<AtomicUsize>);

impl FrameBudget {
    /// Takes room for a frame of `bytes`; `None` when there is none at the moment.
    pub fn reserve(&self, bytes: usize) -> Option<FrameReservation> {
        let room = |taken: usize| taken.checked_add(bytes).filter(|&taken| taken <= BUDGET_BYTES);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(FrameReservation { budget: self.clone(), bytes })
    }
}

/// Room for one frame, given back when it is dropped.
#[derive(Debug)]
pub struct FrameReservation {
    budget: FrameBudget,
    bytes: usize,
}

impl FrameReservation {
    /// How large a frame it has room for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for FrameReservation {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let budget = FrameBudget::default();
        let held: Vec<_> = (0..16).map(|_| budget.reserve(BUDGET_BYTES / 16).unwrap()).collect();
        assert!(budget.reserve(1).is_none());
        drop(held);
        assert!(budget.reserve(BUDGET_BYTES).is_some());
        assert!(budget.reserve(BUDGET_BYTES + 1).is_none());
    }
}
