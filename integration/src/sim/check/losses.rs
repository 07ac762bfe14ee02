//! Replicas that lost what they held: by an empty disk, or by bits that flipped. Of each partition one replica at a time
//! may; until it counts again in a later life, it may have been of the quorum that committed what it held.

use super::replicas;
use crate::sim::oracle::Oracle;
use lance_cluster::metadata::state::MetadataState;
use lance_messages::id::{NodeId, ReplicaIncarnation, TopicPartition};
use lance_storage::scrub::Damage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A bit that flipped in a file.
#[derive(Clone, Debug)]
pub struct Flip {
    path: PathBuf,
    file_offset: u64,
    /// The byte as it was, and as it is.
    good: u8,
    flipped: u8,
}

/// Puts the right bytes into what was read from a file where bits are flipped.
pub fn mend(flips: &[Flip], path: &Path, read: &mut [u8], file_offset: u64) {
    for flip in flips.iter().filter(|flip| flip.path == path) {
        let at = flip.file_offset.checked_sub(file_offset).and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = at.and_then(|at| read.get_mut(at)).filter(|byte| **byte == flip.flipped) {
            *byte = flip.good;
        }
    }
}

/// What a life of a replica held.
#[derive(Clone, Debug)]
struct Held {
    life: ReplicaIncarnation,
    /// The offset below which it held the log durably; `None` until that goes.
    end: Option<u64>,
    /// What it acked counts: also when it is admitted only after its end.
    counts: bool,
}

#[derive(Debug)]
struct Loss {
    node: u16,
    /// It counts again in a later life than this.
    life: ReplicaIncarnation,
    /// Metadata of up to this index says nothing of it.
    since: u64,
    flips: Vec<Flip>,
    /// The node was told that its replica is damaged.
    told: bool,
    /// What each of its lives held that is over since it counted last.
    held: Vec<Held>,
    /// It counts in a later life.
    over: bool,
}

impl Loss {
    /// Whether a node was told that its replica is damaged, and does not count again.
    fn excuses(&self, node: u16) -> bool {
        self.node == node && self.told && !self.over
    }

    /// The offset below which it held what it may have been of the quorum for.
    fn held_end(&self) -> Option<u64> {
        self.held.iter().filter(|held| held.counts).filter_map(|held| held.end).max()
    }

    /// Whether a life in which a replica counts came after this loss.
    fn is_before(&self, admitted: ReplicaIncarnation) -> bool {
        admitted.node != self.life.node || admitted > self.life
    }
}

/// All losses that are not made good for yet.
#[derive(Debug, Default)]
pub struct Losses {
    open: BTreeMap<TopicPartition, Loss>,
    /// Bits that flipped.
    pub flips: u64,
    /// Rotten replicas that were cut and count again.
    pub repairs: u64,
    /// Rotten replicas whose flipped bits went otherwise.
    pub vanished: u64,
}

impl Losses {
    /// The bits that flipped in the log of a node.
    pub fn flips_of(&self, node: u16, partition: TopicPartition) -> Vec<Flip> {
        self.open.get(&partition).filter(|loss| loss.node == node).map(|loss| loss.flips.clone()).unwrap_or_default()
    }

    /// Whether a node was told that its replica is damaged, and does not count again.
    pub fn is_told(&self, node: u16, partition: TopicPartition) -> bool {
        self.open.get(&partition).is_some_and(|loss| loss.excuses(node))
    }

    /// Whether this life of a replica is over: it takes up no role any more.
    pub fn is_past(&self, partition: TopicPartition, node: u16, life: ReplicaIncarnation) -> bool {
        self.open.get(&partition).is_some_and(|loss| loss.excuses(node) && !loss.is_before(life))
    }

    /// The node that held everything below an offset of a partition, lost it, and does not count again.
    pub fn held_by(&self, partition: TopicPartition, end: u64) -> Option<u16> {
        let loss = self.open.get(&partition).filter(|loss| !loss.over)?;
        loss.held_end().filter(|held| end <= *held).map(|_| loss.node)
    }

    /// The offset below which a replica held the log that counts again in this life.
    pub fn held_before(&self, partition: TopicPartition, node: u16, admitted: ReplicaIncarnation) -> Option<u64> {
        let loss = self.open.get(&partition).filter(|loss| loss.excuses(node) && loss.is_before(admitted))?;
        loss.held_end()
    }

    /// A life of a replica is admitted; it may be over already.
    pub fn admitted(&mut self, partition: TopicPartition, node: u16, life: ReplicaIncarnation) {
        let loss = self.open.get_mut(&partition).filter(|loss| loss.node == node);
        let held = loss.into_iter().flat_map(|loss| &mut loss.held);
        held.filter(|held| held.life == life).for_each(|held| held.counts = true);
    }
}

