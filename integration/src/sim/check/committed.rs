//! What is committed stays committed: whoever leads has all of it, it is not cut where it is held, a replica whose disk was
//! lost counts again only with all it once answered for, and a changed replica set has it on a quorum.

use super::durable::FoundBatch;
use super::replicas::{follow, put_back};
use crate::sim::oracle::Oracle;
use lance_cluster::replica::quorum::quorum_size;
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What some client was told of, acked or readable.
#[derive(Debug, Default)]
pub struct CommittedTruth {
    batches: BTreeMap<TopicPartition, Vec<FoundBatch>>,
    admitted: BTreeSet<(TopicPartition, NodeId, ReplicaIncarnation)>,
    exchanged: BTreeSet<(TopicPartition, u32)>,
    /// Leaders, with what was committed when they were chosen.
    chosen: BTreeMap<(TopicPartition, LeaderEpoch), u64>,
}

impl CommittedTruth {
    fn end(&self, partition: TopicPartition) -> u64 {
        self.batches.get(&partition).and_then(|batches| batches.last()).map_or(0, |last| last.offset + last.bytes)
    }
}

/// Everything in a log that ends at `end` is committed; `found` is that log.
pub(super) fn note(oracle: &mut Oracle, partition: TopicPartition, found: &[FoundBatch], end: u64) {
    let known_end = oracle.committed.end(partition);
    let known = oracle.committed.batches.entry(partition).or_default();
    let from = found.partition_point(|batch| batch.offset < known_end);
    known.extend(found[from..].iter().take_while(|batch| batch.offset + batch.bytes <= end));
}

/// How much of what is committed a log holds that begins somewhere: behind its last such batch, as a log position and as an
/// offset.
fn held_end(committed: &[FoundBatch], begin: (u64, u64), found: &[FoundBatch]) -> (u64, u64) {
    let same = |(ours, theirs): &(&FoundBatch, &FoundBatch)| {
        (ours.offset, ours.crc, ours.end_position) == (theirs.offset, theirs.crc, theirs.end_position)
    };
    let first = found.first().map_or(u64::MAX, |first| first.offset);
    let from = committed.partition_point(|batch| batch.offset < first);
    let last = committed[from..].iter().zip(found).take_while(same).last();
    last.map_or(begin, |(batch, _)| (batch.end_position, batch.offset + batch.bytes))
}

fn held(oracle: &mut Oracle, dir: &Path, node: u16, partition: TopicPartition) -> (u64, u64) {
    let Ok(cursor) = follow(oracle, dir, (node, partition), None) else { return (0, 0) };
    let committed = oracle.committed.batches.get(&partition).map_or(&[][..], Vec::as_slice);
    let end = held_end(committed, cursor.begin, &cursor.found);
    put_back(oracle, node, partition, cursor);
    end
}

/// A leader was chosen.
pub fn is_chosen(
    oracle: &mut Oracle,
    dir: &Path,
    role: (TopicPartition, LeaderEpoch),
    (node, life): (u16, ReplicaIncarnation),
) {
    // By who sees it first: later its disk may be lost. One that lost it since it answered is not to lead.
    if oracle.committed.chosen.contains_key(&role) {
        return;
    }
    let committed = oracle.committed.end(role.0);
    oracle.committed.chosen.insert(role, committed);
    if !oracle.losses.is_past(role.0, node, life) {
        is_led(oracle, dir, role, node);
    }
}

/// A leader begins to lead.
pub fn is_led(oracle: &mut Oracle, dir: &Path, (partition, epoch): (TopicPartition, LeaderEpoch), node: u16) {
    let (_, end) = held(oracle, dir, node, partition);
    let successors = (partition, LeaderEpoch(epoch.0 + 1))..=(partition, LeaderEpoch(u32::MAX));
    // Who was stopped and has a successor, unknown to it, lacks what that one committed.
    let committed = match oracle.committed.chosen.range(successors).next() {
        Some(_) => oracle.committed.chosen.get(&(partition, epoch)).copied().unwrap_or_default(),
        None => oracle.committed.end(partition),
    };
    if end < committed {
        oracle.violated(format!(
            "{partition}: node {node} leads epoch {epoch} with {end} of what is committed up to {committed}"
        ));
    }
}

/// A leader has a follower cut its log back to a position.
pub fn is_cut(oracle: &mut Oracle, dir: &Path, (node, partition): (u16, TopicPartition), position: u64) {
    // What is damaged is cut too, in a life that ends with it.
    if oracle.losses.is_told(node, partition) {
        return;
    }
    let (end, _) = held(oracle, dir, node, partition);
    if position < end {
        oracle.violated(format!(
            "{partition}: node {node} cuts at {position} what is committed, which it holds up to {end}"
        ));
    }
}

/// A replica counts again, in another life.
pub fn is_admitted(
    oracle: &mut Oracle,
    dir: &Path,
    partition: TopicPartition,
    (node, incarnation): (NodeId, ReplicaIncarnation),
) {
    // By who sees it first: later the copy may have been given up.
    let index = node.0 - 1;
    oracle.losses.admitted(partition, index, incarnation);
    if !oracle.committed.admitted.insert((partition, node, incarnation)) {
        return;
    }
    let Some(lost) = oracle.losses.held_before(partition, index, incarnation) else { return };
    let needed = lost.min(oracle.committed.end(partition));
    let (_, end) = held(oracle, dir, index, partition);
    if end < needed {
        oracle.violated(format!(
            "{partition}: node {index} counts again with what is committed up to {end}, and lost it up to {needed}"
        ));
    }
}

/// Other nodes hold a partition from now on.
pub fn is_exchanged(oracle: &mut Oracle, dir: &Path, (partition, version): (TopicPartition, u32), replicas: &[NodeId]) {
    if !oracle.committed.exchanged.insert((partition, version)) {
        return;
    }
    let end = oracle.committed.end(partition);
    let nodes: Vec<u16> = replicas.iter().map(|node| node.0 - 1).collect();
    let holders: Vec<u16> = nodes.iter().copied().filter(|node| held(oracle, dir, *node, partition).1 >= end).collect();
    // What one of them has just lost counted until its loss was known.
    let lost = oracle.losses.held_by(partition, end).filter(|lost| nodes.contains(lost) && !holders.contains(lost));
    if holders.len() + usize::from(lost.is_some()) < quorum_size(nodes.len()) {
        oracle.violated(format!(
            "{partition}: {replicas:?} hold it from now on, and {holders:?} of them what is committed up to {end}"
        ));
    }
}
