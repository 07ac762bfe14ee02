//! Starts the actors beside the data path: retention, the scrubber, the admin interface.

use crate::admin::{ADMIN_MAILBOX, AdminActor, AdminSetup, Health, groups};
use crate::clock::NodeClock;
use crate::group::actor::GroupActor;
use crate::ingestion::actor::IngestionActor;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::node::Starter;
use crate::retention::{RETENTION_MAILBOX, RetentionActor, RetentionSetup};
use crate::scrub::{SCRUB_MAILBOX, ScrubActor, ScrubSetup};
use crate::supervision::{ActorKind, NodeSupervisor};
use crate::telemetry::LogLevel;
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use lance_config::model::StorageConfig;
use lance_storage::checkpoint::DataDir;
use lance_storage::disk::{Disk, FaultSwitch};
use std::net::TcpListener;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What the process lends to the admin interface.
pub struct Levers {
    /// How far the node is.
    pub health: Arc<Health>,
    /// Orders a graceful drain.
    pub drain: mpsc::Sender<()>,
    /// The switch of disk faults, when they may be injected.
    pub faults: Option<Arc<FaultSwitch>>,
    /// Changes the log level.
    pub log_level: Option<LogLevel>,
}

/// The parts of a node that its upkeep needs.
pub struct Upkeep {
    /// The root of the actor tree.
    pub supervisor: Addr<NodeSupervisor>,
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
    /// The group actor.
    pub group: Mailbox<GroupActor>,
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The node's clock.
    pub clock: NodeClock,
}

impl Upkeep {
    /// Starts retention, the scrubber and the admin interface on `thread`.
    pub async fn start(
        self,
        starter: &Starter,
        thread: &ArbiterHandle,
        storage: &StorageConfig,
        data_dir: &DataDir,
        listener: TcpListener,
        levers: Levers,
    ) {
        let retention = self.retention(storage, data_dir);
        let scrub = self.scrub(storage);
        let admin = self.admin(listener, levers);
        let kind = ActorKind::Retention;
        starter
            .start(thread, "retention".into(), kind, RETENTION_MAILBOX, |vitals, policy, parent| {
                RetentionActor::new(vitals, policy, parent, retention)
            })
            .await;
        starter
            .start(thread, "scrub".into(), ActorKind::Scrub, SCRUB_MAILBOX, |vitals, policy, parent| {
                ScrubActor::new(vitals, policy, parent, scrub)
            })
            .await;
        starter
            .start(thread, "admin".into(), ActorKind::Admin, ADMIN_MAILBOX, |vitals, policy, parent| {
                AdminActor::new(vitals, policy, parent, admin)
            })
            .await;
    }

    fn retention(&self, storage: &StorageConfig, data_dir: &DataDir) -> RetentionSetup {
        RetentionSetup {
            shards: self.shards.clone(),
            view: Arc::clone(&self.view),
            metrics: Arc::clone(&self.metrics),
            disk: Arc::clone(&self.disk),
            data_dir: data_dir.path().to_owned(),
            reserve_path: data_dir.reserve_path(),
            reserve_bytes: storage.reserve_bytes,
            interval: storage.retention_interval,
            low_free_bytes: storage.disk_low_free_bytes,
            min_free_bytes: storage.disk_min_free_bytes,
            clock: self.clock,
        }
    }

    fn scrub(&self, storage: &StorageConfig) -> ScrubSetup {
        ScrubSetup {
            shards: self.shards.clone(),
            view: Arc::clone(&self.view),
            metrics: Arc::clone(&self.metrics),
            disk: Arc::clone(&self.disk),
            interval: storage.scrub_interval,
            bytes_per_second: storage.scrub_bytes_per_second,
            clock: self.clock,
        }
    }

    fn admin(self, listener: TcpListener, levers: Levers) -> AdminSetup {
        AdminSetup {
            listener,
            supervisor: self.supervisor,
            view: self.view,
            metrics: self.metrics,
            health: levers.health,
            shards: self.shards,
            backend: self.disk.backend().to_string(),
            drain: levers.drain,
            faults: levers.faults,
            log_level: levers.log_level,
            groups: groups::list_offsets(self.group),
        }
    }
}
