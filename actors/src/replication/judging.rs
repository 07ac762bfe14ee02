//! Slow followers: what the judge says of them, and what is proposed about it.

use super::actor::ReplicationActor;
use super::judgement::{by_node, concerned, joined, spared};
use crate::events::{Event, EventKind, events};
use crate::ingestion::core::moving::Candidate;
use crate::ingestion::replica_handlers::{DemoteFollowers, ReplicaReport, ReportReplicas};
use crate::metadata::actor::ProposeChange;
use crate::metadata::remote::LeaderSlow;
use crate::metrics::{FollowerDecision, JudgedFollower};
use actix::prelude::*;
use futures_util::future::join_all;
use lance_cluster::metadata::{MetadataAnswer, MetadataCommand};
use lance_cluster::replica::{EvictionCause, Figures, Verdict};
use lance_messages::id::NodeId;
use std::sync::Arc;
use std::time::Duration;
use tracing::Span;

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
            reports.into_iter().flatten().for_each(|report| all.absorb(report));
            actor.admit(&all.candidates, ctx);
            actor.replace(std::mem::take(&mut all.replacements), ctx);
            if window_ends {
                actor.judge(all, ctx);
            }
        }));
    }

    /// Replicas that began a new life and hold everything count from now on.
    fn admit(&mut self, candidates: &[Candidate], ctx: &mut Context<Self>) {
        for (node, admitted) in by_node(candidates.iter().filter(|candidate| candidate.may_be_admitted)) {
            let partitions = admitted.len();
            let span = tracing::info_span!("admit", lance.follower = node.0, lance.partitions = partitions);
            span.in_scope(|| tracing::info!(%node, partitions, "replicas hold everything again: admitting them"));
            let decided = Decided { decision: FollowerDecision::Admit, kind: EventKind::Admit, node, judged: None };
            self.propose(MetadataCommand::Admit { node, partitions: admitted }, Some(decided), span, ctx);
        }
    }

    /// Planned exchanges of replicas that nothing is lost by any more.
    fn replace(&mut self, replacements: Vec<MetadataCommand>, ctx: &mut Context<Self>) {
        for replacement in replacements {
            let span = tracing::info_span!("replace replica");
            if let MetadataCommand::ReplaceReplica { partition, replicas, newcomer, .. } = &replacement {
                let newcomer = newcomer.map(|(node, _)| node.0);
                span.in_scope(|| tracing::info!(%partition, ?replicas, newcomer, "changing who holds a partition"));
            }
            self.propose(replacement, None, span, ctx);
        }
    }

    /// Replicas that were cut for damage and take more than a window to refill leave the in-quorum set: others that are
    /// damaged too learn from it that they are needed.
    fn evict_refilling(&mut self, report: &ReplicaReport, ctx: &mut Context<Self>) {
        for (node, partitions) in self.refilling.evictions(report) {
            let span = tracing::info_span!("evict refilling", lance.follower = node.0);
            let count = partitions.len();
            span.in_scope(|| tracing::info!(%node, partitions = count, "damaged replicas do not count until refilled"));
            self.propose(MetadataCommand::Evict { node, partitions }, None, span, ctx);
        }
    }

    fn judge(&mut self, mut report: ReplicaReport, ctx: &mut Context<Self>) {
        self.evict_refilling(&report, ctx);
        let mut verdicts = Vec::new();
        let now_ms = self.now_ms();
        let view = self.setup.view.load_full();
        self.eviction.retain(|node| view.nodes.iter().any(|(member, _)| *member == node));
        let windows = joined(std::mem::take(&mut report.windows));
        self.eviction.on_window(&windows, report.sync_p99_micros, now_ms, &mut verdicts);
        let judged = self.eviction.figures(&windows).into_iter();
        let judged =
            judged.map(|(node, figures)| JudgedFollower { node, figures, is_demoted: self.eviction.is_demoted(node) });
        let followers = Arc::clone(&self.setup.metrics);
        let followers = &followers.followers;
        followers.show(judged.collect());
        self.tell_demoted();
        for verdict in verdicts {
            match verdict {
                Verdict::Demote { node, figures } => {
                    let _inside = verdict_span("demote", node, None, &figures).entered();
                    tracing::info!(%node, ?figures, "a follower is slow: it still counts");
                    followers.decided(FollowerDecision::Demote, node);
                    events().note(Event::of_follower(EventKind::Demote, node, None, Some(figures), 0));
                }
                Verdict::Promote { node, figures } => {
                    let _inside = verdict_span("promote", node, None, &figures).entered();
                    tracing::info!(%node, ?figures, "a follower is fast again");
                    followers.decided(FollowerDecision::Promote, node);
                    events().note(Event::of_follower(EventKind::Promote, node, None, Some(figures), 0));
                }
                Verdict::Evict { node, cause, figures } => self.evict((node, cause, figures), &report, ctx),
                Verdict::Rejoin { node, figures } => {
                    let rejoin = report.candidates.iter().filter(|one| one.may_rejoin && one.node == node);
                    if let Some(partitions) = by_node(rejoin).remove(&node) {
                        let span = verdict_span("rejoin", node, None, &figures);
                        let count = partitions.len();
                        span.in_scope(|| tracing::info!(%node, ?figures, partitions = count, "a follower comes back"));
                        let (decision, kind) = (FollowerDecision::Rejoin, EventKind::Rejoin);
                        let decided = Decided { decision, kind, node, judged: Some((None, figures)) };
                        self.propose(MetadataCommand::Rejoin { node, partitions }, Some(decided), span, ctx);
                    }
                }
                Verdict::MoveLeadership { own_sync_p99_micros, slow } => {
                    let _inside = tracing::info_span!("slow leader", lance.sync_p99_us = own_sync_p99_micros).entered();
                    let led = concerned(&slow, &report);
                    let partitions = led.len();
                    tracing::warn!(
                        own_sync_p99_micros,
                        ?slow,
                        partitions,
                        "this node is slow, not its followers: others shall lead"
                    );
                    self.tell_metadata(LeaderSlow(led));
                    followers.slow_leader.add(1);
                    let node = self.setup.view.load().node;
                    events().note(Event { node, ..Event::new(EventKind::SlowLeader) });
                }
            }
        }
    }

    /// Tells the shards who is slow, in every window: they forget it when they start again, and with every new leadership.
    fn tell_demoted(&mut self) {
        let demoted = self.eviction.demoted();
        if demoted.is_empty() && !std::mem::take(&mut self.told_demoted) {
            return;
        }
        self.told_demoted = !demoted.is_empty();
        for shard in &self.setup.shards {
            // One that is full hears of it in the next window.
            self.told_demoted |= shard.try_send(DemoteFollowers(demoted.clone())).is_err();
        }
    }

    /// Takes a follower out of what is waited for, or puts a spare in its place.
    fn evict(
        &mut self,
        (node, cause, figures): (NodeId, EvictionCause, Figures),
        report: &ReplicaReport,
        ctx: &mut Context<Self>,
    ) {
        // Who is being emptied, or is under repair, stays: that would be refused, window after window.
        if self.setup.view.load().draining.contains(&node) {
            return;
        }
        let (swaps, partitions) = spared(node, report);
        let decision = match cause {
            EvictionCause::Slow => FollowerDecision::EvictSlow,
            EvictionCause::Silent => FollowerDecision::EvictSilent,
        };
        let judged = Some((Some(cause), figures));
        for swap in swaps {
            let span = verdict_span("swap in", node, Some(cause), &figures);
            span.in_scope(|| {
                tracing::warn!(%node, ?cause, ?figures, ?swap, "a spare takes the place of a follower");
            });
            self.propose(swap, Some(Decided { decision, kind: EventKind::SwapIn, node, judged }), span, ctx);
        }
        if !partitions.is_empty() {
            let span = verdict_span("evict", node, Some(cause), &figures);
            let count = partitions.len();
            span.in_scope(|| tracing::warn!(%node, ?cause, ?figures, partitions = count, "evicting a follower"));
            let decided = Decided { decision, kind: EventKind::Evict, node, judged };
            self.propose(MetadataCommand::Evict { node, partitions }, Some(decided), span, ctx);
        }
    }

    /// Proposes within `span`, which ends with the outcome; `decided` counts once it is committed.
    fn propose(&self, command: MetadataCommand, decided: Option<Decided>, span: Span, ctx: &mut Context<Self>) {
        let proposed = actix::fut::wrap_future::<_, Self>(self.setup.metadata.send(ProposeChange(command)));
        ctx.spawn(proposed.map(move |answer, actor, _| {
            let _inside = span.entered();
            let changed = match answer {
                Ok(Ok(MetadataAnswer::PartitionsChanged { changed, .. })) => changed.len(),
                Ok(Ok(MetadataAnswer::PartitionChanged { .. })) => 1,
                Ok(Err(failure)) => {
                    tracing::debug!(?failure, "a change of a quorum was not made");
                    0
                }
                _ => 0,
            };
            let Some(Decided { decision, kind, node, judged }) = decided.filter(|_| changed > 0) else { return };
            tracing::info!(%node, decision = decision.as_str(), changed, "committed");
            actor.setup.metrics.followers.decided(decision, node);
            let (cause, figures) = judged.map_or((None, None), |(cause, figures)| (cause, Some(figures)));
            events().note(Event::of_follower(kind, node, cause, figures, changed));
            if matches!(decision, FollowerDecision::EvictSlow | FollowerDecision::EvictSilent) {
                let now_ms = actor.now_ms();
                actor.eviction.on_evicted(node, now_ms);
            }
        }));
    }
}

