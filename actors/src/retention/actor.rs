//! `RetentionActor`: removes what topics no longer keep, and keeps the node alive on a disk that fills up.

use super::core::{SpaceCore, SpaceEffect, SpaceLimits, SpaceSeen, limited_partitions};
use super::leftovers::remove_leftovers;
use crate::background::{run_guarded_interval, spawn_guarded};
use crate::clock::NodeClock;
use crate::ingestion::actor::IngestionActor;
use crate::ingestion::maintenance::{
    ListSegments, PartitionSegments, RemoveSegments, RemovedSegments, SetAppendsAllowed,
};
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::network::session::shard_of;
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use lance_messages::id::TopicPartition;
use lance_storage::checkpoint::{CheckpointError, Reserve};
use lance_storage::disk::{Disk, Space};
use lance_storage::retention::{RetentionPolicy, expired};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Mailbox capacity of the retention actor.
pub const RETENTION_MAILBOX: usize = 64;
/// Time between two looks at free space.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// Partitions that a shard is asked about at once: more would hold its data path up.
const PARTITIONS_AT_ONCE: usize = 64;
/// How long a shard may take to answer before the rest goes on without it.
const SHARD_PATIENCE: Duration = Duration::from_secs(2);

/// What a retention actor is made of.
pub struct RetentionSetup {
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The folder whose file system is watched.
    pub data_dir: PathBuf,
    /// The folder of the partitions' logs.
    pub logs_dir: PathBuf,
    /// The file of the reserve.
    pub reserve_path: PathBuf,
    /// Its bytes.
    pub reserve_bytes: u64,
    /// Time between two looks for segments that may go.
    pub interval: Duration,
    /// Free bytes below which there is a warning.
    pub low_free_bytes: u64,
    /// Free bytes below which appends are refused.
    pub min_free_bytes: u64,
    /// The node's clock.
    pub clock: NodeClock,
}

/// The shell of retention and of the watch over the disk.
pub struct RetentionActor {
    life: Life,
    setup: RetentionSetup,
    space: SpaceCore,
    reserve: Option<Reserve>,
    passing: bool,
    looking: bool,
    /// What deletions before this start left behind was looked for.
    swept: bool,
}

impl RetentionActor {
    /// A retention actor.
    pub fn new(
        vitals: Arc<Vitals>,
        policy: RestartPolicy,
        parent: Recipient<Escalated>,
        setup: RetentionSetup,
    ) -> Self {
        let space = SpaceCore::new(limits(&setup));
        let life = Life::new(vitals, policy, parent);
        Self { life, setup, space, reserve: None, passing: false, looking: false, swept: false }
    }

    fn open_reserve(&mut self, ctx: &mut Context<Self>) {
        let RetentionSetup { disk, reserve_path, reserve_bytes, .. } = &self.setup;
        let (disk, path, bytes) = (Arc::clone(disk), reserve_path.clone(), *reserve_bytes);
        let open = actix_rt::task::spawn_blocking(move || Reserve::open(&disk, &path, bytes));
        spawn_guarded(ctx, open, |opened, actor, _| match opened {
            Ok(Ok(reserve)) => {
                if !reserve.is_held() {
                    tracing::warn!(bytes = actor.setup.reserve_bytes, "not enough space for the reserve");
                }
                actor.on_reserve(reserve);
            }
            Ok(Err(error)) => tracing::warn!(%error, "the node runs without its reserve"),
            Err(error) => tracing::warn!(%error, "opening the reserve was interrupted"),
        });
    }

    fn on_reserve(&mut self, reserve: Reserve) {
        self.space.on_reserve(reserve.is_held(), self.setup.clock.now().elapsed);
        self.reserve = Some(reserve);
    }

    /// Changes the reserve on a thread that may wait for the disk.
    fn change_reserve(&mut self, ctx: &mut Context<Self>, change: fn(&mut Reserve) -> Result<(), CheckpointError>) {
        let Some(mut reserve) = self.reserve.take() else { return };
        let change = actix_rt::task::spawn_blocking(move || {
            let changed = change(&mut reserve);
            (reserve, changed)
        });
        spawn_guarded(ctx, change, |changed, actor, _| match changed {
            Ok((reserve, changed)) => {
                if let Err(error) = changed {
                    tracing::warn!(%error, "the reserve could not be changed");
                }
                actor.on_reserve(reserve);
            }
            Err(error) => tracing::warn!(%error, "changing the reserve was interrupted"),
        });
    }

