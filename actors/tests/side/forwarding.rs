//! Two nodes in one process: a client that knows the address of one of them reaches what the other leads.

use crate::support::{Rig, with_node};
use bytes::{Bytes, BytesMut};
use lance_actors::view::{ClusterView, TopicView};
use lance_cluster::metadata::TopicConfig;
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use lance_messages::wire::compression::Compression;
use lance_messages::wire::fetch::{END_OFFSET, Fetch};
use lance_messages::wire::produce::Produce;
use lance_messages::wire::request::{CommitOffset, Subscribe};
use lance_messages::wire::{FrameLimits, Request, RequestFrame, Response, ResponseFrame, next_frame};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Far beyond what the answers take.
const PATIENCE: Duration = Duration::from_secs(30);

struct Client {
    socket: TcpStream,
    input: BytesMut,
}

impl Client {
    async fn connect(rig: &Rig) -> Self {
        Self { socket: TcpStream::connect(rig.node.address).await.unwrap(), input: BytesMut::new() }
    }

    async fn send(&mut self, request: Request) {
        let mut frame = BytesMut::new();
        RequestFrame { correlation: 0, partition: 0, trace: None, request }.encode(&mut frame, None);
        self.socket.write_all(&frame).await.unwrap();
    }

    async fn receive(&mut self) -> Response {
        let receive = async {
            loop {
                if let Some(frame) = next_frame(&mut self.input, &FrameLimits::default()).unwrap() {
                    return ResponseFrame::decode(frame, None).unwrap().response;
                }
                assert!(self.socket.read_buf(&mut self.input).await.unwrap() > 0, "closed");
            }
        };
        tokio::time::timeout(PATIENCE, receive).await.unwrap()
    }

    async fn ask(&mut self, request: Request) -> Response {
        self.send(request).await;
        self.receive().await
    }
}

fn produce(topic: TopicId, batch_id: u64, records: &[u8]) -> Request {
    let records = Bytes::copy_from_slice(records);
    let records_crc = crc32fast::hash(&records);
    let compression = Compression::None;
    Request::Produce(Produce { topic, batch_id, timestamp: 0, record_count: 1, compression, records, records_crc })
}

/// A view from node 1 in which node 2, elsewhere, leads everything.
fn led_elsewhere(here: &Rig, there: &Rig, topic: TopicId) -> ClusterView {
    let mut view = ClusterView::default();
    (view.node, view.metadata_leader) = (Some(NodeId(1)), Some(NodeId(2)));
    view.nodes = vec![(NodeId(1), here.node.address.to_string()), (NodeId(2), there.node.address.to_string())];
    for (id, name) in [(topic, "events"), (TopicId(77), "__groups")] {
        view.insert(TopicView {
            members: Vec::new(),
            id,
            name: name.to_owned(),
            created_at: 1,
            topic_epoch: 1,
            config: TopicConfig::default(),
            partitions: vec![(Some(NodeId(2)), LeaderEpoch(1))],
        });
    }
    view
}

/// Runs `test` with two nodes and a partition that the second leads.
/// The metadata of a node that has just started shows nothing new any more: it would replace what a test shows instead.
async fn settled(rig: &Rig) {
    let mut seen = rig.node.view.load_full();
    let mut unchanged = 0;
    while unchanged < 10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let view = rig.node.view.load_full();
        unchanged = if Arc::ptr_eq(&seen, &view) && !view.alive.is_empty() { unchanged + 1 } else { 0 };
        seen = view;
    }
}

fn with_two_nodes<F: Future<Output = ()>>(test: impl FnOnce(Rig, Rig, TopicPartition) -> F) {
    with_node(
        |_| (),
        async |here| {
            let there = Rig::second(2).await;
            let partition = there.create_topic("events", 0).await;
            settled(&here).await;
            here.node.view.store(Arc::new(led_elsewhere(&here, &there, partition.topic)));
            test(here, there, partition).await;
        },
    );
}

