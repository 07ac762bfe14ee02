//! What the model remembers: nodes around the real cores, decided metadata, and what was ever sent and committed.

use super::{Bounds, UNIT};
use lance_cluster::replica::{EpochHistory, FollowerReplica, LeaderReplica};
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicId, TopicPartition};
use lance_messages::peer::TruncateRequest;

/// Most batches of a log: one start for each epoch, and the records.
const MAX_BATCHES: usize = 7;
/// Most replicas, and most epochs.
const MAX_REPLICAS: usize = 4;

pub const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);

/// A batch: its epoch, and what it holds; 0 for the start of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Batch {
    pub epoch: u8,
    pub value: u8,
}

/// A log that is copied without an allocation; what lies behind its length is blank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    batches: [Batch; MAX_BATCHES],
    len: usize,
}

impl Log {
    pub fn push(&mut self, batch: Batch) {
        self.batches[self.len] = batch;
        self.len += 1;
    }

    pub fn truncate(&mut self, len: usize) {
        while self.len > len {
            self.len -= 1;
            self.batches[self.len] = Batch::default();
        }
    }
}

impl std::ops::Deref for Log {
    type Target = [Batch];

    fn deref(&self) -> &[Batch] {
        &self.batches[..self.len]
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Follower(FollowerReplica),
    Leader(LeaderReplica),
}

/// Every count is one of batches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub log: Log,
    pub durable: usize,
    pub high_watermark: usize,
    /// The promise on disk.
    pub promise: u8,
    pub boot: u8,
    pub damage: u32,
    pub role: Role,
    /// The follower as it was before its last promise; kept only to break that rule.
    pub before_promise: Option<FollowerReplica>,
}

/// A clean answer to a request for a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    pub last_epoch: u8,
    pub end: usize,
    pub boot: u8,
}

/// A confirmation that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ack {
    pub from: u8,
    pub damage: u32,
    pub epoch: u8,
    pub end: u64,
}

/// What a leader of an epoch had when its role ended: its appends may still arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sent {
    pub epoch: u8,
    pub log: Log,
    pub high_watermark: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: Vec<Node>,
    /// Decided metadata: the epoch, who was chosen in which start, and admitted lives.
    pub epoch: u8,
    pub chosen: Option<(u8, u8)>,
    pub admitted: [u32; MAX_REPLICAS],
    /// Answers in the present epoch.
    pub answers: [Option<Answer>; MAX_REPLICAS],
    /// Who led epoch 1, 2, …
    pub led: [Option<u8>; MAX_REPLICAS],
    pub sent: Vec<Sent>,
    pub acks: Vec<Ack>,
    /// The last truncation sent to each node.
    pub truncations: [Option<Truncation>; MAX_REPLICAS],
    /// Everything that was ever below a leader's high watermark.
    pub committed: Log,
    /// Whether nodes may start again at all.
    pub restarts: bool,
    /// Whether appends carry the high watermark.
    pub tells: bool,
    /// Whether a node syncs as soon as it writes.
    pub syncs_at_once: bool,
    pub records: u8,
    pub crashes: u8,
    pub wipes: u8,
    pub evictions: u8,
    /// Whose eviction a leader has proposed.
    pub evicting: Option<u8>,
}

/// A `TruncateRequest` that can be hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncation(pub TruncateRequest);

impl std::hash::Hash for Truncation {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let TruncateRequest { epoch, answers, to, .. } = &self.0;
        (epoch, answers.incarnation, answers.last_epoch, answers.log_end).hash(state);
        match to {
            lance_messages::peer::TruncateTo::Position(position) => position.hash(state),
            lance_messages::peer::TruncateTo::Restart(place) => (u64::MAX, place.position).hash(state),
        }
    }
}

pub fn node_id(node: u8) -> NodeId {
    NodeId(u16::from(node) + 1)
}

pub fn incarnation(node: u8, damage_count: u32) -> ReplicaIncarnation {
    ReplicaIncarnation { node: u64::from(node) + 100, copy_version: 0, damage_count }
}

pub fn leader_epoch(epoch: u8) -> LeaderEpoch {
    LeaderEpoch(u32::from(epoch))
}

pub fn position(batches: usize) -> u64 {
    batches as u64 * UNIT
}

pub fn batches(position: u64) -> usize {
    usize::try_from(position / UNIT).unwrap()
}

/// Epoch of the batch that ends after so many.
pub fn epoch_before(log: &[Batch], end: usize) -> u8 {
    end.checked_sub(1).map_or(0, |last| log[last].epoch)
}

pub fn history(log: &[Batch]) -> EpochHistory {
    let mut history = EpochHistory::default();
    for (at, batch) in log.iter().enumerate() {
        history.note_batch(leader_epoch(batch.epoch), position(at)).unwrap();
    }
    history
}

fn starts_with(log: &[Batch], prefix: &[Batch]) -> bool {
    log.len() >= prefix.len() && log[..prefix.len()] == *prefix
}

