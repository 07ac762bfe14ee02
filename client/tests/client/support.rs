//! A server in memory that speaks LWP and fails on demand.

use bytes::{Bytes, BytesMut};
use lance_client::{Client, ClientOptions};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{NodeId, ProducerId, TopicId};
use lance_messages::wire::fetch::*;
use lance_messages::wire::hello::*;
use lance_messages::wire::json::*;
use lance_messages::wire::lookup::*;
use lance_messages::wire::produce::*;
use lance_messages::wire::topics::*;
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::*;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// What happens to the next ingest frames, one entry each.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    /// Stored, and the connection ends before the ack.
    StoreAndDrop,
    /// Stored, and refused as if it were not.
    StoreAndRefuse(ErrorCode),
    /// The connection ends before it is stored.
    Drop,
    Refuse(ErrorCode),
    /// Stored, after the server has said Backpressure.
    Pressure,
}

#[derive(Default)]
pub struct Partition {
    pub stream: Vec<u8>,
    /// Offset of the oldest byte that is served.
    pub log_start: usize,
    /// Last sequences and their base offsets by producer and epoch.
    sequences: HashMap<(u64, u16), VecDeque<(u32, u64)>>,
    pub batches: usize,
}

#[derive(Default)]
pub struct State {
    pub topics: Vec<(String, Vec<Partition>)>,
    pub faults: VecDeque<Fault>,
    pub commits: HashMap<(u32, u16, u64), u64>,
    next_producer: u64,
    /// A producer that is bound again gets its next epoch.
    pub bumps_epochs: bool,
    /// A producer that is bound again is refused.
    pub fences: bool,
    pub connections: usize,
    /// Addresses of the nodes, whose ids count from 1.
    pub nodes: Vec<String>,
    /// The node that leads every partition, and its epoch.
    pub leader: (u16, u32),
    /// Requests for partitions that came to another node.
    pub redirects: usize,
    /// Identities that producers bound, in order.
    pub bound: Vec<(u64, u16)>,
    /// Bytes of records that came in, as they came.
    pub received_bytes: usize,
    /// Bytes of records that went out.
    pub served_bytes: usize,
}

pub struct Toy {
    /// What nodes of one cluster share.
    pub state: Arc<Mutex<State>>,
    pub address: String,
    id: u16,
    /// A node that lags: the leader it takes for the present one.
    pub believes: Mutex<Option<(u16, u32)>>,
    running: watch::Sender<bool>,
    /// `None`: a 1.0 server.
    features: Option<Features>,
    appended: Notify,
    auto_create: u16,
    /// Ingest is not answered as long as this holds.
    pub stalled: watch::Sender<bool>,
}

pub fn all_features() -> Features {
    lance_client::connection::wanted_features()
}

impl Toy {
    pub async fn start(features: Option<Features>, auto_create: u16) -> Arc<Toy> {
        Self::node(features, auto_create, 1, Arc::default()).await
    }

    /// Nodes with one log among them, led by the first.
    pub async fn cluster(count: u16) -> Vec<Arc<Toy>> {
        let state = Arc::default();
        let mut nodes = Vec::new();
        for id in 1..=count {
            nodes.push(Self::node(Some(all_features()), 1, id, Arc::clone(&state)).await);
        }
        nodes
    }

