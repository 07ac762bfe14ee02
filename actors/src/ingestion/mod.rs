//! Ingestion: the owner of a shard's partition logs.

pub mod actor;
pub mod committed;
pub mod core;
pub mod damage;
pub mod gather;
mod handlers;
pub mod maintenance;
pub mod opener;
mod opening;
pub mod partition;
pub mod pending;
pub mod replica;
pub mod replica_handlers;
pub mod waiters;
