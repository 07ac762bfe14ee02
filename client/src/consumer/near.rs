//! Which replicas a consumer reads from instead of the leader, because they are in its rack.

use super::board::Key;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a partition is read from its leader after a nearer replica could not serve it …
const REST: Duration = Duration::from_secs(10);
/// … twice as long each time in a row, up to this many times.
const MAX_DOUBLINGS: u32 = 6;

/// Where one partition is read, if not from its leader.
#[derive(Clone, Debug, Default)]
struct Place {
    /// The nearer replica it is read from.
    at: Option<String>,
    /// From the leader until then.
    leader_until: Option<Instant>,
    /// Nearer replicas in a row that served nothing.
    failures: u32,
}

/// The nearer replicas that leaders have named.
#[derive(Debug)]
pub(super) struct NearReads {
    rack: String,
    places: Mutex<HashMap<Key, Place>>,
}

impl NearReads {
    /// For a consumer in `rack`; empty: it always reads from leaders.
    pub(super) fn new(rack: String) -> Self {
        Self { rack, places: Mutex::default() }
    }

    pub(super) fn rack(&self) -> &str {
        &self.rack
    }

    /// Whether a nearer replica may be named, or answer, at the moment.
    pub(super) fn may_be_near(&self, key: &Key, now: Instant) -> bool {
        let resting = |place: &Place| place.leader_until.is_some_and(|until| now < until);
        !self.rack.is_empty() && !self.places().get(key).is_some_and(resting)
    }

    /// The replica to read from instead of the leader.
    pub(super) fn address(&self, key: &Key) -> Option<String> {
        self.places().get(key).and_then(|place| place.at.clone())
    }

    /// The leader has named a replica.
    pub(super) fn go(&self, key: Key, address: String) {
        self.places().entry(key).or_default().at = Some(address);
    }

    /// A partition was served; the next failure of a nearer replica is the first again, if it was one.
    pub(super) fn served(&self, key: &Key) {
        if let Some(place) = self.places().get_mut(key).filter(|place| place.at.is_some()) {
            place.failures = 0;
        }
    }

    /// Who reads a partition does not serve it any more. True when that was a nearer replica: the leader comes next.
    pub(super) fn leave(&self, key: &Key, now: Instant) -> bool {
        let mut places = self.places();
        let Some(place) = places.get_mut(key) else { return false };
        if place.at.take().is_none() {
            return false;
        }
        place.leader_until = Some(now + REST * (1 << place.failures.min(MAX_DOUBLINGS)));
        place.failures = place.failures.saturating_add(1);
        true
    }

    /// The partition is not read any more.
    pub(super) fn forget(&self, key: &Key) {
        self.places().remove(key);
    }

    fn places(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_failed_is_left_alone_for_a_while() {
        let near = NearReads::new("a".to_owned());
        let (key, now) = (Key::new("events", 3), Instant::now());
        assert!(near.may_be_near(&key, now) && near.address(&key).is_none());
        assert!(!near.leave(&key, now), "it was the leader that failed");
        near.go(key.clone(), "b:1".to_owned());
        assert_eq!(near.address(&key).as_deref(), Some("b:1"));
        assert!(near.leave(&key, now));
        assert!(!near.may_be_near(&key, now) && near.address(&key).is_none());
        assert!(near.may_be_near(&key, now + REST));
        near.go(key.clone(), "b:1".to_owned());
        assert!(near.leave(&key, now) && !near.may_be_near(&key, now + REST), "twice as long the second time");
        near.go(key.clone(), "b:1".to_owned());
        near.served(&key);
        assert!(near.leave(&key, now) && near.may_be_near(&key, now + REST));
        assert!(near.may_be_near(&Key::new("events", 4), now), "others are not concerned");
    }

    #[test]
    fn without_a_rack_there_is_nothing_near() {
        assert!(!NearReads::new(String::new()).may_be_near(&Key::new("events", 0), Instant::now()));
    }
}
