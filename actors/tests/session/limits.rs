//! Records that are too long, by every way in.

use crate::*;
use lance_messages::wire::compression::Codec;

const MOST: u32 = 2000;
/// Bytes of value in a record of just the limit.
const LONGEST: usize = MOST as usize - 5;
const IN_FLIGHT: usize = 1 << 20;

fn plain(records: Bytes) -> Request {
    produce(9, Compression::None, records)
}

fn unnamed_lz4(records: &Bytes) -> Request {
    let stored = Codec::Lz4.compress(records).unwrap();
    produce(9, Compression::Unnamed, Bytes::from(stored))
}

fn named(codec: Codec, records: &Bytes) -> Request {
    let stored = codec.compress(records).unwrap();
    let plain_len = records.len() as u32;
    produce(9, Compression::Named { codec, plain_len }, Bytes::from(stored))
}

/// Every way in: the client, the partition, and how its records come.
fn ways(records: &Bytes) -> Vec<(Session, u16, Request)> {
    let legacy = || Session::legacy(MOST, IN_FLIGHT);
    let greeted = || Session::greeted(MOST, IN_FLIGHT);
    vec![
        (legacy(), 0, plain(records.clone())),
        (legacy(), 0, unnamed_lz4(records)),
        (greeted(), 0, plain(records.clone())),
        (greeted(), 3, plain(records.clone())),
        (greeted(), 3, named(Codec::Lz4, records)),
        (greeted(), 3, named(Codec::Zstd, records)),
    ]
}

#[test]
fn a_record_over_the_limit_is_refused_by_every_way_in_and_nothing_of_its_batch_is_stored() {
    for (mut session, to, request) in ways(&records(&[10, LONGEST + 1, 10])) {
        let shown = format!("{request:?}");
        session.send(request, to);
        let (code, text) = session.error();
        assert_eq!(code, session.features.map(|_| ErrorCode::TooLarge), "{shown}");
        assert_eq!(text, "A record of 2001 bytes is over the 2000 that limits.max_record_bytes allows");
        assert!(session.stored().is_empty(), "{shown}");
        // The connection stays: the next batch is taken.
        assert!(!session.core.is_closing() && session.core.is_idle());
        session.send(plain(records(&[LONGEST])), to);
        let stored = session.stored();
        assert_eq!(stored.iter().map(|request| request.partition).collect::<Vec<_>>(), [partition(to)]);
    }
}

#[test]
fn records_of_just_the_limit_are_stored_by_every_way_in_however_many_there_are() {
    for (mut session, to, request) in ways(&records(&[LONGEST, LONGEST, 0, LONGEST])) {
        session.send(request, to);
        let stored = session.stored();
        assert_eq!(stored.iter().map(|request| request.record_count).collect::<Vec<_>>(), [4]);
        assert_eq!(session.responses(), []);
    }
}

#[test]
fn a_payload_that_is_no_records_counts_as_one() {
    let text = |bytes: usize| plain(Bytes::from(vec![b'x'; bytes]));
    let mut session = Session::legacy(MOST, IN_FLIGHT);
    session.send(text(MOST as usize), 0);
    assert_eq!(session.stored().len(), 1);
    session.send(text(MOST as usize + 1), 0);
    assert!(session.stored().is_empty());
}

#[test]
fn acks_of_batches_sent_before_come_before_the_refusal() {
    let mut session = Session::legacy(MOST, IN_FLIGHT);
    session.send(plain(records(&[1])), 0);
    session.send(plain(records(&[LONGEST + 1])), 0);
    assert_eq!(session.responses(), [], "the refusal waits for its turn");
    let stored = session.stored();
    session.answer(&stored, false);
    assert!(matches!(session.responses()[..], [Response::Ack { batch_id: 9, .. }, Response::ErrorText(_)]));
}
