//! A node that lost its disk: it refills under its old id, and then it counts like the others.

use super::{expect_all_well, load};
use lance_integration::harness::Cluster;

#[test]
fn a_wiped_node_refills_and_counts_again() {
    let mut cluster = Cluster::start();
    let load = load(&cluster);
    load.await_more(2_000);
    let leader = cluster.leader("events", 0);
    let [wiped, other] = cluster.others(leader);
    cluster.nodes[wiped].kill();
    std::fs::remove_dir_all(cluster.nodes[wiped].data_dir()).unwrap();
    load.await_all_partitions();
    cluster.nodes[wiped].start_again();
    cluster.await_ready();
    load.await_all_partitions();
    // Once it holds everything it makes up the quorum with one of the others.
    lance_integration::harness::eventually("the wiped node holds everything below the ends of the others", || {
        let position = |node: usize| cluster.log_end(node, "events", 0);
        let (there, here) = (position(leader)?, position(wiped)?);
        (here + 64 * 1024 >= there).then_some(())
    });
    cluster.nodes[other].kill();
    load.await_all_partitions();
    load.await_more(500);
    cluster.nodes[other].start_again();
    expect_all_well(&cluster, load);
}
