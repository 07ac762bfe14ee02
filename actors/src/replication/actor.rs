//! `ReplicationActor`: the shell of the replication core. Alone it only opens epochs.

use super::core::{ReplicationCore, ReplicationEffect};
use crate::ingestion::actor::IngestionActor;
use crate::mailbox::Mailbox;
use crate::metadata::actor::{EpochsRequested, Led, MetadataActor, Promised};
use crate::network::session::shard_of;
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, fail, guarded};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use actix::prelude::*;
use hashbrown::HashSet;
use lance_cluster::metadata::ReplicaIncarnation;
use lance_messages::id::{LeaderEpoch, TopicId, TopicPartition};
use lance_messages::mail::ingestion::BecomeLeader;
use lance_messages::mail::replication::{EpochsWanted, LeadershipChanged, PartitionsGone};
use lance_storage::checkpoint::Checkpoint;
use lance_storage::disk::Disk;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Mailbox capacity of the replication actor.
pub const REPLICATION_MAILBOX: usize = 4096;
const BODY_VERSION: u8 = 1;
/// How often requests for epochs that nobody has answered are repeated.
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of one promise: topic, partition, epoch.
const PROMISE_BYTES: usize = 10;

/// The metadata asks this node for promises.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PromiseWanted(pub Vec<(TopicPartition, LeaderEpoch)>);

/// This node, in this start, leads these partitions.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LeadersChosen(pub Vec<(TopicPartition, LeaderEpoch)>);

/// How many open partitions are neither led nor stopped.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct CountUnsettled;

/// What a replication actor is made of.
pub struct ReplicationSetup {
    /// Where promises are kept.
    pub disk: Arc<dyn Disk>,
    /// The file they are kept in.
    pub promises: PathBuf,
    /// This node's incarnation.
    pub incarnation: u64,
    /// Counts its starts.
    pub boot_number: u64,
    /// The metadata actor.
    pub metadata: Mailbox<MetadataActor>,
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
}

/// The shell of the replication core.
pub struct ReplicationActor {
    life: Life,
    setup: ReplicationSetup,
    core: Option<ReplicationCore>,
    /// What every log was opened with, for a core built anew.
    logs: Vec<(TopicPartition, u32, u64)>,
    /// Which of them are led or stopped since.
    settled: HashSet<TopicPartition>,
}

impl ReplicationActor {
    /// A replication actor.
    pub fn new(
        vitals: Arc<Vitals>,
        policy: RestartPolicy,
        parent: Recipient<Escalated>,
        setup: ReplicationSetup,
    ) -> Self {
        Self { life: Life::new(vitals, policy, parent), setup, core: None, logs: Vec::new(), settled: HashSet::new() }
    }

