//! What a client asks for: frames given meaning, and the 1.0 answer to those without any.
//!
//! ```text
//! 01 CreateTopic               UTF-8 name
//! 02 DeleteTopic, 04 GetTopic  u32 topic id
//! 05 SetRetention              u32 topic id, u64 max age (s), u64 max bytes
//! 06 CreateTopicWithRetention  u16 name length, name, u64 max age (s), u64 max bytes
//! 08 Authenticate              UTF-8 token
//! 20 Subscribe                 u32 topic id, u64 start, u32 max batch bytes, u64 consumer id
//! 21 Unsubscribe               u32 topic id, u64 consumer id
//! 22 CommitOffset              u32 topic id, u64 consumer id, u64 offset
//! ```
//! 03 ListTopics and 07 GetClusterStatus have no payload; the rest is in the modules beside this one. Trailing bytes are
//! ignored.

use super::cluster::ClusterCommand;
use super::codec::Frame;
use super::command::Command;
use super::compression::{COMPRESSION_PREFIX_LEN, Codec, Compression};
use super::features::Features;
use super::fetch::{Fetch, FetchPartitions};
use super::group::{DescribeGroups, GroupCommit, GroupHeartbeat, GroupOffsetsWanted};
use super::header::{Flags, FrameKind};
use super::hello::{Hello, InitProducer};
use super::lookup::LookupOffset;
use super::payload::PayloadReader;
use super::produce::Produce;
use super::security::SecurityRequest;
use super::tee::TeeRequest;
use super::text;
use super::topics::{AlterTopic, CreateTopicWithConfig, MetadataRequest};
use super::trace::{TRACE_CONTEXT_LEN, TraceContext, crc_after_prefix};
use super::typed_error::{Answers, TypedError};
use crate::error_code::ErrorCode;
use crate::id::TopicId;
use bytes::Bytes;

/// A request and what came with it in the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFrame {
    /// To be echoed in the reply of a control frame after Hello; 0 on a 1.0 connection.
    pub correlation: u64,
    /// The partition; 0 unless PARTITIONS was negotiated.
    pub partition: u16,
    /// Where the request comes from.
    pub trace: Option<TraceContext>,
    /// The request.
    pub request: Request,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is a command of the specification")]
pub enum Request {
    /// Ack, Backpressure or an unknown frame from a client: no answer.
    Ignored,
    Keepalive,
    Produce(Produce),
    CreateTopic {
        name: String,
    },
    DeleteTopic {
        topic: TopicId,
    },
    ListTopics,
    GetTopic {
        topic: TopicId,
    },
    SetRetention {
        topic: TopicId,
        max_age_secs: u64,
        max_bytes: u64,
    },
    CreateTopicWithRetention {
        name: String,
        max_age_secs: u64,
        max_bytes: u64,
    },
    GetClusterStatus,
    Authenticate {
        token: Bytes,
    },
    Fetch(Fetch),
    Subscribe(Subscribe),
    Unsubscribe {
        topic: TopicId,
        consumer_id: u64,
    },
    CommitOffset(CommitOffset),
    Hello(Hello),
    InitProducer(InitProducer),
    FetchPartitions(FetchPartitions),
    LookupOffset(LookupOffset),
    Metadata(MetadataRequest),
    CreateTopicWithConfig(CreateTopicWithConfig),
    AlterTopic(AlterTopic),
    DescribeCluster,
    ClusterCommand(ClusterCommand),
    GroupHeartbeat(GroupHeartbeat),
    GroupCommit(GroupCommit),
    GroupOffsets(GroupOffsetsWanted),
    DescribeGroups(DescribeGroups),
    DeleteGroup {
        group: String,
    },
    TopicTee(TeeRequest),
    Security(SecurityRequest),
    /// A message of SCRAM.
    ScramStep(String),
}

/// Asks where a consumer should start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// The topic.
    pub topic: TopicId,
    /// 0: the last committed offset, else 0; anything else is echoed.
    pub start_offset: u64,
    /// Without meaning: fetches say their own.
    pub max_batch_bytes: u32,
    /// The consumer.
    pub consumer_id: u64,
}

