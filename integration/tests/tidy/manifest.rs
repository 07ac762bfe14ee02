//! Reads manifests: which crate names which.

use std::collections::BTreeSet;

use crate::source::root;

/// What one manifest says.
pub struct Manifest {
    /// The crate's folder.
    pub folder: String,
    /// Dependencies that ship.
    pub dependencies: BTreeSet<String>,
    /// Dependencies of its tests.
    pub dev_dependencies: BTreeSet<String>,
}

/// Reads a TOML file below the root.
pub fn toml_file(path: &str) -> toml::Table {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The workspace's members.
pub fn members() -> Vec<String> {
    let manifest = toml_file("Cargo.toml");
    let members = manifest["workspace"]["members"].as_array().unwrap();
    members.iter().map(|member| member.as_str().unwrap().to_owned()).collect()
}

/// The manifest in `folder`, tables of single targets included.
pub fn manifest(folder: &str) -> Manifest {
    let table = toml_file(&format!("{folder}/Cargo.toml"));
    let mut found =
        Manifest { folder: folder.to_owned(), dependencies: BTreeSet::new(), dev_dependencies: BTreeSet::new() };
    collect(&table, &mut found);
    if let Some(targets) = table.get("target").and_then(toml::Value::as_table) {
        targets.values().filter_map(toml::Value::as_table).for_each(|target| collect(target, &mut found));
    }
    found
}

fn collect(table: &toml::Table, found: &mut Manifest) {
    let names = |key: &str| {
        let table = table.get(key).and_then(toml::Value::as_table);
        table.into_iter().flat_map(|table| table.keys().cloned()).collect::<Vec<_>>()
    };
    found.dependencies.extend(names("dependencies"));
    found.dependencies.extend(names("build-dependencies"));
    found.dev_dependencies.extend(names("dev-dependencies"));
}
