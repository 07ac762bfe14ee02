//! `lnc` and `lnc-bench` as people use them, against a real server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod arguments;
mod bench;
mod commands;
mod documents;
mod records;
mod server;
mod topics;
