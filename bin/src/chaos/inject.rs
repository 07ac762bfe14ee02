//! How each kind of fault begins and ends.

use super::cluster::{Cluster, Node};
use super::faults::{FaultKind, Nemesis};
use super::load::connect;
use super::model::Active;
use super::net::Broken;
use super::net::plan::Weather;
use super::segments::Flip;
use crate::cli::failure::Failure;
use lance_client::NodeId;
use lance_client::wire::cluster::ClusterCommand;
use rand::Rng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a node may take to end after SIGTERM.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long an order may take before it is given again.
const ORDER_PATIENCE: Duration = Duration::from_secs(5);
/// Actors that may panic: those that others wait for.
const ACTORS: [&str; 6] = ["ingestion", "poller", "replication", "metadata", "network", "group"];

/// Committed ends of partitions.
type Ends = BTreeMap<(String, u64), u64>;

/// What is needed to end a fault.
#[derive(Debug, Default)]
pub struct Lasting {
    broken: Option<Broken>,
    flip: Option<Flip>,
    began: Option<Instant>,
    churn: Option<tokio::task::JoinHandle<()>>,
    /// What was committed when data went.
    ends: Ends,
    details: String,
}

impl Lasting {
    /// What else there is to say of it.
    pub fn describe(&self) -> String {
        if self.details.is_empty() { String::new() } else { format!(": {}", self.details) }
    }

    /// Whether a node holds again what was committed when it lost it, and all of it counts.
    pub async fn is_refilled(&self, node: &Node) -> bool {
        if self.flip.as_ref().is_some_and(|flip| !flip.is_repaired()) || !node.is_ready().await {
            return false;
        }
        let Some(copies) = node.copies().await else { return false };
        let holds = |(partition, end): (&(String, u64), &u64)| {
            let copy = copies.iter().find(|copy| copy.partition == *partition);
            copy.is_some_and(|copy| copy.log_end >= Some(*end) && copy.serves() && copy.is_admitted(node.id))
        };
        self.ends.iter().all(holds)
    }
}