impl State {
    /// Epoch 1 was chosen to be led by the first node, with empty logs; settled, its start is everywhere.
    pub fn first(bounds: &Bounds) -> Self {
        let mut log = Log::default();
        if bounds.settled {
            log.push(Batch { epoch: 1, value: 0 });
        }
        let node = |number: u8| Node {
            durable: log.len(),
            log,
            high_watermark: 0,
            promise: 1,
            boot: 0,
            damage: 0,
            role: Role::Follower(FollowerReplica::new(PARTITION, incarnation(number, 0), LeaderEpoch(1))),
            before_promise: None,
        };
        let mut state = Self {
            nodes: (0..bounds.replicas).map(node).collect(),
            epoch: 1,
            chosen: Some((0, 0)),
            admitted: [0; MAX_REPLICAS],
            answers: [None; MAX_REPLICAS],
            led: [None; MAX_REPLICAS],
            sent: Vec::new(),
            acks: Vec::new(),
            truncations: [const { None }; MAX_REPLICAS],
            committed: Log::default(),
            restarts: bounds.crashes > 0 || bounds.wipes > 0,
            tells: bounds.tells,
            syncs_at_once: bounds.syncs_at_once,
            records: 0,
            crashes: 0,
            wipes: 0,
            evictions: 0,
            evicting: None,
        };
        state.begin_settled(bounds.settled);
        state
    }

    /// Forgets what can have no effect any more, so that states that differ in nothing else are one.
    pub fn forget(&mut self) {
        let promised = |node: &Node| match &node.role {
            Role::Follower(core) => core.promised(),
            Role::Leader(core) => core.epoch(),
        };
        // A crash may take a promise back to what is on disk.
        let lowest = self.nodes.iter().map(|node| promised(node).min(leader_epoch(node.promise))).min();
        let lowest = lowest.unwrap_or(LeaderEpoch(0));
        self.sent.retain(|sent| leader_epoch(sent.epoch) >= lowest);
        for truncation in &mut self.truncations {
            *truncation = truncation.take().filter(|truncation| truncation.0.epoch >= lowest);
        }
        if self.chosen.is_some() {
            self.answers = [None; MAX_REPLICAS];
        }
    }

    /// Acks for leaders that are gone.
    pub fn forget_acks(&mut self) {
        let mut acks = std::mem::take(&mut self.acks);
        acks.retain(|ack| self.leader_of(ack.epoch).is_some());
        self.acks = acks;
    }

    /// The leader of an epoch, while it believes to be one.
    pub fn leader_of(&self, epoch: u8) -> Option<u8> {
        let node = self.led[usize::from(epoch) - 1]?;
        let leads = |role: &Role| matches!(role, Role::Leader(core) if core.epoch() == leader_epoch(epoch));
        leads(&self.nodes[usize::from(node)].role).then_some(node)
    }

    /// What must hold in every state.
    pub fn check(&self) -> Result<(), String> {
        for (number, node) in self.nodes.iter().enumerate() {
            let known = &node.log.get(..node.high_watermark).ok_or("a high watermark beyond the log")?;
            if !starts_with(&self.committed, known) {
                return Err(format!("node {number} takes for committed what never was"));
            }
            for other in &self.nodes[number + 1..] {
                let same = |at: &usize| node.log[*at].epoch == other.log[*at].epoch;
                let last = (0..node.log.len().min(other.log.len())).rev().find(same);
                if last.is_some_and(|last| node.log[..=last] != other.log[..=last]) {
                    return Err("two logs with the same epoch at a position differ below it".to_owned());
                }
            }
        }
        Ok(())
    }

    /// The high watermark of a leader has moved: what it commits is what was committed before and more, and whoever leads a
    /// later epoch has it.
    pub fn commit(&mut self, leader: u8) -> Result<(), String> {
        let node = &mut self.nodes[usize::from(leader)];
        let Role::Leader(core) = &node.role else {
            return Ok(());
        };
        let epoch = core.epoch();
        node.high_watermark = batches(core.high_watermark()).max(node.high_watermark);
        let Some(now) = node.log.get(..node.high_watermark) else {
            return Err(format!("leader {leader} commits more than it has"));
        };
        if !starts_with(now, &self.committed) && !starts_with(&self.committed, now) {
            return Err(format!("leader {leader} commits {now:?} after {:?}", self.committed));
        }
        if now.len() > self.committed.len() {
            self.committed = node.log;
            self.committed.truncate(node.high_watermark);
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let leads_later = matches!(&node.role, Role::Leader(core) if core.epoch() > epoch);
            if leads_later && !starts_with(&node.log, &self.committed) {
                return Err(format!("leader {number} of a later epoch lacks what {leader} commits"));
            }
        }
        Ok(())
    }

    /// Whoever begins to lead has everything committed.
    pub fn check_complete(&self, leader: u8) -> Result<(), String> {
        if starts_with(&self.nodes[usize::from(leader)].log, &self.committed) {
            return Ok(());
        }
        Err(format!("leader {leader} begins without what is committed: {:?}", self.committed))
    }
}
