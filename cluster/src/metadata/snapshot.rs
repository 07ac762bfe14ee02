//! The state as a snapshot: `[version u8][bincode of Body]`; what can be derived is rebuilt and not written. Version 6 is written
//! at feature level 1; version 7 since, where what that level brought follows the body.

use super::feature::FeatureLevel;
use super::security::Security;
use super::state::{BumpedProducer, Later, MetadataState};
use super::tee::{TeeProgress, TeeRule};
use super::topic::{NodeState, RecoveryAudit, RemovedNode, Tombstone, TopicState};
use crate::codec::{self, CodecError};
use lance_messages::id::{NodeId, ProducerId, TeeId, TopicId, TopicPartition};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Version byte before every snapshot of feature level 1.
pub const SNAPSHOT_VERSION: u8 = 6;
/// Version byte before every later snapshot.
pub const LATER_SNAPSHOT_VERSION: u8 = 7;
const WHAT: &str = "metadata snapshot";

#[derive(Serialize, Deserialize)]
struct Body<'a> {
    applied_index: u64,
    next_topic_id: u32,
    next_producer_id: u64,
    nodes: Cow<'a, BTreeMap<NodeId, NodeState>>,
    allowed: Cow<'a, BTreeMap<NodeId, String>>,
    removed: Cow<'a, BTreeMap<NodeId, RemovedNode>>,
    topics: Cow<'a, BTreeMap<TopicId, TopicState>>,
    tombstones: Cow<'a, BTreeMap<TopicId, Tombstone>>,
    producers: Cow<'a, BTreeMap<ProducerId, BumpedProducer>>,
    producers_swept_at_secs: u64,
    recoveries: Cow<'a, [RecoveryAudit]>,
    next_tee_id: u32,
    tees: Cow<'a, BTreeMap<TeeId, TeeRule>>,
    tee_progress: Cow<'a, BTreeMap<(TeeId, u16), TeeProgress>>,
    security: Cow<'a, Security>,
}

impl MetadataState {
    /// The bytes of a snapshot; equal states give equal bytes.
    pub fn encode_snapshot(&self) -> Result<Vec<u8>, CodecError> {
        let body = Body {
            applied_index: self.applied_index,
            next_topic_id: self.next_topic_id,
            next_producer_id: self.next_producer_id,
            nodes: Cow::Borrowed(&self.nodes),
            allowed: Cow::Borrowed(&self.allowed),
            removed: Cow::Borrowed(&self.removed),
            topics: Cow::Borrowed(&self.topics),
            tombstones: Cow::Borrowed(&self.tombstones),
            producers: Cow::Borrowed(&self.producers),
            producers_swept_at_secs: self.producers_swept_at_secs,
            recoveries: Cow::Borrowed(&self.recoveries),
            next_tee_id: self.next_tee_id,
            tees: Cow::Borrowed(&self.tees),
            tee_progress: Cow::Borrowed(&self.tee_progress),
            security: Cow::Borrowed(&self.security),
        };
        match self.later.feature_level {
            FeatureLevel::FIRST => codec::encode(WHAT, SNAPSHOT_VERSION, &body),
            _ => codec::encode(WHAT, LATER_SNAPSHOT_VERSION, &(body, &self.later)),
        }
    }

