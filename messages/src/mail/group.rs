//! Messages that the group actor receives.

use crate::id::TopicPartition;

/// Stores how far a consumer is; answered once that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "Result<(), crate::error_code::ErrorCode>"))]
pub struct CommitOffset {
    /// The partition read.
    pub partition: TopicPartition,
    /// The consumer.
    pub consumer_id: u64,
    /// Where it goes on; may be lower than before.
    pub offset: u64,
}

/// Asks how far a consumer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "Result<Option<u64>, crate::error_code::ErrorCode>"))]
pub struct CommittedOffset {
    /// The partition read.
    pub partition: TopicPartition,
    /// The consumer.
    pub consumer_id: u64,
}
