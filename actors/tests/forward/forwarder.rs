//! The forwarder's decisions: links, order, refusals, lost connections, bounds.

use crate::support::*;
use bytes::{Bytes, BytesMut};
use lance_actors::forward::core::answers::LinkAnswer;
use lance_actors::forward::core::*;
use lance_actors::view::ClusterView;
use lance_messages::batch::BatchFlags;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, NodeId};
use lance_messages::mail::connection::{Answer, FetchedData};
use lance_messages::mail::group::{CommitOffset, CommittedOffset};
use lance_messages::mail::ingestion::{Fetch, ProduceRequest};
use lance_messages::wire::produce::AckOffsets;
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{FrameLimits, Request, RequestFrame, Response, ResponseFrame, next_frame};
use std::time::Duration;

const CLIENT: ConnectionId = ConnectionId(20);
const MIB: u32 = 1 << 20;

struct Forwarder {
    core: ForwardCore,
    view: ClusterView,
    now_ms: u64,
    effects: Vec<ForwardEffect>,
}

/// A frame on a link, with the id its answer must carry.
#[derive(Debug)]
struct Asked {
    link: LinkId,
    id: u64,
    request: Request,
    bytes: u64,
}

impl Forwarder {
    fn new(leader: Option<NodeId>) -> Self {
        Self { core: ForwardCore::new(1), view: view(leader), now_ms: 1000, effects: Vec::new() }
    }

    fn produce(&mut self, request: u64, value: u8) {
        let records = records(value);
        let request = ProduceRequest {
            request,
            partition: EVENTS,
            records_crc: crc32fast::hash(&records),
            plain_len: records.len() as u32,
            records,
            record_count: 1,
            flags: BatchFlags::RECORDS,
            timestamp_ns: 77,
            producer: None,
            at: None,
            trace: None,
        };
        self.core.on_produce(CLIENT, request, &self.view, self.now_ms, &mut self.effects);
    }

    fn fetch(&mut self, request: u64) {
        let fetch = Fetch {
            connection: CLIENT,
            request,
            part: 0,
            partition: EVENTS,
            offset: 4,
            max_bytes: 8 * MIB,
            max_wait: Duration::ZERO,
            stored: false,
            near: false,
            trace: None,
        };
        self.core.on_fetch(fetch, &self.view, self.now_ms, &mut self.effects);
    }

