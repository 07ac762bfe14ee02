//! Spans of what a node does in a failover, where traces are exported: its promises, and its way to lead.

use super::actor::ReplicationActor;
use crate::ingestion::replica::LeaderRole;
use crate::stages::Stage;
use crate::stages::epochs::{BegunEpochs, PromiseKind, epoch_stage};
use crate::telemetry::{Tracer, tracer};
use lance_cluster::metadata::{PromiseAnswer, PromiseOutcome};
use lance_messages::id::{LeaderEpoch, TopicPartition};
use std::time::Duration;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct FailoverTraces {
    asked: BegunEpochs<()>,
    chosen: BegunEpochs<()>,
}

impl ReplicationActor {
    fn record(
        &self,
        tracer: &Tracer,
        (partition, epoch): (TopicPartition, LeaderEpoch),
        stage: Stage,
        started: Duration,
    ) {
        let span = epoch_stage(self.setup.cluster_id, partition, epoch, stage, started);
        tracer.record(Box::new(span), self.setup.clock.stamp(), None);
    }

    /// Promises are asked for.
    pub(super) fn trace_asked(&mut self, asked: &[(TopicPartition, LeaderEpoch)]) {
        if tracer().is_some() {
            let now = self.setup.clock.now().elapsed;
            asked.iter().for_each(|(partition, epoch)| self.traced.asked.begin(*partition, *epoch, now, ()));
        }
    }

    /// Promises are durable, or refused.
    pub(super) fn trace_promises(&mut self, answers: &[PromiseAnswer]) {
        let Some(tracer) = tracer() else { return };
        for &PromiseAnswer { partition, epoch, outcome } in answers {
            let Some((_, started, ())) = self.traced.asked.end(partition, Some(epoch)) else { continue };
            let (kind, durable_end) = match outcome {
                PromiseOutcome::Clean { durable_end, .. } => (PromiseKind::Clean, Some(durable_end)),
                PromiseOutcome::Unclean => (PromiseKind::Unclean, None),
                PromiseOutcome::Promised { .. } => (PromiseKind::Refused, None),
            };
            self.record(tracer, (partition, epoch), Stage::Promise { epoch, kind, durable_end }, started);
        }
    }

    /// This node was chosen to lead.
    pub(super) fn trace_chosen(&mut self, roles: &[LeaderRole]) {
        if tracer().is_some() {
            let now = self.setup.clock.now().elapsed;
            roles.iter().for_each(|role| self.traced.chosen.begin(role.partition, role.epoch, now, ()));
        }
    }

    /// A partition serves in its epoch, or stopped.
    pub(super) fn trace_led(&mut self, partition: TopicPartition, result: &Result<LeaderEpoch, String>) {
        let Some(tracer) = tracer() else { return };
        if let Some((epoch, started, ())) = self.traced.chosen.end(partition, result.as_ref().ok().copied()) {
            self.record(tracer, (partition, epoch), Stage::Epoch { epoch, serves: result.is_ok() }, started);
        }
    }
}
