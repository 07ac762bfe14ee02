//! Segments that retention removes: what is below the start of a log was committed, and stays known for the other checkers.

use super::durable::{DurableCursor, FoundBatch, SegmentStart, segment_path};
use super::replicas;
use crate::sim::oracle::Oracle;
use lance_messages::id::TopicPartition;
use lance_storage::disk::memory::MemoryDisk;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Default)]
struct Removed {
    /// The batches that are gone somewhere.
    found: Vec<FoundBatch>,
    /// Where logs begin, by position.
    starts: BTreeMap<u64, SegmentStart>,
}

/// What was removed of all partitions.
#[derive(Debug, Default)]
pub struct Removals {
    partitions: BTreeMap<TopicPartition, Removed>,
    /// How often segments were removed.
    pub count: u64,
}

impl Removals {
    /// The offset below which records may be gone.
    pub fn removed_below(&self, partition: TopicPartition) -> u64 {
        let removed = self.partitions.get(&partition);
        removed.and_then(|removed| removed.starts.last_key_value()).map_or(0, |(_, start)| start.offset)
    }

    /// A cursor where the durable log on a disk begins.
    pub fn beginning(&self, memory: &MemoryDisk, dir: &Path, partition: TopicPartition) -> DurableCursor {
        let holds = |base_position| memory.read_durable(&segment_path(dir, partition, base_position), &mut [0], 0) > 0;
        // One that was begun anew where its leader's begins is empty at first.
        let is_begun = |base_position| memory.read_file(&segment_path(dir, partition, base_position)).is_some();
        let starts = self.partitions.get(&partition).map(|removed| &removed.starts).filter(|_| !holds(0));
        let start = starts.and_then(|starts| {
            let held = starts.values().find(|at| holds(at.base_position));
            held.or_else(|| starts.values().find(|at| is_begun(at.base_position)))
        });
        start.map_or_else(DurableCursor::default, |start| DurableCursor::beginning_at(*start))
    }

    /// Puts what is gone before what was found of a log.
    pub fn complete(&self, partition: TopicPartition, found: &mut Vec<FoundBatch>) {
        let begins = found.first().map_or(u64::MAX, |first| first.offset);
        let gone = self.partitions.get(&partition).map(|removed| removed.found.as_slice()).unwrap_or_default();
        found.splice(..0, gone.iter().filter(|batch| batch.offset < begins).copied());
    }
}

/// A node is about to remove what lies below `log_start`: all of it is committed.
pub fn removing(oracle: &mut Oracle, dir: &Path, partition: TopicPartition, node: u16, log_start: u64) {
    oracle.removals.count += 1;
    let entered = replicas::with_log(oracle, dir, (node, partition), |_, cursor| {
        cursor.starts.iter().find(|start| start.base_position == log_start).copied()
    });
    let known = oracle.removals.partitions.get(&partition).and_then(|removed| removed.starts.get(&log_start)).copied();
    // What a power cut kept of an earlier removal is not followed again.
    let start = entered.flatten().or(known);
    let Some(start) = start.filter(|start| known.is_none_or(|known| known == *start)) else {
        return oracle.violated(format!(
            "{partition}: node {node} removes what lies below {log_start}, which is no start of a segment of its durable log, \
             or another one than on another node"
        ));
    };
    replicas::must_be_on_a_quorum(oracle, dir, partition, start.offset, node);
    replicas::with_log(oracle, dir, (node, partition), |oracle, cursor| {
        let removed = oracle.removals.partitions.entry(partition).or_default();
        let known = removed.found.last().map_or(0, |last| last.offset + last.bytes);
        let gone = cursor.found.iter().filter(|batch| (known..start.offset).contains(&batch.offset));
        removed.found.extend(gone.copied());
        removed.starts.insert(log_start, start);
    });
}
