//! Budgets of a node for bytes that clients make it hold: one for large frames that are still being received, one for
//! copies of recent batches on their way to readers. A client that announces much and sends nothing, or asks for much
//! and reads nothing, must not hold memory without bound, however many of its kind there are.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Frames up to this size are received without asking.
pub const FREE_FRAME_BYTES: usize = 256 * 1024;
/// Copies up to this size are made without asking: many of them fit into one connection's output.
pub const FREE_COPY_BYTES: usize = 4096;
/// Bytes that may be held together.
const BUDGET_BYTES: usize = 256 * 1024 * 1024;

/// A budget; clones share it.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

impl Default for ByteBudget {
    fn default() -> Self {
        Self::new(BUDGET_BYTES)
    }
}

impl ByteBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit }
    }

    /// Takes room for `bytes`; `None` when there is none at the moment.
    pub fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let room = |taken: usize| taken.checked_add(bytes).filter(|&taken| taken <= self.limit);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(Reservation { budget: self.clone(), bytes })
    }

    /// Whether so much is taken that each connection has to do with little.
    pub fn is_tight(&self) -> bool {
        self.taken.load(Ordering::Relaxed) > self.limit / 2
    }
}

/// Room for some bytes, given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: ByteBudget,
    bytes: usize,
}

impl Reservation {
    /// For how many bytes it has room.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.budget.taken.fetch_sub(less, Ordering::Relaxed);
    }

    /// The same bytes; the room is given back with the last of them.
    pub fn hold(mut self, data: Bytes) -> Bytes {
        if data.len() <= FREE_COPY_BYTES {
            return data;
        }
        self.shrink_to(data.len());
        Bytes::from_owner(Held { data, _room: self })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Held {
    data: Bytes,
    _room: Reservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let budget = ByteBudget::default();
        let held: Vec<_> = (0..16).map(|_| budget.reserve(BUDGET_BYTES / 16).unwrap()).collect();
        assert!(budget.reserve(1).is_none());
        drop(held);
        assert!(budget.reserve(BUDGET_BYTES).is_some());
        assert!(budget.reserve(BUDGET_BYTES + 1).is_none());
    }

    #[test]
    fn bytes_keep_their_room_until_the_last_of_them_is_gone() {
        let budget = ByteBudget::new(100_000);
        let mut data = budget.reserve(90_000).unwrap().hold(Bytes::from(vec![7; 60_000]));
        assert!(budget.is_tight());
        let part = data.split_to(1);
        drop(data);
        assert!(budget.reserve(50_000).is_none(), "a part holds all of it");
        assert_eq!(part, [7][..]);
        drop(part);
        assert!(budget.reserve(100_000).is_some());
        let small = budget.reserve(90_000).unwrap().hold(Bytes::from(vec![7; 100]));
        assert!(budget.reserve(100_000).is_some(), "{} bytes are free", small.len());
    }
}
