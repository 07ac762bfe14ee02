//! Every command and reply: golden payloads, round trips, hostile payloads.

use super::cluster::*;
use super::codec::{Frame, FrameLimits, next_frame};
use super::compression::{Codec, Compression};
use super::features::Features;
use super::fetch::*;
use super::group::*;
use super::header::{Flags, HEADER_LEN, Header, HeaderCrc};
use super::hello::*;
use super::lookup::*;
use super::produce::*;
use super::request::*;
use super::response::*;
use super::topics::*;
use super::trace::TraceContext;
use super::typed_error::{Answers, TypedError};
use crate::batch::BatchPlace;
use crate::error_code::ErrorCode;
use crate::id::{NodeId, ProducerId, TopicId, TopicPartition};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

const EVERY_FEATURE: Features = Features(u64::MAX);

fn control(command: u8, payload: &[u8]) -> Frame {
    let payload_crc = crc32fast::hash(payload);
    let header = Header {
        flags: Flags::CONTROL,
        batch_id: u64::from(command),
        timestamp: 77,
        payload_len: payload.len() as u32,
        payload_crc,
        ..Header::default()
    };
    Frame { header, payload: Bytes::copy_from_slice(payload), payload_crc }
}

fn parse(mut bytes: BytesMut, features: Option<Features>) -> Frame {
    let header_crc = features.unwrap_or_default().header_crc();
    let frame = next_frame(&mut bytes, &FrameLimits { header_crc, ..FrameLimits::default() }).unwrap().unwrap();
    assert!(bytes.is_empty());
    frame
}

fn sent(request: &RequestFrame, features: Option<Features>) -> RequestFrame {
    let mut out = BytesMut::new();
    request.encode(&mut out, features);
    RequestFrame::decode(parse(out, features), features).unwrap()
}

fn answered(response: &ResponseFrame, features: Option<Features>) -> ResponseFrame {
    let mut out = BytesMut::new();
    response.encode(&mut out, features);
    ResponseFrame::decode(parse(out, features), features).unwrap()
}

fn plain_request(request: Request) -> RequestFrame {
    RequestFrame { correlation: 0, partition: 0, trace: None, request }
}

fn refusal(command: u8, payload: &[u8], features: Option<Features>) -> String {
    RequestFrame::decode(control(command, payload), features).unwrap_err().error.text_1_0().into_owned()
}

