//! Pollers: group commit to disk, one for each shard.

pub mod actor;
pub mod core;
