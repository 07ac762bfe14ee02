//! How far every flow is, as operators see it.

use super::TeeCore;
use super::flow::Stage;
use lance_messages::id::{TeeId, TopicPartition};
use lance_messages::wire::tee::{TeePartition, TeeState};

/// What a rule did with a partition, since this process first led it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TeeCounts {
    /// Batches acked.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of them that went from files to the target inside the kernel.
    pub kernel_bytes: u64,
    /// Failures of the target and of the way to it.
    pub errors: u64,
    /// Batches sent again.
    pub retries: u64,
    /// Batches that the target had stored before.
    pub duplicates: u64,
    /// Records that retention removed before they were forwarded.
    pub lost_records: u64,
    /// Bytes of them.
    pub lost_bytes: u64,
    /// How often it went back to the last checkpoint.
    pub restarts: u64,
}

/// One partition of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowStatus {
    /// The rule.
    pub tee: TeeId,
    /// The name of its topic.
    pub topic: String,
    /// The partition.
    pub partition: TopicPartition,
    /// What happens.
    pub state: TeeState,
    /// Committed records that are not acked.
    pub lag_records: u64,
    /// Their bytes.
    pub lag_bytes: u64,
    /// How long the oldest of them has been stored, ms.
    pub lag_ms: u64,
    /// What was done.
    pub counts: TeeCounts,
    /// What went wrong last.
    pub error: String,
}

impl FlowStatus {
    /// As it goes over the wire.
    pub fn listed(&self) -> TeePartition {
        TeePartition {
            partition: self.partition.partition,
            state: self.state,
            lag_records: self.lag_records,
            lag_bytes: self.lag_bytes,
            lag_ms: self.lag_ms,
            forwarded_records: self.counts.records,
            lost_records: self.counts.lost_records,
            error: self.error.clone(),
        }
    }
}

impl TeeCore {
    /// Every flow, in the order of rules and partitions.
    pub fn status(&self, wall_ns: u64) -> Vec<FlowStatus> {
        let flows = self.places.iter().filter_map(|((tee, partition), id)| {
            let (flow, rule) = (self.flows.get(id)?, self.rules.get(tee)?);
            let end = flow.source.high_watermark;
            let known = flow.stage == Stage::Running;
            let lag_bytes = if known { end.offset.saturating_sub(flow.front.offset) } else { 0 };
            let waits_since = if lag_bytes > 0 && flow.oldest_ns > 0 { flow.oldest_ns } else { wall_ns };
            Some(FlowStatus {
                tee: *tee,
                topic: rule.topic_name.clone(),
                partition: *partition,
                state: flow.state,
                lag_records: if lag_bytes > 0 { end.record.saturating_sub(flow.front.record) } else { 0 },
                lag_bytes,
                lag_ms: wall_ns.saturating_sub(waits_since) / 1_000_000,
                counts: self.counts.get(&(*tee, *partition)).copied().unwrap_or_default(),
                error: flow.error.clone(),
            })
        });
        flows.collect()
    }
}
