//! Ingest of 1.0: acks, opaque payloads, compression, the default topic.

use lance_integration::harness::raw::{ACK, COMPRESSED_INGEST, INGEST, frame};
use lance_integration::harness::records::{record, split, typed_record};
use lance_integration::harness::{Raw, ServerSpec};

fn compressed(connection: &mut Raw, id: u32, payload: &[u8]) -> lance_integration::harness::Frame {
    connection.send(&frame(COMPRESSED_INGEST, 5, id, payload));
    connection.read()
}

#[test]
fn acks_come_one_a_frame_in_order_also_with_repeated_ids() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("acks");
    let batch_ids = [0, 0, 7, 7, 3, u64::MAX, 1];
    let frames = batch_ids.iter().enumerate();
    let bytes: Vec<u8> = frames.flat_map(|(at, batch_id)| frame(INGEST, *batch_id, id, &record(&[at as u8]))).collect();
    connection.send(&bytes);
    for batch_id in batch_ids {
        let ack = connection.read();
        assert_eq!((ack.flags, ack.batch_id), (ACK, batch_id));
    }
    let stored = connection.read_from(id, 0);
    let values: Vec<u8> = split(&stored).iter().map(|(_, value)| value[0]).collect();
    assert_eq!(values, [0, 1, 2, 3, 4, 5, 6], "a batch id is no sequence: all are stored");
}

#[test]
fn an_empty_payload_is_acked_and_a_wrong_record_count_does_not_matter() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("counts");
    assert_eq!(connection.ingest(id, 4, b"").batch_id, 4);
    let mut bytes = frame(INGEST, 5, id, &record(b"one"));
    bytes[28..32].copy_from_slice(&1_000_000u32.to_le_bytes());
    connection.send(&bytes);
    assert_eq!(connection.read().batch_id, 5);
    // Flags 00 with a payload are ingest, too.
    connection.send(&frame(0x00, 6, id, &record(b"two")));
    assert_eq!(connection.read().batch_id, 6);
    let fetched = connection.fetch(id, 0, 4096);
    assert_eq!(split(&fetched.data), [(1, &b"one"[..]), (1, b"two")]);
    assert_eq!(fetched.record_count, 2, "as stored, not as claimed");
}

#[test]
fn every_type_of_record_comes_back_as_it_came() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("types");
    let types = [1u8, 2, 3, 4, 5, 0x10, 0x11, 0x12, 0x80, 0xC7, 0xFE, 0xFF];
    let batch: Vec<u8> = types.iter().flat_map(|kind| typed_record(*kind, b"\x02\x00key, time and value")).collect();
    connection.store(id, 1, &batch);
    assert_eq!(connection.read_from(id, 0), batch);
}

#[test]
fn bytes_that_are_no_records_come_back_byte_for_byte_also_after_a_restart() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("opaque");
    let mut payloads: Vec<Vec<u8>> = vec![
        b"x".to_vec(),
        b"{\"event\": \"click\"}{\"event\": \"move\"}".to_vec(),
        vec![0; 1000],
        vec![0xFF; 4097],
        vec![0x0F; 300],
        (0..=255).collect(),
        // A batch header's type, and records cut short.
        [&[0x0F, 99, 0, 0, 0, 1][..], &[0; 200]].concat(),
        record(b"cut")[..7].to_vec(),
        [record(b"whole"), vec![9]].concat(),
    ];
    payloads.push((0..100_000u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect());
    for (payload, number) in payloads.iter().zip(0..) {
        connection.store(id, number, payload);
    }
    let all = payloads.concat();
    assert!(connection.read_from(id, 0) == all, "before");
    server.kill_and_start();
    let mut connection = server.connect();
    assert!(connection.read_from(id, 0) == all, "after a restart");
    connection.store(id, 99, b"more");
    assert_eq!(connection.read_from(id, all.len() as u64), b"more");
}

