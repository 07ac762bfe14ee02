//! A node that lost its disk: it refills under its old id, and then it counts like the others.

use super::{expect_all_well, load};
use lance_integration::harness::{ThreeNodes, eventually};

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
    cluster.await_ready();
    load.await_all_partitions();
    // Once it holds everything, the leaders have it admitted: from then on it makes up a quorum with one of the others.
    eventually("the wiped node is admitted in both partitions", || {
        let lines: Vec<String> = cluster.nodes.iter().map(|node| admissions(&node.stderr(), wiped + 1)).collect();
        let partitions: u64 = lines.concat().split_whitespace().filter_map(|count| count.parse::<u64>().ok()).sum();
        (partitions >= 2).then_some(())
    });
    cluster.nodes[other].kill();
    load.await_all_partitions();
    load.await_more(500);
    cluster.nodes[other].start_again();
    expect_all_well(&cluster, load);
}

/// How many partitions each line of a log says a node was admitted in.
pub fn admissions(log: &str, node: usize) -> String {
    let (node, lines) = (format!("node={node} "), log.lines());
    let lines = lines.filter(|line| line.contains("admitting them") && line.contains(&node));
    lines.filter_map(|line| line.split("partitions=").nth(1)).map(|count| format!("{count} ")).collect()
}
