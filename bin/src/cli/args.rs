//! The arguments of `lnc`.

use super::backup::{BackupArgs, RestoreArgs};
use super::cluster_args::ClusterCommands;
use super::group_args::GroupCommand;
use super::log::LogCommand;
use super::secret_args::{AclCommand, UserCommand};
use super::topic_args::TopicCommand;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lance_client::AssignmentStrategy;
use std::path::PathBuf;

/// Produce, consume and manage topics and clusters of LANCE servers.
#[derive(Debug, Parser)]
#[command(name = "lnc", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  lnc produce --topic events --data '{\"event\": \"click\"}'
  lnc consume --topic events --offset earliest
  lnc topic create events --partitions 4";

/// Flags of every command; they may follow the subcommand.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Servers to connect to; the first that answers is used.
    #[arg(
        long,
        global = true,
        env = "LNC_SERVER",
        default_value = "127.0.0.1:1992",
        value_name = "HOST:PORT[,HOST:PORT…]"
    )]
    pub server: String,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub output: OutputFormat,
    /// Token to authenticate with; others can see it in the list of processes, unlike LNC_TOKEN and --token-file.
    #[arg(long, global = true, env = "LNC_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File with the token.
    #[arg(long, global = true, env = "LNC_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// User to log in as, with the password of LNC_PASSWORD or --password-file.
    #[arg(long, global = true, env = "LNC_USER", value_name = "NAME")]
    pub user: Option<String>,
    /// File with the password.
    #[arg(long, global = true, env = "LNC_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Certificate authority to trust, PEM: connections are encrypted.
    #[arg(long, global = true, env = "LNC_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Own certificate, PEM.
    #[arg(long, global = true, env = "LNC_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key of the own certificate, PEM.
    #[arg(long, global = true, env = "LNC_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send records: --data, or one record a line from standard input.
    Produce(ProduceArgs),
    /// Print records; follows until interrupted.
    Consume(ConsumeArgs),
    /// Create, list, describe, alter and delete topics.
    #[command(subcommand)]
    Topic(TopicCommand),
    /// List, describe, reset and delete consumer groups.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Show and steer the cluster.
    #[command(subcommand)]
    Cluster(ClusterCommands),
    /// Add, list and remove users, and set their tokens and passwords.
    #[command(subcommand)]
    User(UserCommand),
    /// Add, list and remove rules about who may do what.
    #[command(subcommand)]
    Acl(AclCommand),
    /// Copy a cluster's records and metadata into a folder while it serves, or check such a folder.
    Backup(BackupArgs),
    /// Bring a backup into an empty cluster.
    Restore(RestoreArgs),
    /// Look into log files.
    #[command(subcommand)]
    Log(LogCommand),
    /// Print a completion script.
    #[command(after_help = "Example:\n  lnc completions bash > /etc/bash_completion.d/lnc")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Arguments of `lnc produce`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lnc produce --topic events --data '{\"event\": \"click\"}'
  tail -F access.log | lnc produce --topic access --compression zstd
  printf 'user1:login\\nuser2:logout\\n' | lnc produce --topic audit --key-delimiter :
  lnc produce --topic events --data hello --header source=shell --header try=1")]
pub struct ProduceArgs {
    /// Topic; created when missing, unless the server forbids that.
    #[arg(short, long)]
    pub topic: String,
    /// One record; without it records are read from standard input.
    #[arg(short, long, value_name = "TEXT")]
    pub data: Option<String>,
    /// What ends a record on standard input; \n, \t, \0 and \xHH are understood.
    #[arg(long, value_name = "TEXT", default_value = "\\n", conflicts_with = "null_delimited")]
    pub delimiter: String,
    /// Records on standard input end with a zero byte.
    #[arg(short = '0', long)]
    pub null_delimited: bool,
    /// Key of every record.
    #[arg(short, long, value_name = "TEXT", conflicts_with = "key_delimiter")]
    pub key: Option<String>,
    /// Splits each record into key and value at its first occurrence.
    #[arg(long, value_name = "TEXT")]
    pub key_delimiter: Option<String>,
    /// Header of every record; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = super::units::parse_header)]
    pub headers: Vec<(String, String)>,
    /// Partition of every record; else the key decides, or records spread.
    #[arg(short, long, value_name = "N")]
    pub partition: Option<u16>,
    /// Compresses batches, where the server can take that.
    #[arg(short = 'z', long, value_enum, default_value = "none")]
    pub compression: Compression,
    /// What to wait for: all = stored as safely as the server is configured, none = sent.
    #[arg(long, value_enum, default_value = "all")]
    pub acks: Acks,
}

/// Compression of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// Fast.
    Lz4,
    /// Smaller.
    Zstd,
    /// Not at all.
    None,
}

/// What a producer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Acks {
    /// The server's ack.
    #[value(aliases = ["-1", "1", "leader", "quorum"])]
    All,
    /// Nothing.
    #[value(alias = "0")]
    None,
}

/// How a consumer group spreads partitions over its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroupStrategy {
    /// Balanced, and nothing moves that need not.
    Sticky,
    /// Consecutive partitions of each topic.
    Range,
    /// One after another.
    RoundRobin,
}

impl From<GroupStrategy> for AssignmentStrategy {
    fn from(strategy: GroupStrategy) -> Self {
        match strategy {
            GroupStrategy::Sticky => Self::Sticky,
            GroupStrategy::Range => Self::Range,
            GroupStrategy::RoundRobin => Self::RoundRobin,
        }
    }
}

/// Arguments of `lnc consume`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lnc consume --topic events --offset earliest
  lnc consume --topic events --exit-at-end --format '%p %o %k %v\\n'
  lnc consume --topic events --group billing
  lnc consume --topic events --offset @2026-01-31T12:00:00Z --count 10 --output json

Format: %t topic, %p partition, %o offset, %T timestamp (ns), %k key, %v value, %h headers as
name=value,name=value, %% a percent sign;
\\n, \\t, \\0, \\xHH and \\\\ as usual.")]
pub struct ConsumeArgs {
    /// Topic; created when missing, unless the server forbids that.
    #[arg(short, long)]
    pub topic: String,
    /// Where to begin: earliest, latest, a byte offset, or @TIME as in RFC 3339.
    #[arg(short, long, default_value = "earliest", value_name = "earliest|latest|N|@RFC3339")]
    pub offset: super::units::OffsetArg,
    /// Only this partition.
    #[arg(short, long, value_name = "N")]
    pub partition: Option<u16>,
    /// Stop at what was the end when the command started.
    #[arg(short, long)]
    pub exit_at_end: bool,
    /// Stop after this many records.
    #[arg(short, long, value_name = "N")]
    pub count: Option<u64>,
    /// Share the topic with the other members of this group; resume where it was, and commit every second. --offset
    /// applies where nothing is committed.
    #[arg(short, long, value_name = "NAME")]
    pub group: Option<String>,
    /// A name that stays the same when this command is started anew: its partitions wait for it.
    #[arg(long, value_name = "NAME", requires = "group")]
    pub group_instance: Option<String>,
    /// How the group spreads partitions.
    #[arg(long, value_enum, default_value = "sticky", requires = "group")]
    pub group_strategy: GroupStrategy,
    /// How long this member may be silent before its partitions go to others.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration, requires = "group")]
    pub session_timeout: std::time::Duration,
    /// Read from a replica whose `node.rack` is this one, where one is in the quorum, rather than from the leader.
    #[arg(long, value_name = "NAME")]
    pub rack: Option<String>,
    /// How a record is printed.
    #[arg(short, long, default_value = "%v\\n")]
    pub format: String,
}
