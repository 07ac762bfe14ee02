//! What connections with Hello may do beyond 1.0: partitions, long polls, look-ups, typed errors.

use lance_integration::harness::process::lnc;
use lance_integration::harness::raw::{ACK, CONTROL, INGEST, control, frame};
use lance_integration::harness::records::{record, texts};
use lance_integration::harness::{Frame, Raw, Server, ServerSpec};
use std::time::{Duration, Instant};

const PARTITIONS: u64 = 1;
const TYPED_ERRORS: u64 = 1 << 2;
const ACK_OFFSETS: u64 = 1 << 3;
const IDEMPOTENT: u64 = 1 << 5;
const LONG_POLL: u64 = 1 << 6;
const LOOKUP: u64 = 1 << 7;

/// Says Hello and is granted exactly what it asks for.
fn greet(connection: &mut Raw, features: u64) {
    let hello = [&[1u8, 0, 4, 0][..], &features.to_le_bytes(), b"test"].concat();
    let answer = connection.control(0x40, &hello);
    assert_eq!((answer.batch_id, answer.u64_at(4)), (0xC0, features));
}

/// A server with a topic of four partitions; its id.
fn four_partitions() -> (Server, u32) {
    let server = ServerSpec::new().start();
    lnc(&server.address(), &["topic", "create", "four", "--partitions", "4"], b"").ok();
    (server, 1)
}

fn to_partition(topic: u32, partition: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(INGEST, 0, topic, payload);
    bytes[6..8].copy_from_slice(&partition.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..8]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// FetchPartitions: max wait, min bytes, max bytes, then (partition, offset) of one topic.
fn fetch_partitions(topic: u32, max_wait_ms: u32, asked: &[(u16, u64)]) -> Vec<u8> {
    let mut payload = [max_wait_ms, 1, 1 << 20, asked.len() as u32].map(u32::to_le_bytes).concat();
    for (partition, offset) in asked {
        payload.extend_from_slice(&topic.to_le_bytes());
        payload.extend_from_slice(&[partition.to_le_bytes(), [0, 0]].concat());
        payload.extend_from_slice(&offset.to_le_bytes());
        payload.extend_from_slice(&(1u32 << 20).to_le_bytes());
    }
    control(0x42, &payload)
}

/// Partition, error code, high watermark, next offset and data of each part of the answer.
fn parts(answer: &Frame) -> Vec<(u16, u16, u64, u64, Vec<u8>)> {
    assert_eq!((answer.flags, answer.batch_id), (CONTROL, 0xC2), "{}", answer.text());
    let mut found = Vec::new();
    let mut at = 4;
    let u16_at = |at: usize| u16::from_le_bytes([answer.payload[at], answer.payload[at + 1]]);
    for _ in 0..answer.u32_at(0) {
        let bytes = answer.u32_at(at + 52) as usize;
        let data = answer.payload[at + 56..at + 56 + bytes].to_vec();
        found.push((u16_at(at + 4), u16_at(at + 6), answer.u64_at(at + 16), answer.u64_at(at + 32), data));
        at += 56 + bytes;
    }
    assert_eq!(at, answer.payload.len());
    found
}

#[test]
fn partitions_are_logs_of_their_own_and_acks_tell_where_records_went() {
    let (server, topic) = four_partitions();
    let mut connection = server.connect();
    greet(&mut connection, PARTITIONS | ACK_OFFSETS | LONG_POLL);
    let mut expected = vec![Vec::new(); 4];
    for round in 0..5u32 {
        for partition in 0..4u16 {
            let payload = record(format!("{partition}/{round}").as_bytes());
            connection.send(&to_partition(topic, partition, &payload));
            let ack = connection.read();
            assert_eq!((ack.flags, ack.payload.len()), (ACK, 13), "{}", ack.text());
            assert_eq!((ack.u64_at(0), ack.u32_at(8)), (u64::from(round) * payload.len() as u64, 1));
            expected[usize::from(partition)].extend_from_slice(&payload);
        }
    }
    connection.send(&to_partition(topic, 4, b"nowhere"));
    assert_eq!(connection.read().text(), "Unknown partition");
    connection.send(&fetch_partitions(topic, 0, &[(0, 0), (1, 0), (2, 0), (3, 0), (9, 0)]));
    let answer = parts(&connection.read());
    for (partition, expected) in (0..4u16).zip(&expected) {
        let end = expected.len() as u64;
        assert_eq!(answer[usize::from(partition)], (partition, 0, end, end, expected.clone()));
    }
    assert_ne!(answer[4].1, 0, "an unknown partition is an error of its part");
    // A 1.0 client sees partition 0.
    assert_eq!(server.connect().read_from(topic, 0), expected[0]);
}

#[test]
fn a_long_poll_waits_for_records_and_no_longer() {
    let (server, topic) = four_partitions();
    let mut waiting = server.connect();
    greet(&mut waiting, PARTITIONS | LONG_POLL);
    let started = Instant::now();
    waiting.send(&fetch_partitions(topic, 300, &[(0, 0), (1, 0)]));
    let empty = parts(&waiting.read());
    assert!(started.elapsed() >= Duration::from_millis(290), "it came after {:?}", started.elapsed());
    assert!(empty.iter().all(|part| part.4.is_empty()), "{empty:?}");

    waiting.send(&fetch_partitions(topic, 60_000, &[(0, 0), (1, 0)]));
    // Acks of the same connection do not wait for the fetch.
    waiting.send(&to_partition(topic, 2, &record(b"another partition")));
    assert_eq!(waiting.read().flags, ACK);
    assert_eq!(waiting.read_within(Duration::from_millis(50)), None, "it still waits");
    let mut producer = server.connect();
    greet(&mut producer, PARTITIONS);
    producer.send(&to_partition(topic, 1, &record(b"awaited")));
    let answer = parts(&waiting.read());
    assert_eq!(texts(&answer[1].4), ["awaited"]);
    assert!(started.elapsed() < Duration::from_secs(30), "long before its time is over");
}

#[test]
fn offsets_are_looked_up_by_end_time_and_record_number() {
    let (server, topic) = four_partitions();
    let mut connection = server.connect();
    greet(&mut connection, PARTITIONS | LOOKUP);
    let bytes = record(b"0").len() as u64;
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut between = 0;
    for number in 0..10u64 {
        if number == 6 {
            between = now();
        }
        let mut ingest = to_partition(topic, 3, &record(number.to_string().as_bytes()));
        ingest[20..28].copy_from_slice(&now().to_le_bytes());
        connection.send(&ingest);
        assert_eq!(connection.read().flags, ACK);
    }
    let mut look_up = |kind: u8, value: u64| {
        let payload = [&topic.to_le_bytes()[..], &3u16.to_le_bytes(), &[kind, 0], &value.to_le_bytes()].concat();
        let answer = connection.control(0x43, &payload);
        assert_eq!(answer.batch_id, 0xC3, "{}", answer.text());
        (answer.u64_at(0), answer.u64_at(8))
    };
    assert_eq!(look_up(0, 0), (0, 0), "earliest");
    assert_eq!(look_up(1, 0), (10 * bytes, 10), "latest");
    assert_eq!(look_up(2, between), (6 * bytes, 6), "by time");
    assert_eq!(look_up(3, 4), (4 * bytes, 4), "by record number");
    assert_eq!(look_up(2, u64::MAX), (10 * bytes, 10), "later than all is the end");
}

#[test]
fn typed_errors_name_code_request_and_whether_to_try_again() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    greet(&mut connection, TYPED_ERRORS);
    let answer = connection.ingest(77, 0xABCD, b"x");
    assert_eq!((answer.flags, answer.batch_id), (CONTROL, 0xFF));
    assert_eq!(answer.payload[..2], 1u16.to_le_bytes(), "UnknownTopic");
    assert_eq!(u64::from_le_bytes(answer.payload[2..10].try_into().unwrap()), 0xABCD);
    assert_eq!(answer.payload[10], 2, "not retriable, answers an ingest frame");
    assert!(answer.text().contains("Unknown topic"));
}

