//! The supervised actors of a LANCE node.

pub mod admin;
pub mod background;
pub mod clock;
pub mod group;
pub mod ingestion;
pub mod log_tools;
pub mod mailbox;
pub mod metadata;
pub mod metrics;
pub mod network;
pub mod node;
pub mod options;
pub mod poller;
pub mod replication;
pub mod retention;
pub mod scrub;
pub mod server;
pub mod supervision;
pub mod telemetry;
pub mod threads;
pub mod view;
