//! How a command fails: what, where, and what to do about it.

use lance_client::ClientError;
use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
    usage: bool,
}

impl Failure {
    /// Something went wrong: exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, usage: false }
    }

    /// The arguments make no sense: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, usage: true }
    }

    /// An operation failed.
    pub fn of(what: impl std::fmt::Display, error: &ClientError) -> Self {
        Self { message: format!("{what}: {error}"), hint: hint_of(error), usage: false }
    }

    /// What to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Prints it on stderr.
    pub fn report(&self, program: &str) {
        eprintln!("{program}: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("  {hint}");
        }
    }

    /// 1, or 2 for usage.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.usage { 2 } else { 1 })
    }
}

/// What a person can do about an error.
fn hint_of(error: &ClientError) -> Option<String> {
    let hint = match error {
        ClientError::Connect { reason, .. }
            if ["TLS", "certificate", "fatal alert"].iter().any(|word| reason.contains(word)) =>
        {
            "TLS is spoken with --tls-ca FILE, and --tls-cert and --tls-key where the server wants a certificate"
        }
        ClientError::Connect { .. } => {
            "is the server running? Start one with `lance`, or name it with --server HOST:PORT"
        }
        ClientError::UnknownTopic { .. } => {
            "see the topics with `lnc topic list`, create one with `lnc topic create NAME`"
        }
        ClientError::UnknownPartition { .. } => "see the partitions with `lnc topic describe NAME`",
        ClientError::Frame { .. } => "is there another kind of server at that address?",
        ClientError::Server { message, .. } if message.contains("Authentication required") => {
            "give a token with LNC_TOKEN or --token-file, or log in with --user"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}
