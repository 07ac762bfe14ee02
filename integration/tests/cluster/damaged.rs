//! A replica whose bytes changed on its disk: what is damaged comes back from the others.

use super::{expect_all_well, load};
use lance_integration::harness::segments::flip_bit;
use lance_integration::harness::{Load, ThreeNodes, http};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A scrubber would need days; this is what reading and refilling a few megabytes may take on a busy machine.
const REPAIR_PATIENCE: Duration = Duration::from_secs(120);

/// A cluster under load whose node at the answered place was killed once its log had closed segments: those segments, the
/// last one still written to.
fn with_a_killed_follower() -> (ThreeNodes, Load, usize, Vec<PathBuf>) {
    let mut cluster = ThreeNodes::start();
    let load = load(&cluster);
    load.await_more(6_000);
    let leader = cluster.leader("events", 0);
    let [damaged, _] = cluster.others(leader);
    cluster.nodes[damaged].kill();
    let logs = std::fs::read_dir(cluster.nodes[damaged].data_dir().join("logs")).unwrap();
    let logs = logs.map(|log| cluster.nodes[damaged].files(&log.unwrap().path(), "lnc"));
    let segments = logs.max_by_key(Vec::len).unwrap();
    assert!(segments.len() >= 3, "{segments:?}");
    (cluster, load, damaged, segments)
}

#[test]
fn a_bit_that_flipped_in_a_closed_segment_is_repaired_from_a_peer() {
    let (mut cluster, load, damaged, segments) = with_a_killed_follower();
    flip_bit(&segments[0], 300_000);
    cluster.nodes[damaged].set("storage.scrub_interval_secs=1s");
    cluster.nodes[damaged].start_again();
    cluster.nodes[damaged].await_log(&["ERROR", "the scrubber found damage"]);
    expect_all_well(&cluster, load);
}

#[test]
fn a_bit_that_flipped_on_the_leader_is_repaired_once_a_client_reads_there() {
    let cluster = ThreeNodes::start();
    let mut load = load(&cluster);
    load.await_more(6_000);
    let leader = cluster.leader("events", 0);
    let node = &cluster.nodes[leader];
    let logs = std::fs::read_dir(node.data_dir().join("logs")).unwrap().map(|log| log.unwrap().path());
    let of_partition = logs.filter(|log| log.file_name().unwrap().to_str().unwrap().ends_with("-0"));
    let segments = of_partition.map(|log| node.files(&log, "lnc")).max_by_key(Vec::len).unwrap();
    assert!(segments.len() >= 3, "{segments:?}");
    let before = std::fs::read(&segments[0]).unwrap();
    flip_bit(&segments[0], 300_000);
    let found_at = Instant::now();
    // Everything acked is read, from whom it may be.
    load.check();
    node.await_log(&["WARN", "a damaged replica leads"]);
    node.await_log(&["ERROR", "a damaged replica is cut back"]);
    expect_all_well(&cluster, load);
    assert!(std::fs::read(&segments[0]).unwrap() == before, "the file is as it was");
    assert!(found_at.elapsed() < REPAIR_PATIENCE, "{:?}", found_at.elapsed());
    let waiting = http::metric(&node.admin(), "lance_damaged_replicas_waiting", &[]);
    assert_eq!(waiting, Some(0.0));
}

#[test]
fn a_log_that_is_found_damaged_at_a_start_refills_from_its_leader() {
    let (mut cluster, load, damaged, segments) = with_a_killed_follower();
    // The segments are read from the last flushed mark on: without marks, all of the last one.
    let data_dir = cluster.nodes[damaged].data_dir();
    for entry in std::fs::read_dir(data_dir).unwrap().map(Result::unwrap) {
        if entry.file_name().to_str().unwrap().starts_with("flushed-") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    flip_bit(&segments[segments.len() - 1], 5_000);
    cluster.nodes[damaged].start_again();
    cluster.nodes[damaged].await_log(&["ERROR", "a damaged replica begins anew"]);
    expect_all_well(&cluster, load);
    let stopped = http::metric(&cluster.nodes[damaged].admin(), "lance_partitions_stopped", &[]);
    assert_eq!(stopped, Some(0.0), "it takes part again");
}

#[test]
fn a_log_whose_segments_are_gone_refills_from_its_leader() {
    let (mut cluster, load, damaged, segments) = with_a_killed_follower();
    // One in the middle; the other partition loses all of them.
    std::fs::remove_file(&segments[1]).unwrap();
    let own = segments[0].parent().unwrap();
    for log in std::fs::read_dir(own.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()) {
        if log != own {
            std::fs::remove_dir_all(log).unwrap();
        }
    }
    cluster.nodes[damaged].start_again();
    cluster.nodes[damaged].await_log(&["ERROR", "a damaged replica begins anew"]);
    expect_all_well(&cluster, load);
}
