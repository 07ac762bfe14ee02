//! Encryption, authentication and rules, on real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test throughout")]

mod certificates;
mod encryption;
mod public_clients;
mod quotas;
mod rights;

use lance_integration::harness::process::{Finished, lnc};
use lance_integration::harness::{Server, ServerSpec};

/// The token of the bootstrap administrator.
const TOKEN: &str = "the-token-of-the-bootstrap-administrator";

/// A server that authenticates.
fn guarded() -> ServerSpec {
    ServerSpec::new().set("auth.enabled=true").set(format!("auth.token={TOKEN}"))
}

/// `lnc` with a token.
fn with_token(server: &Server, token: &str, arguments: &[&str]) -> Finished {
    lnc(&server.address(), &[arguments, &["--token", token]].concat(), &[])
}
