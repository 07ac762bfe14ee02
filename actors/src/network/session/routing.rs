//! Where the request for a partition goes: to a shard of this node, to the node that leads, or back to the client.

use super::SessionCore;
use super::replies::{ProduceSlot, ReplySlot};
use crate::group::core::GROUPS_TOPIC;
use crate::view::ClusterView;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::wire::Response;
use lance_messages::wire::typed_error::{Answers, TypedError};

/// Who serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// A shard of this node.
    Here,
    /// Another node, which the forwarder asks: the client knows one address only.
    Forward,
    /// Another node, which the client asks itself.
    Redirect,
}

/// The partition that holds committed offsets; `None` until the first is committed.
pub fn groups_partition(view: &ClusterView) -> Option<TopicPartition> {
    view.internal_topic(GROUPS_TOPIC).map(|topic| TopicPartition::new(topic, 0))
}

/// The error that sends a client to the leader of a partition, if one is known.
pub(super) fn not_leader(view: &ClusterView, partition: Option<TopicPartition>, answers: Answers) -> TypedError {
    let mut error = TypedError::new(ErrorCode::NotLeader, answers);
    error.detail = redirect(view, partition);
    error
}

/// Address of the leader of a partition; empty when it is unknown, or this node, which would send a client in circles.
pub(super) fn redirect(view: &ClusterView, partition: Option<TopicPartition>) -> String {
    let leader = partition.and_then(|partition| view.leader(partition)).filter(|leader| view.node != Some(*leader));
    leader.and_then(|leader| view.address(leader)).unwrap_or_default().to_owned()
}

/// Node id of the leader of a partition; 0 when it is unknown, or this node.
pub(super) fn leader_id(view: &ClusterView, partition: TopicPartition) -> u16 {
    view.leader(partition).filter(|leader| view.node != Some(*leader)).map_or(0, |leader| leader.0)
}

impl SessionCore {
    /// The index that stands for the forwarder beside the shards.
    pub(super) fn forwarder(&self) -> u16 {
        self.limits.shards
    }

    pub(super) fn route(&self, partition: TopicPartition, view: &ClusterView) -> Route {
        let leader = view.leader(partition);
        // Alone, nobody else can lead: the shard holds what comes until it does.
        if leader.is_some() && leader == view.node || leader.is_none() && view.is_alone() {
            return Route::Here;
        }
        if self.features.is_some() { Route::Redirect } else { Route::Forward }
    }

    /// As [`Self::route`], for a batch: those of one connection and partition stay in order over a change of leader.
    pub(super) fn route_produce(&self, partition: TopicPartition, view: &ClusterView) -> Route {
        match self.route(partition, view) {
            Route::Here if self.forwarded.contains_key(&partition) => Route::Forward,
            route => route,
        }
    }

    /// Where committed offsets are served.
    pub(super) fn route_offsets(&self, view: &ClusterView) -> Route {
        groups_partition(view).map_or(Route::Here, |partition| self.route(partition, view))
    }

    /// A forwarded batch was answered.
    pub(super) fn forget_forwarded(&mut self, slot: &ProduceSlot) {
        if slot.shard != self.forwarder() {
            return;
        }
        if let Some(count) = self.forwarded.get_mut(&slot.partition) {
            *count -= 1;
            if *count == 0 {
                self.forwarded.remove(&slot.partition);
            }
        }
    }

    /// The reply to a batch that this node's shard did not take, since another node leads by now.
    pub(super) fn refused_produce(&self, slot: ProduceSlot, view: &ClusterView) -> ReplySlot {
        let answers = Answers::Ingest(slot.batch_id);
        let error = match self.features {
            Some(_) => not_leader(view, Some(slot.partition), answers),
            // The same address takes it when it comes again.
            None => TypedError::new(ErrorCode::Unavailable, answers),
        };
        ReplySlot::ready(0, Response::Error(error))
    }
}
