//! Durable consumer offsets, kept as records of the internal topic `__groups`. Integers are little-endian.
//!
//! ```text
//! record         version u8 = 1 · kind u8 · body
//! kind 1 commit          entry
//! kind 2 topic deleted   topic u32
//! kind 3 forget consumer consumer
//! kind 4 snapshot begin  count u64
//! kind 5 snapshot entry  entry
//! kind 6 snapshot end    count u64
//! entry          topic u32 · partition u16 · offset u64 · committed_at_ms u64 · consumer
//! consumer       0 u8 · id u64   |   1 u8 · length u16 · group name, UTF-8
//! ```

use lance_messages::id::{TopicId, TopicPartition};
use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use thiserror::Error;

/// Version byte before every record.
pub const OFFSET_RECORD_VERSION: u8 = 1;
/// Longest name of a consumer group, in bytes.
pub const MAX_GROUP_NAME_BYTES: usize = 255;

const KIND_COMMIT: u8 = 1;
const KIND_TOPIC_DELETED: u8 = 2;
const KIND_FORGET: u8 = 3;
const KIND_SNAPSHOT_BEGIN: u8 = 4;
const KIND_SNAPSHOT_ENTRY: u8 = 5;
const KIND_SNAPSHOT_END: u8 = 6;
const CONSUMER_ID: u8 = 0;
const CONSUMER_GROUP: u8 = 1;

/// Whose offset it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConsumerKey {
    /// A consumer of LWP 1.0, by the id it gives itself.
    Id(u64),
    /// A consumer group.
    Group(String),
}

/// What an offset is kept under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OffsetKey {
    /// The partition read.
    pub partition: TopicPartition,
    /// Who reads it.
    pub consumer: ConsumerKey,
}

/// How far a consumer says it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset it wants.
    pub offset: u64,
    /// Milliseconds since the Unix epoch, by the clock of the node that took the commit.
    pub committed_at_ms: u64,
}

/// A commit to be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Whose, and where.
    pub key: OffsetKey,
    /// How far.
    pub committed: CommittedOffset,
}

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
}

/// Why a record was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OffsetRecordError {
    /// The record ends too early.
    #[error("an offset record of {bytes} bytes ends inside its {field}")]
    Short {
        /// Its size.
        bytes: usize,
        /// Where it ends.
        field: &'static str,
    },
    /// Written by a version this program does not know.
    #[error("offset record version {found} is unknown, this program reads version {OFFSET_RECORD_VERSION}")]
    UnknownVersion {
        /// The version byte.
        found: u8,
    },
    /// An unknown kind of record.
    #[error("offset record kind {found} is unknown")]
    UnknownKind {
        /// The kind byte.
        found: u8,
    },
    /// An unknown kind of consumer.
    #[error("consumer kind {found} is unknown")]
    UnknownConsumer {
        /// The kind byte.
        found: u8,
    },
    /// A group name is empty, too long or not UTF-8.
    #[error("a group name of {bytes} bytes must be 1 to {MAX_GROUP_NAME_BYTES} bytes of UTF-8")]
    BadGroupName {
        /// Its size.
        bytes: usize,
    },
    /// Bytes follow the record.
    #[error("{trailing} bytes follow an offset record")]
    Trailing {
        /// How many.
        trailing: usize,
    },
    /// A snapshot's entry or end without its beginning.
    #[error("a snapshot record outside a snapshot")]
    OutsideSnapshot,
    /// A snapshot does not have the entries it announced.
    #[error("a snapshot of {announced} offsets ends with {found}")]
    SnapshotCount {
        /// As many as its beginning says.
        announced: u64,
        /// As many as were found, or as its end says.
        found: u64,
    },
}

impl OffsetRecord {
    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>, OffsetRecordError> {
        let mut out = vec![OFFSET_RECORD_VERSION, self.kind()];
        match self {
            Self::Commit(commit) | Self::SnapshotEntry(commit) => put_entry(commit, &mut out)?,
            Self::TopicDeleted(topic) => out.extend(topic.0.to_le_bytes()),
            Self::ForgetConsumer(consumer) => put_consumer(consumer, &mut out)?,
            Self::SnapshotBegin { count } | Self::SnapshotEnd { count } => out.extend(count.to_le_bytes()),
        }
        Ok(out)
    }

