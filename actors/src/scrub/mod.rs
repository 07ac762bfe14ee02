//! The scrubber: closed segments are read again now and then, so that damage is found before somebody needs the data.

pub mod actor;
pub mod core;

pub use actor::{SCRUB_MAILBOX, ScrubActor, ScrubSetup};
