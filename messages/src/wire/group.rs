//! Consumer groups: membership, committed offsets, what tools ask. `text` is a u16 length and UTF-8.
//!
//! ```text
//! GroupHeartbeat 0x49                       GroupHeartbeatResponse 0xC9
//!   text group, text member                   i32 epoch
//!   i32 epoch                                 u32 heartbeat interval, ms
//!   text instance ("": none), text rack       u16 count of topics, each:
//!   u32 session time-out, ms                    u32 topic, text name,
//!   u32 rebalance time-out, ms                  u16 count, u16 partitions
//!   u8 strategy, u8 zero
//!   u16 count, text topics
//!   u32 count, each: u32 topic, u16 partition
//! GroupCommit 0x4A                          GroupCommitResponse 0xCA
//!   text group, text member, i32 epoch        u32 count, each: u32 topic, u16 partition, u16 error
//!   u32 count, each: u32 topic,
//!     u16 partition, u64 offset, text metadata
//!   u64 number (may be missing)
//! GroupOffsets 0x4B                         GroupOffsetsResponse 0xCB
//!   text group                                u32 count, each: u32 topic, u16 partition,
//!   u32 count, each: u32 topic,                 u64 offset, u64 committed at (ms), text metadata
//!     u16 partition (none: all)
//! DescribeGroups 0x4C                       DescribeGroupsResponse 0xCC
//!   u16 count, text names (none: all)         JSON
//! DeleteGroup 0x4D: text group              DeleteGroupResponse 0xCD: nothing
//! ```

use super::payload::{PayloadReader, put_text};
use crate::error_code::{ErrorCode, result_code};
use crate::id::{TopicId, TopicPartition};
use bytes::{BufMut, BytesMut};

/// Epoch of a heartbeat that joins.
pub const JOIN_EPOCH: i32 = 0;
/// Epoch of a heartbeat that leaves for good.
pub const LEAVE_EPOCH: i32 = -1;
/// Epoch of a heartbeat of a static member that goes away for a while and keeps its partitions until its session ends.
pub const PAUSE_EPOCH: i32 = -2;

/// How partitions are spread over the members of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum AssignmentStrategy {
    /// Balanced, and nothing moves that need not.
    #[default]
    Sticky = 0,
    /// Consecutive partitions of each topic.
    Range = 1,
    /// One after another over all topics.
    RoundRobin = 2,
}

/// A member says that it lives, what it wants to read and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupHeartbeat {
    /// The group.
    pub group: String,
    /// A name that the member chose when it started, different from all others.
    pub member: String,
    /// The epoch it was told last; else [`JOIN_EPOCH`], [`LEAVE_EPOCH`] or [`PAUSE_EPOCH`].
    pub epoch: i32,
    /// The name of a static member, which stays the same over restarts.
    pub instance: Option<String>,
    /// Where the member runs; may be empty.
    pub rack: String,
    /// How long it may be silent.
    pub session_timeout_ms: u32,
    /// How long it may take to give partitions up.
    pub rebalance_timeout_ms: u32,
    /// How it wants partitions to be spread.
    pub strategy: AssignmentStrategy,
    /// The topics it wants to read, all of them.
    pub topics: Vec<String>,
    /// The partitions it holds, all of them.
    pub owned: Vec<TopicPartition>,
}

/// What a member may hold: anything else it gives up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupAssignment {
    /// Epoch of the member; commits carry it. That of a member that left is the one it left with.
    pub epoch: i32,
    /// How long the member should wait before its next heartbeat.
    pub heartbeat_interval_ms: u32,
    /// Its partitions, by topic.
    pub topics: Vec<AssignedTopic>,
}

/// Partitions of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedTopic {
    /// The topic.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: Vec<u16>,
}

/// Stores how far a group is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupCommit {
    /// The group.
    pub group: String,
    /// The member; empty for a tool, which may commit while the group has no members.
    pub member: String,
    /// The member's epoch.
    pub epoch: i32,
    /// How far it is.
    pub offsets: Vec<GroupOffset>,
    /// Rises from commit to commit of a member, and stays when one is sent again: one that was overtaken on another
    /// connection is refused. 0: not numbered, taken as it comes.
    pub number: u64,
}

/// Where a group goes on in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// The next offset to read.
    pub offset: u64,
    /// Whatever the member wants to keep with it.
    pub metadata: String,
}

