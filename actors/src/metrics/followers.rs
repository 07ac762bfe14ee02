//! What the judge of followers saw last, and how often it decided what.

use super::{Figure, LatencyCounts, LatencyHistogram};
use arc_swap::ArcSwap;
use lance_cluster::replica::Figures;
use lance_messages::id::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A decision about a follower, counted once it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FollowerDecision {
    /// Replicas that hold everything again count from now on.
    Admit,
    /// Pushed nothing any more, but sent it later and in larger pieces.
    Demote,
    /// Pushed to again.
    Promote,
    /// No longer waited for: slower than the others.
    EvictSlow,
    /// No longer waited for: it owed an ack for too long.
    EvictSilent,
    /// Waited for again.
    Rejoin,
}

impl FollowerDecision {
    /// As labels and logs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Demote => "demote",
            Self::Promote => "promote",
            Self::EvictSlow => "evict-slow",
            Self::EvictSilent => "evict-silent",
            Self::Rejoin => "rejoin",
        }
    }
}

/// A follower as it was judged last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgedFollower {
    /// Which.
    pub node: NodeId,
    /// What it was judged by.
    pub figures: Figures,
    /// Whether nothing is pushed to it.
    pub is_demoted: bool,
}

type Latencies = BTreeMap<NodeId, Arc<LatencyHistogram>>;

/// Written by the replication actor, latencies by the shards; read by scrapes.
#[derive(Debug, Default)]
pub struct FollowerFigures {
    latencies: ArcSwap<Latencies>,
    judged: ArcSwap<Vec<JudgedFollower>>,
    decisions: ArcSwap<BTreeMap<(NodeId, FollowerDecision), u64>>,
    /// How often this node found itself slower than its followers.
    pub slow_leader: Figure,
}

impl FollowerFigures {
    /// The followers of what is led here, at the end of a window.
    pub fn show(&self, judged: Vec<JudgedFollower>) {
        self.judged.store(Arc::new(judged));
    }

    /// Counts a decision.
    pub fn decided(&self, decision: FollowerDecision, node: NodeId) {
        let mut decisions = BTreeMap::clone(&self.decisions.load());
        *decisions.entry((node, decision)).or_default() += 1;
        self.decisions.store(Arc::new(decisions));
    }

    /// Adds how long a follower took from appends to acks.
    pub fn add_latencies(&self, node: NodeId, counts: &LatencyCounts) {
        if let Some(histogram) = self.latencies.load().get(&node) {
            return histogram.add(counts);
        }
        self.latencies.rcu(|latencies| {
            let mut latencies = Latencies::clone(latencies);
            latencies.entry(node).or_default();
            latencies
        });
        if let Some(histogram) = self.latencies.load().get(&node) {
            histogram.add(counts);
        }
    }

    /// From appends to acks, by node.
    pub fn latencies(&self) -> Arc<BTreeMap<NodeId, Arc<LatencyHistogram>>> {
        self.latencies.load_full()
    }

    /// The followers as they were judged last.
    pub fn judged(&self) -> Arc<Vec<JudgedFollower>> {
        self.judged.load_full()
    }

    /// How often which follower was decided about.
    pub fn decisions(&self) -> Arc<BTreeMap<(NodeId, FollowerDecision), u64>> {
        self.decisions.load_full()
    }
}