    fn look_at_space(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.looking, true) {
            return;
        }
        let (disk, dir) = (Arc::clone(&self.setup.disk), self.setup.data_dir.clone());
        let space = actix_rt::task::spawn_blocking(move || disk.space(&dir));
        let told = tell_shards(&self.setup.shards, self.space.appends_allowed());
        let look = async move { (space.await, told.await) };
        spawn_guarded(ctx, look, |(space, exhausted_partitions), actor, ctx| {
            actor.looking = false;
            match space {
                Ok(Ok(space)) => actor.on_space(space, exhausted_partitions, ctx),
                Ok(Err(error)) => tracing::warn!(%error, "free space cannot be measured"),
                Err(error) => tracing::warn!(%error, "measuring free space was interrupted"),
            }
        });
    }

    /// Removes, once the metadata is known, what deletions before this start left behind.
    fn sweep(&mut self, ctx: &mut Context<Self>) {
        let view = self.setup.view.load_full();
        if self.swept || !view.is_known() {
            return;
        }
        self.swept = true;
        let (disk, logs_dir) = (Arc::clone(&self.setup.disk), self.setup.logs_dir.clone());
        let sweep = actix_rt::task::spawn_blocking(move || remove_leftovers(&*disk, &logs_dir, &view));
        spawn_guarded(ctx, sweep, |swept, _, _| match swept {
            Ok(Ok((removed, failed))) => {
                for partition in removed {
                    tracing::info!(%partition, "removed what was left of a deleted partition");
                }
                for error in failed {
                    tracing::warn!(%error, "the files of a deleted partition could not be removed");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "leftovers of deleted topics cannot be looked for"),
            Err(error) => tracing::warn!(%error, "removing leftovers of deleted topics was interrupted"),
        });
    }

    fn on_space(&mut self, space: Space, exhausted_partitions: u64, ctx: &mut Context<Self>) {
        let Space { free_bytes, total_bytes } = space;
        self.setup.metrics.disk_free_bytes.set(free_bytes);
        self.setup.metrics.disk_total_bytes.set(total_bytes);
        let mut effects = Vec::new();
        let seen = SpaceSeen { free_bytes, exhausted_partitions };
        self.space.on_space_seen(seen, self.setup.clock.now().elapsed, &mut effects);
        let data_dir = self.setup.data_dir.clone();
        let data_dir = data_dir.display();
        for effect in effects {
            match effect {
                SpaceEffect::WarnLow => tracing::warn!(%data_dir, free_bytes, "disk space runs low"),
                SpaceEffect::SayPlenty => tracing::info!(%data_dir, free_bytes, "there is enough disk space again"),
                SpaceEffect::Refuse => {
                    let min_free_bytes = self.setup.min_free_bytes;
                    tracing::error!(%data_dir, free_bytes, min_free_bytes, "disk almost full: appends are refused");
                    self.tell_shards_at_once(ctx);
                }
                SpaceEffect::Allow => {
                    tracing::info!(%data_dir, free_bytes, "appends are allowed again");
                    self.tell_shards_at_once(ctx);
                }
                SpaceEffect::ReleaseReserve => {
                    tracing::warn!(bytes = self.setup.reserve_bytes, "the disk is full: releasing the reserve");
                    self.change_reserve(ctx, |reserve| reserve.release().map(drop));
                }
                SpaceEffect::RefillReserve => self.change_reserve(ctx, |reserve| reserve.refill().map(drop)),
            }
        }
    }

    fn tell_shards_at_once(&mut self, ctx: &mut Context<Self>) {
        let told = tell_shards(&self.setup.shards, self.space.appends_allowed());
        spawn_guarded(ctx, told, |_, _, _| ());
    }

    fn start_pass(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.passing, true) {
            return;
        }
        let view = self.setup.view.load();
        let mut limited = limited_partitions(&view);
        // Followers drop what their leader has dropped.
        limited.retain(|(partition, _)| view.leads(*partition));
        let pass = Pass {
            shards: self.setup.shards.clone(),
            metrics: Arc::clone(&self.setup.metrics),
            now_ns: self.setup.clock.now().wall_ns,
        };
        spawn_guarded(ctx, async move { pass.run(limited).await }, |(), actor, _| actor.passing = false);
    }
}

