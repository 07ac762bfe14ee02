//! Requests of clients that know one address, for partitions that other nodes lead.

pub mod actor;
pub mod core;
