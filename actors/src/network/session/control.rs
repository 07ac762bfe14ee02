//! Control requests: what can be answered from the view is answered at once, the rest goes to its actor.

use super::groups::group_request;
use super::replies::{ControlKind, ReplySlot, weight};
use super::rights::admin_action;
use super::routing::{Route, groups_partition, not_leader};
use super::security::{list_rules, list_users};
use super::{Effects, GRANTED_FEATURES, SessionCore, SessionEffect, shard_of};
use crate::view::{ClusterView, INTERNAL_PREFIX, TopicView};
use bytes::Bytes;
use lance_cluster::metadata::topic::ReplicationMode;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::mail::group::{CommitOffset, CommittedOffset};
use lance_messages::mail::ingestion::{LookUpOffset, OffsetQuery};
use lance_messages::security::Operation;
use lance_messages::wire::cluster::ClusterCommand;
use lance_messages::wire::hello::{Hello, HelloResponse, MINOR_VERSION, ProducerEpoch};
use lance_messages::wire::json::{ClusterStatusBody, TopicBody, TopicsBody, to_json};
use lance_messages::wire::lookup::LookupTarget;
use lance_messages::wire::security::SecurityRequest;
use lance_messages::wire::topics::{
    AlterTopic, CreateTopicWithConfig, MetadataRequest, MetadataResponse, NodeMetadata, PartitionMetadata,
    TopicMetadata, TopicMode,
};
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Features, Request, Response};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// What a session asks of the metadata actor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataCall {
    /// Make sure that topic 0 exists.
    EnsureDefaultTopic,
    /// Create a topic.
    CreateTopic(CreateTopicWithConfig),
    /// Delete a topic.
    DeleteTopic(TopicId),
    /// Change a topic.
    AlterTopic(AlterTopic),
    /// An operator's order, with the partitions led here whose copy on the node it is about is complete.
    Cluster(ClusterCommand, Vec<TopicPartition>),
    /// Change users or rules.
    Security(SecurityRequest),
    /// Allocate a producer, or bind a known one again.
    InitProducer(Option<ProducerEpoch>),
}

/// As much of what a client calls itself is kept for its spans.
const MAX_NAME_CHARS: usize = 64;

