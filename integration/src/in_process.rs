//! The path of a batch inside the process, without socket and disk: frame, checksum, SortKey, batch, hand-off to the
//! poller. What the disk would do is answered at once.

use bytes::BytesMut;
use lance_actors::ingestion::core::{IngestionCore, IngestionEffect, IngestionOptions, Now};
use lance_actors::ingestion::replica::LeaderRole;
use lance_actors::network::session::{SessionCore, SessionEffect, SessionLimits};
use lance_actors::stages::RequestTraces;
use lance_actors::view::{ClusterView, TopicView};
use lance_cluster::metadata::TopicConfig;
use lance_cluster::replica::FlowOptions;
use lance_messages::id::{ConnectionId, LeaderEpoch, NodeId, ReplicaIncarnation, TopicId, TopicPartition};
use lance_messages::mail::connection::Replies;
use lance_messages::record::{RecordType, put_record};
use lance_messages::wire::HeaderCrc;
use lance_messages::wire::produce::ProduceHeader;
use lance_storage::disk::memory::{MemoryConfig, MemoryDisk};
use lance_storage::disk::{Arena, Disk, DiskCompletion, OpKind, OpenMode, SlotPool};
use lance_storage::log::{Log, LogOptions, OpenContext};
use lance_storage::tail::TailRing;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const NODE: NodeId = NodeId(1);
const TOPIC: TopicId = TopicId(1);
const PARTITION: TopicPartition = TopicPartition::new(TOPIC, 0);

/// One connection, one partition, and everything between them.
pub struct InProcess {
    session: SessionCore,
    ingestion: IngestionCore,
    view: ClusterView,
    input: BytesMut,
    session_effects: Vec<SessionEffect>,
    ingestion_effects: Vec<IngestionEffect>,
    submitted: Vec<(u32, OpKind)>,
    disk: Arc<dyn Disk>,
    elapsed: Duration,
}

/// A produce frame of `records` records of `bytes` bytes each.
pub fn produce_frame(records: u32, bytes: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    let value: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    for _ in 0..records {
        if put_record(&mut payload, RecordType::Raw, &value).is_err() {
            break;
        }
    }
    let header = ProduceHeader {
        topic: TOPIC,
        partition: 0,
        batch_id: 7,
        timestamp: 1,
        record_count: records,
        compressed: false,
        traced: false,
        payload_len: payload.len() as u32,
        payload_crc: crc32fast::hash(&payload),
    };
    let mut frame = header.encode(HeaderCrc::Prefix).to_vec();
    frame.extend_from_slice(&payload);
    frame
}

