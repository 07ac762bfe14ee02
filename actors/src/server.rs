//! A node as a process: start, readiness, signals, graceful drain, exit code.

use crate::ingestion::actor::SyncEverything;
use crate::network::actor::{CloseConnections, StopAccepting};
use crate::node::{self, Node, StartError};
use crate::options;
use crate::replication::actor::CountUnsettled;
use crate::supervision::{Escalated, NodeSupervisor};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use lance_config::model::Config;
use lance_storage::disk::{Disk, open_disk};
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

enum End {
    Signal,
    Drained,
    Escalated(Escalated),
}

/// Runs a node until it is told to stop; gives the exit code. `welcome` is called once it serves.
pub fn run(config: &Config, welcome: impl FnOnce(&Node)) -> i32 {
    let system = System::new();
    system.block_on(async move {
        match serve(config, welcome).await {
            Ok(code) => code,
            Err(error) => {
                tracing::error!(%error, "the node does not start");
                EXIT_FAILED
            }
        }
    })
}

async fn serve(config: &Config, welcome: impl FnOnce(&Node)) -> Result<i32, StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Thread)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Thread)?;
    let (fatal, mut on_fatal) = mpsc::unbounded_channel();
    let supervisor = NodeSupervisor::start(options::restart_policy(config), move |escalated| {
        // The receiver lives as long as the node does.
        let _ = fatal.send(escalated);
    });
    let disk: Arc<dyn Disk> = open_disk(options::disk_options(config))?;
    let view = Arc::new(ArcSwap::from_pointee(ClusterView::default()));
    let node = node::start(config, disk, supervisor, Arc::default(), view).await?;
    let end = tokio::select! {
        () = wait_until_ready(&node) => None,
        end = wait_for_end(&mut terminate, &mut interrupt, &mut on_fatal) => Some(end),
    };
    let end = match end {
        Some(end) => end,
        None => {
            welcome(&node);
            wait_for_end(&mut terminate, &mut interrupt, &mut on_fatal).await
        }
    };
    match end {
        End::Escalated(escalated) => {
            tracing::error!(actor = %escalated.name, reason = %escalated.reason, "giving up");
            Ok(EXIT_ESCALATED)
        }
        End::Signal | End::Drained => {
            tracing::info!("draining");
            tokio::select! {
                drained = drain(&node, config.shutdown.drain_timeout) => Ok(if drained { EXIT_OK } else { EXIT_FAILED }),
                _ = wait_for_end(&mut terminate, &mut interrupt, &mut on_fatal) => {
                    tracing::warn!("stopping at once");
                    Ok(EXIT_OK)
                }
            }
        }
    }
}

async fn wait_for_end(
    terminate: &mut Signal,
    interrupt: &mut Signal,
    on_fatal: &mut mpsc::UnboundedReceiver<Escalated>,
) -> End {
    tokio::select! {
        _ = terminate.recv() => End::Signal,
        _ = interrupt.recv() => End::Signal,
        escalated = on_fatal.recv() => escalated.map_or(End::Drained, End::Escalated),
    }
}

/// Serving: registered with a metadata leader, and every log that is open is led or stopped for good.
async fn is_serving(node: &Node) -> bool {
    let view = node.view.load_full();
    if view.metadata_leader.is_none() || view.nodes.is_empty() {
        return false;
    }
    let opening = view.partitions().count() as u64 != node.metrics.partitions_open.get();
    !opening && matches!(node.replication.send(CountUnsettled).await, Ok(0))
}

async fn wait_until_ready(node: &Node) {
    while !is_serving(node).await {
        actix_rt::time::sleep(READY_POLL).await;
    }
}

/// Finishes what is in flight, syncs, closes connections; `false` when that took too long.
async fn drain(node: &Node, timeout: Duration) -> bool {
    let started = Instant::now();
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
