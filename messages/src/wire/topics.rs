//! Metadata, CreateTopicWithConfig and AlterTopic. `text` is a u16 length and UTF-8.
//!
//! ```text
//! Metadata 0x44: u16 count, text names (none: all topics), u8 1 = create the missing ones (may be absent: 0)
//! MetadataResponse 0xC4
//!   u16 controller node (0: none)
//!   u16 count of nodes, each:  u16 id, text address
//!   u32 count of topics, each:
//!     u32 id, text name, u16 error, u8 mode (1, 2), u8 replication factor,
//!     u64 created at (s), u64 max age (s), u64 max bytes (0: unlimited),
//!     u16 count of partitions, each: u16 leader (0: none), u32 epoch, u16 error
//! CreateTopicWithConfig 0x45           AlterTopic 0x46
//!   text name                            u32 topic id
//!   u16 partitions (0: default)          u8 which: 1 partitions, 2 age, 4 bytes
//!   u8 replication factor (0: default)   u8 zero
//!   u8 mode (0: default, 1, 2)           u16 partitions
//!   u64 max age, s (MAX: default)        u64 max age, s
//!   u64 max bytes (MAX: default)         u64 max bytes
//! both replies 0xC5, 0xC6: u32 topic id, u16 partitions, u8 replication factor, u8 mode
//! ```

use super::payload::{PayloadReader, put_text};
use crate::error_code::{ErrorCode, result_code};
use crate::id::{NodeId, TopicId};
use bytes::{BufMut, BytesMut};

/// How a topic is replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TopicMode {
    /// L1: a tee, not waited for.
    L1 = 1,
    /// L2: quorum.
    L2 = 2,
}

/// Asks for nodes and topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataRequest {
    /// The topics of interest; none means all.
    pub topics: Vec<String>,
    /// Whether those that are missing should be created with defaults, if the server does that.
    pub create_missing: bool,
}

/// Nodes and topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataResponse {
    /// The metadata leader.
    pub controller: Option<NodeId>,
    /// All nodes.
    pub nodes: Vec<NodeMetadata>,
    /// The topics asked for.
    pub topics: Vec<TopicMetadata>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMetadata {
    /// Its id.
    pub id: NodeId,
    /// Where clients reach it, host:port.
    pub address: String,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Its id; meaningless with an error.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Why nothing is known about it.
    pub error: Option<ErrorCode>,
    /// Its mode.
    pub mode: TopicMode,
    /// Copies of each partition.
    pub replication_factor: u8,
    /// When it was created, seconds since the Unix epoch.
    pub created_at: u64,
    /// Records older than this many seconds may go; 0 = unlimited.
    pub max_age_secs: u64,
    /// Bytes of a partition that are kept; 0 = unlimited.
    pub max_bytes: u64,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionMetadata>,
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// The node that leads it.
    pub leader: Option<NodeId>,
    /// Epoch of that leadership.
    pub leader_epoch: u32,
    /// Why it cannot be used.
    pub error: Option<ErrorCode>,
}

/// Creates a topic; `None` takes the server's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateTopicWithConfig {
    /// Its name.
    pub name: String,
    /// How many partitions, from 1.
    pub partitions: Option<u16>,
    /// Copies of each partition, from 1.
    pub replication_factor: Option<u8>,
    /// Its mode.
    pub mode: Option<TopicMode>,
    /// Records older than this many seconds may go; 0 = unlimited.
    pub max_age_secs: Option<u64>,
    /// Bytes of a partition that are kept; 0 = unlimited.
    pub max_bytes: Option<u64>,
}

/// Changes a topic; `None` leaves a property as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlterTopic {
    /// The topic.
    pub topic: TopicId,
    /// More partitions than it has.
    pub partitions: Option<u16>,
    /// As at creation.
    pub max_age_secs: Option<u64>,
    /// As at creation.
    pub max_bytes: Option<u64>,
}

/// A topic as it now is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicConfigured {
    /// Its id.
    pub topic: TopicId,
    /// How many partitions it has.
    pub partitions: u16,
    /// Copies of each.
    pub replication_factor: u8,
    /// Its mode.
    pub mode: TopicMode,
}

impl TopicMode {
    /// The mode of a byte on the wire.
    pub const fn from_code(code: u8) -> Option<TopicMode> {
        match code {
            1 => Some(TopicMode::L1),
            2 => Some(TopicMode::L2),
            _ => None,
        }
    }

    /// "L1" or "L2".
    pub const fn name(self) -> &'static str {
        match self {
            TopicMode::L1 => "L1",
            TopicMode::L2 => "L2",
        }
    }
}

impl MetadataRequest {
    pub(super) fn decode(payload: &[u8]) -> Option<MetadataRequest> {
        let mut reader = PayloadReader::new(payload);
        let count = usize::from(reader.u16()?);
        if count > reader.remaining() / 2 {
            return None;
        }
        let topics = (0..count).map(|_| reader.text()).collect::<Option<_>>()?;
        let create_missing = reader.u8().unwrap_or(0) & 1 == 1;
        Some(MetadataRequest { topics, create_missing })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        let count = self.topics.len().min(usize::from(u16::MAX));
        out.put_u16_le(count as u16);
        for name in &self.topics[..count] {
            put_text(out, name);
        }
        out.put_u8(u8::from(self.create_missing));
    }
}

