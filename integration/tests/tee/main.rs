//! Topics that go on to other clusters, between real processes: what arrives, whatever dies on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

mod faults;
mod kernel;
mod limits;
mod rules;

use lance_integration::harness::process::lnc;
use lance_integration::harness::{Server, ServerSpec};
use serde_json::Value;

/// A node of its own, in which faults may be injected.
fn server() -> Server {
    ServerSpec::new().set("admin.fault_injection=true").set("storage.segment_bytes=1MiB").start()
}

/// Adds a rule, and gives its id.
fn add(source: &str, topic: &str, to: &str, more: &[&str]) -> u64 {
    let arguments = [&["topic", "tee", "add", topic, "--to", to, "--output", "json"][..], more].concat();
    let added: Value = serde_json::from_str(lnc(source, &arguments, b"").ok().trim()).unwrap();
    added["id"].as_u64().unwrap()
}

/// The rules of a server.
fn list(source: &str) -> Vec<Value> {
    let listed: Value =
        serde_json::from_str(lnc(source, &["topic", "tee", "list", "--output", "json"], b"").ok().trim()).unwrap();
    listed["tees"].as_array().unwrap().clone()
}

/// Stores one record a line.
fn produce(server: &str, topic: &str, lines: &str) {
    lnc(server, &["produce", "--topic", topic], lines.as_bytes()).ok();
}
