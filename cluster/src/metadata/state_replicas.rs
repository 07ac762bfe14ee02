//! Replica sets: one copy is added, removed or exchanged at a time; and the recovery that gives copies up.

use super::answer::{MetadataAnswer, MetadataEvent, MetadataRefusal};
use super::command::PartitionRecovery;
use super::placement::sorted;
use super::refusal::PartitionRefusal;
use super::state::{MAX_ADDRESS_BYTES, MAX_RECOVERIES, MetadataState, Outcome};
use super::state_quorum::check_version;
use super::topic::{PartitionLeader, PartitionState, RecoveryAudit, Replica, ReplicaIncarnation};
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use std::collections::BTreeSet;

/// Of the node of a replica of which nothing counts: no node has this one.
pub const NO_INCARNATION: u64 = 0;

/// A replica set that may follow the present one.
struct NewSet {
    replicas: Vec<Replica>,
    in_quorum: Vec<NodeId>,
    leaver: Option<NodeId>,
}

impl MetadataState {
    pub(super) fn replace_replica(
        &mut self,
        partition: TopicPartition,
        (epoch, version): (LeaderEpoch, u32),
        replicas: &[NodeId],
        newcomer: Option<(NodeId, ReplicaIncarnation)>,
        events: &mut Vec<MetadataEvent>,
    ) -> Outcome {
        let judged = self.judge_set(partition, epoch, version, replicas, newcomer);
        let set = judged.map_err(|reason| MetadataRefusal::Partition { partition, reason })?;
        let NewSet { replicas, in_quorum, leaver } = set;
        self.change_partition(partition, |state| {
            state.replicas = replicas;
            state.planned = Vec::new();
            state.replicas_version = state.replicas_version.saturating_add(1);
            state.in_quorum = in_quorum;
            state.in_quorum_version = state.in_quorum_version.saturating_add(1);
            events.push(MetadataEvent::ReplicasChanged {
                partition,
                epoch,
                replicas: state.replicas.iter().map(|replica| replica.node).collect(),
                replicas_version: state.replicas_version,
                in_quorum: state.in_quorum.clone(),
                in_quorum_version: state.in_quorum_version,
                leaver,
            });
        });
        Ok(MetadataAnswer::PartitionChanged { partition })
    }

    /// What was proposed of the set before, by whomever, is void from here on: each plan has a version of its own.
    pub(super) fn plan_replicas(
        &mut self,
        partition: TopicPartition,
        version: u32,
        nodes: &[NodeId],
        events: &mut Vec<MetadataEvent>,
    ) -> Outcome {
        let judged = self.judge_plan(partition, version, nodes);
        judged.map_err(|reason| MetadataRefusal::Partition { partition, reason })?;
        self.change_partition(partition, |state| {
            state.planned = nodes.to_vec();
            state.replicas_version = state.replicas_version.saturating_add(1);
        });
        events.push(MetadataEvent::ReplicasPlanned { partition });
        Ok(MetadataAnswer::PartitionChanged { partition })
    }

    fn judge_plan(&self, partition: TopicPartition, given: u32, nodes: &[NodeId]) -> Result<(), PartitionRefusal> {
        let state = self.partition(partition).ok_or(PartitionRefusal::NotFound)?;
        check_version(given, state.replicas_version)?;
        if nodes.is_empty() {
            return Ok(());
        }
        let (added, _) = one_change(state, nodes)?;
        let Some(node) = added else { return Ok(()) };
        match self.nodes.get(&node) {
            None => Err(PartitionRefusal::NodeUnknown { node }),
            Some(known) if known.draining => Err(PartitionRefusal::Draining { node }),
            Some(_) => Ok(()),
        }
    }

    fn judge_set(
        &self,
        partition: TopicPartition,
        epoch: LeaderEpoch,
        given: u32,
        nodes: &[NodeId],
        newcomer: Option<(NodeId, ReplicaIncarnation)>,
    ) -> Result<NewSet, PartitionRefusal> {
        let state = self.led_in(partition, epoch)?;
        check_version(given, state.replicas_version)?;
        let (added, leaver) = one_change(state, nodes)?;
        if newcomer.map(|(node, _)| node) != added {
            return Err(PartitionRefusal::WrongNewcomer);
        }
        if let Some((node, incarnation)) = newcomer {
            self.check_present(node, incarnation)?;
            if incarnation.copy_version != state.replicas_version {
                // A copy of an earlier time, which the node may be dropping, or may have dropped.
                return Err(PartitionRefusal::StaleIncarnation { node, given: incarnation });
            }
            if self.nodes.get(&node).is_some_and(|known| known.draining) {
                return Err(PartitionRefusal::Draining { node });
            }
        }
        if let Some(node) = leaver.filter(|node| state.leader.is_some_and(|leader| leader.node == *node)) {
            return Err(PartitionRefusal::IsLeader { node });
        }
        let set = NewSet {
            replicas: nodes.iter().filter_map(|node| replica_of(state, *node, newcomer)).collect(),
            in_quorum: sorted(state.in_quorum.iter().copied().filter(|node| Some(*node) != leaver).chain(added)),
            leaver,
        };
        self.check_quorum(&set)?;
        if state.planned != nodes {
            return Err(PartitionRefusal::NotPlanned);
        }
        Ok(set)
    }

