//! kill -9 at random moments under load: nothing acked is lost, nothing is stored twice, everything is in order.

use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::process::{lnc, run};
use lance_integration::harness::raw::{ACK, CONTROL, INGEST, frame};
use lance_integration::harness::records::{record, split, texts};
use lance_integration::harness::{Load, Raw, Server, ServerSpec, eventually, kill_round_count};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A random source whose seed is printed when the test fails, or given by `LANCE_TEST_SEED`.
fn random() -> StdRng {
    let given = std::env::var("LANCE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random::<u64>);
    println!("LANCE_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn pause(random: &mut StdRng) {
    std::thread::sleep(Duration::from_micros(random.random_range(0..120_000)));
}

/// Every checksum in the files of a stopped server is right.
pub fn verify_files(server: &Server) {
    let folder = server.data_dir().join("logs");
    run("lnc", &["log", "verify", folder.to_str().unwrap()], b"").ok();
}

/// Rounds of kill -9 under an idempotent, pipelined load over several partitions with small segments.
pub fn kill_rounds(spec: ServerSpec, rounds: u64) {
    let mut random = random();
    let mut server = spec.set("storage.segment_bytes=1MiB").start();
    let options = LoadOptions { record_bytes: 700, ..LoadOptions::new("events", 4) };
    let mut load = Load::start(&server.address(), options);
    for _ in 0..rounds {
        load.await_more(500);
        pause(&mut random);
        server.kill_and_start();
        load.check();
    }
    load.await_all_partitions();
    load.finish();
    let status = server.terminate();
    assert!(status.success(), "{status}");
    verify_files(&server);
}

#[test]
fn every_acked_record_is_there_in_order_once_after_rounds_of_kill_9() {
    kill_rounds(ServerSpec::new(), kill_round_count());
}

#[test]
fn two_shards_on_threads_of_their_own_lose_nothing_either() {
    kill_rounds(ServerSpec::new().set("shards.count=2").set("shards.placement=dedicated"), kill_round_count() / 2);
}

#[test]
fn a_kill_of_the_process_alone_loses_nothing_when_syncs_are_spaced_out() {
    kill_rounds(ServerSpec::new().set("storage.sync={ interval_ms = 50, bytes = 1048576 }"), kill_round_count() / 2);
}

/// Sends numbered records on one connection until it breaks; the writer never waits for an ack.
fn pour(address: &str, topic: u32, round: u64, acked: Arc<AtomicU64>) {
    let Ok(mut writer) = Raw::try_connect(address) else { return };
    let mut reader = writer.duplicate();
    let sending = std::thread::spawn(move || {
        for number in 0..u64::MAX {
            let payload = record(format!("{round}:{number}").as_bytes());
            if writer.try_send(&frame(INGEST, number, topic, &payload)).is_err() {
                return;
            }
        }
    });
    for number in 0.. {
        let Ok(ack) = reader.try_read() else { break };
        assert_eq!((ack.flags, ack.batch_id), (ACK, number), "{}", ack.text());
        acked.store(number + 1, Ordering::Release);
    }
    sending.join().unwrap();
}

#[test]
fn a_1_0_client_finds_everything_that_was_acked_in_the_order_sent() {
    let mut random = random();
    let mut server = ServerSpec::new().set("storage.segment_bytes=1MiB").start();
    let topic = server.connect().create_topic("poured");
    let mut acked_in_round = Vec::new();
    for round in 0..kill_round_count() {
        let acked = Arc::new(AtomicU64::new(0));
        let pouring = {
            let (address, acked) = (server.address(), Arc::clone(&acked));
            std::thread::spawn(move || pour(&address, topic, round, acked))
        };
        lance_integration::harness::eventually("acks", || (acked.load(Ordering::Acquire) > 100).then_some(()));
        pause(&mut random);
        server.kill();
        pouring.join().unwrap();
        acked_in_round.push(acked.load(Ordering::Acquire));
        server.start_again();

        let stored = texts(&server.connect().read_from(topic, 0));
        let mut lines = stored.iter().peekable();
        for (round, acked) in acked_in_round.iter().enumerate() {
            let mut number = 0;
            while lines.peek().is_some_and(|line| **line == format!("{round}:{number}")) {
                lines.next();
                number += 1;
            }
            assert!(number >= *acked, "round {round}: {acked} were acked, {number} are there");
        }
        assert_eq!(lines.next(), None, "nothing else is there");
    }
}

#[test]
fn a_retried_batch_is_stored_once_across_a_restart() {
    let mut server = ServerSpec::new().start();
    let topic = server.connect().create_topic("once");
    // Features: ACK_OFFSETS and IDEMPOTENT.
    let hello = [&[1u8, 0, 4, 0][..], &(1u64 << 3 | 1 << 5).to_le_bytes(), b"test"].concat();
    let bind = |connection: &mut Raw, producer: &[u8]| {
        assert_eq!(connection.control(0x40, &hello).batch_id, 0xC0);
        let bound = connection.control(0x41, producer);
        assert_eq!((bound.flags, bound.batch_id), (CONTROL, 0xC1), "{}", bound.text());
        bound.payload
    };
    let mut connection = server.connect();
    let producer = bind(&mut connection, &[0; 10]);
    let batches: Vec<Vec<u8>> = (0..5).map(|number| record(format!("batch {number}").as_bytes())).collect();
    let mut first_acks = Vec::new();
    for (batch, sequence) in batches.iter().zip(0u64..) {
        let ack = connection.ingest(topic, sequence, batch);
        assert_eq!((ack.flags, ack.batch_id, ack.payload[12]), (ACK, sequence, 0), "{}", ack.text());
        first_acks.push(ack.u64_at(0));
    }
    for restarted in [false, true] {
        if restarted {
            server.kill_and_start();
        }
        let mut connection = server.connect();
        assert_eq!(bind(&mut connection, &producer), producer);
        for ((batch, sequence), offset) in batches.iter().zip(0u64..).zip(&first_acks) {
            let ack = connection.ingest(topic, sequence, batch);
            assert_eq!((ack.flags, ack.payload[12]), (ACK, 1), "a duplicate; restarted: {restarted}");
            assert_eq!(ack.u64_at(0), *offset, "where it was stored");
        }
        let gap = connection.ingest(topic, 9, b"out of order");
        assert!(gap.is_error(), "{gap:?}");
    }
    let stored = server.connect().read_from(topic, 0);
    assert_eq!(stored, batches.concat());
}

#[test]
fn a_producer_begins_at_zero_so_that_a_later_batch_never_takes_the_place_of_a_refused_one() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let topic = connection.create_topic("begins");
    let hello = [&[1u8, 0, 4, 0][..], &(1u64 << 5).to_le_bytes(), b"test"].concat();
    assert_eq!(connection.control(0x40, &hello).batch_id, 0xC0);
    assert_eq!(connection.control(0x41, &[0; 10]).batch_id, 0xC1);
    assert_eq!(connection.ingest(topic, 1, &record(b"second")).text(), "Sequence out of order");
    connection.store(topic, 0, &record(b"first"));
    connection.store(topic, 1, &record(b"second"));
    assert_eq!(texts(&connection.read_from(topic, 0)), ["first", "second"]);
}

#[test]
fn topics_and_commits_that_were_acked_survive_and_ids_are_never_used_twice() {
    let mut random = random();
    let mut server = ServerSpec::new().start();
    let (mut names, mut ids) = (Vec::new(), HashSet::new());
    let mut committed = 0u64;
    for round in 0..kill_round_count().max(6) {
        let address = server.address();
        let creating = std::thread::spawn(move || {
            let mut acked = Vec::new();
            let mut offset = 0;
            let Ok(mut connection) = Raw::try_connect(&address) else { return (acked, offset) };
            for number in 0.. {
                let name = format!("topic-{round}-{number}");
                let _ = connection.try_send(&frame(CONTROL, 0x01, 0, name.as_bytes()));
                let Ok(created) = connection.try_read() else { break };
                assert_eq!(created.batch_id, 0x80, "{}", created.text());
                let id = created.json()["id"].as_u64().unwrap() as u32;
                acked.push((name, id));
                let commit = [&1u32.to_le_bytes()[..], &7u64.to_le_bytes(), &(round << 32 | number).to_le_bytes()];
                let _ = connection.try_send(&frame(CONTROL, 0x22, 0, &commit.concat()));
                let Ok(answer) = connection.try_read() else { break };
                assert_eq!(answer.batch_id, 0x24, "{}", answer.text());
                offset = round << 32 | number;
            }
            (acked, offset)
        });
        std::thread::sleep(Duration::from_millis(30));
        pause(&mut random);
        server.kill();
        let (acked, offset) = creating.join().unwrap();
        for (name, id) in acked {
            assert!(ids.insert(id), "id {id} of {name} was used before");
            names.push((name, id));
        }
        committed = committed.max(offset);
        server.start_again();
        let mut connection = server.connect();
        let listed = connection.control(0x03, b"").json();
        let there: HashSet<(String, u32)> = listed["topics"].as_array().unwrap().iter().map(name_and_id).collect();
        for topic in &names {
            assert!(there.contains(topic), "{topic:?} is gone");
        }
        let subscribe = [&1u32.to_le_bytes()[..], &[0; 12], &7u64.to_le_bytes()].concat();
        assert!(connection.control(0x20, &subscribe).u64_at(8) >= committed, "a commit is gone");
    }
    assert!(!names.is_empty());
}

fn name_and_id(topic: &serde_json::Value) -> (String, u32) {
    (topic["name"].as_str().unwrap().to_owned(), topic["id"].as_u64().unwrap() as u32)
}

#[test]
fn a_producer_on_the_command_line_goes_on_through_a_kill() {
    let mut server = ServerSpec::new().start();
    let address = server.address();
    let lines: String = (0..300_000).map(|number| format!("line {number}\n")).collect();
    let input = lines.clone();
    let producing = {
        let address = address.clone();
        std::thread::spawn(move || lnc(&address, &["produce", "-t", "piped"], input.as_bytes()))
    };
    lance_integration::harness::eventually("the first records", || {
        let mut connection = Raw::try_connect(&address).ok()?;
        (connection.fetch_frame(1, 0, 100).payload.len() > 16).then_some(())
    });
    server.kill_and_start();
    producing.join().unwrap().ok();
    let output = lnc(&address, &["consume", "-t", "piped", "-e"], b"").ok();
    assert!(output == lines, "{} lines of 300000", output.lines().count());
    let stored = server.connect().read_from(1, 0);
    assert_eq!(split(&stored).len(), 300_000);
}

#[test]
fn files_of_a_topic_deleted_just_before_a_crash_are_removed_at_the_next_start() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    let (kept, gone) = (connection.create_topic("kept"), connection.create_topic("gone"));
    connection.store(kept, 1, &record(b"kept"));
    connection.store(gone, 1, &record(b"gone"));
    let folder = server.log_dir(gone, 0);
    let files: Vec<_> =
        server.files(&folder, "lnc").into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    assert!(!connection.control(2, &gone.to_le_bytes()).is_error());
    server.kill();
    // The process ended before it came to the files.
    std::fs::create_dir_all(&folder).unwrap();
    files.iter().for_each(|(bytes, path)| std::fs::write(path, bytes).unwrap());
    // Nobody's: the metadata never knew such a topic.
    let stranger = server.log_dir(900, 0);
    std::fs::create_dir_all(&stranger).unwrap();
    server.start_again();
    eventually("the files are gone", || (!folder.exists()).then_some(()));
    assert!(stranger.exists());
    assert_eq!(texts(&server.connect().read_from(kept, 0)), ["kept"]);
}
