//! Records of the internal topic `__groups`: committed offsets, groups and their members. Integers are little-endian;
//! `text` is a u16 length and UTF-8.
//!
//! ```text
//! record              version u8 · kind u8 · body
//! version 1
//!   kind 1 commit          entry
//!   kind 2 topic deleted   topic u32
//!   kind 3 forget consumer consumer
//!   kind 4 snapshot begin  count u64
//!   kind 5 snapshot entry  entry
//!   kind 6 snapshot end    count u64
//! version 2
//!   kind 7 noted commit    entry · text metadata
//!   kind 8 forget offset   topic u32 · partition u16 · consumer
//!   kind 9 group           text group · epoch i32 · strategy u8 · empty since (ms) u64
//!   kind 10 member         text group · text member · text instance · text rack · text client
//!                          session time-out (ms) u32 · rebalance time-out (ms) u32 · strategy u8
//!                          epoch i32 · commit floor i32 · count u16, text topics · count u8, text replaced
//!                          partitions assigned · partitions revoking
//!   kind 11 member gone    text group · text member
//!   kind 12 group gone     text group · epoch i32
//!   kind 13 in snapshot    kind u8 (7, 9, 10 or 14) · body
//!   kind 14 epoch floor    epoch i32
//! entry               topic u32 · partition u16 · offset u64 · committed_at_ms u64 · consumer
//! consumer            0 u8 · id u64   |   1 u8 · text group
//! ```

use super::codec::{Reader, put_group_name, put_text};
use super::limits::{
    MAX_LABEL_BYTES, MAX_MEMBER_BYTES, MAX_MEMBER_TOPICS, MAX_METADATA_BYTES, MAX_RECORD_BYTES, MAX_REPLACED,
    MAX_TOPIC_BYTES,
};
use super::offsets::{CommittedOffset, ConsumerKey, OffsetCommit, OffsetKey};
use super::partitions::Partitions;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::group::AssignmentStrategy;

pub use super::codec::OffsetRecordError;

/// Version byte of records of committed offsets.
pub const OFFSET_RECORD_VERSION: u8 = 1;
/// Version byte of records of groups, and of offsets with a text.
pub const STATE_RECORD_VERSION: u8 = 2;

const KIND_COMMIT: u8 = 1;
const KIND_TOPIC_DELETED: u8 = 2;
const KIND_FORGET: u8 = 3;
const KIND_SNAPSHOT_BEGIN: u8 = 4;
const KIND_SNAPSHOT_ENTRY: u8 = 5;
const KIND_SNAPSHOT_END: u8 = 6;
const KIND_NOTED: u8 = 7;
const KIND_FORGET_OFFSET: u8 = 8;
const KIND_GROUP: u8 = 9;
const KIND_MEMBER: u8 = 10;
const KIND_MEMBER_GONE: u8 = 11;
const KIND_GROUP_GONE: u8 = 12;
const KIND_IN_SNAPSHOT: u8 = 13;
const KIND_EPOCH_FLOOR: u8 = 14;
const CONSUMER_ID: u8 = 0;
const CONSUMER_GROUP: u8 = 1;

const MEMBER: (usize, usize) = (1, MAX_MEMBER_BYTES);
const LABEL: (usize, usize) = (0, MAX_LABEL_BYTES);
const TOPIC: (usize, usize) = (1, MAX_TOPIC_BYTES);

/// One record of `__groups`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OffsetRecord {
    /// A consumer has come to an offset; the latest counts, even when it is lower.
    Commit(OffsetCommit),
    /// All offsets of a topic are void.
    TopicDeleted(TopicId),
    /// All offsets of a consumer are void.
    ForgetConsumer(ConsumerKey),
    /// So many entries follow, and then replace everything before.
    SnapshotBegin {
        /// How many.
        count: u64,
    },
    /// One offset of a snapshot.
    SnapshotEntry(OffsetCommit),
    /// The snapshot is whole and takes effect.
    SnapshotEnd {
        /// How many entries it has.
        count: u64,
    },
    /// A commit with a text beside it.
    Noted(NotedCommit),
    /// One offset is void.
    ForgetOffset(OffsetKey),
    /// How a group stands.
    Group(GroupRecord),
    /// How a member stands. One with an instance takes the place of whoever had that instance.
    Member(Box<MemberRecord>),
    /// A member left, or was silent for too long: its partitions are free.
    MemberGone {
        /// Its group.
        group: String,
        /// Its id.
        member: String,
    },
    /// A group and its offsets are void.
    GroupGone {
        /// The group.
        group: String,
        /// No epoch of the group was higher.
        epoch: i32,
    },
    /// No epoch of any group that is gone was higher.
    EpochFloor(i32),
    /// One entry of a snapshot that is no plain offset.
    InSnapshot(Box<OffsetRecord>),
}

