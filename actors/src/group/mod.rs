//! Consumer groups: committed offsets.

pub mod actor;
mod compaction;
pub mod core;
