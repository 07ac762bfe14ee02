//! `ReplicationActor`: the shell of the replication core, which also judges slow followers.

use super::core::{ReplicationCore, ReplicationEffect};
use super::failover::FailoverTraces;
use super::judgement::Refilling;
use super::judging::LOOK_INTERVAL;
use super::promises::{self, PROMISES_VERSION};
use super::repair::RepairCore;
use crate::clock::NodeClock;
use crate::ingestion::actor::IngestionActor;
use crate::ingestion::replica::{Fenced, LeaderRole};
use crate::ingestion::replica_handlers::{
    ChangeRoles, FenceEpochs, IntroduceReplicas, LeadPartitions, MoveLeadership, RefillReplica,
};
use crate::mailbox::Mailbox;
use crate::metadata::actor::{EpochsRequested, Led, MetadataActor, MoveReady, Promised};
use crate::metrics::Metrics;
use crate::network::session::shard_of;
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, fail, guarded};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use hashbrown::{HashMap, HashSet};
use lance_cluster::replica::{EvictionCore, EvictionOptions};
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use lance_messages::mail::replication::{EpochsWanted, LeadershipChanged, PartitionsGone};
use lance_storage::checkpoint::Checkpoint;
use lance_storage::disk::Disk;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Mailbox capacity of the replication actor.
pub const REPLICATION_MAILBOX: usize = 4096;
/// How often requests for epochs that nobody has answered are repeated.
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

/// The metadata asks this node for promises.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PromiseWanted(pub Vec<(TopicPartition, LeaderEpoch)>);

/// This node, in this start, leads these partitions.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LeadersChosen(pub Vec<LeaderRole>);

/// The replicas of partitions that this node leads changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RolesChanged(pub Vec<LeaderRole>);

/// The metadata moves a leadership of this node to another.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct MoveWanted(pub MoveLeadership);

/// What became of requests to fence epochs.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReplicasFenced(pub Vec<(TopicPartition, LeaderEpoch, Fenced)>);

/// What happened to a replica of this node.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub enum ReplicaNews {
    /// It is fed by the leader of this epoch.
    Following(TopicPartition, LeaderEpoch),
    /// It is damaged from this position on and takes part in nothing, and has copies.
    Damaged(TopicPartition, u64),
    /// It was found damaged from this position on while it takes part, and has copies.
    DamageFound(TopicPartition, u64),
    /// Its log was cut: it ends at this position, and what was damaged above is gone.
    Cut(TopicPartition, u64),
    /// The target of a planned move holds everything.
    MoveReady(TopicPartition, LeaderEpoch, NodeId),
}

/// How many open partitions without copies elsewhere are neither led nor stopped.
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
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// When a follower counts as slow.
    pub eviction: EvictionOptions,
    /// How long one window of the judge is.
    pub eviction_window: Duration,
    /// The node's clock.
    pub clock: NodeClock,
    /// Where decisions are counted.
    pub metrics: Arc<Metrics>,
    /// The cluster's id, the same on every node.
    pub cluster_id: u64,
}

/// The shell of the replication core.
pub struct ReplicationActor {
    life: Life,
    pub(super) setup: ReplicationSetup,
    /// Judges followers; what it remembers outlives a restart.
    pub(super) eviction: EvictionCore,
    pub(super) window_began_ms: u64,
    /// Shards were asked and have not answered yet.
    pub(super) looking: bool,
    /// Shards were told of slow followers.
    pub(super) told_demoted: bool,
    core: Option<ReplicationCore>,
    /// What every log was opened with, for a core built anew.
    logs: Vec<(TopicPartition, u32, u32)>,
    /// Which of them are led, fed or stopped since.
    settled: HashSet<TopicPartition>,
    /// Those that are led, with the epoch.
    led: HashMap<TopicPartition, LeaderEpoch>,
    pub(super) traced: FailoverTraces,
    /// Copies on other nodes that were cut for damage and not refilled when the last window ended.
    pub(super) refilling: Refilling,
    /// Replicas that were found damaged; outlives a restart.
    pub(super) repair: RepairCore,
}

