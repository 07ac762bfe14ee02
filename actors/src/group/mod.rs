//! Consumer groups, and committed consumer offsets.

pub mod actor;
pub mod compaction;
pub mod core;
pub mod describing;
pub mod lag;
mod requests;