#[test]
fn a_producer_epoch_that_was_never_given_out_is_refused() {
    let (server, topic) = four_partitions();
    let init = |connection: &mut Raw, id: u64, epoch: u16| {
        greet(connection, IDEMPOTENT);
        connection.control(0x41, &[&id.to_le_bytes()[..], &epoch.to_le_bytes()].concat())
    };
    let mut owner = server.connect();
    let bound = init(&mut owner, 0, 0);
    assert_eq!((bound.batch_id, bound.payload[8..10].to_vec()), (0xC1, vec![0, 0]), "{}", bound.text());
    let id = bound.u64_at(0);
    owner.send(&frame(INGEST, 0, topic, &record(b"first")));
    assert_eq!(owner.read().flags, ACK);
    for epoch in [1, 9, u16::MAX] {
        let refused = init(&mut server.connect(), id, epoch);
        assert!(refused.is_error() && refused.text().contains("never given out"), "{}", refused.text());
    }
    owner.send(&frame(INGEST, 1, topic, &record(b"second")));
    assert_eq!(owner.read().flags, ACK, "nobody fenced it");
    // Its own retry, over another connection, is recognised.
    let mut again = server.connect();
    assert_eq!(init(&mut again, id, 0).u64_at(0), id);
    again.send(&frame(INGEST, 1, topic, &record(b"second")));
    assert_eq!(again.read().flags, ACK);
    assert_eq!(texts(&server.connect().read_from(topic, 0)), ["first", "second"]);
}
