//! Answers of other actors, and how replies are written.

use super::cluster::order_done;
use super::control::{mode_code, topic_body};
use super::replies::{ControlKind, ReplySlot, weight};
use super::routing::{groups_partition, not_leader};
use super::{Effects, SessionCore, SessionEffect};
use crate::network::readers::{ReadFailure, SegmentRead};
use crate::view::ClusterView;
use lance_cluster::metadata::answer::{MetadataAnswer, MetadataRefusal};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::mail::connection::{Answer, Replies, Reply};
use lance_messages::mail::group::{CommitOffset, CommittedOffset};
use lance_messages::wire::hello::ProducerEpoch;
use lance_messages::wire::json::{DeletedBody, RetentionBody, to_json};
use lance_messages::wire::lookup::LookupOffsetResponse;
use lance_messages::wire::produce::{AckOffsets, put_ack};
use lance_messages::wire::security::SecurityReply;
use lance_messages::wire::tee::TeeReply;
use lance_messages::wire::topics::TopicConfigured;
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Response, ResponseFrame};
use std::time::Duration;

/// Why the metadata actor did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// The state machine refused.
    Refused(MetadataRefusal),
    /// It was not decided.
    Failed(ErrorCode, String),
}

impl SessionCore {
    /// Answers of a shard.
    pub fn on_replies(
        &mut self,
        replies: Replies<SegmentRead>,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        let Replies { replies, pressed, known_at, .. } = replies;
        for Reply { request, answer } in replies {
            match answer {
                Answer::Produced(result) => {
                    if !self.traces_nothing() {
                        self.spans.on_answer(request, known_at);
                    }
                    let Some(&mut ReplySlot::Produce(produce)) = self.slot_mut(request) else { continue };
                    let answered = match result {
                        Err(ErrorCode::NotLeader) => self.refused_produce(produce, view),
                        result => ReplySlot::Produced(produce, result),
                    };
                    if let Some(slot) = self.slot_mut(request) {
                        *slot = answered;
                    }
                    self.in_flight_bytes = self.in_flight_bytes.saturating_sub(produce.bytes);
                    self.forget_forwarded(&produce);
                }
                Answer::Fetched { part, result, .. } => {
                    self.on_fetched(request, part, result, (view, now), effects);
                }
                Answer::LookedUp(result) => self.on_looked_up(request, result, view),
                Answer::LookUpSegments(read, query) => {
                    effects.push(SessionEffect::PlanLookUp { request, read, query });
                }
            }
        }
        if pressed {
            self.send_backpressure();
        }
        self.advance(effects, now);
    }

    /// The result of a look-up on a reader thread.
    pub fn on_look_up_done(
        &mut self,
        request: u64,
        result: Result<(u64, u64, u64), ReadFailure>,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        self.on_looked_up(request, result.map_err(|failure| failure.code(view)), view);
        self.advance(effects, now);
    }

    fn on_looked_up(&mut self, request: u64, result: Result<(u64, u64, u64), ErrorCode>, view: &ClusterView) {
        let response = result.map(|(offset, record_number, timestamp)| {
            Response::LookupOffset(LookupOffsetResponse { offset, record_number, timestamp })
        });
        self.finish_control(request, view, |_| response.map_err(|code| (code, None)));
    }

    /// The metadata actor's answer.
    pub fn on_metadata(
        &mut self,
        request: u64,
        result: Result<MetadataAnswer, CallFailure>,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        if let Some(ReplySlot::Control { kind: ControlKind::Metadata(wanted), .. }) = self.slot_mut(request) {
            let wanted = wanted.clone();
            // Somebody else may have created it meanwhile; what cannot be created is reported as missing.
            let created = matches!(&result, Ok(_) | Err(CallFailure::Refused(MetadataRefusal::TopicExists { .. })));
            if created && let Some(next) = self.next_missing(&wanted, view) {
                return effects.push(SessionEffect::Metadata(request, next));
            }
            let visible = self.visible_metadata(view, &wanted);
            self.finish_control(request, view, |_| Ok(Response::Metadata(visible)));
            return self.advance(effects, now);
        }
        self.audit_outcome(request, || outcome_of(&result), effects);
        let mut bound = None;
        self.finish_control(request, view, |kind| match result {
            Ok(answer) => {
                if let MetadataAnswer::Producer { producer, epoch } = answer {
                    bound = Some(ProducerEpoch { id: producer, epoch });
                }
                metadata_response(kind, &answer, view)
            }
            Err(CallFailure::Refused(refusal)) => {
                let text = refusal.to_string();
                Err((refusal_code(&refusal), Some(text)))
            }
            Err(CallFailure::Failed(code, text)) => Err((code, Some(text))),
        });
        if bound.is_some() {
            self.producer = bound;
        }
        self.advance(effects, now);
    }

    /// The tee actor's answer.
    pub fn on_tee(
        &mut self,
        request: u64,
        result: Result<TeeReply, CallFailure>,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        self.finish_control(request, view, |_| match result {
            Ok(reply) => Ok(Response::TopicTee(reply)),
            Err(CallFailure::Refused(refusal)) => Err((refusal_code(&refusal), Some(refusal.to_string()))),
            Err(CallFailure::Failed(code, text)) => Err((code, Some(text))),
        });
        self.advance(effects, now);
    }