    fn with_core(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut ReplicationCore, &mut Vec<ReplicationEffect>),
    ) {
        guarded(self, ctx, |actor, _| {
            let Some(core) = actor.core.as_mut() else { return Ok(()) };
            let mut effects = Vec::new();
            work(core, &mut effects);
            actor.obey(effects)
        });
    }

    fn obey(&mut self, effects: Vec<ReplicationEffect>) -> Result<(), String> {
        for effect in effects {
            match effect {
                ReplicationEffect::PersistPromises => self.persist()?,
                ReplicationEffect::Answer(answers) => self.tell_metadata(Promised(answers)),
                ReplicationEffect::RequestEpochs(requests) => self.tell_metadata(EpochsRequested(requests)),
                ReplicationEffect::Led(partition, epoch) => self.tell_metadata(Led(partition, epoch)),
                ReplicationEffect::Lead(partitions) => self.lead(&partitions),
            }
        }
        Ok(())
    }

    fn tell_metadata<M>(&self, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        MetadataActor: Handler<M>,
    {
        let metadata = self.setup.metadata.clone();
        actix_rt::spawn(async move {
            // Closed only while the process goes down; the controller repeats what it is not told.
            let _ = metadata.send(message).await;
        });
    }

    fn lead(&self, partitions: &[(TopicPartition, LeaderEpoch)]) {
        let shards = self.setup.shards.len() as u16;
        for (index, shard) in self.setup.shards.iter().enumerate() {
            let mine: Vec<_> = partitions
                .iter()
                .filter(|(partition, _)| usize::from(shard_of(*partition, shards)) == index)
                .copied()
                .collect();
            if mine.is_empty() {
                continue;
            }
            let shard = shard.clone();
            actix_rt::spawn(async move {
                let _ = shard.send(BecomeLeader { partitions: mine }).await;
            });
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(&self.setup.disk, self.setup.promises.clone(), BODY_VERSION)
    }

    /// `[topic u32][partition u16][epoch u32]` each, little-endian.
    fn persist(&self) -> Result<(), String> {
        let Some(core) = self.core.as_ref() else { return Ok(()) };
        let mut body = Vec::new();
        for (partition, epoch) in core.promises() {
            body.extend_from_slice(&partition.topic.0.to_le_bytes());
            body.extend_from_slice(&partition.partition.to_le_bytes());
            body.extend_from_slice(&epoch.to_le_bytes());
        }
        self.checkpoint().write(&body).map_err(|error| error.to_string())
    }

    fn load(&self) -> Result<Vec<(TopicPartition, u32)>, String> {
        let body = self.checkpoint().read().map_err(|error| error.to_string())?.unwrap_or_default();
        if body.len() % PROMISE_BYTES != 0 {
            return Err(format!("{}: {} bytes are no list of promises", self.setup.promises.display(), body.len()));
        }
        let promises = body.chunks_exact(PROMISE_BYTES).map(|entry| {
            let topic = TopicId(u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]));
            let partition = u16::from_le_bytes([entry[4], entry[5]]);
            let epoch = u32::from_le_bytes([entry[6], entry[7], entry[8], entry[9]]);
            (TopicPartition::new(topic, partition), epoch)
        });
        Ok(promises.collect())
    }
}

supervised_shell!(ReplicationActor, REPLICATION_MAILBOX);

impl Shell for ReplicationActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    fn drop_core(&mut self, _: &mut Self::Context) {
        self.core = None;
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        let promises = match self.load() {
            Ok(promises) => promises,
            Err(error) => return fail(self, ctx, error),
        };
        let incarnation = ReplicaIncarnation { node: self.setup.incarnation, damage_count: 0 };
        self.core = Some(ReplicationCore::new(incarnation, self.setup.boot_number, promises));
        self.life.vitals.set_state(ActorState::Running);
        ctx.run_interval(REQUEST_INTERVAL, |actor, ctx| actor.with_core(ctx, |core, effects| core.on_tick(effects)));
        let logs = self.logs.iter().copied();
        let (settled, unled): (Vec<_>, Vec<_>) = logs.partition(|log| self.settled.contains(&log.0));
        self.with_core(ctx, |core, effects| {
            core.on_restarted(&settled);
            core.on_restarted_unled(&unled, effects);
        });
    }
}

impl Handler<EpochsWanted> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: EpochsWanted, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.logs.retain(|known| !message.partitions.iter().any(|opened| opened.0 == known.0));
        self.logs.extend_from_slice(&message.partitions);
        for (partition, ..) in &message.partitions {
            self.settled.remove(partition);
        }
        self.with_core(ctx, |core, effects| core.on_epochs_wanted(&message.partitions, effects));
    }
}

impl Handler<PromiseWanted> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: PromiseWanted, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, effects| core.on_promise_wanted(&message.0, effects));
    }
}

impl Handler<LeadersChosen> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: LeadersChosen, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, effects| core.on_leaders_chosen(&message.0, effects));
    }
}

impl Handler<LeadershipChanged> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: LeadershipChanged, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.settled.insert(message.partition);
        self.with_core(ctx, |core, effects| {
            core.on_leadership_changed(message.partition, &message.result, effects);
        });
    }
}

impl Handler<PartitionsGone> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: PartitionsGone, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        let gone: HashSet<TopicPartition> = message.partitions.iter().copied().collect();
        self.logs.retain(|log| !gone.contains(&log.0));
        self.settled.retain(|partition| !gone.contains(partition));
        self.with_core(ctx, |core, _| core.on_gone(&message.partitions));
    }
}

impl Handler<CountUnsettled> for ReplicationActor {
    type Result = usize;

    fn handle(&mut self, _: CountUnsettled, _: &mut Self::Context) -> usize {
        self.life.vitals.message_taken();
        self.core.as_ref().map_or(usize::MAX, ReplicationCore::unsettled)
    }
}
