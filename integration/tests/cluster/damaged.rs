//! A replica whose bytes changed on its disk: what is damaged comes back from the others.

use super::{expect_all_well, load};
use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::process::lnc;
use lance_integration::harness::segments::flip_bit;
use lance_integration::harness::{Load, Server, ThreeNodes, eventually, http};
use std::path::PathBuf;

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
    // What is closed is read from the disk.
    let cluster = ThreeNodes::start_with(&|spec| spec.set("storage.tail_ring_bytes=1MiB"));
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
    // Everything acked is read, from whom it may be.
    load.check();
    node.await_log(&["WARN", "a damaged replica leads"]);
    node.await_log(&["ERROR", "a damaged replica is cut back"]);
    expect_all_well(&cluster, load);
    assert!(std::fs::read(&segments[0]).unwrap() == before, "the file is as it was");
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
    cluster.nodes[damaged].await_log(&["ERROR", "a damaged replica takes part in nothing"]);
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
    cluster.nodes[damaged].await_log(&["ERROR", "a damaged replica takes part in nothing"]);
    expect_all_well(&cluster, load);
}

#[test]
fn what_a_survivor_had_is_served_again_once_the_loss_of_the_others_is_accepted() {
    let mut cluster = ThreeNodes::start();
    let options = LoadOptions { record_bytes: 1_000, ..LoadOptions::new("events", 1) };
    let load = Load::start(&cluster.servers(), options);
    load.await_more(2_000);
    load.finish();
    cluster.await_agreement();
    let log = std::fs::read_dir(cluster.nodes[0].data_dir().join("logs")).unwrap().next().unwrap().unwrap();
    let topic: u32 = log.file_name().to_str().unwrap().trim_end_matches("-0").parse().unwrap();
    let before = cluster.nodes[0].connect().read_from(topic, 0);
    assert!(before.len() > 2_000_000, "{} bytes", before.len());
    // A node that ends by itself has noted how far its logs are synced: what is gone is missed.
    cluster.nodes.iter().for_each(Server::send_sigterm);
    for node in &mut cluster.nodes {
        assert!(node.wait_for_end().success());
    }
    for lost in &cluster.nodes[1..] {
        std::fs::remove_dir_all(lost.data_dir().join("logs")).unwrap();
    }
    cluster.spawn_all();
    cluster.nodes.iter_mut().for_each(Server::await_serving);
    let lost = cluster.nodes[1..].iter();
    lost.for_each(|lost| drop(lost.await_log(&["ERROR", "a damaged replica takes part in nothing"])));
    eventually("the partition is offline", || {
        let offline = http::metric(&cluster.nodes[0].admin(), "lance_partitions_offline", &[]);
        offline.filter(|offline| *offline == 1.0)
    });
    let status = lnc(&cluster.servers(), &["cluster", "status"], b"").ok();
    assert!(status.contains("events") && status.contains("none"), "{status}");
    let (_, refused) = lnc(&cluster.servers(), &["cluster", "recover", "events", "0"], b"").failure();
    assert!(refused.contains("--accept-data-loss"), "{refused}");
    // The next epoch may open between the question and the order.
    let said = eventually("the order is taken", || {
        let ordered = lnc(&cluster.servers(), &["cluster", "recover", "events", "0", "--accept-data-loss"], b"");
        ordered.status.success().then(|| ordered.ok())
    });
    assert!(said.contains("goes on with the copy of node 1"), "{said}");
    let load = Load::start(&cluster.servers(), LoadOptions { idempotent: false, ..LoadOptions::new("others", 1) });
    expect_all_well(&cluster, load);
    assert!(cluster.nodes[0].connect().read_from(topic, 0) == before, "everything the survivor had is there");
}