impl ReplicationActor {
    /// A replication actor.
    pub fn new(
        vitals: Arc<Vitals>,
        policy: RestartPolicy,
        parent: Recipient<Escalated>,
        setup: ReplicationSetup,
    ) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            eviction: EvictionCore::new(setup.eviction),
            setup,
            window_began_ms: 0,
            looking: false,
            told_demoted: false,
            core: None,
            logs: Vec::new(),
            settled: HashSet::new(),
            led: HashMap::new(),
            traced: FailoverTraces::default(),
            refilling: Refilling::default(),
            repair: RepairCore::default(),
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.setup.clock.now().elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn with_core(
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
                ReplicationEffect::Answer(answers) => {
                    self.trace_promises(&answers);
                    self.tell_metadata(Promised(answers));
                }
                ReplicationEffect::RequestEpochs(requests) => self.tell_metadata(EpochsRequested(requests)),
                ReplicationEffect::Led(partition, epoch) => self.tell_metadata(Led(partition, epoch)),
                ReplicationEffect::Lead(roles) => {
                    self.tell_shards(roles, |role| role.partition, LeadPartitions);
                }
                ReplicationEffect::Introduce(replicas) => {
                    self.tell_shards(replicas, |replica| replica.0, IntroduceReplicas);
                }
                ReplicationEffect::Fence(epochs) => self.tell_shards(epochs, |epoch| epoch.0, FenceEpochs),
                ReplicationEffect::Refill(partition, good_end) => {
                    // Only now that its new life is durable: until then a core built anew goes on with the log as it is.
                    self.logs.retain(|log| log.0 != partition);
                    self.repair.on_cut(partition, 0);
                    let refill = RefillReplica { partition, good_end };
                    self.tell_shards(vec![refill], |refill| refill.partition, move |_| refill);
                }
            }
        }
        Ok(())
    }

    pub(super) fn tell_metadata<M>(&self, message: M)
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

    /// Sends each shard what concerns its partitions.
    pub(super) fn tell_shards<T, M>(
        &self,
        items: Vec<T>,
        partition_of: impl Fn(&T) -> TopicPartition,
        message: impl Fn(Vec<T>) -> M,
    ) where
        M: Message<Result = ()> + Send + 'static,
        IngestionActor: Handler<M>,
    {
        let count = self.setup.shards.len() as u16;
        let mut by_shard: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
        for item in items {
            let shard = usize::from(shard_of(partition_of(&item), count));
            if let Some(list) = by_shard.get_mut(shard) {
                list.push(item);
            }
        }
        for (shard, list) in self.setup.shards.iter().zip(by_shard).filter(|(_, list)| !list.is_empty()) {
            let send = shard.send(message(list));
            actix_rt::spawn(async move {
                // Closed only while the process goes down.
                let _ = send.await;
            });
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(&self.setup.disk, self.setup.promises.clone(), PROMISES_VERSION)
    }

    fn persist(&self) -> Result<(), String> {
        let Some(core) = self.core.as_ref() else { return Ok(()) };
        self.checkpoint().write(&promises::encode(core.promises())).map_err(|error| error.to_string())
    }

    fn load(&self) -> Result<Vec<promises::PromiseRecord>, String> {
        let body = self.checkpoint().read().map_err(|error| error.to_string())?.unwrap_or_default();
        promises::decode(&body).map_err(|error| format!("{}: {error}", self.setup.promises.display()))
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
        self.core = Some(ReplicationCore::new(self.setup.incarnation, self.setup.boot_number, promises));
        self.life.vitals.set_state(ActorState::Running);
        ctx.run_interval(REQUEST_INTERVAL, |actor, ctx| {
            actor.with_core(ctx, |core, effects| core.on_tick(effects));
            actor.look_after_damage(ctx);
        });
        self.looking = false;
        ctx.run_interval(LOOK_INTERVAL, |actor, ctx| {
            guarded(actor, ctx, |actor, ctx| -> Result<(), Infallible> {
                actor.look_at_followers(ctx);
                Ok(())
            });
        });
        let logs = self.logs.iter().copied();
        let (settled, unled): (Vec<_>, Vec<_>) = logs.partition(|log| self.settled.contains(&log.0));
        let led: Vec<_> = self.led.iter().map(|(partition, epoch)| (*partition, *epoch)).collect();
        self.with_core(ctx, |core, effects| {
            core.on_restarted(&settled, &led);
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
            self.led.remove(partition);
        }
        self.with_core(ctx, |core, effects| core.on_epochs_wanted(&message.partitions, effects));
    }
}

impl Handler<PromiseWanted> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: PromiseWanted, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.trace_asked(&message.0);
        self.with_core(ctx, |core, effects| core.on_promise_wanted(&message.0, effects));
    }
}

