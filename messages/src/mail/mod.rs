//! What actors say to each other; a message lives in the file of the actor that receives it.
//!
//! Handles that only the inner crates know (disk operations, segment slices) are type parameters, so that this
//! crate depends on none of them.

pub mod connection;
pub mod group;
pub mod ingestion;
pub mod peer;
pub mod poller;
pub mod replication;
