//! A session whose view names another leader: clients that can are sent there, for others the forwarder is asked.

use crate::support::*;
use bytes::BytesMut;
use lance_actors::network::session::{SessionCore, SessionEffect, SessionLimits};
use lance_actors::stages::RequestTraces;
use lance_actors::view::ClusterView;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, LeaderEpoch, NodeId};
use lance_messages::mail::connection::{Answer, FetchedData, PartitionBounds, Produced, Replies, Reply};
use lance_messages::wire::fetch::{Fetch, FetchList, FetchPartition, FetchPartitions};
use lance_messages::wire::hello::Hello;
use lance_messages::wire::json::ClusterStatusBody;
use lance_messages::wire::lookup::{LookupOffset, LookupTarget};
use lance_messages::wire::request::{CommitOffset, Subscribe};
use lance_messages::wire::typed_error::TypedError;
use lance_messages::wire::{Features, FrameLimits, Request, Response, ResponseFrame, next_frame};
use std::time::Duration;

const SHARDS: u16 = 3;
pub const NOW: Duration = Duration::from_secs(1);
const FEATURES: Features = Features(
    Features::PARTITIONS.0
        | Features::TYPED_ERRORS.0
        | Features::ACK_OFFSETS.0
        | Features::LONG_POLL.0
        | Features::LOOKUP.0,
);

pub struct Session {
    pub core: SessionCore,
    features: Option<Features>,
    view: ClusterView,
    pub effects: Vec<SessionEffect>,
}

impl Session {
    fn legacy(leader: Option<NodeId>) -> Self {
        Self::traced(leader, None)
    }

    /// One whose requests may be traced.
    pub fn traced(leader: Option<NodeId>, traces: Option<RequestTraces>) -> Self {
        let limits = SessionLimits {
            max_payload_bytes: 1 << 20,
            max_record_bytes: 1 << 20,
            max_in_flight_bytes: 1 << 20,
            max_requests: 100,
            max_fetch_bytes: 1 << 20,
            max_fetch_wait: Duration::from_secs(1),
            auto_create: false,
            shards: SHARDS,
            node: HERE,
            traces,
        };
        let core = SessionCore::new(ConnectionId(20), limits);
        Self { core, features: None, view: view(leader), effects: Vec::new() }
    }

    fn smart(leader: Option<NodeId>) -> Self {
        let mut session = Self::legacy(leader);
        let hello = Hello { minor_version: 1, features: FEATURES, client_name: "test".to_owned() };
        session.send(Request::Hello(hello));
        session.features = Some(FEATURES);
        session.effects.clear();
        session.core.output = Default::default();
        session
    }

    pub fn send(&mut self, request: Request) {
        let mut input = frame(request, 7, self.features);
        self.core.on_input(&mut input, &self.view, NOW, &mut self.effects);
        assert!(input.is_empty());
    }

    pub fn reply(&mut self, request: u64, answer: Answer<lance_actors::network::readers::SegmentRead>) {
        let replies = Replies { shard: 0, replies: vec![Reply { request, answer }], pressed: false, known_at: NOW };
        self.core.on_replies(replies, &self.view, NOW, &mut self.effects);
    }

