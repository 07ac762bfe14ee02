//! Fetches parked at the high watermark until there is something to read or their time is up.

use lance_messages::id::ConnectionId;
use lance_messages::mail::ingestion::Fetch;
use std::time::Duration;

/// One parked fetch.
#[derive(Clone, Copy, Debug)]
pub struct ParkedFetch {
    /// The fetch.
    pub fetch: Fetch,
    /// When it was parked, as time since the process started.
    pub parked_at: Duration,
    /// When it is answered with nothing.
    pub deadline: Duration,
}

/// The parked fetches of one partition.
#[derive(Debug, Default)]
pub struct Waiters {
    parked: Vec<ParkedFetch>,
}

impl Waiters {
    /// Parks a fetch; gives the time at which it is answered at the latest.
    pub fn park(&mut self, fetch: Fetch, now: Duration) -> Duration {
        let deadline = now.saturating_add(fetch.max_wait);
        self.parked.push(ParkedFetch { fetch, parked_at: now, deadline });
        deadline
    }

    /// Takes one parked fetch that wants something below `high_watermark_offset`.
    pub fn take_readable(&mut self, high_watermark_offset: u64) -> Option<ParkedFetch> {
        self.take(|parked| parked.fetch.offset < high_watermark_offset)
    }

    /// Takes one parked fetch whose time is up.
    pub fn take_expired(&mut self, now: Duration) -> Option<ParkedFetch> {
        self.take(|parked| parked.deadline <= now)
    }

    /// Takes one parked part of this request.
    pub fn take_request(&mut self, connection: ConnectionId, request: u64) -> Option<ParkedFetch> {
        self.take(|parked| parked.fetch.connection == connection && parked.fetch.request == request)
    }

    /// Takes any parked fetch.
    pub fn take_any(&mut self) -> Option<Fetch> {
        self.parked.pop().map(|parked| parked.fetch)
    }

    /// The next deadline.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.parked.iter().map(|parked| parked.deadline).min()
    }

    /// Whether none is parked.
    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    fn take(&mut self, wanted: impl Fn(&ParkedFetch) -> bool) -> Option<ParkedFetch> {
        let index = self.parked.iter().position(wanted)?;
        Some(self.parked.swap_remove(index))
    }
}
