//! Replication: alone it only opens epochs.

pub mod actor;
pub mod core;
mod failover;
pub mod judgement;
pub mod judging;
pub mod promises;
pub mod repair;
mod repairing;
