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
use lance_integration::harness::{Load, ThreeNodes, is_long};
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