#[test]
fn compressed_ingest_is_stored_plain_whether_its_size_stands_in_front_or_not() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("packed");
    let records: Vec<u8> = (0..500).flat_map(|number| record(format!("record number {number}").as_bytes())).collect();
    let opaque = b"no records at all, again and again, ".repeat(50);
    let mut expected = Vec::new();
    for plain in [&records, &opaque] {
        let block = lz4_flex::block::compress(plain);
        let with_size = lz4_flex::block::compress_prepend_size(plain);
        for payload in [block, with_size] {
            assert!(payload.len() < plain.len());
            let ack = compressed(&mut connection, id, &payload);
            assert_eq!((ack.flags, ack.batch_id), (ACK, 5), "{}", ack.text());
            expected.extend_from_slice(plain);
        }
    }
    assert!(connection.read_from(id, 0) == expected, "the plain bytes differ");
}

#[test]
fn compressed_bytes_that_cannot_be_decoded_are_refused_and_nothing_is_stored() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("undecodable");
    // 255 bytes a byte: over every limit once decoded.
    let bomb = lz4_flex::block::compress(&vec![0u8; 64 << 20]);
    let lying_size = [&u32::MAX.to_le_bytes()[..], &[0xF0; 64]].concat();
    for payload in [vec![0xFF; 100], vec![0xF0], lying_size, bomb] {
        let answer = compressed(&mut connection, id, &payload);
        assert!(answer.is_error(), "{} bytes", payload.len());
        assert_eq!(answer.text(), "Compressed records cannot be decoded");
    }
    assert_eq!(connection.read_from(id, 0), b"");
    connection.store(id, 6, b"on it goes");
}

#[test]
fn the_default_topic_is_made_on_first_use_and_listed() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    connection.store(0, 1, &record(b"to nobody in particular"));
    connection.store(0, 2, &record(b"again"));
    assert_eq!(connection.read_from(0, 0), [record(b"to nobody in particular"), record(b"again")].concat());
    let topics = connection.control(0x03, b"").json();
    assert_eq!(topics["topics"].as_array().unwrap().len(), 1, "{topics}");
    assert_eq!(topics["topics"][0]["id"], 0, "{topics}");
    server.kill_and_start();
    let mut connection = server.connect();
    connection.store(0, 3, &record(b"after"));
    assert_eq!(split(&connection.read_from(0, 0)).len(), 3);
}

#[test]
fn a_deleted_topic_takes_nothing_and_gives_nothing() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("gone");
    connection.store(id, 1, b"soon gone");
    connection.control(0x02, &id.to_le_bytes());
    assert_eq!(connection.ingest(id, 2, b"late").text(), "Unknown topic");
    assert_eq!(connection.fetch_frame(id, 0, 100).text(), "Unknown topic");
    let again = connection.create_topic("gone");
    assert_eq!(connection.read_from(again, 0), b"", "a new topic of that name is empty");
    server.kill_and_start();
    let mut connection = server.connect();
    assert_eq!(connection.fetch_frame(id, 0, 100).text(), "Unknown topic");
    assert_eq!(connection.read_from(again, 0), b"");
    lance_integration::harness::eventually("its files are gone", || (!server.log_dir(id, 0).exists()).then_some(()));
}

#[test]
fn a_record_over_the_limit_is_refused_with_its_length_and_the_connection_goes_on() {
    let server = ServerSpec::new().set("limits.max_record_bytes=64KiB").start();
    let mut connection = server.connect();
    let id = connection.create_topic("short");
    let longest = vec![b'x'; (64 << 10) - 5];
    let too_long = [longest.as_slice(), b"y"].concat();
    let batch = [record(b"small"), record(&too_long)].concat();
    let compressed_batch = lz4_flex::block::compress(&batch);
    let refusal = "A record of 65537 bytes is over the 65536 that limits.max_record_bytes allows";
    for answer in [connection.ingest(id, 1, &batch), compressed(&mut connection, id, &compressed_batch)] {
        assert!(answer.is_error(), "{answer:?}");
        assert_eq!(answer.text(), refusal);
    }
    let whole = [record(&longest), record(b"small"), record(&longest)].concat();
    connection.store(id, 2, &whole);
    assert!(connection.read_from(id, 0) == whole, "nothing of what was refused is stored");
}
