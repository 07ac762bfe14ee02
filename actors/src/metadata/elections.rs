//! Spans of elections, where traces are exported: of the partitions' leaders, told by the leader of the metadata, and of that
//! leader itself.

use super::actor::MetadataActor;
use crate::stages::epochs::{BegunEpochs, EpochCause, epoch_stage, term_stage};
use crate::stages::{Stage, StageSpan};
use crate::telemetry::{Tracer, tracer};
use lance_cluster::metadata::MetadataEvent;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use std::time::Duration;

/// Elections that are under way.
#[derive(Debug, Default)]
pub(super) struct Elections {
    opened: BegunEpochs<(Option<NodeId>, EpochCause)>,
    /// Since when the metadata have no leader that is known here.
    leaderless: Option<Duration>,
}

impl MetadataActor {
    fn record(&self, tracer: &Tracer, stage: StageSpan) {
        tracer.record(Box::new(stage), self.setup.clock.stamp(), None);
    }

    /// Who led before, and why nobody is to any more.
    fn reason(&mut self, partition: TopicPartition, epoch: LeaderEpoch) -> (Option<NodeId>, EpochCause) {
        // The view is that of the time before.
        let before = self.setup.view.load().leader(partition);
        let is_gone = |node| self.running.as_ref().is_some_and(|running| !running.core.is_alive(node));
        match before {
            Some(node) if is_gone(node) => (before, EpochCause::LeaderGone),
            Some(_) => (before, EpochCause::Requested),
            None if epoch == LeaderEpoch(1) => (None, EpochCause::Created),
            // The epoch before came to nothing: its reason holds.
            None => self.elections.opened.end(partition, None).map_or((None, EpochCause::Requested), |begun| begun.2),
        }
    }

    /// Every node follows what is opened, so that whoever leads by then can tell of the end.
    pub(super) fn trace_epochs(&mut self, events: &[MetadataEvent]) {
        let Some(tracer) = tracer() else { return };
        let (now, cluster_id) = (self.setup.clock.now().elapsed, self.setup.cluster_id);
        for event in events {
            match *event {
                MetadataEvent::EpochOpened { partition, epoch } => {
                    let reason = self.reason(partition, epoch);
                    self.elections.opened.begin(partition, epoch, now, reason);
                }
                MetadataEvent::LeaderChosen { partition, epoch, leader, .. } => {
                    let begun = self.elections.opened.end(partition, Some(epoch));
                    if let Some((_, started, (before, cause))) = begun.filter(|_| self.leads()) {
                        let stage = Stage::Election { epoch, leader, before, cause };
                        self.record(tracer, epoch_stage(cluster_id, partition, epoch, stage, started));
                    }
                }
                _ => {}
            }
        }
    }

    /// The metadata have another leader, by its Raft id, or none.
    pub(super) fn trace_term(&mut self, leader: Option<u64>) {
        let now = self.setup.clock.now().elapsed;
        let leaderless = &mut self.elections.leaderless;
        match leader {
            None => *leaderless = leaderless.or(Some(now)),
            Some(id) if id != self.setup.incarnation => *leaderless = None,
            Some(_) => {}
        }
    }

    /// This node leads the metadata.
    pub(super) fn trace_leading(&mut self, term: u64) {
        let started = self.elections.leaderless.take();
        if let Some(tracer) = tracer() {
            let started = started.unwrap_or_else(|| self.setup.clock.now().elapsed);
            self.record(tracer, term_stage(self.setup.cluster_id, term, self.setup.node, started));
        }
    }
}
