//! One connection's side of the protocol, fed with bytes as clients send them: what it takes, what it refuses, and when it
//! says that it is too much.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod limits;
mod pressure;

use bytes::{Bytes, BytesMut};
use lance_actors::network::session::{SessionCore, SessionEffect, SessionLimits};
use lance_actors::view::{ClusterView, TopicView};
use lance_cluster::metadata::TopicConfig;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, LeaderEpoch, NodeId, TopicId, TopicPartition};
use lance_messages::mail::connection::{Answer, Produced, Replies, Reply};
use lance_messages::mail::ingestion::ProduceRequest;
use lance_messages::record::put_data;
use lance_messages::wire::compression::Compression;
use lance_messages::wire::hello::Hello;
use lance_messages::wire::produce::Produce;
use lance_messages::wire::{Features, FrameLimits, Request, RequestFrame, Response, ResponseFrame, next_frame};
use std::time::Duration;

const HERE: NodeId = NodeId(1);
const TOPIC: TopicId = TopicId(1);
const NOW: Duration = Duration::from_secs(1);
const FEATURES: Features = Features(Features::PARTITIONS.0 | Features::TYPED_ERRORS.0 | Features::COMPRESSED_INGEST.0);

struct Session {
    core: SessionCore,
    features: Option<Features>,
    view: ClusterView,
    /// What was sent and not read yet.
    input: BytesMut,
    effects: Vec<SessionEffect>,
}

impl Session {
    /// A client of 1.0.
    fn legacy(max_record_bytes: u32, max_in_flight_bytes: usize) -> Self {
        let limits = SessionLimits {
            max_payload_bytes: 1 << 20,
            max_record_bytes,
            max_in_flight_bytes,
            max_requests: 100,
            max_fetch_bytes: 1 << 20,
            max_fetch_wait: Duration::from_secs(1),
            auto_create: false,
            shards: 1,
            node: HERE,
            traces: None,
        };
        let core = SessionCore::new(ConnectionId(20), limits);
        Self { core, features: None, view: view(), input: BytesMut::new(), effects: Vec::new() }
    }

    /// One that said Hello.
    fn greeted(max_record_bytes: u32, max_in_flight_bytes: usize) -> Self {
        let mut session = Self::legacy(max_record_bytes, max_in_flight_bytes);
        let hello = Hello { minor_version: 1, features: FEATURES, client_name: "test".to_owned() };
        session.send(Request::Hello(hello), 0);
        session.features = Some(FEATURES);
        assert!(matches!(session.responses()[..], [Response::Hello(_)]));
        session.effects.clear();
        session
    }

    fn send(&mut self, request: Request, partition: u16) {
        RequestFrame { correlation: 7, partition, trace: None, request }.encode(&mut self.input, self.features);
        self.read_on();
    }

    /// Reads as much of what was sent as the session wants.
    fn read_on(&mut self) {
        self.core.on_input(&mut self.input, &self.view, NOW, &mut self.effects);
    }

    /// What was handed to the shards since the last call.
    fn stored(&mut self) -> Vec<ProduceRequest> {
        let produced = self.effects.drain(..).filter_map(|effect| match effect {
            SessionEffect::Produce(_, request) => Some(request),
            _ => None,
        });
        produced.collect()
    }

    /// A shard answers these requests.
    fn answer(&mut self, requests: &[ProduceRequest], pressed: bool) {
        let produced = Produced { base_offset: 0, record_count: 1, duplicate: false };
        let reply =
            |request: &ProduceRequest| Reply { request: request.request, answer: Answer::Produced(Ok(produced)) };
        let replies = Replies { shard: 0, replies: requests.iter().map(reply).collect(), pressed, known_at: NOW };
        self.core.on_replies(replies, &self.view, NOW, &mut self.effects);
    }

    /// What was written since the last call.
    fn responses(&mut self) -> Vec<Response> {
        let mut bytes = BytesMut::new();
        let mut slices = Vec::new();
        self.core.output.front();
        self.core.output.slices(&mut slices, 100);
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        self.core.output.advance(bytes.len());
        let limits = FrameLimits::default();
        std::iter::from_fn(|| next_frame(&mut bytes, &limits).unwrap())
            .map(|frame| ResponseFrame::decode(frame, self.features).unwrap().response)
            .collect()
    }

    /// The one error that was written: its code and what it says.
    fn error(&mut self) -> (Option<ErrorCode>, String) {
        match self.responses().as_slice() {
            [Response::Error(error)] => (Some(error.code), error.message.clone().into_owned()),
            // 1.0 has texts and no codes.
            [Response::ErrorText(text)] => (None, text.clone()),
            other => panic!("{other:?}"),
        }
    }
}

/// A topic of four partitions, all led here.
fn view() -> ClusterView {
    let mut view = ClusterView::default();
    view.node = Some(HERE);
    view.insert(TopicView {
        members: Vec::new(),
        id: TOPIC,
        name: "events".to_owned(),
        created_at: 1,
        topic_epoch: 1,
        config: TopicConfig { partitions: 4, ..TopicConfig::default() },
        partitions: vec![(Some(HERE), LeaderEpoch(3)); 4],
    });
    view
}

fn partition(number: u16) -> TopicPartition {
    TopicPartition::new(TOPIC, number)
}

/// Records whose values have these lengths.
fn records(lengths: &[usize]) -> Bytes {
    let mut out = Vec::new();
    lengths.iter().for_each(|&length| put_data(&mut out, None, None, &vec![7; length]).unwrap());
    Bytes::from(out)
}

fn produce(batch_id: u64, compression: Compression, records: Bytes) -> Request {
    let records_crc = crc32fast::hash(&records);
    Request::Produce(Produce {
        topic: TOPIC,
        batch_id,
        timestamp: 5,
        record_count: 1,
        compression,
        records,
        records_crc,
    })
}