/// A commit with a text beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotedCommit {
    /// The commit.
    pub commit: OffsetCommit,
    /// The text.
    pub metadata: String,
}

/// How a group stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// Its name.
    pub group: String,
    /// Counts its targets, and is no less than the epoch of any member that is gone.
    pub epoch: i32,
    /// How partitions are spread.
    pub strategy: AssignmentStrategy,
    /// When its last member went, milliseconds since the Unix epoch; 0: it has members, or nobody noted it.
    pub empty_since_ms: u64,
}

/// How a member stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its group.
    pub group: String,
    /// Its id.
    pub member: String,
    /// The name of a static member.
    pub instance: Option<String>,
    /// Where it runs; may be empty.
    pub rack: String,
    /// What its client calls itself; may be empty.
    pub client: String,
    /// How long it may be silent.
    pub session_timeout_ms: u32,
    /// How long it may take to give partitions up.
    pub rebalance_timeout_ms: u32,
    /// The strategy it asks for.
    pub strategy: AssignmentStrategy,
    /// Goes up with every change of what it is told; the same epoch always tells the same.
    pub epoch: i32,
    /// Commits of earlier epochs are refused: it was given something since.
    pub commit_floor: i32,
    /// What it wants to read, in order.
    pub topics: Vec<String>,
    /// Ids of those whose place it has taken, the latest last.
    pub replaced: Vec<String>,
    /// What it may hold.
    pub assigned: Partitions,
    /// What it may still hold, and is to give up.
    pub revoking: Partitions,
}

impl OffsetRecord {
    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>, OffsetRecordError> {
        let kind = self.kind();
        let version = if kind <= KIND_SNAPSHOT_END { OFFSET_RECORD_VERSION } else { STATE_RECORD_VERSION };
        let mut out = vec![version, kind];
        self.put_body(&mut out)?;
        match out.len() {
            bytes if bytes > MAX_RECORD_BYTES => Err(OffsetRecordError::TooLong { bytes }),
            _ => Ok(out),
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) -> Result<(), OffsetRecordError> {
        match self {
            Self::Commit(commit) | Self::SnapshotEntry(commit) => put_entry(commit, out)?,
            Self::TopicDeleted(topic) => out.extend(topic.0.to_le_bytes()),
            Self::ForgetConsumer(consumer) => put_consumer(consumer, out)?,
            Self::SnapshotBegin { count } | Self::SnapshotEnd { count } => out.extend(count.to_le_bytes()),
            Self::Noted(noted) => {
                put_entry(&noted.commit, out)?;
                put_text("metadata", &noted.metadata, (0, MAX_METADATA_BYTES), out)?;
            }
            Self::ForgetOffset(key) => {
                put_partition(key.partition, out);
                put_consumer(&key.consumer, out)?;
            }
            Self::Group(group) => {
                put_group_name(&group.group, out)?;
                out.extend(group.epoch.to_le_bytes());
                out.push(group.strategy as u8);
                out.extend(group.empty_since_ms.to_le_bytes());
            }
            Self::Member(member) => put_member(member, out)?,
            Self::MemberGone { group, member } => {
                put_group_name(group, out)?;
                put_text("member", member, MEMBER, out)?;
            }
            Self::GroupGone { group, epoch } => {
                put_group_name(group, out)?;
                out.extend(epoch.to_le_bytes());
            }
            Self::EpochFloor(epoch) => out.extend(epoch.to_le_bytes()),
            Self::InSnapshot(entry) => {
                out.push(snapshot_kind(entry.kind())?);
                entry.put_body(out)?;
            }
        }
        Ok(())
    }

    /// Reads a record back; every byte must belong to it.
    pub fn decode(bytes: &[u8]) -> Result<Self, OffsetRecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(OffsetRecordError::TooLong { bytes: bytes.len() });
        }
        let mut reader = Reader::new(bytes);
        let version = reader.u8("version")?;
        if version != OFFSET_RECORD_VERSION && version != STATE_RECORD_VERSION {
            return Err(OffsetRecordError::UnknownVersion { found: version });
        }
        let kind = reader.u8("kind")?;
        let record = match kind {
            KIND_COMMIT..=KIND_SNAPSHOT_END if version == OFFSET_RECORD_VERSION => decode_offset(kind, &mut reader)?,
            KIND_NOTED..=KIND_EPOCH_FLOOR if version == STATE_RECORD_VERSION => decode_state(kind, &mut reader)?,
            found => return Err(OffsetRecordError::UnknownKind { found }),
        };
        match reader.trailing() {
            0 => Ok(record),
            trailing => Err(OffsetRecordError::Trailing { trailing }),
        }
    }

    /// Whether it says something about offsets.
    pub(super) fn changes_offsets(&self) -> bool {
        matches!(
            self,
            Self::Commit(_)
                | Self::Noted(_)
                | Self::TopicDeleted(_)
                | Self::ForgetConsumer(_)
                | Self::ForgetOffset(_)
                | Self::GroupGone { .. }
        )
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Commit(_) => KIND_COMMIT,
            Self::TopicDeleted(_) => KIND_TOPIC_DELETED,
            Self::ForgetConsumer(_) => KIND_FORGET,
            Self::SnapshotBegin { .. } => KIND_SNAPSHOT_BEGIN,
            Self::SnapshotEntry(_) => KIND_SNAPSHOT_ENTRY,
            Self::SnapshotEnd { .. } => KIND_SNAPSHOT_END,
            Self::Noted(_) => KIND_NOTED,
            Self::ForgetOffset(_) => KIND_FORGET_OFFSET,
            Self::Group(_) => KIND_GROUP,
            Self::Member(_) => KIND_MEMBER,
            Self::MemberGone { .. } => KIND_MEMBER_GONE,
            Self::GroupGone { .. } => KIND_GROUP_GONE,
            Self::EpochFloor(_) => KIND_EPOCH_FLOOR,
            Self::InSnapshot(_) => KIND_IN_SNAPSHOT,
        }
    }
}

