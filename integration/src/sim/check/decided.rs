//! What must be true of the decided metadata, on whichever node it is seen: after the same entry it is the same everywhere;
//! the in-quorum set is a part of the replica set that makes a quorum, and changes only along with its version, as the
//! replica set does; an epoch has one leader; no id is given twice, and what was deleted stays so.

use crate::sim::oracle::Oracle;
use lance_actors::ingestion::replica::LeaderSide;
use lance_cluster::metadata::MetadataState;
use lance_cluster::metadata::topic::{PartitionLeader, PartitionState};
use lance_cluster::replica::quorum::quorum_size;
use lance_messages::id::{NodeId, TopicId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// Something with a version: a change of the one is a change of the other.
type Versioned<T> = BTreeMap<(TopicPartition, u32), T>;

/// What was seen of the decided metadata.
#[derive(Debug, Default)]
pub struct DecidedTruth {
    /// Hash of the state after each entry, as some node had it.
    states: BTreeMap<u64, u32>,
    /// The ids that are given next, after each entry.
    next_ids: BTreeMap<u64, (u32, u64)>,
    /// The entry after which each topic was first seen to be gone.
    gone: BTreeMap<TopicId, u64>,
    names: BTreeMap<TopicId, String>,
    in_quorum: Versioned<Vec<NodeId>>,
    replicas: Versioned<(Vec<NodeId>, Vec<NodeId>)>,
    leaders: Versioned<PartitionLeader>,
    /// Entry, epoch and versions of the in-quorum and the replica set that a node has seen last.
    seen: BTreeMap<(u16, TopicPartition), (u64, [u32; 3])>,
    /// Entries that were looked at, on all nodes together.
    pub looked_at: u64,
}

/// Judges the state of a node after its last entry.
pub fn applied(oracle: &mut Oracle, node: u16, state: &MetadataState) {
    let verdict = oracle.decided.judge(node, state);
    oracle.judge(verdict.map_err(|what| format!("node {node}, entry {}: {what}", state.applied_index())));
}

/// Judges whom a leader counts, as its core has it.
pub fn acted_upon(oracle: &mut Oracle, node: u16, leader: &LeaderSide) {
    let (partition, version) = (leader.role.partition, leader.role.in_quorum_version);
    let mut counted = leader.quorum.in_quorum();
    counted.sort_unstable();
    let quorum = quorum_size(leader.quorum.copies());
    let decided = oracle.decided.in_quorum.get(&(partition, version));
    let what = if counted.len() < quorum {
        format!("node {node} leads {partition} with {counted:?} in the quorum, which takes {quorum}")
    } else if decided.is_some_and(|decided| *decided != counted) {
        format!("node {node} leads {partition} with {counted:?} in the quorum, version {version} is {decided:?}")
    } else {
        return;
    };
    oracle.violated(what);
}

impl DecidedTruth {
    /// The nodes of the replica set that was decided last.
    pub(super) fn replicas_of(&self, partition: TopicPartition) -> Option<Vec<u16>> {
        let (_, (members, _)) = self.replicas.range((partition, 0)..=(partition, u32::MAX)).next_back()?;
        Some(members.iter().map(|member| member.0 - 1).collect())
    }

    fn judge(&mut self, node: u16, state: &MetadataState) -> Result<(), String> {
        let index = state.applied_index();
        self.looked_at += 1;
        let bytes = state.encode_snapshot().map_err(|error| error.to_string())?;
        let hash = crc32fast::hash(&bytes);
        if *self.states.entry(index).or_insert(hash) != hash {
            return Err("the metadata is not what another node had after this entry".to_owned());
        }
        self.judge_ids(index, state)?;
        for (partition, decided) in state.partitions() {
            self.judge_sets(partition, decided)?;
            let now = [decided.epoch.0, decided.in_quorum_version, decided.replicas_version];
            let before = self.seen.insert((node, partition), (index, now));
            // A node that starts again begins with an earlier entry.
            if let Some((_, before)) = before.filter(|(at, _)| *at <= index)
                && before.iter().zip(now).any(|(before, now)| *before > now)
            {
                return Err(format!("{partition}: epoch and versions went from {before:?} back to {now:?}"));
            }
        }
        Ok(())
    }

    fn judge_ids(&mut self, index: u64, state: &MetadataState) -> Result<(), String> {
        let next = (state.next_topic_id().0, state.next_producer_id().0);
        let before = self.next_ids.range(..=index).next_back().map(|(_, next)| *next);
        let after = self.next_ids.range(index..).next().map(|(_, next)| *next);
        let rises = |lower: (u32, u64), upper: (u32, u64)| lower.0 <= upper.0 && lower.1 <= upper.1;
        if before.is_some_and(|before| !rises(before, next)) || after.is_some_and(|after| !rises(next, after)) {
            return Err(format!("the next ids are {next:?} between {before:?} and {after:?}: some are given twice"));
        }
        self.next_ids.insert(index, next);
        for (topic, decided) in state.topics() {
            if let Some(at) = self.gone.get(&topic).filter(|at| **at <= index) {
                return Err(format!("topic {topic} ({}) is there and was deleted by entry {at}", decided.name));
            }
            let name = self.names.entry(topic).or_insert_with(|| decided.name.clone());
            if *name != decided.name {
                return Err(format!("topic id {topic} stood for {name} and now stands for {}", decided.name));
            }
        }
        let deleted: Vec<TopicId> = self.names.keys().copied().filter(|topic| state.is_deleted(*topic)).collect();
        for topic in deleted {
            let at = self.gone.entry(topic).or_insert(index);
            *at = index.min(*at);
        }
        Ok(())
    }

    fn judge_sets(&mut self, partition: TopicPartition, decided: &PartitionState) -> Result<(), String> {
        let members: Vec<NodeId> = decided.replicas.iter().map(|replica| replica.node).collect();
        let distinct: BTreeSet<NodeId> = members.iter().copied().collect();
        let in_quorum: BTreeSet<NodeId> = decided.in_quorum.iter().copied().collect();
        if distinct.len() != members.len() || in_quorum.len() != decided.in_quorum.len() {
            return Err(format!("{partition}: somebody is twice in {members:?} or {:?}", decided.in_quorum));
        }
        if !in_quorum.is_subset(&distinct) || in_quorum.len() < decided.quorum_size() {
            return Err(format!("{partition}: {in_quorum:?} is no quorum of {members:?}"));
        }
        let version = (partition, decided.in_quorum_version);
        let before = self.in_quorum.entry(version).or_insert_with(|| decided.in_quorum.clone());
        if *before != decided.in_quorum {
            let (version, now) = (version.1, &decided.in_quorum);
            return Err(format!("{partition}: the in-quorum set of version {version} was {before:?} and is {now:?}"));
        }
        let (version, sets) = ((partition, decided.replicas_version), (members, decided.planned.clone()));
        let before = self.replicas.entry(version).or_insert_with(|| sets.clone());
        if *before != sets {
            return Err(format!(
                "{partition}: the replica set of version {} was {before:?} and is {sets:?}",
                version.1
            ));
        }
        if let Some(leader) = decided.leader {
            let before = *self.leaders.entry((partition, decided.epoch.0)).or_insert(leader);
            if before != leader {
                return Err(format!("{partition}: epoch {} was led by {before:?} and is by {leader:?}", decided.epoch));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_cluster::metadata::{MetadataCommand, TopicConfig};

    fn register(node: u16) -> MetadataCommand {
        MetadataCommand::RegisterNode {
            node: NodeId(node),
            incarnation: u64::from(node),
            boot_number: 1,
            nonce: 1,
            address: format!("node-{node}:1992"),
            rack: String::new(),
        }
    }

    fn create(name: &str) -> MetadataCommand {
        let config = TopicConfig { replication_factor: 3, ..TopicConfig::default() };
        MetadataCommand::CreateTopic { name: name.to_owned(), config, created_at_secs: 1, request: 0 }
    }

    fn state(commands: &[MetadataCommand]) -> MetadataState {
        let mut state = MetadataState::new();
        for (index, command) in (1..).zip(commands) {
            drop(state.apply(index, command));
        }
        state
    }

    #[test]
    fn states_that_part_after_an_entry_are_told() {
        let mut truth = DecidedTruth::default();
        let first = [register(1), register(2), register(3), create("a")];
        truth.judge(0, &state(&first)).unwrap();
        truth.judge(1, &state(&first)).unwrap();
        truth.judge(1, &state(&first[..3])).unwrap();
        let other = [register(1), register(2), register(3), create("b")];
        assert!(truth.judge(2, &state(&other)).unwrap_err().contains("another node"));
    }

    #[test]
    fn a_topic_that_comes_back_is_told() {
        let mut truth = DecidedTruth::default();
        let mut commands = vec![register(1), register(2), register(3), create("a")];
        let with_topic = state(&commands);
        let (topic, _) = with_topic.topics().next().unwrap();
        commands.push(MetadataCommand::DeleteTopic { topic, deleted_at_secs: 2 });
        truth.judge(0, &with_topic).unwrap();
        truth.judge(0, &state(&commands)).unwrap();
        // A node that is behind still has it.
        truth.judge(1, &with_topic).unwrap();
        let mut again = with_topic;
        again.skip(6);
        assert!(truth.judge(1, &again).unwrap_err().contains("was deleted by entry 5"));
    }
}
