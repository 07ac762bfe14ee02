//! The arguments of `lnc-bench`.

use super::output_to::OutputTo;
use super::suite::SuiteArgs;
use crate::cli::args::Common;
use crate::cli::units::parse_bytes;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Load for a LANCE server, and the floors of the machine to compare with.
#[derive(Debug, Parser)]
#[command(name = "lnc-bench", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct BenchCli {
    /// What every command takes.
    #[command(flatten)]
    pub flags: BenchFlags,
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

const EXAMPLES: &str = "\
Examples:
  lnc-bench produce --connections 8 --in-flight 64 --record-bytes 1024
  lnc-bench produce --connections 256 --rate 1000 --floors --floor-dir /var/lib/lance
  lnc-bench consume --fill 1GiB --fetch-bytes 4MiB
  lnc-bench end-to-end --rate 1000 --output json
  lnc-bench suite --output benchmarks.md";

/// Flags of every command; they may follow the subcommand.
#[derive(Clone, Debug, Args)]
pub struct BenchFlags {
    /// Server to load; a suite starts its own.
    #[arg(long, global = true, env = "LNC_SERVER", default_value = "127.0.0.1:1992", value_name = "HOST:PORT")]
    pub server: String,
    /// Where results go: text or json on standard output, or a file (JSON when its name ends in .json).
    #[arg(long, global = true, default_value = "text", value_name = "text|json|FILE|-")]
    pub output: OutputTo,
    /// Token to authenticate with.
    #[arg(long, global = true, env = "LNC_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File with the token.
    #[arg(long, global = true, env = "LNC_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificate authority to trust, PEM: connections are encrypted.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Own certificate, PEM.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key of the own certificate, PEM.
    #[arg(long, global = true, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
}

impl BenchFlags {
    /// As connections take them.
    pub fn common(&self) -> Common {
        Common {
            server: self.server.clone(),
            output: self.output.format(),
            token: self.token.clone(),
            token_file: self.token_file.clone(),
            user: None,
            password_file: None,
            tls_ca: self.tls_ca.clone(),
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
        }
    }
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Records into the server: flat out, or at a fixed rate with latency from the intended send time.
    #[command(after_help = "\
Examples:
  lnc-bench produce --connections 8 --in-flight 64 --record-bytes 1024
  lnc-bench produce --connections 256 --rate 1000 --floors --floor-dir /var/lib/lance
  lnc-bench produce --plain --batch-records 100 --duration 30s --output json")]
    Produce(ProduceArgs),
    /// Records out of the server, as fast as it gives them.
    #[command(after_help = "\
Examples:
  lnc-bench consume --fill 1GiB --fetch-bytes 4MiB
  lnc-bench consume --connections 4 --partitions 4 --verify --output json")]
    Consume(ConsumeArgs),
    /// From the intended send time to the arrival at a consumer.
    #[command(after_help = "\
Examples:
  lnc-bench end-to-end --rate 1000 --output json
  lnc-bench end-to-end --partitions 4 --rate 20000 --duration 1m")]
    EndToEnd(EndToEndArgs),
    /// Only the floors of this machine.
    #[command(after_help = "\
Example:
  lnc-bench floors --floor-dir /var/lib/lance --floor-time 5s")]
    Floors(FloorArgs),
    /// The whole set against servers of its own: one Markdown table of figures, floors, targets and verdicts.
    Suite(SuiteArgs),
}

/// The floors to measure in the same run.
#[derive(Clone, Debug, Args)]
pub struct FloorArgs {
    /// Directory on the device to measure.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub floor_dir: PathBuf,
    /// How long each floor is measured.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub floor_time: Duration,
}

/// What all loads share.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Topic; created with --partitions when missing.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Partitions of the topic; connections are spread over them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub partitions: u16,
    /// How long to measure.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Load before measuring.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub warm_up: Duration,
    /// Bytes of one record's value.
    #[arg(long, value_name = "SIZE", default_value = "1024", value_parser = parse_bytes)]
    pub record_bytes: u64,
    /// Process of the server, to report its CPU time and memory.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// What an ack means in this run, for the report.
    #[arg(long, value_name = "TEXT", default_value = "as the server is configured")]
    pub durability: String,
    /// Measure the machine's floors in the same run and compare with them.
    #[arg(long)]
    pub floors: bool,
    /// How the floors are measured.
    #[command(flatten)]
    pub floor: FloorArgs,
}

/// Arguments of `lnc-bench produce`.
#[derive(Clone, Debug, Args)]
pub struct ProduceArgs {
    /// What all loads share.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Connections.
    #[arg(short, long, default_value_t = 1)]
    pub connections: usize,
    /// Frames without an ack on each connection.
    #[arg(short, long, default_value_t = 1)]
    pub in_flight: usize,
    /// Records in each frame.
    #[arg(short, long, default_value_t = 1)]
    pub batch_records: u32,
    /// Records a second over all connections; 0 is flat out.
    #[arg(short, long, default_value_t = 0.0)]
    pub rate: f64,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Speak LWP 1.0, without Hello.
    #[arg(long)]
    pub plain: bool,
}

/// Arguments of `lnc-bench consume`.
#[derive(Clone, Debug, Args)]
pub struct ConsumeArgs {
    /// What all loads share.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Connections; each reads a whole partition, again from the start when it has reached the end.
    #[arg(short, long, default_value_t = 1)]
    pub connections: usize,
    /// Most bytes of one answer.
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = parse_bytes)]
    pub fetch_bytes: u64,
    /// Fill each partition up to this size first, in batches of 64 KiB.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_bytes)]
    pub fill: u64,
    /// Check the checksum of every answer.
    #[arg(long)]
    pub verify: bool,
}

/// Arguments of `lnc-bench end-to-end`.
#[derive(Clone, Debug, Args)]
pub struct EndToEndArgs {
    /// What all loads share.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Records a second over all partitions.
    #[arg(short, long, default_value_t = 1000.0)]
    pub rate: f64,
}
