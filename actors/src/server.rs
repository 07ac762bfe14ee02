//! A node as a process: start, readiness, signals, graceful drain, exit code.

use crate::admin::health::Health;
use crate::ingestion::actor::SyncEverything;
use crate::metadata::actor::Call;
use crate::network::actor::{CloseConnections, StopAccepting};
use crate::network::session::MetadataCall;
use crate::node::side::SideParts;
use crate::node::{self, Node, StartError};
use crate::options;
use crate::replication::actor::CountUnsettled;
use crate::supervision::{Escalated, NodeSupervisor};
use crate::telemetry::{LogLevel, tracer};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use lance_config::model::Config;
use lance_messages::id::NodeId;
use lance_messages::wire::cluster::ClusterCommand;
use lance_storage::disk::{Disk, FaultSwitch, FaultyDisk, open_disk};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Everything went well.
pub const EXIT_OK: i32 = 0;
/// The node could not start, or did not drain in time.
pub const EXIT_FAILED: i32 = 1;
/// An actor used up its restarts.
pub const EXIT_ESCALATED: i32 = 70;

const READY_POLL: Duration = Duration::from_millis(5);
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long the other nodes may take to lead in this one's place.
const HAND_OVER: Duration = Duration::from_secs(10);

enum End {
    /// By a signal or through the admin API.
    Ordered,
    Escalated(Escalated),
}

/// Runs a node until it is told to stop; gives the exit code. `welcome` is called once it serves.
pub fn run(config: &Config, log_level: Option<LogLevel>, welcome: impl FnOnce(&Node)) -> i32 {
    let system = System::new();
    system.block_on(async move {
        match serve(config, log_level, welcome).await {
            Ok(code) => code,
            Err(error) => {
                tracing::error!(%error, "the node does not start");
                EXIT_FAILED
            }
        }
    })
}

async fn serve(config: &Config, log_level: Option<LogLevel>, welcome: impl FnOnce(&Node)) -> Result<i32, StartError> {
    let terminate = signal(SignalKind::terminate()).map_err(StartError::Thread)?;
    let interrupt = signal(SignalKind::interrupt()).map_err(StartError::Thread)?;
    let (fatal, on_fatal) = mpsc::unbounded_channel();
    let supervisor = NodeSupervisor::start(options::restart_policy(config), move |escalated| {
        // The receiver lives as long as the node does.
        let _ = fatal.send(escalated);
    });
    let mut disk: Arc<dyn Disk> = open_disk(options::disk_options(config))?;
    let faults = config.admin.fault_injection.then(|| Arc::new(FaultSwitch::new(config.node.data_dir.clone())));
    if let Some(faults) = &faults {
        disk = Arc::new(FaultyDisk::new(disk, Arc::clone(faults)));
    }
    let health = Arc::new(Health::new());
    health.set_reason("starting");
    let (drain_order, drain_orders) = mpsc::channel(1);
    let side = SideParts { health: Arc::clone(&health), drain: drain_order, faults, log_level, tls: None, auth: None };
    let view = Arc::new(ArcSwap::from_pointee(ClusterView::default()));
    if let Some(tracer) = tracer() {
        tracer.learn(NodeId(config.node.id), Arc::clone(&view));
    }
    let mut ends = Ends { terminate, interrupt, on_fatal, drain_orders };
    let node = tokio::select! {
        node = node::start(config, disk, supervisor, Arc::default(), view, side) => node?,
        // Nothing was served yet: there is nothing to drain.
        end = ends.next() => return Ok(before_serving(&end)),
    };
    health.set_started();
    health.set_reason("recovering logs");
    let end = tokio::select! {
        () = wait_until_ready(&node) => None,
        end = ends.next() => Some(end),
    };
    let end = match end {
        Some(end) => end,
        None => {
            health.set_serving(true);
            welcome(&node);
            ends.next().await
        }
    };
    match end {
        End::Escalated(escalated) => Ok(give_up(&escalated)),
        End::Ordered => {
            tracing::info!("draining");
            health.set_draining();
            tokio::select! {
                drained = drain(&node, config.shutdown.drain_timeout) => Ok(if drained { EXIT_OK } else { EXIT_FAILED }),
                end = ends.while_draining() => match end {
                    End::Escalated(escalated) => Ok(give_up(&escalated)),
                    End::Ordered => {
                        tracing::warn!("stopping at once");
                        Ok(EXIT_OK)
                    }
                }
            }
        }
    }
}

