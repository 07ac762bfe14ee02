//! A node that comes up with an older image of its disk, or with a damaged Raft log: that life of it is over, and the next one
//! counts only once it holds everything again.

use super::{expect_counts_again, load};
use lance_integration::harness::cluster::{Cluster, state_of};
use lance_integration::harness::segments::flip_bit;
use lance_integration::harness::{Load, ServerSpec, ThreeNodes, eventually, http};
use std::path::Path;

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A field of `node.json`, as it stands there.
fn identity(data_dir: &Path, field: &str) -> String {
    let text = std::fs::read_to_string(data_dir.join("node.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()[field].to_string()
}

/// A load on a cluster, a follower of its first partition, and a third node.
fn under_load() -> (ThreeNodes, Load, usize, usize) {
    let cluster = ThreeNodes::start();
    let load = load(&cluster);
    load.await_more(1_000);
    let leader = cluster.leader("events", 0);
    let [node, other] = cluster.others(leader);
    (cluster, load, node, other)
}

/// Starts the node until it serves in another life than `old`; fails when it serves in that one.
fn start_until_renewed(cluster: &mut ThreeNodes, node: usize, old: &str) {
    for _ in 0..6 {
        cluster.nodes[node].spawn();
        let incarnation = identity_once_decided(cluster, node);
        if let Some(incarnation) = incarnation {
            assert_ne!(incarnation, old, "it was admitted in the life that is over");
            return;
        }
    }
    panic!("no new life began");
}

/// The incarnation in which the node serves; `None` when its process ended instead.
fn identity_once_decided(cluster: &mut ThreeNodes, node: usize) -> Option<String> {
    eventually("the node serves or ends", || {
        let server = &mut cluster.nodes[node];
        if !server.is_running() {
            let status = server.wait_for_end();
            assert_eq!(status.code(), Some(70), "{}", server.stderr());
            return Some(None);
        }
        let ready = http::try_request(&server.admin(), "GET", "/health/ready", "");
        let serves = matches!(ready, Ok(reply) if reply.status == 200);
        serves.then(|| Some(identity(&server.data_dir(), "incarnation")))
    })
}

/// What the node had of metadata was put aside, and it counts again.
fn expect_refilled(cluster: ThreeNodes, load: Load, node: usize, other: usize) {
    let data_dir = cluster.nodes[node].data_dir();
    let mut entries = std::fs::read_dir(&data_dir).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(entries.any(|name| name.to_str().is_some_and(|name| name.starts_with("meta."))));
    expect_counts_again(cluster, load, node, other);
}

#[test]
fn an_older_image_of_a_disk_is_refilled_however_often_it_is_started() {
    let (mut cluster, load, node, other) = under_load();
    let data_dir = cluster.nodes[node].data_dir();
    let image = tempfile::TempDir::with_prefix("lance-image-").unwrap();
    cluster.nodes[node].kill();
    copy_folder(&data_dir, image.path());
    let old = identity(&data_dir, "incarnation");
    // It goes on, over several starts.
    for _ in 0..3 {
        cluster.nodes[node].start_again();
        cluster.await_ready();
        load.await_all_partitions();
        cluster.nodes[node].kill();
    }
    std::fs::remove_dir_all(&data_dir).unwrap();
    copy_folder(image.path(), &data_dir);
    // While nobody answers it is started past the last number that it registered with.
    let others = cluster.others(node);
    others.iter().for_each(|other| cluster.nodes[*other].pause());
    for _ in 0..6 {
        let before = identity(&data_dir, "boot_number");
        cluster.nodes[node].spawn();
        eventually("it has started", || (identity(&data_dir, "boot_number") != before).then_some(()));
        cluster.nodes[node].kill();
    }
    others.iter().for_each(|other| cluster.nodes[*other].resume());
    start_until_renewed(&mut cluster, node, &old);
    expect_refilled(cluster, load, node, other);
}

#[test]
fn a_damaged_raft_log_of_a_member_begins_a_new_life() {
    let (mut cluster, load, node, other) = under_load();
    let data_dir = cluster.nodes[node].data_dir();
    let old = identity(&data_dir, "incarnation");
    cluster.nodes[node].kill();
    flip_bit(&data_dir.join("meta").join("hard_state"), 26);
    start_until_renewed(&mut cluster, node, &old);
    expect_refilled(cluster, load, node, other);
}

#[test]
fn a_damaged_raft_log_of_one_of_two_voters_stays_where_it_is() {
    let mut cluster = Cluster::start_with(2, |spec| spec.set("supervision.max_restarts=1"));
    let node = cluster.node(2);
    let hard_state = node.data_dir().join("meta").join("hard_state");
    node.kill();
    let newest = std::fs::read(&hard_state).unwrap();
    flip_bit(&hard_state, 26);
    node.spawn();
    assert_eq!(node.wait_for_end().code(), Some(70));
    node.await_log(&["ERROR", "hard_state: damaged", "began with two voters"]);
    assert_eq!(std::fs::read(&hard_state).unwrap().len(), newest.len(), "nothing was put aside");
    std::fs::write(&hard_state, newest).unwrap();
    node.start_again();
    cluster
        .await_status("both are there", |status| state_of(status, 1) == "serving" && state_of(status, 2) == "serving");
}

#[test]
fn damaged_metadata_of_a_node_alone_stay_where_they_are_and_are_named() {
    let mut server = ServerSpec::new().set("supervision.max_restarts=1").start();
    let meta = server.data_dir().join("meta");
    let old = identity(&server.data_dir(), "incarnation");
    server.kill();
    flip_bit(&meta.join("hard_state"), 26);
    let damaged = std::fs::read(meta.join("hard_state")).unwrap();
    server.spawn();
    assert_eq!(server.wait_for_end().code(), Some(70));
    server.await_log(&["ERROR", "hard_state: damaged", "began with this node alone"]);
    assert_eq!(std::fs::read(meta.join("hard_state")).unwrap(), damaged);
    server.spawn();
    assert_eq!(server.wait_for_end().code(), Some(70));
    assert_eq!(identity(&server.data_dir(), "incarnation"), old);
}
