//! Broken configurations: every message names the place, the key, the value and what is allowed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::PathBuf;

use lance_config::{LoadRequest, load};

/// Problems of a file with this text, one line each.
fn problems(text: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lance.toml");
    std::fs::write(&path, text).unwrap();
    let request = LoadRequest { file: Some(path), ..LoadRequest::default() };
    load(&request).map(|_| Vec::new()).unwrap_or_else(|problems| problems.iter().map(ToString::to_string).collect())
}

/// (file, place, key, value, allowed)
const CASES: &[(&str, &str, &str, &str, &str)] = &[
    ("[node]\nid = 0", ":2", "node.id", "= 0", "from 1 to 65535"),
    ("[node]\nid = \"one\"", ":2", "node.id", "\"one\"", "an integer"),
    ("[node]\ndata_dir = \"\"", ":2", "node.data_dir", "\"\"", "not empty"),
    ("[network]\nbind = \"localhost\"", ":2", "network.bind", "\"localhost\"", "host:port"),
    ("[network]\nadvertise = \"0.0.0.0:1\"", ":2", "network.advertise", "0.0.0.0:1", "others can reach"),
    ("[network]\nnic_pci_addr = \"3b:00\"", ":2", "network.nic_pci_addr", "\"3b:00\"", "0000:3b:00.0"),
    ("[io]\n\nbatch_size = 5000", ":3", "io.batch_size", "= 5000", "a multiple of 4096"),
    ("[io]\nbackend = \"aio\"", ":2", "io.backend", "\"aio\"", "\"auto\" or \"io_uring\" or \"tokio_uring\""),
    ("[io]\no_direct = 1", ":2", "io.o_direct", "= 1", "true or false"),
    ("[io]\nbuffer_pool_bytes = \"4MiB\"", ":2", "io.buffer_pool_bytes", "\"4MiB\"", "at least 16896KiB"),
    ("[storage]\nsync = \"never\"", ":2", "storage.sync", "\"never\"", "\"always\" or { interval_ms"),
    ("[storage]\nsync = { interval_ms = 5 }", ":2", "storage.sync", "interval_ms = 5", "bytes = 1 to"),
    ("[storage]\nsegment_bytes = \"5GiB\"", ":2", "storage.segment_bytes", "\"5GiB\"", "to 4261412864"),
    ("[storage]\nscrub_interval_secs = \"soon\"", ":2", "storage.scrub_interval_secs", "\"soon\"", "\"7d\""),
    ("[storage]\ndisk_min_free_bytes = \"2GiB\"", ":2", "storage.disk_min_free_bytes", "2GiB", "warn before"),
    ("[replication]\nmode = \"L3\"", ":2", "replication.mode", "\"L3\"", "\"L1\" or \"L2\""),
    ("[node]\nid=1\n[replication]\npeers = [\"a\"]", ":4", "replication.peers", "[\"a\"]", "host:port"),
    ("[node]\nid=1\n[replication]\npeers = [\"a:1\", \"a:1\"]", ":4", "replication.peers", "a:1", "none twice"),
    ("[replication]\npeers = [\"a:1\"]", ":2", "node.id", "not set", "an integer from 1 to 65535"),
    ("[admin]\nbind = \"0.0.0.0:1992\"", ":2", "admin.bind", "0.0.0.0:1992", "two different ports"),
    ("[topics]\ndefault_replication_factor = 3", ":2", "topics.default_replication_factor", "= 3", "from 0 to 1"),
    ("[topics]\ndefault_partitions = 70000", ":2", "topics.default_partitions", "70000", "to 65535"),
    ("[shards]\ncount = 256", ":2", "shards.count", "= 256", "from 1 to 255"),
    ("[shards]\ncount = 0", ":2", "shards.count", "= 0", "from 1 to 255"),
    ("[limits]\nmax_record_bytes = 1000", ":2", "limits.max_record_bytes", "= 1000", "from 1024 to 16777216"),
    ("[telemetry]\nsample_ratio = 1.5", ":2", "telemetry.sample_ratio", "1.5", "from 0 to 1"),
    ("[tls]\nenabled = true\nkey_file = \"a.pem\"", ":2", "tls.enabled", "true", "allowed is a tls.cert_file"),
    ("[tls]\nenabled = true\ncert_file = \"a.pem\"", ":2", "tls.enabled", "true", "allowed is a tls.key_file"),
    (
        "[tls]\nenabled = true\ncert_file = \"a.pem\"\nkey_file = \"a.pem\"\nclient_auth = \"required\"",
        ":5",
        "tls.client_auth",
        "\"required\"",
        "allowed is a tls.ca_file",
    ),
    (
        "[tls]\nclient_auth = \"maybe\"",
        ":2",
        "tls.client_auth",
        "\"maybe\"",
        "\"none\" or \"optional\" or \"required\"",
    ),
    ("[auth]\nenabled = true", ":2", "auth.enabled", "true", "allowed is an auth.token"),
    ("[auth]\ntoken = \"short\"", ":2", "auth.token", "********", "16 to 1024 bytes"),
    ("[auth]\nsuperusers = [\"a b\"]", ":2", "auth.superusers", "a b", "names of 1 to 255"),
    (
        "[node]\nid=1\n[replication]\npeers=[\"a:1\"]\n[auth]\nenabled=true\nsuperusers=[\"root\"]",
        ":6",
        "auth.enabled",
        "true",
        "allowed is a cluster.secret",
    ),
    ("[cluster]\nsecret = \"short\"", ":2", "cluster.secret", "********", "16 to 1024 bytes"),
    ("[limits]\nmax_frame_bytes = \"17MiB\"", ":2", "limits.max_frame_bytes", "17MiB", "to 16777216"),
    ("[limits]\nmax_in_flight_bytes = \"1MiB\"", ":2", "limits.max_in_flight_bytes", "1MiB", "at least 16MiB"),
    ("[shards]\ncount = 3\ncpus = [0]", ":3", "shards.cpus", "[0]", "a CPU for each shard"),
    ("[shards]\ncpus = [0, 0]", ":2", "shards.cpus", "[0, 0]", "none twice"),
    ("[supervision]\nbackoff_min_ms = \"1m\"", ":2", "supervision.backoff_min_ms", "60000", "at most backoff_max_ms"),
    ("[io]\nbatchsize = 1", ":2", "io.batchsize", "= 1", "did you mean io.batch_size?"),
    ("[io]\nsegment_bytes = 1", ":2", "io.segment_bytes", "= 1", "did you mean storage.segment_bytes?"),
    ("[networks]\nbind = \"a:1\"", ":2", "networks.bind", "\"a:1\"", "did you mean network.bind?"),
    ("\nid = 3", ":2", "id", "= 3", "did you mean node.id?"),
    ("[colours]\nred = 1", ":2", "colours.red", "= 1", "allowed sections are node, network"),
    ("[cluster]\nsecrets = \"do-not-show-me!!\"", ":2", "cluster.secrets", "********", "did you mean cluster.secret?"),
];

