//! The arguments of `lnc group`.

use super::units::OffsetArg;
use clap::{Args, Subcommand};

/// Commands on consumer groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// All groups.
    #[command(after_help = "Example:\n  lnc group list --output json")]
    List,
    /// Members, partitions and lag of a group.
    #[command(after_help = "Example:\n  lnc group describe billing --output json")]
    Describe {
        /// The group.
        name: String,
    },
    /// Set where a group without members goes on.
    #[command(after_help = "\
Examples:
  lnc group reset-offsets billing --topic events --to earliest
  lnc group reset-offsets billing --topic events --partition 3 --to @2026-01-31T12:00:00Z --dry-run")]
    ResetOffsets(ResetArgs),
    /// Forget a group without members, and its offsets.
    #[command(after_help = "Example:\n  lnc group delete billing")]
    Delete {
        /// The group.
        name: String,
    },
}

/// Arguments of `lnc group reset-offsets`.
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// The group.
    pub name: String,
    /// The topic.
    #[arg(short, long)]
    pub topic: String,
    /// Only this partition.
    #[arg(short, long, value_name = "N")]
    pub partition: Option<u16>,
    /// Where to: earliest, latest, a byte offset, or @TIME as in RFC 3339.
    #[arg(long, value_name = "earliest|latest|N|@RFC3339")]
    pub to: OffsetArg,
    /// Only print what would be set.
    #[arg(long)]
    pub dry_run: bool,
}
