//! Nodes of two adjacent versions: the older one is a node that is told to know nothing newer than feature level 1.

use super::{await_level, json, state_of};
use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::process::lnc;
use lance_integration::harness::{Load, Server, ServerSpec, ThreeNodes, http};
use std::time::Duration;

const OLD: (&str, &str) = ("LANCE_FEATURE_LEVEL", "1");

fn old(spec: ServerSpec) -> ServerSpec {
    spec.variable(OLD.0, OLD.1)
}

fn level(node: &Server) -> u64 {
    http::get(&node.admin(), "/v1/cluster").json()["feature_level"].as_u64().unwrap()
}

#[test]
fn three_nodes_are_upgraded_one_by_one_under_load_and_go_back_only_before_the_last() {
    let mut cluster = ThreeNodes::start_with(&old);
    let servers = cluster.servers();
    let options = LoadOptions { record_bytes: 200, pause: Duration::from_millis(2), ..LoadOptions::new("events", 3) };
    let load = Load::start(&servers, options);
    load.await_all_partitions();
    let restart = |cluster: &mut ThreeNodes, node: usize, variable: &str| {
        lnc(&servers, &["cluster", "drain", &(node + 1).to_string()], b"").ok();
        cluster.nodes[node].terminate();
        cluster.nodes[node].set_variable(OLD.0, variable);
        cluster.nodes[node].start_again();
        cluster.await_ready();
        load.await_all_partitions();
    };
    // Up and back down again: nothing newer was written.
    restart(&mut cluster, 0, "2");
    restart(&mut cluster, 0, "1");
    restart(&mut cluster, 0, "2");
    restart(&mut cluster, 1, "2");
    let (code, error) = lnc(&servers, &["cluster", "maintenance", "1"], b"").failure();
    assert!(code == 1 && error.contains("needs feature level 2, and the cluster has 1"), "{code}: {error}");
    assert!(cluster.nodes.iter().all(|node| level(node) == 1));
    restart(&mut cluster, 2, "2");
    await_level(&cluster, 2);
    lnc(&servers, &["cluster", "maintenance", "1"], b"").ok();
    assert_eq!(state_of(&servers, 1), "maintenance");
    lnc(&servers, &["cluster", "resume", "1"], b"").ok();

    // A newer format is written: the older version refuses to start, and says why.
    cluster.nodes[2].terminate();
    cluster.nodes[2].set_variable(OLD.0, "1");
    cluster.nodes[2].spawn();
    let ended = cluster.nodes[2].wait_for_end();
    assert_eq!(ended.code(), Some(1));
    let said = cluster.nodes[2].stderr();
    assert!(said.contains("node.json") && said.contains("version 2"), "{said}");
    load.await_all_partitions();
    cluster.nodes[2].set_variable(OLD.0, "2");
    cluster.nodes[2].start_again();
    cluster.await_ready();
    load.expect_no_failure();
    load.finish();
    cluster.await_agreement();
    assert_eq!(json(&servers, &["cluster", "status"])["nodes"].as_array().unwrap().len(), 3);
}
