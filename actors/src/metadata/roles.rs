//! What a leader has to know of its partition, read from the committed metadata.

use crate::ingestion::replica::LeaderRole;
use lance_cluster::metadata::MetadataState;
use lance_cluster::metadata::topic::PartitionState;
use lance_cluster::replica::Vote;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};

/// The role of the leader of `partition` in `epoch`; `None` when the metadata is past that epoch.
pub fn role_of(state: &MetadataState, partition: TopicPartition, epoch: LeaderEpoch) -> Option<LeaderRole> {
    let decided = state.partition(partition).filter(|decided| decided.epoch == epoch)?;
    let mode = state.topic(partition.topic)?.config.mode;
    let votes = decided.replicas.iter().map(|replica| Vote {
        node: replica.node,
        admitted: replica.admitted,
        in_quorum: decided.in_quorum.contains(&replica.node),
    });
    Some(LeaderRole {
        partition,
        epoch,
        votes: votes.collect(),
        mode,
        in_quorum_version: decided.in_quorum_version,
        replicas_version: decided.replicas_version,
        planned: decided.planned.clone(),
    })
}

/// Every role that this start of a node has.
pub fn roles_led(state: &MetadataState, node: NodeId, incarnation: u64, boot_number: u64) -> Vec<LeaderRole> {
    let own = |decided: &PartitionState| {
        decided.leader.is_some_and(|leader| {
            (leader.node, leader.incarnation.node, leader.boot_number) == (node, incarnation, boot_number)
        })
    };
    let led = state.partitions().filter(|(_, decided)| own(decided));
    led.filter_map(|(partition, decided)| role_of(state, partition, decided.epoch)).collect()
}