#[test]
fn requests_of_1_0_have_their_golden_payloads() {
    let topic = TopicId(0x0403_0201);
    let cases: Vec<(Request, u8, Vec<u8>)> = vec![
        (Request::CreateTopic { name: "ab".into() }, 0x01, b"ab".to_vec()),
        (Request::DeleteTopic { topic }, 0x02, vec![1, 2, 3, 4]),
        (Request::ListTopics, 0x03, vec![]),
        (Request::GetTopic { topic }, 0x04, vec![1, 2, 3, 4]),
        (
            Request::SetRetention { topic, max_age_secs: 5, max_bytes: 6 },
            0x05,
            vec![1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            Request::CreateTopicWithRetention { name: "ab".into(), max_age_secs: 5, max_bytes: 6 },
            0x06,
            vec![2, 0, b'a', b'b', 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0],
        ),
        (Request::GetClusterStatus, 0x07, vec![]),
        (Request::Authenticate { token: Bytes::from_static(b"t") }, 0x08, b"t".to_vec()),
        (
            Request::Fetch(Fetch { topic, offset: 5, max_bytes: 6 }),
            0x10,
            vec![1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0],
        ),
        (
            Request::Subscribe(Subscribe { topic, start_offset: 5, max_batch_bytes: 6, consumer_id: 7 }),
            0x20,
            vec![1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0],
        ),
        (Request::Unsubscribe { topic, consumer_id: 7 }, 0x21, vec![1, 2, 3, 4, 7, 0, 0, 0, 0, 0, 0, 0]),
        (
            Request::CommitOffset(CommitOffset { topic, consumer_id: 7, offset: 5 }),
            0x22,
            vec![1, 2, 3, 4, 7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
        ),
    ];
    for (request, command, golden) in cases {
        let mut out = BytesMut::new();
        plain_request(request.clone()).encode(&mut out, None);
        assert_eq!(u64::from(command), parse(out.clone(), None).header.batch_id, "{request:?}");
        assert_eq!(&out[HEADER_LEN..], &golden[..], "{request:?}");
        let mut with_trailing_bytes = golden.clone();
        if !matches!(command, 0x01 | 0x08) {
            with_trailing_bytes.extend_from_slice(b"more");
        }
        let decoded = RequestFrame::decode(control(command, &with_trailing_bytes), None).unwrap();
        assert_eq!(decoded, plain_request(request));
    }
}

#[test]
fn replies_of_1_0_have_their_golden_payloads() {
    let cases: Vec<(Response, u8, Vec<u8>)> = vec![
        (Response::Authenticate { ok: true, text: "Authenticated".into() }, 0x09, b"\x01Authenticated".to_vec()),
        (
            Response::Fetch { next_offset: 9, record_count: 1, data: Bytes::from_static(b"xy") },
            0x11,
            vec![9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, b'x', b'y'],
        ),
        (Response::CatchingUp { end_offset: 9 }, 0x12, vec![9, 0, 0, 0, 0, 0, 0, 0]),
        (
            Response::SubscribeAck { consumer_id: 1, offset: 2 },
            0x23,
            vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        ),
        (Response::CommitAck { consumer_id: 1, offset: 2 }, 0x24, vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]),
        (Response::Topic(Bytes::from_static(b"{}")), 0x80, b"{}".to_vec()),
        (Response::ClusterStatus(Bytes::from_static(b"{}")), 0x81, b"{}".to_vec()),
        (Response::ErrorText("Unknown topic".into()), 0xFF, b"Unknown topic".to_vec()),
    ];
    for (response, command, golden) in cases {
        let mut out = BytesMut::new();
        let frame = ResponseFrame { correlation: 0, response };
        frame.encode(&mut out, None);
        assert_eq!(u64::from(command), parse(out.clone(), None).header.batch_id);
        assert_eq!(&out[HEADER_LEN..], &golden[..]);
        assert_eq!(out[20..32], [0; 12], "timestamp and record count are 0");
        assert_eq!(answered(&frame, None), frame);
    }
}

#[test]
fn extension_payloads_are_golden() {
    let partition = TopicPartition::new(TopicId(7), 2);
    let asked = FetchPartition { partition, offset: 5, max_bytes: 6, near: true };
    let fetch = FetchPartitions {
        max_wait_ms: 1,
        min_bytes: 2,
        max_bytes: 3,
        partitions: FetchList::new(&[asked]),
        rack: "r".into(),
    };
    let hello = Hello { minor_version: 1, features: Features(0x0201), client_name: "c".into() };
    let create = CreateTopicWithConfig {
        name: "t".into(),
        partitions: Some(3),
        replication_factor: None,
        mode: Some(TopicMode::L2),
        max_age_secs: Some(0),
        max_bytes: None,
    };
    let alter = AlterTopic { topic: TopicId(7), partitions: Some(4), max_age_secs: None, max_bytes: Some(1) };
    let cases: Vec<(Request, u8, Vec<u8>)> = vec![
        (Request::Hello(hello), 0x40, vec![1, 0, 1, 0, 1, 2, 0, 0, 0, 0, 0, 0, b'c']),
        (Request::InitProducer(InitProducer { existing: None }), 0x41, vec![0; 10]),
        (
            Request::FetchPartitions(fetch),
            0x42,
            [
                &[1u8, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0][..],
                &[7, 0, 0, 0, 2, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 1, 0, b'r'],
            ]
            .concat(),
        ),
        (
            Request::LookupOffset(LookupOffset { partition, target: LookupTarget::Timestamp(9) }),
            0x43,
            vec![7, 0, 0, 0, 2, 0, 2, 0, 9, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            Request::Metadata(MetadataRequest { topics: vec!["t".into()], create_missing: true }),
            0x44,
            vec![1, 0, 1, 0, b't', 1],
        ),
        (Request::CreateTopicWithConfig(create), 0x45, [&[1u8, 0, b't', 3, 0, 0, 2][..], &[0; 8], &[0xFF; 8]].concat()),
        (
            Request::AlterTopic(alter),
            0x46,
            [&[7u8, 0, 0, 0, 5, 0, 4, 0][..], &[0; 8], &[1, 0, 0, 0, 0, 0, 0, 0]].concat(),
        ),
        (Request::DescribeCluster, 0x47, vec![]),
    ];
    for (request, command, golden) in cases {
        let mut out = BytesMut::new();
        plain_request(request.clone()).encode(&mut out, Some(EVERY_FEATURE));
        assert_eq!(&out[HEADER_LEN..], &golden[..], "{request:?}");
        let decoded = RequestFrame::decode(control(command, &golden), Some(EVERY_FEATURE)).unwrap();
        assert_eq!((decoded.request, decoded.correlation), (request, 77));
    }
}

#[test]
fn cluster_commands_are_golden() {
    let node = NodeId(3);
    let order = RecoverPartition {
        partition: TopicPartition::new(TopicId(7), 2),
        node,
        accept_data_loss: true,
        lost_from: 5,
        lost_to: 6,
        requested_by: "me".into(),
    };
    let cases: Vec<(ClusterCommand, Vec<u8>)> = vec![
        (ClusterCommand::Drain { node, on: true }, vec![1, 3, 0, 1]),
        (ClusterCommand::Evict { node }, vec![2, 3, 0]),
        (ClusterCommand::Admit { node }, vec![3, 3, 0]),
        (ClusterCommand::AddNode { node, address: "a:1".into() }, vec![4, 3, 0, 3, 0, b'a', b':', b'1']),
        (ClusterCommand::RemoveNode { node }, vec![5, 3, 0]),
        (
            ClusterCommand::Recover(order),
            [&[6u8, 7, 0, 0, 0, 2, 0, 3, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0][..], &[6, 0, 0, 0, 0, 0, 0, 0, 2, 0], b"me"]
                .concat(),
        ),
        (ClusterCommand::SetTopicMode { topic: TopicId(7), mode: TopicMode::L2 }, vec![7, 7, 0, 0, 0, 2]),
        (ClusterCommand::SetReplicationFactor { topic: TopicId(7), replication_factor: 3 }, vec![8, 7, 0, 0, 0, 3]),
        (ClusterCommand::Maintenance { node, on: true }, vec![9, 3, 0, 1]),
        (
            ClusterCommand::RestoreTopic(RestoreTopic {
                topic: TopicId(7),
                name: "t".into(),
                replication_factor: 3,
                mode: TopicMode::L2,
                created_at: 4,
                max_age_secs: 5,
                max_bytes: 6,
                beginnings: vec![BatchPlace { offset: 8, record: 9 }],
            }),
            [
                &[10u8, 7, 0, 0, 0, 1, 0, b't', 3, 2, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0][..],
                &[6, 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat(),
        ),
        (
            ClusterCommand::RestoreIds { next_topic: TopicId(7), next_producer: 8 },
            vec![11, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
        ),
    ];
    for (command, golden) in cases {
        let mut out = BytesMut::new();
        let request = Request::ClusterCommand(command);
        plain_request(request.clone()).encode(&mut out, Some(EVERY_FEATURE));
        assert_eq!(&out[HEADER_LEN..], &golden[..], "{request:?}");
        let decoded = RequestFrame::decode(control(0x48, &golden), Some(EVERY_FEATURE)).unwrap();
        assert_eq!(decoded.request, request);
        let cut = control(0x48, &golden[..golden.len() - 1]);
        assert!(RequestFrame::decode(cut, Some(EVERY_FEATURE)).is_err(), "{request:?}");
    }
    assert_eq!(refusal(0x48, &[12, 1, 0], Some(EVERY_FEATURE)), "Invalid cluster command payload");
}

#[test]
fn the_description_of_a_cluster_is_golden() {
    let partition = ClusterPartition {
        leader: Some(NodeId(2)),
        epoch: 4,
        replicas: vec![NodeId(2), NodeId(1)],
        in_quorum: vec![NodeId(2)],
        copy: Some(CopyPositions { high_watermark: 8, log_end: 9 }),
    };
    let nodes = vec![
        ClusterNode {
            id: NodeId(1),
            address: "a:1".into(),
            rack: "r".into(),
            alive: true,
            draining: false,
            maintenance: false,
        },
        ClusterNode {
            id: NodeId(2),
            address: "b".into(),
            rack: String::new(),
            alive: true,
            draining: true,
            maintenance: false,
        },
    ];
    let elsewhere = ClusterPartition { leader: None, copy: None, ..partition.clone() };
    let topic = ClusterTopic { id: TopicId(7), name: "t".into(), partitions: vec![partition, elsewhere] };
    let metadata_leader = Some(NodeId(1));
    let cluster = ClusterDescription { node: NodeId(2), metadata_leader, term: 5, nodes, topics: vec![topic] };
    let golden = [
        &[2u8, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0][..],
        &[2, 0, 1, 0, 1, 3, 0, b'a', b':', b'1', 1, 0, b'r', 2, 0, 3, 1, 0, b'b', 0, 0],
        &[1, 0, 0, 0, 7, 0, 0, 0, 1, 0, b't', 2, 0],
        &[2, 0, 4, 0, 0, 0, 2, 2, 0, 1, 0, 1, 2, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 4, 0, 0, 0, 2, 2, 0, 1, 0, 1, 2, 0, 0],
    ]
    .concat();
    let replies = [
        (Response::DescribeCluster(cluster), 0xC7, golden),
        (Response::ClusterCommand(ClusterCommandDone { partition_count: 2 }), 0xC8, vec![2, 0, 0, 0]),
    ];
    for (response, command, golden) in replies {
        let mut out = BytesMut::new();
        let frame = ResponseFrame { correlation: 41, response };
        frame.encode(&mut out, Some(EVERY_FEATURE));
        assert_eq!(parse(out.clone(), Some(EVERY_FEATURE)).header.batch_id, command);
        assert_eq!(&out[HEADER_LEN..], &golden[..]);
        assert_eq!(answered(&frame, Some(EVERY_FEATURE)), frame);
    }
}

#[test]
fn group_requests_are_golden() {
    let read = TopicPartition::new(TopicId(7), 2);
    let heartbeat = GroupHeartbeat {
        group: "g".into(),
        member: "m".into(),
        epoch: PAUSE_EPOCH,
        instance: Some("i".into()),
        rack: "r".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        strategy: AssignmentStrategy::Range,
        topics: vec!["t".into()],
        owned: vec![read],
    };
    let beat = [
        &[1, 0, b'g', 1, 0, b'm', 0xFE, 0xFF, 0xFF, 0xFF, 1, 0, b'i', 1, 0, b'r'][..],
        &[0x10, 0x27, 0, 0, 0x60, 0xEA, 0, 0, 1, 0, 1, 0, 1, 0, b't', 1, 0, 0, 0, 7, 0, 0, 0, 2, 0],
    ]
    .concat();
    let committed = GroupOffset { partition: read, offset: 5, metadata: "x".into() };
    let commit = GroupCommit { group: "g".into(), member: "m".into(), epoch: 3, offsets: vec![committed], number: 9 };
    let commit_bytes = [
        &[1, 0, b'g', 1, 0, b'm', 3, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 2, 0][..],
        &[5, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'x', 9, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let wanted = GroupOffsetsWanted { group: "g".into(), partitions: vec![read] };
    let describe = DescribeGroups { groups: vec!["g".into()] };
    let cases = [
        (Request::GroupHeartbeat(heartbeat), 0x49, beat),
        (Request::GroupCommit(commit), 0x4A, commit_bytes),
        (Request::GroupOffsets(wanted), 0x4B, vec![1, 0, b'g', 1, 0, 0, 0, 7, 0, 0, 0, 2, 0]),
        (Request::DescribeGroups(describe), 0x4C, vec![1, 0, 1, 0, b'g']),
        (Request::DeleteGroup { group: "g".into() }, 0x4D, vec![1, 0, b'g']),
    ];
    for (request, command, golden) in cases {
        let mut out = BytesMut::new();
        plain_request(request.clone()).encode(&mut out, Some(EVERY_FEATURE));
        assert_eq!(&out[HEADER_LEN..], &golden[..], "{request:?}");
        assert_eq!(parse(out, Some(EVERY_FEATURE)).header.batch_id, u64::from(command));
        let decoded = RequestFrame::decode(control(command, &golden), Some(EVERY_FEATURE)).unwrap();
        assert_eq!(decoded.request, request);
        // The number of a commit may be missing, but not a part of it.
        let whole = golden.len() - if matches!(request, Request::GroupCommit(_)) { 8 } else { 0 };
        if let Request::GroupCommit(commit) = &request {
            let decoded = RequestFrame::decode(control(command, &golden[..whole]), Some(EVERY_FEATURE)).unwrap();
            assert_eq!(decoded.request, Request::GroupCommit(GroupCommit { number: 0, ..commit.clone() }));
        }
        for cut in (0..golden.len()).filter(|cut| *cut != whole) {
            assert_eq!(refusal(command, &golden[..cut], Some(EVERY_FEATURE)), "Invalid group payload", "{request:?}");
        }
        assert_eq!(refusal(command, &golden, Some(Features::NONE)), "Invalid client command");
    }
}

#[test]
fn group_replies_are_golden() {
    let read = TopicPartition::new(TopicId(7), 2);
    let topic = AssignedTopic { id: TopicId(7), name: "t".into(), partitions: vec![2, 3] };
    let assignment = GroupAssignment { epoch: 4, heartbeat_interval_ms: 300, topics: vec![topic] };
    let assigned = [&[4, 0, 0, 0, 0x2C, 1, 0, 0, 1, 0, 7, 0, 0, 0, 1, 0, b't'][..], &[2, 0, 2, 0, 3, 0]].concat();
    let refused = (TopicPartition::new(TopicId(7), 3), Some(ErrorCode::PartitionNotOwned));
    let results = GroupCommitted { results: vec![(read, None), refused] };
    let done = vec![2, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 3, 0, 37, 0];
    let found = FoundOffset { partition: read, offset: 5, committed_at_ms: 6, metadata: "x".into() };
    let offsets =
        [&[1, 0, 0, 0, 7, 0, 0, 0, 2, 0, 5, 0, 0, 0, 0, 0, 0, 0][..], &[6, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'x']].concat();
    let cases = [
        (Response::GroupHeartbeat(assignment), 0xC9, assigned),
        (Response::GroupCommit(results), 0xCA, done),
        (Response::GroupOffsets(GroupOffsetsFound { offsets: vec![found] }), 0xCB, offsets),
        (Response::DescribeGroups(Bytes::from_static(b"{}")), 0xCC, b"{}".to_vec()),
        (Response::DeleteGroup, 0xCD, Vec::new()),
    ];
    for (response, command, golden) in cases {
        let mut out = BytesMut::new();
        let frame = ResponseFrame { correlation: 41, response };
        frame.encode(&mut out, Some(EVERY_FEATURE));
        assert_eq!(parse(out.clone(), Some(EVERY_FEATURE)).header.batch_id, command);
        assert_eq!(&out[HEADER_LEN..], &golden[..]);
        assert_eq!(answered(&frame, Some(EVERY_FEATURE)), frame);
    }
}

#[test]
fn extension_replies_round_trip() {
    let metadata = MetadataResponse {
        controller: Some(NodeId(1)),
        nodes: vec![NodeMetadata { id: NodeId(1), address: "127.0.0.1:1992".into() }],
        topics: vec![TopicMetadata {
            id: TopicId(7),
            name: "t".into(),
            error: None,
            mode: TopicMode::L1,
            replication_factor: 1,
            created_at: 5,
            max_age_secs: 6,
            max_bytes: 7,
            partitions: vec![PartitionMetadata { leader: None, leader_epoch: 3, error: Some(ErrorCode::Unavailable) }],
        }],
    };
    let hello = HelloResponse {
        minor_version: 1,
        node_id: NodeId(3),
        features: Features(7),
        max_payload_bytes: 16,
        max_in_flight_bytes: 99,
    };
    let topic = TopicConfigured { topic: TopicId(7), partitions: 3, replication_factor: 1, mode: TopicMode::L2 };
    let replies = [
        Response::Metadata(metadata),
        Response::Hello(hello),
        Response::CreateTopicWithConfig(topic),
        Response::AlterTopic(topic),
        Response::InitProducer(ProducerEpoch { id: ProducerId(9), epoch: 2 }),
        Response::LookupOffset(LookupOffsetResponse { offset: 1, record_number: 2, timestamp: 3 }),
        Response::Error(TypedError::new(ErrorCode::NoSpace, Answers::Ingest(4))),
        Response::Keepalive,
        Response::Backpressure,
    ];
    for response in replies {
        let control = !matches!(response, Response::Keepalive | Response::Backpressure);
        let frame = ResponseFrame { correlation: if control { 41 } else { 0 }, response };
        assert_eq!(answered(&frame, Some(EVERY_FEATURE)), frame);
    }
}

#[test]
fn refusals_use_the_sentences_of_1_0() {
    assert_eq!(refusal(0x01, b"", None), "Topic name required");
    assert_eq!(refusal(0x05, b"12", None), "Invalid set retention payload");
    assert_eq!(refusal(0x06, b"\x09\x00ab", None), "Invalid create topic payload");
    assert_eq!(refusal(0x20, b"", None), "Invalid subscribe payload");
    assert_eq!(refusal(0x21, b"", None), "Invalid unsubscribe payload");
    assert_eq!(refusal(0x22, b"", None), "Invalid commit offset payload");
    assert_eq!(refusal(0x09, b"", None), "Authentication handled at connection level");
    for server_only in [0x11, 0x12, 0x23, 0x24, 0x80, 0x81, 0xFF, 0x00, 0x30, 0xC0] {
        assert_eq!(refusal(server_only, b"", None), "Invalid client command");
    }
}

#[test]
fn extensions_before_hello_or_not_granted_are_unknown_commands() {
    for command in 0x41..=0x7F {
        assert_eq!(refusal(command, &[0; 64], None), "Invalid client command");
        assert_eq!(refusal(command, &[0; 64], Some(Features::NONE)), "Invalid client command");
    }
    assert!(RequestFrame::decode(control(0x42, &[0; 16]), Some(Features::LONG_POLL)).is_ok());
}

#[test]
fn frames_clients_should_not_send_are_ignored() {
    for flags in [0x08, 0x10, 0x00, 0x83] {
        let header = Header { flags: Flags(flags), ..Header::default() };
        let frame = Frame { header, payload: Bytes::new(), payload_crc: 0 };
        assert_eq!(RequestFrame::decode(frame, None).unwrap().request, Request::Ignored);
    }
}

#[test]
fn a_1_0_connection_has_neither_partition_nor_correlation_nor_trace() {
    let payload = Bytes::from_static(b"opaque");
    let payload_crc = crc32fast::hash(&payload);
    let header = Header { flags: Flags(0x84), partition: 9, payload_len: 6, payload_crc, ..Header::default() };
    let decoded = RequestFrame::decode(Frame { header, payload: payload.clone(), payload_crc }, None).unwrap();
    assert_eq!((decoded.partition, decoded.correlation, decoded.trace), (0, 0, None));
    let Request::Produce(produce) = decoded.request else { panic!("not a produce request") };
    assert_eq!((produce.records, produce.records_crc), (payload, payload_crc));
}

#[test]
fn a_refused_ingest_frame_is_named_in_its_error() {
    let header = Header { flags: Flags(0x05), batch_id: 12, ..Header::default() };
    let frame = Frame { header, payload: Bytes::from_static(b"\x09......."), payload_crc: 0 };
    let refused = RequestFrame::decode(frame, Some(Features::COMPRESSED_INGEST)).unwrap_err();
    assert_eq!(refused.error.answers, Answers::Ingest(12));
    assert_eq!(refused.error.code, ErrorCode::UndecodableRecords);
}

fn any_trace() -> impl Strategy<Value = Option<TraceContext>> {
    prop::option::of(
        (any::<[u8; 16]>(), any::<[u8; 8]>(), any::<u8>()).prop_map(|(trace_id, span_id, flags)| TraceContext {
            trace_id,
            span_id,
            flags,
        }),
    )
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop_oneof![
        Just(Compression::None),
        any::<u32>().prop_map(|plain_len| Compression::Named { codec: Codec::Lz4, plain_len }),
        any::<u32>().prop_map(|plain_len| Compression::Named { codec: Codec::Zstd, plain_len }),
    ]
}

proptest! {
    #[test]
    fn produce_round_trips_with_every_prefix(
        records in prop::collection::vec(any::<u8>(), 1..300),
        (topic, partition, batch_id, timestamp, record_count) in any::<(u32, u16, u64, u64, u32)>(),
        trace in any_trace(),
        compression in any_compression(),
    ) {
        let produce = Produce {
            topic: TopicId(topic),
            batch_id,
            timestamp,
            record_count,
            compression,
            records_crc: crc32fast::hash(&records),
            records: Bytes::from(records),
        };
        let request = RequestFrame { correlation: 0, partition, trace, request: Request::Produce(produce) };
        prop_assert_eq!(sent(&request, Some(EVERY_FEATURE)), request);
    }

    #[test]
    fn fetch_lists_round_trip(asked in prop::collection::vec(any::<(u32, u16, u64, u32, bool)>(), 0..20), waits in any::<(u32, u32, u32)>(), rack in ".{0,20}") {
        let asked: Vec<_> = asked
            .into_iter()
            .map(|(topic, partition, offset, max_bytes, near)| {
                FetchPartition { partition: TopicPartition::new(TopicId(topic), partition), offset, max_bytes, near }
            })
            .collect();
        let partitions = FetchList::new(&asked);
        prop_assert_eq!(partitions.iter().collect::<Vec<_>>(), asked);
        let fetch = FetchPartitions { max_wait_ms: waits.0, min_bytes: waits.1, max_bytes: waits.2, partitions, rack };
        let request = RequestFrame { correlation: 3, partition: 0, trace: None, request: Request::FetchPartitions(fetch) };
        prop_assert_eq!(sent(&request, Some(EVERY_FEATURE)), request);
    }

    #[test]
    fn hostile_payloads_never_panic(
        command in any::<u8>(),
        flags in any::<u8>(),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        features in any::<u64>(),
    ) {
        for mut frame in [control(command, &payload), control(command, &payload)] {
            for features in [None, Some(Features(features)), Some(EVERY_FEATURE)] {
                _ = RequestFrame::decode(frame.clone(), features);
                _ = ResponseFrame::decode(frame.clone(), features);
            }
            frame.header.flags = Flags(flags);
            _ = RequestFrame::decode(frame.clone(), Some(EVERY_FEATURE));
        }
    }

    #[test]
    fn what_decodes_encodes_to_the_same_meaning(command in any::<u8>(), payload in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(request) = RequestFrame::decode(control(command, &payload), Some(EVERY_FEATURE)) {
            prop_assert_eq!(sent(&request, Some(EVERY_FEATURE)), request);
        }
        if let Ok(response) = ResponseFrame::decode(control(command, &payload), Some(EVERY_FEATURE)) {
            prop_assert_eq!(answered(&response, Some(EVERY_FEATURE)), response);
        }
    }
}

#[test]
fn header_crc_covers_everything_once_negotiated() {
    let mut out = BytesMut::new();
    plain_request(Request::ListTopics).encode(&mut out, Some(Features::HEADER_CRC));
    out[40] ^= 1;
    let limits = FrameLimits { header_crc: HeaderCrc::Whole, ..FrameLimits::default() };
    assert!(next_frame(&mut out, &limits).is_err());
}
