//! `lnc log`: looks into log files on disk, without a server.

use super::args::OutputFormat;
use super::failure::Failure;
use clap::Subcommand;
use std::path::PathBuf;

/// Commands on log files.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Show the batches of a segment file.
    #[command(after_help = "Example:\n  lnc log inspect lance-data/topics/1/0/00000000000000000000.log")]
    Inspect {
        /// The file.
        file: PathBuf,
    },
    /// Check every checksum of a segment file.
    #[command(after_help = "Example:\n  lnc log verify lance-data/topics/1/0/00000000000000000000.log")]
    Verify {
        /// The file.
        file: PathBuf,
    },
}

/// Runs a command on a log file.
pub fn run(command: &LogCommand, _output: OutputFormat) -> Result<(), Failure> {
    let (LogCommand::Inspect { file } | LogCommand::Verify { file }) = command;
    Err(Failure::failed(format!(
        "cannot read {}: not available in this version",
        file.display()
    )))
}
