//! The invariants, one file each.

pub mod committed;
pub mod decided;
pub mod durable;
pub mod liveness;
pub mod losses;
pub mod metadata;
pub mod order;
pub mod reads;
pub mod removals;
pub mod replicas;
pub mod watermark;
