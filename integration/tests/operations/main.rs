//! What operators do to running clusters: backups, maintenance, upgrades and downgrades.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

mod backup;
mod backup_damage;
mod maintenance;
mod upgrades;

use lance_integration::harness::process::lnc;
use lance_integration::harness::{ThreeNodes, eventually, http};
use serde_json::Value;

/// What a command that prints JSON says.
fn json(servers: &str, arguments: &[&str]) -> Value {
    let text = lnc(servers, &[arguments, &["--output", "json"]].concat(), b"").ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The state of a node as another one tells it.
fn state_of(servers: &str, node: u64) -> String {
    let status = json(servers, &["cluster", "status"]);
    let nodes = status["nodes"].as_array().unwrap();
    nodes.iter().find(|known| known["id"] == node).unwrap()["state"].as_str().unwrap().to_owned()
}

/// How many partitions a node leads.
fn led_by(servers: &str, node: u64) -> usize {
    let status = json(servers, &["cluster", "status"]);
    status["partitions"].as_array().unwrap().iter().filter(|partition| partition["leader"] == node).count()
}

/// Waits until the nodes that answer use this feature level.
fn await_level(cluster: &ThreeNodes, level: u64) {
    for node in &cluster.nodes {
        eventually(&format!("the cluster uses level {level}"), || {
            let reply = http::try_request(&node.admin(), "GET", "/v1/cluster", "").ok()?;
            (reply.json()["feature_level"] == level).then_some(())
        });
    }
}
