//! What Hello negotiates: one bit a feature.

use super::header::HeaderCrc;
use std::ops::{BitAnd, BitOr};

/// A set of features. Bits without a name here are kept when received and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(pub u64);

impl Features {
    /// No feature.
    pub const NONE: Features = Features(0);
    /// The header's reserved field carries the partition.
    pub const PARTITIONS: Features = Features(1);
    /// The header CRC covers the whole header, from the first frame after Hello and its reply on.
    pub const HEADER_CRC: Features = Features(1 << 1);
    /// ErrorResponse carries a code, the batch id and a detail.
    pub const TYPED_ERRORS: Features = Features(1 << 2);
    /// Acks carry the base offset and the record count.
    pub const ACK_OFFSETS: Features = Features(1 << 3);
    /// Flag 0x80: the payload starts with a trace context.
    pub const TRACE_CONTEXT: Features = Features(1 << 4);
    /// InitProducer and sequences in batch ids.
    pub const IDEMPOTENT: Features = Features(1 << 5);
    /// FetchPartitions.
    pub const LONG_POLL: Features = Features(1 << 6);
    /// LookupOffset.
    pub const LOOKUP: Features = Features(1 << 7);
    /// FetchPartitions may answer with stored, compressed batches.
    pub const COMPRESSED_FETCH: Features = Features(1 << 8);
    /// Metadata, CreateTopicWithConfig and AlterTopic.
    pub const METADATA: Features = Features(1 << 9);
    /// Consumer groups: GroupHeartbeat, GroupCommit, GroupOffsets, DescribeGroups, DeleteGroup.
    pub const GROUPS: Features = Features(1 << 10);
    /// Reserved: delete records.
    pub const DELETE_RECORDS: Features = Features(1 << 11);
    /// ScramStep: SCRAM-SHA-256 authentication.
    pub const SCRAM: Features = Features(1 << 12);
    /// A compressed ingest payload names its codec and plain length.
    pub const COMPRESSED_INGEST: Features = Features(1 << 13);
    /// DescribeCluster and ClusterCommand.
    pub const CLUSTER: Features = Features(1 << 14);
    /// TopicTee.
    pub const TEE: Features = Features(1 << 15);
    /// Security: users and rules.
    pub const SECURITY: Features = Features(1 << 16);
    /// FetchPartitions answers with whole batches as they are stored, and an ingest frame carries one, to be stored at its
    /// own place: how logs are backed up and restored.
    pub const STORED_BATCHES: Features = Features(1 << 17);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// Coverage of the header CRC once these features hold.
    pub const fn header_crc(self) -> HeaderCrc {
        if self.contains(Features::HEADER_CRC) { HeaderCrc::Whole } else { HeaderCrc::Prefix }
    }
}

impl BitOr for Features {
    type Output = Features;

    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

impl BitAnd for Features {
    type Output = Features;

    fn bitand(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }
}
