//! Files that were torn or damaged while the server was down: torn tails are cut, damage is named and never served.

use lance_integration::harness::process::run;
use lance_integration::harness::raw::{control, fetch_payload};
use lance_integration::harness::records::{record, texts};
use lance_integration::harness::segments::{BATCH_HEADER_BYTES, batches, flip_bit, overwrite};
use lance_integration::harness::{Raw, Server, ServerSpec, eventually, http};
use std::path::PathBuf;

/// Stores numbered records, one a batch; their stream.
fn fill(connection: &mut Raw, topic: u32, count: u64, bytes: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    for number in 0..count {
        let batch = record(format!("{number}:{}", "d".repeat(bytes)).as_bytes());
        connection.store(topic, number, &batch);
        stream.extend_from_slice(&batch);
    }
    stream
}

fn newest_segment(server: &Server, topic: u32) -> PathBuf {
    server.files(&server.log_dir(topic, 0), "lnc").pop().expect("a segment")
}

/// Reads batch by batch from the start until the server refuses; what it gave, and its text.
fn read_until_refused(connection: &mut Raw, topic: u32, from: u64) -> (Vec<u8>, Option<String>) {
    let (mut all, mut offset) = (Vec::new(), from);
    loop {
        let answer = connection.fetch_frame(topic, offset, 300_000);
        if answer.is_error() {
            return (all, Some(answer.text()));
        }
        let fetched = lance_integration::harness::raw::fetched(&answer);
        if fetched.data.is_empty() {
            return (all, None);
        }
        all.extend_from_slice(&fetched.data);
        offset = fetched.next_offset;
    }
}

/// Removes what a stopped server remembers of its syncs; losing that costs time only.
fn forget_marks(server: &Server) {
    let entries = std::fs::read_dir(server.data_dir()).unwrap().map(|entry| entry.unwrap().path());
    let marks = entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("flushed-"));
    let removed = marks.map(|path| std::fs::remove_file(path).unwrap()).count();
    assert!(removed > 0, "there are marks");
}

