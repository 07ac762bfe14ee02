//! The arguments of `lance`.

use clap::Parser;
use std::path::PathBuf;

/// The LANCE log-streaming broker. Without options it serves a single node on 127.0.0.1:1992, data in ./lance-data.
#[derive(Debug, Parser)]
#[command(name = "lance", version, after_help = "Example:\n  lance --config lance.toml --set node.id=2")]
pub struct ServerCli {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sets one key, over file and environment; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Checks the configuration, prints what is in effect, and exits.
    #[arg(long)]
    pub check_config: bool,
    /// Prints memory nodes, CPUs and devices of this machine and where each thread would go, and exits.
    #[arg(long, conflicts_with = "check_config")]
    pub print_topology: bool,
}
