//! A node inside the test: topics, batches and HTTP requests without a client.

use actix::prelude::*;
use arc_swap::ArcSwap;
use bytes::Bytes;
use lance_actors::admin::Health;
use lance_actors::ingestion::actor::{RegisterConnection, ReplyTo};
use lance_actors::ingestion::maintenance::{DescribePartitions, PartitionStatus};
use lance_actors::metadata::actor::Call;
use lance_actors::network::readers::SegmentRead;
use lance_actors::network::session::MetadataCall;
use lance_actors::node::side::SideParts;
use lance_actors::node::{self, Node};
use lance_actors::options;
use lance_actors::supervision::NodeSupervisor;
use lance_actors::view::ClusterView;
use lance_config::model::{Config, IoBackend};
use lance_messages::batch::BatchFlags;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, TopicPartition};
use lance_messages::mail::connection::{Answer, Replies, ShardRestarted};
use lance_messages::mail::ingestion::{Produce, ProduceRequest};
use lance_messages::record::{RecordType, put_record};
use lance_messages::wire::topics::CreateTopicWithConfig;
use lance_storage::disk::{Disk, FaultSwitch, FaultyDisk, open_disk};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
const CONNECTION: ConnectionId = ConnectionId(7_000_000);

/// A running node with what surrounds it.
pub struct Rig {
    pub node: Node,
    pub health: Arc<Health>,
    pub drain_orders: mpsc::Receiver<()>,
    produced: mpsc::UnboundedReceiver<Result<u64, ErrorCode>>,
    requests: u64,
    _folder: tempfile::TempDir,
}

/// The status line's number and the body of an HTTP answer.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl HttpAnswer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

struct Collector(mpsc::UnboundedSender<Result<u64, ErrorCode>>);

impl Actor for Collector {
    type Context = Context<Self>;
}

impl Handler<Replies<SegmentRead>> for Collector {
    type Result = ();

    fn handle(&mut self, message: Replies<SegmentRead>, _: &mut Self::Context) {
        for reply in message.replies {
            if let Answer::Produced(result) = reply.answer {
                self.0.send(result.map(|produced| produced.base_offset)).unwrap();
            }
        }
    }
}

impl Handler<ShardRestarted> for Collector {
    type Result = ();

    fn handle(&mut self, _: ShardRestarted, _: &mut Self::Context) {
        self.0.send(Err(ErrorCode::OutcomeUnknown)).unwrap();
    }
}

/// Runs `test` against a node that serves, with faults if they are wanted.
pub fn with_node<F: Future<Output = ()>>(configure: impl FnOnce(&mut Config), test: impl FnOnce(Rig) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small_config(&folder);
    configure(&mut config);
    System::new().block_on(async move {
        let rig = Rig::start(&config, folder).await;
        test(rig).await;
    });
}

fn small_config(folder: &tempfile::TempDir) -> Config {
    let mut config = Config::default();
    config.node.data_dir = folder.path().join("data");
    config.network.bind = "127.0.0.1:0".to_owned();
    config.admin.bind = "127.0.0.1:0".to_owned();
    config.io.backend = IoBackend::Blocking;
    config.storage.segment_bytes = 1024 * 1024;
    config.storage.reserve_bytes = 1024 * 1024;
    config
}

impl Rig {
    /// Another node, with this id, beside the one of a test.
    pub async fn second(id: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = small_config(&folder);
        config.node.id = id;
        Self::start(&config, folder).await
    }

