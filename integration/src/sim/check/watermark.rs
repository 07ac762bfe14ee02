//! No high watermark that is served ever moves back, no epoch does, and nothing above is shown.

use crate::sim::oracle::Oracle;
use lance_messages::id::TopicPartition;
use lance_messages::mail::connection::PartitionBounds;

/// Judges the bounds a node sends along with an answer.
pub fn served(oracle: &mut Oracle, partition: TopicPartition, bounds: &PartitionBounds) {
    let truth = oracle.partition(partition);
    let PartitionBounds { leader_epoch, log_start_offset, high_watermark_offset } = *bounds;
    let verdict = if high_watermark_offset < truth.high_watermark {
        let before = truth.high_watermark;
        Err(format!("{partition}: high watermark {high_watermark_offset} was served after {before}"))
    } else if leader_epoch.0 < truth.epoch {
        Err(format!("{partition}: epoch {leader_epoch} answers after epoch {}", truth.epoch))
    } else if log_start_offset > high_watermark_offset {
        Err(format!("{partition}: log start {log_start_offset} is above the high watermark {high_watermark_offset}"))
    } else {
        Ok(())
    };
    truth.high_watermark = truth.high_watermark.max(high_watermark_offset);
    truth.epoch = truth.epoch.max(leader_epoch.0);
    oracle.judge(verdict);
}