/// The state of a topic's partition 0 in the cluster's listing, and why.
fn state_of(server: &Server, topic: &str) -> (String, String) {
    let cluster = http::get(&server.admin(), "/v1/cluster").json();
    let partitions = cluster["partitions"].as_array().unwrap();
    let found = partitions.iter().find(|partition| partition["topic"] == topic).unwrap();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

/// A server with one topic of many small segments, stopped by `stop`.
fn stopped_with_segments(stop: impl FnOnce(&mut Server)) -> (Server, u32, Vec<u8>) {
    let mut server = ServerSpec::new().set("storage.segment_bytes=1MiB").start();
    let mut connection = server.connect();
    let topic = connection.create_topic("damaged");
    let stream = fill(&mut connection, topic, 60, 100_000);
    stop(&mut server);
    (server, topic, stream)
}

/// After `harm` to a closed segment: right bytes up to it, an error at it, right bytes behind it.
pub fn damage_in_a_closed_segment(spec: ServerSpec, in_header: bool) {
    let mut server = spec.set("storage.segment_bytes=1MiB").start();
    let mut connection = server.connect();
    let topic = connection.create_topic("damaged");
    let stream = fill(&mut connection, topic, 60, 100_000);
    server.kill();
    let segments = server.files(&server.log_dir(topic, 0), "lnc");
    assert!(segments.len() > 4);
    let places = batches(&segments[1]);
    let harmed = places[places.len() / 2];
    flip_bit(&segments[1], harmed.file_offset + if in_header { 50 } else { BATCH_HEADER_BYTES + 5_000 });
    server.start_again();

    let mut connection = server.connect();
    let (before, refusal) = read_until_refused(&mut connection, topic, 0);
    let refusal = refusal.expect("damage is refused");
    assert!(!refusal.starts_with("FORWARD_FAILED"), "trying again does not help: {refusal}");
    assert!(before.len() as u64 <= harmed.base_offset, "{} bytes before {}", before.len(), harmed.base_offset);
    assert!(before == stream[..before.len()], "what is given is right");
    server.await_log(&["ERROR", &segments[1].display().to_string()]);
    assert!(http::metric(&server.admin(), "lance_damaged_batches_total", &[]).unwrap() >= 1.0);
    // The next segment reads, and new records are taken.
    let behind = batches(&segments[2])[0].base_offset;
    let (after, refusal) = read_until_refused(&mut connection, topic, behind);
    assert_eq!(refusal, None);
    assert!(after == stream[behind as usize..], "what lies behind is right");
    connection.store(topic, 99, &record(b"on it goes"));
    let (code, error) = run("lnc", &["log", "verify", server.log_dir(topic, 0).to_str().unwrap()], b"").failure();
    assert_eq!(code, 1, "{error}");
}

#[test]
fn a_flipped_bit_in_the_records_of_a_closed_segment_is_an_error_and_never_data() {
    damage_in_a_closed_segment(ServerSpec::new(), false);
}

#[test]
fn a_flipped_bit_in_a_header_of_a_closed_segment_is_an_error_and_never_data() {
    damage_in_a_closed_segment(ServerSpec::new(), true);
}

#[test]
fn damage_after_a_segment_was_found_right_never_has_a_right_checksum() {
    let mut server = ServerSpec::new().set("storage.segment_bytes=1MiB").set("storage.tail_ring_bytes=1MiB").start();
    let mut connection = server.connect();
    let topic = connection.create_topic("damaged");
    let stream = fill(&mut connection, topic, 60, 100_000);
    for restarted in [false, true] {
        assert!(connection.read_from(topic, 0) == stream, "all is right at first");
        let segment = &server.files(&server.log_dir(topic, 0), "lnc")[1];
        let harmed = batches(segment)[3];
        let byte = harmed.file_offset + BATCH_HEADER_BYTES + 5_000;
        flip_bit(segment, byte);
        // Over the whole segment, and inside the batch.
        for (offset, max_bytes) in [(harmed.base_offset - 100_000, 1 << 20), (harmed.base_offset + 4_000, 40_000)] {
            connection.send(&control(0x10, &fetch_payload(topic, offset, max_bytes)));
            let (answer, is_intact) = connection.try_read_any().unwrap();
            if is_intact && !answer.is_error() {
                let data = &answer.payload[16..];
                assert!(stream[offset as usize..].starts_with(data), "wrong bytes with a right checksum");
            }
        }
        flip_bit(segment, byte);
        if !restarted {
            server.kill_and_start();
            connection = server.connect();
        }
    }
}

#[test]
fn the_scrubber_finds_damage_that_nobody_reads() {
    let (mut server, topic, _) = stopped_with_segments(Server::kill);
    let segments = server.files(&server.log_dir(topic, 0), "lnc");
    flip_bit(&segments[2], 500_000);
    server.set("storage.scrub_interval_secs=1s");
    server.start_again();
    eventually("the scrubber finds it", || {
        http::metric(&server.admin(), "lance_damaged_batches_total", &[]).filter(|found| *found >= 1.0)
    });
    server.await_log(&["ERROR", &segments[2].display().to_string()]);
    assert!(http::metric(&server.admin(), "lance_scrubbed_bytes_total", &[]).unwrap() > 0.0);
}

#[test]
fn garbage_behind_the_last_batch_is_cut_and_nothing_acked_is_lost() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    let topic = connection.create_topic("torn");
    let stream = fill(&mut connection, topic, 50, 300);
    server.kill();
    let segment = newest_segment(&server, topic);
    let garbage: Vec<u8> = (0..3_000u32).flat_map(|number| number.wrapping_mul(2_654_435_769).to_le_bytes()).collect();
    // Also one that begins like a batch: the header of the last one, at the wrong position.
    let bytes = std::fs::read(&segment).unwrap();
    let last = batches(&segment).last().unwrap().file_offset as usize;
    for tail in [&garbage[..], &bytes[last..last + 200], &[0x0F][..]] {
        let end = batches(&segment).last().unwrap().end();
        overwrite(&segment, end, tail);
        server.start_again();
        let mut connection = server.connect();
        assert!(connection.read_from(topic, 0).starts_with(&stream), "what was acked is there");
        assert!(http::metric(&server.admin(), "lance_recovery_truncated_bytes", &[]).unwrap() > 0.0);
        connection.store(topic, 99, &record(b"on it goes"));
        server.kill();
        let end = batches(&segment).last().unwrap().end();
        overwrite(&segment, end, b"\x0Fmore");
        server.start_again();
        let stored = server.connect().read_from(topic, 0);
        assert_eq!(texts(&stored).last().map(String::as_str), Some("on it goes"));
        server.kill();
    }
}

