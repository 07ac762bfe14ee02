//! The tee core against a model of everything around it: source, metadata, network, target.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod node;
mod schedules;
mod source;
mod target;
mod world;