#[test]
fn a_1_0_client_uses_a_partition_that_another_node_leads() {
    with_two_nodes(async |here, there, partition| {
        let topic = partition.topic;
        let mut client = Client::connect(&here).await;
        for batch_id in 0..200u64 {
            client.send(produce(topic, batch_id, format!("record {batch_id:03};").as_bytes())).await;
        }
        for expected in 0..200u64 {
            let answer = client.receive().await;
            assert!(matches!(answer, Response::Ack { batch_id, .. } if batch_id == expected), "{answer:?}");
        }
        let stream: String = (0..200).map(|batch_id| format!("record {batch_id:03};")).collect();
        let mut direct = Client::connect(&there).await;
        for offset in [0, 5, stream.len() as u64, stream.len() as u64 + 9, END_OFFSET] {
            let fetch = || Request::Fetch(Fetch { topic, offset, max_bytes: 1 << 20 });
            let forwarded = client.ask(fetch()).await;
            assert_eq!(forwarded, direct.ask(fetch()).await, "{offset}");
            if let (0, Response::Fetch { data, .. }) = (offset, forwarded) {
                assert_eq!(data, stream.as_bytes());
            }
        }
    });
}

#[test]
fn offsets_of_a_1_0_client_are_kept_where_their_topic_is_led() {
    with_two_nodes(async |here, there, partition| {
        let topic = partition.topic;
        let commit = Request::CommitOffset(CommitOffset { topic, consumer_id: 5, offset: 60 });
        let subscribe = || Request::Subscribe(Subscribe { topic, start_offset: 0, max_batch_bytes: 0, consumer_id: 5 });
        let mut client = Client::connect(&here).await;
        assert_eq!(client.ask(commit).await, Response::CommitAck { consumer_id: 5, offset: 60 });
        let resumed = Response::SubscribeAck { consumer_id: 5, offset: 60 };
        assert_eq!(client.ask(subscribe()).await, resumed);
        assert_eq!(Client::connect(&there).await.ask(subscribe()).await, resumed);
    });
}

#[test]
fn a_leader_that_is_away_is_waited_for_and_then_reported() {
    with_two_nodes(async |here, there, partition| {
        let mut view = led_elsewhere(&here, &there, partition.topic);
        view.nodes[1].1 = "127.0.0.1:1".to_owned();
        here.node.view.store(Arc::new(view));
        let mut client = Client::connect(&here).await;
        client.send(produce(partition.topic, 1, b"early")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        here.node.view.store(Arc::new(led_elsewhere(&here, &there, partition.topic)));
        assert_eq!(client.receive().await, Response::Ack { batch_id: 1, offsets: None });
        let mut view = led_elsewhere(&here, &there, partition.topic);
        view.nodes[1].1 = "127.0.0.1:1".to_owned();
        here.node.view.store(Arc::new(view));
        // The link stands as long as it is used; the next request goes where the view says.
        let answer = client.ask(produce(partition.topic, 2, b"late")).await;
        assert!(matches!(&answer, Response::ErrorText(text) if text.starts_with("FORWARD_FAILED")), "{answer:?}");
    });
}

#[test]
fn a_forwarder_that_panics_answers_and_comes_back() {
    with_node(
        |config| config.admin.fault_injection = true,
        async |here| {
            let there = Rig::second(2).await;
            let partition = there.create_topic("events", 0).await;
            let elsewhere = led_elsewhere(&here, &there, partition.topic);
            let mut nowhere = elsewhere.clone();
            nowhere.nodes[1].1 = "127.0.0.1:1".to_owned();
            here.node.view.store(Arc::new(nowhere));
            let mut client = Client::connect(&here).await;
            client.send(produce(partition.topic, 1, b"held")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(here.post("/v1/actors/forward/panic", "").await.status, 202);
            let answer = client.receive().await;
            assert!(matches!(&answer, Response::ErrorText(text) if text.starts_with("FORWARD_FAILED")), "{answer:?}");
            here.node.view.store(Arc::new(elsewhere));
            let acked = client.ask(produce(partition.topic, 2, b"again")).await;
            assert_eq!(acked, Response::Ack { batch_id: 2, offsets: None });
        },
    );
}
