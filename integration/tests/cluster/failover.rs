//! Nodes that die or stop under load: nothing acked is lost, nothing is there twice, writes go on.

use super::{expect_all_well, load, rounds};
use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::{DroppedAcks, Load, ThreeNodes, eventually};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_killed_leader_is_replaced_and_nothing_acked_is_lost() {
    let mut cluster = ThreeNodes::start();
    let mut load = load(&cluster);
    for _ in 0..rounds(2, 10) {
        load.await_more(200);
        let leader = cluster.leader("events", 0);
        cluster.nodes[leader].kill();
        load.await_all_partitions();
        load.await_more(200);
        load.check();
        cluster.nodes[leader].start_again();
        cluster.await_ready();
    }
    expect_all_well(&cluster, load);
}

#[test]
fn followers_that_die_one_after_the_other_are_not_missed() {
    let mut cluster = ThreeNodes::start();
    let load = load(&cluster);
    load.await_more(200);
    let leader = cluster.leader("events", 0);
    for follower in cluster.others(leader) {
        cluster.nodes[follower].kill();
        load.await_all_partitions();
        load.await_more(200);
        cluster.nodes[follower].start_again();
        cluster.await_ready();
        // The next one may be the only other that held the last acked records: this one catches up first.
        load.await_more(200);
    }
    expect_all_well(&cluster, load);
}

#[test]
fn all_nodes_killed_at_once_come_back_with_everything_acked() {
    let mut cluster = ThreeNodes::start();
    let mut load = load(&cluster);
    for _ in 0..rounds(1, 5) {
        load.await_more(500);
        cluster.nodes.iter_mut().for_each(|node| node.kill());
        cluster.spawn_all();
        cluster.nodes.iter_mut().for_each(|node| node.await_serving());
        cluster.await_ready();
        load.await_all_partitions();
        load.check();
    }
    expect_all_well(&cluster, load);
}

#[test]
fn a_stopped_leader_that_wakes_after_its_failover_has_acked_nothing_that_is_missing() {
    let cluster = ThreeNodes::start();
    let mut load = load(&cluster);
    for _ in 0..rounds(1, 5) {
        load.await_more(200);
        let leader = cluster.leader("events", 0);
        cluster.nodes[leader].pause();
        eventually("another node leads", || {
            let seen = cluster.others(leader).map(|node| cluster.leader_seen_by(node, "events", 0));
            seen.iter().all(|seen| seen.is_some_and(|seen| seen != leader)).then_some(())
        });
        load.await_all_partitions();
        load.await_more(200);
        cluster.nodes[leader].resume();
        load.await_more(200);
        load.check();
        cluster.await_ready();
    }
    expect_all_well(&cluster, load);
}

#[test]
fn records_are_there_once_and_in_order_while_leaders_die_and_acks_are_lost() {
    let mut cluster = ThreeNodes::start();
    let lossy = DroppedAcks::every(50);
    // Faster than acks come: five batches of each partition are under way.
    let pause = Duration::from_micros(200);
    let options = LoadOptions { connector: Some(Arc::new(lossy.clone())), pause, ..LoadOptions::new("events", 2) };
    let mut load = Load::start(&cluster.servers(), options);
    for round in 0..rounds(3, 200) {
        load.await_more(2_000);
        let leader = cluster.leader("events", round as u64 % 2);
        cluster.nodes[leader].kill();
        load.await_all_partitions();
        load.check();
        cluster.nodes[leader].start_again();
        cluster.await_ready();
    }
    load.check();
    assert!(lossy.count() > 20, "{} answers were lost", lossy.count());
    println!("answers lost {}, records acked {}", lossy.count(), load.total_acked());
    expect_all_well(&cluster, load);
}
