//! `lance` and `lnc` as people use them.

use lance_integration::harness::process::lnc;
use lance_integration::harness::{ServerSpec, is_long};
use std::collections::HashMap;
use std::fmt::Write as _;

fn lines() -> usize {
    if is_long() { 1_000_000 } else { 100_000 }
}

#[test]
fn a_server_prints_where_everything_is_and_what_to_type_next() {
    let server = ServerSpec::new().start();
    let screen = server.stdout();
    for part in [&server.address(), &server.admin(), &server.data_dir().display().to_string(), "lnc produce"] {
        assert!(screen.contains(part), "{part} is missing in:\n{screen}");
    }
    assert!(screen.lines().count() <= 24, "one screen:\n{screen}");
}

#[test]
fn a_record_produced_on_the_command_line_is_consumed_from_the_earliest_offset() {
    let server = ServerSpec::new().start();
    let address = server.address();
    lnc(&address, &["produce", "--topic", "events", "--data", r#"{"event": "click"}"#], b"").ok();
    let consume = ["consume", "--topic", "events", "--offset", "earliest", "-e"];
    assert_eq!(lnc(&address, &consume, b"").ok(), "{\"event\": \"click\"}\n");
}

#[test]
fn a_dead_server_at_the_head_of_the_list_is_passed_over() {
    let server = ServerSpec::new().start();
    let servers = format!("127.0.0.1:1,{}", server.address());
    lnc(&servers, &["produce", "--topic", "events", "--data", "one"], b"").ok();
    let consume = ["consume", "--topic", "events", "--offset", "earliest", "-e"];
    assert_eq!(lnc(&servers, &consume, b"").ok(), "one\n");
}

#[test]
fn json_output_names_topic_partition_offset_and_totals() {
    let server = ServerSpec::new().start();
    let address = server.address();
    let produced = lnc(&address, &["produce", "-t", "events", "--output", "json"], b"one\ntwo\n").ok();
    let lines: Vec<serde_json::Value> = produced.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (totals, batches) = lines.split_last().unwrap();
    assert_eq!((&totals["topic"], &totals["records"]), (&"events".into(), &2.into()), "{produced}");
    assert!(totals.get("offset").is_none(), "{produced}");
    assert_eq!(batches[0]["partition"], 0, "{produced}");
    assert_eq!(batches[0]["offset"], 0, "{produced}");
    assert_eq!(batches.iter().map(|batch| batch["records"].as_u64().unwrap()).sum::<u64>(), 2, "{produced}");

    let consumed = lnc(&address, &["consume", "-t", "events", "-e", "--output", "json"], b"").ok();
    let records: Vec<serde_json::Value> = consumed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let values: Vec<&str> = records.iter().map(|record| record["value"].as_str().unwrap()).collect();
    assert_eq!(values, ["one", "two"], "{consumed}");
    // TLV: type, length, three bytes.
    assert_eq!((&records[0]["offset"], &records[1]["offset"]), (&0.into(), &8.into()), "{consumed}");
}

#[test]
fn lines_through_standard_input_come_back_identical_and_in_order_from_one_partition() {
    let server = ServerSpec::new().start();
    let address = server.address();
    let mut input = String::new();
    for number in 0..lines() {
        writeln!(input, "line {number} {}", "·".repeat(number % 40)).unwrap();
    }
    lnc(&address, &["produce", "--topic", "lines"], input.as_bytes()).ok();
    let output = lnc(&address, &["consume", "--topic", "lines", "-e"], b"").ok();
    assert_eq!(output.len(), input.len());
    assert!(output == input, "the lines differ");
}

#[test]
fn lines_with_keys_come_back_in_order_by_key_from_eight_partitions() {
    let server = ServerSpec::new().start();
    let address = server.address();
    lnc(&address, &["topic", "create", "keyed", "--partitions", "8"], b"").ok();
    let keys = 97;
    let mut input = String::new();
    for number in 0..lines() {
        writeln!(input, "key-{}:{number}", number % keys).unwrap();
    }
    lnc(&address, &["produce", "-t", "keyed", "--key-delimiter", ":", "-z", "lz4"], input.as_bytes()).ok();
    let output = lnc(&address, &["consume", "-t", "keyed", "-e", "--format", r"%p %k %v\n"], b"").ok();

    let mut next: HashMap<&str, usize> = (0..keys).map(|_| ("", 0)).collect();
    let mut home: HashMap<&str, &str> = HashMap::new();
    for line in output.lines() {
        let [partition, key, number] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        assert_eq!(*home.entry(key).or_insert(partition), partition, "{key} changed its partition");
        let first: usize = key.trim_start_matches("key-").parse().unwrap();
        let expected = next.entry(key).or_insert(first);
        assert_eq!(number.parse(), Ok(*expected), "{key}");
        *expected += keys;
    }
    assert_eq!(output.lines().count(), lines());
    let mut partitions: Vec<&str> = home.values().copied().collect();
    partitions.sort_unstable();
    partitions.dedup();
    assert_eq!(partitions.len(), 8, "97 keys use every partition");
}

#[test]
fn a_consumer_of_a_group_goes_on_where_the_group_was_also_after_a_restart() {
    let mut server = ServerSpec::new().start();
    let address = server.address();
    lnc(&address, &["produce", "-t", "jobs"], b"a\nb\nc\nd\n").ok();
    let consume = |more: &[&str]| {
        let arguments = [&["consume", "-t", "jobs", "--group", "workers"], more].concat();
        lnc(&address, &arguments, b"").ok()
    };
    assert_eq!(consume(&["-c", "2"]), "a\nb\n");
    server.kill_and_start();
    assert_eq!(consume(&["-e"]), "c\nd\n");
    assert_eq!(consume(&["-e"]), "");
}

#[test]
fn topics_are_created_listed_described_altered_and_deleted() {
    let mut server = ServerSpec::new().start();
    let address = server.address();
    let topic = |arguments: &[&str]| lnc(&address, &[&["topic"], arguments].concat(), b"");
    topic(&["create", "orders", "--partitions", "3", "--retention-age", "7d", "--retention-bytes", "10GiB"]).ok();
    let described = topic(&["describe", "orders", "--output", "json"]).ok();
    let described: serde_json::Value = serde_json::from_str(described.trim()).unwrap();
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(3), "{described}");
    topic(&["alter", "orders", "--partitions", "5"]).ok();
    topic(&["set-retention", "orders", "--retention-age", "1h"]).ok();
    server.kill_and_start();
    let described = topic(&["describe", "orders", "--output", "json"]).ok();
    let described: serde_json::Value = serde_json::from_str(described.trim()).unwrap();
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(5), "{described}");
    assert!(topic(&["list"]).ok().contains("orders"));
    topic(&["delete", "orders"]).ok();
    assert!(!topic(&["list"]).ok().contains("orders"));
    let (code, error) = topic(&["describe", "orders"]).failure();
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("orders"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let (code, error) = lnc("127.0.0.1:1", &["topic", "list"], b"").failure();
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("127.0.0.1:1"), "{error}");
    let (code, _) = lnc("127.0.0.1:1", &["topic", "no-such-command"], b"").failure();
    assert_eq!(code, 2);
}

#[test]
fn a_missing_topic_stays_missing_where_the_server_forbids_to_create_it() {
    let server = ServerSpec::new().set("topics.auto_create=false").start();
    let address = server.address();
    let (code, error) = lnc(&address, &["produce", "-t", "nothing", "-d", "x"], b"").failure();
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("nothing"), "{error}");
    assert!(!lnc(&address, &["topic", "list"], b"").ok().contains("nothing"));
}