impl InProcess {
    /// A led, empty partition and a connection of LWP 1.0.
    pub fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(MemoryConfig::default()));
        let options = LogOptions {
            dir: PathBuf::from("/logs/1-0"),
            partition: PARTITION,
            segment_bytes: 4 << 30,
            index_interval_bytes: 64 * 1024,
            zero_ahead_bytes: 0,
        };
        disk.create_dir_all(Path::new("/logs"))?;
        let (log, _) = Log::open(&disk, options, OpenContext::default())?;
        let arena = Arena::new(256 * 1024, 16)?;
        let options =
            IngestionOptions { node: NODE, shard: 0, sync_always: true, sync_bytes: 0, flow: FlowOptions::default() };
        let mut ingestion = IngestionCore::new(options, SlotPool::new(arena), TailRing::new(16 << 20));
        let mut effects = Vec::new();
        ingestion.on_assigned(PARTITION);
        ingestion.on_log_opened(PARTITION, log, &mut effects);
        let incarnation = ReplicaIncarnation { node: 1, copy_version: 0, damage_count: 0 };
        ingestion.on_replica_known(PARTITION, LeaderEpoch(0), incarnation);
        ingestion.on_promise(PARTITION, LeaderEpoch(1), &mut effects);
        ingestion.on_become_leader(LeaderRole::alone(PARTITION, LeaderEpoch(1)), Now::default(), &mut effects);
        let limits = SessionLimits {
            max_payload_bytes: 16 << 20,
            max_record_bytes: 16 << 20,
            max_in_flight_bytes: 64 << 20,
            max_requests: 4096,
            max_fetch_bytes: 16 << 20,
            max_fetch_wait: Duration::from_secs(60),
            auto_create: false,
            shards: 1,
            node: NODE,
            // Traces are exported, and none of these requests is traced: that is to cost nothing.
            traces: Some(RequestTraces::new(1, 0.0, true)),
        };
        let mut view = ClusterView::default();
        view.node = Some(NODE);
        let topic = TopicView {
            id: TOPIC,
            name: "bench".to_owned(),
            created_at: 0,
            topic_epoch: 1,
            config: TopicConfig::default(),
            partitions: vec![(Some(NODE), LeaderEpoch(1))],
            members: Vec::new(),
        };
        view.topics.insert(TOPIC, topic);
        let mut path = Self {
            session: SessionCore::new(ConnectionId(16), limits),
            ingestion,
            view,
            input: BytesMut::with_capacity(4 << 20),
            session_effects: Vec::with_capacity(64),
            ingestion_effects: Vec::with_capacity(64),
            submitted: Vec::with_capacity(8),
            disk,
            elapsed: Duration::ZERO,
        };
        path.hand_off();
        path.complete();
        Ok(path)
    }

    /// Puts a frame where the socket would put it.
    pub fn receive(&mut self, frame: &[u8]) {
        self.input.extend_from_slice(frame);
    }

    /// From the received frames to the operations handed to the poller.
    pub fn hand_off(&mut self) {
        let now = self.now();
        self.session.on_input(&mut self.input, &self.view, now.elapsed, &mut self.session_effects);
        for effect in self.session_effects.drain(..) {
            if let SessionEffect::Produce(_, request) = effect {
                self.ingestion.on_produce(ConnectionId(16), request, now, &mut self.ingestion_effects);
            }
        }
        self.ingestion.flush(now, &mut self.ingestion_effects);
        for effect in self.ingestion_effects.drain(..) {
            if let IngestionEffect::Submit { token, step, .. } = effect {
                self.submitted.push((token, step.kind));
            }
        }
    }

    /// What follows: the copy for readers of the tail, the disk's completion, the ack. Answers the acked batches.
    pub fn complete(&mut self) -> usize {
        let now = self.now();
        self.ingestion.keep_tail(now, &mut self.ingestion_effects);
        let mut acked = 0;
        while let Some((token, kind)) = self.submitted.pop() {
            let (chunks, file) = match kind {
                OpKind::Write { chunks, .. } => (chunks, None),
                OpKind::Create { path } => (Vec::new(), self.disk.open(&path, OpenMode::CreateOrOpen).ok()),
                _ => (Vec::new(), None),
            };
            let completion =
                DiskCompletion { token: u64::from(token), result: Ok(()), chunks, file, times: Default::default() };
            self.ingestion.on_disk_done(token, completion, now, &mut self.ingestion_effects);
            let mut replies = Vec::new();
            self.ingestion.flush(now, &mut self.ingestion_effects);
            for effect in self.ingestion_effects.drain(..) {
                match effect {
                    IngestionEffect::Reply(_, reply) => replies.push(reply),
                    IngestionEffect::Submit { token, step, .. } => self.submitted.push((token, step.kind)),
                    _ => {}
                }
            }
            acked += replies.len();
            let replies = Replies { shard: 0, replies, pressed: false, known_at: now.elapsed };
            self.session.on_replies(replies, &self.view, now.elapsed, &mut self.session_effects);
            self.session_effects.clear();
        }
        let written = self.session.output.memory_bytes();
        self.session.output.advance(written);
        acked
    }

    fn now(&mut self) -> Now {
        self.elapsed += Duration::from_micros(10);
        Now { wall_ns: 1_700_000_000_000_000_000 + self.elapsed.as_nanos() as u64, elapsed: self.elapsed }
    }
}
