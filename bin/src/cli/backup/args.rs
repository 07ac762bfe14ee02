//! The arguments of `lnc backup` and `lnc restore`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Arguments of `lnc backup`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lnc backup --server lance-1:9000,lance-2:9000 --to /backup/lance
  lnc backup verify /backup/lance

The cluster serves meanwhile. What is committed when it begins is copied. A second run into the same folder copies only what
is new; so does one after an interrupted run. Secrets of users are not copied.")]
pub struct BackupArgs {
    /// The folder; made when it is missing.
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// What else to do.
    #[command(subcommand)]
    pub command: Option<BackupCommand>,
}

/// Commands on backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Check every checksum of a backup; needs no server. Exit code 1 when something is missing or damaged.
    #[command(after_help = "Example:\n  lnc backup verify /backup/lance")]
    Verify {
        /// The folder.
        dir: PathBuf,
    },
}

/// Arguments of `lnc restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lnc restore --server lance-1:9000 --from /backup/lance
  lnc restore --server lance-1:9000 --from /backup/lance --resume

The cluster must be empty, with auto_create off or nobody connected. Everything is checked before anything is written. Records
get the offsets they had, and groups go on where they were.")]
pub struct RestoreArgs {
    /// The folder of the backup.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Go on with a restoration that was interrupted.
    #[arg(long)]
    pub resume: bool,
}
