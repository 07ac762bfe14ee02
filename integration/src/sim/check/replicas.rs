//! What must be true of several nodes: an ack, and a high watermark, only of what is durable on a quorum; the same bytes
//! below the same (epoch, position) everywhere; one leader in an epoch; no served high watermark above that of a later
//! epoch; and in the end the same log on every node.

use super::committed;
use super::durable::{DurableCursor, segment_path};
use super::losses;
use crate::sim::disk::SimDisk;
use crate::sim::oracle::Oracle;
use lance_cluster::replica::quorum::quorum_size;
use lance_messages::id::{LeaderEpoch, TopicPartition};
use lance_messages::mail::connection::PartitionBounds;
use std::collections::BTreeMap;
use std::path::Path;

/// What is known of the replicas of all partitions.
#[derive(Debug, Default)]
pub struct ReplicaTruth {
    /// The disk of each node.
    pub disks: Vec<SimDisk>,
    cursors: BTreeMap<(u16, TopicPartition), DurableCursor>,
    /// Hash of everything below each (epoch, position) that any node ever held durably.
    logs: BTreeMap<(TopicPartition, u32, u64), u64>,
    /// Which life of which node led in an epoch.
    leaders: BTreeMap<(TopicPartition, u32), (u16, u64, u64)>,
    /// The least and the greatest high watermark that was served in each epoch.
    served: BTreeMap<TopicPartition, BTreeMap<u32, (u64, u64)>>,
    /// Elections that came to a leader.
    pub elections: u64,
    /// Logs that were cut.
    pub cuts: u64,
    /// Changes of a replica set that the first node saw.
    pub exchanges: u64,
    /// Replicas that the first node saw counted again in another life.
    pub admissions: u64,
    /// Quorums that the first node saw lose a replica.
    pub evictions: u64,
    /// Quorums that the first node saw get one back, or another one in its place.
    pub returns: u64,
}

/// A partition is led from now on: node, start of its process, life of its actor.
pub fn led(oracle: &mut Oracle, partition: TopicPartition, epoch: LeaderEpoch, who: (u16, u64, u64)) {
    oracle.replicas.elections += 1;
    let before = *oracle.replicas.leaders.entry((partition, epoch.0)).or_insert(who);
    if before != who {
        oracle.violated(format!("{partition}: epoch {epoch} is led by {who:?} and was led by {before:?}"));
    }
}

/// Judges the bounds that a node sends along with an answer.
pub fn served(oracle: &mut Oracle, partition: TopicPartition, bounds: &PartitionBounds, node: u16) {
    let (epoch, now) = (bounds.leader_epoch.0, bounds.high_watermark_offset);
    let served = oracle.replicas.served.entry(partition).or_default();
    let before = served.range(..=epoch).map(|(_, (_, most))| *most).max().unwrap_or_default();
    let later = served.range(epoch + 1..).map(|(_, (least, _))| *least).min().unwrap_or(u64::MAX);
    let entry = served.entry(epoch).or_insert((now, now));
    *entry = (entry.0.min(now), entry.1.max(now));
    let what = if now < before {
        format!("{partition}: node {node} served high watermark {now} in epoch {epoch} after {before}")
    } else if now > later {
        format!("{partition}: node {node} served high watermark {now} in epoch {epoch}, a later epoch began at {later}")
    } else {
        let truth = oracle.partition(partition);
        truth.high_watermark = truth.high_watermark.max(now);
        return;
    };
    oracle.violated(what);
}

/// A log is cut: what lies above may come anew.
pub fn cut(oracle: &mut Oracle, partition: TopicPartition, node: u16) {
    oracle.replicas.cuts += 1;
    oracle.replicas.cursors.remove(&(node, partition));
}

/// A node begins to hold a copy: what it may have held before is not followed any more.
pub fn dropped(oracle: &mut Oracle, partition: TopicPartition, node: u16) {
    oracle.replicas.cursors.remove(&(node, partition));
}