impl MetadataResponse {
    pub(super) fn decode(payload: &[u8]) -> Option<MetadataResponse> {
        let mut reader = PayloadReader::new(payload);
        let controller = node(reader.u16()?);
        let node_count = reader.u16()?;
        let mut nodes = Vec::new();
        for _ in 0..node_count {
            nodes.push(NodeMetadata { id: NodeId(reader.u16()?), address: reader.text()? });
        }
        let topic_count = reader.u32()?;
        let mut topics = Vec::new();
        for _ in 0..topic_count {
            topics.push(decode_topic(&mut reader)?);
        }
        Some(MetadataResponse { controller, nodes, topics })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.controller.map_or(0, |id| id.0));
        let count = self.nodes.len().min(usize::from(u16::MAX));
        out.put_u16_le(count as u16);
        for node in &self.nodes[..count] {
            out.put_u16_le(node.id.0);
            put_text(out, &node.address);
        }
        out.put_u32_le(self.topics.len() as u32);
        for topic in &self.topics {
            encode_topic(topic, out);
        }
    }
}

fn decode_topic(reader: &mut PayloadReader<'_>) -> Option<TopicMetadata> {
    let id = TopicId(reader.u32()?);
    let name = reader.text()?;
    let error = error(reader.u16()?)?;
    let mode = TopicMode::from_code(reader.u8()?)?;
    let replication_factor = reader.u8()?;
    let (created_at, max_age_secs, max_bytes) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let mut partitions = Vec::new();
    for _ in 0..reader.u16()? {
        let (leader, leader_epoch) = (node(reader.u16()?), reader.u32()?);
        partitions.push(PartitionMetadata { leader, leader_epoch, error: self::error(reader.u16()?)? });
    }
    Some(TopicMetadata { id, name, error, mode, replication_factor, created_at, max_age_secs, max_bytes, partitions })
}

fn encode_topic(topic: &TopicMetadata, out: &mut BytesMut) {
    out.put_u32_le(topic.id.0);
    put_text(out, &topic.name);
    out.put_u16_le(result_code(topic.error));
    out.put_u8(topic.mode as u8);
    out.put_u8(topic.replication_factor);
    out.put_u64_le(topic.created_at);
    out.put_u64_le(topic.max_age_secs);
    out.put_u64_le(topic.max_bytes);
    let count = topic.partitions.len().min(usize::from(u16::MAX));
    out.put_u16_le(count as u16);
    for partition in &topic.partitions[..count] {
        out.put_u16_le(partition.leader.map_or(0, |id| id.0));
        out.put_u32_le(partition.leader_epoch);
        out.put_u16_le(result_code(partition.error));
    }
}

fn node(id: u16) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

/// The outer `None` is an unknown code.
fn error(code: u16) -> Option<Option<ErrorCode>> {
    match code {
        0 => Some(None),
        code => ErrorCode::from_code(code).map(Some),
    }
}

impl CreateTopicWithConfig {
    pub(super) fn decode(payload: &[u8]) -> Option<CreateTopicWithConfig> {
        let mut reader = PayloadReader::new(payload);
        let name = reader.text()?;
        let (partitions, replication_factor) = (reader.u16()?, reader.u8()?);
        let mode = match reader.u8()? {
            0 => None,
            code => Some(TopicMode::from_code(code)?),
        };
        let (age, bytes) = (reader.u64()?, reader.u64()?);
        Some(CreateTopicWithConfig {
            name,
            partitions: (partitions != 0).then_some(partitions),
            replication_factor: (replication_factor != 0).then_some(replication_factor),
            mode,
            max_age_secs: (age != u64::MAX).then_some(age),
            max_bytes: (bytes != u64::MAX).then_some(bytes),
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_text(out, &self.name);
        out.put_u16_le(self.partitions.unwrap_or(0));
        out.put_u8(self.replication_factor.unwrap_or(0));
        out.put_u8(self.mode.map_or(0, |mode| mode as u8));
        out.put_u64_le(self.max_age_secs.unwrap_or(u64::MAX));
        out.put_u64_le(self.max_bytes.unwrap_or(u64::MAX));
    }
}

impl AlterTopic {
    pub(super) fn decode(payload: &[u8]) -> Option<AlterTopic> {
        let mut reader = PayloadReader::new(payload);
        let topic = TopicId(reader.u32()?);
        let which = reader.u8()?;
        reader.u8()?;
        let (partitions, age, bytes) = (reader.u16()?, reader.u64()?, reader.u64()?);
        if which & !7 != 0 {
            return None;
        }
        Some(AlterTopic {
            topic,
            partitions: (which & 1 != 0).then_some(partitions),
            max_age_secs: (which & 2 != 0).then_some(age),
            max_bytes: (which & 4 != 0).then_some(bytes),
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        let which = u8::from(self.partitions.is_some())
            | u8::from(self.max_age_secs.is_some()) << 1
            | u8::from(self.max_bytes.is_some()) << 2;
        out.put_u32_le(self.topic.0);
        out.put_u8(which);
        out.put_u8(0);
        out.put_u16_le(self.partitions.unwrap_or(0));
        out.put_u64_le(self.max_age_secs.unwrap_or(0));
        out.put_u64_le(self.max_bytes.unwrap_or(0));
    }
}

impl TopicConfigured {
    pub(super) fn decode(payload: &[u8]) -> Option<TopicConfigured> {
        let mut reader = PayloadReader::new(payload);
        Some(TopicConfigured {
            topic: TopicId(reader.u32()?),
            partitions: reader.u16()?,
            replication_factor: reader.u8()?,
            mode: TopicMode::from_code(reader.u8()?)?,
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.topic.0);
        out.put_u16_le(self.partitions);
        out.put_u8(self.replication_factor);
        out.put_u8(self.mode as u8);
    }
}
