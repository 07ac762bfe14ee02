//! `lance --check-config`, and starts that are refused.

use lance_integration::harness::ServerSpec;
use lance_integration::harness::process::{Finished, run};

/// The file that operators were promised.
const PUBLISHED: &str = r#"
[node]
id = 1
data_dir = "/var/lib/lance"
[network]
bind = "0.0.0.0:9000"
nic_pci_addr = "0000:3b:00.0"
[io]
uring_sq_depth = 4096
batch_size = 262144
o_direct = true
[numa]
enabled = true
nic_node = 0
nvme_node = 0
[replication]
mode = "L1"
peers = ["lance-2:9000", "lance-3:9000"]
"#;

/// A line of the published file, what it becomes, and what the error must name: key, value, allowed values.
const BROKEN: &[(&str, &str, [&str; 3])] = &[
    ("id = 1", "id = 0", ["node.id", "0", "1 to 65535"]),
    ("data_dir = \"/var/lib/lance\"", "data_dir = \"\"", ["node.data_dir", "\"\"", "not empty"]),
    ("bind = \"0.0.0.0:9000\"", "bind = \"0.0.0.0\"", ["network.bind", "0.0.0.0", "host:port"]),
    ("nic_pci_addr = \"0000:3b:00.0\"", "nic_pci_addr = \"3b\"", ["network.nic_pci_addr", "3b", "0000:3b:00.0"]),
    ("uring_sq_depth = 4096", "uring_sq_depth = 1000000", ["io.uring_sq_depth", "1000000", "8 to 32768"]),
    ("batch_size = 262144", "batch_size = 262145", ["io.batch_size", "262145", "multiple of 4096"]),
    ("o_direct = true", "o_direct = \"yes\"", ["io.o_direct", "yes", "true or false"]),
    ("nic_node = 0", "nic_node = -1", ["numa.nic_node", "-1", "0 to 1023"]),
    ("mode = \"L1\"", "mode = \"L9\"", ["replication.mode", "L9", "\"L1\" or \"L2\""]),
    ("mode = \"L1\"", "modes = \"L1\"", ["replication.modes", "L1", "replication.mode"]),
];

fn check(text: &str) -> Finished {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lance.toml");
    std::fs::write(&file, text).unwrap();
    run("lance", &["--check-config", "--config", file.to_str().unwrap()], b"")
}

#[test]
fn the_published_file_passes_and_the_effective_configuration_is_printed() {
    let printed = check(PUBLISHED).ok();
    for line in ["bind = \"0.0.0.0:9000\"", "mode = \"L1\"", "uring_sq_depth = 4096"] {
        assert!(printed.contains(line), "{line} is missing in:\n{printed}");
    }
    // What was printed is a configuration in its own right.
    check(&printed).ok();
}

#[test]
fn each_broken_variant_gets_an_error_that_names_file_key_value_and_what_is_allowed() {
    for (line, broken, parts) in BROKEN {
        assert!(PUBLISHED.contains(line));
        let (code, error) = check(&PUBLISHED.replacen(line, broken, 1)).failure();
        assert_eq!(code, 2, "{broken}: {error}");
        for part in parts.iter().chain(&["lance.toml"]) {
            assert!(error.contains(part), "{broken}: {part} is missing in {error}");
        }
    }
}

#[test]
fn all_problems_are_reported_by_one_run_before_anything_starts() {
    let mut text = PUBLISHED.to_owned();
    for (line, broken, _) in &BROKEN[..9] {
        text = text.replacen(line, broken, 1);
    }
    let (code, error) = check(&text).failure();
    assert_eq!(code, 2);
    for (_, _, [key, ..]) in &BROKEN[..9] {
        assert!(error.contains(key), "{key} is missing in {error}");
    }
}

#[test]
fn a_second_server_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let server = ServerSpec::new().start();
    let folder = format!("node.data_dir={}", server.data_dir().display());
    let arguments = ["--set", &folder, "--set", "network.bind=127.0.0.1:0", "--set", "admin.bind=127.0.0.1:0"];
    let (code, error) = run("lance", &arguments, b"").failure();
    assert_eq!(code, 1, "{error}");
    assert!(error.contains(&server.data_dir().display().to_string()), "{error}");
    server.connect().ping();
}

#[test]
fn a_folder_of_another_node_is_refused_and_both_nodes_are_named() {
    let mut server = ServerSpec::new().set("node.id=1").start();
    server.kill();
    server.set("node.id=2");
    server.spawn();
    let status = server.wait_for_end();
    assert_eq!(status.code(), Some(1));
    let error = server.stderr();
    assert!(error.contains("node.json") || error.contains("node id"), "{error}");
    assert!(error.contains('1') && error.contains('2'), "{error}");
}

#[test]
fn an_address_in_use_is_named() {
    let server = ServerSpec::new().start();
    let folder = tempfile::tempdir().unwrap();
    let folder = format!("node.data_dir={}", folder.path().display());
    let bind = format!("network.bind={}", server.address());
    let arguments = ["--set", &folder, "--set", &bind, "--set", "admin.bind=127.0.0.1:0"];
    let (code, error) = run("lance", &arguments, b"").failure();
    assert_eq!(code, 1, "{error}");
    assert!(error.contains(&server.address()), "{error}");
}
