//! What a server answers.
//!
//! ```text
//! 09 AuthenticateResponse  u8 ok, UTF-8 text
//! 12 CatchingUp            u64 end offset
//! 23 SubscribeAck, 24 CommitAck  u64 consumer id, u64 offset
//! 80 TopicResponse, 81 ClusterStatusResponse  JSON
//! FF ErrorResponse         UTF-8 text, or typed
//! ```
//! The rest is in the modules beside this one. On a connection with Hello the timestamp field of a control reply echoes
//! that of its request. Acks and errors to ingest frames come in the order of those frames, control replies in the
//! order of their requests; between the two there is no order.

use super::cluster::{ClusterCommandDone, ClusterDescription};
use super::codec::Frame;
use super::command::Command;
use super::features::Features;
use super::fetch::{FETCH_RESPONSE_PREFIX_LEN, FetchPartitionsResponse};
use super::group::{GroupAssignment, GroupCommitted, GroupOffsetsFound};
use super::header::FrameKind;
use super::hello::{HelloResponse, ProducerEpoch};
use super::lookup::LookupOffsetResponse;
use super::payload::PayloadReader;
use super::produce::AckOffsets;
use super::security::SecurityReply;
use super::tee::TeeReply;
use super::topics::{MetadataResponse, TopicConfigured};
use super::typed_error::TypedError;
use bytes::Bytes;
use thiserror::Error;

/// A reply and what came with it in the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseFrame {
    /// What the request carried; 0 on a 1.0 connection.
    pub correlation: u64,
    /// The reply.
    pub response: Response,
}

/// A reply, or a frame the server sends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is a reply of the specification")]
pub enum Response {
    Keepalive,
    Backpressure,
    /// Also the answer to Unsubscribe, with the consumer id for a batch id.
    Ack {
        batch_id: u64,
        offsets: Option<AckOffsets>,
    },
    Topic(Bytes),
    ClusterStatus(Bytes),
    Authenticate {
        ok: bool,
        text: String,
    },
    Fetch {
        next_offset: u64,
        record_count: u32,
        data: Bytes,
    },
    CatchingUp {
        end_offset: u64,
    },
    SubscribeAck {
        consumer_id: u64,
        offset: u64,
    },
    CommitAck {
        consumer_id: u64,
        offset: u64,
    },
    /// Without TYPED_ERRORS: the text alone.
    ErrorText(String),
    Error(TypedError),
    Hello(HelloResponse),
    InitProducer(ProducerEpoch),
    FetchPartitions(FetchPartitionsResponse),
    LookupOffset(LookupOffsetResponse),
    Metadata(MetadataResponse),
    CreateTopicWithConfig(TopicConfigured),
    AlterTopic(TopicConfigured),
    DescribeCluster(ClusterDescription),
    ClusterCommand(ClusterCommandDone),
    GroupHeartbeat(GroupAssignment),
    GroupCommit(GroupCommitted),
    GroupOffsets(GroupOffsetsFound),
    /// JSON.
    DescribeGroups(Bytes),
    DeleteGroup,
    TopicTee(TeeReply),
    Security(SecurityReply),
    /// A message of SCRAM.
    ScramStep(String),
}

/// A frame no server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// The frame is neither a reply nor a server's own.
    #[error("unexpected frame from the server: flags {flags:#04x}")]
    UnexpectedFrame {
        /// Its flags.
        flags: u8,
    },
    /// The command is no reply.
    #[error("unexpected reply {command:#04x} from the server")]
    UnknownCommand {
        /// Its code.
        command: u8,
    },
    /// The payload is not what the command wants.
    #[error("reply {command:#04x} with a payload of {bytes} bytes that does not decode")]
    BadPayload {
        /// The command's code; 0 for an ack.
        command: u8,
        /// Bytes of payload.
        bytes: usize,
    },
}

impl ResponseFrame {
    /// Gives a frame from a server its meaning; `features` are those granted by Hello, `None` on a 1.0 connection.
    pub fn decode(frame: Frame, features: Option<Features>) -> Result<ResponseFrame, ResponseError> {
        let granted = features.unwrap_or_default();
        let header = frame.header;
        let payload = frame.payload;
        let mut correlation = 0;
        let response = match header.kind() {
            FrameKind::Keepalive => Response::Keepalive,
            FrameKind::Backpressure => Response::Backpressure,
            FrameKind::Ack => {
                let batch_id = header.batch_id;
                if granted.contains(Features::ACK_OFFSETS) && !payload.is_empty() {
                    let bad = ResponseError::BadPayload { command: 0, bytes: payload.len() };
                    Response::Ack { batch_id, offsets: Some(AckOffsets::decode(&payload).ok_or(bad)?) }
                } else {
                    Response::Ack { batch_id, offsets: None }
                }
            }
            FrameKind::Control => {
                correlation = if features.is_some() { header.timestamp } else { 0 };
                let command = Command(header.command());
                if !is_reply(command) {
                    return Err(ResponseError::UnknownCommand { command: command.0 });
                }
                decode_reply(command, &payload, granted)
                    .ok_or(ResponseError::BadPayload { command: command.0, bytes: payload.len() })?
            }
            FrameKind::Ingest | FrameKind::Unknown => {
                return Err(ResponseError::UnexpectedFrame { flags: header.flags.0 });
            }
        };
        Ok(ResponseFrame { correlation, response })
    }
}

