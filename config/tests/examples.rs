//! Every shipped file loads, and so does the configuration it results in.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use lance_config::{Config, LoadRequest, Loaded, load};

fn examples() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries =
        |dir: &Path| -> Vec<PathBuf> { std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let (folders, mut files): (Vec<PathBuf>, Vec<PathBuf>) = entries(&dir).into_iter().partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| entries(folder)));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

/// The id that a file of one node of several has in its name, as `node-3.toml` has.
fn named_id(path: &Path) -> Option<u16> {
    path.file_stem()?.to_str()?.strip_prefix("node-")?.parse().ok()
}

fn load_file(path: &Path) -> Loaded {
    let request =
        LoadRequest { file: Some(path.to_owned()), host_name: Some("lance-1".to_owned()), ..LoadRequest::default() };
    load(&request).unwrap_or_else(|problems| panic!("{}: {problems:#?}", path.display()))
}

#[test]
fn every_example_loads() {
    let files = examples();
    assert!(files.len() >= 7);
    for path in files {
        let loaded = load_file(&path);
        let clustered = !loaded.config.replication.peers.is_empty();
        assert_eq!(loaded.node_count, if clustered { 3 } else { 1 }, "{}", path.display());
        let by_host_name = if clustered { 2 } else { 1 };
        assert_eq!(loaded.config.node.id, named_id(&path).unwrap_or(by_host_name), "{}", path.display());
    }
}

#[test]
fn the_printed_configuration_loads_again_as_the_same() {
    for path in examples() {
        let loaded = load_file(&path);
        let dir = tempfile::tempdir().unwrap();
        let printed = dir.path().join("printed.toml");
        std::fs::write(&printed, loaded.to_toml()).unwrap();
        assert_eq!(load_file(&printed).config, loaded.config, "{}", path.display());
    }
}

#[test]
fn an_empty_file_is_the_default_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.toml");
    std::fs::write(&path, "").unwrap();
    let loaded = load_file(&path);
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty());
}

#[test]
fn the_documented_node_loads_and_hears_what_it_lacks() {
    let text = r#"
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
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lance.toml");
    std::fs::write(&path, text).unwrap();
    let loaded = load_file(&path);
    assert_eq!((loaded.config.node.id, loaded.node_count), (1, 3));
    assert_eq!((loaded.config.io.uring_sq_depth, loaded.config.io.batch_size), (4096, 262_144));
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("lance.toml:6") && warnings[0].contains("cluster.secret"), "{warnings:?}");
}