impl Nemesis {
    /// Begins a fault; `None` when it could not, and nothing happened.
    pub(super) async fn begin(
        &mut self,
        cluster: &mut Cluster,
        kind: FaultKind,
        victim: usize,
    ) -> Result<Option<Lasting>, Failure> {
        let mut lasting = Lasting { began: Some(Instant::now()), ..Lasting::default() };
        let millis = self.rng.random_range(5..100);
        let taken = match kind {
            FaultKind::Kill => {
                cluster.nodes[victim].kill();
                true
            }
            FaultKind::KillAll => {
                cluster.nodes.iter_mut().for_each(Node::kill);
                true
            }
            FaultKind::Pause => cluster.nodes[victim].signal(libc::SIGSTOP),
            FaultKind::Restart => cluster.nodes[victim].signal(libc::SIGTERM),
            FaultKind::Wipe => {
                lasting.ends = committed_ends(cluster).await;
                let known = !lasting.ends.is_empty();
                if known {
                    let node = &mut cluster.nodes[victim];
                    node.kill();
                    node.wipe().map_err(|error| Failure::failed(format!("cannot wipe node {}: {error}", node.id)))?;
                }
                known
            }
            FaultKind::LinkCut
            | FaultKind::LinkStall
            | FaultKind::LinkBridge
            | FaultKind::LinkOneWay
            | FaultKind::LinkSlow => self.break_links(cluster, (kind, victim), millis, &mut lasting)?,
            FaultKind::DiskSlow => {
                let fault = format!(r#"{{"kind":"slow","millis":{millis},"path":"logs/"}}"#);
                cluster.nodes[victim].inject(&fault).await
            }
            FaultKind::DiskSync => cluster.nodes[victim].inject(r#"{"kind":"sync_error","path":"logs/"}"#).await,
            FaultKind::DiskWrite => cluster.nodes[victim].inject(r#"{"kind":"write_error","path":"logs/"}"#).await,
            FaultKind::DiskFull => cluster.nodes[victim].inject(r#"{"kind":"no_space","on":true}"#).await,
            FaultKind::BitFlip => {
                lasting.ends = committed_ends(cluster).await;
                if !lasting.ends.is_empty() {
                    let logs = cluster.nodes[victim].data().join("logs");
                    // Segments come and go while it looks.
                    lasting.flip = Flip::inject(&logs, &mut self.rng).ok().flatten();
                }
                lasting.details = lasting.flip.as_ref().map(Flip::describe).unwrap_or_default();
                lasting.flip.is_some()
            }
            FaultKind::ActorPanic => self.panic_actor(&cluster.nodes[victim], &mut lasting).await,
            FaultKind::TopicChurn => {
                lasting.churn = Some(self.churn.begin());
                true
            }
            FaultKind::LeaderMove => order_drain(cluster, victim, true).await,
        };
        Ok(taken.then_some(lasting))
    }

    fn break_links(
        &mut self,
        cluster: &Cluster,
        (kind, victim): (FaultKind, usize),
        millis: u64,
        lasting: &mut Lasting,
    ) -> Result<bool, Failure> {
        let nodes = cluster.nodes.len();
        let peer = (victim + self.rng.random_range(1..nodes.max(2))) % nodes;
        let weather = Weather {
            delay: Duration::from_millis(millis),
            loss_percent: self.rng.random_range(0..4),
            reorder_percent: self.rng.random_range(0..10),
        };
        let broken = cluster.network.break_links(kind, (victim, peer), weather, nodes).map_err(Failure::failed)?;
        lasting.broken = Some(broken);
        if matches!(kind, FaultKind::LinkBridge | FaultKind::LinkOneWay) {
            lasting.details = format!("to node {}", peer + 1);
        }
        Ok(true)
    }

    async fn panic_actor(&mut self, node: &Node, lasting: &mut Lasting) -> bool {
        let mut actors: Vec<String> = node.actors().await.unwrap_or_default();
        actors.retain(|name| ACTORS.iter().any(|kind| name.starts_with(kind)));
        actors.sort();
        if actors.is_empty() {
            return false;
        }
        let actor = actors.swap_remove(self.rng.random_range(0..actors.len()));
        let taken = node.panic(&actor).await;
        lasting.details = actor;
        taken
    }

    /// Ends a fault whose time has come; whether it is over.
    pub(super) async fn end(
        &mut self,
        cluster: &mut Cluster,
        active: Active,
        lasting: &mut Lasting,
    ) -> Result<bool, Failure> {
        let Active { kind, victim, .. } = active;
        if let Some(broken) = &lasting.broken {
            cluster.network.heal(broken).map_err(Failure::failed)?;
        }
        match kind {
            FaultKind::Kill | FaultKind::Wipe => cluster.nodes[victim].start()?,
            FaultKind::KillAll => {
                let mut order: Vec<usize> = (0..cluster.nodes.len()).collect();
                order.shuffle(&mut self.rng);
                for index in order {
                    cluster.nodes[index].start()?;
                    tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..400))).await;
                }
            }
            FaultKind::Pause => {
                // A process that is gone is missed afterwards.
                _ = cluster.nodes[victim].signal(libc::SIGCONT);
            }
            FaultKind::Restart => return self.start_again(&mut cluster.nodes[victim], lasting),
            FaultKind::DiskSlow | FaultKind::DiskFull => self.clear(&cluster.nodes[victim], kind).await,
            FaultKind::DiskSync | FaultKind::DiskWrite => {
                // Nothing but a new start trusts the disk again.
                cluster.nodes[victim].kill();
                cluster.nodes[victim].start()?;
            }
            FaultKind::TopicChurn => {
                self.churn.end();
                return Ok(lasting.churn.as_ref().is_none_or(tokio::task::JoinHandle::is_finished));
            }
            FaultKind::LeaderMove => return Ok(order_drain(cluster, victim, false).await),
            FaultKind::LinkCut
            | FaultKind::LinkStall
            | FaultKind::LinkBridge
            | FaultKind::LinkOneWay
            | FaultKind::LinkSlow
            | FaultKind::BitFlip
            | FaultKind::ActorPanic => {}
        }
        Ok(true)
    }

    /// Starts a node that was told to end, once it has; whether it did.
    fn start_again(&mut self, node: &mut Node, lasting: &Lasting) -> Result<bool, Failure> {
        let waited = lasting.began.map(|began| began.elapsed()).unwrap_or_default();
        // A node that others keep from handing over what it leads gives up waiting, and says so by its exit code.
        let is_hindered = self.under_way().any(|fault| fault.lasts);
        match node.ended() {
            None if waited < DRAIN_PATIENCE => return Ok(false),
            None => self.problems.push(format!("node {} did not end within {DRAIN_PATIENCE:?}", node.id)),
            Some(status) if status.ends_with(": 1") && is_hindered => {}
            Some(status) if !status.ends_with(": 0") => {
                self.problems.push(format!("node {} did not end well after SIGTERM: {status}", node.id));
            }
            Some(_) => {}
        }
        node.kill();
        node.start().map(|()| true)
    }

    async fn clear(&mut self, node: &Node, kind: FaultKind) {
        if !node.inject(r#"{"kind":"clear"}"#).await {
            self.problems.push(format!("node {} did not take the end of {}", node.id, kind.name()));
        }
    }
}

/// The highest mark that anybody knows of each partition.
async fn committed_ends(cluster: &Cluster) -> Ends {
    let mut ends = Ends::new();
    for node in &cluster.nodes {
        for copy in node.copies().await.unwrap_or_default() {
            if let Some(mark) = copy.high_watermark.filter(|_| copy.is_of_run()) {
                let end = ends.entry(copy.partition).or_default();
                *end = mark.max(*end);
            }
        }
    }
    ends
}

/// Orders a node to be drained, or to lead again; whether the cluster said yes.
async fn order_drain(cluster: &Cluster, victim: usize, on: bool) -> bool {
    let (node, servers) = (NodeId(cluster.nodes[victim].id), cluster.servers());
    let ordered = async {
        let client = connect(&servers).await?;
        client.admin().order(ClusterCommand::Drain { node, on }).await
    };
    matches!(tokio::time::timeout(ORDER_PATIENCE, ordered).await, Ok(Ok(_)))
}