fn decode_offset(kind: u8, reader: &mut Reader<'_>) -> Result<OffsetRecord, OffsetRecordError> {
    Ok(match kind {
        KIND_COMMIT => OffsetRecord::Commit(entry(reader)?),
        KIND_TOPIC_DELETED => OffsetRecord::TopicDeleted(TopicId(reader.u32("topic")?)),
        KIND_FORGET => OffsetRecord::ForgetConsumer(consumer(reader)?),
        KIND_SNAPSHOT_BEGIN => OffsetRecord::SnapshotBegin { count: reader.u64("count")? },
        KIND_SNAPSHOT_ENTRY => OffsetRecord::SnapshotEntry(entry(reader)?),
        KIND_SNAPSHOT_END => OffsetRecord::SnapshotEnd { count: reader.u64("count")? },
        found => return Err(OffsetRecordError::UnknownKind { found }),
    })
}

fn decode_state(kind: u8, reader: &mut Reader<'_>) -> Result<OffsetRecord, OffsetRecordError> {
    Ok(match kind {
        KIND_NOTED => OffsetRecord::Noted(NotedCommit {
            commit: entry(reader)?,
            metadata: reader.text("metadata", 0, MAX_METADATA_BYTES)?,
        }),
        KIND_FORGET_OFFSET => {
            OffsetRecord::ForgetOffset(OffsetKey { partition: partition(reader)?, consumer: consumer(reader)? })
        }
        KIND_GROUP => OffsetRecord::Group(GroupRecord {
            group: reader.group_name()?,
            epoch: reader.i32("epoch")?,
            strategy: strategy(reader)?,
            empty_since_ms: reader.u64("time")?,
        }),
        KIND_MEMBER => OffsetRecord::Member(Box::new(member(reader)?)),
        KIND_MEMBER_GONE => OffsetRecord::MemberGone {
            group: reader.group_name()?,
            member: reader.text("member", 1, MAX_MEMBER_BYTES)?,
        },
        KIND_GROUP_GONE => OffsetRecord::GroupGone { group: reader.group_name()?, epoch: reader.i32("epoch")? },
        KIND_EPOCH_FLOOR => OffsetRecord::EpochFloor(reader.i32("epoch")?),
        KIND_IN_SNAPSHOT => {
            let kind = snapshot_kind(reader.u8("kind")?)?;
            OffsetRecord::InSnapshot(Box::new(decode_state(kind, reader)?))
        }
        found => return Err(OffsetRecordError::UnknownKind { found }),
    })
}

/// What can be in a snapshot beside plain offsets.
fn snapshot_kind(kind: u8) -> Result<u8, OffsetRecordError> {
    match kind {
        KIND_NOTED | KIND_GROUP | KIND_MEMBER | KIND_EPOCH_FLOOR => Ok(kind),
        found => Err(OffsetRecordError::UnknownKind { found }),
    }
}

fn put_partition(partition: TopicPartition, out: &mut Vec<u8>) {
    out.extend(partition.topic.0.to_le_bytes());
    out.extend(partition.partition.to_le_bytes());
}

fn partition(reader: &mut Reader<'_>) -> Result<TopicPartition, OffsetRecordError> {
    Ok(TopicPartition::new(TopicId(reader.u32("topic")?), reader.u16("partition")?))
}

