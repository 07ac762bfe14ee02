//! Three real processes: what a cluster promises while its nodes die, stop, restart and lose their disks.
//! `LANCE_LONG_TESTS=1` runs the long variants.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

mod clients;
mod damaged;
mod failover;
mod formation;
mod membership;
mod near_reads;
mod restarts;
mod rolled_back;
mod wiped;

use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::{Load, ThreeNodes, eventually, is_long};
use std::time::Duration;

/// A load that leaves room for the cluster on a busy machine; several segments in the long variants.
fn load(cluster: &ThreeNodes) -> Load {
    let options = LoadOptions { record_bytes: 1_000, pause: Duration::from_millis(2), ..LoadOptions::new("events", 2) };
    Load::start(&cluster.servers(), options)
}

/// So many rounds, or the short number of them.
fn rounds(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

/// Everything acked is there once and in order, and all copies are the same.
fn expect_all_well(cluster: &ThreeNodes, load: Load) {
    cluster.await_ready();
    load.await_all_partitions();
    load.finish();
    cluster.await_agreement();
    cluster.expect_same_segments();
}

/// A node whose life before is over counts again in both partitions: with one of the others it makes up a quorum.
fn expect_counts_again(mut cluster: ThreeNodes, load: Load, node: usize, other: usize) {
    cluster.await_ready();
    load.await_all_partitions();
    eventually("it is admitted in both partitions", || {
        let admitted: u64 = cluster.nodes.iter().map(|one| admissions(&one.stderr(), node + 1)).sum();
        (admitted >= 2).then_some(())
    });
    cluster.nodes[other].kill();
    load.await_all_partitions();
    load.await_more(500);
    cluster.nodes[other].start_again();
    expect_all_well(&cluster, load);
}

/// How many partitions a log says a node was admitted in.
fn admissions(log: &str, node: usize) -> u64 {
    let (node, lines) = (format!("node={node} "), log.lines());
    let lines = lines.filter(|line| line.contains("decision=\"admit\"") && line.contains(&node));
    let counts = lines.filter_map(|line| line.split("changed=").nth(1)?.split_whitespace().next()?.parse::<u64>().ok());
    counts.sum()
}
