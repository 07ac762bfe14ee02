//! A node that lost its disk: it refills under its old id, and then it counts like the others.

use super::{expect_counts_again, load};
use lance_integration::harness::ThreeNodes;

#[test]
fn a_wiped_node_refills_and_counts_again() {
    let mut cluster = ThreeNodes::start();
    let load = load(&cluster);
    load.await_more(2_000);
    let leader = cluster.leader("events", 0);
    let [wiped, other] = cluster.others(leader);
    cluster.nodes[wiped].kill();
    std::fs::remove_dir_all(cluster.nodes[wiped].data_dir()).unwrap();
    load.await_all_partitions();
    cluster.nodes[wiped].start_again();
    expect_counts_again(cluster, load, wiped, other);
}
