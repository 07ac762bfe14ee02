//! What goes wrong, in an order that derives from the seed, and how it is made good again.

use super::cluster::{Cluster, LOOK_EVERY};
use super::history::History;
use super::proxy::LinkState;
use crate::cli::failure::Failure;
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum FaultKind {
    /// kill -9 of a node.
    Kill,
    /// kill -9 of all nodes at once.
    KillAll,
    /// SIGSTOP, past a failover, then SIGCONT.
    Pause,
    /// SIGTERM and a new start.
    Restart,
    /// kill -9 and an empty folder under the same id.
    Wipe,
    /// Nobody reaches a node any more, while it reaches the others.
    LinkCut,
    /// Connections to a node stay and carry nothing.
    LinkStall,
    /// Connections to a node are slow.
    LinkSlow,
    /// Writes and syncs take long.
    DiskSlow,
    /// A sync fails: the partition stops there until a restart.
    DiskSync,
    /// The disk is full for a while.
    DiskFull,
}

impl FaultKind {
    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Injects faults one after the other.
pub struct Nemesis {
    rng: StdRng,
    kinds: Vec<FaultKind>,
    patience: Duration,
    history: Arc<History>,
    /// How often each kind was injected.
    pub counts: BTreeMap<FaultKind, u64>,
    /// What should not have happened on the way.
    pub problems: Vec<String>,
}

impl Nemesis {
    /// All that follows derives from `seed`, but for how long nodes take to come back.
    pub fn new(seed: u64, kinds: &[FaultKind], patience: Duration, history: Arc<History>) -> Self {
        let kinds = if kinds.is_empty() { FaultKind::value_variants() } else { kinds };
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, kinds: kinds.to_vec(), patience, history, counts: BTreeMap::new(), problems: Vec::new() }
    }

    /// Injects faults until `until`, each healed before the next.
    pub async fn run(&mut self, cluster: &mut Cluster, until: Instant) -> Result<(), Failure> {
        // Every kind comes once before any comes twice.
        let mut round: Vec<FaultKind> = Vec::new();
        while Instant::now() < until {
            let kind = match round.pop() {
                Some(kind) => kind,
                None => {
                    round = self.kinds.clone();
                    round.shuffle(&mut self.rng);
                    continue;
                }
            };
            let victim = self.choose_victim(cluster).await;
            let hold = Duration::from_millis(self.rng.random_range(500..4_000));
            let rest = Duration::from_millis(self.rng.random_range(200..2_000));
            self.note(format!("{} of node {} for {hold:?}", kind.name(), victim + 1));
            *self.counts.entry(kind).or_default() += 1;
            self.inject(cluster, kind, victim, hold).await?;
            self.await_whole(cluster, kind).await;
            tokio::time::sleep(rest).await;
        }
        Ok(())
    }

    fn note(&mut self, what: String) {
        self.history.note(what);
    }

    /// Mostly a node that leads something: others are missed less.
    async fn choose_victim(&mut self, cluster: &Cluster) -> usize {
        let (index, leader) = (self.rng.random_range(0..cluster.nodes.len()), self.rng.random_bool(0.6));
        let choice = self.rng.random_range(0..usize::from(u16::MAX));
        if !leader {
            return index;
        }
        let Some(copies) = cluster.nodes[index].copies().await else { return index };
        let leaders: Vec<u64> = copies.iter().filter_map(|copy| copy.leader).collect();
        let chosen = leaders.get(choice % leaders.len().max(1));
        let place = chosen.and_then(|leader| cluster.nodes.iter().position(|node| u64::from(node.id) == *leader));
        place.unwrap_or(index)
    }