/// An operator lifts the back-off of a follower.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct LiftBackOff(pub NodeId);

impl Handler<LiftBackOff> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: LiftBackOff, _: &mut Self::Context) {
        self.eviction.admit(message.0);
        tracing::info!(node = %message.0, "the back-off of a follower is lifted");
    }
}

/// What was decided about a follower; told once it holds.
#[derive(Clone, Copy)]
struct Decided {
    decision: FollowerDecision,
    kind: EventKind,
    node: NodeId,
    /// Why it is evicted, and what led to the decision.
    judged: Option<(Option<EvictionCause>, Figures)>,
}

/// The span of a verdict, with what led to it.
fn verdict_span(name: &'static str, node: NodeId, cause: Option<EvictionCause>, figures: &Figures) -> Span {
    let Figures { p99_micros, others_median_micros, threshold_micros, slow_count, outstanding_ms } = *figures;
    tracing::info_span!(
        "judge",
        otel.name = name,
        lance.follower = node.0,
        lance.cause = cause.map(|cause| match cause {
            EvictionCause::Slow => "slow",
            EvictionCause::Silent => "silent",
        }),
        lance.ack_p99_us = p99_micros,
        lance.others_median_us = others_median_micros,
        lance.threshold_us = threshold_micros,
        lance.slow_windows = slow_count,
        lance.outstanding_ms = outstanding_ms,
    )
}
