//! Leaders whose disks are slow: what they lead goes to others, and they get nothing to lead for a while, for longer each time.

use super::core::MetadataCore;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use std::collections::BTreeMap;

/// How long a node that found itself slow is given nothing to lead at first; doubles each time.
const FIRST_MS: u64 = 60_000;
/// The longest of these times, and how long after one the next counts as repeated.
const LONGEST_MS: u64 = 600_000;
/// A leadership that could go nowhere by then stays until it is asked for again.
const WANTED_MS: u64 = 30_000;

#[derive(Clone, Copy, Debug)]
struct Slow {
    until_ms: u64,
    length_ms: u64,
}

/// Who is slow, and what shall be led by others.
#[derive(Debug, Default)]
pub(super) struct Relief {
    nodes: BTreeMap<NodeId, Slow>,
    wanted: BTreeMap<TopicPartition, (LeaderEpoch, u64)>,
}

impl Relief {
    /// A leader found that its own disk is what its followers wait for.
    pub(super) fn on_leader_slow(
        &mut self,
        node: NodeId,
        led: impl Iterator<Item = (TopicPartition, LeaderEpoch)>,
        now_ms: u64,
    ) {
        let length_ms = match self.nodes.get(&node) {
            Some(slow) if now_ms < slow.until_ms => None,
            Some(slow) if now_ms < slow.until_ms.saturating_add(LONGEST_MS) => {
                Some(slow.length_ms.saturating_mul(2).min(LONGEST_MS))
            }
            _ => Some(FIRST_MS),
        };
        if let Some(length_ms) = length_ms {
            self.nodes.insert(node, Slow { until_ms: now_ms.saturating_add(length_ms), length_ms });
        }
        self.wanted.extend(led.map(|(partition, epoch)| (partition, (epoch, now_ms.saturating_add(WANTED_MS)))));
    }

    /// Whether nothing is to be led by `node`, unless nobody else can.
    pub(super) fn is_slow(&self, node: NodeId, now_ms: u64) -> bool {
        self.nodes.get(&node).is_some_and(|slow| now_ms < slow.until_ms)
    }

    /// Whether another node shall lead `partition` instead of its leader in this epoch.
    pub(super) fn is_wanted(&self, partition: TopicPartition, epoch: LeaderEpoch) -> bool {
        self.wanted.get(&partition).is_some_and(|(wanted, _)| *wanted == epoch)
    }

    /// Whether there is anything to move, once what came to nothing is dropped.
    pub(super) fn is_asked_for(&mut self, now_ms: u64) -> bool {
        self.wanted.retain(|_, (_, until_ms)| now_ms < *until_ms);
        !self.wanted.is_empty()
    }
}

impl MetadataCore {
    /// A leader found that its own disk is slower than those of its followers: others shall lead these.
    pub fn on_leader_slow(&mut self, node: NodeId, led: &[(TopicPartition, LeaderEpoch)]) {
        self.controller.on_leader_slow(&self.state, node, led, self.now_ms);
    }
}
