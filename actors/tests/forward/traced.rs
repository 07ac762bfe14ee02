//! A session whose requests are traced: which stages it tells, and when.

use crate::sessions::{NOW, Session, fetch};
use crate::support::*;
use lance_actors::network::session::SessionEffect;
use lance_actors::stages::{RequestTraces, Stage, StageError, StageSpan};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::LeaderEpoch;
use lance_messages::mail::connection::{Answer, FetchedData, PartitionBounds, Produced};
use lance_messages::wire::Response;

/// The stages that are over since the last call.
fn told(session: &mut Session) -> Vec<StageSpan> {
    let is_stage = |effect: &mut SessionEffect| matches!(effect, SessionEffect::StageOver(_));
    let over = session.effects.extract_if(.., is_stage);
    over.filter_map(|effect| if let SessionEffect::StageOver(span) = effect { Some(*span) } else { None }).collect()
}

fn all() -> Option<RequestTraces> {
    Some(RequestTraces::new(9, 1.0, true))
}

#[test]
fn a_produce_request_carries_its_context_and_ends_with_its_ack() {
    let mut session = Session::traced(Some(HERE), all());
    session.send(produce(3, 1));
    assert_eq!(told(&mut session), []);
    let Some(SessionEffect::Produce(_, produce)) = session.effects.pop() else { panic!() };
    let trace = produce.trace.unwrap();
    assert!(trace.context.is_sampled());
    assert_eq!(trace.received_at, NOW);
    session
        .reply(produce.request, Answer::Produced(Ok(Produced { base_offset: 0, record_count: 1, duplicate: false })));
    let spans = told(&mut session);
    let [ack, publish] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!((ack.stage, ack.parent, ack.partition), (Stage::Ack, trace.context, Some(EVENTS)));
    assert!(matches!(publish.stage, Stage::Publish { records: 1, .. }), "{publish:?}");
    assert_eq!((publish.parent.span_id, publish.span_id), ([0; 8], Some(trace.context.span_id)));
    assert_eq!((publish.started, publish.error), (NOW, None));
}

#[test]
fn requests_that_are_not_sampled_carry_nothing_and_tell_nothing() {
    for traces in [None, Some(RequestTraces::new(9, 0.0, true))] {
        let mut session = Session::traced(Some(HERE), traces);
        session.send(produce(3, 1));
        session.send(fetch());
        let [SessionEffect::Produce(_, produce), SessionEffect::Fetch(_, fetch)] = &session.effects[..] else {
            panic!("{:?}", session.effects)
        };
        assert!(produce.trace.is_none() && fetch.trace.is_none());
        let request = produce.request;
        session.reply(request, Answer::Produced(Ok(Produced { base_offset: 0, record_count: 1, duplicate: false })));
        assert_eq!(told(&mut session), []);
    }
}

#[test]
fn a_fetch_ends_when_the_socket_has_taken_its_answer() {
    let mut session = Session::traced(Some(HERE), all());
    session.send(fetch());
    let Some(SessionEffect::Fetch(_, asked)) = session.effects.pop() else { panic!() };
    let bounds = PartitionBounds { leader_epoch: LeaderEpoch(3), log_start_offset: 0, high_watermark_offset: 2 };
    let result = Ok((bounds, FetchedData::BeyondEnd));
    session.reply(asked.request, Answer::Fetched { part: 0, partition: EVENTS, result });
    assert!(session.core.sends_traced());
    session.core.on_written(&mut session.effects);
    assert_eq!(told(&mut session), [], "nothing was written yet");
    assert_eq!(session.responses(), [Response::CatchingUp { end_offset: 2 }]);
    session.core.on_written(&mut session.effects);
    let spans = told(&mut session);
    let [send, receive] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!(receive.stage, Stage::Receive { partitions: 1, records: 0, bytes: 0 });
    assert_eq!((send.stage, Some(send.parent.span_id)), (Stage::Send { bytes: 0 }, receive.span_id));
    assert!(!session.core.sends_traced());
}

#[test]
fn what_is_refused_says_why_and_what_is_left_at_the_end_says_so() {
    let mut session = Session::traced(Some(HERE), all());
    session.send(produce(3, 1));
    let Some(SessionEffect::Produce(_, refused)) = session.effects.pop() else { panic!() };
    session.reply(refused.request, Answer::Produced(Err(ErrorCode::NoSpace)));
    assert_eq!(told(&mut session).pop().unwrap().error, Some(StageError::Refused(ErrorCode::NoSpace)));
    session.send(produce(4, 1));
    session.effects.clear();
    session.core.close_spans(&mut session.effects);
    let spans = told(&mut session);
    let [left] = &spans[..] else { panic!("{spans:#?}") };
    assert!(matches!(left.stage, Stage::Publish { .. }));
    assert_eq!(left.error, Some(StageError::Closed));
}