    /// What was written since the last call.
    pub fn responses(&mut self) -> Vec<Response> {
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

    fn error(&mut self) -> TypedError {
        match self.responses().as_slice() {
            [Response::Error(error)] => error.clone(),
            other => panic!("{other:?}"),
        }
    }
}

pub fn fetch() -> Request {
    Request::Fetch(Fetch { topic: EVENTS.topic, offset: 4, max_bytes: 1000 })
}

fn subscribe() -> Request {
    Request::Subscribe(Subscribe { topic: EVENTS.topic, start_offset: 0, max_batch_bytes: 0, consumer_id: 5 })
}

fn commit() -> Request {
    Request::CommitOffset(CommitOffset { topic: EVENTS.topic, consumer_id: 5, offset: 6 })
}

fn look_up() -> Request {
    Request::LookupOffset(LookupOffset { partition: EVENTS, target: LookupTarget::Latest })
}

fn fetch_partitions() -> Request {
    let asked = FetchPartition { partition: EVENTS, offset: 4, max_bytes: 1000, near: false };
    let partitions = FetchList::new(&[asked]);
    Request::FetchPartitions(FetchPartitions {
        max_wait_ms: 100,
        min_bytes: 1,
        max_bytes: 1000,
        partitions,
        rack: String::new(),
    })
}

#[test]
fn a_client_with_hello_is_sent_to_the_leader() {
    for request in [produce(3, 1), fetch(), look_up(), subscribe(), commit()] {
        let mut session = Session::smart(Some(THERE));
        session.send(request);
        let error = session.error();
        assert_eq!((error.code, error.detail), (ErrorCode::NotLeader, address(THERE)));
        assert!(session.effects.is_empty(), "{:?}", session.effects);
    }
    let mut session = Session::smart(Some(THERE));
    session.send(fetch_partitions());
    let [Response::FetchPartitions(reply)] = &session.responses()[..] else { panic!() };
    let fetched = reply.partitions[0].0;
    assert_eq!((fetched.error, fetched.leader, fetched.next_offset), (Some(ErrorCode::NotLeader), THERE.0, 4));
}

#[test]
fn a_client_with_hello_hears_a_retriable_error_while_nobody_leads() {
    for request in [produce(3, 1), fetch(), look_up(), subscribe(), commit()] {
        let mut session = Session::smart(None);
        session.send(request);
        let error = session.error();
        assert_eq!((error.code, error.detail.as_str()), (ErrorCode::NotLeader, ""));
    }
}

#[test]
fn a_client_with_hello_learns_the_leader_when_a_shard_refuses() {
    let mut session = Session::smart(Some(HERE));
    for request in [produce(3, 1), fetch(), look_up(), subscribe(), fetch_partitions()] {
        session.send(request);
    }
    let effects = std::mem::take(&mut session.effects);
    session.view = view(Some(THIRD));
    for effect in effects {
        let code = ErrorCode::NotLeader;
        match effect {
            SessionEffect::Produce(_, produce) => session.reply(produce.request, Answer::Produced(Err(code))),
            SessionEffect::Fetch(_, fetch) => {
                let answer = Answer::Fetched { part: 0, partition: EVENTS, result: Err(code) };
                session.reply(fetch.request, answer);
            }
            SessionEffect::LookUp(_, look_up) => session.reply(look_up.request, Answer::LookedUp(Err(code))),
            SessionEffect::Committed(request, _) => {
                let view = session.view.clone();
                session.core.on_committed_offset(request, Err(code), &view, NOW, &mut session.effects);
            }
            other => panic!("{other:?}"),
        }
    }
    let responses = session.responses();
    assert_eq!(responses.len(), 5);
    for response in responses {
        match response {
            Response::Error(error) => {
                assert_eq!((error.code, error.detail), (ErrorCode::NotLeader, address(THIRD)));
            }
            Response::FetchPartitions(reply) => assert_eq!(reply.partitions[0].0.leader, THIRD.0),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nobody_is_sent_to_the_node_that_just_refused() {
    let mut session = Session::smart(Some(HERE));
    session.send(produce(3, 1));
    let Some(SessionEffect::Produce(_, produce)) = session.effects.pop() else { panic!() };
    session.reply(produce.request, Answer::Produced(Err(ErrorCode::NotLeader)));
    assert_eq!(session.error().detail, "");
}

#[test]
fn the_forwarder_is_asked_for_a_client_without_hello() {
    for leader in [Some(THERE), None] {
        let mut session = Session::legacy(leader);
        for request in [produce(3, 1), fetch(), subscribe(), commit()] {
            session.send(request);
        }
        let [
            SessionEffect::Produce(SHARDS, produce),
            SessionEffect::Fetch(SHARDS, fetch),
            SessionEffect::ForwardCommitted(asked_request, asked),
            SessionEffect::ForwardCommit(commit_request, commit),
        ] = &session.effects[..]
        else {
            panic!("{:?}", session.effects)
        };
        let (produce, fetch, asked_request, commit_request) =
            (produce.request, fetch.request, *asked_request, *commit_request);
        assert_eq!((asked.partition, asked.consumer_id, commit.offset), (EVENTS, 5, 6));
        let bounds = PartitionBounds { leader_epoch: LeaderEpoch(0), log_start_offset: 0, high_watermark_offset: 2 };
        // Answers leave in the order of their requests.
        let view = session.view.clone();
        session.core.on_committed(commit_request, Ok(()), &view, NOW, &mut session.effects);
        session.core.on_committed_offset(asked_request, Ok(Some(9)), &view, NOW, &mut session.effects);
        let result = Ok((bounds, FetchedData::BeyondEnd));
        session.reply(fetch, Answer::Fetched { part: 0, partition: EVENTS, result });
        assert!(session.responses().is_empty());
        let produced = Produced { base_offset: 0, record_count: 1, duplicate: false };
        session.reply(produce, Answer::Produced(Ok(produced)));
        assert_eq!(
            session.responses(),
            [
                Response::Ack { batch_id: 3, offsets: None },
                Response::CatchingUp { end_offset: 2 },
                Response::SubscribeAck { consumer_id: 5, offset: 9 },
                Response::CommitAck { consumer_id: 5, offset: 6 },
            ]
        );
    }
}

#[test]
fn batches_of_a_connection_stay_in_order_when_leadership_comes_here() {
    let mut session = Session::legacy(Some(THERE));
    session.send(produce(1, 1));
    session.view = view(Some(HERE));
    session.send(produce(2, 2));
    let requests: Vec<u64> = session
        .effects
        .drain(..)
        .map(|effect| match effect {
            SessionEffect::Produce(SHARDS, produce) => produce.request,
            other => panic!("{other:?}"),
        })
        .collect();
    for request in requests {
        session.reply(request, Answer::Produced(Err(ErrorCode::Unavailable)));
    }
    session.send(produce(3, 3));
    assert!(matches!(session.effects[..], [SessionEffect::Produce(shard, _)] if shard < SHARDS));
}

#[test]
fn a_client_without_hello_reads_on_when_leadership_leaves() {
    let mut session = Session::legacy(Some(HERE));
    session.send(fetch());
    let Some(SessionEffect::Fetch(shard, fetch)) = session.effects.pop() else { panic!() };
    assert!(shard < SHARDS);
    let refused = || Answer::Fetched { part: 0, partition: EVENTS, result: Err(ErrorCode::NotLeader) };
    session.reply(fetch.request, refused());
    let Some(SessionEffect::Fetch(SHARDS, again)) = session.effects.pop() else { panic!() };
    assert_eq!((again.request, again.offset, again.max_bytes), (fetch.request, 4, 1000));
}

#[test]
fn a_batch_that_leadership_left_behind_is_retriable_at_the_same_address() {
    let mut session = Session::legacy(Some(HERE));
    session.send(produce(3, 1));
    let Some(SessionEffect::Produce(_, produce)) = session.effects.pop() else { panic!() };
    session.view = view(Some(THERE));
    session.reply(produce.request, Answer::Produced(Err(ErrorCode::NotLeader)));
    let [Response::ErrorText(text)] = &session.responses()[..] else { panic!() };
    assert!(text.starts_with("FORWARD_FAILED"), "{text}");
}

#[test]
fn requests_in_a_forwarder_that_restarts_have_an_unknown_outcome() {
    let mut session = Session::legacy(Some(THERE));
    session.send(produce(3, 1));
    session.send(fetch());
    session.core.on_shard_restarted(SHARDS, NOW, &mut session.effects);
    let responses = session.responses();
    assert_eq!(responses.len(), 2);
    for response in responses {
        assert!(matches!(&response, Response::ErrorText(text) if text.starts_with("FORWARD_FAILED")), "{response:?}");
    }
}

#[test]
fn the_status_of_a_cluster_counts_nodes_and_names_their_state() {
    let mut session = Session::legacy(Some(THERE));
    session.view.alive.insert(THIRD, false);
    session.send(Request::GetClusterStatus);
    let [Response::ClusterStatus(json)] = &session.responses()[..] else { panic!() };
    let status: ClusterStatusBody = serde_json::from_slice(json).unwrap();
    let states: Vec<(&str, &str)> =
        status.peer_states.iter().map(|(node, state)| (node.as_str(), state.as_str())).collect();
    assert_eq!(states, [("2", "Connected"), ("3", "Disconnected")]);
    assert_eq!((status.node_count, status.healthy_nodes, status.mode), (3, 2, None));
    assert_eq!((status.is_leader, status.leader_id, status.current_term), (true, Some(1), 4));
}
