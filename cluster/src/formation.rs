//! `FormationCore`: how nodes without a cluster make one, or find the one there is. Pure.
//!
//! A node without a cluster id asks every listed address who is there, until all have answered. If none of them has a
//! cluster and all name the same set of (node, incarnation), the lowest id makes the one [`Genesis`]; the others take it
//! from whoever has it. Every node keeps the first genesis that it has synced, and takes no other. Where a cluster exists
//! already, its genesis is taken; who is not named in it joins as a learner.
//!
//! Genesis: `[version u8 = 1][bincode of Genesis]`. Report: `[version u8 = 1][bincode of FormationReport]`.

use crate::codec::{self, CodecError};
use lance_messages::id::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Version byte before every genesis.
pub const GENESIS_VERSION: u8 = 1;
/// Version byte before every report.
pub const REPORT_VERSION: u8 = 1;
/// Most voters of a genesis.
pub const MAX_VOTERS: usize = 64;

/// A node with the life of its data directory: what formation counts.
pub type Member = (NodeId, u64);

/// One founder of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Voter {
    /// The node.
    pub node: NodeId,
    /// Id of the life of its data directory, not 0.
    pub incarnation: u64,
    /// Where others reach it, host:port.
    pub address: String,
}

impl Voter {
    fn member(&self) -> Member {
        (self.node, self.incarnation)
    }
}

/// What a cluster begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// Its id, not 0.
    pub cluster_id: u64,
    /// The first voters, by id; at least one, at most [`MAX_VOTERS`].
    pub voters: Vec<Voter>,
}

impl Genesis {
    /// A cluster of one node.
    pub fn alone(cluster_id: u64, voter: Voter) -> Self {
        Self { cluster_id, voters: vec![voter] }
    }

    /// Whether this life of this node is a voter.
    pub fn names(&self, node: NodeId, incarnation: u64) -> bool {
        self.voters.iter().any(|voter| voter.member() == (node, incarnation))
    }

    /// The bytes that are kept and sent.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode("genesis", GENESIS_VERSION, self)
    }

    /// Reads a genesis back and checks that it does not contradict itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let genesis: Self = codec::decode("genesis", GENESIS_VERSION, bytes)?;
        match genesis.contradiction() {
            None => Ok(genesis),
            Some(reason) => Err(CodecError::Inconsistent { what: "genesis", reason }),
        }
    }

    fn contradiction(&self) -> Option<&'static str> {
        if self.cluster_id == 0 {
            return Some("the cluster id is 0");
        }
        if self.voters.is_empty() || self.voters.len() > MAX_VOTERS {
            return Some("there is no voter, or there are too many");
        }
        if !self.voters.is_sorted_by(|a, b| a.node < b.node) {
            return Some("voters are not in the order of their ids");
        }
        self.voters.iter().any(|voter| voter.node.0 == 0 || voter.incarnation == 0).then_some("a voter is number 0")
    }
}

/// What one node says of its formation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormationReport {
    /// Who speaks.
    pub speaker: Voter,
    /// Its cluster; 0 while it has none.
    pub cluster_id: u64,
    /// The genesis of that cluster, if it knows it.
    pub genesis: Option<Genesis>,
    /// Everybody it was told to form a cluster with, itself included, in order; `None` until all of them have answered.
    pub members: Option<Vec<Member>>,
}

impl FormationReport {
    /// The bytes on the wire.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode("formation report", REPORT_VERSION, self)
    }

    /// Reads a report back and checks that it does not contradict itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let report: Self = codec::decode("formation report", REPORT_VERSION, bytes)?;
        let wrong = |reason| Err(CodecError::Inconsistent { what: "formation report", reason });
        match &report.genesis {
            Some(genesis) => match genesis.contradiction() {
                Some(reason) => wrong(reason),
                None if genesis.cluster_id != report.cluster_id => wrong("the genesis is of another cluster"),
                None => Ok(report),
            },
            None => Ok(report),
        }
    }
}

/// What formation wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormationEffect {
    /// Tell this address what we know, now rather than with the next question.
    Send {
        /// A listed address.
        address: String,
    },
    /// Sync this genesis, then call [`FormationCore::on_synced`].
    AdoptGenesis(Genesis),
    /// The node is not named in the genesis of the cluster there is: sync that genesis, then call
    /// [`FormationCore::on_synced`]; the node joins as a learner.
    JoinExisting(Genesis),
    /// Nothing goes on until this changes; said again when it does.
    Problem(String),
    /// The genesis is durable: the node may start, as a voter or as a learner.
    Ready,
}

/// What is known of one listed address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listed {
    Silent,
    Own,
    Heard(FormationReport),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Gathering,
    Syncing(Genesis),
    Settled,
}

