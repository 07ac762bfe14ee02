//! What a check has to say: where a value came from, what is wrong with it, and what is allowed.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the built-in default.
    Default,
    /// A file, at a line counted from 1 when it is known.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line.
        line: Option<usize>,
    },
    /// An environment variable of this name.
    Environment(String),
    /// A `--set` flag, by its text up to the `=`.
    Flag(String),
    /// The host's name, from which a missing node id is derived.
    HostName(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(key) => write!(f, "--set {key}"),
            Self::HostName(name) => write!(f, "host name {name}"),
        }
    }
}

/// A reason not to start. Its text names the place, the key, the value and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigProblem {
    /// The file cannot be read.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{origin}: not valid TOML: {reason}")]
    Syntax {
        /// The place.
        origin: Origin,
        /// What the parser said.
        reason: String,
    },
    /// A `--set` that is not `section.key=value`.
    #[error("--set {text}: allowed is section.key=value, for example --set node.id=2")]
    Flag {
        /// The flag's text.
        text: String,
    },
    /// No such key.
    #[error("{origin}: {key} = {value}: unknown key{}; {allowed}", suggestion.as_ref().map(|near| format!(", did you mean {near}?")).unwrap_or_default())]
    UnknownKey {
        /// The place.
        origin: Origin,
        /// The key as written.
        key: String,
        /// The value as written.
        value: String,
        /// The nearest key there is.
        suggestion: Option<String>,
        /// The keys there are in that section, or the sections.
        allowed: String,
    },
    /// A value its key does not take.
    #[error("{origin}: {key} = {value}: not allowed; allowed is {allowed}")]
    BadValue {
        /// The place.
        origin: Origin,
        /// The key.
        key: String,
        /// The value as written; a secret is masked.
        value: String,
        /// What the key takes.
        allowed: String,
    },
    /// A value that does not go with another.
    #[error("{origin}: {key} = {value}: {reason}; allowed is {allowed}")]
    Conflict {
        /// The place.
        origin: Origin,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The other value, and why the two don't go together.
        reason: String,
        /// What would do.
        allowed: String,
    },
}

/// Something that starts all the same, and that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWarning {
    /// Where the value came from.
    pub origin: Origin,
    /// The key it is about.
    pub key: &'static str,
    /// The sentence.
    pub message: String,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.key, self.message)
    }
}
