//! `lnc log`: looks into log files on disk, without a server.

use super::args::OutputFormat;
use super::failure::Failure;
use super::output::Out;
use clap::Subcommand;
use lance_actors::log_tools::{self, LogRow, LogSummary, LogToolError};
use serde::Serialize;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Commands on log files.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Show the batches of a segment, a partition or a data directory.
    #[command(after_help = "Example:\n  lnc log inspect lance-data/logs/1-0 --count 10")]
    Inspect {
        /// A segment file (.lnc), a partition's folder, or a data directory.
        path: PathBuf,
        /// Stop after this many batches.
        #[arg(short, long, value_name = "N")]
        count: Option<u64>,
    },
    /// Check every checksum of a segment, a partition or a data directory; exit code 1 when something is damaged.
    #[command(after_help = "Example:\n  lnc log verify lance-data")]
    Verify {
        /// A segment file (.lnc), a partition's folder, or a data directory.
        path: PathBuf,
    },
}

/// Runs a command on log files.
pub fn run(command: &LogCommand, output: OutputFormat) -> Result<(), Failure> {
    let json = output == OutputFormat::Json;
    let mut out = Out::stdout();
    match command {
        LogCommand::Inspect { path, count } => inspect(path, count.unwrap_or(u64::MAX), json, &mut out),
        LogCommand::Verify { path } => verify(path, json, &mut out),
    }
}

fn inspect(path: &Path, count: u64, json: bool, out: &mut Out) -> Result<(), Failure> {
    let mut left = count;
    let mut printed = Ok(());
    let found = log_tools::inspect(path, &mut |row: &LogRow| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        printed = if json { out.json(&to_json(row)) } else { out.line(&row.to_string()) };
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let summary = found.map_err(|error| unreadable(path, &error))?;
    printed?;
    // Broken off, the sums would be those of a part.
    if left > 0 { print_summary(&summary, json, out) } else { Ok(()) }
}

fn verify(path: &Path, json: bool, out: &mut Out) -> Result<(), Failure> {
    let report = log_tools::verify(path).map_err(|error| unreadable(path, &error))?;
    for damage in &report.damages {
        if json {
            out.json(&to_json(&LogRow::Damage(damage.clone())))?;
        } else {
            out.line(&damage.to_string())?;
        }
    }
    print_summary(&report.summary, json, out)?;
    if report.summary.is_sound() {
        return Ok(());
    }
    let damages = report.summary.damages;
    Err(Failure::failed(format!("{}: {damages} damaged ranges", path.display()))
        .with_hint("nothing was changed; restore these segments from a replica or a backup"))
}

fn print_summary(summary: &LogSummary, json: bool, out: &mut Out) -> Result<(), Failure> {
    if json {
        return out.json(&json!({ "type": "summary", "summary": to_json(summary) }));
    }
    out.line(&summary.to_string())
}

/// Plain structs always serialise.
fn to_json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn unreadable(path: &Path, error: &LogToolError) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", path.display()))
}
