//! When a small group is worth a moment's wait.
//!
//! Producers that have one batch in flight each send the next one as soon as they are acked, one after the other.
//! Whoever submits the first of them at once makes the rest wait for a whole sync more. So after a completion that
//! released several requests, the next group waits for as many, for a fraction of a sync and never longer. A single
//! producer never waits, and there is no timer: the shard polls its sockets meanwhile.

use std::time::Duration;

/// Longest wait, however slow syncs are: what a handful of producers on a slow virtual machine take to be woken and send.
const PATIENCE_MAX: Duration = Duration::from_micros(300);
/// Groups of this many bytes gain nothing from waiting.
const ENOUGH_BYTES: u64 = 64 * 1024;
/// Waiting for more than this many requests gains little.
const ENOUGH_REQUESTS: u32 = 64;

/// From so many requests in a small group on, its completion is watched for instead of waited for: parking and waking the
/// thread would cost all of them a good part of a sync.
const WATCHED_REQUESTS: u32 = 4;
/// Longest watch, whatever syncs take.
const WATCH_MAX: Duration = Duration::from_micros(400);

/// Most groups that do not wait after waits that were in vain.
const MAX_SKIPS: u32 = 64;

/// Decides whether the next group waits.
#[derive(Debug, Default)]
pub struct Gather {
    /// Requests that were outstanding when the last group completed: released by it, or already behind it.
    expected: u32,
    arrived: u32,
    arrived_bytes: u64,
    completed_at: Duration,
    submitted_at: Duration,
    /// Moving average of the time from submission to completion.
    sync_time: Duration,
    waiting: bool,
    watch: Duration,
    /// Groups that still do not wait, and how many will not after the next wait in vain.
    skips: u32,
    skips_next: u32,
}

impl Gather {
    /// A batch was appended.
    pub fn on_appended(&mut self, bytes: usize) {
        self.arrived += 1;
        self.arrived_bytes += bytes as u64;
    }

    /// A group was handed to the disk; it left this many bytes for the next one.
    pub fn on_submitted(&mut self, left_bytes: u64, now: Duration) {
        if self.waiting {
            if self.is_complete() {
                self.skips_next = 0;
            } else {
                self.skips_next = (self.skips_next * 2 + 1).min(MAX_SKIPS);
                self.skips = self.skips_next;
            }
        }
        let small = self.arrived_bytes < ENOUGH_BYTES && left_bytes == 0;
        let worth = small && (WATCHED_REQUESTS..ENOUGH_REQUESTS).contains(&self.arrived);
        self.watch = if worth { (self.sync_time * 2).min(WATCH_MAX) } else { Duration::ZERO };
        self.submitted_at = now;
        self.arrived = 0;
        self.arrived_bytes = left_bytes;
        self.waiting = false;
    }

    /// How long to look for the completion of the last group without parking the thread.
    pub fn watch(&self) -> Duration {
        self.watch
    }

    /// A group is durable and released this many requests.
    pub fn on_completed(&mut self, released: u32, now: Duration) {
        let took = now.saturating_sub(self.submitted_at);
        self.sync_time = (self.sync_time * 7 + took) / 8;
        self.expected = released.saturating_add(self.arrived).min(ENOUGH_REQUESTS);
        self.completed_at = now;
        self.skips = self.skips.saturating_sub(1);
    }

    fn is_complete(&self) -> bool {
        self.arrived >= self.expected || self.arrived_bytes >= ENOUGH_BYTES
    }

    /// Whether to wait with the next group.
    pub fn holds(&mut self, now: Duration) -> bool {
        let patience = (self.sync_time * 3 / 4).min(PATIENCE_MAX);
        let hold = self.skips == 0
            && self.expected > 1
            && !self.is_complete()
            && now.saturating_sub(self.completed_at) < patience;
        self.waiting |= hold;
        hold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    fn after_a_group_of(released: u32) -> Gather {
        let mut gather = Gather::default();
        for round in 0..20 {
            gather.on_submitted(0, micros(round * 200));
            gather.on_completed(released, micros(round * 200 + 120));
        }
        gather
    }

    #[test]
    fn a_single_producer_never_waits() {
        let mut gather = after_a_group_of(1);
        gather.on_appended(1024);
        assert!(!gather.holds(micros(3921)));
    }

    #[test]
    fn a_group_waits_for_as_many_as_were_just_released() {
        let mut gather = after_a_group_of(3);
        gather.on_appended(1024);
        assert!(gather.holds(micros(3922)));
        gather.on_appended(1024);
        assert!(gather.holds(micros(3925)));
        gather.on_appended(1024);
        assert!(!gather.holds(micros(3928)));
    }

    #[test]
    fn producers_that_alternate_come_together() {
        let mut gather = after_a_group_of(4);
        gather.on_submitted(0, micros(4000));
        (0..4).for_each(|_| gather.on_appended(1024));
        gather.on_completed(4, micros(4120));
        assert!(gather.holds(micros(4121)));
        (0..4).for_each(|_| gather.on_appended(1024));
        assert!(!gather.holds(micros(4130)));
    }

    #[test]
    fn waits_in_vain_become_rare() {
        let mut gather = Gather::default();
        let mut waits = 0;
        for round in 0..200 {
            let start = round * 400;
            gather.on_submitted(0, micros(start));
            gather.on_completed(2, micros(start + 120));
            gather.on_appended(1024);
            waits += u32::from(gather.holds(micros(start + 121)));
        }
        assert!(waits < 12, "{waits} waits");
    }

    #[test]
    fn the_wait_is_a_fraction_of_a_sync() {
        let mut gather = after_a_group_of(8);
        gather.on_appended(1024);
        assert!(gather.holds(micros(3920 + 80)));
        assert!(!gather.holds(micros(3920 + 121)));
    }

    #[test]
    fn only_small_groups_of_several_are_watched() {
        let mut gather = after_a_group_of(8);
        for (requests, bytes, watched) in
            [(1, 1024, 0), (4, 1024, 240), (63, 1024, 240), (64, 16, 0), (4, 32 * 1024, 0)]
        {
            (0..requests).for_each(|_| gather.on_appended(bytes));
            gather.on_submitted(0, micros(5000));
            assert!(gather.watch().abs_diff(micros(watched)) < micros(40), "{requests} {bytes} {:?}", gather.watch());
        }
    }

    #[test]
    fn a_large_group_does_not_wait() {
        let mut gather = after_a_group_of(8);
        gather.on_appended(64 * 1024);
        assert!(!gather.holds(micros(3921)));
    }
}
