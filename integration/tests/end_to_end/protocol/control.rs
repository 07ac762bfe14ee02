//! Every control command of 1.0: payloads, replies, exact texts.

use lance_integration::harness::raw::{ACK, CONTROL, ERROR, frame};
use lance_integration::harness::{Raw, ServerSpec};

fn u32_bytes(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

/// The command fails with exactly this text.
fn expect_text(connection: &mut Raw, command: u64, payload: &[u8], text: &str) {
    let answer = connection.control(command, payload);
    assert_eq!((answer.flags, answer.batch_id), (CONTROL, ERROR), "{command:#04x}: {answer:?}");
    assert_eq!(answer.text(), text, "{command:#04x} with {payload:?}");
}

fn retention(id: u32, age: u64, bytes: u64) -> Vec<u8> {
    [&u32_bytes(id)[..], &age.to_le_bytes(), &bytes.to_le_bytes()].concat()
}

fn subscribe(id: u32, start: u64, consumer: u64) -> Vec<u8> {
    [&u32_bytes(id)[..], &start.to_le_bytes(), &u32_bytes(65536), &consumer.to_le_bytes()].concat()
}

fn commit(id: u32, consumer: u64, offset: u64) -> Vec<u8> {
    [&u32_bytes(id)[..], &consumer.to_le_bytes(), &offset.to_le_bytes()].concat()
}

#[test]
fn topics_are_created_got_listed_and_deleted_with_compact_json() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    assert_eq!(connection.control(0x03, b"").text(), r#"{"topics":[]}"#);
    let created = connection.control(0x01, b"alpha");
    assert_eq!(created.batch_id, 0x80);
    let created_at = created.json()["created_at"].as_u64().unwrap();
    let id = created.json()["id"].as_u64().unwrap() as u32;
    let body = format!(r#"{{"created_at":{created_at},"id":{id},"name":"alpha","topic_epoch":1}}"#);
    assert_eq!(created.text(), body);
    assert_eq!(id, 1, "0 is the default topic");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now - created_at < 60, "seconds since the epoch");

    let got = connection.control(0x04, &u32_bytes(id));
    assert_eq!((got.batch_id, got.text()), (0x80, body.clone()));
    let listed = connection.control(0x03, b"ignored trailing payload");
    assert_eq!((listed.batch_id, listed.text()), (0x80, format!(r#"{{"topics":[{body}]}}"#)));

    let deleted = connection.control(0x02, &u32_bytes(id));
    assert_eq!((deleted.batch_id, deleted.text()), (0x80, format!(r#"{{"deleted":{id}}}"#)));
    assert_eq!(connection.control(0x03, b"").text(), r#"{"topics":[]}"#);
    // The name is free again, the id is not.
    assert!(connection.create_topic("alpha") > id);
}

#[test]
fn retention_is_set_at_creation_and_later() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let payload = [&5u16.to_le_bytes()[..], b"gamma", &3600u64.to_le_bytes(), &0u64.to_le_bytes()].concat();
    let created = connection.control(0x06, &payload);
    assert_eq!(created.batch_id, 0x80, "{}", created.text());
    let (created_at, id) = (created.json()["created_at"].clone(), created.json()["id"].as_u64().unwrap() as u32);
    let body = format!(
        r#"{{"created_at":{created_at},"id":{id},"max_age_secs":3600,"max_bytes":0,"name":"gamma","topic_epoch":1}}"#
    );
    assert_eq!(created.text(), body);
    let set = connection.control(0x05, &retention(id, 60, 1 << 30));
    let body = format!(r#"{{"max_age_secs":60,"max_bytes":1073741824,"topic_id":{id}}}"#);
    assert_eq!((set.batch_id, set.text()), (0x80, body));
    let set = connection.control(0x05, &retention(id, 0, 0));
    assert_eq!(set.text(), format!(r#"{{"max_age_secs":0,"max_bytes":0,"topic_id":{id}}}"#));
}

#[test]
fn the_cluster_status_of_a_lone_node_is_standalone() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let status = connection.control(0x07, b"");
    assert_eq!(status.batch_id, 0x81);
    let term = status.json()["current_term"].as_u64().unwrap();
    let body = format!(
        r#"{{"current_term":{term},"healthy_nodes":1,"is_leader":true,"leader_id":1,"mode":"standalone","node_count":1,"node_id":1,"peer_states":{{}},"quorum_available":true}}"#
    );
    assert_eq!(status.text(), body);
}

#[test]
fn errors_have_the_exact_texts_that_clients_match_on() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("alpha");
    let missing = u32_bytes(id + 100);
    expect_text(&mut connection, 0x01, b"", "Topic name required");
    expect_text(&mut connection, 0x01, b"alpha", "Topic 'alpha' already exists");
    let again = [&5u16.to_le_bytes()[..], b"alpha", &[0; 16]].concat();
    expect_text(&mut connection, 0x06, &again, "Topic 'alpha' already exists");
    expect_text(&mut connection, 0x02, &missing, "Topic not found");
    expect_text(&mut connection, 0x04, &missing, "Topic not found");
    expect_text(&mut connection, 0x05, &retention(id + 100, 1, 1), "Topic not found");
    expect_text(&mut connection, 0x05, &retention(id, 1, 1)[..19], "Invalid set retention payload");
    expect_text(&mut connection, 0x06, &again[..again.len() - 1], "Invalid create topic payload");
    expect_text(&mut connection, 0x06, &[0xFF, 0xFF, b'a'], "Invalid create topic payload");
    expect_text(&mut connection, 0x20, &subscribe(id, 0, 1)[..23], "Invalid subscribe payload");
    expect_text(&mut connection, 0x21, &[0; 11], "Invalid unsubscribe payload");
    expect_text(&mut connection, 0x22, &commit(id, 1, 1)[..19], "Invalid commit offset payload");
    let fetch_missing = [&missing[..], &[0; 12]].concat();
    expect_text(&mut connection, 0x10, &fetch_missing, "Unknown topic");
    let answer = connection.ingest(id + 100, 7, b"x");
    assert_eq!((answer.batch_id, answer.text().as_str()), (ERROR, "Unknown topic"));
    // None of it ended the connection.
    connection.ping();
}

#[test]
fn codes_that_clients_do_not_send_are_refused_and_the_connection_goes_on() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let mut codes: Vec<u64> = vec![0x00, 0x11, 0x12, 0x23, 0x24, 0x25, 0x3F, 0x80, 0x81, 0xC0, 0xFE, 0xFF];
    // Extensions exist only for those who said Hello.
    codes.extend(0x41..=0x7F);
    for code in codes {
        expect_text(&mut connection, code, b"payload", "Invalid client command");
    }
    expect_text(&mut connection, 0x09, b"", "Authentication handled at connection level");
    connection.ping();
}

#[test]
fn a_token_is_welcome_where_none_is_needed() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let answer = connection.control(0x08, b"any token");
    assert_eq!((answer.flags, answer.batch_id), (CONTROL, 0x09));
    assert_eq!(answer.payload, b"\x01Authenticated");
}

#[test]
fn a_subscription_resumes_from_the_committed_offset_also_after_a_restart() {
    let mut server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("subscribed");
    let consumer = 0xFEED_0000_0000_0001_u64;
    let answer_of = |connection: &mut Raw, start: u64| {
        let answer = connection.control(0x20, &subscribe(id, start, consumer));
        assert_eq!((answer.batch_id, answer.payload.len()), (0x23, 16), "{}", answer.text());
        assert_eq!(answer.u64_at(0), consumer);
        answer.u64_at(8)
    };
    assert_eq!(answer_of(&mut connection, 0), 0, "nothing is committed");
    assert_eq!(answer_of(&mut connection, 12_345), 12_345, "anything else is echoed");
    for offset in [500, 90, 7_000] {
        let answer = connection.control(0x22, &commit(id, consumer, offset));
        assert_eq!((answer.batch_id, answer.u64_at(0), answer.u64_at(8)), (0x24, consumer, offset));
        assert_eq!(answer_of(&mut connection, 0), offset, "a commit may go backwards");
    }
    let unsubscribe = [&u32_bytes(id)[..], &consumer.to_le_bytes()].concat();
    let answer = connection.control(0x21, &unsubscribe);
    assert_eq!((answer.flags, answer.batch_id), (ACK, consumer), "an ack frame");
    server.kill_and_start();
    let mut connection = server.connect();
    assert_eq!(answer_of(&mut connection, 0), 7_000, "a commit is durable");
    // Consumers and topics do not see each other's.
    let other = connection.control(0x20, &subscribe(id, 0, consumer + 1));
    assert_eq!(other.u64_at(8), 0);
    let second = connection.create_topic("other");
    assert_eq!(connection.control(0x20, &subscribe(second, 0, consumer)).u64_at(8), 0);
}

#[test]
fn hello_negotiates_and_an_unknown_feature_is_absent_from_the_answer() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let hello = [&[1u8, 0, 4, 0][..], &(1u64 << 63 | 1).to_le_bytes(), b"test"].concat();
    let answer = connection.control(0x40, &hello);
    assert_eq!(answer.batch_id, 0xC0);
    assert_eq!(answer.payload[0], 1, "minor version");
    assert_eq!(u16::from_le_bytes([answer.payload[2], answer.payload[3]]), 1, "node id");
    assert_eq!(answer.u64_at(4), 1, "only what is known is granted");
    connection.send(&frame(CONTROL, 0x03, 0, &[]));
    assert_eq!(connection.read().batch_id, 0x80);
}

#[test]
fn pipelined_commands_are_answered_in_the_order_asked() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let id = connection.create_topic("mixed");
    let mut bytes = Vec::new();
    for round in 0..50u64 {
        bytes.extend(frame(0x04, round, id, &[b'x'; 100]));
        bytes.extend(frame(CONTROL, 0x04, 0, &u32_bytes(id)));
        bytes.extend(frame(0x04, round, id + 9, b"nowhere"));
        bytes.extend(frame(CONTROL, 0x22, 0, &commit(id, round, round)));
    }
    connection.send(&bytes);
    for round in 0..50u64 {
        let ack = connection.read();
        assert_eq!((ack.flags, ack.batch_id), (ACK, round));
        assert_eq!(connection.read().batch_id, 0x80, "GetTopic");
        assert_eq!(connection.read().text(), "Unknown topic");
        let committed = connection.read();
        assert_eq!((committed.batch_id, committed.u64_at(0)), (0x24, round));
    }
}
