//! The metadata plane: what the cluster has decided, and how it decides.

pub mod answer;
pub mod command;
pub mod controller;
pub mod core;
pub mod feature;
pub mod lease;
mod liveness;
pub mod membership;
mod moves;
pub mod name;
mod placement;
pub mod promise;
pub mod raft_config;
pub mod raft_log_hook;
mod raft_members;
pub mod raft_node;
pub mod raft_persist;
pub mod raft_storage;
pub mod refusal;
mod relief;
mod relocations;
pub mod security;
mod snapshot;
pub mod starts;
pub mod state;
mod state_nodes;
mod state_partitions;
mod state_producers;
mod state_quorum;
pub mod state_replicas;
mod state_restored;
mod state_tees;
mod state_topics;
pub mod tee;
pub mod topic;

pub use answer::{Applied, MetadataAnswer, MetadataEvent};
pub use command::{EpochOpening, LeaderChoice, MetadataCommand, PartitionRecovery, TopicRestoration};
pub use controller::{Controller, ControllerAction, ControllerOptions};
pub use core::{MetadataCore, MetadataEffect, MetadataError, ProposeFailure};
pub use feature::FeatureLevel;
pub use lease::{HeartbeatAnswer, LEASE};
pub use membership::{GenesisNode, MetadataOptions};
pub use promise::{PromiseAnswer, PromiseOutcome};
pub use raft_config::{RaftConfig, RaftError};
pub use raft_log_hook::{RaftLogLevel, hooked_logger};
pub use raft_node::{ProposalFailure, RaftCore, RaftEffect};
pub use raft_persist::{HardStateRecord, Persist, PersistedRaft, RaftConf, RaftEntry, RaftSnapshot};
pub use refusal::{MetadataRefusal, PartitionRefusal};
pub use security::{Security, UserState};
pub use starts::{KnownStarts, NodeStart, PastStart, START_CHECK_MS, StartCheck, StartKnowledge};
pub use state::MetadataState;
pub use tee::{TeeAdvance, TeeCheckpoint, TeeClaim, TeeProducer, TeeProgress, TeeRefusal, TeeRule, TeeTarget};
pub use topic::{
    NodeState, PartitionLeader, PartitionState, RecoveryAudit, Replica, ReplicaIncarnation, ReplicationMode,
    TopicConfig, TopicState,
};