impl SessionCore {
    pub(super) fn on_hello(&mut self, hello: &Hello, correlation: u64, effects: &mut Effects) {
        let granted = Features(hello.features.0 & GRANTED_FEATURES.0);
        let response = HelloResponse {
            minor_version: MINOR_VERSION,
            node_id: self.limits.node,
            features: granted,
            max_payload_bytes: self.limits.max_payload_bytes,
            max_in_flight_bytes: self.limits.max_in_flight_bytes as u64,
        };
        // Written as 1.0; what follows is in the negotiated form. A second Hello would have to wait for replies.
        if self.features.is_some() || !self.lanes.is_empty() {
            let message = "Hello must be the first frame of a connection";
            let error = TypedError::with_message(ErrorCode::InvalidRequest, Answers::Control(0x40), message);
            self.lanes.reserve(self.control_lane(), ReplySlot::ready(correlation, Response::Error(error)));
            return;
        }
        lance_messages::wire::ResponseFrame { correlation, response: Response::Hello(response) }
            .encode(&mut self.output.tail, None);
        self.client_name = hello.client_name.chars().take(MAX_NAME_CHARS).collect::<String>().into();
        effects.push(SessionEffect::Named(Arc::clone(&self.client_name)));
        self.features = Some(granted);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one decoded frame")]
    pub(super) fn on_control(
        &mut self,
        request: Request,
        correlation: u64,
        partition: u16,
        command: u8,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        let refuse = |code| Response::Error(TypedError::new(code, Answers::Control(command)));
        if is_reserved(&request) {
            let message = "Invalid topic name: names that start with __ belong to the server";
            let error = TypedError::with_message(ErrorCode::InvalidTopicName, Answers::Control(command), message);
            self.lanes.reserve(self.control_lane(), ReplySlot::ready(correlation, Response::Error(error)));
            return;
        }
        if let Some(kind) = described_call(&request) {
            let action = admin_action(&request, view);
            let request = self.reserve_control(correlation, command, kind);
            self.note_action(request, action);
            return effects.push(SessionEffect::Describe(request));
        }
        if let Request::TopicTee(asked) = request {
            let request = self.reserve_control(correlation, command, ControlKind::TopicTee);
            return effects.push(SessionEffect::Tee(request, asked));
        }
        if let Some((kind, call)) = metadata_call(&request) {
            let action = admin_action(&request, view);
            let request = self.ask(correlation, command, kind, call, effects);
            return self.note_action(request, action);
        }
        if let Some(asked) = group_request(&request) {
            let action = admin_action(&request, view);
            return self.on_group_request(asked, action, correlation, command, view, effects);
        }
        let response = match request {
            Request::Fetch(fetch) => return self.on_fetch(fetch, correlation, partition, view, now, effects),
            Request::FetchPartitions(fetch) => {
                return self.on_fetch_partitions(&fetch, correlation, view, now, effects);
            }
            Request::ListTopics => Response::Topic(self.list_topics(view)),
            Request::GetTopic { topic } => match view.topics.get(&topic) {
                Some(topic) => Response::Topic(to_json(&topic_body(topic)).into()),
                None => refuse(ErrorCode::TopicNotFound),
            },
            Request::GetClusterStatus => Response::ClusterStatus(cluster_status(view)),
            Request::Authenticate { token } => self.on_token(&token, view, effects),
            Request::ScramStep(message) => self.on_scram_step(&message, command, view, effects),
            Request::Security(SecurityRequest::ListUsers) => list_users(view),
            Request::Security(SecurityRequest::ListRules) => list_rules(view),
            asked @ (Request::Subscribe(_)
            | Request::Unsubscribe { .. }
            | Request::CommitOffset(_)
            | Request::LookupOffset(_)) => {
                match self.on_place_request(asked, correlation, partition, command, view, effects) {
                    Some(response) => response,
                    None => return,
                }
            }
            Request::Metadata(wanted) => {
                if let Some(create) = self.next_missing(&wanted, view) {
                    self.ask(correlation, command, ControlKind::Metadata(wanted), create, effects);
                    return;
                }
                Response::Metadata(self.visible_metadata(view, &wanted))
            }
            // No control requests, or asked of other actors above.
            Request::Ignored | Request::Keepalive | Request::Produce(_) | Request::Hello(_) => return,
            Request::CreateTopic { .. }
            | Request::CreateTopicWithRetention { .. }
            | Request::CreateTopicWithConfig(_)
            | Request::AlterTopic(_)
            | Request::DeleteTopic { .. }
            | Request::SetRetention { .. }
            | Request::DescribeCluster
            | Request::ClusterCommand(_)
            | Request::GroupHeartbeat(_)
            | Request::GroupCommit(_)
            | Request::GroupOffsets(_)
            | Request::DescribeGroups(_)
            | Request::DeleteGroup { .. }
            | Request::TopicTee(_)
            | Request::Security(_)
            | Request::InitProducer(_) => return,
        };
        self.waiting_bytes += weight(&response);
        self.lanes.reserve(self.control_lane(), ReplySlot::ready(correlation, response));
    }

    /// Where a consumer is, or where something is in a log; `None` when another actor answers.
    fn on_place_request(
        &mut self,
        request: Request,
        correlation: u64,
        partition: u16,
        command: u8,
        view: &ClusterView,
        effects: &mut Effects,
    ) -> Option<Response> {
        let refuse = |code| Response::Error(TypedError::new(code, Answers::Control(command)));
        Some(match request {
            Request::Subscribe(subscribe) if !has_partition(view, TopicPartition::new(subscribe.topic, partition)) => {
                refuse(ErrorCode::UnknownTopic)
            }
            Request::Subscribe(subscribe) if subscribe.start_offset != 0 => {
                Response::SubscribeAck { consumer_id: subscribe.consumer_id, offset: subscribe.start_offset }
            }
            Request::Subscribe(subscribe) => {
                let asked = CommittedOffset {
                    partition: TopicPartition::new(subscribe.topic, partition),
                    consumer_id: subscribe.consumer_id,
                };
                self.on_subscribe(asked, correlation, command, view, effects);
                return None;
            }
            Request::Unsubscribe { consumer_id, .. } => Response::Ack { batch_id: consumer_id, offsets: None },
            Request::CommitOffset(commit) if !has_partition(view, TopicPartition::new(commit.topic, partition)) => {
                refuse(ErrorCode::UnknownTopic)
            }
            Request::CommitOffset(commit) => {
                let commit = CommitOffset {
                    partition: TopicPartition::new(commit.topic, partition),
                    consumer_id: commit.consumer_id,
                    offset: commit.offset,
                };
                self.on_commit(commit, correlation, command, view, effects);
                return None;
            }
            Request::LookupOffset(look_up) if !has_partition(view, look_up.partition) => {
                refuse(ErrorCode::UnknownTopic)
            }
            Request::LookupOffset(look_up) if self.route(look_up.partition, view) != Route::Here => {
                Response::Error(not_leader(view, Some(look_up.partition), Answers::Control(command)))
            }
            Request::LookupOffset(look_up) => {
                self.on_look_up(look_up, correlation, command, effects);
                return None;
            }
            _ => return None,
        })
    }

    /// The topics that the client may see.
    fn list_topics(&self, view: &ClusterView) -> Bytes {
        let visible = |topic: &&TopicView| self.access.may(Operation::Describe, &topic.name, view);
        let topics = view.sorted_topics().into_iter().filter(visible).map(topic_body).collect();
        to_json(&TopicsBody { topics }).into()
    }

    /// Of all topics those that the client may see; those it names were checked before.
    pub(super) fn visible_metadata(&self, view: &ClusterView, wanted: &MetadataRequest) -> MetadataResponse {
        let mut found = metadata(view, wanted);
        found.topics.retain(|topic| self.access.may(Operation::Describe, &topic.name, view));
        found
    }

    /// The first topic that a metadata request would have created, if this server does that.
    pub(super) fn next_missing(&self, wanted: &MetadataRequest, view: &ClusterView) -> Option<MetadataCall> {
        if !(wanted.create_missing && self.limits.auto_create) {
            return None;
        }
        let creatable = |name: &&String| {
            let is_missing = view.topic_by_name(name).is_none() && !name.starts_with(INTERNAL_PREFIX);
            is_missing && self.access.may(Operation::Create, name, view)
        };
        let missing = wanted.topics.iter().find(creatable)?;
        Some(MetadataCall::CreateTopic(create_named(missing.clone(), None)))
    }

    fn ask(
        &mut self,
        correlation: u64,
        command: u8,
        kind: ControlKind,
        call: MetadataCall,
        effects: &mut Effects,
    ) -> u64 {
        let request = self.reserve_control(correlation, command, kind);
        effects.push(SessionEffect::Metadata(request, call));
        request
    }

    /// Keeps a place for the reply to a control request that another actor answers.
    pub(super) fn reserve_control(&mut self, correlation: u64, command: u8, kind: ControlKind) -> u64 {
        self.lanes.reserve(self.control_lane(), ReplySlot::Control { correlation, command, kind }).0
    }

    fn on_subscribe(
        &mut self,
        asked: CommittedOffset,
        correlation: u64,
        command: u8,
        view: &ClusterView,
        effects: &mut Effects,
    ) {
        let route = self.route_offsets(view);
        if route == Route::Redirect {
            return self.redirect_offsets(correlation, command, view);
        }
        let kind = ControlKind::Subscribe { partition: asked.partition, consumer_id: asked.consumer_id };
        let request = self.reserve_control(correlation, command, kind);
        effects.push(match route {
            Route::Here => SessionEffect::Committed(request, asked),
            _ => SessionEffect::ForwardCommitted(request, asked),
        });
    }

    fn on_commit(
        &mut self,
        commit: CommitOffset,
        correlation: u64,
        command: u8,
        view: &ClusterView,
        effects: &mut Effects,
    ) {
        let route = self.route_offsets(view);
        if route == Route::Redirect {
            return self.redirect_offsets(correlation, command, view);
        }
        let CommitOffset { partition, consumer_id, offset } = commit;
        let kind = ControlKind::Commit { partition, consumer_id, offset };
        let request = self.reserve_control(correlation, command, kind);
        effects.push(match route {
            Route::Here => SessionEffect::Commit(request, commit),
            _ => SessionEffect::ForwardCommit(request, commit),
        });
    }

    pub(super) fn redirect_offsets(&mut self, correlation: u64, command: u8, view: &ClusterView) {
        let error = not_leader(view, groups_partition(view), Answers::Control(command));
        self.lanes.reserve(self.control_lane(), ReplySlot::ready(correlation, Response::Error(error)));
    }

    fn on_look_up(
        &mut self,
        look_up: lance_messages::wire::lookup::LookupOffset,
        correlation: u64,
        command: u8,
        effects: &mut Effects,
    ) {
        let shard = shard_of(look_up.partition, self.limits.shards);
        let kind = ControlKind::LookUp { partition: look_up.partition, shard };
        let request = self.reserve_control(correlation, command, kind);
        let query = match look_up.target {
            LookupTarget::Earliest => OffsetQuery::Earliest,
            LookupTarget::Latest => OffsetQuery::Latest,
            LookupTarget::Timestamp(at) => OffsetQuery::Timestamp(at),
            LookupTarget::RecordNumber(number) => OffsetQuery::Record(number),
            LookupTarget::Offset(offset) => OffsetQuery::Offset(offset),
        };
        let look_up = LookUpOffset { connection: self.id, request, partition: look_up.partition, query };
        effects.push(SessionEffect::LookUp(shard, look_up));
    }
}

/// Whether this would create a topic whose name belongs to the server.
fn is_reserved(request: &Request) -> bool {
    match request {
        Request::CreateTopic { name }
        | Request::CreateTopicWithRetention { name, .. }
        | Request::CreateTopicWithConfig(CreateTopicWithConfig { name, .. }) => name.starts_with(INTERNAL_PREFIX),
        _ => false,
    }
}

/// What the metadata actor is asked for a request that changes the metadata, and how its answer is written.
fn metadata_call(request: &Request) -> Option<(ControlKind, MetadataCall)> {
    let (kind, call) = match request {
        Request::CreateTopic { name } => {
            let kind = ControlKind::CreateTopic { name: name.clone(), retention: None };
            (kind, MetadataCall::CreateTopic(create_named(name.clone(), None)))
        }
        Request::CreateTopicWithRetention { name, max_age_secs, max_bytes } => {
            let retention = Some((*max_age_secs, *max_bytes));
            let kind = ControlKind::CreateTopic { name: name.clone(), retention };
            (kind, MetadataCall::CreateTopic(create_named(name.clone(), retention)))
        }
        Request::CreateTopicWithConfig(create) => {
            (ControlKind::CreateTopicWithConfig, MetadataCall::CreateTopic(create.clone()))
        }
        Request::AlterTopic(alter) => (ControlKind::AlterTopic, MetadataCall::AlterTopic(*alter)),
        Request::DeleteTopic { topic } => (ControlKind::DeleteTopic, MetadataCall::DeleteTopic(*topic)),
        Request::SetRetention { topic, max_age_secs, max_bytes } => {
            let (max_age_secs, max_bytes) = (*max_age_secs, *max_bytes);
            let (age, bytes) = (Some(max_age_secs), Some(max_bytes));
            let alter = AlterTopic { topic: *topic, partitions: None, max_age_secs: age, max_bytes: bytes };
            (ControlKind::SetRetention { max_age_secs, max_bytes }, MetadataCall::AlterTopic(alter))
        }
        Request::ClusterCommand(order) => {
            (ControlKind::ClusterCommand(order.clone()), MetadataCall::Cluster(order.clone(), Vec::new()))
        }
        Request::Security(SecurityRequest::ListUsers | SecurityRequest::ListRules) => return None,
        Request::Security(change) => {
            (ControlKind::Security { what: change.what() }, MetadataCall::Security(change.clone()))
        }
        Request::InitProducer(init) => (ControlKind::InitProducer, MetadataCall::InitProducer(init.existing)),
        _ => return None,
    };
    Some((kind, call))
}

/// Requests that need to know how the partitions of this node stand.
fn described_call(request: &Request) -> Option<ControlKind> {
    match request {
        Request::DescribeCluster => Some(ControlKind::DescribeCluster),
        Request::ClusterCommand(order) if crate::metadata::orders::needs_copies(order).is_some() => {
            Some(ControlKind::ClusterCommand(order.clone()))
        }
        _ => None,
    }
}

fn create_named(name: String, retention: Option<(u64, u64)>) -> CreateTopicWithConfig {
    CreateTopicWithConfig {
        name,
        partitions: None,
        replication_factor: None,
        mode: None,
        max_age_secs: retention.map(|(age, _)| age),
        max_bytes: retention.map(|(_, bytes)| bytes),
    }
}

pub(super) fn has_partition(view: &ClusterView, partition: TopicPartition) -> bool {
    view.topics.get(&partition.topic).is_some_and(|topic| usize::from(partition.partition) < topic.partitions.len())
}

pub(super) fn topic_body(topic: &TopicView) -> TopicBody {
    let limit = |value: u64| (value != 0).then_some(value);
    TopicBody {
        created_at: topic.created_at,
        id: topic.id.0,
        max_age_secs: limit(topic.config.max_age_secs),
        max_bytes: limit(topic.config.max_bytes),
        name: topic.name.clone(),
        topic_epoch: u64::from(topic.topic_epoch),
    }
}

fn cluster_status(view: &ClusterView) -> Bytes {
    let node_id = view.node.map_or(0, |node| u64::from(node.0));
    let state = |node| if view.is_alive(node) { "Connected" } else { "Disconnected" };
    let peers = view.nodes.iter().filter(|(id, _)| Some(*id) != view.node);
    let body = ClusterStatusBody {
        current_term: view.term,
        healthy_nodes: view.nodes.iter().filter(|(id, _)| view.is_alive(*id)).count().max(1) as u64,
        is_leader: view.metadata_leader.is_some() && view.metadata_leader == view.node,
        leader_id: view.metadata_leader.map(|node| u64::from(node.0)),
        mode: view.is_alone().then(|| "standalone".to_owned()),
        node_count: view.nodes.len().max(1) as u64,
        node_id,
        peer_states: peers.map(|(id, _)| (id.to_string(), state(*id).to_owned())).collect(),
        quorum_available: view.metadata_leader.is_some(),
    };
    to_json(&body).into()
}

fn metadata(view: &ClusterView, wanted: &MetadataRequest) -> MetadataResponse {
    let topics = if wanted.topics.is_empty() {
        view.sorted_topics().into_iter().map(topic_metadata).collect()
    } else {
        let by_name = |name: &String| match view.topic_by_name(name) {
            Some(topic) => topic_metadata(topic),
            None => missing_topic(name.clone()),
        };
        // Each once: a name repeated in one request must not multiply the reply.
        let mut seen = HashSet::new();
        wanted.topics.iter().filter(|name| seen.insert(name.as_str())).map(by_name).collect()
    };
    let nodes = view.nodes.iter().map(|(id, address)| NodeMetadata { id: *id, address: address.clone() }).collect();
    MetadataResponse { controller: view.metadata_leader, nodes, topics }
}

fn topic_metadata(topic: &TopicView) -> TopicMetadata {
    let partitions = topic.partitions.iter().map(|(leader, epoch)| PartitionMetadata {
        leader: *leader,
        leader_epoch: epoch.0,
        error: leader.is_none().then_some(ErrorCode::Unavailable),
    });
    TopicMetadata {
        id: topic.id,
        name: topic.name.clone(),
        error: None,
        mode: mode_code(topic.config.mode),
        replication_factor: topic.config.replication_factor,
        created_at: topic.created_at,
        max_age_secs: topic.config.max_age_secs,
        max_bytes: topic.config.max_bytes,
        partitions: partitions.collect(),
    }
}

fn missing_topic(name: String) -> TopicMetadata {
    TopicMetadata {
        id: TopicId(0),
        name,
        error: Some(ErrorCode::UnknownTopic),
        mode: TopicMode::L1,
        replication_factor: 0,
        created_at: 0,
        max_age_secs: 0,
        max_bytes: 0,
        partitions: Vec::new(),
    }
}

pub(super) fn mode_code(mode: ReplicationMode) -> TopicMode {
    match mode {
        ReplicationMode::L1 => TopicMode::L1,
        ReplicationMode::L2 => TopicMode::L2,
    }
}