#[test]
fn a_file_cut_short_behind_what_was_known_to_be_synced_is_a_torn_tail() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    let topic = connection.create_topic("cut");
    let stream = fill(&mut connection, topic, 50, 300);
    server.kill();
    // Without its marks the server knows of no sync; the last batch has none behind it that says so.
    forget_marks(&server);
    let segment = newest_segment(&server, topic);
    let last = *batches(&segment).last().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.set_len(last.end() - 10).unwrap();
    drop(file);
    server.start_again();
    let mut connection = server.connect();
    assert!(connection.read_from(topic, 0) == stream[..last.base_offset as usize], "all but the torn batch");
    connection.store(topic, 99, &record(b"on it goes"));
}

/// The partition is offline and says where and why; what lies below reads, others serve.
fn expect_offline(server: &Server, topic: u32, other: u32, intact: &[u8]) {
    let mut connection = server.connect();
    let refusal = connection.ingest(topic, 1, &record(b"refused"));
    assert_eq!(refusal.text(), "The partition is offline after a storage failure");
    let (state, reason) = state_of(server, "damaged");
    assert_eq!(state, "stopped", "{reason}");
    assert!(reason.contains(".lnc") && reason.chars().any(|c| c.is_ascii_digit()), "the range: {reason}");
    server.await_log(&["ERROR", ".lnc"]);
    let (read, _) = read_until_refused(&mut connection, topic, 0);
    assert!(intact.starts_with(&read), "never wrong bytes: {} of {}", read.len(), intact.len());
    connection.store(other, 1, &record(b"others serve"));
    assert!(http::metric(&server.admin(), "lance_partitions_stopped", &[]).unwrap() >= 1.0);
}

#[test]
fn a_file_that_ends_below_the_flushed_mark_takes_the_partition_offline_and_nothing_is_cut() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    let (topic, other) = (connection.create_topic("damaged"), connection.create_topic("other"));
    let stream = fill(&mut connection, topic, 50, 300);
    assert!(server.terminate().success());
    let segment = newest_segment(&server, topic);
    let before = std::fs::read(&segment).unwrap();
    let lost = batches(&segment)[40];
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.set_len(lost.file_offset + 50).unwrap();
    drop(file);
    for _ in 0..2 {
        server.start_again();
        expect_offline(&server, topic, other, &stream[..lost.base_offset as usize]);
        assert!(server.terminate().success(), "an offline partition does not hold up the end");
    }
    let after = std::fs::read(&segment).unwrap();
    assert!(before.starts_with(&after) && after.len() as u64 == lost.file_offset + 50, "the file is as it was");
    // Whoever puts the bytes back finds everything.
    std::fs::write(&segment, &before).unwrap();
    server.start_again();
    assert!(server.connect().read_from(topic, 0) == stream, "all is there again");
}

