//! Retention of closed segments, and the watch over free disk space.

pub mod actor;
pub mod core;
pub mod leftovers;

pub use actor::{RETENTION_MAILBOX, RetentionActor, RetentionSetup};
