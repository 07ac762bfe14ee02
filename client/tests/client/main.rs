//! The client against a server in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

mod allocations;
mod cluster;
mod consuming;
mod faults;
mod producing;
mod round_trip;
mod support;
