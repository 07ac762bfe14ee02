//! The arguments of `lnc-chaos`.

use super::faults::FaultKind;
use super::net::NetworkKind;
use crate::cli::args::OutputFormat;
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Starts a cluster of processes, injects faults while it produces and consumes, then checks what was promised.
#[derive(Clone, Debug, Parser)]
#[command(name = "lnc-chaos", version, after_help = EXAMPLES)]
pub struct ChaosCli {
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// How long faults are injected.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// What the order and kind of the faults derive from; drawn when missing, printed in any case.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The server; the `lance` beside this program unless given.
    #[arg(long, value_name = "PATH")]
    pub lance: Option<PathBuf>,
    /// Kinds of faults, separated by commas; all unless given.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND,…")]
    pub faults: Vec<FaultKind>,
    /// Faults that may last at the same time; with 1 each is healed before the next.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub overlap: u16,
    /// What connects the nodes: with namespaces single pairs and directions fail, which takes root and iproute2.
    #[arg(long, value_enum, default_value = "auto")]
    pub network: NetworkKind,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub partitions: u16,
    /// Idempotent producers; each sends to every partition.
    #[arg(long, default_value_t = 2)]
    pub producers: u16,
    /// Consumers; each reads every partition.
    #[arg(long, default_value_t = 2)]
    pub consumers: u16,
    /// Members of a consumer group that read and commit.
    #[arg(long, default_value_t = 2)]
    pub members: u16,
    /// Records a second of each producer in each partition.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,
    /// Bytes of a record, about.
    #[arg(long, default_value_t = 512)]
    pub record_bytes: usize,
    /// Longest wait for the healed cluster to agree.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub patience: Duration,
    /// Where the folders and logs of the nodes go, and stay; a temporary folder unless given.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How the verdict is printed.
    #[arg(long, value_enum, default_value = "text")]
    pub output: OutputFormat,
}

const EXAMPLES: &str = "\
Examples:
  lnc-chaos --duration 2m
  lnc-chaos --seed 7 --faults kill,pause --dir /tmp/chaos
  lnc-chaos --overlap 1 --network proxy
  lnc-chaos --duration 60s --output json

Exit code 0: every promise was kept; 1: one was broken, or the cluster could not be run.";
