//! Quotas: how many bytes a second the clients of one name, and those of one principal, may move through this node, over
//! all their connections.
//!
//! Nothing is refused: who has moved too much is not read from until its debt is paid.

use arc_swap::ArcSwap;
use lance_config::quota::ClientQuota;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What may be moved at once by who was quiet before: this much time's worth.
const BURST: Duration = Duration::from_secs(1);
/// Longest debt: who moves more in one go is not locked out for longer, nor are others of its name.
const MAX_DEBT: Duration = Duration::from_secs(60);
/// Names whose meters are kept; beyond, those nobody uses are dropped.
const MAX_NAMES: usize = 4096;

/// The quotas of a node.
#[derive(Debug, Default)]
pub struct Quotas {
    clients: Table,
    principals: Table,
}

/// The quotas of names of one kind.
#[derive(Debug, Default)]
struct Table {
    /// Of names without a quota of their own.
    every: (u64, u64),
    named: Vec<ClientQuota>,
    /// Replaced as a whole when a connection says who it is, never while it moves bytes.
    meters: ArcSwap<HashMap<String, Arc<Meters>>>,
}

/// The meters of one name; connections share them.
#[derive(Debug)]
pub struct Meters {
    /// Of what it produces.
    pub produce: Option<Meter>,
    /// Of what it fetches.
    pub fetch: Option<Meter>,
}

/// One rate: a leaky bucket in one number, the time at which what was moved so far will have been paid.
#[derive(Debug)]
pub struct Meter {
    bytes_per_second: u64,
    paid_at_ns: AtomicU64,
}

impl Quotas {
    /// Quotas of bytes a second to produce and to fetch, for every client name without one of its own (0 = unlimited), of
    /// named clients, and of principals.
    pub fn new(every: (u64, u64), clients: Vec<ClientQuota>, principals: Vec<ClientQuota>) -> Self {
        let table = |every, named| Table { every, named, meters: ArcSwap::default() };
        Self { clients: table(every, clients), principals: table((0, 0), principals) }
    }

    /// The meters of a client; `None` when it may move what it likes.
    pub fn of_client(&self, name: &str) -> Option<Arc<Meters>> {
        self.clients.of(name)
    }

    /// The meters of a principal; `None` when it may move what it likes.
    pub fn of_principal(&self, name: &str) -> Option<Arc<Meters>> {
        self.principals.of(name)
    }
}

impl Table {
    fn of(&self, name: &str) -> Option<Arc<Meters>> {
        let named = self.named.iter().find(|quota| quota.matches(name));
        let (produce, fetch) =
            named.map_or(self.every, |quota| (quota.produce_bytes_per_second, quota.fetch_bytes_per_second));
        if (produce, fetch) == (0, 0) {
            return None;
        }
        if let Some(known) = self.meters.load().get(name) {
            return Some(Arc::clone(known));
        }
        let new = Arc::new(Meters { produce: Meter::new(produce), fetch: Meter::new(fetch) });
        self.meters.rcu(|meters| {
            let mut meters = HashMap::clone(meters);
            if meters.len() >= MAX_NAMES {
                // The table holds one, and so does the one it replaces.
                meters.retain(|_, meters| Arc::strong_count(meters) > 2);
            }
            meters.entry(name.to_owned()).or_insert_with(|| Arc::clone(&new));
            meters
        });
        // Another connection of this name may have been first.
        Some(self.meters.load().get(name).map_or(new, Arc::clone))
    }
}

impl Meter {
    fn new(bytes_per_second: u64) -> Option<Self> {
        (bytes_per_second > 0).then_some(Self { bytes_per_second, paid_at_ns: AtomicU64::new(0) })
    }

    /// Counts bytes moved at `now`; gives how long to wait before more.
    pub fn charge(&self, bytes: u64, now: Duration) -> Duration {
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let most = now_ns.saturating_add(u64::try_from((MAX_DEBT + BURST).as_nanos()).unwrap_or(u64::MAX));
        let paid = |paid_at: u64| paid_at.max(now_ns).saturating_add(cost).min(most.max(paid_at));
        let before = self.paid_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(paid(at)));
        let paid_at = paid(before.unwrap_or_else(|at| at));
        Duration::from_nanos(paid_at - now_ns).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn connections_of_one_name_share_a_meter_and_others_have_their_own() {
        let named = vec![ClientQuota::parse("reports=0/5").unwrap(), ClientQuota::parse("free=0/0").unwrap()];
        let quotas = Quotas::new((10, 0), named, vec![ClientQuota::parse("a=7/0").unwrap()]);
        let of = |name| quotas.of_client(name);
        assert!(Arc::ptr_eq(&of("a").unwrap(), &of("a").unwrap()));
        assert!(!Arc::ptr_eq(&of("a").unwrap(), &of("b").unwrap()));
        let reports = of("reports").unwrap();
        assert!(reports.produce.is_none() && reports.fetch.is_some());
        assert!(of("free").is_none());
        let principal = quotas.of_principal("a").unwrap();
        assert!(!Arc::ptr_eq(&of("a").unwrap(), &principal), "a principal is not a client of its name");
        assert!(quotas.of_principal("b").is_none() && Quotas::default().of_client("a").is_none());
    }

    #[test]
    fn a_debt_is_never_longer_than_a_minute() {
        let meter = Meter::new(1000).unwrap();
        let now = Duration::from_secs(5);
        assert_eq!(meter.charge(1 << 40, now), MAX_DEBT);
        assert_eq!(meter.charge(1 << 40, now), MAX_DEBT);
        assert_eq!(
            meter.charge(0, now + Duration::from_secs(20)),
            Duration::from_secs(40),
            "who comes later owes it too"
        );
    }

    proptest! {
        #[test]
        fn whoever_waits_as_told_keeps_the_rate(rate in 10_000_u64..1_000_000, moved in proptest::collection::vec(0_u64..500_000, 1..200)) {
            let meter = Meter::new(rate).unwrap();
            let mut now = Duration::from_secs(5);
            let start = now;
            for &bytes in &moved {
                now += meter.charge(bytes, now);
            }
            let seconds = (now - start + BURST).as_secs_f64();
            let total: u64 = moved.iter().sum();
            // A nanosecond a step is lost to rounding.
            prop_assert!(total as f64 <= (seconds + moved.len() as f64 * 1e-9) * rate as f64 + 1.0);
            // And nobody waits for more than was moved.
            prop_assert!((now - start).as_secs_f64() <= total as f64 / rate as f64);
        }
    }
}
