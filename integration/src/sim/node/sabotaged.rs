//! How nodes that are broken on purpose are broken, where their shells and the real cores meet.

use crate::sim::context::{Context, Outgoing};
use crate::sim::mail::Mail;
use lance_actors::ingestion::core::{IngestionCore, IngestionEffect, Now};
use lance_actors::ingestion::partition::{Leadership, Partition};
use lance_actors::ingestion::replica::{Fenced, LeaderRole, LeaderSide};
use lance_actors::metadata::roles::role_of;
use lance_cluster::metadata::{MetadataCommand, MetadataState, PromiseAnswer, PromiseOutcome};
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use lance_messages::peer::{AppendOutcome, AppendResponse, PeerIdentity, ReplicaRequest};
use std::collections::BTreeMap;

type Effects = Vec<IngestionEffect>;

fn partition_of(core: &IngestionCore, id: TopicPartition) -> Option<&Partition> {
    core.partitions().find(|known| known.id == id)
}

/// Acks of followers that a leader does not forget when its epoch is over.
#[derive(Debug, Default)]
pub struct OldAcks(BTreeMap<(TopicPartition, NodeId), (PeerIdentity, AppendResponse)>);

impl OldAcks {
    /// An answer came in; one of another epoch is made to look like one that counts.
    pub fn note(&mut self, core: &IngestionCore, from: PeerIdentity, response: &mut AppendResponse) {
        if matches!(response.outcome, AppendOutcome::Appended { .. }) {
            self.0.insert((response.partition, from.node), (from, response.clone()));
        }
        if let Some(leader) = partition_of(core, response.partition).and_then(|partition| partition.leader.as_ref()) {
            response.epoch = leader.role.epoch;
        }
    }

    /// An epoch begins: what was acked in the ones before counts in it.
    pub fn count(&self, core: &mut IngestionCore, role: &LeaderRole, now: Now, effects: &mut Effects) {
        for ((_, _), (from, response)) in self.0.iter().filter(|((of, _), _)| *of == role.partition) {
            let response = AppendResponse { epoch: role.epoch, ..response.clone() };
            core.on_replica_answered(*from, &response, now, effects);
        }
    }
}

/// Answers a promise at once, whatever is under way; it is kept some time later. False when there is nothing to answer with.
pub fn promise_early(
    core: &IngestionCore,
    (id, epoch): (TopicPartition, LeaderEpoch),
    effects: &mut Effects,
    ctx: &mut Context<'_>,
) -> bool {
    let Some(answer) = clean_answer(core, id) else { return false };
    effects.push(IngestionEffect::Promised(id, epoch, answer));
    let delay_ns =
        if ctx.rng.once_in(2) { ctx.rng.range(100_000, 1_000_000) } else { ctx.rng.range(10_000_000, 80_000_000) };
    ctx.out.push(Outgoing::Send { from: ctx.me, to: ctx.me, mail: Mail::PromiseLate(id, epoch), delay_ns });
    true
}

/// Keeps a promise that was answered already.
pub fn promise_again(core: &mut IngestionCore, (id, epoch): (TopicPartition, LeaderEpoch), effects: &mut Effects) {
    core.on_promise(id, epoch, effects);
}

/// The answer a replica could give at once.
fn clean_answer(core: &IngestionCore, id: TopicPartition) -> Option<Fenced> {
    let partition = partition_of(core, id)?;
    let (log, follower) = (partition.log.as_ref()?, partition.follower.as_ref()?);
    let durable_end = log.durable_end();
    let last_epoch = log.epoch_before(durable_end).unwrap_or(LeaderEpoch(0));
    Some(Fenced::Clean { incarnation: follower.replica.incarnation(), last_epoch, durable_end })
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

/// Answers of replicas that do not count are taken for clean ones.
pub fn take_for_clean(state: &MetadataState, node: NodeId, answers: &mut [PromiseAnswer]) {
    for answer in answers {
        let Some(replica) = state.partition(answer.partition).and_then(|decided| decided.replica(node)) else {
            continue;
        };
        match &mut answer.outcome {
            PromiseOutcome::Clean { incarnation, .. } => *incarnation = replica.admitted,
            PromiseOutcome::Unclean => {
                answer.outcome = PromiseOutcome::Clean {
                    incarnation: replica.admitted,
                    boot_number: state.node(node).map_or(0, |known| known.boot_number),
                    last_epoch: LeaderEpoch(0),
                    durable_end: 0,
                };
            }
            PromiseOutcome::Promised { .. } => {}
        }
    }
}