    async fn start(config: &Config, folder: tempfile::TempDir) -> Self {
        let mut disk: Arc<dyn Disk> = open_disk(options::disk_options(config)).unwrap();
        let faults = config.admin.fault_injection.then(|| Arc::new(FaultSwitch::new(config.node.data_dir.clone())));
        if let Some(faults) = &faults {
            disk = Arc::new(FaultyDisk::new(disk, Arc::clone(faults)));
        }
        let supervisor = NodeSupervisor::start(options::restart_policy(config), |escalated| {
            panic!("{} used up its restarts: {}", escalated.name, escalated.reason);
        });
        let health = Arc::new(Health::new());
        let (drain, drain_orders) = mpsc::channel(1);
        let side = SideParts { health: Arc::clone(&health), drain, faults, log_level: None, tls: None, auth: None };
        let view = Arc::new(ArcSwap::from_pointee(ClusterView::default()));
        let node = node::start(config, disk, supervisor, Arc::default(), view, side).await.unwrap();
        health.set_started();
        let (collect, produced) = mpsc::unbounded_channel();
        let collector = Collector(collect).start();
        for shard in &node.shards {
            let reply_to = ReplyTo { replies: collector.clone().recipient(), restarted: collector.clone().recipient() };
            shard.send(RegisterConnection { connection: CONNECTION, reply_to }).await.unwrap();
        }
        let rig = Self { node, health, drain_orders, produced, requests: 0, _folder: folder };
        eventually("the metadata has a leader", async || rig.node.view.load().metadata_leader.is_some()).await;
        rig.health.set_serving(true);
        rig
    }

    /// Creates a topic of one partition that keeps `max_bytes`, and waits until it serves.
    pub async fn create_topic(&self, name: &str, max_bytes: u64) -> TopicPartition {
        let create = CreateTopicWithConfig {
            name: name.to_owned(),
            partitions: Some(1),
            replication_factor: None,
            mode: None,
            max_age_secs: Some(0),
            max_bytes: Some(max_bytes),
        };
        self.node.metadata.send(Call(MetadataCall::CreateTopic(create))).await.unwrap().unwrap();
        let id = self.node.view.load().topic_by_name(name).unwrap().id;
        let partition = TopicPartition::new(id, 0);
        eventually("the partition serves", async || {
            self.status(partition).await.is_some_and(|status| status.state == "serving")
        })
        .await;
        partition
    }

    pub async fn status(&self, partition: TopicPartition) -> Option<PartitionStatus> {
        for shard in &self.node.shards {
            let statuses = shard.send(DescribePartitions).await.unwrap_or_default();
            if let Some(status) = statuses.into_iter().find(|status| status.partition == partition) {
                return Some(status);
            }
        }
        None
    }

    /// Appends one record of about `bytes`; its offset, once it is acked.
    pub async fn produce(&mut self, partition: TopicPartition, bytes: usize) -> Result<u64, ErrorCode> {
        let mut records = Vec::new();
        put_record(&mut records, RecordType::Raw, &vec![7; bytes]).unwrap();
        let records = Bytes::from(records);
        self.requests += 1;
        let request = ProduceRequest {
            request: self.requests,
            partition,
            records_crc: crc32fast::hash(&records),
            plain_len: records.len() as u32,
            records,
            record_count: 1,
            flags: BatchFlags::RECORDS,
            timestamp_ns: 0,
            producer: None,
            at: None,
            trace: None,
        };
        let shards = u16::try_from(self.node.shards.len()).unwrap();
        let shard = usize::from(lance_actors::network::session::shard_of(partition, shards));
        let message = Produce { connection: CONNECTION, requests: vec![request] };
        self.node.shards[shard].send(message).await.unwrap();
        tokio::time::timeout(PATIENCE, self.produced.recv()).await.unwrap().unwrap()
    }

    pub async fn get(&self, path: &str) -> HttpAnswer {
        http(self.node.admin_address, "GET", path, "").await
    }

    pub async fn post(&self, path: &str, body: &str) -> HttpAnswer {
        http(self.node.admin_address, "POST", path, body).await
    }

    pub async fn put(&self, path: &str, body: &str) -> HttpAnswer {
        http(self.node.admin_address, "PUT", path, body).await
    }

    /// Files of the partition's folder that end like this, in order.
    pub fn files(&self, partition: TopicPartition, end: &str) -> Vec<std::path::PathBuf> {
        let folder = self.node.data_dir.logs_dir().join(partition.to_string());
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(end)).collect();
        files.sort();
        files
    }
}

/// Waits until `holds` does.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

async fn http(address: SocketAddr, method: &str, path: &str, body: &str) -> HttpAnswer {
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    HttpAnswer { status, head: head.to_lowercase(), body: body.to_owned() }
}