/// What became of a commit, partition by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupCommitted {
    /// Each partition with its error, if it has one.
    pub results: Vec<(TopicPartition, Option<ErrorCode>)>,
}

/// Asks how far a group is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupOffsetsWanted {
    /// The group.
    pub group: String,
    /// The partitions; none means all that it ever committed.
    pub partitions: Vec<TopicPartition>,
}

/// How far a group is; partitions without a commit are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupOffsetsFound {
    /// The offsets.
    pub offsets: Vec<FoundOffset>,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// The next offset to read.
    pub offset: u64,
    /// Milliseconds since the Unix epoch, by the clock of the node that took the commit.
    pub committed_at_ms: u64,
    /// What was kept with it.
    pub metadata: String,
}

/// Asks what groups there are and how they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribeGroups {
    /// Their names; none means all.
    pub groups: Vec<String>,
}

impl AssignmentStrategy {
    /// The strategy of a byte on the wire.
    pub const fn from_code(code: u8) -> Option<AssignmentStrategy> {
        match code {
            0 => Some(AssignmentStrategy::Sticky),
            1 => Some(AssignmentStrategy::Range),
            2 => Some(AssignmentStrategy::RoundRobin),
            _ => None,
        }
    }

    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            AssignmentStrategy::Sticky => "sticky",
            AssignmentStrategy::Range => "range",
            AssignmentStrategy::RoundRobin => "round-robin",
        }
    }
}

impl GroupAssignment {
    /// The partitions, one by one.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|number| TopicPartition::new(topic.id, *number)))
    }

    pub(super) fn decode(payload: &[u8]) -> Option<GroupAssignment> {
        let mut reader = PayloadReader::new(payload);
        let epoch = reader.i32()?;
        let heartbeat_interval_ms = reader.u32()?;
        let count = reader.u16()?;
        let mut topics = Vec::new();
        for _ in 0..count {
            let (id, name) = (TopicId(reader.u32()?), reader.text()?);
            let partitions = (0..reader.u16()?).map(|_| reader.u16()).collect::<Option<_>>()?;
            topics.push(AssignedTopic { id, name, partitions });
        }
        Some(GroupAssignment { epoch, heartbeat_interval_ms, topics })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_i32_le(self.epoch);
        out.put_u32_le(self.heartbeat_interval_ms);
        let topics = &self.topics[..self.topics.len().min(usize::from(u16::MAX))];
        out.put_u16_le(topics.len() as u16);
        for topic in topics {
            out.put_u32_le(topic.id.0);
            put_text(out, &topic.name);
            let partitions = &topic.partitions[..topic.partitions.len().min(usize::from(u16::MAX))];
            out.put_u16_le(partitions.len() as u16);
            partitions.iter().for_each(|partition| out.put_u16_le(*partition));
        }
    }
}

