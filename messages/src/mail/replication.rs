//! Messages that the replication actor receives.

use crate::id::{LeaderEpoch, TopicPartition};

/// The logs of these partitions were opened and need an epoch to be led in.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct EpochsWanted {
    /// Each partition with the epoch of its log's last batch, and which copy this is
    /// ([`crate::id::ReplicaIncarnation::copy_version`]).
    pub partitions: Vec<(TopicPartition, u32, u32)>,
}

/// A partition serves in an epoch, or stopped.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct LeadershipChanged {
    /// The partition.
    pub partition: TopicPartition,
    /// The epoch it serves in, or why it stopped.
    pub result: Result<LeaderEpoch, String>,
}

/// These partitions were deleted.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct PartitionsGone {
    /// Which ones.
    pub partitions: Vec<TopicPartition>,
}
