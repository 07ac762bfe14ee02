//! Fetches over a socket: every request is answered, however many are sent ahead.

use crate::support::with_node;
use bytes::BytesMut;
use lance_messages::wire::fetch::Fetch;
use lance_messages::wire::header::{HEADER_LEN, Header, HeaderCrc};
use lance_messages::wire::{Request, RequestFrame};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Far beyond what the answers take, and far below what they would take if each pair waited for a timer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests sent before the first answer is read.
const REQUESTS: usize = 20;

#[test]
fn requests_behind_replies_that_fill_the_output_are_answered_once_those_are_written() {
    with_node(
        |_| (),
        async |mut rig| {
            let partition = rig.create_topic("events", 0).await;
            for _ in 0..100 {
                rig.produce(partition, 16_379).await.unwrap();
            }
            let mut socket = tokio::net::TcpStream::connect(rig.node.address).await.unwrap();
            let mut frames = BytesMut::new();
            for _ in 0..REQUESTS {
                let request = Request::Fetch(Fetch { topic: partition.topic, offset: 0, max_bytes: 1024 * 1024 });
                RequestFrame { correlation: 1, partition: 0, trace: None, request }.encode(&mut frames, None);
            }
            socket.write_all(&frames).await.unwrap();
            let answers = async {
                for _ in 0..REQUESTS {
                    let mut header = [0; HEADER_LEN];
                    socket.read_exact(&mut header).await.unwrap();
                    let header = Header::decode(&header, HeaderCrc::Prefix, u32::MAX).unwrap();
                    let mut payload = vec![0; header.payload_len as usize];
                    socket.read_exact(&mut payload).await.unwrap();
                    assert!(payload.len() > 128 * 1024, "{} bytes", payload.len());
                    assert_eq!(crc32fast::hash(&payload), header.payload_crc);
                }
            };
            tokio::time::timeout(PATIENCE, answers).await.unwrap();
        },
    );
}
