//! Writing requests: the client's side.

use super::command::Command;
use super::compression::{Compression, compression_prefix};
use super::features::Features;
use super::header::{Flags, HEADER_LEN, Header};
use super::payload::put_text;
use super::request::{Request, RequestFrame};
use bytes::{BufMut, BytesMut};

impl RequestFrame {
    /// Appends the frame to `out`; `features` are those granted by Hello, `None` on a 1.0 connection. A partition or
    /// trace context the connection cannot carry is left out.
    pub fn encode(&self, out: &mut BytesMut, features: Option<Features>) {
        let granted = features.unwrap_or_default();
        let start = out.len();
        out.put_bytes(0, HEADER_LEN);
        let trace = self.trace.filter(|_| granted.contains(Features::TRACE_CONTEXT));
        if let Some(trace) = trace {
            out.put_slice(&trace.encode());
        }
        let mut header = Header { timestamp: self.correlation, ..Header::default() };
        match encode_payload(&self.request, out, &mut header) {
            Some(command) => {
                header.flags = Flags::CONTROL;
                header.batch_id = u64::from(command.0);
            }
            None if header.flags == Flags::KEEPALIVE => header.timestamp = 0,
            None => {}
        }
        if trace.is_some() {
            header.flags = header.flags.with(Flags::TRACED);
        }
        if granted.contains(Features::PARTITIONS) {
            header.partition = self.partition;
        }
        finish_frame(out, start, header, granted);
    }
}

/// Fills in the header of a frame whose payload runs from `start` + 44 to the end of `out`.
pub(super) fn finish_frame(out: &mut BytesMut, start: usize, mut header: Header, features: Features) {
    let payload = &out[start + HEADER_LEN..];
    header.payload_len = payload.len() as u32;
    header.payload_crc = if payload.is_empty() { 0 } else { crc32fast::hash(payload) };
    out[start..start + HEADER_LEN].copy_from_slice(&header.encode(features.header_crc()));
}

/// Writes the payload; gives the command of a control frame, or fills in the header of another.
fn encode_payload(request: &Request, out: &mut BytesMut, header: &mut Header) -> Option<Command> {
    match request {
        Request::Ignored => {}
        Request::Keepalive => header.flags = Flags::KEEPALIVE,
        Request::Produce(produce) => {
            header.flags = Flags::BATCH_MODE;
            header.batch_id = produce.batch_id;
            header.timestamp = produce.timestamp;
            header.record_count = produce.record_count;
            header.topic_id = produce.topic.0;
            if produce.compression != Compression::None {
                header.flags = header.flags.with(Flags::COMPRESSED);
            }
            if let Compression::Named { codec, plain_len } = produce.compression {
                out.put_slice(&compression_prefix(codec, plain_len));
            }
            out.put_slice(&produce.records);
        }
        control => return Some(encode_control(control, out)),
    }
    None
}

fn encode_control(request: &Request, out: &mut BytesMut) -> Command {
    match request {
        // Not control frames; the caller has taken them out.
        Request::Ignored | Request::Keepalive | Request::Produce(_) | Request::ListTopics => Command::LIST_TOPICS,
        Request::GetClusterStatus => Command::GET_CLUSTER_STATUS,
        Request::CreateTopic { name } => {
            out.put_slice(name.as_bytes());
            Command::CREATE_TOPIC
        }
        Request::DeleteTopic { topic } => {
            out.put_u32_le(topic.0);
            Command::DELETE_TOPIC
        }
        Request::GetTopic { topic } => {
            out.put_u32_le(topic.0);
            Command::GET_TOPIC
        }
        Request::SetRetention { topic, max_age_secs, max_bytes } => {
            out.put_u32_le(topic.0);
            out.put_u64_le(*max_age_secs);
            out.put_u64_le(*max_bytes);
            Command::SET_RETENTION
        }
        Request::CreateTopicWithRetention { name, max_age_secs, max_bytes } => {
            put_text(out, name);
            out.put_u64_le(*max_age_secs);
            out.put_u64_le(*max_bytes);
            Command::CREATE_TOPIC_WITH_RETENTION
        }
        Request::Authenticate { token } => {
            out.put_slice(token);
            Command::AUTHENTICATE
        }
        other => encode_consumer_or_extension(other, out),
    }
}

fn encode_consumer_or_extension(request: &Request, out: &mut BytesMut) -> Command {
    match request {
        Request::Fetch(fetch) => {
            fetch.encode(out);
            Command::FETCH
        }
        Request::Subscribe(subscribe) => {
            out.put_u32_le(subscribe.topic.0);
            out.put_u64_le(subscribe.start_offset);
            out.put_u32_le(subscribe.max_batch_bytes);
            out.put_u64_le(subscribe.consumer_id);
            Command::SUBSCRIBE
        }
        Request::Unsubscribe { topic, consumer_id } => {
            out.put_u32_le(topic.0);
            out.put_u64_le(*consumer_id);
            Command::UNSUBSCRIBE
        }
        Request::CommitOffset(commit) => {
            out.put_u32_le(commit.topic.0);
            out.put_u64_le(commit.consumer_id);
            out.put_u64_le(commit.offset);
            Command::COMMIT_OFFSET
        }
        Request::Hello(hello) => {
            hello.encode(out);
            Command::HELLO
        }
        Request::InitProducer(init) => {
            init.encode(out);
            Command::INIT_PRODUCER
        }
        Request::FetchPartitions(fetch) => {
            fetch.encode(out);
            Command::FETCH_PARTITIONS
        }
        Request::LookupOffset(lookup) => {
            lookup.encode(out);
            Command::LOOKUP_OFFSET
        }
        Request::CreateTopicWithConfig(create) => {
            create.encode(out);
            Command::CREATE_TOPIC_WITH_CONFIG
        }
        Request::AlterTopic(alter) => {
            alter.encode(out);
            Command::ALTER_TOPIC
        }
        Request::DescribeCluster => Command::DESCRIBE_CLUSTER,
        Request::ClusterCommand(command) => {
            command.encode(out);
            Command::CLUSTER_COMMAND
        }
        Request::TopicTee(tee) => {
            tee.encode(out);
            Command::TOPIC_TEE
        }
        Request::Security(security) => {
            security.encode(out);
            Command::SECURITY
        }
        Request::ScramStep(message) => {
            out.put_slice(message.as_bytes());
            Command::SCRAM_STEP
        }
        Request::Metadata(metadata) => {
            metadata.encode(out);
            Command::METADATA
        }
        other => encode_group(other, out),
    }
}

fn encode_group(request: &Request, out: &mut BytesMut) -> Command {
    match request {
        Request::GroupHeartbeat(heartbeat) => {
            heartbeat.encode(out);
            Command::GROUP_HEARTBEAT
        }
        Request::GroupCommit(commit) => {
            commit.encode(out);
            Command::GROUP_COMMIT
        }
        Request::GroupOffsets(wanted) => {
            wanted.encode(out);
            Command::GROUP_OFFSETS
        }
        Request::DescribeGroups(describe) => {
            describe.encode(out);
            Command::DESCRIBE_GROUPS
        }
        Request::DeleteGroup { group } => {
            put_text(out, group);
            Command::DELETE_GROUP
        }
        _ => Command::LIST_TOPICS,
    }
}