    /// An offset was stored, or not.
    pub fn on_committed(
        &mut self,
        request: u64,
        result: Result<(), ErrorCode>,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        if result == Err(ErrorCode::NotLeader)
            && self.features.is_none()
            && let Some(ReplySlot::Control { kind: ControlKind::Commit { partition, consumer_id, offset }, .. }) =
                self.slot_mut(request)
        {
            let commit = CommitOffset { partition: *partition, consumer_id: *consumer_id, offset: *offset };
            return effects.push(SessionEffect::ForwardCommit(request, commit));
        }
        self.finish_control(request, view, |kind| match (result, kind) {
            (Ok(()), ControlKind::Commit { consumer_id, offset, .. }) => {
                Ok(Response::CommitAck { consumer_id: *consumer_id, offset: *offset })
            }
            (Err(code), _) => Err((code, None)),
            (Ok(()), _) => Err((ErrorCode::Internal, None)),
        });
        self.advance(effects, now);
    }

    /// Where a consumer goes on.
    pub fn on_committed_offset(
        &mut self,
        request: u64,
        result: Result<Option<u64>, ErrorCode>,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        if result == Err(ErrorCode::NotLeader)
            && self.features.is_none()
            && let Some(ReplySlot::Control { kind: ControlKind::Subscribe { partition, consumer_id }, .. }) =
                self.slot_mut(request)
        {
            let asked = CommittedOffset { partition: *partition, consumer_id: *consumer_id };
            return effects.push(SessionEffect::ForwardCommitted(request, asked));
        }
        self.finish_control(request, view, |kind| match (result, kind) {
            (Ok(offset), ControlKind::Subscribe { consumer_id, .. }) => {
                Ok(Response::SubscribeAck { consumer_id: *consumer_id, offset: offset.unwrap_or(0) })
            }
            (Err(code), _) => Err((code, None)),
            (Ok(_), _) => Err((ErrorCode::Internal, None)),
        });
        self.advance(effects, now);
    }

    pub(super) fn finish_control(
        &mut self,
        request: u64,
        view: &ClusterView,
        respond: impl FnOnce(&ControlKind) -> Result<Response, (ErrorCode, Option<String>)>,
    ) {
        let Some(slot) = self.slot_mut(request) else { return };
        let ReplySlot::Control { correlation, command, kind } = slot else {
            return;
        };
        let response = respond(kind).unwrap_or_else(|(code, text)| {
            let answers = Answers::Control(*command);
            Response::Error(match text {
                Some(text) => TypedError::with_message(code, answers, text),
                None if code == ErrorCode::NotLeader => not_leader(view, asked_partition(kind, view), answers),
                None => TypedError::new(code, answers),
            })
        });
        let bytes = weight(&response);
        *slot = ReplySlot::ready(*correlation, response);
        self.waiting_bytes += bytes;
    }

    pub(super) fn write_reply(&mut self, slot: ReplySlot, now: Duration, effects: &mut Effects) {
        let features = self.features;
        match slot {
            ReplySlot::Produced(produce, Ok(produced)) => {
                let offsets = AckOffsets {
                    base_offset: produced.base_offset,
                    record_count: produced.record_count,
                    duplicate: produced.duplicate,
                };
                put_ack(&mut self.output.tail, produce.batch_id, &offsets, features.unwrap_or_default());
                effects.push(SessionEffect::ProduceDone(now.saturating_sub(produce.since)));
            }
            ReplySlot::Produced(produce, Err(code)) => {
                let error = TypedError::new(code, Answers::Ingest(produce.batch_id));
                ResponseFrame { correlation: 0, response: Response::Error(error) }
                    .encode(&mut self.output.tail, features);
            }
            ReplySlot::Ready(frame) => {
                self.waiting_bytes = self.waiting_bytes.saturating_sub(weight(&frame.response));
                frame.encode(&mut self.output.tail, features);
            }
            ReplySlot::Fetch(fetch) => self.write_fetch(*fetch, now, effects),
            ReplySlot::Produce(_) | ReplySlot::Control { .. } | ReplySlot::Nothing => {}
        }
    }
}

/// The partition whose leader serves a control request.
fn asked_partition(kind: &ControlKind, view: &ClusterView) -> Option<TopicPartition> {
    match kind {
        ControlKind::LookUp { partition, .. } => Some(*partition),
        ControlKind::Subscribe { .. } | ControlKind::Commit { .. } | ControlKind::Group => groups_partition(view),
        _ => None,
    }
}