#[test]
fn every_problem_names_place_key_value_and_what_is_allowed() {
    for (text, place, key, value, allowed) in CASES {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{text:?}: {found:#?}");
        for part in ["lance.toml", place, key, value, allowed] {
            assert!(found[0].contains(part), "{text:?}: {part:?} is missing in {:?}", found[0]);
        }
    }
}

#[test]
fn one_run_reports_every_problem() {
    let all: Vec<String> = problems("[node]\nid = 0\ncolour = 1\n[io]\nbackend = 3\n[tls]\nclient_auth = 1\n[nope]\n");
    assert_eq!(all.len(), 5, "{all:#?}");
}

#[test]
fn what_is_not_toml_is_said_with_its_line() {
    for (text, line) in [("[node]\nid = ", ":2"), ("[node\n", ":1"), ("[node]\nid = 1\nid = 2\n", ":3")] {
        let found = problems(text);
        assert!(!found.is_empty() && found[0].contains(line) && found[0].contains("TOML"), "{text:?}: {found:?}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let request = LoadRequest { file: Some(PathBuf::from("/nonexistent/lance.toml")), ..LoadRequest::default() };
    let found = load(&request).unwrap_err();
    assert!(found[0].to_string().contains("/nonexistent/lance.toml"), "{found:?}");
}