/// Stores how far a consumer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitOffset {
    /// The topic.
    pub topic: TopicId,
    /// The consumer.
    pub consumer_id: u64,
    /// May be lower than before.
    pub offset: u64,
}

/// A frame that is well formed and makes no sense; the connection goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// To be echoed in the reply.
    pub correlation: u64,
    /// The answer.
    pub error: TypedError,
}

impl RequestFrame {
    /// Gives a frame its meaning; `features` are those granted by Hello, `None` on a 1.0 connection.
    pub fn decode(frame: Frame, features: Option<Features>) -> Result<RequestFrame, RequestError> {
        let granted = features.unwrap_or_default();
        let header = frame.header;
        let kind = header.kind();
        let correlation = if features.is_some() && kind == FrameKind::Control { header.timestamp } else { 0 };
        let answers = match kind {
            FrameKind::Control => Answers::Control(header.command()),
            _ => Answers::Ingest(header.batch_id),
        };
        let refuse = |code, message: &'static str| RequestError {
            correlation,
            error: TypedError::with_message(code, answers, message),
        };
        let (trace, payload, payload_crc) = match kind {
            FrameKind::Control | FrameKind::Ingest => split_trace(frame, granted)
                .ok_or_else(|| refuse(ErrorCode::InvalidRequest, text::INVALID_TRACE_CONTEXT))?,
            _ => (None, Bytes::new(), 0),
        };
        let request = match kind {
            FrameKind::Ingest => {
                let compressed = header.flags.contains(Flags::COMPRESSED);
                let (compression, records, records_crc) = split_compression(compressed, payload, payload_crc, granted)
                    .ok_or_else(|| refuse(ErrorCode::UndecodableRecords, text::INVALID_COMPRESSION))?;
                Request::Produce(Produce {
                    topic: TopicId(header.topic_id),
                    batch_id: header.batch_id,
                    timestamp: header.timestamp,
                    record_count: header.record_count,
                    compression,
                    records,
                    records_crc,
                })
            }
            FrameKind::Control => decode_command(Command(header.command()), &payload, features)
                .map_err(|(code, message)| refuse(code, message))?,
            FrameKind::Keepalive => Request::Keepalive,
            FrameKind::Ack | FrameKind::Backpressure | FrameKind::Unknown => Request::Ignored,
        };
        let partition = if granted.contains(Features::PARTITIONS) { header.partition } else { 0 };
        Ok(RequestFrame { correlation, partition, trace, request })
    }
}

/// `None`: the trace context is cut short.
fn split_trace(frame: Frame, features: Features) -> Option<(Option<TraceContext>, Bytes, u32)> {
    if !(features.contains(Features::TRACE_CONTEXT) && frame.header.flags.contains(Flags::TRACED)) {
        return Some((None, frame.payload, frame.payload_crc));
    }
    let trace = TraceContext::decode(&frame.payload)?;
    let (payload, crc) = strip(frame.payload, frame.payload_crc, TRACE_CONTEXT_LEN);
    Some((Some(trace), payload, crc))
}

/// `None`: the codec is unknown or the prefix cut short.
fn split_compression(
    compressed: bool,
    payload: Bytes,
    payload_crc: u32,
    features: Features,
) -> Option<(Compression, Bytes, u32)> {
    if !compressed {
        return Some((Compression::None, payload, payload_crc));
    }
    if !features.contains(Features::COMPRESSED_INGEST) {
        return Some((Compression::Unnamed, payload, payload_crc));
    }
    let mut reader = PayloadReader::new(&payload);
    let codec = Codec::from_code(reader.u8()?)?;
    reader.bytes(3)?;
    let plain_len = reader.u32()?;
    let (records, records_crc) = strip(payload, payload_crc, COMPRESSION_PREFIX_LEN);
    Some((Compression::Named { codec, plain_len }, records, records_crc))
}

fn strip(payload: Bytes, payload_crc: u32, prefix_len: usize) -> (Bytes, u32) {
    let rest = payload.slice(prefix_len..);
    let crc = crc_after_prefix(payload_crc, crc32fast::hash(&payload[..prefix_len]), rest.len() as u64);
    (rest, crc)
}

