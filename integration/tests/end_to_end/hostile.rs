//! Clients that mean harm, or do not care: the server stays up, small, and there for the others.

use lance_integration::harness::process::{peak_resident_bytes, resident_bytes};
use lance_integration::harness::raw::{
    ACK, COMPRESSED_INGEST, CONTROL, HEADER_BYTES, INGEST, control, fetch_payload, fetched, frame,
};
use lance_integration::harness::records::{record, split};
use lance_integration::harness::{Raw, Server, ServerSpec, eventually, http, is_long};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use std::io::{ErrorKind, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Frames that one hostile connection sends.
const FRAMES: usize = 100;

fn hostile_frames() -> u64 {
    if is_long() { 3_000_000 } else { 100_000 }
}

fn random_bytes(random: &mut StdRng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..most)];
    random.fill_bytes(&mut bytes);
    bytes
}

/// A frame with right checksums and senseless contents: answered, and the connection goes on.
fn senseless_frame(random: &mut StdRng, topic: u32) -> Vec<u8> {
    let payload = random_bytes(random, 200);
    match random.random_range(0..10) {
        0..4 => {
            // Neither topics of others are deleted nor the rules of the connection changed.
            let command = [1u64, 3, 4, 5, 6, 7, 8, 9, 0x10, 0x20, 0x21, 0x22, 0x41, 0x44, 0x80, 0xFF];
            control(command[random.random_range(0..command.len())], &payload)
        }
        4 => frame(random.random(), random.random(), random.random(), &payload),
        5 => frame(COMPRESSED_INGEST, random.random(), topic, &payload),
        6 => frame(INGEST, random.random(), random.random_range(1_000..2_000), &payload),
        7 => control(0x10, &fetch_payload(topic, random.random(), random.random())),
        8 => control(0x10, &fetch_payload(topic, random.random_range(0..5_000), random.random_range(0..9_000))),
        _ => frame(INGEST, random.random(), topic, &payload),
    }
}

/// A frame that ends its connection.
fn broken_frame(random: &mut StdRng, topic: u32) -> Vec<u8> {
    let mut bytes = frame(INGEST, 1, topic, &random_bytes(random, 300));
    match random.random_range(0..5) {
        0 => bytes = random_bytes(random, 2_000),
        1 => bytes[32..36].copy_from_slice(&random.random_range(16 * MIB as u32 + 1..=u32::MAX).to_le_bytes()),
        2 => bytes.truncate(random.random_range(0..bytes.len())),
        3 => bytes[36] ^= 0x55,
        _ => bytes[random.random_range(0..12)] ^= random.random_range(1..=255u8),
    }
    bytes
}

/// Sends frames on connection after connection until `count` were sent by all.
fn attack(address: &str, topic: u32, seed: u64, sent: &AtomicU64, count: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    while sent.fetch_add(FRAMES as u64, Ordering::Relaxed) < count {
        let mut bytes = Vec::new();
        for _ in 1..FRAMES {
            bytes.extend(senseless_frame(&mut random, topic));
        }
        bytes.extend(broken_frame(&mut random, topic));
        let Ok(mut connection) = Raw::try_connect(address) else { continue };
        if connection.try_send(&bytes).is_ok() {
            let _ = connection.stream().shutdown(std::net::Shutdown::Write);
            // Whatever it says; what counts is that it ends.
            let drained = std::io::copy(&mut connection.stream().take(1 << 30), &mut std::io::sink());
            if let Err(error) = drained {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            }
        }
    }
}

/// Stores and reads back until told to stop; the number of rounds, and the longest.
fn work(mut connection: Raw, topic: u32, stop: &AtomicBool) -> (u64, Duration) {
    let (mut rounds, mut longest, mut offset) = (0, Duration::ZERO, 0);
    while !stop.load(Ordering::Acquire) {
        let started = Instant::now();
        let payload = record(format!("round {rounds}").as_bytes());
        connection.store(topic, rounds, &payload);
        let fetched = connection.fetch(topic, offset, 4096);
        assert_eq!(fetched.data, payload);
        offset = fetched.next_offset;
        rounds += 1;
        longest = longest.max(started.elapsed());
    }
    (rounds, longest)
}

/// Does `harm` while another connection works; that one must not notice.
fn while_working(server: &Server, harm: impl FnOnce()) {
    let mut connection = server.connect();
    let topic = connection.create_topic("undisturbed");
    let stop = Arc::new(AtomicBool::new(false));
    let working = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || work(connection, topic, &stop))
    };
    harm();
    stop.store(true, Ordering::Release);
    let (rounds, longest) = working.join().expect("the other connection works");
    println!("{rounds} rounds of work, the longest {longest:?}");
    assert!(rounds > 10, "only {rounds} rounds");
    assert!(longest < Duration::from_secs(10), "a round took {longest:?}");
}

