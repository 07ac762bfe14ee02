//! SIGTERM: what is under way finishes, connections close, nothing acked is lost; and starts after all kinds of ends.

use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::raw::{ACK, INGEST, frame};
use lance_integration::harness::records::{record, texts};
use lance_integration::harness::{Load, ServerSpec, eventually};
use std::time::{Duration, Instant};

#[test]
fn sigterm_ends_with_code_0_and_nothing_acked_is_lost() {
    let mut server = ServerSpec::new().start();
    let mut load = Load::start(&server.address(), LoadOptions::new("events", 4));
    for _ in 0..3 {
        load.await_more(1_000);
        assert_eq!(server.terminate().code(), Some(0));
        server.start_again();
        load.check();
    }
    load.await_all_partitions();
    load.finish();
}

#[test]
fn requests_under_way_are_answered_and_idle_connections_close() {
    let mut server = ServerSpec::new().start();
    let mut idle = server.connect();
    idle.ping();
    let mut busy = server.connect();
    let topic = busy.create_topic("drained");
    let frames: Vec<u8> =
        (0..500).flat_map(|number| frame(INGEST, number, topic, &record(format!("{number}").as_bytes()))).collect();
    busy.send(&frames);
    server.send_sigterm();
    let mut acked = 0;
    while let Ok(answer) = busy.try_read() {
        match answer.flags {
            ACK => acked += 1,
            // What came after the signal may be refused, with a text that 1.0 clients try again on.
            _ => assert!(answer.text().starts_with("FORWARD_FAILED"), "{}", answer.text()),
        }
    }
    idle.expect_end();
    assert_eq!(server.wait_for_end().code(), Some(0));
    server.start_again();
    let stored = texts(&server.connect().read_from(topic, 0));
    assert!(stored.len() >= acked, "{acked} were acked, {} are there", stored.len());
}

#[test]
fn a_waiting_fetch_does_not_hold_up_the_end() {
    let mut server = ServerSpec::new().start();
    let topic = server.connect().create_topic("waiting");
    let mut waiting = server.connect();
    // LONG_POLL.
    let hello = [&[1u8, 0, 4, 0][..], &(1u64 << 6).to_le_bytes(), b"test"].concat();
    assert_eq!(waiting.control(0x40, &hello).batch_id, 0xC0);
    let one = [&topic.to_le_bytes()[..], &[0, 0, 0, 0], &0u64.to_le_bytes(), &1000u32.to_le_bytes()].concat();
    let fetch = [&60_000u32.to_le_bytes()[..], &1u32.to_le_bytes(), &1000u32.to_le_bytes(), &1u32.to_le_bytes(), &one];
    waiting.send(&lance_integration::harness::raw::control(0x42, &fetch.concat()));
    assert_eq!(waiting.read_within(Duration::from_millis(100)), None, "it waits");
    let started = Instant::now();
    assert_eq!(server.terminate().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "the end took {:?}", started.elapsed());
}

#[test]
fn a_second_signal_stops_at_once_and_nothing_acked_is_lost() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    let topic = connection.create_topic("twice");
    for number in 0..100 {
        connection.store(topic, number, &record(format!("{number}").as_bytes()));
    }
    server.send_sigterm();
    server.send_sigterm();
    server.wait_for_end();
    server.start_again();
    assert_eq!(texts(&server.connect().read_from(topic, 0)).len(), 100);
}

#[test]
fn many_closed_segments_do_not_slow_the_start() {
    let mut server = ServerSpec::new().set("storage.segment_bytes=1MiB").start();
    let mut connection = server.connect();
    let topic = connection.create_topic("segments");
    let payload = record(&[b's'; 700_000]);
    let count = 200;
    let mut sender = connection.duplicate();
    let frames = payload.clone();
    let sending = std::thread::spawn(move || {
        for number in 0..count {
            sender.send(&frame(INGEST, number, topic, &frames));
        }
    });
    for number in 0..count {
        assert_eq!(connection.read().batch_id, number);
    }
    sending.join().unwrap();
    let segments = server.files(&server.log_dir(topic, 0), "lnc").len();
    assert!(segments >= 100, "{segments} segments");
    server.kill();
    let started = Instant::now();
    server.start_again();
    assert!(started.elapsed() < Duration::from_secs(10), "the start took {:?}", started.elapsed());
    let end = server.connect().fetch(topic, u64::MAX, 0).next_offset;
    assert_eq!(end, count * payload.len() as u64);
    let fetched = server.connect().fetch(topic, 77 * payload.len() as u64, 1 << 20);
    assert!(fetched.data.starts_with(&payload), "records in the middle are served");
}

#[test]
fn a_restarted_server_serves_the_same_topics_and_opens_a_new_epoch() {
    let mut server = ServerSpec::new().start();
    let topic = server.connect().create_topic("epochs");
    let epoch = |server: &lance_integration::harness::Server| {
        let cluster = lance_integration::harness::http::get(&server.admin(), "/v1/cluster").json();
        cluster["partitions"][0]["epoch"].as_u64().unwrap()
    };
    server.connect().store(topic, 1, &record(b"before"));
    let before = epoch(&server);
    server.kill_and_start();
    let after = epoch(&server);
    assert!(after > before, "epoch {after} after {before}");
    server.connect().store(topic, 2, &record(b"after"));
    assert_eq!(texts(&server.connect().read_from(topic, 0)), ["before", "after"]);
    eventually("readiness", || {
        (lance_integration::harness::http::get(&server.admin(), "/health/ready").status == 200).then_some(())
    });
}
