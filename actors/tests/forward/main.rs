//! Requests for partitions that other nodes lead: what sessions do with them, and how the forwarder keeps them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod forwarder;
mod sessions;
mod support;
mod traced;