#[test]
fn a_flipped_bit_below_the_flushed_mark_is_an_error_and_never_data() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    let topic = connection.create_topic("damaged");
    let stream = fill(&mut connection, topic, 50, 300);
    assert!(server.terminate().success());
    let segment = newest_segment(&server, topic);
    let harmed = *batches(&segment).iter().filter(|batch| !batch.is_control).nth(20).unwrap();
    flip_bit(&segment, harmed.file_offset + BATCH_HEADER_BYTES + 100);
    server.start_again();
    let mut connection = server.connect();
    // Recovery does not read below its mark; the first reader does.
    let (read, refusal) = read_until_refused(&mut connection, topic, 0);
    assert!(refusal.is_some(), "{} bytes were read", read.len());
    assert!(read.len() as u64 <= harmed.base_offset && stream.starts_with(&read), "right bytes up to the damage");
    let behind = harmed.base_offset + harmed.stored_bytes;
    connection.store(topic, 99, &record(b"on it goes"));
    let (read, refusal) = read_until_refused(&mut connection, topic, behind);
    assert_eq!(refusal, None);
    assert!(read.starts_with(&stream[behind as usize..]), "what lies behind is right");
}

#[test]
fn damage_below_what_later_batches_call_committed_is_no_torn_tail() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    let (topic, other) = (connection.create_topic("damaged"), connection.create_topic("other"));
    let stream = fill(&mut connection, topic, 50, 300);
    server.kill();
    // The marks are lost: the batches themselves must tell.
    forget_marks(&server);
    let segment = newest_segment(&server, topic);
    let harmed = batches(&segment)[20];
    flip_bit(&segment, harmed.file_offset + 60);
    server.start_again();
    expect_offline(&server, topic, other, &stream[..harmed.base_offset as usize]);
}

#[test]
fn a_missing_segment_is_a_gap_that_is_named_and_nothing_is_deleted() {
    let (mut server, topic, stream) = stopped_with_segments(Server::kill);
    let segments = server.files(&server.log_dir(topic, 0), "lnc");
    let hidden = segments[2].with_extension("hidden");
    std::fs::rename(&segments[2], &hidden).unwrap();
    server.start_again();
    let refusal = server.connect().ingest(topic, 1, &record(b"refused"));
    assert!(refusal.is_error(), "{refusal:?}");
    let (state, reason) = state_of(&server, "damaged");
    assert_eq!(state, "stopped", "{reason}");
    let (read, _) = read_until_refused(&mut server.connect(), topic, 0);
    assert!(stream.starts_with(&read), "never wrong bytes");
    server.kill();
    assert_eq!(server.files(&server.log_dir(topic, 0), "lnc").len(), segments.len() - 1, "nothing was deleted");
    std::fs::rename(&hidden, &segments[2]).unwrap();
    server.start_again();
    assert!(server.connect().read_from(topic, 0) == stream, "all is there again");
}

#[test]
fn a_damaged_or_missing_index_is_made_again() {
    let (mut server, topic, stream) = stopped_with_segments(Server::kill);
    let indexes = server.files(&server.log_dir(topic, 0), "idx");
    assert!(indexes.len() > 3, "{indexes:?}");
    std::fs::remove_file(&indexes[0]).unwrap();
    flip_bit(&indexes[1], 30);
    overwrite(&indexes[2], 0, &[0xEE; 200]);
    server.start_again();
    let mut connection = server.connect();
    for offset in [0u64, 123_456, 1_500_000, 2_500_000, 3_333_333] {
        let fetched = connection.fetch(topic, offset, 400_000);
        assert!(stream[offset as usize..].starts_with(&fetched.data) && !fetched.data.is_empty(), "from {offset}");
    }
    assert!(connection.read_from(topic, 0) == stream);
}

#[test]
fn a_damaged_identity_is_named_and_the_server_does_not_start() {
    let mut server = ServerSpec::new().start();
    server.kill();
    let identity = server.data_dir().join("node.json");
    let bytes = std::fs::read(&identity).unwrap();
    std::fs::write(&identity, b"{ \"node\": ").unwrap();
    server.spawn();
    assert_eq!(server.wait_for_end().code(), Some(1));
    assert!(server.stderr().contains("node.json"), "{}", server.stderr());
    assert_eq!(std::fs::read(&identity).unwrap(), b"{ \"node\": ", "it is left alone");
    std::fs::write(&identity, bytes).unwrap();
    server.start_again();
}
