//! Network: the listener, the connections, and the reader threads that serve them.

pub mod actor;
pub mod budget;
pub mod connection;
pub mod outbox;
pub mod quotas;
pub mod readers;
pub mod session;