fn put_entry(commit: &OffsetCommit, out: &mut Vec<u8>) -> Result<(), OffsetRecordError> {
    put_partition(commit.key.partition, out);
    out.extend(commit.committed.offset.to_le_bytes());
    out.extend(commit.committed.committed_at_ms.to_le_bytes());
    put_consumer(&commit.key.consumer, out)
}

fn entry(reader: &mut Reader<'_>) -> Result<OffsetCommit, OffsetRecordError> {
    let partition = partition(reader)?;
    let offset = reader.u64("offset")?;
    let committed_at_ms = reader.u64("time")?;
    let key = OffsetKey { partition, consumer: consumer(reader)? };
    Ok(OffsetCommit { key, committed: CommittedOffset { offset, committed_at_ms } })
}

fn put_consumer(consumer: &ConsumerKey, out: &mut Vec<u8>) -> Result<(), OffsetRecordError> {
    match consumer {
        ConsumerKey::Id(id) => {
            out.push(CONSUMER_ID);
            out.extend(id.to_le_bytes());
            Ok(())
        }
        ConsumerKey::Group(name) => {
            out.push(CONSUMER_GROUP);
            put_group_name(name, out)
        }
    }
}

fn consumer(reader: &mut Reader<'_>) -> Result<ConsumerKey, OffsetRecordError> {
    match reader.u8("consumer kind")? {
        CONSUMER_ID => Ok(ConsumerKey::Id(reader.u64("consumer id")?)),
        CONSUMER_GROUP => Ok(ConsumerKey::Group(reader.group_name()?)),
        found => Err(OffsetRecordError::UnknownConsumer { found }),
    }
}

fn strategy(reader: &mut Reader<'_>) -> Result<AssignmentStrategy, OffsetRecordError> {
    let found = reader.u8("strategy")?;
    AssignmentStrategy::from_code(found).ok_or(OffsetRecordError::UnknownStrategy { found })
}

fn put_member(member: &MemberRecord, out: &mut Vec<u8>) -> Result<(), OffsetRecordError> {
    put_group_name(&member.group, out)?;
    put_text("member", &member.member, MEMBER, out)?;
    put_text("instance", member.instance.as_deref().unwrap_or_default(), LABEL, out)?;
    put_text("rack", &member.rack, LABEL, out)?;
    put_text("client", &member.client, LABEL, out)?;
    out.extend(member.session_timeout_ms.to_le_bytes());
    out.extend(member.rebalance_timeout_ms.to_le_bytes());
    out.push(member.strategy as u8);
    out.extend(member.epoch.to_le_bytes());
    out.extend(member.commit_floor.to_le_bytes());
    out.extend((at_most("topics", member.topics.len(), MAX_MEMBER_TOPICS)? as u16).to_le_bytes());
    member.topics.iter().try_for_each(|topic| put_text("topic", topic, TOPIC, out))?;
    out.push(at_most("replaced ids", member.replaced.len(), MAX_REPLACED)? as u8);
    member.replaced.iter().try_for_each(|id| put_text("replaced id", id, MEMBER, out))?;
    member.assigned.encode(out)?;
    member.revoking.encode(out)
}

fn member(reader: &mut Reader<'_>) -> Result<MemberRecord, OffsetRecordError> {
    Ok(MemberRecord {
        group: reader.group_name()?,
        member: reader.text("member", 1, MAX_MEMBER_BYTES)?,
        instance: Some(reader.text("instance", 0, MAX_LABEL_BYTES)?).filter(|name| !name.is_empty()),
        rack: reader.text("rack", 0, MAX_LABEL_BYTES)?,
        client: reader.text("client", 0, MAX_LABEL_BYTES)?,
        session_timeout_ms: reader.u32("session time-out")?,
        rebalance_timeout_ms: reader.u32("rebalance time-out")?,
        strategy: strategy(reader)?,
        epoch: reader.i32("epoch")?,
        commit_floor: reader.i32("commit floor")?,
        topics: {
            let count = at_most("topics", usize::from(reader.u16("count of topics")?), MAX_MEMBER_TOPICS)?;
            (0..count).map(|_| reader.text("topic", 1, MAX_TOPIC_BYTES)).collect::<Result<_, _>>()?
        },
        replaced: {
            let count = at_most("replaced ids", usize::from(reader.u8("count of replaced ids")?), MAX_REPLACED)?;
            (0..count).map(|_| reader.text("replaced id", 1, MAX_MEMBER_BYTES)).collect::<Result<_, _>>()?
        },
        assigned: Partitions::decode(reader)?,
        revoking: Partitions::decode(reader)?,
    })
}

fn at_most(field: &'static str, found: usize, limit: usize) -> Result<usize, OffsetRecordError> {
    if found > limit { Err(OffsetRecordError::TooMany { field, found }) } else { Ok(found) }
}
