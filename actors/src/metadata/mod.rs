//! Cluster metadata: one Raft voter when the node is alone.

pub mod actor;
pub mod calls;
mod elections;
mod levels;
pub mod orders;
mod proposing;
mod remote;
pub mod roles;
pub mod store;