    /// Reads a record back; every byte must belong to it.
    pub fn decode(bytes: &[u8]) -> Result<Self, OffsetRecordError> {
        let mut reader = Reader { bytes, rest: bytes };
        let found = reader.u8("version")?;
        if found != OFFSET_RECORD_VERSION {
            return Err(OffsetRecordError::UnknownVersion { found });
        }
        let record = match reader.u8("kind")? {
            KIND_COMMIT => Self::Commit(reader.entry()?),
            KIND_TOPIC_DELETED => Self::TopicDeleted(TopicId(reader.u32("topic")?)),
            KIND_FORGET => Self::ForgetConsumer(reader.consumer()?),
            KIND_SNAPSHOT_BEGIN => Self::SnapshotBegin { count: reader.u64("count")? },
            KIND_SNAPSHOT_ENTRY => Self::SnapshotEntry(reader.entry()?),
            KIND_SNAPSHOT_END => Self::SnapshotEnd { count: reader.u64("count")? },
            found => return Err(OffsetRecordError::UnknownKind { found }),
        };
        match reader.rest.len() {
            0 => Ok(record),
            trailing => Err(OffsetRecordError::Trailing { trailing }),
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Commit(_) => KIND_COMMIT,
            Self::TopicDeleted(_) => KIND_TOPIC_DELETED,
            Self::ForgetConsumer(_) => KIND_FORGET,
            Self::SnapshotBegin { .. } => KIND_SNAPSHOT_BEGIN,
            Self::SnapshotEntry(_) => KIND_SNAPSHOT_ENTRY,
            Self::SnapshotEnd { .. } => KIND_SNAPSHOT_END,
        }
    }
}

/// The partition of `__groups` that keeps a consumer's offsets, of `partitions` there are: the same on every node, for ever.
pub fn groups_partition(consumer: &ConsumerKey, partitions: u16) -> u16 {
    let (kind, id);
    let bytes: &[u8] = match consumer {
        ConsumerKey::Id(number) => {
            id = number.to_le_bytes();
            kind = CONSUMER_ID;
            &id
        }
        ConsumerKey::Group(name) => {
            kind = CONSUMER_GROUP;
            name.as_bytes()
        }
    };
    // FNV-1a, 64 bits.
    let hash = std::iter::once(&kind)
        .chain(bytes)
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    (hash % u64::from(partitions.max(1))) as u16
}

/// The offsets of the consumers one partition of `__groups` keeps. A commit shows once its record is committed and applied here.
#[derive(Clone, Debug, Default)]
pub struct GroupOffsets {
    offsets: BTreeMap<OffsetKey, CommittedOffset>,
    /// A snapshot that is being read, and how many entries it announced.
    snapshot: Option<(u64, BTreeMap<OffsetKey, CommittedOffset>)>,
}

/// What a record did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It took effect, or is part of a snapshot under way.
    Taken,
    /// It completed a snapshot: no record before that snapshot's beginning is needed any more.
    SnapshotComplete,
}

impl GroupOffsets {
    /// No offsets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a committed record given as bytes.
    pub fn replay(&mut self, bytes: &[u8]) -> Result<Replayed, OffsetRecordError> {
        self.apply(OffsetRecord::decode(bytes)?)
    }

    /// Applies a committed record.
    pub fn apply(&mut self, record: OffsetRecord) -> Result<Replayed, OffsetRecordError> {
        match record {
            OffsetRecord::SnapshotBegin { count } => self.snapshot = Some((count, BTreeMap::new())),
            OffsetRecord::SnapshotEntry(OffsetCommit { key, committed }) => {
                let (_, entries) = self.snapshot.as_mut().ok_or(OffsetRecordError::OutsideSnapshot)?;
                entries.insert(key, committed);
            }
            OffsetRecord::SnapshotEnd { count } => {
                let (announced, entries) = self.snapshot.take().ok_or(OffsetRecordError::OutsideSnapshot)?;
                let found = entries.len() as u64;
                if announced != found || announced != count {
                    return Err(OffsetRecordError::SnapshotCount { announced, found: found.min(count) });
                }
                self.offsets = entries;
                return Ok(Replayed::SnapshotComplete);
            }
            plain => {
                // Snapshots are written in one piece: a plain record inside one means that its writer ended before it did.
                self.snapshot = None;
                self.apply_plain(plain);
            }
        }
        Ok(Replayed::Taken)
    }

    fn apply_plain(&mut self, record: OffsetRecord) {
        match record {
            OffsetRecord::Commit(OffsetCommit { key, committed }) => {
                self.offsets.insert(key, committed);
            }
            OffsetRecord::TopicDeleted(topic) => self.offsets.retain(|key, _| key.partition.topic != topic),
            OffsetRecord::ForgetConsumer(consumer) => self.offsets.retain(|key, _| key.consumer != consumer),
            OffsetRecord::SnapshotBegin { .. } | OffsetRecord::SnapshotEntry(_) | OffsetRecord::SnapshotEnd { .. } => {}
        }
    }

