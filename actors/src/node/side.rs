//! The actors beside the data path: retention, scrubber, admin API.

use super::{Node, StartError, Starter};
use crate::admin::actor::{ADMIN_MAILBOX, AdminActor, AdminSetup};
use crate::admin::health::Health;
use crate::clock::NodeClock;
use crate::forward::actor::ForwardActor;
use crate::mailbox::Mailbox;
use crate::network::session::access::AuthGate;
use crate::retention::actor::{RETENTION_MAILBOX, RetentionActor, RetentionSetup};
use crate::scrub::actor::{SCRUB_MAILBOX, ScrubActor, ScrubSetup};
use crate::supervision::ActorKind;
use crate::telemetry::LogLevel;
use crate::tls::TlsKeeper;
use actix::prelude::*;
use lance_config::model::Config;
use lance_storage::disk::{Disk, FaultSwitch};
use std::net::TcpListener;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What only the side actors need.
pub struct SideParts {
    /// How far the node is.
    pub health: Arc<Health>,
    /// Orders a drain.
    pub drain: mpsc::Sender<()>,
    /// The switch of disk faults, when fault injection is on.
    pub faults: Option<Arc<FaultSwitch>>,
    /// Changes the log level.
    pub log_level: Option<LogLevel>,
    /// Encrypts the admin interface; set by the start of the node.
    pub tls: Option<Arc<TlsKeeper>>,
    /// What tokens are held against; set by the start of the node.
    pub auth: Option<Arc<AuthGate>>,
}

/// What side actors ask other actors of the node for that the node itself does not keep.
pub(super) struct SideRoutes {
    /// Where the files are.
    pub(super) disk: Arc<dyn Disk>,
    /// Asks other nodes.
    pub(super) forward: Mailbox<ForwardActor>,
}

/// Starts the actors beside the data path.
pub(super) async fn start(
    config: &Config,
    starter: &Starter,
    thread: &ArbiterHandle,
    SideRoutes { disk, forward }: SideRoutes,
    clock: NodeClock,
    (parts, listener): (SideParts, TcpListener),
    node: &mut Node,
) -> Result<(), StartError> {
    node.admin_address =
        listener.local_addr().map_err(|source| StartError::Listen { address: config.admin.bind.clone(), source })?;
    let retention = RetentionSetup {
        shards: node.shards.clone(),
        view: Arc::clone(&node.view),
        metrics: Arc::clone(&node.metrics),
        disk: Arc::clone(&disk),
        data_dir: config.node.data_dir.clone(),
        logs_dir: node.data_dir.logs_dir(),
        reserve_path: node.data_dir.reserve_path(),
        reserve_bytes: config.storage.reserve_bytes,
        interval: config.storage.retention_interval,
        low_free_bytes: config.storage.disk_low_free_bytes,
        min_free_bytes: config.storage.disk_min_free_bytes,
        clock,
    };
    starter
        .start(thread, "retention".into(), ActorKind::Retention, RETENTION_MAILBOX, |vitals, policy, parent| {
            RetentionActor::new(vitals, policy, parent, retention)
        })
        .await;
    let scrub = ScrubSetup {
        shards: node.shards.clone(),
        view: Arc::clone(&node.view),
        metrics: Arc::clone(&node.metrics),
        disk: Arc::clone(&disk),
        interval: config.storage.scrub_interval,
        bytes_per_second: config.storage.scrub_bytes_per_second,
        clock,
    };
    starter
        .start(thread, "scrub".into(), ActorKind::Scrub, SCRUB_MAILBOX, |vitals, policy, parent| {
            ScrubActor::new(vitals, policy, parent, scrub)
        })
        .await;
    let admin = AdminSetup {
        listener,
        supervisor: node.supervisor.clone(),
        view: Arc::clone(&node.view),
        metrics: Arc::clone(&node.metrics),
        health: parts.health,
        shards: node.shards.clone(),
        backend: node.backend.clone(),
        drain: parts.drain,
        faults: parts.faults,
        log_level: parts.log_level,
        tee: node.tee.clone(),
        groups: crate::admin::groups::list_groups(node.group.clone()),
        tls: parts.tls,
        auth: parts.auth,
        allowed_hosts: own_names(config),
        disk,
        metadata: node.metadata.clone(),
        forward,
    };
    starter
        .start(thread, "admin".into(), ActorKind::Admin, ADMIN_MAILBOX, |vitals, policy, parent| {
            AdminActor::new(vitals, policy, parent, admin)
        })
        .await;
    Ok(())
}

/// Names under which the admin interface may be asked: listed ones, and those that the operator gave this node and its peers.
fn own_names(config: &Config) -> Vec<String> {
    let peers = config.replication.peers.iter().chain(&config.network.advertise);
    let hosts = peers.filter_map(|address| address.rsplit_once(':')).map(|(host, _)| host.to_owned());
    config.admin.allowed_hosts.iter().cloned().chain(hosts).chain(lance_config::machine::host_name()).collect()
}
