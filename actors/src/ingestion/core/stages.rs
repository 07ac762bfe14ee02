//! Stages of traced batches: how far the log, the followers and the quorum are, told to those that follow them.

use super::{Effects, IngestionCore, IngestionEffect, Now};
use crate::ingestion::partition::Partition;
use crate::stages::batches::StepTimes;
use crate::stages::{Stage, StageSpan};
use lance_messages::id::NodeId;
use lance_messages::mail::connection::Produced;
use lance_messages::mail::ingestion::{ProduceRequest, RequestTrace};
use lance_messages::peer::{AppendRequest, TracedBatch};
use lance_storage::log::Log;

/// A stage is over.
pub(super) fn over(effects: &mut Effects) -> impl FnMut(StageSpan) + '_ {
    |span| effects.push(IngestionEffect::StageOver(Box::new(span)))
}

/// A batch of a traced request has its place in the log, and is followed from here on unless it had been there before.
pub(super) fn on_appended(
    partition: &mut Partition,
    trace: &RequestTrace,
    request: &ProduceRequest,
    (end, produced): (u64, Produced),
    now: Now,
    effects: &mut Effects,
) {
    let Produced { base_offset: offset, record_count: records, duplicate } = produced;
    let stage = Stage::Append { records, bytes: request.plain_len, offset, duplicate };
    over(effects)(StageSpan::until_now(trace.context, stage, partition.id, trace.received_at));
    if !duplicate {
        partition.traced.on_appended(end, trace.context, now.elapsed);
    }
}

/// A leader's batches were taken, or some of them: those that were not held before and are traced there are followed here.
pub(super) fn on_replica_appended(
    partition: &mut Partition,
    node: NodeId,
    held: u64,
    append: &AppendRequest,
    now: Now,
) {
    let taken = partition.log.as_ref().map_or(0, Log::log_end);
    for TracedBatch { index, context } in append.traced.iter().filter(|traced| traced.context.is_sampled()) {
        let Some(batch) = append.batches.get(*index as usize) else { continue };
        let end = batch.header.end_position();
        if end > held && end <= taken {
            partition.traced.on_replica_appended(batch, *context, node, now.elapsed);
        }
    }
}

/// A step of the log was completed.
pub(super) fn on_disk(partition: &mut Partition, times: StepTimes, now: Now, effects: &mut Effects) {
    let Partition { traced, log: Some(log), id, .. } = partition else { return };
    if !traced.is_empty() {
        traced.on_disk(*id, (log.written_end(), log.durable_end()), times, now.elapsed, &mut over(effects));
    }
}

/// The high watermark may have moved.
pub(super) fn on_committed(partition: &mut Partition, now: Now, effects: &mut Effects) {
    let Partition { traced, log: Some(log), id, .. } = partition else { return };
    if !traced.is_empty() {
        traced.on_committed(*id, log.high_watermark().position, now.elapsed, &mut over(effects));
    }
}

impl IngestionCore {
    /// Gives up traced batches that nothing was heard of for long; the shell calls this every second.
    pub fn end_late_stages(&mut self, now: Now, effects: &mut Effects) {
        for partition in self.partitions.iter_mut().flatten().filter(|partition| !partition.traced.is_empty()) {
            partition.traced.on_tick(partition.id, now.elapsed, &mut over(effects));
        }
    }
}
