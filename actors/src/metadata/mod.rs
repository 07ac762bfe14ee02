//! Cluster metadata: one Raft voter when the node is alone.

pub mod actor;
pub mod calls;
mod elections;
mod levels;
mod opening;
pub mod orders;
mod proposing;
pub mod remote;
mod renewal;
pub mod roles;
pub mod store;
