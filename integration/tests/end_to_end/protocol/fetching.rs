//! Fetch of 1.0: offsets, ends, cuts.

use lance_integration::harness::raw::CONTROL;
use lance_integration::harness::records::{record, texts};
use lance_integration::harness::{Raw, ServerSpec};

/// Ten records of 105 bytes each, in batches of two.
fn ten_records(connection: &mut Raw) -> (u32, Vec<u8>) {
    let id = connection.create_topic("ten");
    let mut stream = Vec::new();
    for pair in 0..5u8 {
        let batch = [record(&[b'a' + 2 * pair; 100]), record(&[b'b' + 2 * pair; 100])].concat();
        connection.store(id, u64::from(pair), &batch);
        stream.extend_from_slice(&batch);
    }
    (id, stream)
}

#[test]
fn data_comes_back_from_any_offset_with_the_next_one() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let (id, stream) = ten_records(&mut connection);
    // Also inside a batch, inside a record, inside a record's header.
    for offset in [0, 1, 4, 5, 104, 105, 210, 333, 1049] {
        let fetched = connection.fetch(id, offset as u64, 1 << 20);
        assert_eq!(fetched.data, &stream[offset..], "from offset {offset}");
        assert_eq!(fetched.next_offset, stream.len() as u64);
        let begun_before = offset.div_ceil(105);
        assert_eq!(fetched.record_count as usize, 10 - begun_before, "records that begin there, from {offset}");
    }
}

#[test]
fn a_fetch_ends_on_a_batch_else_on_a_record_else_where_it_must() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let (id, stream) = ten_records(&mut connection);
    for (max_bytes, expected) in [(1_000, 840), (630, 630), (419, 315), (210, 210), (209, 105), (105, 105)] {
        let fetched = connection.fetch(id, 0, max_bytes);
        assert!(
            fetched.data.len() == expected
                || (fetched.data.len() < max_bytes as usize && fetched.data.len().is_multiple_of(105)),
            "{} bytes of {max_bytes}",
            fetched.data.len()
        );
        assert_eq!(fetched.data, &stream[..fetched.data.len()]);
        assert_eq!(fetched.next_offset, fetched.data.len() as u64);
    }
    // A record larger than the limit is cut, and the rest follows.
    let mut read = Vec::new();
    while read.len() < stream.len() {
        let fetched = connection.fetch(id, read.len() as u64, 7);
        assert!((1..=7).contains(&fetched.data.len()), "{} bytes of 7", fetched.data.len());
        read.extend_from_slice(&fetched.data);
        assert_eq!(fetched.next_offset, read.len() as u64);
    }
    assert_eq!(read, stream);
}

#[test]
fn the_end_is_empty_past_the_end_is_catching_up_and_the_greatest_offset_finds_the_end() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let (id, stream) = ten_records(&mut connection);
    let end = stream.len() as u64;
    let at_end = connection.fetch(id, end, 4096);
    assert_eq!((at_end.data.len(), at_end.next_offset, at_end.record_count), (0, end, 0));
    for beyond in [end + 1, end + 1_000_000, (1 << 63) - 1, u64::MAX - 1] {
        let answer = connection.fetch_frame(id, beyond, 4096);
        assert_eq!((answer.flags, answer.batch_id), (CONTROL, 0x12), "{beyond}");
        assert_eq!(answer.payload, end.to_le_bytes(), "{beyond}");
    }
    let found = connection.fetch(id, u64::MAX, 4096);
    assert_eq!((found.data.len(), found.next_offset), (0, end));
    // An empty topic has its end at 0.
    let empty = connection.create_topic("empty");
    assert_eq!(connection.fetch(empty, 0, 4096).next_offset, 0);
    assert_eq!(connection.fetch(empty, u64::MAX, 4096).next_offset, 0);
    let answer = connection.fetch_frame(empty, 1, 4096);
    assert_eq!((answer.batch_id, answer.u64_at(0)), (0x12, 0));
}

#[test]
fn offsets_stay_what_they_were_after_a_restart_and_over_segments() {
    let mut server = ServerSpec::new().set("storage.segment_bytes=1MiB").start();
    let mut connection = server.connect();
    let id = connection.create_topic("long");
    let mut stream = Vec::new();
    for number in 0..100u64 {
        let batch: Vec<u8> = (0..40).flat_map(|at| record(format!("{number}-{at}-{:x<1000}", "").as_bytes())).collect();
        connection.store(id, number, &batch);
        stream.extend_from_slice(&batch);
    }
    assert!(server.files(&server.log_dir(id, 0), "lnc").len() >= 4, "several segments");
    for restarted in [false, true] {
        assert!(connection.read_from(id, 0) == stream, "restarted: {restarted}");
        for offset in [1u64, 999_999, 1_048_576, 2_500_001, stream.len() as u64 - 3] {
            let found = connection.read_from(id, offset);
            assert!(found == stream[offset as usize..], "from {offset}, restarted: {restarted}");
        }
        if !restarted {
            server.kill_and_start();
            connection = server.connect();
        }
    }
    assert_eq!(connection.fetch(id, u64::MAX, 1).next_offset, stream.len() as u64);
}

#[test]
fn a_fetch_below_the_log_start_answers_from_the_log_start() {
    let server = ServerSpec::new().set("storage.segment_bytes=1MiB").set("storage.retention_interval_ms=100ms").start();
    let mut connection = server.connect();
    let id = connection.create_topic("retained");
    let mut stream = Vec::new();
    for number in 0..60u64 {
        let batch = record(format!("{number}:{}", "y".repeat(90_000)).as_bytes());
        connection.store(id, number, &batch);
        stream.extend_from_slice(&batch);
    }
    let retention = [&id.to_le_bytes()[..], &0u64.to_le_bytes(), &2_000_000u64.to_le_bytes()].concat();
    assert_eq!(connection.control(0x05, &retention).batch_id, 0x80);
    let start = lance_integration::harness::eventually("segments are dropped", || {
        let fetched = connection.fetch(id, 0, 1);
        (fetched.next_offset > 1).then_some(fetched.next_offset - 1)
    });
    assert!(start >= 1_000_000, "whole segments go: {start}");
    let rest = connection.read_from(id, 0);
    assert!(rest.len() >= 2_000_000, "what retention keeps: {}", rest.len());
    assert!(rest == stream[stream.len() - rest.len()..], "it is the end of the stream");
    assert!(texts(&rest)[0].ends_with('y'), "whole records");
    connection.store(id, 99, &record(b"on it goes"));
}
