//! Opening the logs of an ingestion actor, away from its thread.

use super::actor::IngestionActor;
use super::opener::{OpenRequest, Opened};
use crate::replication::actor::ReplicaNews;
use crate::supervision::ActorState;
use actix::fut::ActorFutureExt;
use actix::prelude::*;
use hashbrown::HashSet;
use lance_messages::id::TopicPartition;
use std::sync::Arc;
use std::time::Duration;
use tracing::Span;

/// Logs for which there were no descriptors, memory or space are opened again after this.
const OPEN_RETRY: Duration = Duration::from_secs(1);
/// Between two looks whether removed logs are gone.
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

impl IngestionActor {
    /// Opens logs away from this thread and hands them to the core; then asks for epochs.
    pub(super) fn open_logs(&mut self, partitions: Vec<TopicPartition>, ctx: &mut Context<Self>, wait: bool) {
        let requests: Vec<OpenRequest> = partitions.iter().map(|partition| self.marks.request(*partition)).collect();
        let opener = Arc::clone(&self.setup.opener);
        let now_ns = self.setup.clock.now().wall_ns;
        let openings = self.openings.clone();
        let asked: Vec<(TopicPartition, u32)> = partitions.iter().map(|it| (*it, self.copy_version(*it))).collect();
        let removals = self.removals.clone();
        let span = self.life.restarting().cloned().unwrap_or_else(Span::none);
        let span = tracing::info_span!(
            parent: &span,
            "recovery",
            lance.actor.name = %self.life.vitals.name,
            lance.recovery.logs = requests.len(),
            lance.recovery.failed = tracing::field::Empty,
            lance.recovery.truncated_bytes = tracing::field::Empty,
        );
        let opening = async move {
            removals.finished().await;
            let opened = opener.open_all(requests, now_ns, openings, &span).await;
            span.record("lance.recovery.failed", opened.iter().filter(|opened| opened.result.is_err()).count());
            let truncated_bytes: u64 = opened.iter().map(|opened| opened.truncated_bytes).sum();
            span.record("lance.recovery.truncated_bytes", truncated_bytes);
            opened
        };
        let opening = actix::fut::wrap_future::<_, Self>(opening);
        let opening = opening.map(move |opened, actor, ctx| actor.on_logs_opened(opened, &asked, ctx));
        if wait {
            ctx.wait(opening);
        } else {
            ctx.spawn(opening);
        }
    }

    /// By which version of its replica set this node was given its copy of the partition.
    pub(super) fn copy_version(&self, partition: TopicPartition) -> u32 {
        self.copy_versions.get(&partition).copied().unwrap_or(0)
    }

    fn on_logs_opened(&mut self, opened: Vec<Opened>, asked: &[(TopicPartition, u32)], ctx: &mut Context<Self>) {
        self.life.vitals.set_state(ActorState::Running);
        let mut wanted = Vec::with_capacity(opened.len());
        let metrics = Arc::clone(&self.setup.metrics);
        // What was deleted meanwhile is nobody's to lead, and a copy given anew is opened again.
        let assigned: HashSet<TopicPartition> = self.assigned.iter().copied().collect();
        let asked = asked.iter().filter(|(partition, version)| self.copy_version(*partition) == *version);
        let assigned: HashSet<TopicPartition> = asked.map(|(it, _)| *it).filter(|it| assigned.contains(it)).collect();
        opened.iter().filter_map(|opened| opened.result.as_ref().ok()).for_each(|log| self.marks.note_opened(log));
        let (mut again, mut damaged) = (Vec::new(), Vec::new());
        let replicated = self.replicated.clone();
        self.with_core(ctx, |core, _, effects| {
            for opened in opened {
                // What could not be synced is known to this process alone: the next one finds the damage again.
                let is_latched = opened.result.as_ref().is_ok_and(|log| log.latched().is_some());
                let found = opened.damage().filter(|_| replicated.contains(&opened.partition) && !is_latched);
                let Opened { partition, result, may_pass, truncated_bytes, .. } = opened;
                metrics.recovery_truncated_bytes.add(truncated_bytes);
                if !assigned.contains(&partition) {
                    continue;
                }
                if let Some((good_end, damage)) = found {
                    damaged.push((partition, good_end, damage));
                    match result {
                        Ok(log) => core.on_log_opened(partition, log, effects),
                        Err(reason) => core.on_log_failed(partition, reason, effects),
                    }
                    continue;
                }
                match result {
                    Err(reason) if may_pass => {
                        tracing::warn!(%partition, %reason, "a log cannot be opened: trying again");
                        again.push(partition);
                    }
                    Ok(log) => {
                        // A log that stays stopped is led by nobody here: asking for its epoch would never settle.
                        if log.offline().is_none() && log.latched().is_none() {
                            wanted.push((partition, log.last_epoch().0));
                        }
                        core.on_log_opened(partition, log, effects);
                    }
                    Err(reason) => core.on_log_failed(partition, reason, effects),
                }
            }
        });
        self.count_open();
        self.want_epochs(wanted);
        for (partition, good_end, damage) in damaged {
            tracing::error!(%partition, %damage, good_end, "a damaged replica takes part in nothing until it is refilled from its leader");
            self.tell_replication(ReplicaNews::Damaged(partition, good_end));
        }
        if !again.is_empty() {
            ctx.run_later(OPEN_RETRY, |actor, ctx| {
                again.retain(|partition| actor.assigned.contains(partition));
                actor.open_logs(again, ctx, false);
            });
        }
    }

    /// Opens every log, with nothing else meanwhile; removals under way need this actor, and come first.
    pub(super) fn open_all_logs(&mut self, ctx: &mut Context<Self>) {
        if self.removals.is_idle() {
            self.open_logs(self.assigned.clone(), ctx, true);
        } else {
            ctx.run_later(REMOVAL_PAUSE, |actor, ctx| actor.open_all_logs(ctx));
        }
    }
}
