//! The supervised actors of a LANCE node.

pub mod clock;
pub mod group;
pub mod ingestion;
pub mod mailbox;
pub mod metadata;
pub mod metrics;
pub mod network;
pub mod node;
pub mod options;
pub mod poller;
pub mod replication;
pub mod server;
pub mod supervision;
pub mod threads;
pub mod view;
