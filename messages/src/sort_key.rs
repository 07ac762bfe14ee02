//! The order of batches across the cluster: one `u128` a batch, from a clock that never goes back.
//!
//! From the most significant bit: `timestamp_ns:64 | node_id:16 | actor_id:8 | sequence:40`; 16 bytes little-endian on disk.

use crate::id::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;

/// How far ahead of the own clock a peer's key may be: 5 minutes, in ns.
pub const MAX_AHEAD_NS: u64 = 5 * 60 * 1_000_000_000;

/// When and where a batch was made; unique in the cluster, and greater than every key its maker saw before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SortKey(pub u128);

impl SortKey {
    /// The key of these parts; of `sequence` the low 40 bits count.
    pub const fn new(timestamp_ns: u64, node: NodeId, actor: u8, sequence: u64) -> Self {
        let high = (timestamp_ns as u128) << 64;
        let low = ((node.0 as u64) << 48) | ((actor as u64) << SEQUENCE_BITS) | (sequence & SEQUENCE_MAX);
        Self(high | low as u128)
    }

    /// The least key of a moment: where a look-up by time starts.
    pub const fn at_time(timestamp_ns: u64) -> Self {
        Self((timestamp_ns as u128) << 64)
    }

    /// When the batch was made, in ns since the Unix epoch, by the clock of its node.
    pub const fn timestamp_ns(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The node that made the batch.
    pub const fn node(self) -> NodeId {
        NodeId((self.0 >> 48) as u16)
    }

    /// The actor of that node that made the batch.
    pub const fn actor(self) -> u8 {
        (self.0 >> SEQUENCE_BITS) as u8
    }

    /// Tells apart what one actor made in one ns.
    pub const fn sequence(self) -> u64 {
        (self.0 as u64) & SEQUENCE_MAX
    }

    /// The 16 bytes on disk.
    pub const fn to_le_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// The key of 16 bytes on disk.
    pub const fn from_le_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

impl fmt::Display for SortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.timestamp_ns(), self.node(), self.actor(), self.sequence())
    }
}

/// A peer's clock is too far ahead to follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("node {} is {} ms ahead of the clock here, more than the {} ms allowed", key.node(), ahead_ns / 1_000_000, MAX_AHEAD_NS / 1_000_000)]
pub struct ClockAhead {
    /// The key that was refused.
    pub key: SortKey,
    /// How far it is ahead of `now`.
    pub ahead_ns: u64,
}

/// A hybrid logical clock: follows the wall clock while that moves on, and counts while it stands or goes back.
#[derive(Clone, Debug)]
pub struct HybridClock {
    node: NodeId,
    actor: u8,
    /// The least (time, sequence) not given out yet.
    floor_ns: u64,
    floor_sequence: u64,
}

impl HybridClock {
    /// A clock that has given out nothing, for one actor of one node.
    pub const fn new(node: NodeId, actor: u8) -> Self {
        Self { node, actor, floor_ns: 0, floor_sequence: 0 }
    }

    /// A key greater than every one given out or observed before; its time is `now_ns` if that has moved on.
    pub fn tick(&mut self, now_ns: u64) -> SortKey {
        if now_ns > self.floor_ns {
            self.floor_ns = now_ns;
            self.floor_sequence = 0;
        }
        let key = SortKey::new(self.floor_ns, self.node, self.actor, self.floor_sequence);
        if self.floor_sequence < SEQUENCE_MAX {
            self.floor_sequence += 1;
        } else if self.floor_ns < u64::MAX {
            self.floor_ns += 1;
            self.floor_sequence = 0;
        }
        key
    }

    /// From now on every key is greater than `key`: for keys of the own log, which bind however far ahead they are.
    pub fn pass(&mut self, key: SortKey) {
        // Another node's bits stand above the sequence, so only a later time is surely greater.
        let after_ns = key.timestamp_ns().saturating_add(1);
        if after_ns > self.floor_ns {
            self.floor_ns = after_ns;
            self.floor_sequence = 0;
        }
    }

    /// As [`HybridClock::pass`], for the key of a peer: refused when it is over [`MAX_AHEAD_NS`] ahead of `now_ns`.
    pub fn observe(&mut self, key: SortKey, now_ns: u64) -> Result<(), ClockAhead> {
        let ahead_ns = key.timestamp_ns().saturating_sub(now_ns);
        if ahead_ns > MAX_AHEAD_NS {
            return Err(ClockAhead { key, ahead_ns });
        }
        self.pass(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_has_golden_bytes() {
        let key = SortKey::new(0x1122_3344_5566_7788, NodeId(0x0A0B), 0xC0, 0x01_0203_0405);
        assert_eq!(key.0, 0x1122_3344_5566_7788_0A0B_C001_0203_0405);
        assert_eq!(key.to_le_bytes()[..8], [0x05, 0x04, 0x03, 0x02, 0x01, 0xC0, 0x0B, 0x0A]);
        assert_eq!(SortKey::from_le_bytes(key.to_le_bytes()), key);
        assert_eq!((key.node(), key.actor(), key.sequence()), (NodeId(0x0A0B), 0xC0, 0x01_0203_0405));
    }

    #[test]
    fn a_clock_that_goes_back_still_gives_greater_keys() {
        let mut clock = HybridClock::new(NodeId(1), 2);
        let first = clock.tick(1_000);
        let second = clock.tick(500);
        assert!(second > first);
        assert_eq!(second.timestamp_ns(), 1_000);
        assert_eq!(clock.tick(1_001), SortKey::new(1_001, NodeId(1), 2, 0));
    }

    #[test]
    fn a_full_sequence_carries_into_the_time() {
        let mut clock = HybridClock { node: NodeId(1), actor: 0, floor_ns: 10, floor_sequence: SEQUENCE_MAX };
        assert_eq!(clock.tick(10), SortKey::new(10, NodeId(1), 0, SEQUENCE_MAX));
        assert_eq!(clock.tick(10), SortKey::new(11, NodeId(1), 0, 0));
    }

    #[test]
    fn an_observed_key_is_passed_even_by_a_lower_node() {
        let mut clock = HybridClock::new(NodeId(1), 0);
        let seen = SortKey::new(5_000, NodeId(9), 3, 17);
        clock.observe(seen, 4_000).unwrap();
        assert!(clock.tick(4_001) > seen);
    }

    #[test]
    fn a_peer_over_five_minutes_ahead_is_refused_but_the_own_log_is_passed() {
        let mut clock = HybridClock::new(NodeId(1), 0);
        let seen = SortKey::new(MAX_AHEAD_NS + 101, NodeId(2), 0, 0);
        assert_eq!(clock.observe(seen, 100), Err(ClockAhead { key: seen, ahead_ns: MAX_AHEAD_NS + 1 }));
        assert!(clock.tick(100) < seen);
        clock.pass(seen);
        assert!(clock.tick(100) > seen);
    }

    proptest! {
        #[test]
        fn keys_only_ever_grow(times in prop::collection::vec((any::<bool>(), 0u64..50), 1..200)) {
            let mut clock = HybridClock::new(NodeId(3), 1);
            let mut last = SortKey(0);
            for (foreign, time) in times {
                if foreign {
                    let key = SortKey::new(time, NodeId(60_000), 255, SEQUENCE_MAX);
                    clock.pass(key);
                    last = last.max(key);
                } else {
                    let key = clock.tick(time);
                    prop_assert!(key > last);
                    last = key;
                }
            }
        }
    }
}