/// A node has an empty disk: which, of what incarnation, when the metadata was applied up to an index.
pub fn wiped(oracle: &mut Oracle, dir: &Path, who: (u16, u64, u64), disk: SimDisk) {
    let (node, ..) = who;
    for partition in oracle.partitions.keys().copied().collect::<Vec<_>>() {
        let held = held(oracle, dir, node, partition);
        losses::wiped(oracle, partition, who, held);
    }
    oracle.replicas.cursors.retain(|(of, _), _| *of != node);
    oracle.replicas.disks[usize::from(node)] = disk;
}

/// The offset below which a node holds a log durably.
pub fn held(oracle: &mut Oracle, dir: &Path, node: u16, partition: TopicPartition) -> u64 {
    with_log(oracle, dir, (node, partition), |_, cursor| cursor.offset).unwrap_or_default()
}

/// Follows the durable log of one node, to an offset or to its end; what it is there.
pub(super) fn follow(
    oracle: &mut Oracle,
    dir: &Path,
    (node, partition): (u16, TopicPartition),
    offset: Option<u64>,
) -> Result<DurableCursor, String> {
    let flips = oracle.losses.flips_of(node, partition);
    let truth = &mut oracle.replicas;
    let Some(disk) = truth.disks.get(usize::from(node)) else { return Err(format!("node {node} is none of several")) };
    let memory = disk.memory().clone();
    let known = truth.cursors.remove(&(node, partition)).filter(|cursor| cursor.position() > 0);
    let mut cursor = known.unwrap_or_else(|| oracle.removals.beginning(&memory, dir, partition));
    cursor.flips = flips;
    let reached = match offset {
        Some(offset) => cursor.follow(&memory, dir, partition, offset),
        None => {
            cursor.follow_to_end(&memory, dir, partition);
            Ok(())
        }
    };
    let mut verdict = Ok(());
    for (epoch, position, hash) in cursor.trail.drain(..) {
        let known = *truth.logs.entry((partition, epoch, position)).or_insert(hash);
        if known != hash {
            verdict = Err(format!(
                "{partition}: node {node} holds other bytes below position {position} of epoch {epoch} than another"
            ));
            break;
        }
    }
    oracle.judge(verdict);
    Ok(match reached {
        Ok(()) => std::mem::take(oracle.replicas.cursors.entry((node, partition)).or_insert(cursor)),
        Err(why) => {
            oracle.replicas.cursors.insert((node, partition), cursor);
            return Err(why);
        }
    })
}

/// Follows the durable log of one node to its end, and hands out what is known of it.
pub fn with_log<T>(
    oracle: &mut Oracle,
    dir: &Path,
    (node, partition): (u16, TopicPartition),
    work: impl FnOnce(&mut Oracle, &DurableCursor) -> T,
) -> Option<T> {
    let cursor = follow(oracle, dir, (node, partition), None).ok()?;
    let result = work(oracle, &cursor);
    put_back(oracle, node, partition, cursor);
    Some(result)
}

pub(super) fn put_back(oracle: &mut Oracle, node: u16, partition: TopicPartition, cursor: DurableCursor) {
    oracle.replicas.cursors.insert((node, partition), cursor);
}

/// The batch that ends at an offset, as a node holds it durably: position and content.
fn batch_at(
    oracle: &mut Oracle,
    dir: &Path,
    (node, partition): (u16, TopicPartition),
    end: u64,
) -> Result<(u64, u32), String> {
    let cursor = follow(oracle, dir, (node, partition), Some(end))?;
    let at = cursor.found.partition_point(|batch| batch.offset + batch.bytes <= end);
    let found = at.checked_sub(1).and_then(|at| cursor.found.get(at)).map(|batch| (batch.offset, batch.crc));
    put_back(oracle, node, partition, cursor);
    found.ok_or_else(|| format!("{partition}: no batch of node {node} ends at {end}"))
}

