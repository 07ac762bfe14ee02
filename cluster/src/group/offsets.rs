//! Committed offsets of consumers and groups, as a fold of the records of `__groups`.

use lance_messages::id::TopicPartition;
use std::collections::BTreeMap;

pub use super::limits::MAX_GROUP_NAME_BYTES;
pub use super::record::{NotedCommit, OFFSET_RECORD_VERSION, OffsetRecord, OffsetRecordError};

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

/// The partition of `__groups` that keeps a consumer's offsets, of `partitions` there are: the same on every node, for ever.
pub fn groups_partition(consumer: &ConsumerKey, partitions: u16) -> u16 {
    let (kind, id): (u8, _);
    let bytes: &[u8] = match consumer {
        ConsumerKey::Id(number) => {
            id = number.to_le_bytes();
            kind = 0;
            &id
        }
        ConsumerKey::Group(name) => {
            kind = 1;
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
    consumers: Consumers,
    /// How many offsets there are.
    count: usize,
    snapshot: Option<Snapshot>,
}

type Consumers = BTreeMap<ConsumerKey, BTreeMap<TopicPartition, Stored>>;

/// Most offsets have no text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    committed: CommittedOffset,
    metadata: Option<Box<str>>,
}

/// A snapshot that is being read.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    announced: u64,
    found: u64,
    consumers: Consumers,
    count: usize,
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

    /// Applies a committed record; what it says about groups and members is none of the offsets'.
    pub fn apply(&mut self, record: OffsetRecord) -> Result<Replayed, OffsetRecordError> {
        match record {
            OffsetRecord::SnapshotBegin { count } => {
                self.snapshot = Some(Snapshot { announced: count, ..Snapshot::default() });
            }
            OffsetRecord::SnapshotEntry(commit) => self.snapshot()?.take(commit, None),
            OffsetRecord::InSnapshot(entry) => match *entry {
                OffsetRecord::Noted(noted) => self.snapshot()?.take(noted.commit, Some(noted.metadata.into())),
                _ => self.snapshot()?.found += 1,
            },
            OffsetRecord::SnapshotEnd { count } => {
                let snapshot = self.snapshot.take().ok_or(OffsetRecordError::OutsideSnapshot)?;
                let Snapshot { announced, found, .. } = snapshot;
                if announced != found || announced != count {
                    return Err(OffsetRecordError::SnapshotCount { announced, found: found.min(count) });
                }
                self.consumers = snapshot.consumers;
                self.count = snapshot.count;
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

    fn snapshot(&mut self) -> Result<&mut Snapshot, OffsetRecordError> {
        self.snapshot.as_mut().ok_or(OffsetRecordError::OutsideSnapshot)
    }

    fn apply_plain(&mut self, record: OffsetRecord) {
        match record {
            OffsetRecord::Commit(commit) => put(&mut self.consumers, &mut self.count, commit, None),
            OffsetRecord::Noted(noted) => {
                put(&mut self.consumers, &mut self.count, noted.commit, Some(noted.metadata.into()));
            }
            OffsetRecord::ForgetOffset(key) => self.forget(&key.consumer, Some(key.partition)),
            OffsetRecord::ForgetConsumer(consumer) => self.forget(&consumer, None),
            OffsetRecord::GroupGone { group, .. } => self.forget(&ConsumerKey::Group(group), None),
            OffsetRecord::TopicDeleted(topic) => {
                self.consumers.retain(|_, offsets| {
                    offsets.retain(|partition, _| partition.topic != topic);
                    !offsets.is_empty()
                });
                self.count = self.consumers.values().map(BTreeMap::len).sum();
            }
            OffsetRecord::Group(_)
            | OffsetRecord::Member(_)
            | OffsetRecord::MemberGone { .. }
            | OffsetRecord::EpochFloor(_)
            | OffsetRecord::SnapshotBegin { .. }
            | OffsetRecord::SnapshotEntry(_)
            | OffsetRecord::InSnapshot(_)
            | OffsetRecord::SnapshotEnd { .. } => {}
        }
    }

    /// The records of a snapshot, to be appended without anything between them.
    pub fn snapshot_records(&self) -> impl Iterator<Item = OffsetRecord> + '_ {
        let count = self.count as u64;
        std::iter::once(OffsetRecord::SnapshotBegin { count })
            .chain(self.snapshot_entries())
            .chain(std::iter::once(OffsetRecord::SnapshotEnd { count }))
    }

    pub(super) fn snapshot_entries(&self) -> impl Iterator<Item = OffsetRecord> + '_ {
        self.stored().map(|(consumer, partition, stored)| {
            let key = OffsetKey { partition, consumer: consumer.clone() };
            let commit = OffsetCommit { key, committed: stored.committed };
            match &stored.metadata {
                None => OffsetRecord::SnapshotEntry(commit),
                Some(metadata) => {
                    let noted = NotedCommit { commit, metadata: metadata.to_string() };
                    OffsetRecord::InSnapshot(Box::new(OffsetRecord::Noted(noted)))
                }
            }
        })
    }

    fn stored(&self) -> impl Iterator<Item = (&ConsumerKey, TopicPartition, &Stored)> {
        let of = |(consumer, offsets)| std::iter::repeat(consumer).zip(offsets);
        self.consumers.iter().flat_map(of).map(|(consumer, (partition, stored))| (consumer, *partition, stored))
    }

    fn get(&self, key: &OffsetKey) -> Option<&Stored> {
        self.consumers.get(&key.consumer)?.get(&key.partition)
    }

    /// How far a consumer has come.
    pub fn committed(&self, key: &OffsetKey) -> Option<CommittedOffset> {
        self.get(key).map(|stored| stored.committed)
    }

    /// The text beside an offset; empty without one.
    pub fn metadata(&self, key: &OffsetKey) -> &str {
        self.get(key).map_or("", Stored::metadata)
    }

    /// All offsets, in order of consumer and partition.
    pub fn iter(&self) -> impl Iterator<Item = (OffsetKey, &CommittedOffset)> {
        self.stored().map(|(consumer, partition, stored)| {
            (OffsetKey { partition, consumer: consumer.clone() }, &stored.committed)
        })
    }

    /// The offsets of one consumer and the texts beside them, in order of partition.
    pub fn of_consumer(&self, consumer: &ConsumerKey) -> impl Iterator<Item = (TopicPartition, CommittedOffset, &str)> {
        let offsets = self.consumers.get(consumer).into_iter().flatten();
        offsets.map(|(partition, stored)| (*partition, stored.committed, stored.metadata()))
    }

    /// The names of all groups that have committed, once each.
    pub fn group_names(&self) -> impl Iterator<Item = &str> {
        self.consumers.keys().filter_map(|consumer| match consumer {
            ConsumerKey::Group(name) => Some(name.as_str()),
            ConsumerKey::Id(_) => None,
        })
    }

    /// How many offsets there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn forget(&mut self, consumer: &ConsumerKey, only: Option<TopicPartition>) {
        let Some(offsets) = self.consumers.get_mut(consumer) else { return };
        let before = offsets.len();
        match only {
            Some(partition) => drop(offsets.remove(&partition)),
            None => offsets.clear(),
        }
        self.count -= before - offsets.len();
        if offsets.is_empty() {
            self.consumers.remove(consumer);
        }
    }
}

impl Snapshot {
    fn take(&mut self, commit: OffsetCommit, metadata: Option<Box<str>>) {
        self.found += 1;
        put(&mut self.consumers, &mut self.count, commit, metadata);
    }
}

impl Stored {
    fn metadata(&self) -> &str {
        self.metadata.as_deref().unwrap_or_default()
    }
}

fn put(consumers: &mut Consumers, count: &mut usize, commit: OffsetCommit, metadata: Option<Box<str>>) {
    let OffsetCommit { key, committed } = commit;
    let stored = Stored { committed, metadata: metadata.filter(|text| !text.is_empty()) };
    if consumers.entry(key.consumer).or_default().insert(key.partition, stored).is_none() {
        *count += 1;
    }
}