/// The formation of one node.
#[derive(Clone, Debug)]
pub struct FormationCore {
    own: Voter,
    fresh_cluster_id: u64,
    cluster_id: u64,
    genesis: Option<Genesis>,
    listed: BTreeMap<String, Listed>,
    /// Lives of nodes that another life answers for by now: their word does not count any more.
    gone: BTreeSet<Member>,
    stage: Stage,
    problem: String,
}

type Effects = Vec<FormationEffect>;

impl FormationCore {
    /// The formation of `own`, told to form a cluster with whoever is at the `listed` addresses; with itself alone when
    /// there are none. `fresh_cluster_id`, not 0, is used if this node makes the genesis. `cluster_id` and `genesis` are
    /// what it has kept.
    pub fn new(
        own: Voter,
        listed: impl IntoIterator<Item = String>,
        fresh_cluster_id: u64,
        cluster_id: u64,
        genesis: Option<Genesis>,
    ) -> Self {
        let cluster_id = genesis.as_ref().map_or(cluster_id, |genesis| genesis.cluster_id);
        Self {
            own,
            fresh_cluster_id: fresh_cluster_id.max(1),
            cluster_id,
            genesis,
            listed: listed.into_iter().map(|address| (address, Listed::Silent)).collect(),
            gone: BTreeSet::new(),
            stage: if cluster_id == 0 { Stage::Gathering } else { Stage::Settled },
            problem: String::new(),
        }
    }

    /// Begins: at once ready where there is a cluster already, at once a genesis where the node is alone.
    pub fn on_start(&mut self, effects: &mut Effects) {
        match self.stage {
            Stage::Settled => effects.push(FormationEffect::Ready),
            _ => self.decide(effects),
        }
    }