/// Bits flipped in closed segments of a replica that is in this life, when the metadata was applied up to an index.
pub fn rotten(
    oracle: &mut Oracle,
    partition: TopicPartition,
    node: u16,
    (life, since): (ReplicaIncarnation, u64),
    flips: &[(PathBuf, u64, u8)],
) {
    let memory = oracle.replicas.disks[usize::from(node)].memory();
    let mut known: Vec<Flip> = Vec::new();
    for (path, file_offset, bit) in flips {
        let mut byte = [0];
        memory.read_durable(path, &mut byte, *file_offset);
        match known.iter_mut().find(|flip| flip.path == *path && flip.file_offset == *file_offset) {
            Some(flip) => flip.good ^= 1 << bit,
            None => known.push(Flip {
                path: path.clone(),
                file_offset: *file_offset,
                good: byte[0] ^ 1 << bit,
                flipped: byte[0],
            }),
        }
    }
    known.retain(|flip| flip.good != flip.flipped);
    if known.is_empty() {
        return;
    }
    oracle.losses.flips += known.len() as u64;
    let loss = Loss { node, life, since, flips: known, told: false, held: Vec::new(), over: false };
    oracle.losses.open.insert(partition, loss);
}

/// A disk is emptied that held a log up to an offset.
pub fn wiped(oracle: &mut Oracle, partition: TopicPartition, (node, incarnation, since): (u16, u64, u64), held: u64) {
    let life = ReplicaIncarnation { node: incarnation, copy_version: u32::MAX, damage_count: u32::MAX };
    let mut loss = Loss { node, life, since, flips: Vec::new(), told: true, held: Vec::new(), over: false };
    let mut last = life;
    if let Some(before) = oracle.losses.open.get(&partition).filter(|loss| loss.excuses(node)) {
        last = ReplicaIncarnation { damage_count: before.life.damage_count + 1, ..before.life };
        loss.held.clone_from(&before.held);
    }
    loss.held.push(Held { life: last, end: Some(held), counts: loss.held.is_empty() });
    oracle.losses.open.insert(partition, loss);
}

/// A node was told that its replica is damaged, and has begun its life of this count of damages.
pub fn told(oracle: &mut Oracle, partition: TopicPartition, node: u16, (incarnation, damage_count): (u64, u32)) {
    let Some(loss) = oracle.losses.open.get_mut(&partition).filter(|loss| loss.node == node) else { return };
    if loss.life.node == incarnation {
        loss.life.damage_count = loss.life.damage_count.max(damage_count.saturating_sub(1));
    }
    if std::mem::take(&mut loss.over) {
        loss.held.clear();
    }
    loss.held.push(Held { life: loss.life, end: None, counts: loss.held.is_empty() });
    loss.told = true;
}

/// A node is about to cut a log: as its leader asked, or because it is damaged.
pub fn cut(oracle: &mut Oracle, dir: &Path, partition: TopicPartition, node: u16) {
    if !oracle.losses.is_told(node, partition) {
        return;
    }
    let held = replicas::held(oracle, dir, node, partition);
    for life in oracle.losses.open.get_mut(&partition).into_iter().flat_map(|loss| &mut loss.held) {
        life.end.get_or_insert(held);
    }
}

/// The metadata as a node has applied it.
pub fn seen(oracle: &mut Oracle, state: &MetadataState) {
    for (partition, loss) in &mut oracle.losses.open {
        if state.applied_index() <= loss.since {
            continue;
        }
        let Some(decided) = state.partition(*partition) else { continue };
        loss.over |= match decided.replica(NodeId(loss.node + 1)) {
            None => true,
            Some(replica) => loss.is_before(replica.admitted),
        };
    }
    settle(oracle);
}

/// Takes what is made good for off the books.
fn settle(oracle: &mut Oracle) {
    let Oracle { losses, replicas, .. } = oracle;
    let Losses { open, repairs, vanished, .. } = losses;
    open.retain(|_, loss| {
        let memory = replicas.disks[usize::from(loss.node)].memory();
        let is_there = |flip: &Flip| {
            let mut byte = [0];
            let durable = memory.read_durable(&flip.path, &mut byte, flip.file_offset) > 0 && byte[0] == flip.flipped;
            let live = memory.read_file(&flip.path).and_then(|file| file.get(flip.file_offset as usize).copied());
            durable || live == Some(flip.flipped)
        };
        let stays = !loss.over && loss.told || loss.flips.iter().any(is_there);
        if !stays && !loss.flips.is_empty() {
            *(if loss.told { &mut *repairs } else { &mut *vanished }) += 1;
        }
        stays
    });
}

/// Whether bits of a replica of this partition may flip.
pub fn may_rot(oracle: &mut Oracle, partition: TopicPartition) -> bool {
    settle(oracle);
    !oracle.losses.open.contains_key(&partition)
}

/// Whether a replica on another node still lacks what it lost.
pub fn outstanding_elsewhere(oracle: &mut Oracle, node: u16) -> bool {
    settle(oracle);
    oracle.losses.open.values().any(|loss| loss.node != node)
}

/// A loss that nobody has made good for.
pub fn outstanding(oracle: &mut Oracle) -> Option<String> {
    settle(oracle);
    let (partition, loss) = oracle.losses.open.first_key_value()?;
    let Loss { node, life, told, held, flips, .. } = loss;
    let what = if flips.is_empty() { "was wiped" } else { "is rotten" };
    Some(format!("{partition}: node {node} {what} ({flips:?}) after {life:?}, told: {told}, held {held:?}"))
}

/// A scrubber found damage: a bit must have flipped there.
pub fn found(oracle: &mut Oracle, node: u16, damage: &Damage) {
    if !oracle.losses.flips_of(node, damage.partition).iter().any(|flip| flip.path == damage.path) {
        oracle.violated(format!("node {node}: the scrubber found damage where no bit had flipped: {damage}"));
    }
}
