//! Frames as such: golden bytes, checksums, sizes, what is answered before a connection closes.

use lance_integration::harness::raw::{
    ACK, CONTROL, ERROR, HEADER_BYTES, INGEST, KEEPALIVE, control, empty_frame, frame,
};
use lance_integration::harness::{Frame, Server, ServerSpec};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// A correct keepalive frame, as published.
fn golden_keepalive() -> Vec<u8> {
    let mut bytes = vec![0x4C, 0x41, 0x4E, 0x43, 0x01, 0x20, 0x00, 0x00, 0x06, 0x1E, 0x9C, 0x53];
    bytes.resize(HEADER_BYTES, 0);
    bytes
}

/// The server answers `bytes` with an ErrorResponse that contains `text`, and closes; others go on.
fn expect_refusal(server: &Server, bytes: &[u8], text: &str) {
    let mut connection = server.connect();
    connection.send(bytes);
    let answer = connection.read();
    assert!(answer.is_error(), "{answer:?}");
    assert!(answer.text().contains(text), "{text:?} is missing in {:?}", answer.text());
    connection.expect_end();
}

#[test]
fn a_keepalive_is_answered_with_its_golden_bytes() {
    let server = ServerSpec::new().start();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(&golden_keepalive()).unwrap();
    let mut answer = [0u8; HEADER_BYTES];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..], golden_keepalive()[..]);
    // The batch id of the request is not echoed.
    let mut other = golden_keepalive();
    other[12] = 9;
    stream.write_all(&other).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..], golden_keepalive()[..]);
}

#[test]
fn replies_carry_zero_in_every_field_that_1_0_does_not_use() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("fields");
    let ack = connection.ingest(id, u64::MAX, b"opaque");
    assert_eq!(ack, Frame { flags: ACK, batch_id: u64::MAX, ..empty_frame() });
    let list = connection.control(0x03, b"");
    assert_eq!(list, Frame { flags: CONTROL, batch_id: 0x80, payload: list.payload.clone(), ..empty_frame() });
    let error = connection.ingest(id + 1, 5, b"x");
    assert_eq!(error, Frame { flags: CONTROL, batch_id: ERROR, payload: b"Unknown topic".to_vec(), ..empty_frame() });
}

#[test]
fn several_flags_follow_the_order_of_precedence_and_unknown_frames_are_ignored() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    // Control before Keepalive: ListTopics.
    connection.send(&frame(CONTROL | KEEPALIVE | ACK | INGEST, 0x03, 0, &[]));
    assert_eq!(connection.read().batch_id, 0x80);
    // Keepalive before Ack.
    connection.send(&frame(KEEPALIVE | ACK, 0, 0, &[]));
    assert_eq!(connection.read().flags, KEEPALIVE);
    // Ack, Backpressure and unknown frames of a client get no answer: the next one does.
    connection.send(&frame(ACK, 77, 0, &[]));
    connection.send(&frame(0x10, 77, 0, b"payload"));
    connection.send(&frame(0x00, 77, 0, &[]));
    connection.send(&frame(0x80, 77, 0, &[]));
    connection.ping();
    // The command is the low byte of the batch id; the header's topic id means nothing.
    connection.send(&frame(CONTROL, 0xABCD_0000_0000_0003, 999, &[]));
    assert_eq!(connection.read().batch_id, 0x80);
}

#[test]
fn frames_that_are_none_get_an_error_that_says_why_and_the_connection_ends() {
    let server = ServerSpec::new().start();
    let mut magic = control(0x03, b"");
    magic[0] = b'X';
    expect_refusal(&server, &magic, "magic");
    let mut version = control(0x03, b"");
    version[4] = 2;
    expect_refusal(&server, &version, "version");
    let mut header_crc = control(0x03, b"");
    header_crc[8] ^= 1;
    expect_refusal(&server, &header_crc, "header CRC");
    let mut castagnoli = golden_keepalive();
    castagnoli[8..12].copy_from_slice(&0x52C8_6CB0_u32.to_le_bytes());
    expect_refusal(&server, &castagnoli, "header CRC");
    let mut payload_crc = control(0x01, b"topic");
    payload_crc[36] ^= 1;
    expect_refusal(&server, &payload_crc, "payload CRC");
    expect_refusal(&server, b"GET / HTTP/1.1\r\n\r\n", "magic");
    let mut connection = server.connect();
    assert!(!connection.control(0x03, b"").text().contains("topic\""), "a damaged frame did nothing");
}

