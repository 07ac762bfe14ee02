//! What an ingestion actor does with each message of its mailbox; [`super::maintenance`] has those of the side actors.

use super::actor::{IngestionActor, RegisterConnection, ServeReplication, SyncEverything, UnregisterConnection};
use super::core::IngestionCore;
use crate::stages::batches::StepTimes;
use crate::supervision::shell::fail_along;
use actix::fut::ActorFuture;
use actix::prelude::*;
use hashbrown::{HashMap, HashSet};
use lance_messages::id::TopicPartition;
use lance_messages::mail::ingestion::{
    AssignPartitions, CancelWait, DiskDone, Fetch, LookUpOffset, PollerFailed, Produce,
};
use lance_storage::disk::{DiskCompletion, OpTimes};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

/// Ends once everything appended is durable and the marks can be written.
struct Quiet;

impl ActorFuture<IngestionActor> for Quiet {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut IngestionActor,
        _: &mut Context<IngestionActor>,
        _: &mut TaskContext<'_>,
    ) -> Poll<()> {
        // Completions come through the mailbox, which polls this again.
        match actor.core.as_ref().is_none_or(IngestionCore::is_quiet) && actor.flushed.is_some() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Handler<Produce> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: Produce, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, now, effects| {
            for request in message.requests {
                core.on_produce(message.connection, request, now, effects);
            }
        });
    }
}

impl Handler<Fetch> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: Fetch, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, now, effects| core.on_fetch(message, now, effects));
    }
}

impl Handler<CancelWait> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: CancelWait, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, now, effects| core.on_cancel_wait(message, now, effects));
    }
}

impl Handler<LookUpOffset> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: LookUpOffset, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, now, effects| core.on_look_up(message, now, effects));
    }
}

impl Handler<DiskDone<DiskCompletion>> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: DiskDone<DiskCompletion>, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        let current = message.ingestion_life == self.lives;
        let clock = self.setup.clock;
        self.with_core(ctx, |core, now, effects| {
            for completion in message.completions {
                if current {
                    let OpTimes { started, written } = completion.times;
                    let [started, written] = [started, written].map(|at| at.map(|at| clock.elapsed_at(at)));
                    core.set_step_times(StepTimes { started, written });
                    core.on_disk_done(completion.token as u32, completion, now, effects);
                } else {
                    core.on_stale_completion(completion);
                }
            }
        });
    }
}

impl Handler<PollerFailed> for IngestionActor {
    type Result = ();

    fn handle(&mut self, _: PollerFailed, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        fail_along(self, ctx, "the poller failed: logs are opened again through recovery".to_owned());
    }
}

impl Handler<AssignPartitions> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: AssignPartitions, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        let with_copies = |partitions: &[TopicPartition], versions: &HashMap<TopicPartition, u32>| -> HashSet<_> {
            partitions.iter().map(|it| (*it, versions.get(it).copied().unwrap_or(0))).collect()
        };
        let before = with_copies(&self.assigned, &self.copy_versions);
        self.copy_versions = message.copy_versions.into_iter().collect();
        self.marks.beginnings = message.beginnings.into_iter().collect();
        let after = with_copies(&message.partitions, &self.copy_versions);
        let added: Vec<TopicPartition> = after.difference(&before).map(|copy| copy.0).collect();
        let gone: Vec<TopicPartition> = before.difference(&after).map(|copy| copy.0).collect();
        self.assigned = message.partitions;
        self.replicated = message.replicated.into_iter().collect();
        self.setup.metrics.partitions.set(self.assigned.len() as u64);
        for partition in &gone {
            self.marks.forget(*partition);
            // Should it come back: it holds nothing then.
            self.marks_moved = true;
            if self.stopped.remove(partition) {
                self.setup.metrics.partitions_stopped.sub(1);
            }
        }
        self.forget_epochs(gone.clone());
        let deleted = message.deleted;
        let mut logs = Vec::new();
        self.with_core(ctx, |core, _, effects| {
            for partition in gone {
                logs.push((partition, core.on_unassigned(partition, deleted.contains(&partition.topic), effects)));
            }
            added.iter().for_each(|partition| core.on_assigned(*partition));
        });
        self.count_open();
        for (partition, log) in logs {
            let under_way = self.removals.begin();
            match deleted.contains(&partition.topic) {
                true => self.setup.opener.remove(partition, log, self.openings.clone(), under_way),
                false => self.remove_copy((partition, log, under_way), ctx),
            }
        }
        if !added.is_empty() {
            self.open_logs(added, ctx, false);
        }
    }
}

impl Handler<RegisterConnection> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: RegisterConnection, _: &mut Self::Context) {
        self.connections.insert(message.connection, message.reply_to);
    }
}

impl Handler<UnregisterConnection> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: UnregisterConnection, _: &mut Self::Context) {
        self.connections.remove(&message.0);
    }
}

impl Handler<SyncEverything> for IngestionActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: SyncEverything, ctx: &mut Self::Context) -> Self::Result {
        self.with_core(ctx, |core, _, effects| core.on_sync_due(effects));
        Box::pin(Quiet.then(|(), actor: &mut Self, _| {
            let marks: Vec<(TopicPartition, u64)> = actor.marks.flushed.iter().map(|(p, at)| (*p, *at)).collect();
            let flushed = actor.flushed.take();
            let store = actix_rt::task::spawn_blocking(move || flushed.map(|mut flushed| flushed.store(&marks)));
            actix::fut::wrap_future::<_, Self>(store).map(|_, _, _| ())
        }))
    }
}

impl Handler<ServeReplication> for IngestionActor {
    type Result = ();

    fn handle(&mut self, message: ServeReplication, _: &mut Self::Context) {
        self.replication = Some(message.0);
    }
}
