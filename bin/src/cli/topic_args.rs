//! The arguments of `lnc topic`.

use super::units::{parse_age_secs, parse_bytes};
use clap::{Args, Subcommand, ValueEnum};
use lance_client::TopicMode;
use lance_client::wire::tee::{TeeFrom, TeeTarget};
use std::fmt;
use std::str::FromStr;

/// Commands on topics.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic.
    #[command(
        after_help = "Example:\n  lnc topic create events --partitions 4 --retention-age 7d --retention-bytes 10GiB"
    )]
    Create(CreateArgs),
    /// List the topics.
    #[command(after_help = "Example:\n  lnc topic list --output json")]
    List,
    /// Show a topic and its partitions.
    #[command(after_help = "Example:\n  lnc topic describe events")]
    Describe {
        /// Name of the topic.
        name: String,
    },
    /// Add partitions to a topic, change its copies, its mode or what it keeps.
    #[command(
        after_help = "Examples:\n  lnc topic alter events --partitions 8 --retention-age 30d\n  lnc topic alter events --replication-factor 3 --mode L2"
    )]
    Alter(AlterArgs),
    /// Set both limits of what a topic keeps; one left out becomes unlimited.
    #[command(after_help = "Example:\n  lnc topic set-retention events --retention-age 7d --retention-bytes 10GiB")]
    SetRetention(RetentionArgs),
    /// Have the records of a topic go on to other topics, of this cluster or of others.
    #[command(subcommand)]
    Tee(TeeCommand),
    /// Delete a topic with all its records.
    #[command(after_help = "Example:\n  lnc topic delete events")]
    Delete {
        /// Name of the topic.
        name: String,
    },
}

/// Commands on the rules by which topics go on to others.
#[derive(Debug, Subcommand)]
pub enum TeeCommand {
    /// Have every committed record of a topic go on to another topic.
    #[command(
        after_help = "Example:\n  lnc topic tee add events --to backup-1:1992,backup-2:1992/events --rate-limit 10MiB"
    )]
    Add(TeeAddArgs),
    /// End a rule.
    #[command(
        after_help = "Examples:\n  lnc topic tee remove events --to backup-1:1992/events\n  lnc topic tee remove events --id 3"
    )]
    Remove(TeeRemoveArgs),
    /// Show the rules, and how far each partition is.
    #[command(after_help = "Example:\n  lnc topic tee list events --output json")]
    List {
        /// Name of the topic; all without it.
        name: Option<String>,
    },
}

/// Arguments of `lnc topic tee add`.
#[derive(Debug, Args)]
pub struct TeeAddArgs {
    /// Name of the topic.
    pub name: String,
    /// Where its records go: nodes of a cluster, and a topic there, which is made if it is missing.
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT…]/TOPIC")]
    pub to: TeePlace,
    /// Most bytes a second, such as 10MiB; unlimited.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub rate_limit: Option<u64>,
    /// The first records that go: all there are, or those stored from now on.
    #[arg(long, value_enum, default_value = "earliest")]
    pub from: TeeFromArg,
}

/// Arguments of `lnc topic tee remove`.
#[derive(Debug, Args)]
pub struct TeeRemoveArgs {
    /// Name of the topic.
    pub name: String,
    /// Where the rule goes; one of its addresses is enough.
    #[arg(long, value_name = "HOST:PORT/TOPIC", conflicts_with = "id")]
    pub to: Option<TeePlace>,
    /// Id of the rule.
    #[arg(long, value_name = "N")]
    pub id: Option<u32>,
}

/// Nodes and a topic: `HOST:PORT[,HOST:PORT…]/TOPIC`.
#[derive(Clone, Debug)]
pub struct TeePlace(pub TeeTarget);

impl FromStr for TeePlace {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let invalid = || format!("'{given}' is no target: expected HOST:PORT[,HOST:PORT…]/TOPIC");
        let (addresses, topic) = given.split_once('/').ok_or_else(invalid)?;
        let addresses: Vec<String> = addresses.split(',').map(|address| address.trim().to_owned()).collect();
        let has_port = |address: &String| {
            address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if topic.is_empty() || !addresses.iter().all(has_port) {
            return Err(invalid());
        }
        Ok(Self(TeeTarget { addresses, topic: topic.to_owned() }))
    }
}

impl fmt::Display for TeePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.addresses.join(","), self.0.topic)
    }
}

/// Which records go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TeeFromArg {
    /// All there are.
    Earliest,
    /// Those stored from now on.
    Latest,
}

impl From<TeeFromArg> for TeeFrom {
    fn from(from: TeeFromArg) -> TeeFrom {
        match from {
            TeeFromArg::Earliest => TeeFrom::Earliest,
            TeeFromArg::Latest => TeeFrom::Latest,
        }
    }
}

/// Arguments of `lnc topic create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the topic: 1 to 255 of A-Z a-z 0-9 . _ -
    pub name: String,
    /// Partitions; the server's default without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub partitions: Option<u16>,
    /// Copies of each partition; the server's default without it.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(1..))]
    pub replication_factor: Option<u8>,
    /// Replication: L1 or L2; the server's default without it.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Age after which records may go, such as 7d; unlimited.
    #[arg(long, value_name = "AGE", value_parser = parse_age_secs)]
    pub retention_age: Option<u64>,
    /// Bytes of each partition that are kept, such as 10GiB; unlimited.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub retention_bytes: Option<u64>,
    /// Do nothing when the topic exists.
    #[arg(long)]
    pub if_not_exists: bool,
}

/// Arguments of `lnc topic alter`.
#[derive(Debug, Args)]
pub struct AlterArgs {
    /// Name of the topic.
    pub name: String,
    /// Partitions, more than it has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub partitions: Option<u16>,
    /// Nodes that hold a copy of each partition; copies are added or removed one by one while the topic is in use.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(1..))]
    pub replication_factor: Option<u8>,
    /// Replication: L1 or L2.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Age after which records may go, such as 7d; unlimited.
    #[arg(long, value_name = "AGE", value_parser = parse_age_secs)]
    pub retention_age: Option<u64>,
    /// Bytes of each partition that are kept, such as 10GiB; unlimited.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub retention_bytes: Option<u64>,
}

/// Arguments of `lnc topic set-retention`.
#[derive(Debug, Args)]
pub struct RetentionArgs {
    /// Name of the topic.
    pub name: String,
    /// Age after which records may go, such as 7d; unlimited.
    #[arg(long, value_name = "AGE", default_value = "unlimited", value_parser = parse_age_secs)]
    pub retention_age: u64,
    /// Bytes of each partition that are kept, such as 10GiB; unlimited.
    #[arg(long, value_name = "SIZE", default_value = "unlimited", value_parser = parse_bytes)]
    pub retention_bytes: u64,
}

/// How a topic is replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Records are passed on to the other nodes, and nobody waits for them.
    #[value(name = "L1", alias = "l1")]
    L1,
    /// Records are acked when a majority of nodes has them.
    #[value(name = "L2", alias = "l2")]
    L2,
}

impl From<Mode> for TopicMode {
    fn from(mode: Mode) -> TopicMode {
        match mode {
            Mode::L1 => TopicMode::L1,
            Mode::L2 => TopicMode::L2,
        }
    }
}
