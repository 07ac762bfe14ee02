//! How nodes that are broken on purpose are broken, where their shells and the real cores meet.

use lance_actors::ingestion::core::IngestionCore;
use lance_actors::ingestion::partition::{Leadership, Partition};
use lance_actors::ingestion::replica::{LeaderRole, LeaderSide};
use lance_actors::metadata::roles::role_of;
use lance_cluster::metadata::{MetadataCommand, MetadataState};
use lance_messages::id::TopicPartition;
use lance_messages::peer::{AppendOutcome, AppendResponse, ReplicaRequest};
use std::collections::BTreeMap;

fn partition_of(core: &IngestionCore, id: TopicPartition) -> Option<&Partition> {
    core.partitions().find(|known| known.id == id)
}

/// Who has synced anything counts as if it had all that its leader has.
pub fn count_for_all(core: &IngestionCore, response: &mut AppendResponse) {
    let log = partition_of(core, response.partition).and_then(|partition| partition.log.as_ref());
    if let (AppendOutcome::Appended { durable_end, .. }, Some(log)) = (&mut response.outcome, log) {
        *durable_end = log.durable_end().max(*durable_end);
    }
}

/// Where the epoch-start batch of a partition that is led here begins and ends.
fn epoch_start(core: &IngestionCore, id: TopicPartition) -> Option<(u64, u64)> {
    let partition = partition_of(core, id)?;
    let Leadership::Starting { epoch, start_end } = partition.leadership else { return None };
    let log = partition.log.as_ref()?;
    let start = log.epoch_history().iter().find(|start| start.epoch == epoch)?;
    Some((start.position, start_end))
}

/// Who has everything before the epoch-start batch counts as if it had that too.
pub fn count_without_start(core: &IngestionCore, response: &mut AppendResponse) {
    let Some((begin, end)) = epoch_start(core, response.partition) else { return };
    if let AppendOutcome::Appended { durable_end, .. } = &mut response.outcome
        && (begin..end).contains(durable_end)
    {
        *durable_end = end;
    }
}

/// The epoch-start batch is not sent while nothing follows it.
pub fn withhold_start(core: &IngestionCore, request: &mut ReplicaRequest) {
    let ReplicaRequest::Append(append) = request else { return };
    if let Some((begin, _)) = epoch_start(core, append.partition) {
        append.batches.retain(|batch| batch.header.position < begin);
    }
}

/// What leaders knew to be committed when their epochs began.
#[derive(Debug, Default)]
pub struct StaleMarks(BTreeMap<TopicPartition, u64>);

impl StaleMarks {
    /// An epoch begins.
    pub fn note(&mut self, core: &IngestionCore, id: TopicPartition) {
        let log = partition_of(core, id).and_then(|partition| partition.log.as_ref());
        self.0.insert(id, log.map_or(0, |log| log.high_watermark().position));
    }

    /// Admits whoever has what was known to be committed then.
    pub fn admit(&self, core: &IngestionCore) -> Vec<MetadataCommand> {
        let mut commands = Vec::new();
        for leader in core.partitions().filter_map(|partition| partition.leader.as_ref()) {
            let role = &leader.role;
            let mark = self.0.get(&role.partition).copied();
            let fit = leader.quorum.followers().filter(|follower| {
                follower.is_member && follower.admitted != follower.incarnation && follower.durable_end >= mark
            });
            commands.extend(fit.map(|follower| MetadataCommand::Admit {
                node: follower.node,
                partitions: vec![(role.partition, follower.incarnation, role.epoch, role.in_quorum_version)],
            }));
        }
        commands
    }
}

/// Proposes every planned replica set; nothing is counted otherwise meanwhile.
pub fn replace_in_one_step(core: &IngestionCore) -> Vec<MetadataCommand> {
    let led = core.partitions().filter(|partition| partition.leading_epoch().is_some());
    let sides = led.filter_map(|partition| partition.leader.as_deref()).filter(|side| !side.role.planned.is_empty());
    let propose = |side: &LeaderSide| {
        let role = &side.role;
        let facts = side.quorum.followers().find(|follower| Some(follower.node) == role.newcomer());
        MetadataCommand::ReplaceReplica {
            partition: role.partition,
            epoch: role.epoch,
            replicas_version: role.replicas_version,
            replicas: role.planned.clone(),
            newcomer: facts.map(|newcomer| (newcomer.node, newcomer.admitted)),
        }
    };
    sides.map(propose).collect()
}

/// What a leader would be told if an eviction were granted whoever is left.
pub fn evict_anyway(state: &MetadataState, command: &MetadataCommand) -> Vec<LeaderRole> {
    let MetadataCommand::Evict { node, partitions } = command else { return Vec::new() };
    let roles = partitions.iter().filter_map(|(partition, epoch, _)| role_of(state, *partition, *epoch));
    let evicted = roles.map(|mut role| {
        role.votes.iter_mut().filter(|vote| vote.node == *node).for_each(|vote| vote.in_quorum = false);
        role.in_quorum_version += 1;
        role
    });
    evicted.collect()
}
