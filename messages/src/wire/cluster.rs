//! DescribeCluster and ClusterCommand: what operators ask of a cluster. `text` is a u16 length and UTF-8.
//!
//! ```text
//! DescribeCluster 0x47: no payload
//! DescribeClusterResponse 0xC7
//!   u16 node that answers, u16 metadata leader (0: none), u64 Raft term
//!   u16 count of nodes, each: u16 id, u8 state (1 alive, 2 draining, 4 in maintenance), text address, text rack
//!   u32 count of topics, each: u32 id, text name, u16 count of partitions, each:
//!     u16 leader (0: none), u32 epoch,
//!     u8 count, u16 nodes with a copy; u8 count, u16 nodes in quorum
//!     u8 1 = the node that answers has a copy, and only then: u64 high watermark, u64 log end (log positions)
//! ClusterCommand 0x48: u8 what, then
//!   1 drain           u16 node, u8 1 = begin, 0 = end
//!   2 evict           u16 node
//!   3 admit           u16 node
//!   4 add node        u16 node, text address
//!   5 remove node     u16 node
//!   6 recover         u32 topic id, u16 partition, u16 node, u8 1 = accept data loss,
//!                     u64 lost from, u64 lost to (log positions), text who orders it
//!   7 set topic mode  u32 topic id, u8 mode (1, 2)
//!   8 set copies      u32 topic id, u8 replication factor
//!   9 maintenance     u16 node, u8 1 = begin, 0 = end
//!  10 restore topic   u32 topic id, text name, u8 replication factor, u8 mode, u64 created at (s), u64 max age (s),
//!                     u64 max bytes, u16 count of partitions, each: u64 offset, u64 record number where it begins
//!  11 restore ids     u32 next topic id, u64 next producer id
//! ClusterCommandResponse 0xC8: u32 partitions changed
//! ```

use super::payload::{PayloadReader, put_text};
use super::topics::TopicMode;
use crate::batch::BatchPlace;
use crate::id::{NodeId, TopicId, TopicPartition};
use bytes::{BufMut, BytesMut};

const ALIVE: u8 = 1;
const DRAINING: u8 = 2;
const MAINTENANCE: u8 = 4;

/// The cluster as one node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDescription {
    /// The node that answers.
    pub node: NodeId,
    /// The metadata leader.
    pub metadata_leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// All nodes.
    pub nodes: Vec<ClusterNode>,
    /// All topics but those of the broker itself.
    pub topics: Vec<ClusterTopic>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its id.
    pub id: NodeId,
    /// Where clients reach it.
    pub address: String,
    /// What it may lose together with others; empty for none.
    pub rack: String,
    /// Whether it was heard of lately.
    pub alive: bool,
    /// Whether it is being emptied.
    pub draining: bool,
    /// Whether it leads nothing until an operator says otherwise.
    pub maintenance: bool,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTopic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Its partitions, by number.
    pub partitions: Vec<ClusterPartition>,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterPartition {
    /// Who leads it.
    pub leader: Option<NodeId>,
    /// In which epoch.
    pub epoch: u32,
    /// Who holds a copy.
    pub replicas: Vec<NodeId>,
    /// Whose acks count.
    pub in_quorum: Vec<NodeId>,
    /// How far the copy of the node that answers is, if it has one.
    pub copy: Option<CopyPositions>,
}

/// How far one copy is, in log positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyPositions {
    /// Everything below is committed, as far as that node knows.
    pub high_watermark: u64,
    /// Behind its last batch.
    pub log_end: u64,
}