impl GroupHeartbeat {
    pub(super) fn decode(payload: &[u8]) -> Option<GroupHeartbeat> {
        let mut reader = PayloadReader::new(payload);
        let (group, member) = (reader.text()?, reader.text()?);
        let epoch = reader.i32()?;
        let instance = Some(reader.text()?).filter(|name| !name.is_empty());
        let rack = reader.text()?;
        let (session_timeout_ms, rebalance_timeout_ms) = (reader.u32()?, reader.u32()?);
        let strategy = AssignmentStrategy::from_code(reader.u8()?)?;
        reader.u8()?;
        let topics = (0..reader.u16()?).map(|_| reader.text()).collect::<Option<_>>()?;
        let owned = partitions(&mut reader)?;
        Some(GroupHeartbeat {
            group,
            member,
            epoch,
            instance,
            rack,
            session_timeout_ms,
            rebalance_timeout_ms,
            strategy,
            topics,
            owned,
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_text(out, &self.group);
        put_text(out, &self.member);
        out.put_i32_le(self.epoch);
        put_text(out, self.instance.as_deref().unwrap_or_default());
        put_text(out, &self.rack);
        out.put_u32_le(self.session_timeout_ms);
        out.put_u32_le(self.rebalance_timeout_ms);
        out.put_u8(self.strategy as u8);
        out.put_u8(0);
        put_texts(out, &self.topics);
        put_partitions(out, &self.owned);
    }
}

impl GroupCommit {
    pub(super) fn decode(payload: &[u8]) -> Option<GroupCommit> {
        let mut reader = PayloadReader::new(payload);
        let (group, member, epoch) = (reader.text()?, reader.text()?, reader.i32()?);
        let count = reader.u32()?;
        let mut offsets = Vec::new();
        for _ in 0..count {
            let (partition, offset) = (partition(&mut reader)?, reader.u64()?);
            offsets.push(GroupOffset { partition, offset, metadata: reader.text()? });
        }
        // Clients from before there were numbers end here.
        let number = if reader.remaining() == 0 { 0 } else { reader.u64()? };
        Some(GroupCommit { group, member, epoch, offsets, number })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_text(out, &self.group);
        put_text(out, &self.member);
        out.put_i32_le(self.epoch);
        out.put_u32_le(self.offsets.len() as u32);
        for committed in &self.offsets {
            put_partition(out, committed.partition);
            out.put_u64_le(committed.offset);
            put_text(out, &committed.metadata);
        }
        if self.number > 0 {
            out.put_u64_le(self.number);
        }
    }
}

impl GroupCommitted {
    pub(super) fn decode(payload: &[u8]) -> Option<GroupCommitted> {
        let mut reader = PayloadReader::new(payload);
        let count = reader.u32()?;
        let mut results = Vec::new();
        for _ in 0..count {
            let (partition, code) = (partition(&mut reader)?, reader.u16()?);
            let error = if code == 0 { None } else { Some(ErrorCode::from_code(code).unwrap_or(ErrorCode::Internal)) };
            results.push((partition, error));
        }
        Some(GroupCommitted { results })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.results.len() as u32);
        for (partition, error) in &self.results {
            put_partition(out, *partition);
            out.put_u16_le(result_code(*error));
        }
    }
}

impl GroupOffsetsWanted {
    pub(super) fn decode(payload: &[u8]) -> Option<GroupOffsetsWanted> {
        let mut reader = PayloadReader::new(payload);
        Some(GroupOffsetsWanted { group: reader.text()?, partitions: partitions(&mut reader)? })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_text(out, &self.group);
        put_partitions(out, &self.partitions);
    }
}

impl GroupOffsetsFound {
    pub(super) fn decode(payload: &[u8]) -> Option<GroupOffsetsFound> {
        let mut reader = PayloadReader::new(payload);
        let count = reader.u32()?;
        let mut offsets = Vec::new();
        for _ in 0..count {
            let (partition, offset, committed_at_ms) = (partition(&mut reader)?, reader.u64()?, reader.u64()?);
            offsets.push(FoundOffset { partition, offset, committed_at_ms, metadata: reader.text()? });
        }
        Some(GroupOffsetsFound { offsets })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.offsets.len() as u32);
        for found in &self.offsets {
            put_partition(out, found.partition);
            out.put_u64_le(found.offset);
            out.put_u64_le(found.committed_at_ms);
            put_text(out, &found.metadata);
        }
    }
}

impl DescribeGroups {
    pub(super) fn decode(payload: &[u8]) -> Option<DescribeGroups> {
        let mut reader = PayloadReader::new(payload);
        let groups = (0..reader.u16()?).map(|_| reader.text()).collect::<Option<_>>()?;
        Some(DescribeGroups { groups })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_texts(out, &self.groups);
    }
}

fn partition(reader: &mut PayloadReader<'_>) -> Option<TopicPartition> {
    Some(TopicPartition::new(TopicId(reader.u32()?), reader.u16()?))
}

/// Each takes its bytes from the payload, so a hostile count ends with the payload.
fn partitions(reader: &mut PayloadReader<'_>) -> Option<Vec<TopicPartition>> {
    let count = reader.u32()?;
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(partition(reader)?);
    }
    Some(found)
}

fn put_partition(out: &mut BytesMut, partition: TopicPartition) {
    out.put_u32_le(partition.topic.0);
    out.put_u16_le(partition.partition);
}

fn put_partitions(out: &mut BytesMut, partitions: &[TopicPartition]) {
    out.put_u32_le(partitions.len() as u32);
    partitions.iter().for_each(|partition| put_partition(out, *partition));
}

fn put_texts(out: &mut BytesMut, texts: &[String]) {
    let texts = &texts[..texts.len().min(usize::from(u16::MAX))];
    out.put_u16_le(texts.len() as u16);
    texts.iter().for_each(|text| put_text(out, text));
}
