//! Producing and consuming.

use crate::server::Server;

#[test]
fn the_two_commands_of_the_readme_work_as_written() {
    let server = Server::start();
    let produced = server.lnc(&["produce", "--topic", "events", "--data", r#"{"event": "click"}"#]);
    assert!(produced.ok().starts_with("1 record stored in topic events"));
    let consumed = server.lnc(&["consume", "--topic", "events", "--offset", "earliest", "--count", "1"]);
    assert_eq!(consumed.ok(), "{\"event\": \"click\"}\n");
}

#[test]
fn lines_become_records_and_acks_are_reported_by_batch() {
    let server = Server::start();
    let input: String = (0..2000).map(|at| format!("line {at}\n")).collect();
    let reports = server.lnc_with_input(&["produce", "--topic", "lines", "--output", "json"], &input).json();
    let (totals, batches) = reports.split_last().unwrap();
    assert_eq!(totals["records"], 2000);
    assert!(totals.get("offset").is_none());
    assert_eq!(batches.iter().map(|batch| batch["records"].as_u64().unwrap()).sum::<u64>(), 2000);
    assert_eq!((&batches[0]["offset"], &batches[0]["partition"]), (&0.into(), &0.into()));
    assert_eq!(server.lnc(&["consume", "--topic", "lines", "--exit-at-end"]).ok(), input);
}

#[test]
fn keys_offsets_and_partitions_are_printed_as_the_format_says() {
    let server = Server::start();
    server.lnc(&["topic", "create", "keyed", "--partitions", "3"]).ok();
    let input = "a=1;b=2;a=3;";
    let arguments = ["produce", "--topic", "keyed", "--delimiter", ";", "--key-delimiter", "="];
    server.lnc_with_input(&arguments, input).ok();
    let printed = server.lnc(&["consume", "--topic", "keyed", "-e", "--format", "%t %k=%v\\n"]).ok();
    let mut lines: Vec<_> = printed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["keyed a=1", "keyed a=3", "keyed b=2"]);
    let json = server.lnc(&["consume", "--topic", "keyed", "-e", "--output", "json"]).json();
    let partition_of = |key: &str| {
        let mut found = json.iter().filter(|record| record["key"] == key).map(|record| record["partition"].clone());
        let first = found.next().unwrap();
        assert!(found.all(|partition| partition == first));
        first.as_u64().unwrap()
    };
    let named = partition_of("a").to_string();
    let only = server.lnc(&["consume", "--topic", "keyed", "-e", "--partition", &named, "-f", "%k"]).ok();
    assert!(only.contains("aa"));
}

#[test]
fn compressed_records_come_out_plain() {
    let server = Server::start();
    let input = "the same line again\n".repeat(500);
    for codec in ["lz4", "zstd", "none"] {
        server.lnc_with_input(&["produce", "--topic", codec, "--compression", codec], &input).ok();
        assert_eq!(server.lnc(&["consume", "--topic", codec, "-e"]).ok(), input);
    }
}

#[test]
fn a_group_goes_on_where_it_was() {
    let server = Server::start();
    server.lnc_with_input(&["produce", "--topic", "jobs"], "1\n2\n3\n4\n5\n").ok();
    let next = |count: &str| server.lnc(&["consume", "--topic", "jobs", "--group", "g", "--count", count, "-e"]).ok();
    assert_eq!(next("2"), "1\n2\n");
    assert_eq!(next("2"), "3\n4\n");
    assert_eq!(next("9"), "5\n");
    assert_eq!(next("9"), "");
    let other = server.lnc(&["consume", "--topic", "jobs", "--group", "h", "-e", "--offset", "latest"]).ok();
    assert_eq!(other, "");
}

#[test]
fn an_offset_says_where_to_begin() {
    let server = Server::start();
    server.lnc_with_input(&["produce", "--topic", "t"], "one\ntwo\nthree\n").ok();
    let from = |offset: &str| server.lnc(&["consume", "--topic", "t", "-e", "--offset", offset]).ok();
    assert_eq!(from("8"), "two\nthree\n");
    assert_eq!(from("latest"), "");
    assert_eq!(from("@2020-01-01T00:00:00Z"), "one\ntwo\nthree\n");
}

#[test]
fn bytes_that_are_no_text_are_shown_as_base64() {
    let server = Server::start();
    let key = "k".repeat(10);
    server.lnc_with_input(&["produce", "--topic", "bytes", "--key", &key, "-0"], "\u{1}\0").ok();
    let record = &server.lnc(&["consume", "--topic", "bytes", "-e", "--output", "json"]).json()[0];
    assert_eq!(record["value"], "\u{1}");
    assert_eq!(record["key"], key);
    assert_eq!(record["offset"], 0);
}

#[test]
fn log_files_are_inspected_and_verified_while_the_server_runs() {
    let server = Server::start();
    server.lnc_with_input(&["produce", "--topic", "files"], "a\nb\nc\n").ok();
    let data = server.data().display().to_string();
    let rows = server.lnc(&["log", "inspect", &data, "--output", "json"]).json();
    let records: u64 = rows.iter().filter_map(|row| row["record_count"].as_u64()).sum();
    assert_eq!(records, 3);
    assert!(rows.iter().any(|row| row["kind"] == "records"));
    assert!(server.lnc(&["log", "verify", &data]).ok().contains("0 damages"));
    let segment = rows[0]["path"].as_str().unwrap();
    let mut bytes = std::fs::read(segment).unwrap();
    bytes[40] ^= 1;
    std::fs::write(segment, bytes).unwrap();
    let damaged = server.lnc(&["log", "verify", &data]);
    assert_eq!(damaged.code, Some(1));
    assert!(damaged.out.contains("DAMAGE") && damaged.err.contains("damaged"), "{damaged:?}");
    assert_eq!(server.lnc(&["log", "inspect", "/nowhere"]).code, Some(1));
}
