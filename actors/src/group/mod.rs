//! Consumer groups: committed offsets.

pub mod actor;
pub mod core;
