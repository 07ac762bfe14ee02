//! Writing replies: the server's side.

use super::command::Command;
use super::features::Features;
use super::header::{Flags, HEADER_LEN, Header};
use super::request_encode::finish_frame;
use super::response::{Response, ResponseFrame};
use bytes::{BufMut, BytesMut};

impl ResponseFrame {
    /// Appends the frame to `out`; `features` are those granted by Hello, `None` on a 1.0 connection. Without
    /// TYPED_ERRORS an error shrinks to its 1.0 text. The reply to Hello itself is written with `None`.
    pub fn encode(&self, out: &mut BytesMut, features: Option<Features>) {
        let granted = features.unwrap_or_default();
        let start = out.len();
        out.put_bytes(0, HEADER_LEN);
        let mut header = Header::default();
        match &self.response {
            Response::Keepalive => header.flags = Flags::KEEPALIVE,
            Response::Backpressure => header.flags = Flags::BACKPRESSURE,
            Response::Ack { batch_id, offsets } => {
                header.flags = Flags::ACK;
                header.batch_id = *batch_id;
                if let Some(offsets) = offsets.filter(|_| granted.contains(Features::ACK_OFFSETS)) {
                    out.put_slice(&offsets.encode());
                }
            }
            control => {
                header.flags = Flags::CONTROL;
                header.batch_id = u64::from(encode_reply(control, out, granted).0);
                header.timestamp = self.correlation;
            }
        }
        finish_frame(out, start, header, granted);
    }
}

fn encode_reply(response: &Response, out: &mut BytesMut, granted: Features) -> Command {
    match response {
        Response::Topic(json) => {
            out.put_slice(json);
            Command::TOPIC_RESPONSE
        }
        Response::ClusterStatus(json) => {
            out.put_slice(json);
            Command::CLUSTER_STATUS_RESPONSE
        }
        Response::Authenticate { ok, text } => {
            out.put_u8(u8::from(*ok));
            out.put_slice(text.as_bytes());
            Command::AUTHENTICATE_RESPONSE
        }
        Response::Fetch { next_offset, record_count, data } => {
            out.put_u64_le(*next_offset);
            out.put_u32_le(data.len() as u32);
            out.put_u32_le(*record_count);
            out.put_slice(data);
            Command::FETCH_RESPONSE
        }
        Response::CatchingUp { end_offset } => {
            out.put_u64_le(*end_offset);
            Command::CATCHING_UP
        }
        Response::SubscribeAck { consumer_id, offset } => {
            out.put_u64_le(*consumer_id);
            out.put_u64_le(*offset);
            Command::SUBSCRIBE_ACK
        }
        Response::CommitAck { consumer_id, offset } => {
            out.put_u64_le(*consumer_id);
            out.put_u64_le(*offset);
            Command::COMMIT_ACK
        }
        other => encode_extension(other, out, granted),
    }
}

fn encode_extension(response: &Response, out: &mut BytesMut, granted: Features) -> Command {
    match response {
        Response::Hello(hello) => {
            hello.encode(out);
            Command::HELLO_RESPONSE
        }
        Response::InitProducer(producer) => {
            producer.encode(out);
            Command::INIT_PRODUCER_RESPONSE
        }
        Response::FetchPartitions(fetched) => {
            fetched.encode(out);
            Command::FETCH_PARTITIONS_RESPONSE
        }
        Response::LookupOffset(found) => {
            found.encode(out);
            Command::LOOKUP_OFFSET_RESPONSE
        }
        Response::Metadata(metadata) => {
            metadata.encode(out);
            Command::METADATA_RESPONSE
        }
        Response::CreateTopicWithConfig(topic) => {
            topic.encode(out);
            Command::CREATE_TOPIC_WITH_CONFIG_RESPONSE
        }
        Response::AlterTopic(topic) => {
            topic.encode(out);
            Command::ALTER_TOPIC_RESPONSE
        }
        Response::DescribeCluster(cluster) => {
            cluster.encode(out);
            Command::DESCRIBE_CLUSTER_RESPONSE
        }
        Response::ClusterCommand(done) => {
            done.encode(out);
            Command::CLUSTER_COMMAND_RESPONSE
        }
        Response::GroupHeartbeat(assignment) => {
            assignment.encode(out);
            Command::GROUP_HEARTBEAT_RESPONSE
        }
        Response::GroupCommit(committed) => {
            committed.encode(out);
            Command::GROUP_COMMIT_RESPONSE
        }
        Response::GroupOffsets(found) => {
            found.encode(out);
            Command::GROUP_OFFSETS_RESPONSE
        }
        Response::DescribeGroups(json) => {
            out.put_slice(json);
            Command::DESCRIBE_GROUPS_RESPONSE
        }
        Response::DeleteGroup => Command::DELETE_GROUP_RESPONSE,
        Response::TopicTee(reply) => {
            reply.encode(out);
            Command::TOPIC_TEE_RESPONSE
        }
        Response::Security(reply) => {
            reply.encode(out);
            Command::SECURITY_RESPONSE
        }
        Response::ScramStep(message) => {
            out.put_slice(message.as_bytes());
            Command::SCRAM_STEP_RESPONSE
        }
        Response::Error(error) if granted.contains(Features::TYPED_ERRORS) => {
            error.encode(out);
            Command::ERROR_RESPONSE
        }
        Response::Error(error) => {
            out.put_slice(error.text_1_0().as_bytes());
            Command::ERROR_RESPONSE
        }
        Response::ErrorText(text) => {
            out.put_slice(text.as_bytes());
            Command::ERROR_RESPONSE
        }
        _ => Command::ERROR_RESPONSE,
    }
}
