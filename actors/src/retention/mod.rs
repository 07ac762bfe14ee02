//! Retention of closed segments, and the watch over free disk space.

pub mod actor;
pub mod core;

pub use actor::{RETENTION_MAILBOX, RetentionActor, RetentionSetup};