fn expect_no_restart(server: &Server) {
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
    let restarts = http::metric(&server.admin(), "lance_actor_restarts_total", &[]);
    assert_eq!(restarts.unwrap_or(0.0), 0.0, "restarts");
}

#[test]
fn hostile_frames_panic_nothing_use_no_memory_and_disturb_nobody() {
    let server = ServerSpec::new().set("limits.max_topics=100").start();
    let topic = server.connect().create_topic("attacked");
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let sent = AtomicU64::new(0);
    while_working(&server, || {
        std::thread::scope(|scope| {
            for number in 0..6 {
                let (address, sent) = (server.address(), &sent);
                scope.spawn(move || attack(&address, topic, seed ^ number, sent, hostile_frames()));
            }
        });
    });
    let peak = peak_resident_bytes(server.pid());
    println!("{} frames, at most {} MiB resident", sent.load(Ordering::Relaxed), peak / MIB);
    assert!(peak < 400 * MIB, "{} MiB resident", peak / MIB);
    expect_no_restart(&server);
    assert!(http::metric(&server.admin(), "lance_bad_frames_total", &[]).unwrap() > 0.0);
    eventually("connections that ended are forgotten", || {
        (http::metric(&server.admin(), "lance_connections", &[]) == Some(0.0)).then_some(())
    });
}

#[test]
fn connections_over_the_limit_are_told_so_and_the_others_stay() {
    let server = ServerSpec::new().set("limits.max_connections=10").start();
    let mut connections: Vec<Raw> = (0..10).map(|_| server.connect()).collect();
    connections.iter_mut().for_each(Raw::ping);
    let mut refused = server.connect();
    let answer = refused.read();
    assert!(answer.is_error() && answer.text().contains("too many connections"), "{}", answer.text());
    refused.expect_end();
    connections.iter_mut().for_each(Raw::ping);
    connections.pop();
    eventually("a place for another connection", || {
        let mut connection = Raw::try_connect(&server.address()).ok()?;
        connection.try_send(&control(0x03, b"")).ok()?;
        connection.try_read().ok().filter(|answer| answer.batch_id == 0x80)
    });
    assert!(http::metric(&server.admin(), "lance_connections_refused_total", &[]).unwrap() >= 1.0);
}

#[test]
fn a_thousand_idle_connections_cost_little() {
    let server = ServerSpec::new().start();
    server.connect().ping();
    let before = resident_bytes(server.pid());
    let mut connections: Vec<Raw> = (0..1000).map(|_| server.connect()).collect();
    connections.iter_mut().for_each(Raw::ping);
    let each = resident_bytes(server.pid()).saturating_sub(before) / 1000;
    println!("{each} bytes a connection");
    assert!(each < 64 * 1024, "{each} bytes a connection");
    connections.iter_mut().for_each(Raw::ping);
}

#[test]
fn readers_that_do_not_read_block_nobody_and_hold_no_memory() {
    let server = ServerSpec::new().set("storage.segment_bytes=8MiB").start();
    let mut connection = server.connect();
    let topic = connection.create_topic("large");
    let payload = record(&[b'r'; 1_000_000]);
    for number in 0..40 {
        connection.store(topic, number, &payload);
    }
    let end = 40 * payload.len() as u64;
    let before = resident_bytes(server.pid());
    let mut lazy: Vec<Raw> = (0..40).map(|_| server.connect()).collect();
    while_working(&server, || {
        for (reader, number) in lazy.iter_mut().zip(0..) {
            for fetch in 0..20u64 {
                // From the tail and from closed segments.
                let offset = if number % 2 == 0 { fetch * payload.len() as u64 } else { end - 2_000_000 };
                reader.send(&control(0x10, &fetch_payload(topic, offset, 16 * MIB as u32)));
            }
        }
        // Time for the server to answer as much as it will.
        std::thread::sleep(Duration::from_secs(1));
    });
    let grown = peak_resident_bytes(server.pid()).saturating_sub(before);
    println!("grown by {} MiB", grown / MIB);
    assert!(grown < 128 * MIB, "grown by {} MiB", grown / MIB);
    // Late, but whole: every answer in order.
    for fetch in 0..20u64 {
        let answer = fetched(&lazy[0].read());
        let offset = fetch * payload.len() as u64;
        assert!(!answer.data.is_empty());
        assert_eq!(answer.next_offset, offset + answer.data.len() as u64);
        assert!(split(&answer.data).iter().all(|(_, value)| value.len() == 1_000_000));
    }
    expect_no_restart(&server);
}