    /// Reads a snapshot back and checks that it does not contradict itself.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::decode_snapshot_up_to(FeatureLevel::NEWEST, bytes)
    }

    /// As [`MetadataState::decode_snapshot`], as a program that understands nothing newer than `level`.
    pub fn decode_snapshot_up_to(level: FeatureLevel, bytes: &[u8]) -> Result<Self, CodecError> {
        let (body, later): (Body<'static>, Later) = match bytes.first() {
            Some(&LATER_SNAPSHOT_VERSION) if level > FeatureLevel::FIRST => {
                codec::decode(WHAT, LATER_SNAPSHOT_VERSION, bytes)?
            }
            _ => (codec::decode(WHAT, SNAPSHOT_VERSION, bytes)?, Later::default()),
        };
        let mut state = Self {
            applied_index: body.applied_index,
            next_topic_id: body.next_topic_id,
            next_producer_id: body.next_producer_id,
            nodes: body.nodes.into_owned(),
            allowed: body.allowed.into_owned(),
            removed: body.removed.into_owned(),
            topics: body.topics.into_owned(),
            tombstones: body.tombstones.into_owned(),
            producers: body.producers.into_owned(),
            producers_swept_at_secs: body.producers_swept_at_secs,
            recoveries: body.recoveries.into_owned(),
            next_tee_id: body.next_tee_id,
            tees: body.tees.into_owned(),
            tee_progress: body.tee_progress.into_owned(),
            security: Arc::new(body.security.into_owned()),
            later,
            ..Self::default()
        };
        state.derive();
        match state.contradiction() {
            Some(reason) => Err(CodecError::Inconsistent { what: WHAT, reason }),
            None => Ok(state),
        }
    }

    fn derive(&mut self) {
        for (id, topic) in &self.topics {
            self.topic_ids.insert(topic.name.clone(), *id);
            topic.partitions.iter().for_each(|partition| self.loads.count(partition));
        }
    }

    /// The first thing in this state that no sequence of commands can have made.
    pub fn contradiction(&self) -> Option<&'static str> {
        let allocated = |id: &TopicId| id.0 < self.next_topic_id.max(1);
        if self.topic_ids.len() != self.topics.len() {
            return Some("two topics have one name");
        }
        if !self.topics.keys().all(allocated) || !self.tombstones.keys().all(allocated) {
            return Some("a topic id was never allocated");
        }
        if self.tombstones.keys().any(|id| self.topics.contains_key(id)) {
            return Some("a topic exists and is deleted");
        }
        if !self.producers.keys().all(|id| (1..self.next_producer_id).contains(&id.0)) {
            return Some("a producer id was never allocated");
        }
        if self.later.feature_level > FeatureLevel::NEWEST {
            return Some("its feature level is newer than this program");
        }
        if self.later.maintenance.iter().any(|node| !self.nodes.contains_key(node)) {
            return Some("an unknown node is in maintenance");
        }
        if !self
            .later
            .beginnings
            .keys()
            .all(|(topic, number)| self.partition(TopicPartition::new(*topic, *number)).is_some())
        {
            return Some("a partition that does not exist has a beginning");
        }
        if self.topics.values().any(|topic| topic.partitions.len() != usize::from(topic.config.partitions)) {
            return Some("a topic's partitions are not as many as its configuration says");
        }
        if let Some(reason) = self.tee_contradiction().or_else(|| self.security.contradiction()) {
            return Some(reason);
        }
        if self.nodes.keys().any(|node| self.removed.contains_key(node) || self.allowed.contains_key(node)) {
            return Some("a registered node is removed or waits to be registered");
        }
        self.partitions().find_map(|(_, partition)| {
            let copies = partition.replicas.len();
            let in_quorum = &partition.in_quorum;
            let nodes: BTreeSet<NodeId> = partition.replicas.iter().map(|replica| replica.node).collect();
            if nodes.len() != copies || !in_quorum.is_sorted_by(|a, b| a < b) {
                return Some("a replica or in-quorum set names a node twice");
            }
            if copies == 0 || partition.replicas.iter().any(|replica| !self.nodes.contains_key(&replica.node)) {
                return Some("a replica is on an unknown node");
            }
            if in_quorum.len() < partition.quorum_size() || !in_quorum.iter().all(|node| partition.has_replica(*node)) {
                return Some("an in-quorum set is below the quorum or outside the replica set");
            }
            partition
                .leader
                .is_some_and(|leader| partition.epoch.0 == 0 || !partition.has_replica(leader.node))
                .then_some("a leader leads no epoch or holds no copy")
        })
    }
}
