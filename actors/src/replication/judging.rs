//! Slow followers: what the judge says of them, and what is proposed about it.

use super::actor::ReplicationActor;
use crate::ingestion::core::moving::{Candidate, Counted};
use crate::ingestion::replica_handlers::{ReplicaReport, ReportReplicas};
use crate::metadata::actor::ProposeChange;
use actix::prelude::*;
use futures_util::future::join_all;
use lance_cluster::metadata::{MetadataAnswer, MetadataCommand};
use lance_cluster::replica::{FollowerWindow, Verdict};
use lance_messages::id::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often followers that could count again are looked for.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(250);

impl ReplicationActor {
    /// Asks the shards about the followers of what is led here.
    pub(super) fn look_at_followers(&mut self, ctx: &mut Context<Self>) {
        if self.setup.view.load().is_alone() || self.looking {
            return;
        }
        self.looking = true;
        let now_ms = self.now_ms();
        let window_ms = u64::try_from(self.setup.eviction_window.as_millis()).unwrap_or(u64::MAX);
        let window_ends = now_ms >= self.window_began_ms.saturating_add(window_ms);
        if window_ends {
            self.window_began_ms = now_ms;
        }
        let asked: Vec<_> = self.setup.shards.iter().map(|shard| shard.send(ReportReplicas { window_ends })).collect();
        let reports = actix::fut::wrap_future::<_, Self>(join_all(asked));
        ctx.spawn(reports.map(move |reports, actor, ctx| {
            actor.looking = false;
            let mut all = ReplicaReport::default();
            for report in reports.into_iter().flatten() {
                all.windows.extend(report.windows);
                all.counted.extend(report.counted);
                all.candidates.extend(report.candidates);
            }
            actor.admit(&all.candidates, ctx);
            if window_ends {
                actor.judge(all, ctx);
            }
        }));
    }

    /// Replicas that began a new life and hold everything count from now on.
    fn admit(&mut self, candidates: &[Candidate], ctx: &mut Context<Self>) {
        for (node, admitted) in by_node(candidates.iter().filter(|candidate| candidate.may_be_admitted)) {
            tracing::info!(%node, partitions = admitted.len(), "replicas hold everything again: admitting them");
            self.propose(MetadataCommand::Admit { node, partitions: admitted }, None, ctx);
        }
    }

    fn judge(&mut self, report: ReplicaReport, ctx: &mut Context<Self>) {
        let mut verdicts = Vec::new();
        let now_ms = self.now_ms();
        self.eviction.on_window(&joined(report.windows), None, now_ms, &mut verdicts);
        for verdict in verdicts {
            match verdict {
                Verdict::Demote { node, figures } => {
                    tracing::info!(%node, ?figures, "a follower is slow: it still counts");
                }
                Verdict::Promote { node, figures } => tracing::info!(%node, ?figures, "a follower is fast again"),
                Verdict::Evict { node, cause, figures } => {
                    let partitions = counted_on(node, &report.counted);
                    if !partitions.is_empty() {
                        tracing::warn!(%node, ?cause, ?figures, partitions = partitions.len(), "evicting a follower");
                        self.propose(MetadataCommand::Evict { node, partitions }, Some(node), ctx);
                    }
                }
                Verdict::Rejoin { node, figures } => {
                    let rejoin = report.candidates.iter().filter(|one| one.may_rejoin && one.node == node);
                    if let Some(partitions) = by_node(rejoin).remove(&node) {
                        tracing::info!(%node, ?figures, partitions = partitions.len(), "a follower comes back");
                        self.propose(MetadataCommand::Rejoin { node, partitions }, None, ctx);
                    }
                }
                Verdict::MoveLeadership { own_sync_p99_micros, slow } => {
                    tracing::warn!(own_sync_p99_micros, ?slow, "this node is slow, not its followers");
                }
            }
        }
    }

    fn propose(&self, command: MetadataCommand, evicted: Option<NodeId>, ctx: &mut Context<Self>) {
        let proposed = actix::fut::wrap_future::<_, Self>(self.setup.metadata.send(ProposeChange(command)));
        ctx.spawn(proposed.map(move |answer, actor, _| match (answer, evicted) {
            (Ok(Ok(MetadataAnswer::PartitionsChanged { changed, .. })), Some(node)) if !changed.is_empty() => {
                let now_ms = actor.now_ms();
                actor.eviction.on_evicted(node, now_ms);
            }
            (Ok(Err(failure)), _) => tracing::debug!(?failure, "a change of a quorum was not made"),
            _ => {}
        }));
    }
}

type Admissions = Vec<(
    lance_messages::id::TopicPartition,
    lance_messages::id::ReplicaIncarnation,
    lance_messages::id::LeaderEpoch,
    u32,
)>;

fn by_node<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> BTreeMap<NodeId, Admissions> {
    let mut nodes: BTreeMap<NodeId, Admissions> = BTreeMap::new();
    for one in candidates {
        let entry = (one.partition, one.incarnation, one.epoch, one.in_quorum_version);
        nodes.entry(one.node).or_default().push(entry);
    }
    nodes
}

fn counted_on(
    node: NodeId,
    counted: &[Counted],
) -> Vec<(lance_messages::id::TopicPartition, lance_messages::id::LeaderEpoch, u32)> {
    let on_node = counted.iter().filter(|counted| counted.node == node);
    on_node.map(|counted| (counted.partition, counted.epoch, counted.in_quorum_version)).collect()
}

/// The windows of several shards as one for each node.
fn joined(windows: Vec<FollowerWindow>) -> Vec<FollowerWindow> {
    let mut nodes: BTreeMap<NodeId, FollowerWindow> = BTreeMap::new();
    for window in windows {
        nodes
            .entry(window.node)
            .and_modify(|known| {
                known.p99_micros = known.p99_micros.max(window.p99_micros);
                known.acks = known.acks.saturating_add(window.acks);
                known.outstanding_ms = known.outstanding_ms.max(window.outstanding_ms);
                known.sync_p99_micros = known.sync_p99_micros.max(window.sync_p99_micros);
                known.in_quorum_count += window.in_quorum_count;
                known.evicted_count += window.evicted_count;
            })
            .or_insert(window);
    }
    nodes.into_values().collect()
}