    /// The genesis of this node's cluster, once it is durable.
    pub fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_ref()
    }

    /// Whether the node has a cluster, durably.
    pub fn is_settled(&self) -> bool {
        self.stage == Stage::Settled
    }

    /// What this node says to whoever asks.
    pub fn report(&self) -> FormationReport {
        FormationReport {
            speaker: self.own.clone(),
            cluster_id: self.cluster_id,
            genesis: self.genesis.clone(),
            members: self.members(),
        }
    }

    /// This node itself is at a listed address.
    pub fn on_own_address(&mut self, address: &str, effects: &mut Effects) {
        self.set(address, Listed::Own);
        self.decide(effects);
    }

    /// Whoever is at a listed address answers.
    pub fn on_answer(&mut self, address: &str, report: FormationReport, effects: &mut Effects) {
        if report.speaker.incarnation == self.own.incarnation {
            return self.on_own_address(address, effects);
        }
        if let Some(Listed::Heard(before)) = self.listed.get(address) {
            let (before, now) = (before.speaker.member(), report.speaker.member());
            if before != now {
                self.gone.insert(before);
            }
        }
        // The answer to a question asked just now: whoever it is, it is alive.
        self.gone.remove(&report.speaker.member());
        self.set(address, Listed::Heard(report));
        self.decide(effects);
    }

    /// Nobody is reached at a listed address any more: what was said there may not hold any more.
    pub fn on_lost(&mut self, address: &str, effects: &mut Effects) {
        self.set(address, Listed::Silent);
        self.decide(effects);
    }

    /// A node asks, and tells what it knows; the answer is [`Self::report`], afterwards.
    pub fn on_asked(&mut self, report: &FormationReport, effects: &mut Effects) {
        if self.stage != Stage::Gathering || self.gone.contains(&report.speaker.member()) {
            return;
        }
        // Who is not listed here may bring the cluster that this node is named in, and nothing else.
        if let Some(genesis) = report.genesis.as_ref().filter(|genesis| self.is_named_in(genesis)) {
            self.sync(genesis.clone(), effects);
        }
    }

    /// The genesis asked to be synced is durable.
    pub fn on_synced(&mut self, effects: &mut Effects) {
        let Stage::Syncing(genesis) = std::mem::replace(&mut self.stage, Stage::Settled) else { return };
        self.cluster_id = genesis.cluster_id;
        self.genesis = Some(genesis);
        self.problem.clear();
        for (address, listed) in &self.listed {
            if matches!(listed, Listed::Heard(report) if report.cluster_id == 0) {
                effects.push(FormationEffect::Send { address: address.clone() });
            }
        }
        effects.push(FormationEffect::Ready);
    }

    fn set(&mut self, address: &str, listed: Listed) {
        if let Some(known) = self.listed.get_mut(address) {
            *known = listed;
        }
    }

    fn is_named_in(&self, genesis: &Genesis) -> bool {
        genesis.names(self.own.node, self.own.incarnation)
    }

    fn heard(&self) -> impl Iterator<Item = (&str, &FormationReport)> {
        self.listed.iter().filter_map(|(address, listed)| match listed {
            Listed::Heard(report) => Some((address.as_str(), report)),
            Listed::Silent | Listed::Own => None,
        })
    }

    /// Everybody there is, once all listed addresses have answered.
    fn members(&self) -> Option<Vec<Member>> {
        if self.listed.values().any(|listed| *listed == Listed::Silent) {
            return None;
        }
        let mut members: Vec<Member> = self.heard().map(|(_, report)| report.speaker.member()).collect();
        members.push(self.own.member());
        members.sort_unstable();
        // One node may be listed under two names.
        members.dedup();
        Some(members)
    }

    fn decide(&mut self, effects: &mut Effects) {
        if self.stage != Stage::Gathering {
            return;
        }
        match self.next() {
            Ok(Some(genesis)) => self.sync(genesis, effects),
            Ok(None) => {}
            Err(problem) if problem == self.problem => {}
            Err(problem) => {
                self.problem.clone_from(&problem);
                effects.push(FormationEffect::Problem(problem));
            }
        }
    }

    fn sync(&mut self, genesis: Genesis, effects: &mut Effects) {
        self.stage = Stage::Syncing(genesis.clone());
        effects.push(match self.is_named_in(&genesis) {
            true => FormationEffect::AdoptGenesis(genesis),
            false => FormationEffect::JoinExisting(genesis),
        });
    }

    /// The genesis to take or to make; an error says what is waited for, or what is wrong.
    fn next(&self) -> Result<Option<Genesis>, String> {
        if let Some(existing) = self.existing()? {
            return Ok(Some(existing));
        }
        let Some(members) = self.members() else {
            let silent = self.listed.iter().filter(|(_, listed)| **listed == Listed::Silent);
            let silent: Vec<&str> = silent.map(|(address, _)| address.as_str()).collect();
            return Err(format!("the cluster forms once every listed node answers: waiting for {}", silent.join(", ")));
        };
        self.check_ids()?;
        self.check_members(&members)?;
        if members.len() > MAX_VOTERS {
            return Err(format!("{} nodes are listed, a cluster begins with at most {MAX_VOTERS}", members.len()));
        }
        match members.first() {
            Some(lowest) if *lowest == self.own.member() => Ok(Some(self.make_genesis())),
            Some((lowest, _)) => Err(format!("waiting for node {lowest}, the lowest id, to form the cluster")),
            None => Ok(None),
        }
    }

    /// The cluster that somebody listed has.
    fn existing(&self) -> Result<Option<Genesis>, String> {
        let mut found: Option<(&str, &FormationReport)> = None;
        for (address, report) in self.heard().filter(|(_, report)| report.cluster_id != 0) {
            match found {
                Some((other, before)) if before.cluster_id != report.cluster_id => {
                    return Err(format!(
                        "two clusters are listed: {other} belongs to {:016x}, {address} to {:016x}",
                        before.cluster_id, report.cluster_id
                    ));
                }
                // Whoever knows the genesis speaks for its cluster.
                Some((_, before)) if before.genesis.is_some() => {}
                _ => found = Some((address, report)),
            }
        }
        match found {
            None => Ok(None),
            Some((_, FormationReport { genesis: Some(genesis), .. })) => Ok(Some(genesis.clone())),
            Some((address, report)) => Err(format!(
                "{address} belongs to cluster {:016x} and does not know how it began: start that node with this version",
                report.cluster_id
            )),
        }
    }

    /// No two nodes have one id.
    fn check_ids(&self) -> Result<(), String> {
        let mut seen: BTreeMap<NodeId, (u64, &str)> = BTreeMap::new();
        seen.insert(self.own.node, (self.own.incarnation, &self.own.address));
        for (address, report) in self.heard() {
            let (node, incarnation) = report.speaker.member();
            match seen.insert(node, (incarnation, address)) {
                Some((other, at)) if other != incarnation => {
                    return Err(format!(
                        "node id {node} is used twice: by {at} (incarnation {other:016x}) and by {address} \
                         (incarnation {incarnation:016x}); give each node an id of its own"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Everybody names the same members.
    fn check_members(&self, members: &[Member]) -> Result<(), String> {
        for (address, report) in self.heard() {
            match &report.members {
                None => return Err(format!("waiting for {address}, which has not reached every node it lists")),
                Some(theirs) if theirs != members => {
                    return Err(format!(
                        "the nodes do not list the same cluster: this node sees {}, {address} sees {}",
                        text_of(members),
                        text_of(theirs)
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn make_genesis(&self) -> Genesis {
        let mut voters: Vec<Voter> = self.heard().map(|(_, report)| report.speaker.clone()).collect();
        voters.push(self.own.clone());
        voters.sort_unstable();
        voters.dedup_by_key(|voter| voter.node);
        Genesis { cluster_id: self.fresh_cluster_id, voters }
    }
}

fn text_of(members: &[Member]) -> String {
    let mut text = String::new();
    for (node, incarnation) in members {
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a text cannot fail.
        let _ = write!(text, "{separator}{node} ({incarnation:016x})");
    }
    text
}

#[cfg(test)]
mod tests;
