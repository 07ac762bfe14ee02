//! At the end: every acked batch is in the log where its client was told, once, and each lane's batches are in order.

use crate::sim::check::durable::FoundBatch;
use crate::sim::oracle::{LaneKind, Oracle};
use crate::sim::payload::BatchKey;
use lance_messages::id::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};

/// Judges the whole log of a partition.
pub fn whole_log(oracle: &mut Oracle, partition: TopicPartition) {
    let found = std::mem::take(&mut oracle.partition(partition).durable.found);
    let verdict = judge(oracle, partition, &found).and_then(|()| judge_look_ups(oracle, partition, &found));
    oracle.judge(verdict);
}

fn judge_look_ups(oracle: &Oracle, partition: TopicPartition, found: &[FoundBatch]) -> Result<(), String> {
    let looked_up = oracle.partitions.get(&partition).map(|truth| truth.looked_up.as_slice()).unwrap_or_default();
    for &(record, offset) in looked_up {
        let after = found.partition_point(|batch| batch.record <= record);
        let Some(batch) = after.checked_sub(1).and_then(|at| found.get(at)) else { continue };
        let ahead = record - batch.record;
        // All records of a batch are equally long here; past the last record the end is answered, which moves.
        if ahead < u64::from(batch.record_count) {
            let expected = batch.offset + ahead * (batch.bytes / u64::from(batch.record_count));
            if offset != expected {
                return Err(format!("{partition}: record {record} was looked up at {offset} and stands at {expected}"));
            }
        }
    }
    Ok(())
}

fn judge(oracle: &Oracle, partition: TopicPartition, found: &[FoundBatch]) -> Result<(), String> {
    let mut seen: BTreeSet<BatchKey> = BTreeSet::new();
    for batch in found {
        if let Some(key) = batch.key.filter(|key| !seen.insert(*key)) {
            return Err(format!("{partition}: {key:?} is stored again at offset {}", batch.offset));
        }
    }
    let mut last: BTreeMap<(u16, u16, u64), u32> = BTreeMap::new();
    for batch in found {
        let at = batch.offset;
        let Some(key) = batch.key else {
            return Err(format!("{partition}: nobody's batch stands at offset {at}"));
        };
        let Some(sent) = oracle.sent.get(&key).filter(|sent| sent.partition == partition) else {
            return Err(format!("{partition}: {key:?} at offset {at} was never sent there"));
        };
        if (sent.crc, sent.bytes, sent.record_count) != (batch.crc, batch.bytes, batch.record_count) {
            return Err(format!("{partition}: {key:?} at offset {at} is not what was sent"));
        }
        // What was under way on a connection that broke may come behind what was sent on the next one.
        let connection = if sent.lane == LaneKind::Once { sent.connection } else { 0 };
        if let Some(before) = last.insert((key.client, key.lane, connection), key.number)
            && before >= key.number
        {
            return Err(format!("{partition}: {key:?} at offset {at} comes after number {before}"));
        }
        if let Some(offset) = sent.offset
            && offset != at
        {
            return Err(format!("{partition}: {key:?} was acked at {offset} and stands at {at}"));
        }
    }
    for (key, sent) in oracle.sent.iter().filter(|(_, sent)| sent.partition == partition) {
        if sent.acked && !seen.contains(key) {
            return Err(format!("{partition}: {key:?} was acked and is not in the log"));
        }
        // A lane that retries has been told of everything by now; nothing of it may be missing.
        if sent.lane == LaneKind::Idempotent && !seen.contains(key) {
            return Err(format!("{partition}: {key:?} of a lane that retries is not in the log"));
        }
    }
    Ok(())
}
