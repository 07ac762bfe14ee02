//! A rolling restart: every node goes down in order, and no client that tries again notices.

use super::{expect_all_well, load, rounds};
use lance_integration::harness::ThreeNodes;

#[test]
fn a_rolling_restart_fails_no_call_of_a_client_that_tries_again() {
    let mut cluster = ThreeNodes::start();
    let mut load = load(&cluster);
    load.await_all_partitions();
    for _ in 0..rounds(1, 5) {
        for node in 0..cluster.nodes.len() {
            let status = cluster.nodes[node].terminate();
            assert!(status.success(), "node {}: {status}\n{}", node + 1, cluster.nodes[node].stderr());
            load.await_all_partitions();
            cluster.nodes[node].start_again();
            cluster.await_ready();
            load.await_all_partitions();
            load.expect_no_failure();
        }
    }
    load.check();
    expect_all_well(&cluster, load);
}
