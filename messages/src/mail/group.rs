//! Messages that the group actor receives.

use super::ingestion::RequestTrace;
use crate::id::TopicPartition;
use crate::wire::group::{DescribeGroups, GroupCommit, GroupHeartbeat, GroupOffsetsWanted};
use std::sync::Arc;

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

/// A request of a consumer group's member, or of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRequest {
    /// A member lives.
    Heartbeat(GroupHeartbeat),
    /// A member, or a tool, stores how far the group is.
    Commit(GroupCommit),
    /// Somebody asks how far the group is.
    Offsets(GroupOffsetsWanted),
    /// Somebody asks what groups there are.
    Describe(DescribeGroups),
    /// Forgets a group.
    Delete(String),
}

/// Asks the coordinator of consumer groups; answered with the reply as the client gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "Result<crate::wire::Response, crate::error_code::ErrorCode>"))]
pub struct AskGroup {
    /// What the client calls itself.
    pub client: Arc<str>,
    /// The request.
    pub request: GroupRequest,
    /// The trace it belongs to, if it is traced.
    pub trace: Option<RequestTrace>,
}