/// A node says that everything below an offset is committed: then it is durable there and on a quorum of the replica set.
pub fn must_be_on_a_quorum(oracle: &mut Oracle, dir: &Path, partition: TopicPartition, end: u64, node: u16) {
    // What is removed is judged before it goes; after that there is nothing to find.
    if end == 0 || end == u64::MAX || end <= oracle.removals.removed_below(partition) {
        return;
    }
    let own = match batch_at(oracle, dir, (node, partition), end) {
        Ok(own) => own,
        Err(why) => return oracle.violated(format!("node {node} acked what is not durable: {why}")),
    };
    if let Ok(cursor) = follow(oracle, dir, (node, partition), Some(end)) {
        committed::note(oracle, partition, &cursor.found, end);
        put_back(oracle, node, partition, cursor);
    }
    // Of two sets, when one follows the other, a leader counts both; and what it once counted stays on the one that follows.
    let nodes = oracle.decided.replicas_of(partition);
    let nodes = nodes.unwrap_or_else(|| (0..oracle.replicas.disks.len() as u16).collect());
    let holds = |other: &u16| *other == node || batch_at(oracle, dir, (*other, partition), end).as_ref() == Ok(&own);
    let holders: Vec<u16> = nodes.iter().copied().filter(holds).collect();
    // A replica that has lost it may have been of the quorum that committed it.
    let lost = oracle.losses.held_by(partition, end).filter(|lost| nodes.contains(lost) && !holders.contains(lost));
    if holders.len() + usize::from(lost.is_some()) < quorum_size(nodes.len()) {
        oracle.violated(format!(
            "{partition}: node {node} acked offset {end}, which is not durable on a quorum of {nodes:?}: only {holders:?} have it"
        ));
    }
}

/// Whether all nodes hold the same log durably; then the oracle's cursor is at its end. `Err` says who differs.
pub fn converged(oracle: &mut Oracle, dir: &Path, partition: TopicPartition) -> Result<(), String> {
    let mut ends = Vec::new();
    for node in 0..oracle.replicas.disks.len() as u16 {
        let cursor = follow(oracle, dir, (node, partition), None)?;
        ends.push((cursor.position(), cursor.hash));
        put_back(oracle, node, partition, cursor);
    }
    if ends.iter().any(|end| *end != ends[0]) {
        let positions: Vec<u64> = ends.iter().map(|end| end.0).collect();
        return Err(format!("{partition}: the logs end at {positions:?}"));
    }
    // A segment is cut to its length some steps after it was rolled.
    let cursor = follow(oracle, dir, (0, partition), None)?;
    let active = cursor.segment_base();
    put_back(oracle, 0, partition, cursor);
    different_files(oracle, dir, partition, active).into_iter().next().map_or(Ok(()), Err)
}

/// The end of a run: hands a log to the other checkers, and compares closed segments byte by byte.
pub fn finish(oracle: &mut Oracle, dir: &Path, partition: TopicPartition) {
    let Ok(mut cursor) = follow(oracle, dir, (0, partition), None) else { return };
    oracle.removals.complete(partition, &mut cursor.found);
    for differs in different_files(oracle, dir, partition, cursor.segment_base()) {
        oracle.violated(differs);
    }
    oracle.partition(partition).durable = cursor;
}

/// The closed segments, below the one that begins at `active`, that are not the same on all nodes.
fn different_files(oracle: &Oracle, dir: &Path, partition: TopicPartition, active: u64) -> Vec<String> {
    let memory = oracle.replicas.disks[0].memory();
    let folder = segment_path(dir, partition, 0).parent().map(Path::to_path_buf);
    let closed = memory.files().into_iter().filter(|path| {
        let base = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        path.parent().map(Path::to_path_buf) == folder
            && path.extension().is_some_and(|extension| extension == "lnc")
            && base.is_some_and(|base| base < active)
    });
    let mut different = Vec::new();
    for path in closed {
        let own = memory.read_file(&path).unwrap_or_default();
        for node in 1..oracle.replicas.disks.len() {
            let other = oracle.replicas.disks[node].memory().read_file(&path).unwrap_or_default();
            if other != own {
                let equal_bytes = own.iter().zip(&other).take_while(|(own, other)| own == other).count();
                different.push(format!(
                    "the closed segment {} of node {node} has {} bytes where node 0 has {}; {equal_bytes} are the same",
                    path.display(),
                    other.len(),
                    own.len()
                ));
            }
        }
    }
    different
}
