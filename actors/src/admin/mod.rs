//! The admin HTTP interface: health, metrics, what the node holds, and levers for operators and tests.

pub mod actor;
mod asking;
pub mod assets;
mod bounded;
pub mod cluster_figures;
pub mod early;
pub mod encrypted;
pub mod error;
pub mod exposition;
pub mod groups;
pub mod guard;
pub mod health;
pub mod listing;
pub mod origin;
pub mod records;
mod replication_figures;
pub mod router;
pub mod tee_figures;
pub mod topics;

pub use actor::{ADMIN_MAILBOX, AdminActor, AdminSetup};
pub use groups::ListGroups;
pub use health::Health;
