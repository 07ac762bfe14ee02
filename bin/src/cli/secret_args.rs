//! The arguments of `lnc user` and `lnc acl`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use lance_client::rules::Operation;

/// Commands on users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a user; a token is made and printed, once.
    #[command(after_help = "\
Examples:
  lnc user add billing
  lnc user add alice --password-stdin < password
  lnc user add gateway --no-token        # known by its certificate only")]
    Add {
        /// Its name.
        name: String,
        /// Read a password from standard input, in place of a token.
        #[arg(long)]
        password_stdin: bool,
        /// Without a token.
        #[arg(long)]
        no_token: bool,
    },
    /// Remove a user; its connections may do nothing more.
    #[command(after_help = "Example:\n  lnc user remove billing")]
    Remove {
        /// Its name.
        name: String,
    },
    /// All users.
    #[command(after_help = "Example:\n  lnc user list --output json")]
    List,
    /// Give a user a new token, made and printed once; the old one ends.
    #[command(after_help = "\
Examples:
  lnc user set-token billing
  lnc user set-token billing --token-stdin < token")]
    SetToken {
        /// Its name.
        name: String,
        /// Read the token from standard input.
        #[arg(long)]
        token_stdin: bool,
    },
    /// Give a user a new password, read from standard input; the old one ends.
    #[command(after_help = "Example:\n  lnc user set-password alice < password")]
    SetPassword {
        /// Its name.
        name: String,
    },
}

/// Commands on rules.
#[derive(Debug, Subcommand)]
pub enum AclCommand {
    /// Add a rule. What no rule allows is denied, and a rule that denies wins.
    #[command(after_help = "\
Examples:
  lnc acl add billing --allow read --topic orders
  lnc acl add billing --allow read --group billing- --prefix
  lnc acl add '*' --deny write --topic audit")]
    Add(RuleArgs),
    /// Remove a rule, named as it was added.
    #[command(after_help = "Example:\n  lnc acl remove billing --allow read --topic orders")]
    Remove(RuleArgs),
    /// All rules.
    #[command(after_help = "Example:\n  lnc acl list --output json")]
    List,
}

/// A rule.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("decision").required(true), group = ArgGroup::new("resource").required(true))]
pub struct RuleArgs {
    /// The user, or the name in a certificate; * for everybody who has authenticated.
    pub principal: String,
    /// What it may do.
    #[arg(long, value_name = "OPERATION", group = "decision")]
    pub allow: Option<OperationArg>,
    /// What it may not do.
    #[arg(long, value_name = "OPERATION", group = "decision")]
    pub deny: Option<OperationArg>,
    /// To this topic.
    #[arg(short, long, value_name = "NAME", group = "resource")]
    pub topic: Option<String>,
    /// To this consumer group.
    #[arg(long, value_name = "NAME", group = "resource")]
    pub group: Option<String>,
    /// To the cluster.
    #[arg(long, group = "resource")]
    pub cluster: bool,
    /// To everything whose name begins so.
    #[arg(long, conflicts_with = "cluster")]
    pub prefix: bool,
}

/// An operation, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OperationArg {
    /// Every one.
    All,
    /// Fetch, take part in a group.
    Read,
    /// Produce.
    Write,
    /// Create topics.
    Create,
    /// Delete topics and groups.
    Delete,
    /// Change topics.
    Alter,
    /// See.
    Describe,
    /// Steer the cluster, change users and rules.
    Admin,
}

impl OperationArg {
    /// As rules have it.
    pub fn operation(self) -> Option<Operation> {
        match self {
            Self::All => None,
            Self::Read => Some(Operation::Read),
            Self::Write => Some(Operation::Write),
            Self::Create => Some(Operation::Create),
            Self::Delete => Some(Operation::Delete),
            Self::Alter => Some(Operation::Alter),
            Self::Describe => Some(Operation::Describe),
            Self::Admin => Some(Operation::Admin),
        }
    }
}
