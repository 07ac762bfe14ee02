#![doc = include_str!("../README.md")]

pub mod address;
pub mod check;
pub mod cluster;
pub mod effective;
mod field;
pub mod keys;
mod layers;
pub mod machine;
pub mod model;
pub mod problem;
pub mod quota;
pub mod rule;
mod suggest;
pub mod units;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use model::Config;
pub use problem::{ConfigProblem, ConfigWarning, Origin};

/// Where to take a configuration from.
#[derive(Clone, Debug, Default)]
pub struct LoadRequest {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// Environment variables; only `LANCE_SECTION__KEY` ones count.
    pub environment: Vec<(String, String)>,
    /// Texts of `--set section.key=value` flags.
    pub sets: Vec<String>,
    /// Name of this host, for the node id on Kubernetes and to find oneself among the peers.
    pub host_name: Option<String>,
}

impl LoadRequest {
    /// Takes environment and host name from this process and machine.
    pub fn of_this_process(file: Option<PathBuf>, sets: Vec<String>) -> Self {
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect();
        Self { file, environment, sets, host_name: machine::host_name() }
    }
}

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// What an operator should know.
    pub warnings: Vec<ConfigWarning>,
    /// Where each value came from that is not a default.
    pub origins: BTreeMap<&'static str, Origin>,
    /// Nodes of the cluster this configuration describes, this one included.
    pub node_count: usize,
}

impl Loaded {
    /// The configuration in force as TOML that loads again; secrets are left out.
    pub fn to_toml(&self) -> String {
        effective::to_toml(&self.config, &self.origins)
    }
}

/// Loads and checks: defaults, then the file, the environment and the flags.
///
/// Reports every problem of one run at once, in the order file, environment, flags, then those between several keys.
pub fn load(request: &LoadRequest) -> Result<Loaded, Vec<ConfigProblem>> {
    check::load(request)
}
