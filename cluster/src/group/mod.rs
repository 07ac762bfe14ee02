//! Consumer groups: who reads what, and how far they have come.

pub mod appends;
pub mod assignor;
mod codec;
mod commit;
pub mod coordinator;
pub mod describe;
mod earlier;
#[allow(clippy::module_inception, reason = "one group of all groups")]
mod group;
mod heartbeat;
pub mod image;
pub mod limits;
mod member;
pub mod offsets;
pub mod partitions;
pub mod record;
mod tick;
mod timers;
pub mod topics;

pub use appends::{GroupAnswer, GroupEffect};
pub use coordinator::Coordinator;
pub use describe::{GroupDescription, GroupState, MemberDescription};
pub use limits::{GroupLimits, MAX_RECORD_BYTES};
pub use offsets::{CommittedOffset, ConsumerKey, GroupOffsets, OffsetCommit, OffsetKey, Replayed, groups_partition};
pub use partitions::Partitions;
pub use record::{GroupRecord, MemberRecord, NotedCommit, OffsetRecord, OffsetRecordError};
pub use topics::TopicCatalog;