fn is_reply(command: Command) -> bool {
    matches!(command.0, 0x09 | 0x11 | 0x12 | 0x23 | 0x24 | 0x80 | 0x81 | 0xC0..=0xCD | 0xD8..=0xDA | 0xFF)
}

/// `None`: the payload does not decode.
fn decode_reply(command: Command, payload: &Bytes, granted: Features) -> Option<Response> {
    let mut reader = PayloadReader::new(payload);
    Some(match command {
        Command::AUTHENTICATE_RESPONSE => {
            let ok = reader.u8()? != 0;
            Response::Authenticate { ok, text: String::from_utf8_lossy(&payload[1..]).into_owned() }
        }
        Command::FETCH_RESPONSE => {
            let (next_offset, length, record_count) = (reader.u64()?, reader.u32()?, reader.u32()?);
            if length as usize > reader.remaining() {
                return None;
            }
            let data = payload.slice(FETCH_RESPONSE_PREFIX_LEN..FETCH_RESPONSE_PREFIX_LEN + length as usize);
            Response::Fetch { next_offset, record_count, data }
        }
        Command::CATCHING_UP => Response::CatchingUp { end_offset: reader.u64()? },
        Command::SUBSCRIBE_ACK => Response::SubscribeAck { consumer_id: reader.u64()?, offset: reader.u64()? },
        Command::COMMIT_ACK => Response::CommitAck { consumer_id: reader.u64()?, offset: reader.u64()? },
        Command::TOPIC_RESPONSE => Response::Topic(payload.clone()),
        Command::CLUSTER_STATUS_RESPONSE => Response::ClusterStatus(payload.clone()),
        Command::HELLO_RESPONSE => Response::Hello(HelloResponse::decode(payload)?),
        Command::INIT_PRODUCER_RESPONSE => Response::InitProducer(ProducerEpoch::decode(payload)?),
        Command::FETCH_PARTITIONS_RESPONSE => Response::FetchPartitions(FetchPartitionsResponse::decode(payload)?),
        Command::LOOKUP_OFFSET_RESPONSE => Response::LookupOffset(LookupOffsetResponse::decode(payload)?),
        Command::METADATA_RESPONSE => Response::Metadata(MetadataResponse::decode(payload)?),
        Command::CREATE_TOPIC_WITH_CONFIG_RESPONSE => {
            Response::CreateTopicWithConfig(TopicConfigured::decode(payload)?)
        }
        Command::ALTER_TOPIC_RESPONSE => Response::AlterTopic(TopicConfigured::decode(payload)?),
        Command::DESCRIBE_CLUSTER_RESPONSE => Response::DescribeCluster(ClusterDescription::decode(payload)?),
        Command::CLUSTER_COMMAND_RESPONSE => Response::ClusterCommand(ClusterCommandDone::decode(payload)?),
        Command::GROUP_HEARTBEAT_RESPONSE => Response::GroupHeartbeat(GroupAssignment::decode(payload)?),
        Command::GROUP_COMMIT_RESPONSE => Response::GroupCommit(GroupCommitted::decode(payload)?),
        Command::GROUP_OFFSETS_RESPONSE => Response::GroupOffsets(GroupOffsetsFound::decode(payload)?),
        Command::DESCRIBE_GROUPS_RESPONSE => Response::DescribeGroups(payload.clone()),
        Command::DELETE_GROUP_RESPONSE => Response::DeleteGroup,
        Command::TOPIC_TEE_RESPONSE => Response::TopicTee(TeeReply::decode(payload)?),
        Command::SECURITY_RESPONSE => Response::Security(SecurityReply::decode(payload)?),
        Command::SCRAM_STEP_RESPONSE => Response::ScramStep(std::str::from_utf8(payload).ok()?.to_owned()),
        Command::ERROR_RESPONSE if granted.contains(Features::TYPED_ERRORS) => {
            Response::Error(TypedError::decode(payload)?)
        }
        Command::ERROR_RESPONSE => Response::ErrorText(String::from_utf8_lossy(payload).into_owned()),
        _ => return None,
    })
}
