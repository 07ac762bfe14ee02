//! In-quorum sets and admissions: each change is a compare-and-set on epoch and version, proposed by the partition's leader.

use super::answer::{MetadataAnswer, MetadataEvent, MetadataRefusal};
use super::placement::sorted;
use super::refusal::PartitionRefusal;
use super::state::{MetadataState, Outcome};
use super::topic::{PartitionState, Replica, ReplicaIncarnation};
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};

type Judgement = Result<(), PartitionRefusal>;

/// Outcomes of a command that names several partitions.
#[derive(Default)]
struct Verdicts {
    changed: Vec<TopicPartition>,
    refused: Vec<(TopicPartition, PartitionRefusal)>,
}

impl Verdicts {
    fn note(&mut self, partition: TopicPartition, judgement: Judgement) {
        match judgement {
            Ok(()) => self.changed.push(partition),
            Err(reason) => self.refused.push((partition, reason)),
        }
    }

    fn answer(self) -> MetadataAnswer {
        MetadataAnswer::PartitionsChanged { changed: self.changed, refused: self.refused }
    }
}

impl MetadataState {
    pub(super) fn evict(
        &mut self,
        node: NodeId,
        partitions: &[(TopicPartition, LeaderEpoch, u32)],
        events: &mut Vec<MetadataEvent>,
    ) -> MetadataAnswer {
        let mut verdicts = Verdicts::default();
        for &(partition, epoch, version) in partitions {
            verdicts.note(partition, self.evict_one(node, partition, epoch, version, events));
        }
        verdicts.answer()
    }

    fn evict_one(
        &mut self,
        node: NodeId,
        partition: TopicPartition,
        epoch: LeaderEpoch,
        version: u32,
        events: &mut Vec<MetadataEvent>,
    ) -> Judgement {
        let state = self.led_in(partition, epoch)?;
        check_version(version, state.in_quorum_version)?;
        let replica = follower(state, node)?;
        if !state.is_in_quorum(node) {
            return Err(PartitionRefusal::NotInQuorum { node });
        }
        if self.nodes.get(&node).is_some_and(|known| known.draining) {
            return Err(PartitionRefusal::Draining { node });
        }
        let (left_count, quorum) = (state.in_quorum.len() - 1, state.quorum_size());
        let counting = state.replicas.iter().filter(|other| state.is_in_quorum(other.node) && self.counts(other));
        let counting_left = counting.filter(|other| other.node != node).count();
        // One that counts may go only while those that count still make a quorum: others would not be waited for.
        if left_count < quorum || (self.counts(replica) && counting_left < quorum) {
            return Err(PartitionRefusal::BelowQuorum { left_count: left_count.min(counting_left), quorum });
        }
        let in_quorum = state.in_quorum.iter().copied().filter(|other| *other != node).collect();
        self.set_in_quorum(partition, in_quorum, events);
        Ok(())
    }

    pub(super) fn rejoin(
        &mut self,
        node: NodeId,
        partitions: &[(TopicPartition, ReplicaIncarnation, LeaderEpoch, u32)],
        events: &mut Vec<MetadataEvent>,
    ) -> MetadataAnswer {
        let mut verdicts = Verdicts::default();
        for &(partition, incarnation, epoch, version) in partitions {
            let judgement = self.may_enter(node, partition, incarnation, epoch, version).map(|state| {
                let in_quorum = state.in_quorum.iter().copied().chain([node]);
                sorted(in_quorum)
            });
            let judgement = judgement.map(|in_quorum| self.set_in_quorum(partition, in_quorum, events));
            verdicts.note(partition, judgement);
        }
        verdicts.answer()
    }

    pub(super) fn admit(
        &mut self,
        node: NodeId,
        partitions: &[(TopicPartition, ReplicaIncarnation, LeaderEpoch, u32)],
        events: &mut Vec<MetadataEvent>,
    ) -> MetadataAnswer {
        let mut verdicts = Verdicts::default();
        for &(partition, incarnation, epoch, version) in partitions {
            let judgement = self.may_admit(node, partition, incarnation, epoch, version);
            if judgement.is_ok() {
                self.change_partition(partition, |state| {
                    let replica = state.replicas.iter_mut().find(|replica| replica.node == node);
                    replica.into_iter().for_each(|replica| replica.admitted = incarnation);
                });
                events.push(MetadataEvent::ReplicaAdmitted { partition, node, incarnation });
            }
            verdicts.note(partition, judgement);
        }
        verdicts.answer()
    }

