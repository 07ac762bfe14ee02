//! Several nodes: the machines, the network between them, what goes wrong, and what must be true of all of them together.

pub mod faults;
pub mod network;
mod strike;
mod world;

use super::disk::FileKind;
use super::sabotage::Sabotage;
use faults::ClusterTrouble;
use std::collections::BTreeSet;
use std::time::Duration;

/// What a run may be asked for.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many nodes.
    pub nodes: u16,
    /// What is broken on purpose.
    pub sabotage: Sabotage,
    /// Faults to make instead of those the seed picks.
    pub faults: Option<Vec<ClusterTrouble>>,
    /// Print what happens.
    pub verbose: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { nodes: 3, sabotage: Sabotage::None, faults: None, verbose: false }
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct ClusterOutcome {
    /// The first thing that was not as it must be.
    pub violation: Option<String>,
    /// Equal for equal runs.
    pub trace_hash: u64,
    /// Messages delivered.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Acks that clients received.
    pub acks: u64,
    /// Entries of the metadata that were judged.
    pub entries: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Bytes that consumers received.
    pub read_bytes: u64,
    /// Elections that came to a leader.
    pub elections: u64,
    /// Logs that were cut as their leaders asked.
    pub cuts: u64,
    /// Changes of replica sets.
    pub exchanges: u64,
    /// Replicas that count again in another life.
    pub admissions: u64,
    /// How often old segments were removed.
    pub removals: u64,
    /// Bits that flipped.
    pub flips: u64,
    /// Rotten replicas that were cut and count again.
    pub repairs: u64,
    /// Rotten replicas whose bits went otherwise: cut by a leader, or removed.
    pub vanished: u64,
    /// Quorums that the first node saw lose a replica.
    pub evictions: u64,
    /// Quorums that the first node saw get one back.
    pub returns: u64,
    /// Kinds of files at whose change the power failed.
    pub power_cuts: BTreeSet<FileKind>,
    /// How the nodes were configured, and what could go wrong.
    pub setup: String,
    /// The last things that happened.
    pub recent: String,
}

/// Runs one seed to its end.
pub fn run(seed: u64, options: &ClusterOptions) -> ClusterOutcome {
    let mut world = world::World::new(seed, options);
    world.run();
    world.outcome()
}