fn metadata_response(
    kind: &ControlKind,
    answer: &MetadataAnswer,
    view: &ClusterView,
) -> Result<Response, (ErrorCode, Option<String>)> {
    let gone = (ErrorCode::TopicNotFound, None);
    let topic_id = match answer {
        MetadataAnswer::TopicCreated { topic }
        | MetadataAnswer::TopicDeleted { topic }
        | MetadataAnswer::TopicAltered { topic } => *topic,
        _ => TopicId(0),
    };
    match kind {
        ControlKind::CreateTopic { retention, .. } => {
            let mut body = view.topics.get(&topic_id).map(topic_body).ok_or(gone)?;
            body.max_age_secs = retention.map(|(age, _)| age);
            body.max_bytes = retention.map(|(_, bytes)| bytes);
            Ok(Response::Topic(to_json(&body).into()))
        }
        ControlKind::CreateTopicWithConfig => {
            configured(view, topic_id).map(Response::CreateTopicWithConfig).ok_or(gone)
        }
        ControlKind::AlterTopic => configured(view, topic_id).map(Response::AlterTopic).ok_or(gone),
        ControlKind::DeleteTopic => Ok(Response::Topic(to_json(&DeletedBody { deleted: topic_id.0 }).into())),
        ControlKind::SetRetention { max_age_secs, max_bytes } => {
            let body = RetentionBody { max_age_secs: *max_age_secs, max_bytes: *max_bytes, topic_id: topic_id.0 };
            Ok(Response::Topic(to_json(&body).into()))
        }
        ControlKind::InitProducer => match answer {
            MetadataAnswer::Producer { producer, epoch } => {
                Ok(Response::InitProducer(ProducerEpoch { id: *producer, epoch: *epoch }))
            }
            _ => Err((ErrorCode::Internal, None)),
        },
        ControlKind::ClusterCommand(_) => order_done(answer),
        ControlKind::Security { what } => Ok(Response::Security(SecurityReply::Done { what: *what })),
        ControlKind::Subscribe { .. }
        | ControlKind::Commit { .. }
        | ControlKind::DescribeCluster
        | ControlKind::Group
        | ControlKind::LookUp { .. }
        | ControlKind::TopicTee
        | ControlKind::Metadata(_) => Err((ErrorCode::Internal, None)),
    }
}

fn configured(view: &ClusterView, topic: TopicId) -> Option<TopicConfigured> {
    let topic = view.topics.get(&topic)?;
    Some(TopicConfigured {
        topic: topic.id,
        partitions: topic.config.partitions,
        replication_factor: topic.config.replication_factor,
        mode: mode_code(topic.config.mode),
    })
}

/// What the audit log says of an answer.
fn outcome_of(result: &Result<MetadataAnswer, CallFailure>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(CallFailure::Refused(refusal)) => refusal.to_string(),
        Err(CallFailure::Failed(_, text)) => text.clone(),
    }
}

/// The wire code of each refusal of the metadata.
pub fn refusal_code(refusal: &MetadataRefusal) -> ErrorCode {
    match refusal {
        MetadataRefusal::TopicNameRequired => ErrorCode::TopicNameRequired,
        MetadataRefusal::InvalidTopicName { .. } => ErrorCode::InvalidTopicName,
        MetadataRefusal::TopicExists { .. } => ErrorCode::TopicExists,
        MetadataRefusal::TopicNotFound { .. } => ErrorCode::TopicNotFound,
        MetadataRefusal::DefaultTopicStays
        | MetadataRefusal::NoPartitions
        | MetadataRefusal::FewerPartitions { .. }
        | MetadataRefusal::InvalidRegistration { .. }
        | MetadataRefusal::NodeNotFound { .. }
        | MetadataRefusal::NodeNotAllowed { .. }
        | MetadataRefusal::NodeExists { .. }
        | MetadataRefusal::NodeHoldsReplicas { .. }
        | MetadataRefusal::LastNode { .. }
        | MetadataRefusal::Partition { .. } => ErrorCode::InvalidRequest,
        // Raised by itself once every node runs a version that knows it, which is a moment after a cluster begins.
        MetadataRefusal::FeatureLevel { .. } => ErrorCode::Unavailable,
        MetadataRefusal::NotEnoughNodes { .. } => ErrorCode::NotEnoughReplicas,
        MetadataRefusal::TooManyPartitions { .. } | MetadataRefusal::IdsExhausted { .. } => ErrorCode::LimitReached,
        MetadataRefusal::TeeNotFound { .. }
        | MetadataRefusal::TeeExists { .. }
        | MetadataRefusal::TeeCycle { .. }
        | MetadataRefusal::InvalidTee { .. } => ErrorCode::InvalidRequest,
        MetadataRefusal::UserExists { .. }
        | MetadataRefusal::UserNotFound { .. }
        | MetadataRefusal::RuleNotFound
        | MetadataRefusal::InvalidSecurity { .. } => ErrorCode::InvalidRequest,
        MetadataRefusal::TooManyOf { .. } | MetadataRefusal::TooManyTees { .. } => ErrorCode::LimitReached,
        MetadataRefusal::ProducerFenced { .. } => ErrorCode::FencedProducer,
        MetadataRefusal::ProducerUnknown { .. } => ErrorCode::UnknownProducer,
        MetadataRefusal::RolledBack { .. }
        | MetadataRefusal::RetiredIncarnation { .. }
        | MetadataRefusal::AlreadyApplied { .. } => ErrorCode::Internal,
    }
}