    /// The links opened since the last call, by where they lead.
    fn opened(&mut self) -> Vec<(LinkId, String)> {
        let opened = self.effects.extract_if(.., |effect| matches!(effect, ForwardEffect::Open { .. }));
        opened
            .map(|effect| match effect {
                ForwardEffect::Open { link, address } => (link, address),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// Lets the one link that was opened stand.
    fn connect(&mut self, to: NodeId) -> LinkId {
        let opened = self.opened();
        let [(link, found)] = &opened[..] else { panic!("{opened:?}") };
        assert_eq!(*found, address(to));
        self.core.on_link_up(*link, 16 * MIB, &self.view, self.now_ms, &mut self.effects);
        *link
    }

    fn asked(&mut self) -> Vec<Asked> {
        let limits = FrameLimits { header_crc: FORWARD_FEATURES.header_crc(), ..FrameLimits::default() };
        let sent = self.effects.extract_if(.., |effect| matches!(effect, ForwardEffect::Send { .. }));
        sent.map(|effect| {
            let ForwardEffect::Send { link, pieces } = effect else { panic!() };
            let mut bytes = BytesMut::from(&pieces.concat()[..]);
            let length = bytes.len() as u64;
            let frame = next_frame(&mut bytes, &limits).unwrap().unwrap();
            let frame = RequestFrame::decode(frame, Some(FORWARD_FEATURES)).unwrap();
            let id = match &frame.request {
                Request::Produce(produce) => produce.batch_id,
                _ => frame.correlation,
            };
            Asked { link, id, request: frame.request, bytes: length }
        })
        .collect()
    }

    fn answer(&mut self, asked: &Asked, response: Response) {
        let correlation = if matches!(asked.request, Request::Produce(_)) { 0 } else { asked.id };
        let answers = vec![LinkAnswer { frame: ResponseFrame { correlation, response }, data_crc: 5 }];
        self.core.on_answers(asked.link, answers, &self.view, self.now_ms, &mut self.effects);
    }

    fn ack(&mut self, asked: &Asked) {
        let offsets = AckOffsets { base_offset: asked.id * 100, record_count: 1, duplicate: false };
        self.answer(asked, Response::Ack { batch_id: asked.id, offsets: Some(offsets) });
    }

    fn refuse(&mut self, asked: &Asked, code: ErrorCode, detail: &str) {
        let answers = match asked.request {
            Request::Produce(_) => Answers::Ingest(asked.id),
            _ => Answers::Control(0x10),
        };
        let error = TypedError { detail: detail.to_owned(), ..TypedError::new(code, answers) };
        self.answer(asked, Response::Error(error));
    }

    fn end(&mut self, link: LinkId, written: u64) {
        self.core.on_link_ended(link, written, &self.view, self.now_ms, &mut self.effects);
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.core.on_tick(&self.view, self.now_ms, &mut self.effects);
    }

    /// Answers to batches since the last call: request, and why it failed.
    fn produced(&mut self) -> Vec<(u64, Option<ErrorCode>)> {
        let replies = self.effects.extract_if(.., |effect| matches!(effect, ForwardEffect::Reply(..)));
        replies
            .map(|effect| match effect {
                ForwardEffect::Reply(CLIENT, reply) => match reply.answer {
                    Answer::Produced(result) => (reply.request, result.err()),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

fn values(asked: &[Asked]) -> Vec<u8> {
    let value = |asked: &Asked| match &asked.request {
        Request::Produce(produce) => *produce.records.last().unwrap(),
        other => panic!("{other:?}"),
    };
    asked.iter().map(value).collect()
}

#[test]
fn batches_reach_the_leader_in_order_and_are_acked() {
    let mut forwarder = Forwarder::new(Some(THERE));
    (1..=3).for_each(|value| forwarder.produce(u64::from(value), value));
    assert!(forwarder.asked().is_empty(), "nothing leaves before the link stands");
    forwarder.connect(THERE);
    let asked = forwarder.asked();
    assert_eq!(values(&asked), [1, 2, 3]);
    let Request::Produce(first) = &asked[0].request else { panic!() };
    assert_eq!((first.topic, first.timestamp, first.record_count), (EVENTS.topic, 77, 1));
    asked.iter().for_each(|asked| forwarder.ack(asked));
    assert_eq!(forwarder.produced(), [(1, None), (2, None), (3, None)]);
    assert_eq!(forwarder.core.held_requests(), 0);
}

#[test]
fn a_batch_that_a_node_refuses_goes_to_the_leader_it_names() {
    let mut forwarder = Forwarder::new(Some(THERE));
    forwarder.produce(1, 1);
    forwarder.produce(2, 2);
    forwarder.connect(THERE);
    let asked = forwarder.asked();
    forwarder.refuse(&asked[0], ErrorCode::NotLeader, &address(THIRD));
    assert!(forwarder.opened().is_empty(), "those behind it are answered first");
    forwarder.refuse(&asked[1], ErrorCode::NotLeader, &address(THIRD));
    forwarder.connect(THIRD);
    let again = forwarder.asked();
    assert_eq!(values(&again), [1, 2]);
    again.iter().for_each(|asked| forwarder.ack(asked));
    assert_eq!(forwarder.produced(), [(1, None), (2, None)]);
}

#[test]
fn a_batch_is_never_stored_behind_one_that_came_later() {
    let mut forwarder = Forwarder::new(Some(THERE));
    forwarder.produce(1, 1);
    forwarder.produce(2, 2);
    forwarder.connect(THERE);
    let asked = forwarder.asked();
    forwarder.refuse(&asked[0], ErrorCode::Unavailable, "");
    forwarder.pass(1000);
    assert!(forwarder.asked().is_empty());
    forwarder.ack(&asked[1]);
    forwarder.pass(1000);
    assert!(forwarder.asked().is_empty());
    let mut produced = forwarder.produced();
    produced.sort_by_key(|(request, _)| *request);
    assert_eq!(produced, [(1, Some(ErrorCode::Unavailable)), (2, None)]);
}

#[test]
fn a_request_waits_for_a_leader_and_then_hears_that_it_may_try_again() {
    let mut forwarder = Forwarder::new(None);
    forwarder.produce(1, 1);
    forwarder.pass(2000);
    forwarder.view = view(Some(THIRD));
    forwarder.pass(20);
    forwarder.connect(THIRD);
    let asked = forwarder.asked();
    forwarder.ack(&asked[0]);
    assert_eq!(forwarder.produced(), [(1, None)]);
    forwarder.view = view(None);
    forwarder.produce(2, 2);
    forwarder.pass(PATIENCE_MS - 1);
    assert!(forwarder.produced().is_empty());
    forwarder.pass(1);
    assert_eq!(forwarder.produced(), [(2, Some(ErrorCode::Unavailable))]);
    assert_eq!(forwarder.core.held_requests(), 0);
}

#[test]
fn a_batch_that_may_be_stored_is_not_sent_again() {
    let mut forwarder = Forwarder::new(Some(THERE));
    forwarder.produce(1, 1);
    forwarder.produce(2, 2);
    let link = forwarder.connect(THERE);
    let asked = forwarder.asked();
    forwarder.view = view(Some(THIRD));
    // All of the first frame left, and a part of the second.
    forwarder.end(link, asked[0].bytes + 1);
    assert_eq!(forwarder.produced(), [(1, Some(ErrorCode::OutcomeUnknown))]);
    forwarder.pass(100);
    forwarder.connect(THIRD);
    assert_eq!(values(&forwarder.asked()), [2]);
}

#[test]
fn an_address_that_does_not_answer_is_asked_again_with_pauses() {
    let mut forwarder = Forwarder::new(Some(THERE));
    forwarder.produce(1, 1);
    let mut attempts = 0;
    for _ in 0..PATIENCE_MS / 10 {
        for (link, _) in forwarder.opened() {
            attempts += 1;
            forwarder.end(link, 0);
        }
        forwarder.pass(10);
    }
    assert!((50..=110).contains(&attempts), "{attempts}");
    assert_eq!(forwarder.produced(), [(1, Some(ErrorCode::Unavailable))]);
}

#[test]
fn what_the_leader_answers_to_a_fetch_is_passed_on() {
    let mut forwarder = Forwarder::new(Some(THERE));
    forwarder.fetch(1);
    forwarder.fetch(2);
    let link = forwarder.connect(THERE);
    let asked = forwarder.asked();
    let Request::Fetch(fetch) = asked[0].request else { panic!() };
    assert_eq!((fetch.offset, fetch.max_bytes), (4, FETCH_BYTES));
    let data = Bytes::from_static(b"abc");
    forwarder.answer(&asked[0], Response::Fetch { next_offset: 7, record_count: 1, data: data.clone() });
    let Some(ForwardEffect::Reply(CLIENT, reply)) = forwarder.effects.pop() else { panic!() };
    let Answer::Fetched { result: Ok((_, FetchedData::Tail { data: found, next_offset: 7, crc: 5, .. })), .. } =
        reply.answer
    else {
        panic!()
    };
    assert_eq!(found, data);
    // A read changes nothing: it is repeated over the next connection.
    forwarder.end(link, 1000);
    forwarder.pass(100);
    forwarder.connect(THERE);
    let again = forwarder.asked();
    forwarder.answer(&again[0], Response::CatchingUp { end_offset: 2 });
    let Some(ForwardEffect::Reply(CLIENT, reply)) = forwarder.effects.pop() else { panic!() };
    assert_eq!(reply.request, 2);
    let Answer::Fetched { result: Ok((bounds, FetchedData::BeyondEnd)), .. } = reply.answer else { panic!() };
    assert_eq!(bounds.high_watermark_offset, 2);
}

#[test]
fn offsets_are_stored_and_asked_for_where_their_topic_is_led() {
    let mut forwarder = Forwarder::new(Some(THERE));
    let commit = CommitOffset { partition: EVENTS, consumer_id: 5, offset: 6 };
    let asked = CommittedOffset { partition: EVENTS, consumer_id: 5 };
    forwarder.core.on_commit(1, commit, &forwarder.view, forwarder.now_ms, &mut forwarder.effects);
    forwarder.connect(THERE);
    let frames = forwarder.asked();
    assert!(matches!(frames[0].request, Request::CommitOffset(commit) if commit.offset == 6));
    forwarder.answer(&frames[0], Response::CommitAck { consumer_id: 5, offset: 6 });
    assert!(matches!(forwarder.effects.pop(), Some(ForwardEffect::Committed(1, Ok(())))));
    forwarder.core.on_committed(2, asked, &forwarder.view, forwarder.now_ms, &mut forwarder.effects);
    forwarder.connect(THERE);
    let frames = forwarder.asked();
    assert!(matches!(frames[0].request, Request::Subscribe(subscribe) if subscribe.start_offset == 0));
    forwarder.answer(&frames[0], Response::SubscribeAck { consumer_id: 5, offset: 6 });
    assert!(matches!(forwarder.effects.pop(), Some(ForwardEffect::CommittedOffset(2, Ok(Some(6))))));
}

#[test]
fn a_link_carries_so_much_and_the_rest_follows() {
    let mut forwarder = Forwarder::new(Some(THERE));
    for request in 0..LINK_REQUESTS as u64 + 1 {
        forwarder.produce(request, 1);
    }
    forwarder.connect(THERE);
    let asked = forwarder.asked();
    assert_eq!(asked.len(), LINK_REQUESTS);
    forwarder.ack(&asked[0]);
    assert_eq!(forwarder.asked().len(), 1);
}

#[test]
fn more_than_may_be_held_is_refused_at_once() {
    let mut forwarder = Forwarder::new(None);
    for request in 0..=HELD_REQUESTS as u64 {
        forwarder.produce(request, 1);
    }
    assert_eq!(forwarder.produced(), [(HELD_REQUESTS as u64, Some(ErrorCode::Overloaded))]);
}

#[test]
fn a_silent_node_that_leads_no_more_is_given_up() {
    let mut forwarder = Forwarder::new(Some(THERE));
    forwarder.produce(1, 1);
    let link = forwarder.connect(THERE);
    let asked = forwarder.asked();
    forwarder.pass(6000);
    assert!(forwarder.effects.is_empty(), "it still leads: {:?}", forwarder.effects);
    forwarder.view = view(Some(THIRD));
    forwarder.pass(1000);
    assert!(matches!(forwarder.effects[..], [ForwardEffect::Close(closed)] if closed == link));
    forwarder.effects.clear();
    forwarder.end(link, asked[0].bytes);
    assert_eq!(forwarder.produced(), [(1, Some(ErrorCode::OutcomeUnknown))]);
}

#[test]
fn a_node_that_answers_out_of_order_is_believed_no_more() {
    let mut forwarder = Forwarder::new(Some(THERE));
    forwarder.produce(1, 1);
    let link = forwarder.connect(THERE);
    let asked = forwarder.asked();
    forwarder.answer(&asked[0], Response::Ack { batch_id: 99, offsets: None });
    assert!(matches!(forwarder.effects[..], [ForwardEffect::Close(closed)] if closed == link));
}

#[test]
fn links_that_nobody_uses_are_closed() {
    let mut forwarder = Forwarder::new(Some(THERE));
    forwarder.produce(1, 1);
    let link = forwarder.connect(THERE);
    let asked = forwarder.asked();
    forwarder.ack(&asked[0]);
    forwarder.effects.clear();
    forwarder.pass(60_000);
    assert!(matches!(forwarder.effects[..], [ForwardEffect::Close(closed)] if closed == link));
    forwarder.effects.clear();
    forwarder.end(link, 0);
    assert_eq!(forwarder.core.next_tick_ms(), None);
}