type Refusal = (ErrorCode, &'static str);

fn decode_command(command: Command, payload: &Bytes, features: Option<Features>) -> Result<Request, Refusal> {
    let invalid = |text| move || (ErrorCode::InvalidRequest, text);
    match command {
        Command::CREATE_TOPIC => topic_name(payload).map(|name| Request::CreateTopic { name }),
        Command::DELETE_TOPIC => topic_id(payload)
            .map(|topic| Request::DeleteTopic { topic })
            .ok_or_else(invalid(text::INVALID_DELETE_TOPIC)),
        Command::LIST_TOPICS => Ok(Request::ListTopics),
        Command::GET_TOPIC => {
            topic_id(payload).map(|topic| Request::GetTopic { topic }).ok_or_else(invalid(text::INVALID_GET_TOPIC))
        }
        Command::SET_RETENTION => set_retention(payload).ok_or_else(invalid(text::INVALID_SET_RETENTION)),
        Command::CREATE_TOPIC_WITH_RETENTION => create_with_retention(payload),
        Command::GET_CLUSTER_STATUS => Ok(Request::GetClusterStatus),
        Command::AUTHENTICATE => Ok(Request::Authenticate { token: payload.clone() }),
        Command::AUTHENTICATE_RESPONSE => Err((ErrorCode::InvalidCommand, text::AUTHENTICATION_ELSEWHERE)),
        Command::FETCH => Fetch::decode(payload).map(Request::Fetch).ok_or_else(invalid(text::INVALID_FETCH)),
        Command::SUBSCRIBE => subscribe(payload).ok_or_else(invalid(text::INVALID_SUBSCRIBE)),
        Command::UNSUBSCRIBE => unsubscribe(payload).ok_or_else(invalid(text::INVALID_UNSUBSCRIBE)),
        Command::COMMIT_OFFSET => commit_offset(payload).ok_or_else(invalid(text::INVALID_COMMIT_OFFSET)),
        Command::HELLO => Hello::decode(payload).map(Request::Hello).ok_or_else(invalid(text::INVALID_HELLO)),
        _ => decode_extension(command, payload, features.unwrap_or_default()),
    }
}

/// Commands that exist only where they were negotiated.
fn decode_extension(command: Command, payload: &Bytes, granted: Features) -> Result<Request, Refusal> {
    let needed = match command {
        Command::INIT_PRODUCER => Features::IDEMPOTENT,
        Command::FETCH_PARTITIONS => Features::LONG_POLL,
        Command::LOOKUP_OFFSET => Features::LOOKUP,
        Command::DESCRIBE_CLUSTER | Command::CLUSTER_COMMAND => Features::CLUSTER,
        Command::TOPIC_TEE => Features::TEE,
        Command::SECURITY => Features::SECURITY,
        Command::SCRAM_STEP => Features::SCRAM,
        Command::METADATA | Command::CREATE_TOPIC_WITH_CONFIG | Command::ALTER_TOPIC => Features::METADATA,
        Command::GROUP_HEARTBEAT
        | Command::GROUP_COMMIT
        | Command::GROUP_OFFSETS
        | Command::DESCRIBE_GROUPS
        | Command::DELETE_GROUP => Features::GROUPS,
        _ => return Err((ErrorCode::InvalidCommand, ErrorCode::InvalidCommand.text())),
    };
    if !granted.contains(needed) {
        return Err((ErrorCode::InvalidCommand, ErrorCode::InvalidCommand.text()));
    }
    let (request, text) = match command {
        Command::INIT_PRODUCER => {
            (InitProducer::decode(payload).map(Request::InitProducer), text::INVALID_INIT_PRODUCER)
        }
        Command::FETCH_PARTITIONS => {
            (FetchPartitions::decode(payload).map(Request::FetchPartitions), text::INVALID_FETCH)
        }
        Command::LOOKUP_OFFSET => (LookupOffset::decode(payload).map(Request::LookupOffset), text::INVALID_LOOKUP),
        Command::METADATA => (MetadataRequest::decode(payload).map(Request::Metadata), text::INVALID_METADATA),
        Command::CREATE_TOPIC_WITH_CONFIG => {
            (CreateTopicWithConfig::decode(payload).map(Request::CreateTopicWithConfig), text::INVALID_CREATE_TOPIC)
        }
        Command::DESCRIBE_CLUSTER => (Some(Request::DescribeCluster), text::INVALID_CLUSTER_COMMAND),
        Command::CLUSTER_COMMAND => {
            (ClusterCommand::decode(payload).map(Request::ClusterCommand), text::INVALID_CLUSTER_COMMAND)
        }
        Command::GROUP_HEARTBEAT
        | Command::GROUP_COMMIT
        | Command::GROUP_OFFSETS
        | Command::DESCRIBE_GROUPS
        | Command::DELETE_GROUP => (decode_group(command, payload), text::INVALID_GROUP_REQUEST),
        Command::TOPIC_TEE => (TeeRequest::decode(payload).map(Request::TopicTee), text::INVALID_TOPIC_TEE),
        Command::SECURITY => (SecurityRequest::decode(payload).map(Request::Security), text::INVALID_SECURITY),
        Command::SCRAM_STEP => {
            (std::str::from_utf8(payload).ok().map(|text| Request::ScramStep(text.to_owned())), text::INVALID_SECURITY)
        }
        _ => (AlterTopic::decode(payload).map(Request::AlterTopic), text::INVALID_ALTER_TOPIC),
    };
    request.ok_or((ErrorCode::InvalidRequest, text))
}

fn decode_group(command: Command, payload: &[u8]) -> Option<Request> {
    match command {
        Command::GROUP_HEARTBEAT => GroupHeartbeat::decode(payload).map(Request::GroupHeartbeat),
        Command::GROUP_COMMIT => GroupCommit::decode(payload).map(Request::GroupCommit),
        Command::GROUP_OFFSETS => GroupOffsetsWanted::decode(payload).map(Request::GroupOffsets),
        Command::DESCRIBE_GROUPS => DescribeGroups::decode(payload).map(Request::DescribeGroups),
        _ => PayloadReader::new(payload).text().map(|group| Request::DeleteGroup { group }),
    }
}

fn topic_name(payload: &[u8]) -> Result<String, Refusal> {
    match std::str::from_utf8(payload) {
        Ok("") => Err((ErrorCode::TopicNameRequired, ErrorCode::TopicNameRequired.text())),
        Ok(name) => Ok(name.to_owned()),
        Err(_) => Err((ErrorCode::InvalidTopicName, ErrorCode::InvalidTopicName.text())),
    }
}

fn topic_id(payload: &[u8]) -> Option<TopicId> {
    PayloadReader::new(payload).u32().map(TopicId)
}

fn set_retention(payload: &[u8]) -> Option<Request> {
    let mut reader = PayloadReader::new(payload);
    let topic = TopicId(reader.u32()?);
    Some(Request::SetRetention { topic, max_age_secs: reader.u64()?, max_bytes: reader.u64()? })
}

fn create_with_retention(payload: &[u8]) -> Result<Request, Refusal> {
    let short = || (ErrorCode::InvalidRequest, text::INVALID_CREATE_TOPIC);
    let mut reader = PayloadReader::new(payload);
    let name_len = reader.u16().ok_or_else(short)?;
    let name = topic_name(reader.bytes(usize::from(name_len)).ok_or_else(short)?)?;
    let max_age_secs = reader.u64().ok_or_else(short)?;
    Ok(Request::CreateTopicWithRetention { name, max_age_secs, max_bytes: reader.u64().ok_or_else(short)? })
}

fn subscribe(payload: &[u8]) -> Option<Request> {
    let mut reader = PayloadReader::new(payload);
    Some(Request::Subscribe(Subscribe {
        topic: TopicId(reader.u32()?),
        start_offset: reader.u64()?,
        max_batch_bytes: reader.u32()?,
        consumer_id: reader.u64()?,
    }))
}

fn unsubscribe(payload: &[u8]) -> Option<Request> {
    let mut reader = PayloadReader::new(payload);
    Some(Request::Unsubscribe { topic: TopicId(reader.u32()?), consumer_id: reader.u64()? })
}

fn commit_offset(payload: &[u8]) -> Option<Request> {
    let mut reader = PayloadReader::new(payload);
    Some(Request::CommitOffset(CommitOffset {
        topic: TopicId(reader.u32()?),
        consumer_id: reader.u64()?,
        offset: reader.u64()?,
    }))
}
