//! Replication: alone it only opens epochs.

pub mod actor;
pub mod core;
pub mod promises;