#[test]
fn the_reserved_field_is_not_checked() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let mut bytes = control(0x03, b"");
    bytes[6..8].copy_from_slice(&[0x34, 0x12]);
    let crc = crc32fast::hash(&bytes[..8]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    connection.send(&bytes);
    assert_eq!(connection.read().batch_id, 0x80);
}

#[test]
fn what_came_before_a_broken_frame_is_answered_first() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("before");
    let mut bytes = Vec::new();
    for batch_id in 1..=20 {
        bytes.extend_from_slice(&frame(INGEST, batch_id, id, b"payload"));
    }
    bytes.extend_from_slice(&[0xFF; HEADER_BYTES]);
    connection.send(&bytes);
    for batch_id in 1..=20 {
        let ack = connection.read();
        assert_eq!((ack.flags, ack.batch_id), (ACK, batch_id));
    }
    assert!(connection.read().is_error());
    connection.expect_end();
}

#[test]
fn a_payload_of_exactly_16_mib_is_taken_and_one_byte_more_is_refused() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("large");
    let payload: Vec<u8> = (0..MAX_PAYLOAD).map(|at| (at / 251) as u8).collect();
    connection.store(id, 1, &payload);
    let stored = connection.read_from(id, 0);
    assert_eq!(stored.len(), payload.len());
    assert!(stored == payload, "the bytes differ");

    // The length alone is refused: nobody waits for its bytes.
    let mut header = frame(INGEST, 2, id, b"")[..HEADER_BYTES].to_vec();
    header[32..36].copy_from_slice(&(MAX_PAYLOAD as u32 + 1).to_le_bytes());
    expect_refusal(&server, &header, "16777217");
    header[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    expect_refusal(&server, &header, "4294967295");
    connection.ping();
}

#[test]
fn a_fetch_reply_stays_below_what_public_clients_take() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("cap");
    let payload = vec![7u8; MAX_PAYLOAD];
    connection.store(id, 1, &payload);
    connection.store(id, 2, &payload);
    let fetched = connection.fetch(id, 0, u32::MAX);
    assert!(fetched.data.len() <= MAX_PAYLOAD - 60, "{} bytes", fetched.data.len());
    assert!(!fetched.data.is_empty());
    assert_eq!(connection.read_from(id, 0).len(), 2 * MAX_PAYLOAD);
}

#[test]
fn a_frame_may_arrive_byte_by_byte() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    for byte in control(0x01, b"slow") {
        connection.send(&[byte]);
    }
    assert_eq!(connection.read().json()["name"], "slow");
}

#[test]
fn a_connection_that_ends_inside_a_frame_leaves_nothing_behind() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("cut");
    let bytes = frame(INGEST, 1, id, b"never whole");
    for length in [1, 12, HEADER_BYTES, bytes.len() - 1] {
        let mut other = server.connect();
        other.send(&bytes[..length]);
        other.finish();
        other.expect_end();
    }
    assert_eq!(connection.read_from(id, 0), b"");
}

#[test]
fn a_connection_without_hello_gets_no_frame_it_did_not_ask_for() {
    let server = ServerSpec::new().set("limits.idle_timeout_ms=400").start();
    let mut quiet = server.connect();
    quiet.ping();
    // Another one says Hello: it is sent keepalives, and closed when it stays silent.
    let mut greeted = server.connect();
    let hello = [&[1u8, 0, 4, 0][..], &0u64.to_le_bytes(), b"test"].concat();
    assert_eq!(greeted.control(0x40, &hello).batch_id, 0xC0);
    let mut keepalives = 0;
    while let Ok(frame) = greeted.try_read() {
        assert_eq!(frame.flags, KEEPALIVE);
        keepalives += 1;
    }
    assert!(keepalives >= 1, "a connection with Hello is asked whether it lives");
    // The quiet one was silent for as long; the first frame it gets is the answer to its question.
    let id = quiet.create_topic("quiet");
    quiet.store(id, 1, b"still served");
}
