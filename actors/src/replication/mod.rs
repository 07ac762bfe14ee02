//! Replication: alone it only opens epochs.

pub mod actor;
pub mod core;
mod failover;
mod judging;
pub mod promises;