fn give_up(escalated: &Escalated) -> i32 {
    tracing::error!(actor = %escalated.name, reason = %escalated.reason, "giving up");
    EXIT_ESCALATED
}

/// The exit code of a node that ends before it was part of a cluster.
fn before_serving(end: &End) -> i32 {
    match end {
        End::Escalated(escalated) => give_up(escalated),
        End::Ordered => {
            tracing::info!("stopping before the cluster has formed");
            EXIT_OK
        }
    }
}

/// What ends a node.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
    on_fatal: mpsc::UnboundedReceiver<Escalated>,
    drain_orders: mpsc::Receiver<()>,
}

impl Ends {
    /// What ends a drain before its time: another signal. To be told to drain again changes nothing.
    async fn while_draining(&mut self) -> End {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return End::Ordered,
                _ = self.interrupt.recv() => return End::Ordered,
                Some(()) = self.drain_orders.recv() => {}
                Some(escalated) = self.on_fatal.recv() => return End::Escalated(escalated),
            }
        }
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Ordered,
            _ = self.interrupt.recv() => End::Ordered,
            Some(()) = self.drain_orders.recv() => End::Ordered,
            Some(escalated) = self.on_fatal.recv() => End::Escalated(escalated),
        }
    }
}

/// Serving: registered with a metadata leader, and every log that is open is led, stopped for good, or read until there
/// is space to lead it.
async fn is_serving(node: &Node) -> bool {
    let view = node.view.load_full();
    if view.metadata_leader.is_none() || view.nodes.is_empty() {
        return false;
    }
    let held = view.partitions().filter(|partition| view.holds(*partition)).count() as u64;
    let opening = held > node.metrics.partitions_open.get();
    let unsettled = node.replication.send(CountUnsettled).await;
    !opening && unsettled.is_ok_and(|count| count as u64 <= node.metrics.partitions_read_only.get())
}

async fn wait_until_ready(node: &Node) {
    while !is_serving(node).await {
        actix_rt::time::sleep(READY_POLL).await;
    }
}

/// Has the other nodes lead what this one leads, for as long as that takes and `timeout` allows. The next start of this node
/// ends its draining.
async fn hand_over(node: &Node, timeout: Duration) {
    let started = Instant::now();
    let view = node.view.load_full();
    let Some(own) = view.node.filter(|_| !view.is_alone()) else { return };
    let order = Call(MetadataCall::Cluster(ClusterCommand::Drain { node: own, on: true }, Vec::new()));
    match tokio::time::timeout(timeout, node.metadata.send(order)).await {
        Ok(Ok(Ok(_))) => {}
        Ok(Ok(Err(failure))) => return tracing::warn!(?failure, "nobody could be told that this node goes down"),
        Ok(Err(_)) | Err(_) => return tracing::warn!("nobody was told in time that this node goes down"),
    }
    loop {
        let left = node.view.load().movable_leaderships(own);
        if left == 0 {
            return tracing::info!(took = ?started.elapsed(), "others lead what this node led");
        }
        if started.elapsed() >= timeout {
            return tracing::warn!(left, "leaderships were not taken over in time");
        }
        actix_rt::time::sleep(DRAIN_POLL).await;
    }
}

/// Hands leaderships over, finishes what is in flight, syncs, closes connections; `false` when that took too long.
async fn drain(node: &Node, timeout: Duration) -> bool {
    let started = Instant::now();
    hand_over(node, HAND_OVER.min(timeout / 2)).await;
    // Sends fail only when their actor is gone, and then there is nothing to finish there.
    let _ = node.network.addr().send(StopAccepting).await;
    loop {
        let open = node.network.addr().send(CloseConnections).await.unwrap_or(0);
        if open == 0 {
            break;
        }
        if started.elapsed() >= timeout {
            tracing::warn!(open, "connections did not finish in time");
            return false;
        }
        actix_rt::time::sleep(DRAIN_POLL).await;
    }
    for shard in &node.shards {
        let left = timeout.saturating_sub(started.elapsed());
        if tokio::time::timeout(left, shard.addr().send(SyncEverything)).await.is_err() {
            tracing::warn!("a shard did not finish in time");
            return false;
        }
    }
    true
}