    async fn node(features: Option<Features>, auto_create: u16, id: u16, state: Arc<Mutex<State>>) -> Arc<Toy> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        {
            let mut state = state.lock().unwrap();
            state.nodes.push(address.clone());
            state.leader = (1, 1);
        }
        let (believes, running, stalled) = (Mutex::default(), watch::Sender::new(true), watch::Sender::new(false));
        let appended = Notify::new();
        let toy = Arc::new(Toy { state, address, id, believes, running, features, appended, auto_create, stalled });
        let server = Arc::clone(&toy);
        tokio::spawn(async move {
            let mut running = server.running.subscribe();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = running.wait_for(|running| !running) => return,
                };
                let Ok((socket, _)) = accepted else { return };
                server.state.lock().unwrap().connections += 1;
                let (server, mut running) = (Arc::clone(&server), server.running.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = server.serve(socket) => {}
                        _ = running.wait_for(|running| !running) => {}
                    }
                });
            }
        });
        toy
    }

    /// Ends it with all its connections.
    pub fn kill(&self) {
        self.running.send_replace(false);
    }

    /// Another node leads from now on, in the next epoch.
    pub fn move_leader(&self, id: u16) {
        let mut state = self.state.lock().unwrap();
        state.leader = (id, state.leader.1 + 1);
    }

    fn leader(&self, state: &State) -> (u16, u32) {
        self.believes.lock().unwrap().unwrap_or(state.leader)
    }

    /// The error for a request that another node has to answer.
    fn elsewhere(&self, state: &mut State, answers: Answers) -> Option<Response> {
        let (leader, _) = self.leader(state);
        if leader == self.id {
            return None;
        }
        state.redirects += 1;
        let mut error = TypedError::new(ErrorCode::NotLeader, answers);
        error.detail = state.nodes[usize::from(leader) - 1].clone();
        Some(Response::Error(error))
    }

    pub async fn client(&self) -> Client {
        Client::connect(ClientOptions::new(&self.address).unwrap()).await.unwrap()
    }

    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    async fn serve(self: Arc<Self>, mut socket: TcpStream) {
        let mut input = BytesMut::new();
        let mut granted = None;
        let mut producer = None;
        loop {
            let header_crc = granted.unwrap_or(Features::NONE).header_crc();
            let limits = FrameLimits { header_crc, ..FrameLimits::default() };
            while let Some(frame) = next_frame(&mut input, &limits).unwrap() {
                let mut out = BytesMut::new();
                let request = RequestFrame::decode(frame, granted);
                match request {
                    Err(refused) => {
                        let response = Response::Error(refused.error);
                        ResponseFrame { correlation: refused.correlation, response }.encode(&mut out, granted);
                    }
                    Ok(request) => match self.answer(request, &mut granted, &mut producer, &mut out).await {
                        Ok(()) => {}
                        Err(()) => return,
                    },
                }
                if socket.write_all(&out).await.is_err() {
                    return;
                }
                if granted.unwrap_or_default().header_crc() != limits.header_crc {
                    break;
                }
            }
            match socket.read_buf(&mut input).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// `Err`: the connection ends.
    async fn answer(
        &self,
        frame: RequestFrame,
        granted: &mut Option<Features>,
        producer: &mut Option<(u64, u16)>,
        out: &mut BytesMut,
    ) -> Result<(), ()> {
        let features = *granted;
        let response = match frame.request {
            Request::Ignored => return Ok(()),
            Request::Keepalive => Response::Keepalive,
            Request::Produce(produce) => {
                _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
                if matches!(self.state.lock().unwrap().faults.front(), Some(Fault::Pressure)) {
                    ResponseFrame { correlation: 0, response: Response::Backpressure }.encode(out, features);
                }
                self.produce(&produce, frame.partition, *producer)?
            }
            Request::Hello(hello) => match self.features {
                None => Response::ErrorText("Invalid client command".into()),
                Some(offered) => {
                    let features = offered & hello.features;
                    *granted = Some(features);
                    Response::Hello(HelloResponse {
                        minor_version: 1,
                        node_id: NodeId(self.id),
                        features,
                        max_payload_bytes: MAX_PAYLOAD_BYTES,
                        max_in_flight_bytes: 1 << 20,
                    })
                }
            },
            Request::InitProducer(init) => {
                let mut state = self.state.lock().unwrap();
                if state.fences && init.existing.is_some() {
                    let code = Command::INIT_PRODUCER.0;
                    let error = TypedError::new(ErrorCode::FencedProducer, Answers::Control(code));
                    ResponseFrame { correlation: frame.correlation, response: Response::Error(error) }
                        .encode(out, features);
                    return Ok(());
                }
                state.next_producer += 1;
                let fresh = ProducerEpoch { id: ProducerId(state.next_producer), epoch: 0 };
                let mut bound = init.existing.unwrap_or(fresh);
                bound.epoch += u16::from(state.bumps_epochs && init.existing.is_some());
                *producer = Some((bound.id.0, bound.epoch));
                state.bound.push((bound.id.0, bound.epoch));
                Response::InitProducer(bound)
            }
            Request::FetchPartitions(fetch) => self.fetch_partitions(&fetch).await,
            other => self.answer_simple(other, frame.partition),
        };
        ResponseFrame { correlation: frame.correlation, response }.encode(out, features);
        Ok(())
    }

    fn produce(&self, produce: &Produce, partition: u16, producer: Option<(u64, u16)>) -> Result<Response, ()> {
        let mut state = self.state.lock().unwrap();
        if let Some(elsewhere) = self.elsewhere(&mut state, Answers::Ingest(produce.batch_id)) {
            return Ok(elsewhere);
        }
        let fault = state.faults.pop_front().unwrap_or(Fault::None);
        let refuse = |code| Ok(Response::Error(TypedError::new(code, Answers::Ingest(produce.batch_id))));
        match fault {
            Fault::Drop => return Err(()),
            Fault::Refuse(code) => return refuse(code),
            Fault::None | Fault::Pressure | Fault::StoreAndDrop | Fault::StoreAndRefuse(_) => {}
        }
        state.received_bytes += produce.records.len();
        let Some(target) = find(&mut state, produce.topic, partition) else {
            return refuse(ErrorCode::UnknownTopic);
        };
        let records = match produce.compression {
            compression::Compression::Named { codec, plain_len } => {
                Bytes::from(codec.decompress(&produce.records, plain_len as usize).unwrap())
            }
            _ => produce.records.clone(),
        };
        let mut duplicate = false;
        let mut base_offset = target.stream.len() as u64;
        if let Some(producer) = producer {
            let known = target.sequences.entry(producer).or_default();
            if let Some(&(_, base)) = known.iter().find(|(sequence, _)| *sequence == produce.sequence()) {
                (duplicate, base_offset) = (true, base);
            } else {
                if known.back().is_some_and(|(last, _)| last + 1 != produce.sequence()) {
                    return refuse(ErrorCode::OutOfOrderSequence);
                }
                known.push_back((produce.sequence(), base_offset));
                if known.len() > 5 {
                    known.pop_front();
                }
            }
        }
        if !duplicate {
            target.stream.extend_from_slice(&records);
            target.batches += 1;
        }
        self.appended.notify_waiters();
        match fault {
            Fault::StoreAndDrop => return Err(()),
            Fault::StoreAndRefuse(code) => return refuse(code),
            _ => {}
        }
        let offsets = AckOffsets { base_offset, record_count: produce.record_count, duplicate };
        Ok(Response::Ack { batch_id: produce.batch_id, offsets: Some(offsets) })
    }

    async fn fetch_partitions(&self, fetch: &FetchPartitions) -> Response {
        let wait = Duration::from_millis(u64::from(fetch.max_wait_ms));
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let appended = self.appended.notified();
            let partitions = self.read(fetch);
            let bytes: usize = partitions.iter().map(|(_, data)| data.len()).sum();
            let failed = partitions.iter().any(|(fetched, _)| fetched.error.is_some());
            if failed || bytes >= fetch.min_bytes as usize || tokio::time::Instant::now() >= deadline {
                return Response::FetchPartitions(FetchPartitionsResponse { partitions });
            }
            _ = tokio::time::timeout_at(deadline, appended).await;
        }
    }

    fn read(&self, fetch: &FetchPartitions) -> Vec<(FetchedPartition, Bytes)> {
        let mut state = self.state.lock().unwrap();
        let mut answers = Vec::new();
        let mut room = fetch.max_bytes as usize;
        let (leader, leader_epoch) = self.leader(&state);
        for asked in fetch.partitions.iter() {
            let found = find(&mut state, asked.partition.topic, asked.partition.partition);
            let mut error = found.is_none().then_some(ErrorCode::UnknownTopic);
            let elsewhere = leader != self.id;
            if elsewhere {
                error = Some(ErrorCode::NotLeader);
            }
            let found = found.filter(|_| !elsewhere);
            let log_start = found.as_ref().map_or(0, |partition| partition.log_start);
            let stream = found.map(|partition| &partition.stream[..]).unwrap_or_default();
            if error.is_none() && asked.offset > stream.len() as u64 {
                error = Some(ErrorCode::OffsetOutOfRange);
            }
            let start = (asked.offset as usize).clamp(log_start, stream.len());
            let end = (start + room.min(asked.max_bytes as usize)).min(stream.len());
            room -= end - start;
            let fetched = FetchedPartition {
                partition: asked.partition,
                error,
                leader_epoch: if elsewhere { 0 } else { leader_epoch },
                encoding: DataEncoding::Plain,
                leader: if elsewhere { leader } else { 0 },
                high_watermark: stream.len() as u64,
                log_start: log_start as u64,
                next_offset: end as u64,
                timestamp: 99,
                record_count: 0,
                data_len: (end - start) as u32,
            };
            // What a leader of the past says must not be believed.
            let data = match self.believes.lock().unwrap().is_some() {
                true => Bytes::from(vec![b'x'; end - start]),
                false => Bytes::copy_from_slice(&stream[start..end]),
            };
            let sent = data.len();
            answers.push((fetched, data));
            state.served_bytes += sent;
            state.redirects += usize::from(elsewhere);
        }
        answers
    }

    fn answer_simple(&self, request: Request, partition: u16) -> Response {
        let mut state = self.state.lock().unwrap();
        let of_leader = matches!(request, Request::Subscribe(_) | Request::CommitOffset(_) | Request::LookupOffset(_));
        if of_leader && let Some(elsewhere) = self.elsewhere(&mut state, Answers::Control(0)) {
            return elsewhere;
        }
        match request {
            Request::CreateTopic { name } => {
                state.topics.push((name, vec![Partition::default()]));
                let id = state.topics.len() as u32;
                Response::Topic(Bytes::from(to_json(&body(&state, id))))
            }
            Request::ListTopics => {
                let topics = (1..=state.topics.len() as u32).map(|id| body(&state, id)).collect();
                Response::Topic(Bytes::from(to_json(&TopicsBody { topics })))
            }
            Request::Fetch(fetch) => {
                let stream = &find(&mut state, fetch.topic, 0).unwrap().stream;
                let end = stream.len();
                if fetch.offset == END_OFFSET {
                    return Response::Fetch { next_offset: end as u64, record_count: 0, data: Bytes::new() };
                }
                let start = fetch.offset as usize;
                if start > end {
                    return Response::CatchingUp { end_offset: end as u64 };
                }
                let cut = (start + fetch.max_bytes as usize).min(end);
                let data = Bytes::copy_from_slice(&stream[start..cut]);
                Response::Fetch { next_offset: cut as u64, record_count: 1, data }
            }
            Request::Subscribe(subscribe) => {
                let key = (subscribe.topic.0, partition, subscribe.consumer_id);
                let offset = state.commits.get(&key).copied().unwrap_or(0);
                Response::SubscribeAck { consumer_id: subscribe.consumer_id, offset }
            }
            Request::CommitOffset(commit) => {
                state.commits.insert((commit.topic.0, partition, commit.consumer_id), commit.offset);
                Response::CommitAck { consumer_id: commit.consumer_id, offset: commit.offset }
            }
            Request::LookupOffset(lookup) => {
                let found = find(&mut state, lookup.partition.topic, lookup.partition.partition).unwrap();
                let latest = lookup.target == LookupTarget::Latest;
                let offset = if latest { found.stream.len() as u64 } else { found.log_start as u64 };
                Response::LookupOffset(LookupOffsetResponse { offset, record_number: 0, timestamp: 0 })
            }
            Request::Metadata(asked) => self.metadata(&mut state, &asked),
            Request::CreateTopicWithConfig(create) => {
                let partitions = create.partitions.unwrap_or(1);
                state.topics.push((create.name, (0..partitions).map(|_| Partition::default()).collect()));
                let topic = TopicId(state.topics.len() as u32);
                let (replication_factor, mode) = (1, TopicMode::L1);
                Response::CreateTopicWithConfig(TopicConfigured { topic, partitions, replication_factor, mode })
            }
            _ => Response::Error(TypedError::new(ErrorCode::InvalidCommand, Answers::Control(0))),
        }
    }

    fn metadata(&self, state: &mut State, asked: &MetadataRequest) -> Response {
        let mut names = asked.topics.clone();
        if names.is_empty() {
            names = state.topics.iter().map(|(name, _)| name.clone()).collect();
        }
        let mut topics = Vec::new();
        for name in names {
            let mut found = state.topics.iter().position(|(known, _)| *known == name);
            if found.is_none() && asked.create_missing && self.auto_create > 0 {
                state.topics.push((name.clone(), (0..self.auto_create).map(|_| Partition::default()).collect()));
                found = Some(state.topics.len() - 1);
            }
            let (leader, leader_epoch) = self.leader(state);
            let partition = PartitionMetadata { leader: Some(NodeId(leader)), leader_epoch, error: None };
            topics.push(TopicMetadata {
                id: TopicId(found.map_or(0, |at| at as u32 + 1)),
                name,
                error: found.is_none().then_some(ErrorCode::UnknownTopic),
                mode: TopicMode::L1,
                replication_factor: 1,
                created_at: 1,
                max_age_secs: 0,
                max_bytes: 0,
                partitions: vec![partition; found.map_or(0, |at| state.topics[at].1.len())],
            });
        }
        let nodes = (1..).zip(&state.nodes);
        let nodes = nodes.map(|(id, address)| NodeMetadata { id: NodeId(id), address: address.clone() }).collect();
        Response::Metadata(MetadataResponse { controller: Some(NodeId(1)), nodes, topics })
    }
}

fn find(state: &mut State, topic: TopicId, partition: u16) -> Option<&mut Partition> {
    state.topics.get_mut((topic.0 as usize).checked_sub(1)?)?.1.get_mut(usize::from(partition))
}

fn body(state: &State, id: u32) -> TopicBody {
    let name = state.topics[id as usize - 1].0.clone();
    TopicBody { created_at: 1, id, max_age_secs: None, max_bytes: None, name, topic_epoch: 1 }
}