/// An order to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterCommand {
    /// Empty a node of leaderships, or let it lead again.
    Drain {
        /// The node.
        node: NodeId,
        /// Whether it is to be emptied.
        on: bool,
    },
    /// The leaders wait for a node no longer.
    Evict {
        /// The node.
        node: NodeId,
    },
    /// The partitions led by the node that is asked wait for `node` again, wherever its copy is complete.
    Admit {
        /// The node.
        node: NodeId,
    },
    /// Let a node that nobody knows join.
    AddNode {
        /// The node.
        node: NodeId,
        /// Where it is reached, host:port.
        address: String,
    },
    /// Take a node out for good; its copies move to other nodes first.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// Go on with one copy of a partition that has no leader.
    Recover(RecoverPartition),
    /// Change when producers of a topic are acked.
    SetTopicMode {
        /// The topic.
        topic: TopicId,
        /// The new mode.
        mode: TopicMode,
    },
    /// Change how many nodes hold a copy of each partition of a topic.
    SetReplicationFactor {
        /// The topic.
        topic: TopicId,
        /// The new number.
        replication_factor: u8,
    },
    /// Empty a node of leaderships until it is said otherwise, over any number of its starts.
    Maintenance {
        /// The node.
        node: NodeId,
        /// Whether it begins or ends.
        on: bool,
    },
    /// Make a topic as it was backed up.
    RestoreTopic(RestoreTopic),
    /// Give out no topic or producer id that the cluster a backup was taken of has given out.
    RestoreIds {
        /// The least id of a topic made from now on.
        next_topic: TopicId,
        /// The least id of a producer made from now on.
        next_producer: u64,
    },
}

/// A topic as it was backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreTopic {
    /// The id it had.
    pub topic: TopicId,
    /// Its name.
    pub name: String,
    /// How many nodes shall hold a copy of each partition.
    pub replication_factor: u8,
    /// When producers are acked.
    pub mode: TopicMode,
    /// When it was made, seconds since the Unix epoch.
    pub created_at: u64,
    /// Records older than this many seconds may go; 0 = unlimited.
    pub max_age_secs: u64,
    /// Bytes of a partition that are kept; 0 = unlimited.
    pub max_bytes: u64,
    /// Where each partition begins: what is below was gone when it was backed up.
    pub beginnings: Vec<BatchPlace>,
}

/// The order to go on with one copy of a partition, whatever the others had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// The node whose copy it goes on with.
    pub node: NodeId,
    /// Without it the order is refused.
    pub accept_data_loss: bool,
    /// First log position that may be lost.
    pub lost_from: u64,
    /// Log position behind the last one known to have existed.
    pub lost_to: u64,
    /// Who orders it.
    pub requested_by: String,
}

/// A command was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterCommandDone {
    /// How many partitions it changed, where it is about partitions.
    pub partition_count: u32,
}

fn node(id: u16) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

fn decode_nodes(reader: &mut PayloadReader<'_>) -> Option<Vec<NodeId>> {
    let count = reader.u8()?;
    (0..count).map(|_| reader.u16().map(NodeId)).collect()
}

fn encode_nodes(nodes: &[NodeId], out: &mut BytesMut) {
    let count = nodes.len().min(usize::from(u8::MAX));
    out.put_u8(count as u8);
    nodes[..count].iter().for_each(|node| out.put_u16_le(node.0));
}

impl ClusterDescription {
    pub(super) fn decode(payload: &[u8]) -> Option<ClusterDescription> {
        let mut reader = PayloadReader::new(payload);
        let (own, metadata_leader, term) = (NodeId(reader.u16()?), node(reader.u16()?), reader.u64()?);
        let node_count = reader.u16()?;
        let nodes = (0..node_count).map(|_| ClusterNode::decode(&mut reader)).collect::<Option<_>>()?;
        let topic_count = reader.u32()?;
        let mut topics = Vec::new();
        for _ in 0..topic_count {
            topics.push(ClusterTopic::decode(&mut reader)?);
        }
        Some(ClusterDescription { node: own, metadata_leader, term, nodes, topics })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.node.0);
        out.put_u16_le(self.metadata_leader.map_or(0, |id| id.0));
        out.put_u64_le(self.term);
        let count = self.nodes.len().min(usize::from(u16::MAX));
        out.put_u16_le(count as u16);
        self.nodes[..count].iter().for_each(|node| node.encode(out));
        out.put_u32_le(self.topics.len() as u32);
        self.topics.iter().for_each(|topic| topic.encode(out));
    }

    /// Bytes of its encoding, about.
    pub fn weight(&self) -> usize {
        let partition_bytes =
            |partition: &ClusterPartition| 25 + 2 * (partition.replicas.len() + partition.in_quorum.len());
        let topic_bytes =
            |topic: &ClusterTopic| 8 + topic.name.len() + topic.partitions.iter().map(partition_bytes).sum::<usize>();
        64 * self.nodes.len() + self.topics.iter().map(topic_bytes).sum::<usize>()
    }
}