    /// The records of a snapshot, to be appended without anything between them.
    pub fn snapshot_records(&self) -> impl Iterator<Item = OffsetRecord> + '_ {
        let count = self.offsets.len() as u64;
        let entry = |(key, committed): (&OffsetKey, &CommittedOffset)| {
            OffsetRecord::SnapshotEntry(OffsetCommit { key: key.clone(), committed: *committed })
        };
        std::iter::once(OffsetRecord::SnapshotBegin { count })
            .chain(self.offsets.iter().map(entry))
            .chain(std::iter::once(OffsetRecord::SnapshotEnd { count }))
    }

    /// How far a consumer has come.
    pub fn committed(&self, key: &OffsetKey) -> Option<CommittedOffset> {
        self.offsets.get(key).copied()
    }

    /// All offsets, in order of partition and consumer.
    pub fn iter(&self) -> impl Iterator<Item = (&OffsetKey, &CommittedOffset)> {
        self.offsets.iter()
    }

    /// The offsets of one topic.
    pub fn of_topic(&self, topic: TopicId) -> Range<'_, OffsetKey, CommittedOffset> {
        let first = |topic| OffsetKey { partition: TopicPartition::new(topic, 0), consumer: ConsumerKey::Id(0) };
        match topic.0.checked_add(1) {
            Some(next) => self.offsets.range(first(topic)..first(TopicId(next))),
            None => self.offsets.range(first(topic)..),
        }
    }

    /// The offsets of one consumer, in order of partition.
    pub fn of_consumer<'a>(
        &'a self,
        consumer: &'a ConsumerKey,
    ) -> impl Iterator<Item = (TopicPartition, CommittedOffset)> + 'a {
        self.offsets.iter().filter(move |(key, _)| key.consumer == *consumer).map(|(key, at)| (key.partition, *at))
    }

    /// The names of all groups that have committed, in no order, once each.
    pub fn group_names(&self) -> std::collections::BTreeSet<&str> {
        self.offsets
            .keys()
            .filter_map(|key| match &key.consumer {
                ConsumerKey::Group(name) => Some(name.as_str()),
                ConsumerKey::Id(_) => None,
            })
            .collect()
    }

    /// How many offsets there are.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}

fn put_entry(commit: &OffsetCommit, out: &mut Vec<u8>) -> Result<(), OffsetRecordError> {
    out.extend(commit.key.partition.topic.0.to_le_bytes());
    out.extend(commit.key.partition.partition.to_le_bytes());
    out.extend(commit.committed.offset.to_le_bytes());
    out.extend(commit.committed.committed_at_ms.to_le_bytes());
    put_consumer(&commit.key.consumer, out)
}

fn put_consumer(consumer: &ConsumerKey, out: &mut Vec<u8>) -> Result<(), OffsetRecordError> {
    match consumer {
        ConsumerKey::Id(id) => {
            out.push(CONSUMER_ID);
            out.extend(id.to_le_bytes());
        }
        ConsumerKey::Group(name) => {
            let length = group_name_length(name.len())?;
            out.push(CONSUMER_GROUP);
            out.extend(length.to_le_bytes());
            out.extend(name.as_bytes());
        }
    }
    Ok(())
}

fn group_name_length(bytes: usize) -> Result<u16, OffsetRecordError> {
    match u16::try_from(bytes) {
        Ok(length) if (1..=MAX_GROUP_NAME_BYTES).contains(&bytes) => Ok(length),
        _ => Err(OffsetRecordError::BadGroupName { bytes }),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], OffsetRecordError> {
        let short = OffsetRecordError::Short { bytes: self.bytes.len(), field };
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], OffsetRecordError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, field)?);
        Ok(array)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, OffsetRecordError> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, OffsetRecordError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, OffsetRecordError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, OffsetRecordError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    fn entry(&mut self) -> Result<OffsetCommit, OffsetRecordError> {
        let partition = TopicPartition::new(TopicId(self.u32("topic")?), self.u16("partition")?);
        let offset = self.u64("offset")?;
        let committed_at_ms = self.u64("time")?;
        let consumer = self.consumer()?;
        let key = OffsetKey { partition, consumer };
        Ok(OffsetCommit { key, committed: CommittedOffset { offset, committed_at_ms } })
    }

    fn consumer(&mut self) -> Result<ConsumerKey, OffsetRecordError> {
        match self.u8("consumer kind")? {
            CONSUMER_ID => Ok(ConsumerKey::Id(self.u64("consumer id")?)),
            CONSUMER_GROUP => {
                let bytes = usize::from(self.u16("group name length")?);
                group_name_length(bytes)?;
                let name = std::str::from_utf8(self.take(bytes, "group name")?);
                let name = name.map_err(|_| OffsetRecordError::BadGroupName { bytes })?;
                Ok(ConsumerKey::Group(name.to_owned()))
            }
            found => Err(OffsetRecordError::UnknownConsumer { found }),
        }
    }
}
