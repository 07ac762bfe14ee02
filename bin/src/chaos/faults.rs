//! What goes wrong, in an order that derives from the seed, and how it is made good again.

use super::args::ChaosCli;
use super::churn::Churn;
use super::cluster::{Cluster, LOOK_EVERY};
use super::history::History;
use super::inject::Lasting;
use super::lift_back_offs;
use super::model::{Active, FaultModel};
use crate::cli::failure::Failure;
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks whether a node has what it lost.
const REFILL_LOOK: Duration = Duration::from_millis(500);

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
    /// Nobody reaches a node any more, while what it sends arrives.
    LinkCut,
    /// A node is isolated: connections stay and carry nothing.
    LinkStall,
    /// Two nodes do not reach each other, and others reach both. Namespaces only.
    LinkBridge,
    /// What one node sends to one other does not arrive. Namespaces only.
    LinkOneWay,
    /// Links of a node are slow, and lose and reorder packets as far as the network can.
    LinkSlow,
    /// Writes and syncs take long.
    DiskSlow,
    /// A sync fails: the partition stops there until a restart.
    DiskSync,
    /// A write fails, likewise.
    DiskWrite,
    /// The disk is full for a while.
    DiskFull,
    /// A bit flips in a closed segment of one copy.
    BitFlip,
    /// An actor panics.
    ActorPanic,
    /// Topics are made and deleted.
    TopicChurn,
    /// A node is drained: its leaderships move away by plan, and back.
    LeaderMove,
}

impl FaultKind {
    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What chance says of the next fault: drawn once, however long it has to wait.
#[derive(Clone, Copy, Debug)]
struct Draw {
    node: usize,
    leader: Option<usize>,
    hold: Duration,
}

/// A fault under way.
struct Fault {
    active: Active,
    until: Instant,
    lasting: Lasting,
}

/// Injects faults, several at a time as far as the model allows.
pub struct Nemesis {
    pub(super) rng: StdRng,
    pub(super) history: Arc<History>,
    pub(super) churn: Churn,
    model: FaultModel,
    kinds: Vec<FaultKind>,
    waiting: Vec<FaultKind>,
    drawn: Option<Draw>,
    under_way: Vec<Fault>,
    patience: Duration,
    next_refill_look: Instant,
    /// How often each kind was injected.
    pub counts: BTreeMap<FaultKind, u64>,
    /// The most that lasted at the same time.
    pub most_at_once: usize,
    /// What should not have happened on the way.
    pub problems: Vec<String>,
    /// How often everything was whole again.
    pub whole: u64,
}

impl Nemesis {
    /// All that follows derives from `seed`, but for how long nodes take to come back.
    pub fn new(seed: u64, args: &ChaosCli, cluster: &Cluster, history: Arc<History>, churn: Churn) -> Self {
        let model = FaultModel {
            nodes: cluster.nodes.len(),
            overlap: usize::from(args.overlap),
            is_per_pair: cluster.network.is_per_pair(),
        };
        let wanted = if args.faults.is_empty() { FaultKind::value_variants() } else { &args.faults };
        let can_be = |kind: &FaultKind| model.knows(*kind) && cluster.network.supports(*kind);
        let (kinds, left_out): (Vec<FaultKind>, Vec<FaultKind>) = wanted.iter().copied().partition(can_be);
        for kind in left_out {
            history.note(format!("{} cannot be injected with these nodes and this network", kind.name()));
        }
        let rng = StdRng::seed_from_u64(seed);
        let (waiting, under_way) = (Vec::new(), Vec::new());
        let (counts, problems) = (BTreeMap::new(), Vec::new());
        let (patience, next_refill_look) = (args.patience, Instant::now());
        Self {
            rng,
            history,
            churn,
            model,
            kinds,
            waiting,
            drawn: None,
            under_way,
            patience,
            next_refill_look,
            counts,
            most_at_once: 0,
            problems,
            whole: 0,
        }
    }

    /// Injects faults until `until`, in storms: a few that overlap, then all are healed, and the cluster must be whole.
    pub async fn run(&mut self, cluster: &mut Cluster, until: Instant) -> Result<(), Failure> {
        while Instant::now() < until && !self.kinds.is_empty() {
            let mut left = if self.model.overlap == 1 { 1 } else { self.rng.random_range(3..7) };
            let mut next = Instant::now();
            while Instant::now() < until && (left > 0 || self.is_anything_lasting()) {
                if left > 0 && Instant::now() >= next && self.begin_next(cluster).await? {
                    left -= 1;
                    let pause = if self.model.overlap == 1 { 0 } else { self.rng.random_range(0..1_500) };
                    next = Instant::now() + Duration::from_millis(pause);
                }
                self.end_due(cluster, Instant::now()).await?;
                tokio::time::sleep(LOOK_EVERY).await;
            }
            self.heal_all(cluster).await?;
            self.await_whole(cluster).await;
            let rest = Duration::from_millis(self.rng.random_range(200..2_000));
            tokio::time::sleep(rest).await;
        }
        Ok(())
    }

    fn is_anything_lasting(&self) -> bool {
        self.under_way.iter().any(|fault| fault.active.lasts)
    }