impl ClusterNode {
    fn decode(reader: &mut PayloadReader<'_>) -> Option<ClusterNode> {
        let (id, state) = (NodeId(reader.u16()?), reader.u8()?);
        let (address, rack) = (reader.text()?, reader.text()?);
        Some(ClusterNode {
            id,
            address,
            rack,
            alive: state & ALIVE != 0,
            draining: state & DRAINING != 0,
            maintenance: state & MAINTENANCE != 0,
        })
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.id.0);
        let state = [(self.alive, ALIVE), (self.draining, DRAINING), (self.maintenance, MAINTENANCE)];
        out.put_u8(state.iter().map(|(is_so, bit)| u8::from(*is_so) * bit).sum());
        put_text(out, &self.address);
        put_text(out, &self.rack);
    }
}

impl ClusterTopic {
    fn decode(reader: &mut PayloadReader<'_>) -> Option<ClusterTopic> {
        let (id, name, count) = (TopicId(reader.u32()?), reader.text()?, reader.u16()?);
        let partitions = (0..count).map(|_| ClusterPartition::decode(reader)).collect::<Option<_>>()?;
        Some(ClusterTopic { id, name, partitions })
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.id.0);
        put_text(out, &self.name);
        let count = self.partitions.len().min(usize::from(u16::MAX));
        out.put_u16_le(count as u16);
        self.partitions[..count].iter().for_each(|partition| partition.encode(out));
    }
}

impl ClusterPartition {
    fn decode(reader: &mut PayloadReader<'_>) -> Option<ClusterPartition> {
        let (leader, epoch) = (node(reader.u16()?), reader.u32()?);
        let (replicas, in_quorum) = (decode_nodes(reader)?, decode_nodes(reader)?);
        let copy = match reader.u8()? {
            0 => None,
            _ => Some(CopyPositions { high_watermark: reader.u64()?, log_end: reader.u64()? }),
        };
        Some(ClusterPartition { leader, epoch, replicas, in_quorum, copy })
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.leader.map_or(0, |id| id.0));
        out.put_u32_le(self.epoch);
        encode_nodes(&self.replicas, out);
        encode_nodes(&self.in_quorum, out);
        out.put_u8(u8::from(self.copy.is_some()));
        if let Some(copy) = self.copy {
            out.put_u64_le(copy.high_watermark);
            out.put_u64_le(copy.log_end);
        }
    }
}

