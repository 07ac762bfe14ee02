//! `lnc-bench`: short runs that only have to work.

use crate::server::{Server, run as run_program};

const SHORT: [&str; 6] = ["--duration", "300ms", "--warm-up", "100ms", "--output", "json"];

fn run(server: &Server, arguments: &[&str]) -> serde_json::Value {
    server.bench(&[arguments, &SHORT].concat()).json().remove(0)
}

#[test]
fn produce_counts_records_flat_out_and_at_a_rate() {
    let server = Server::start();
    let flat_out = run(&server, &["produce", "-c", "2", "-i", "8", "--partitions", "2", "-b", "3"]);
    assert!(flat_out["figures"]["records_per_s"].as_f64().unwrap() > 0.0);
    assert!(flat_out["figures"]["ack_p99_us"].as_f64().unwrap() > 0.0);
    assert_eq!(flat_out["figures"]["errors_frames"], 0.0);
    let paced = run(&server, &["produce", "--rate", "200", "-i", "100"]);
    assert_eq!(paced["figures"]["errors_frames"], 0.0);
    assert!(paced["figures"]["records_per_s"].as_f64().unwrap() < 1000.0);
    let plain = run(&server, &["produce", "--plain", "--topic", "plain"]);
    assert!(plain["figures"]["records_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn consume_reads_what_it_filled() {
    let server = Server::start();
    let report = run(&server, &["consume", "--fill", "1MiB", "--fetch-bytes", "256KiB", "--verify"]);
    assert!(report["figures"]["throughput_MB_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn end_to_end_misses_nothing() {
    let server = Server::start();
    let report = run(&server, &["end-to-end", "--rate", "100", "--partitions", "2"]);
    assert_eq!(report["figures"]["missing_records"], 0.0);
    assert!(report["figures"]["end_to_end_p50_us"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_suite_runs_a_server_of_its_own_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (data, table) = (folder.path().join("data"), folder.path().join("table.md"));
    let arguments = ["suite", "--seconds", "0.3", "--only", "ack", "--repeat", "1"];
    let folders = ["--data-dir", data.to_str().unwrap(), "--output", table.to_str().unwrap()];
    let ran = run_program(env!("CARGO_BIN_EXE_lnc-bench"), &[&arguments[..], &folders].concat(), None, "");
    assert!(ran.err.contains("1 of 2: ack, synced before ack"), "{ran:?}");
    assert_eq!(ran.ok(), "");
    let text = std::fs::read_to_string(&table).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ack |")).collect();
    assert_eq!(rows.len(), 5, "{text}");
    assert!(rows.iter().all(|row| row.contains(" µs ")), "{text}");
    assert!(text.starts_with("**Machine:**") && !text.contains("**failed**"), "{text}");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
}

#[test]
fn a_suite_without_a_server_program_says_where_it_looked() {
    let program = env!("CARGO_BIN_EXE_lnc-bench");
    let ran = run_program(program, &["suite", "--lance", "/nowhere/lance", "--only", "idle"], None, "");
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("/nowhere/lance"), "{}", ran.err);
    assert_eq!(run_program(program, &["suite", "--only", "nothing"], None, "").code, Some(2));
    assert!(run_program(program, &["suite", "--help"], None, "").ok().contains("Examples"));
}
