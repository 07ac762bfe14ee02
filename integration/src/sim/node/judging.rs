//! What the replication actor's shell does about slow followers, as `actors/src/replication/judging.rs` does.

use lance_actors::ingestion::replica_handlers::ReplicaReport;
use lance_actors::replication::judgement::{Refilling, by_node, joined, spared};
use lance_cluster::metadata::MetadataCommand;
use lance_cluster::replica::{EvictionCore, EvictionOptions, Verdict};
use lance_messages::id::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;

/// The judge, and what shards have reported of the window that ends.
pub struct Judge {
    core: EvictionCore,
    reports: u16,
    gathered: ReplicaReport,
    refilling: Refilling,
    /// Whose eviction was proposed: it counts once it is seen to be committed.
    proposed: BTreeSet<NodeId>,
}

impl Judge {
    /// One that has seen nothing. It is quicker to judge than the defaults are: runs last a few seconds.
    pub fn new() -> Self {
        let options = EvictionOptions {
            slow_windows: 2,
            rejoin_windows: 2,
            backoff: Duration::from_secs(1),
            ..EvictionOptions::default()
        };
        Self {
            core: EvictionCore::new(options),
            reports: 0,
            gathered: ReplicaReport::default(),
            refilling: Refilling::default(),
            proposed: BTreeSet::new(),
        }
    }

    /// A shard's report; gives what is proposed once every shard's is there.
    pub fn on_report(&mut self, report: ReplicaReport, shards: u16, now_ms: u64) -> Vec<MetadataCommand> {
        self.gathered.absorb(report);
        self.reports += 1;
        if self.reports < shards {
            return Vec::new();
        }
        self.reports = 0;
        let mut report = std::mem::take(&mut self.gathered);
        let windows = joined(std::mem::take(&mut report.windows));
        for window in windows.iter().filter(|window| window.evicted_count > 0) {
            if self.proposed.remove(&window.node) {
                self.core.on_evicted(window.node, now_ms);
            }
        }
        let refilling = self.refilling.evictions(&report).into_iter();
        let mut commands: Vec<MetadataCommand> =
            refilling.map(|(node, partitions)| MetadataCommand::Evict { node, partitions }).collect();
        let mut verdicts = Vec::new();
        self.core.on_window(&windows, report.sync_p99_micros, now_ms, &mut verdicts);
        for verdict in verdicts {
            match verdict {
                Verdict::Evict { node, .. } => {
                    let (swaps, partitions) = spared(node, &report);
                    commands.extend(swaps);
                    if !partitions.is_empty() {
                        commands.push(MetadataCommand::Evict { node, partitions });
                    }
                    self.proposed.insert(node);
                }
                Verdict::Rejoin { node, .. } => {
                    let rejoin = report.candidates.iter().filter(|one| one.may_rejoin && one.node == node);
                    let partitions = by_node(rejoin).remove(&node);
                    commands.extend(partitions.map(|partitions| MetadataCommand::Rejoin { node, partitions }));
                }
                Verdict::Demote { .. } | Verdict::Promote { .. } | Verdict::MoveLeadership { .. } => {}
            }
        }
        commands
    }
}
