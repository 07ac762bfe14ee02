//! What a client is told that sends faster than it is served: one that said Hello hears Backpressure, one of 1.0 would not
//! know the frame and is not read from.

use crate::*;

/// Bytes a connection may have unanswered: two batches and a bit.
const IN_FLIGHT: usize = 2500;

/// Sends batches of 1005 bytes; gives what reached the shards.
fn flood(session: &mut Session, count: u64) -> Vec<ProduceRequest> {
    for batch_id in 0..count {
        session.send(produce(batch_id, Compression::None, records(&[1000])), 0);
    }
    session.stored()
}

fn backpressures(responses: &[Response]) -> usize {
    responses.iter().filter(|response| **response == Response::Backpressure).count()
}

fn acks(responses: &[Response]) -> usize {
    responses.iter().filter(|response| matches!(response, Response::Ack { .. })).count()
}

#[test]
fn a_client_with_hello_hears_once_an_episode_that_it_has_too_much_in_flight() {
    let mut session = Session::greeted(1 << 20, IN_FLIGHT);
    let first = flood(&mut session, 2);
    assert_eq!((first.len(), session.responses()), (2, vec![]), "that much it was granted");
    let third = flood(&mut session, 3);
    assert_eq!(third.len(), 1, "the one that goes over it is still taken, and no more");
    assert!(!session.core.wants_input() && !session.input.is_empty());
    assert_eq!(session.responses(), [Response::Backpressure]);
    session.answer(&first, false);
    session.answer(&third, false);
    assert_eq!(acks(&session.responses()), 3);
    // The two that waited are read, which is no pressure; another one is a new episode.
    session.read_on();
    let rest = session.stored();
    assert_eq!((rest.len(), session.input.len(), session.responses()), (2, 0, vec![]));
    flood(&mut session, 1);
    assert_eq!(session.responses(), [Response::Backpressure]);
}

#[test]
fn a_1_0_client_under_the_same_pressure_is_not_read_from_and_never_sent_a_frame_it_did_not_ask_for() {
    let mut session = Session::legacy(1 << 20, IN_FLIGHT);
    let taken = flood(&mut session, 5);
    assert_eq!(taken.len(), 3, "as many as of a client with Hello");
    assert!(!session.core.wants_input() && !session.input.is_empty(), "the rest stays where it is");
    assert!(session.core.output.is_empty(), "not a byte: {:?}", session.responses());
    session.answer(&taken, true);
    session.read_on();
    let rest = session.stored();
    assert_eq!((rest.len(), session.input.len()), (2, 0), "read once there is room");
    session.answer(&rest, true);
    let responses = session.responses();
    assert_eq!((acks(&responses), responses.len()), (5, 5), "acks, and nothing but acks: {responses:?}");
}

#[test]
fn a_shard_that_is_pressed_is_heard_of_by_clients_with_hello_alone() {
    for (mut session, expected) in [(Session::greeted(1 << 20, IN_FLIGHT), 1), (Session::legacy(1 << 20, IN_FLIGHT), 0)]
    {
        let taken = flood(&mut session, 1);
        session.answer(&taken, true);
        let responses = session.responses();
        assert_eq!((backpressures(&responses), acks(&responses)), (expected, 1));
    }
}

#[test]
fn a_quota_that_is_used_up_is_heard_of_by_clients_with_hello_alone_and_neither_is_read_from() {
    for (mut session, expected) in [(Session::greeted(1 << 20, IN_FLIGHT), 1), (Session::legacy(1 << 20, IN_FLIGHT), 0)]
    {
        session.core.set_throttled(true);
        assert_eq!(flood(&mut session, 1).len(), 0);
        let responses = session.responses();
        assert_eq!((backpressures(&responses), responses.len()), (expected, expected));
        session.core.set_throttled(false);
        session.read_on();
        assert_eq!(session.stored().len(), 1);
    }
}