#[test]
fn a_producer_that_does_not_read_its_acks_is_not_read_from_and_finds_them_all_later() {
    let server = ServerSpec::new().start();
    let mut writer = server.connect();
    let topic = writer.create_topic("deaf");
    let mut reader = writer.duplicate();
    writer.stream().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let payload = record(b"small");
    let mut sent = 0u64;
    let mut rest = Vec::new();
    while_working(&server, || {
        for number in 0..5_000_000u64 {
            let bytes = frame(INGEST, number, topic, &payload);
            match send_some(&writer, &bytes) {
                written if written == bytes.len() => sent += 1,
                written => {
                    rest = bytes[written..].to_vec();
                    break;
                }
            }
        }
    });
    assert!(!rest.is_empty(), "the server took {sent} frames without an end");
    println!("{sent} frames before the server stopped reading");
    // The rest of the frame that was cut, once there is room again.
    let sending = std::thread::spawn(move || writer.send(&rest));
    for number in 0..=sent {
        let ack = reader.read();
        assert_eq!((ack.flags, ack.batch_id), (ACK, number));
    }
    sending.join().unwrap();
    assert_eq!(split(&reader.read_from(topic, 0)).len() as u64, sent + 1);
}

/// Bytes written until the socket takes no more for a while.
fn send_some(connection: &Raw, bytes: &[u8]) -> usize {
    use std::io::Write as _;
    let mut written = 0;
    while written < bytes.len() {
        match connection.stream().write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
    }
    written
}

#[test]
fn announced_payloads_that_never_come_reserve_no_memory() {
    let server = ServerSpec::new().start();
    let topic = server.connect().create_topic("promised");
    let before = resident_bytes(server.pid());
    let mut header = frame(INGEST, 1, topic, b"")[..HEADER_BYTES].to_vec();
    header[32..36].copy_from_slice(&(16 * MIB as u32).to_le_bytes());
    let mut connections: Vec<Raw> = (0..200).map(|_| server.connect()).collect();
    for connection in &mut connections {
        connection.send(&header);
        connection.send(&[0; 1000]);
    }
    while_working(&server, || std::thread::sleep(Duration::from_millis(300)));
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 200 * MIB, "200 promises of 16 MiB hold {} MiB", grown / MIB);
}

#[test]
fn large_frames_that_stop_half_way_share_a_bounded_memory() {
    let server = ServerSpec::new().start();
    let topic = server.connect().create_topic("half");
    let before = resident_bytes(server.pid());
    let mut header = frame(INGEST, 1, topic, b"")[..HEADER_BYTES].to_vec();
    header[32..36].copy_from_slice(&(16 * MIB as u32).to_le_bytes());
    let half = [header, vec![0; 15 << 20]].concat();
    let connections: Vec<Raw> = (0..60).map(|_| server.connect()).collect();
    while_working(&server, || {
        let written: usize = std::thread::scope(|scope| {
            let send = |connection: &Raw| {
                connection.stream().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
                send_some(connection, &half)
            };
            let sending: Vec<_> = connections.iter().map(|connection| scope.spawn(move || send(connection))).collect();
            sending.into_iter().map(|sending| sending.join().unwrap()).sum()
        });
        println!("{} MiB written", written as u64 / MIB);
    });
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    println!("grown by {} MiB", grown / MIB);
    assert!(grown < 400 * MIB, "60 half frames hold {} MiB", grown / MIB);
    drop(connections);
    let mut connection = server.connect();
    connection.store(topic, 2, &vec![1; 16 << 20]);
}

#[test]
fn pipelined_requests_of_all_kinds_stay_in_order_on_a_connection_that_reads_late() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let topic = connection.create_topic("late");
    connection.store(topic, 0, &record(&[b'l'; 100_000]));
    let mut bytes = Vec::new();
    for number in 1..=200u64 {
        bytes.extend(frame(INGEST, number, topic, &record(b"tiny")));
        bytes.extend(control(0x10, &fetch_payload(topic, 0, 50_000)));
        bytes.extend(frame(CONTROL, 0x03, 0, &[]));
    }
    let mut writer = connection.duplicate();
    let sending = std::thread::spawn(move || writer.send(&bytes));
    std::thread::sleep(Duration::from_millis(200));
    for number in 1..=200u64 {
        assert_eq!(connection.read().batch_id, number);
        assert_eq!(fetched(&connection.read()).data.len(), 50_000);
        assert_eq!(connection.read().batch_id, 0x80);
    }
    sending.join().unwrap();
}
