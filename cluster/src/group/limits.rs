//! A limit on everything.

use std::time::Duration;

/// Longest name of a consumer group, in bytes.
pub const MAX_GROUP_NAME_BYTES: usize = 255;
/// Longest id of a member, in bytes.
pub const MAX_MEMBER_BYTES: usize = 255;
/// Longest name of a static member, of its rack and of its client, in bytes.
pub const MAX_LABEL_BYTES: usize = 255;
/// Longest name of a topic, in bytes.
pub const MAX_TOPIC_BYTES: usize = 255;
/// Longest text kept with an offset, in bytes.
pub const MAX_METADATA_BYTES: usize = 4096;
/// Topics that one member can subscribe to.
pub const MAX_MEMBER_TOPICS: usize = 256;
/// Former ids of a static member that are told that they are fenced.
pub const MAX_REPLACED: usize = 8;
/// Partitions of all topics that a group can read.
pub const MAX_GROUP_PARTITIONS: usize = 500_000;
/// Offsets of one commit.
pub const MAX_COMMIT_OFFSETS: usize = 100_000;
/// Records of one append: with a text each they stay below a mebibyte.
pub const MAX_APPEND_RECORDS: usize = 200;
/// No record of `__groups` is longer: a bitmap for each set of a member with every topic and name at its limit.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// How much groups may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// Shortest session a member can ask for; a shorter one is refused.
    pub min_session_timeout: Duration,
    /// Longest session a member can ask for; a longer one is refused, for the member would trust in it.
    pub max_session_timeout: Duration,
    /// A rebalance time-out is taken for one between the shortest session and this.
    pub max_rebalance_timeout: Duration,
    /// Groups of one coordinator.
    pub groups: usize,
    /// Members of one group.
    pub members: usize,
    /// Topics that one member can subscribe to, at most [`MAX_MEMBER_TOPICS`].
    pub topics: usize,
    /// Partitions that one group can read, at most [`MAX_GROUP_PARTITIONS`].
    pub partitions: usize,
    /// Committed offsets of one coordinator.
    pub offsets: usize,
    /// How long offsets of a group without members are kept.
    pub offsets_retention: Duration,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self {
            min_session_timeout: Duration::from_secs(1),
            max_session_timeout: Duration::from_secs(30 * 60),
            max_rebalance_timeout: Duration::from_secs(60 * 60),
            groups: 10_000,
            members: 10_000,
            topics: MAX_MEMBER_TOPICS,
            partitions: MAX_GROUP_PARTITIONS,
            offsets: 5_000_000,
            offsets_retention: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}
