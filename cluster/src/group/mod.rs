//! Consumer groups: what they have committed.

pub mod offsets;

pub use offsets::{
    CommittedOffset, ConsumerKey, GroupOffsets, OffsetCommit, OffsetKey, OffsetRecord, OffsetRecordError, Replayed,
    groups_partition,
};