    /// The new set has to be able to commit: who only leaves must not leave too few behind.
    fn check_quorum(&self, set: &NewSet) -> Result<(), PartitionRefusal> {
        let quorum = crate::replica::quorum::quorum_size(set.replicas.len());
        match set.in_quorum.len() {
            left_count if left_count < quorum => Err(PartitionRefusal::BelowQuorum { left_count, quorum }),
            _ => Ok(()),
        }
    }

    pub(super) fn recover_partition(&mut self, order: &PartitionRecovery, events: &mut Vec<MetadataEvent>) -> Outcome {
        let &PartitionRecovery { partition, epoch, node, incarnation, lost_from, lost_to, .. } = order;
        let judged = self.judge_recovery(order);
        let boot_number = judged.map_err(|reason| MetadataRefusal::Partition { partition, reason })?;
        self.recoveries.push(RecoveryAudit {
            index: self.applied_index,
            partition,
            epoch,
            node,
            incarnation,
            requested_by: order.requested_by.clone(),
            recovered_at_secs: order.recovered_at_secs,
            lost_from,
            lost_to,
        });
        if self.recoveries.len() > MAX_RECOVERIES {
            self.recoveries.remove(0);
        }
        self.rewind_tees(partition, lost_from);
        events.push(MetadataEvent::PartitionRecovered { partition, epoch, node, lost_from, lost_to });
        self.change_partition(partition, |state| {
            // What the others hold may contradict the copy that goes on: none of it counts any more.
            for replica in &mut state.replicas {
                replica.admitted = match replica.node == node {
                    true => incarnation,
                    false => ReplicaIncarnation { node: NO_INCARNATION, damage_count: 0, ..replica.admitted },
                };
            }
            state.planned = Vec::new();
            state.replicas_version = state.replicas_version.saturating_add(1);
            state.lead(PartitionLeader { node, incarnation, boot_number });
            events.push(MetadataEvent::LeaderChosen {
                partition,
                epoch,
                leader: node,
                incarnation,
                boot_number,
                in_quorum_version: state.in_quorum_version,
            });
        });
        Ok(MetadataAnswer::PartitionRecovered { partition, epoch })
    }

    /// Gives the registered boot of the node that is to lead.
    fn judge_recovery(&self, order: &PartitionRecovery) -> Result<u64, PartitionRefusal> {
        let &PartitionRecovery { partition, epoch, node, incarnation, .. } = order;
        let state = self.partition(partition).ok_or(PartitionRefusal::NotFound)?;
        if !order.accept_data_loss {
            return Err(PartitionRefusal::DataLossNotAccepted);
        }
        if !(1..=MAX_ADDRESS_BYTES).contains(&order.requested_by.len()) {
            return Err(PartitionRefusal::InvalidAudit { what: "name of who orders it" });
        }
        if order.lost_to < order.lost_from {
            return Err(PartitionRefusal::InvalidAudit { what: "lost range" });
        }
        if state.epoch != epoch || epoch.0 == 0 {
            return Err(PartitionRefusal::StaleEpoch { given: epoch, current: state.epoch });
        }
        if let Some(leader) = state.leader {
            return Err(PartitionRefusal::HasLeader { leader: leader.node, epoch });
        }
        let admitted = state.replica(node).ok_or(PartitionRefusal::NotReplica { node })?.admitted;
        self.check_present(node, incarnation)?;
        let same_copy = admitted.copy_version == incarnation.copy_version;
        if !same_copy || admitted.node == incarnation.node && admitted > incarnation {
            return Err(PartitionRefusal::StaleIncarnation { node, given: incarnation });
        }
        self.nodes.get(&node).map(|known| known.boot_number).ok_or(PartitionRefusal::NodeUnknown { node })
    }

    /// Recoveries that accepted a loss, oldest first; the oldest are forgotten past [`MAX_RECOVERIES`].
    pub fn recoveries(&self) -> &[RecoveryAudit] {
        &self.recoveries
    }
}

/// Who is added and who is removed, when no more than one of each is.
fn one_change(state: &PartitionState, nodes: &[NodeId]) -> Result<(Option<NodeId>, Option<NodeId>), PartitionRefusal> {
    let distinct: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let added: Vec<NodeId> = distinct.iter().copied().filter(|node| !state.has_replica(*node)).collect();
    let removed = state.replicas.iter().map(|replica| replica.node).filter(|node| !distinct.contains(node));
    let removed: Vec<NodeId> = removed.collect();
    let (added_count, removed_count) = (added.len(), removed.len());
    let by_one = (1..=2).contains(&(added_count + removed_count)) && added_count < 2 && removed_count < 2;
    if !by_one || distinct.len() != nodes.len() || nodes.is_empty() || nodes.len() > usize::from(u8::MAX) {
        return Err(PartitionRefusal::NotOneChange { added_count, removed_count });
    }
    Ok((added.first().copied(), removed.first().copied()))
}

fn replica_of(state: &PartitionState, node: NodeId, newcomer: Option<(NodeId, ReplicaIncarnation)>) -> Option<Replica> {
    match newcomer {
        Some((newcomer, admitted)) if newcomer == node => Some(Replica { node, admitted }),
        _ => state.replica(node).copied(),
    }
}
