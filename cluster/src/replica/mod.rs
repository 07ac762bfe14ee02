//! The data plane of one partition: what is on a quorum, and the history of epochs.

pub mod epoch;
pub mod leader;
pub mod quorum;

pub use epoch::{EpochHistory, EpochHistoryError, EpochStart};
pub use leader::{LeaderEffect, LeaderReplica, Vote};
