//! Tee forwarding: the committed records of a topic go on to topics of this cluster or of others, by rules.

pub mod actor;
mod calls;
pub mod core;
mod handlers;
mod reads;
mod target;

pub use calls::{ListFlows, TeeCall};
