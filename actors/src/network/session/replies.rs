//! What a reply slot holds, from the request until its reply is written.

use bytes::Bytes;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::mail::connection::{PartitionBounds, Produced};
use lance_messages::wire::cluster::ClusterCommand;
use lance_messages::wire::fetch::FetchedPartition;
use lance_messages::wire::tee::TeeReply;
use lance_messages::wire::topics::MetadataRequest;
use lance_messages::wire::{Response, ResponseFrame};
use lance_storage::reader::ReadPlan;
use std::time::Duration;

/// What a produce slot remembers of its request.
#[derive(Clone, Copy, Debug)]
pub struct ProduceSlot {
    /// Echoed in the ack.
    pub batch_id: u64,
    /// The partition.
    pub partition: TopicPartition,
    /// The shard that appends it; one beyond them is the forwarder.
    pub shard: u16,
    /// Payload bytes, counted against the connection's budget.
    pub bytes: usize,
    /// When it came.
    pub since: Duration,
}

/// The data of one answered part of a fetch.
#[derive(Debug)]
pub enum PartData {
    /// Nothing, or an error.
    None,
    /// From memory.
    Memory(Bytes),
    /// As a reader thread planned it.
    Plan(ReadPlan),
}

/// One part of a fetch.
#[derive(Debug)]
pub struct FetchPart {
    /// The partition read.
    pub partition: TopicPartition,
    /// Where it was asked to read.
    pub offset: u64,
    /// Most bytes of its data.
    pub max_bytes: u32,
    /// The shard that answers it, until it has.
    pub waiting_for: Option<u16>,
    /// The ingestion actor's bounds, once known.
    pub bounds: Option<PartitionBounds>,
    /// The answer, once known.
    pub answer: Option<FetchedPartition>,
    /// Its data.
    pub data: PartData,
    /// CRC-32 of the data.
    pub data_crc: u32,
    /// Timestamp of the newest batch in the data, ns; 0 when unknown.
    pub timestamp_ns: u64,
    /// Node id of the leader, for NotLeader, or of the replica to read from; 0 when unknown.
    pub leader: u16,
    /// Whether this node answers it without leading.
    pub near: bool,
}

/// A fetch under way.
#[derive(Debug)]
pub struct FetchSlot {
    /// Whether it is a 1.0 Fetch.
    pub legacy: bool,
    /// Echoed in the reply.
    pub correlation: u64,
    /// Its parts.
    pub parts: Vec<FetchPart>,
    /// Of a 1.0 Fetch that another node serves: its address; else empty.
    pub redirect: String,
    /// The other parts were told not to wait any longer.
    pub cancelled: bool,
    /// When it came.
    pub since: Duration,
    /// Whether it may wait at the end.
    pub may_wait: bool,
}

impl FetchSlot {
    /// Whether every part is answered.
    pub fn is_complete(&self) -> bool {
        self.parts.iter().all(|part| part.answer.is_some())
    }
}

/// A control request answered by another actor.
#[derive(Clone, Debug)]
pub enum ControlKind {
    /// CreateTopic and CreateTopicWithRetention; the latter's limits are echoed.
    CreateTopic {
        /// Its name.
        name: String,
        /// Age and bytes, echoed when they were given.
        retention: Option<(u64, u64)>,
    },
    /// CreateTopicWithConfig.
    CreateTopicWithConfig,
    /// DeleteTopic.
    DeleteTopic,
    /// SetRetention.
    SetRetention {
        /// Seconds.
        max_age_secs: u64,
        /// Bytes.
        max_bytes: u64,
    },
    /// AlterTopic.
    AlterTopic,
    /// InitProducer.
    InitProducer,
    /// DescribeCluster.
    DescribeCluster,
    /// ClusterCommand.
    ClusterCommand(ClusterCommand),
    /// TopicTee.
    TopicTee,
    /// Metadata of topics that are being created.
    Metadata(MetadataRequest),
    /// Subscribe from the committed offset.
    Subscribe {
        /// The partition read.
        partition: TopicPartition,
        /// The consumer.
        consumer_id: u64,
    },
    /// CommitOffset.
    Commit {
        /// The partition read.
        partition: TopicPartition,
        /// The consumer.
        consumer_id: u64,
        /// Its offset.
        offset: u64,
    },
    /// A change of users or rules.
    Security {
        /// The byte of what was asked.
        what: u8,
    },
    /// A request about consumer groups.
    Group,
    /// LookupOffset.
    LookUp {
        /// The partition.
        partition: TopicPartition,
        /// The shard that answers.
        shard: u16,
    },
}

/// One reply slot.
#[derive(Debug)]
pub enum ReplySlot {
    /// A produce request under way.
    Produce(ProduceSlot),
    /// A produce request that is answered.
    Produced(ProduceSlot, Result<Produced, ErrorCode>),
    /// A fetch.
    Fetch(Box<FetchSlot>),
    /// A control request under way.
    Control {
        /// Echoed in the reply.
        correlation: u64,
        /// Command code, for errors.
        command: u8,
        /// What it asked for.
        kind: ControlKind,
    },
    /// A reply that only waits for its turn.
    Ready(ResponseFrame),
    /// No reply at all.
    Nothing,
}

impl ReplySlot {
    /// A reply that only waits for its turn.
    pub fn ready(correlation: u64, response: Response) -> Self {
        Self::Ready(ResponseFrame { correlation, response })
    }
}

/// Bytes of the replies that may be large, about: those that wait for their turn are counted.
pub fn weight(response: &Response) -> usize {
    match response {
        Response::Topic(body) | Response::ClusterStatus(body) => body.len(),
        Response::Metadata(metadata) => {
            metadata.topics.iter().map(|topic| 128 + topic.name.len() + 24 * topic.partitions.len()).sum()
        }
        Response::DescribeCluster(cluster) => cluster.weight(),
        Response::TopicTee(TeeReply::List(list)) => {
            list.rules.iter().map(|rule| 256 + rule.topic_name.len() + 64 * rule.partitions.len()).sum()
        }
        Response::DescribeGroups(body) => body.len(),
        Response::GroupOffsets(found) => found.offsets.iter().map(|found| 64 + found.metadata.len()).sum(),
        _ => 0,
    }
}
