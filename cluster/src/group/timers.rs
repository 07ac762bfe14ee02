//! When something has to be looked at again. Each owner has one timer at most, and its time in a slot. It may be early: what
//! is due is judged when it rings, so that a heartbeat touches no timer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Whose timer it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerOwner {
    Group(Arc<str>),
    Member(Arc<str>, Arc<str>),
}

/// The time of an owner's timer.
pub(super) type Slot = Option<Duration>;

#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Duration, TimerOwner)>,
}

impl Timers {
    /// Sets an owner's timer to `at`, unless it has an earlier one.
    pub(super) fn set(&mut self, slot: &mut Slot, at: Duration, owner: impl FnOnce() -> TimerOwner) {
        if slot.is_none_or(|set| at < set) {
            let owner = owner();
            if let Some(before) = slot.replace(at) {
                self.queue.remove(&(before, owner.clone()));
            }
            self.queue.insert((at, owner));
        }
    }

    pub(super) fn cancel(&mut self, slot: &mut Slot, owner: impl FnOnce() -> TimerOwner) {
        if let Some(set) = slot.take() {
            self.queue.remove(&(set, owner()));
        }
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// The next timer that is due; the slot is its owner's to clear.
    pub(super) fn pop(&mut self, now: Duration) -> Option<TimerOwner> {
        if self.next()? > now { None } else { self.queue.pop_first().map(|(_, owner)| owner) }
    }
}
