//! Which layer wins, how plain text is read, and what is nobody's business.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use lance_config::model::{IoBackend, SyncPolicy};
use lance_config::{LoadRequest, Loaded, load};

fn request(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> (tempfile::TempDir, LoadRequest) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lance.toml");
    std::fs::write(&path, file).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let sets = sets.iter().map(|set| (*set).to_owned()).collect();
    (dir, LoadRequest { file: Some(path), environment, sets, host_name: None })
}

fn loaded(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> Loaded {
    let (_dir, request) = request(file, environment, sets);
    load(&request).unwrap()
}

fn refused(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> Vec<String> {
    let (_dir, request) = request(file, environment, sets);
    load(&request).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn a_later_layer_wins() {
    let file = "[node]\nid = 2\n[io]\nuring_sq_depth = 64\n[network]\nbind = \"a:1\"";
    let environment = [("LANCE_NODE__ID", "3"), ("LANCE_IO__URING_SQ_DEPTH", "128")];
    let result = loaded(file, &environment, &["node.id=4"]);
    assert_eq!(result.config.node.id, 4);
    assert_eq!(result.config.io.uring_sq_depth, 128);
    assert_eq!(result.config.network.bind, "a:1");
    assert_eq!(result.origins["node.id"].to_string(), "--set node.id");
    assert_eq!(result.origins["io.uring_sq_depth"].to_string(), "environment LANCE_IO__URING_SQ_DEPTH");
    assert!(result.origins["network.bind"].to_string().ends_with("lance.toml:6"));
}

#[test]
fn plain_text_is_read_as_the_key_wants() {
    let sets = [
        "replication.peers=a:1,b:2",
        "storage.sync={ interval_ms = 5, bytes = \"1MiB\" }",
        "storage.segment_bytes=64MiB",
        "limits.idle_timeout_ms=2m",
        "io.o_direct=false",
        "io.backend=blocking",
        "shards.cpus=0,3",
        "telemetry.sample_ratio=1",
        "node.data_dir=/a b/c",
        "cluster.secret=1234567890123456",
    ];
    let config = loaded("[node]\nid=1", &[], &sets).config;
    assert_eq!(config.replication.peers, ["a:1", "b:2"]);
    let window = SyncPolicy::Window { interval: Duration::from_millis(5), bytes: 1 << 20 };
    assert_eq!(config.storage.sync, window);
    assert_eq!(config.storage.segment_bytes, 64 << 20);
    assert_eq!(config.limits.idle_timeout, Duration::from_secs(120));
    assert!(!config.io.o_direct);
    assert_eq!(config.io.backend, IoBackend::Blocking);
    assert_eq!(config.shards.cpus, [0, 3]);
    assert_eq!(config.telemetry.sample_ratio, 1.0);
    assert_eq!(config.node.data_dir.to_str(), Some("/a b/c"));
    assert_eq!(config.cluster.secret.unwrap().expose(), "1234567890123456");
}

#[test]
fn lists_may_also_be_toml_and_an_empty_text_unsets() {
    let sets = ["replication.peers=[\"a:1\"]", "replication.peers=", "shards.cpus=[1]", "network.advertise="];
    let config = loaded("[network]\nadvertise = \"a:1\"", &[], &sets).config;
    assert!(config.replication.peers.is_empty());
    assert_eq!(config.shards.cpus, [1]);
    assert_eq!(config.network.advertise, None);
    let found = refused("", &[("LANCE_NODE__ID", "")], &[]);
    assert!(found[0].contains("environment LANCE_NODE__ID: node.id = \"\""), "{found:?}");
}

#[test]
fn only_variables_with_two_underscores_are_ours() {
    let environment = [("LANCE_HOME", "/x"), ("LANCE_", ""), ("LNC_SERVER", "a:1"), ("NODE__ID", "9")];
    assert_eq!(loaded("", &environment, &[]).config.node.id, 1);
    let found = refused("", &[("LANCE_NODE__IDD", "2")], &[]);
    assert!(found[0].contains("LANCE_NODE__IDD") && found[0].contains("did you mean node.id?"), "{found:?}");
}

#[test]
fn a_bad_value_is_reported_even_when_overridden() {
    let found = refused("[node]\nid = 0", &[("LANCE_NODE__ID", "x")], &["node.id=5", "nonsense", "a=b"]);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found.iter().any(|text| text.contains("--set nonsense: allowed is section.key=value")), "{found:?}");
}

#[test]
fn a_bad_value_causes_no_second_complaint() {
    let found = refused("[limits]\nmax_frame_bytes = \"32MiB\"\nmax_in_flight_bytes = \"1MiB\"", &[], &[]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn the_node_id_comes_from_the_host_name_beside_peers() {
    let (_dir, mut request) = request("[replication]\npeers = [\"lance-0:1\", \"lance-1:1\"]", &[], &[]);
    request.host_name = Some("lance-1".to_owned());
    let result = load(&request).unwrap();
    assert_eq!(result.config.node.id, 2);
    assert_eq!(result.origins["node.id"].to_string(), "host name lance-1");
    request.sets.push("node.id=9".to_owned());
    assert_eq!(load(&request).unwrap().config.node.id, 9);
}

#[test]
fn risks_are_warned_of() {
    let sets = [
        "storage.sync={interval_ms=10,bytes=4096}",
        "admin.fault_injection=true",
        "replication.peers=a:1",
        "cluster.secret=0123456789abcdef",
        "node.id=1",
    ];
    let result = loaded("", &[], &sets);
    let keys: Vec<&str> = result.warnings.iter().map(|warning| warning.key).collect();
    let expected = ["replication.peers", "storage.sync", "admin.fault_injection"];
    assert_eq!(keys, expected, "{:?}", result.warnings);
}

#[test]
fn secrets_are_shown_nowhere() {
    let secret = "correct-horse-battery-staple";
    let result = loaded("", &[], &[&format!("cluster.secret={secret}")]);
    assert!(!result.to_toml().contains(secret));
    assert!(result.to_toml().contains("# secret is set and not shown"));
    assert!(!format!("{:?}", result.config).contains(secret));
}