impl Handler<LeadersChosen> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: LeadersChosen, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.trace_chosen(&message.0);
        self.with_core(ctx, |core, effects| core.on_leaders_chosen(message.0, effects));
    }
}

impl Handler<LeadershipChanged> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: LeadershipChanged, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.settled.insert(message.partition);
        self.trace_led(message.partition, &message.result);
        let led = match message.result {
            Ok(epoch) => self.led.insert(message.partition, epoch).and(None),
            Err(_) => self.led.remove(&message.partition),
        };
        let held_elsewhere = self.setup.view.load().is_held_elsewhere(message.partition);
        self.with_core(ctx, |core, effects| {
            core.on_leadership_changed(message.partition, &message.result, effects);
            if let Some(epoch) = led.filter(|_| held_elsewhere) {
                core.on_lead_stopped(message.partition, epoch, effects);
            }
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
        self.led.retain(|partition, _| !gone.contains(partition));
        self.repair.on_gone(&message.partitions);
        self.with_core(ctx, |core, _| core.on_gone(&message.partitions));
    }
}

impl Handler<CountUnsettled> for ReplicationActor {
    type Result = usize;

    fn handle(&mut self, _: CountUnsettled, _: &mut Self::Context) -> usize {
        self.life.vitals.message_taken();
        let view = self.setup.view.load();
        let counts = |partition: &TopicPartition| !view.is_held_elsewhere(*partition);
        self.core.as_ref().map_or(usize::MAX, |core| core.unsettled().filter(counts).count())
    }
}

impl Handler<RolesChanged> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: RolesChanged, _: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.tell_shards(message.0, |role| role.partition, ChangeRoles);
    }
}

impl Handler<MoveWanted> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: MoveWanted, _: &mut Self::Context) {
        self.life.vitals.message_taken();
        let wanted = message.0;
        self.tell_shards(vec![wanted], |wanted| wanted.partition, move |_| wanted);
    }
}

impl Handler<ReplicasFenced> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: ReplicasFenced, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        for (partition, _, fenced) in &message.0 {
            if matches!(fenced, Fenced::Clean { .. }) {
                self.led.remove(partition);
            }
        }
        self.with_core(ctx, |core, effects| core.on_fenced(&message.0, effects));
    }
}

impl Handler<ReplicaNews> for ReplicationActor {
    type Result = ();

    fn handle(&mut self, message: ReplicaNews, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        match message {
            ReplicaNews::Following(partition, epoch) => {
                self.settled.insert(partition);
                self.led.remove(&partition);
                self.with_core(ctx, |core, _| core.on_following(partition, epoch));
            }
            ReplicaNews::Damaged(partition, good_end) => {
                self.repair.on_unusable(partition, good_end);
                self.look_after_damage(ctx);
            }
            ReplicaNews::DamageFound(partition, good_end) => {
                self.repair.on_found(partition, good_end);
                self.look_after_damage(ctx);
            }
            ReplicaNews::Cut(partition, end) => self.repair.on_cut(partition, end),
            ReplicaNews::MoveReady(partition, epoch, to) => self.tell_metadata(MoveReady { partition, epoch, to }),
        }
    }
}