    async fn inject(
        &mut self,
        cluster: &mut Cluster,
        kind: FaultKind,
        victim: usize,
        hold: Duration,
    ) -> Result<(), Failure> {
        let slow = Duration::from_millis(self.rng.random_range(5..100));
        match kind {
            FaultKind::Kill => {
                cluster.nodes[victim].kill();
                tokio::time::sleep(hold).await;
                cluster.nodes[victim].start()?;
            }
            FaultKind::KillAll => {
                cluster.nodes.iter_mut().for_each(|node| node.kill());
                let mut order: Vec<usize> = (0..cluster.nodes.len()).collect();
                order.shuffle(&mut self.rng);
                for index in order {
                    tokio::time::sleep(hold / 8).await;
                    cluster.nodes[index].start()?;
                }
            }
            FaultKind::Pause => {
                cluster.nodes[victim].signal(libc::SIGSTOP);
                tokio::time::sleep(hold + Duration::from_secs(2)).await;
                cluster.nodes[victim].signal(libc::SIGCONT);
            }
            FaultKind::Restart => {
                if !cluster.nodes[victim].terminate().await {
                    self.problems.push(format!("node {} did not end well after SIGTERM", victim + 1));
                }
                cluster.nodes[victim].start()?;
            }
            FaultKind::Wipe => self.wipe(cluster, victim).await?,
            FaultKind::LinkCut => Self::link(cluster, victim, LinkState::Cut, hold).await,
            FaultKind::LinkStall => Self::link(cluster, victim, LinkState::Stalled, hold).await,
            FaultKind::LinkSlow => Self::link(cluster, victim, LinkState::Slow(slow), hold).await,
            FaultKind::DiskSlow => {
                let millis = slow.as_millis();
                let fault = format!(r#"{{"kind":"slow","millis":{millis},"path":"logs/"}}"#);
                self.disk(cluster, victim, &fault, hold).await;
            }
            FaultKind::DiskFull => self.disk(cluster, victim, r#"{"kind":"no_space","on":true}"#, hold).await,
            FaultKind::DiskSync => {
                self.disk(cluster, victim, r#"{"kind":"sync_error","path":"logs/"}"#, hold).await;
                // Nothing but a new start trusts the disk again.
                cluster.nodes[victim].kill();
                cluster.nodes[victim].start()?;
            }
        }
        Ok(())
    }

    async fn link(cluster: &Cluster, victim: usize, state: LinkState, hold: Duration) {
        cluster.nodes[victim].proxy.set(state);
        tokio::time::sleep(hold).await;
        cluster.nodes[victim].proxy.set(LinkState::Open);
    }

    async fn disk(&mut self, cluster: &Cluster, victim: usize, fault: &str, hold: Duration) {
        let node = &cluster.nodes[victim];
        let mut taken = node.inject(fault).await;
        tokio::time::sleep(hold).await;
        taken &= node.inject(r#"{"kind":"clear"}"#).await;
        if !taken {
            self.problems.push(format!("node {} did not take {fault}", node.id));
        }
    }

    /// A wiped node is forgiven only while the others hold everything: never before all copies agree.
    async fn wipe(&mut self, cluster: &mut Cluster, victim: usize) -> Result<(), Failure> {
        self.history.hold_producers(true);
        let agreed = cluster.await_agreement(self.patience).await;
        self.history.hold_producers(false);
        if let Err(states) = agreed {
            self.problems.push(format!("no wipe of node {}: the copies do not agree: {states}", victim + 1));
            return Ok(());
        }
        let node = &mut cluster.nodes[victim];
        node.kill();
        node.wipe().map_err(|error| Failure::failed(format!("cannot wipe node {}: {error}", node.id)))?;
        node.start()
    }

    /// The next fault finds the cluster whole again, so that never more is hurt than it must survive.
    async fn await_whole(&mut self, cluster: &mut Cluster, after: FaultKind) {
        let began = Instant::now();
        if !cluster.await_ready(self.patience).await {
            let mut unready = Vec::new();
            for node in &mut cluster.nodes {
                if !node.is_ready().await {
                    let how = node.ended().unwrap_or_else(|| "runs".to_owned());
                    unready.push(format!("{} ({how})", node.id));
                }
            }
            self.problems.push(format!("not ready {:?} after {}: nodes {unready:?}", self.patience, after.name()));
        }
        if !self.history.await_acks(LOOK_EVERY, self.patience).await {
            self.problems.push(format!("not every partition acks again {:?} after {}", self.patience, after.name()));
        }
        self.note(format!("whole again {:?} after {}", began.elapsed(), after.name()));
    }
}