fn limits(setup: &RetentionSetup) -> SpaceLimits {
    SpaceLimits {
        low_free_bytes: setup.low_free_bytes,
        min_free_bytes: setup.min_free_bytes,
        reserve_bytes: setup.reserve_bytes,
    }
}

/// Tells every shard whether appends are allowed; gives the number of partitions that wait for space.
fn tell_shards(shards: &[Mailbox<IngestionActor>], allowed: bool) -> impl Future<Output = u64> + use<> {
    let told: Vec<_> = shards
        .iter()
        .map(|shard| tokio::time::timeout(SHARD_PATIENCE, shard.send(SetAppendsAllowed(allowed))))
        .collect();
    // A shard that is recovering hears it again in a second.
    async move { join_all(told).await.into_iter().filter_map(|answer| answer.ok()?.ok()).sum() }
}

/// One look at all partitions.
struct Pass {
    shards: Vec<Mailbox<IngestionActor>>,
    metrics: Arc<Metrics>,
    now_ns: u64,
}

impl Pass {
    async fn run(self, limited: Vec<(TopicPartition, RetentionPolicy)>) {
        let shards = u16::try_from(self.shards.len()).unwrap_or(u16::MAX);
        for (number, shard) in self.shards.iter().enumerate() {
            let own = limited.iter().filter(|(partition, _)| usize::from(shard_of(*partition, shards)) == number);
            let own: Vec<(TopicPartition, RetentionPolicy)> = own.copied().collect();
            for some in own.chunks(PARTITIONS_AT_ONCE) {
                self.look(shard, some).await;
            }
        }
    }

    async fn look(&self, shard: &Mailbox<IngestionActor>, some: &[(TopicPartition, RetentionPolicy)]) {
        let partitions = some.iter().map(|(partition, _)| *partition).collect();
        let asked = tokio::time::timeout(SHARD_PATIENCE, shard.send(ListSegments { partitions }));
        // What a recovering shard cannot say is asked again in the next pass.
        let Ok(Ok(found)) = asked.await else { return };
        for PartitionSegments { partition, segments, high_watermark } in found {
            let policy = some.iter().find(|(wanted, _)| *wanted == partition);
            let expiry = policy.and_then(|(_, policy)| expired(&segments, *policy, high_watermark, self.now_ns));
            if let Some(expiry) = expiry {
                self.remove(shard, RemoveSegments { partition, before: expiry.keep_from }).await;
            }
        }
    }

    async fn remove(&self, shard: &Mailbox<IngestionActor>, remove: RemoveSegments) {
        let RemoveSegments { partition, before: log_start } = remove;
        match shard.send(remove).await {
            Ok(Ok(removed)) if removed.segments > 0 => {
                self.metrics.retention_removed_bytes.add(removed.bytes);
                let RemovedSegments { segments, bytes } = removed;
                tracing::info!(%partition, segments, bytes, log_start, "removed what the topic no longer keeps");
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%partition, %error, "expired segments could not be removed"),
            Err(error) => tracing::warn!(%partition, %error, "expired segments could not be removed"),
        }
    }
}

supervised_shell!(RetentionActor, RETENTION_MAILBOX);

impl Shell for RetentionActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    fn drop_core(&mut self, _: &mut Self::Context) {
        self.space = SpaceCore::new(limits(&self.setup));
        self.reserve = None;
        self.passing = false;
        self.looking = false;
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        self.open_reserve(ctx);
        self.look_at_space(ctx);
        run_guarded_interval(ctx, SPACE_INTERVAL, Self::look_at_space);
        run_guarded_interval(ctx, SPACE_INTERVAL, Self::sweep);
        run_guarded_interval(ctx, self.setup.interval, Self::start_pass);
        self.life.vitals.set_state(ActorState::Running);
    }
}