impl ClusterCommand {
    pub(super) fn decode(payload: &[u8]) -> Option<ClusterCommand> {
        let mut reader = PayloadReader::new(payload);
        Some(match reader.u8()? {
            1 => ClusterCommand::Drain { node: NodeId(reader.u16()?), on: reader.u8()? != 0 },
            2 => ClusterCommand::Evict { node: NodeId(reader.u16()?) },
            3 => ClusterCommand::Admit { node: NodeId(reader.u16()?) },
            4 => ClusterCommand::AddNode { node: NodeId(reader.u16()?), address: reader.text()? },
            5 => ClusterCommand::RemoveNode { node: NodeId(reader.u16()?) },
            6 => ClusterCommand::Recover(RecoverPartition {
                partition: TopicPartition::new(TopicId(reader.u32()?), reader.u16()?),
                node: NodeId(reader.u16()?),
                accept_data_loss: reader.u8()? == 1,
                lost_from: reader.u64()?,
                lost_to: reader.u64()?,
                requested_by: reader.text()?,
            }),
            7 => ClusterCommand::SetTopicMode {
                topic: TopicId(reader.u32()?),
                mode: TopicMode::from_code(reader.u8()?)?,
            },
            8 => {
                ClusterCommand::SetReplicationFactor { topic: TopicId(reader.u32()?), replication_factor: reader.u8()? }
            }
            9 => ClusterCommand::Maintenance { node: NodeId(reader.u16()?), on: reader.u8()? != 0 },
            10 => ClusterCommand::RestoreTopic(RestoreTopic::decode(&mut reader)?),
            11 => ClusterCommand::RestoreIds { next_topic: TopicId(reader.u32()?), next_producer: reader.u64()? },
            _ => return None,
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        let mut about = |what: u8, node: NodeId| {
            out.put_u8(what);
            out.put_u16_le(node.0);
        };
        match self {
            ClusterCommand::Drain { node, on } => {
                about(1, *node);
                out.put_u8(u8::from(*on));
            }
            ClusterCommand::Evict { node } => about(2, *node),
            ClusterCommand::Admit { node } => about(3, *node),
            ClusterCommand::AddNode { node, address } => {
                about(4, *node);
                put_text(out, address);
            }
            ClusterCommand::RemoveNode { node } => about(5, *node),
            ClusterCommand::Recover(order) => {
                out.put_u8(6);
                out.put_u32_le(order.partition.topic.0);
                out.put_u16_le(order.partition.partition);
                out.put_u16_le(order.node.0);
                out.put_u8(u8::from(order.accept_data_loss));
                out.put_u64_le(order.lost_from);
                out.put_u64_le(order.lost_to);
                put_text(out, &order.requested_by);
            }
            ClusterCommand::SetTopicMode { topic, mode } => {
                out.put_u8(7);
                out.put_u32_le(topic.0);
                out.put_u8(*mode as u8);
            }
            ClusterCommand::SetReplicationFactor { topic, replication_factor } => {
                out.put_u8(8);
                out.put_u32_le(topic.0);
                out.put_u8(*replication_factor);
            }
            ClusterCommand::Maintenance { node, on } => {
                about(9, *node);
                out.put_u8(u8::from(*on));
            }
            ClusterCommand::RestoreTopic(topic) => {
                out.put_u8(10);
                topic.encode(out);
            }
            ClusterCommand::RestoreIds { next_topic, next_producer } => {
                out.put_u8(11);
                out.put_u32_le(next_topic.0);
                out.put_u64_le(*next_producer);
            }
        }
    }
}

impl RestoreTopic {
    fn decode(reader: &mut PayloadReader<'_>) -> Option<RestoreTopic> {
        let (topic, name, replication_factor) = (TopicId(reader.u32()?), reader.text()?, reader.u8()?);
        let mode = TopicMode::from_code(reader.u8()?)?;
        let (created_at, max_age_secs, max_bytes) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let count = reader.u16()?;
        let place = |reader: &mut PayloadReader<'_>| Some(BatchPlace { offset: reader.u64()?, record: reader.u64()? });
        let beginnings = (0..count).map(|_| place(reader)).collect::<Option<_>>()?;
        Some(RestoreTopic { topic, name, replication_factor, mode, created_at, max_age_secs, max_bytes, beginnings })
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.topic.0);
        put_text(out, &self.name);
        out.put_u8(self.replication_factor);
        out.put_u8(self.mode as u8);
        [self.created_at, self.max_age_secs, self.max_bytes].iter().for_each(|value| out.put_u64_le(*value));
        let count = self.beginnings.len().min(usize::from(u16::MAX));
        out.put_u16_le(count as u16);
        for place in &self.beginnings[..count] {
            out.put_u64_le(place.offset);
            out.put_u64_le(place.record);
        }
    }
}

impl ClusterCommandDone {
    pub(super) fn decode(payload: &[u8]) -> Option<ClusterCommandDone> {
        Some(ClusterCommandDone { partition_count: PayloadReader::new(payload).u32()? })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.partition_count);
    }
}
