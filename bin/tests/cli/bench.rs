//! `lnc-bench`: short runs that only have to work.

use crate::server::Server;

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