    /// Begins the next fault that may; whether one did.
    async fn begin_next(&mut self, cluster: &mut Cluster) -> Result<bool, Failure> {
        // Every kind comes once before any comes twice, unless it had to wait.
        if self.waiting.is_empty() {
            self.waiting = self.kinds.clone();
            self.waiting.shuffle(&mut self.rng);
        }
        let draw = self.drawn.unwrap_or_else(|| Draw {
            node: self.rng.random_range(0..cluster.nodes.len()),
            // Mostly a node that leads something: others are missed less.
            leader: self.rng.random_bool(0.6).then(|| self.rng.random_range(0..usize::from(u16::MAX))),
            hold: Duration::from_millis(self.rng.random_range(500..4_000)),
        });
        self.drawn = Some(draw);
        let preferred = choose_victim(cluster, draw).await;
        let active: Vec<Active> = self.under_way().collect();
        let Some((index, victim)) = self.model.choose(&self.waiting, preferred, &active) else { return Ok(false) };
        let kind = self.waiting.remove(index);
        let hold = if kind == FaultKind::Pause { draw.hold + Duration::from_secs(2) } else { draw.hold };
        self.drawn = None;
        let Some(lasting) = self.begin(cluster, kind, victim).await? else {
            // Nothing was hurt; it gets another chance.
            self.waiting.insert(0, kind);
            return Ok(false);
        };
        self.history.note(format!("{} of node {} for {hold:?}{}", kind.name(), victim + 1, lasting.describe()));
        *self.counts.entry(kind).or_default() += 1;
        let active = Active { kind, victim, lasts: true };
        self.under_way.push(Fault { active, until: Instant::now() + hold, lasting });
        let lasting = self.under_way.iter().filter(|fault| fault.active.lasts).count();
        self.most_at_once = self.most_at_once.max(lasting);
        Ok(true)
    }

    /// Ends the faults whose time has come, and forgets those of nodes that hold again what they lost.
    async fn end_due(&mut self, cluster: &mut Cluster, now: Instant) -> Result<(), Failure> {
        let looks = now >= self.next_refill_look;
        if looks {
            self.next_refill_look = now + REFILL_LOOK;
        }
        let mut index = 0;
        while index < self.under_way.len() {
            let mut fault = self.under_way.swap_remove(index);
            if fault.active.lasts && fault.until <= now {
                fault.active.lasts = !self.end(cluster, fault.active, &mut fault.lasting).await?;
            }
            let lacks = fault.active.kind.takes_data();
            let over = !fault.active.lasts && !lacks;
            let refilled = !fault.active.lasts
                && lacks
                && looks
                && fault.lasting.is_refilled(&cluster.nodes[fault.active.victim]).await;
            if refilled {
                let (kind, victim) = (fault.active.kind.name(), fault.active.victim + 1);
                self.history.note(format!("node {victim} holds again what {kind} took"));
            }
            if !over && !refilled {
                self.under_way.push(fault);
                let last = self.under_way.len() - 1;
                self.under_way.swap(index, last);
                index += 1;
            }
        }
        Ok(())
    }

    /// Ends everything that lasts.
    async fn heal_all(&mut self, cluster: &mut Cluster) -> Result<(), Failure> {
        let (now, deadline) = (Instant::now(), Instant::now() + self.patience);
        self.under_way.iter_mut().for_each(|fault| fault.until = fault.until.min(now));
        while self.is_anything_lasting() && Instant::now() < deadline {
            self.end_due(cluster, Instant::now()).await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        for fault in self.under_way.iter_mut().filter(|fault| fault.active.lasts) {
            let (kind, node) = (fault.active.kind.name(), fault.active.victim + 1);
            self.problems.push(format!("{kind} of node {node} cannot be ended within {:?}", self.patience));
            fault.active.lasts = false;
        }
        Ok(())
    }

    /// Faults that are not made good for yet.
    pub fn under_way(&self) -> impl Iterator<Item = Active> + '_ {
        self.under_way.iter().map(|fault| fault.active)
    }

    /// Whether there is no fault it could inject.
    pub fn is_idle(&self) -> bool {
        self.kinds.is_empty()
    }

    /// After a storm all nodes serve, every partition acks, and what was taken is there again.
    async fn await_whole(&mut self, cluster: &mut Cluster) {
        let (began, problems) = (Instant::now(), self.problems.len());
        if !cluster.await_ready(self.patience).await {
            let mut unready = Vec::new();
            for node in &mut cluster.nodes {
                if let Some(why) = node.why_unready().await {
                    let how = node.ended().unwrap_or_else(|| "runs".to_owned());
                    unready.push(format!("{} ({how}; {why})", node.id));
                }
            }
            self.problems.push(format!("not ready after {:?}: nodes {unready:?}", self.patience));
        }
        if !self.history.await_acks(LOOK_EVERY, self.patience).await {
            self.problems.push(format!("not every partition acks again after {:?}", self.patience));
        }
        // What was taken is given back once enough nodes count.
        lift_back_offs(cluster).await;
        let deadline = Instant::now() + self.patience;
        while !self.under_way.is_empty() && Instant::now() < deadline {
            if self.end_due(cluster, Instant::now()).await.is_err() {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        for fault in &self.under_way {
            let (kind, node) = (fault.active.kind.name(), fault.active.victim + 1);
            let what = fault.lasting.describe();
            self.problems.push(format!("node {node} still lacks what {kind} took after {:?}{what}", self.patience));
        }
        self.whole += u64::from(self.problems.len() == problems);
        self.history.note(format!("whole again {:?} after the last fault", began.elapsed()));
    }
}

/// A leader of some partition, or any node, as was drawn.
async fn choose_victim(cluster: &Cluster, draw: Draw) -> usize {
    let Some(choice) = draw.leader else { return draw.node };
    let Some(copies) = cluster.nodes[draw.node].copies().await else { return draw.node };
    let leaders: Vec<u64> = copies.iter().filter_map(|copy| copy.leader).collect();
    let chosen = leaders.get(choice % leaders.len().max(1));
    let place = chosen.and_then(|leader| cluster.nodes.iter().position(|node| u64::from(node.id) == *leader));
    place.unwrap_or(draw.node)
}
