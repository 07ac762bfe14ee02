//! The metadata plane: what the cluster has decided, and how it decides.

pub mod answer;
pub mod command;
pub mod controller;
pub mod core;
pub mod name;
mod placement;
pub mod raft_config;
pub mod raft_log_hook;
pub mod raft_node;
pub mod raft_persist;
pub mod raft_storage;
mod snapshot;
pub mod state;
mod state_partitions;
mod state_producers;
mod state_topics;
pub mod topic;

pub use answer::{Applied, MetadataAnswer, MetadataEvent, MetadataRefusal};
pub use command::{EpochOpening, LeaderChoice, MetadataCommand};
pub use controller::{Controller, ControllerAction, PromiseAnswer, PromiseOutcome};
pub use core::{MetadataCore, MetadataEffect, MetadataError, ProposeFailure};
pub use raft_config::{RaftConfig, RaftError};
pub use raft_log_hook::{RaftLogLevel, hooked_logger};
pub use raft_node::{ProposalFailure, RaftCore, RaftEffect};
pub use raft_persist::{HardStateRecord, Persist, PersistedRaft, RaftConf, RaftEntry, RaftSnapshot};
pub use state::MetadataState;
pub use topic::{
    NodeState, PartitionLeader, PartitionState, ReplicaIncarnation, ReplicationMode, TopicConfig, TopicState,
};
