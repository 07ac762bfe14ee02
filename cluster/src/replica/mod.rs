//! The data plane of one partition: what is on a quorum, who follows how, and the history of epochs.

mod divergence;
pub mod epoch;
mod eviction;
mod flow;
mod follower;
mod lag;
pub mod leader;
mod member;
mod pace;
pub mod quorum;
mod rules;

pub use divergence::{DivergedAnswer, LeaderLog, Resolution, resolve};
pub use epoch::{EpochHistory, EpochHistoryError, EpochStart};
pub use eviction::{EvictionCause, EvictionCore, EvictionOptions, Figures, Verdict};
pub use flow::{AckProgress, DivergedStep, FlowLog, FlowOptions, FlowStep, FollowerFlow};
pub use follower::{AppendDecision, FollowerReplica, LogFacts, Promise, TruncateDecision};
pub use lag::{FollowerMeter, FollowerWindow, LatencyWindow};
pub use leader::{LeaderEffect, LeaderReplica, Vote};
pub use pace::CatchUpPace;
pub use rules::{FollowerFacts, Swap};
