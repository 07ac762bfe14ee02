//! Fetches of many partitions at once, and clients that close their half of the connection.

use crate::support::with_node;
use bytes::{Bytes, BytesMut};
use lance_messages::wire::compression::Compression;
use lance_messages::wire::fetch::{FetchList, FetchPartition, FetchPartitions};
use lance_messages::wire::header::{HEADER_LEN, Header, HeaderCrc};
use lance_messages::wire::hello::Hello;
use lance_messages::wire::produce::Produce;
use lance_messages::wire::topics::MetadataRequest;
use lance_messages::wire::{Features, Request, RequestFrame};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Far beyond what the answers take.
const PATIENCE: Duration = Duration::from_secs(30);

fn encode(request: Request, features: Option<Features>) -> BytesMut {
    let mut frame = BytesMut::new();
    RequestFrame { correlation: 1, partition: 0, trace: None, request }.encode(&mut frame, features);
    frame
}

async fn read_frame(socket: &mut TcpStream) -> (Header, Vec<u8>) {
    let mut header = [0; HEADER_LEN];
    socket.read_exact(&mut header).await.unwrap();
    let header = Header::decode(&header, HeaderCrc::Prefix, u32::MAX).unwrap();
    let mut payload = vec![0; header.payload_len as usize];
    socket.read_exact(&mut payload).await.unwrap();
    (header, payload)
}

#[test]
fn every_part_of_a_fetch_is_answered_however_few_requests_may_wait() {
    with_node(
        |config| config.limits.max_in_flight_requests = 4,
        async |mut rig| {
            let partition = rig.create_topic("events", 0).await;
            rig.produce(partition, 100).await.unwrap();
            let mut socket = TcpStream::connect(rig.node.address).await.unwrap();
            let features = Features::LONG_POLL;
            let hello = Hello { minor_version: 1, features, client_name: "test".to_owned() };
            socket.write_all(&encode(Request::Hello(hello), None)).await.unwrap();
            read_frame(&mut socket).await;
            let asked = vec![FetchPartition { partition, offset: 0, max_bytes: 1024, near: false }; 4096];
            let partitions = FetchList::new(&asked);
            let fetch =
                FetchPartitions { max_wait_ms: 0, min_bytes: 0, max_bytes: 8 << 20, partitions, rack: String::new() };
            let frame = encode(Request::FetchPartitions(fetch), Some(features));
            socket.write_all(&frame).await.unwrap();
            socket.write_all(&frame).await.unwrap();
            for _ in 0..2 {
                let (_, payload) = tokio::time::timeout(PATIENCE, read_frame(&mut socket)).await.unwrap();
                assert!(payload.len() > 4096 * 100, "{} bytes", payload.len());
            }
        },
    );
}

#[test]
fn a_client_that_closed_its_half_reads_every_ack() {
    with_node(
        |config| config.limits.max_in_flight_requests = 4,
        async |rig| {
            let partition = rig.create_topic("events", 0).await;
            let mut socket = TcpStream::connect(rig.node.address).await.unwrap();
            for batch_id in 0..100 {
                let records = Bytes::from(vec![7; 1000]);
                let produce = Produce {
                    topic: partition.topic,
                    batch_id,
                    timestamp: 0,
                    record_count: 1,
                    compression: Compression::None,
                    records_crc: crc32fast::hash(&records),
                    records,
                };
                socket.write_all(&encode(Request::Produce(produce), None)).await.unwrap();
            }
            socket.shutdown().await.unwrap();
            let mut answers = Vec::new();
            tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answers)).await.unwrap().unwrap();
            assert_eq!(answers.len(), 100 * HEADER_LEN, "an ack is a header");
        },
    );
}

#[test]
fn a_topic_named_often_in_one_request_is_told_of_once() {
    with_node(
        |_| (),
        async |rig| {
            rig.create_topic("events", 0).await;
            let mut socket = TcpStream::connect(rig.node.address).await.unwrap();
            let features = Features::METADATA;
            let hello = Hello { minor_version: 1, features, client_name: "test".to_owned() };
            socket.write_all(&encode(Request::Hello(hello), None)).await.unwrap();
            read_frame(&mut socket).await;
            let metadata = MetadataRequest { topics: vec!["events".to_owned(); 60_000], create_missing: false };
            socket.write_all(&encode(Request::Metadata(metadata), Some(features))).await.unwrap();
            let (_, payload) = tokio::time::timeout(PATIENCE, read_frame(&mut socket)).await.unwrap();
            assert!(payload.len() < 4096, "{} bytes", payload.len());
        },
    );
}