    fn may_admit(
        &self,
        node: NodeId,
        partition: TopicPartition,
        incarnation: ReplicaIncarnation,
        epoch: LeaderEpoch,
        version: u32,
    ) -> Judgement {
        let state = self.led_in(partition, epoch)?;
        check_version(version, state.in_quorum_version)?;
        let admitted = follower(state, node)?.admitted;
        self.check_present(node, incarnation)?;
        // Within one life of a node, damage only adds up.
        let same_copy = admitted.copy_version == incarnation.copy_version;
        if !same_copy || admitted.node == incarnation.node && admitted >= incarnation {
            return Err(PartitionRefusal::StaleIncarnation { node, given: incarnation });
        }
        Ok(())
    }

    pub(super) fn swap_in(
        &mut self,
        partition: TopicPartition,
        (epoch, version): (LeaderEpoch, u32),
        out: NodeId,
        (into, incarnation): (NodeId, ReplicaIncarnation),
        events: &mut Vec<MetadataEvent>,
    ) -> Outcome {
        let judged = self.may_enter(into, partition, incarnation, epoch, version).and_then(|state| {
            follower(state, out)?;
            if !state.is_in_quorum(out) {
                return Err(PartitionRefusal::NotInQuorum { node: out });
            }
            let in_quorum = state.in_quorum.iter().copied().filter(|node| *node != out).chain([into]);
            Ok(sorted(in_quorum))
        });
        let in_quorum = judged.map_err(|reason| MetadataRefusal::Partition { partition, reason })?;
        self.set_in_quorum(partition, in_quorum, events);
        Ok(MetadataAnswer::PartitionChanged { partition })
    }

    /// Whether an admitted replica outside the in-quorum set may enter it.
    fn may_enter(
        &self,
        node: NodeId,
        partition: TopicPartition,
        incarnation: ReplicaIncarnation,
        epoch: LeaderEpoch,
        version: u32,
    ) -> Result<&PartitionState, PartitionRefusal> {
        let state = self.led_in(partition, epoch)?;
        check_version(version, state.in_quorum_version)?;
        let admitted = follower(state, node)?.admitted;
        if state.is_in_quorum(node) {
            return Err(PartitionRefusal::InQuorum { node });
        }
        self.check_present(node, incarnation)?;
        if admitted != incarnation {
            return Err(PartitionRefusal::NotAdmitted { node, given: incarnation, admitted });
        }
        Ok(state)
    }

    /// The partition, if it is led in this very epoch.
    pub(super) fn led_in(
        &self,
        partition: TopicPartition,
        given: LeaderEpoch,
    ) -> Result<&PartitionState, PartitionRefusal> {
        let state = self.partition(partition).ok_or(PartitionRefusal::NotFound)?;
        if state.epoch != given {
            return Err(PartitionRefusal::StaleEpoch { given, current: state.epoch });
        }
        match state.leader {
            Some(_) => Ok(state),
            None => Err(PartitionRefusal::NoLeader { epoch: given }),
        }
    }

    /// Whether an incarnation belongs to the node's present life.
    pub(super) fn check_present(&self, node: NodeId, given: ReplicaIncarnation) -> Judgement {
        let known = self.nodes.get(&node).ok_or(PartitionRefusal::NodeUnknown { node })?;
        match known.incarnation == given.node {
            true => Ok(()),
            false => Err(PartitionRefusal::StaleIncarnation { node, given }),
        }
    }

    /// Whether a replica's acks and answers can count: its node still is in the life it was admitted in.
    pub fn counts(&self, replica: &Replica) -> bool {
        self.nodes.get(&replica.node).is_some_and(|node| node.incarnation == replica.admitted.node)
    }

    /// Whether as many replicas count as an election needs answers.
    pub(super) fn may_elect(&self, partition: &PartitionState) -> bool {
        partition.replicas.iter().filter(|replica| self.counts(replica)).count() >= partition.election_size()
    }

    fn set_in_quorum(&mut self, partition: TopicPartition, in_quorum: Vec<NodeId>, events: &mut Vec<MetadataEvent>) {
        self.change_partition(partition, |state| {
            state.in_quorum_version = state.in_quorum_version.saturating_add(1);
            state.in_quorum = in_quorum;
            events.push(MetadataEvent::InQuorumChanged {
                partition,
                epoch: state.epoch,
                in_quorum: state.in_quorum.clone(),
                in_quorum_version: state.in_quorum_version,
            });
        });
    }
}

pub(super) fn check_version(given: u32, current: u32) -> Judgement {
    // The last version of all is never left: nothing could be compared with what follows it.
    if given != current || current == u32::MAX {
        return Err(PartitionRefusal::StaleVersion { given, current });
    }
    Ok(())
}

/// The replica on `node`, which does not lead.
fn follower(state: &PartitionState, node: NodeId) -> Result<&Replica, PartitionRefusal> {
    if state.leader.is_some_and(|leader| leader.node == node) {
        return Err(PartitionRefusal::IsLeader { node });
    }
    state.replica(node).ok_or(PartitionRefusal::NotReplica { node })
}
