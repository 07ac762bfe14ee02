//! Requests to the coordinator and their answers.

use super::actor::{CONNECTION, GroupActor, Stage as LogStage};
use super::core::{framed_batch, plain_commit};
use crate::ingestion::actor::IngestionActor;
use crate::mailbox::Mailbox;
use crate::stages::{GroupLabel, Stage, StageError, StageSpan};
use crate::supervision::shell::{fail, guarded};
use crate::telemetry::tracer;
use crate::view::ClusterView;
use actix::prelude::*;
use bytes::Bytes;
use lance_cluster::group::{GroupAnswer, GroupEffect, TopicCatalog};
use lance_messages::batch::BatchFlags;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::mail::group::{AskGroup, CommitOffset, CommittedOffset, GroupRequest};
use lance_messages::mail::ingestion::{Produce, ProduceRequest, RequestTrace};
use lance_messages::wire::group::{GroupCommit, GroupCommitted};
use lance_messages::wire::{Response, TraceContext};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A request that waits until the log is read.
pub(super) enum Held {
    Commit(CommitOffset, oneshot::Sender<Result<(), ErrorCode>>),
    Committed(CommittedOffset, oneshot::Sender<Result<Option<u64>, ErrorCode>>),
    Group(AskGroup, oneshot::Sender<Result<Response, ErrorCode>>),
}

/// Who waits for an answer of the coordinator.
pub(super) enum Waiting {
    Commit(oneshot::Sender<Result<(), ErrorCode>>),
    Group(oneshot::Sender<Result<Response, ErrorCode>>, Option<Coordination>),
}

/// A traced request that the coordinator has taken.
#[derive(Clone, Copy)]
pub(super) struct Coordination {
    /// The span of the request.
    parent: TraceContext,
    /// What the coordinator does for it.
    own: TraceContext,
    since: Duration,
    group: GroupLabel,
}

/// The topics that members may read: those that clients see.
pub(super) struct Catalog<'a>(pub(super) &'a ClusterView);

impl TopicCatalog for Catalog<'_> {
    fn version(&self) -> u64 {
        self.0.applied
    }

    fn topic(&self, name: &str) -> Option<(TopicId, u16)> {
        let topic = self.0.topic_by_name(name)?;
        Some((topic.id, u16::try_from(topic.partitions.len()).unwrap_or(u16::MAX)))
    }

    fn name(&self, topic: TopicId) -> Option<&str> {
        self.0.topics.get(&topic).map(|topic| topic.name.as_str())
    }
}

impl Held {
    /// Whether the log may have to take something for it.
    pub(super) fn is_write(&self) -> bool {
        match self {
            Self::Commit(..) => true,
            Self::Committed(..) => false,
            Self::Group(asked, _) => !matches!(asked.request, GroupRequest::Offsets(_) | GroupRequest::Describe(_)),
        }
    }

    pub(super) fn refuse(self, code: ErrorCode) {
        // The connection may be gone.
        match self {
            Self::Commit(_, answer) => _ = answer.send(Err(code)),
            Self::Committed(_, answer) => _ = answer.send(Err(code)),
            Self::Group(_, answer) => _ = answer.send(Err(code)),
        }
    }
}

impl GroupActor {
    /// Serves a request now, or once that is possible.
    pub(super) fn take(&mut self, request: Held, ctx: &mut Context<Self>) {
        if self.stage == LogStage::Empty {
            self.find_topic();
            match self.partition {
                Some(_) => self.load(0),
                None if request.is_write() => self.create_topic(ctx),
                None => {}
            }
        }
        if !self.keeps_offsets() {
            return request.refuse(ErrorCode::NotLeader);
        }
        let nothing_is_kept = self.stage == LogStage::Empty && !request.is_write();
        let holds = self.compaction.holds_commits() && request.is_write();
        if (self.stage == LogStage::Ready && !holds) || nothing_is_kept {
            self.serve(request, ctx);
        } else {
            self.held.push(request);
        }
    }

    pub(super) fn serve_held(&mut self, ctx: &mut Context<Self>) {
        for request in std::mem::take(&mut self.held) {
            self.serve(request, ctx);
        }
    }

    fn serve(&mut self, request: Held, ctx: &mut Context<Self>) {
        match request {
            Held::Committed(asked, answer) => {
                let found = self.core.as_ref().and_then(|core| core.committed(asked.partition, asked.consumer_id));
                // The connection may be gone; so below.
                let _ = answer.send(Ok(found));
            }
            Held::Commit(commit, answer) => {
                let CommitOffset { partition, consumer_id, offset } = commit;
                let token = self.wait(Waiting::Commit(answer));
                self.decide(ctx, |core, _, _, wall_ms, effects| {
                    let commit = plain_commit(partition, consumer_id, offset, wall_ms);
                    core.coordinator.on_plain_commit(token, commit, effects);
                });
            }
            Held::Group(asked, answer) => self.serve_group(asked, answer, ctx),
        }
    }

    fn serve_group(
        &mut self,
        asked: AskGroup,
        answer: oneshot::Sender<Result<Response, ErrorCode>>,
        ctx: &mut Context<Self>,
    ) {
        match asked.request {
            GroupRequest::Heartbeat(heartbeat) => {
                // Another node may coordinate by now and take partitions from members that only this one hears.
                if !self.leads_for_sure() {
                    _ = answer.send(Err(ErrorCode::Unavailable));
                    return;
                }
                let traced = self.coordination(asked.trace, &heartbeat.group);
                let token = self.wait(Waiting::Group(answer, traced));
                self.decide_traced(traced, ctx, |core, view, now, _, effects| {
                    let catalog = Catalog(view);
                    core.coordinator.on_heartbeat(token, &heartbeat, &asked.client, &catalog, now, effects);
                });
            }
            GroupRequest::Commit(commit) if self.commits_to_nowhere(&commit) => {
                _ = answer.send(Err(ErrorCode::UnknownPartition));
            }
            GroupRequest::Commit(commit) => {
                let traced = self.coordination(asked.trace, &commit.group);
                let token = self.wait(Waiting::Group(answer, traced));
                self.decide_traced(traced, ctx, |core, _, now, wall_ms, effects| {
                    core.coordinator.on_commit(token, &commit, now, wall_ms, effects);
                });
            }
            GroupRequest::Delete(name) => {
                let token = self.wait(Waiting::Group(answer, None));
                self.decide(ctx, |core, _, _, _, effects| core.coordinator.delete_group(token, &name, effects));
            }
            GroupRequest::Offsets(wanted) => {
                let found = self.core.as_ref().map(|core| core.group_offsets(&wanted)).unwrap_or_default();
                _ = answer.send(Ok(Response::GroupOffsets(found)));
            }
            GroupRequest::Describe(describe) => self.describe(describe, answer, ctx),
        }
    }

    /// A tool can name any partition; a member's are checked by what it was assigned.
    fn commits_to_nowhere(&self, commit: &GroupCommit) -> bool {
        let view = self.setup.view.load();
        let exists = |partition: TopicPartition| {
            let topic = view.topics.get(&partition.topic);
            topic.is_some_and(|topic| usize::from(partition.partition) < topic.partitions.len())
        };
        commit.member.is_empty() && !commit.offsets.iter().all(|offset| exists(offset.partition))
    }

    fn wait(&mut self, waiting: Waiting) -> u64 {
        self.next_token += 1;
        self.waiting.insert(self.next_token, waiting);
        self.next_token
    }

    fn coordination(&self, trace: Option<RequestTrace>, group: &str) -> Option<Coordination> {
        let parent = trace?.context;
        let (own, since) = (parent.child(self.next_token), self.setup.clock.now().elapsed);
        Some(Coordination { parent, own, since, group: GroupLabel::new(group) })
    }

    /// Runs the core inside the guard and carries out what it wants done.
    pub(super) fn decide(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut super::core::GroupCore, &ClusterView, Duration, u64, &mut Vec<GroupEffect>),
    ) {
        self.decide_traced(None, ctx, work);
    }

    fn decide_traced(
        &mut self,
        traced: Option<Coordination>,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut super::core::GroupCore, &ClusterView, Duration, u64, &mut Vec<GroupEffect>),
    ) {
        let now = self.setup.clock.now();
        let view = Arc::clone(&self.setup.view.load());
        let mut effects = Vec::new();
        let decided = guarded(self, ctx, |actor, _| -> Result<(), Infallible> {
            if let Some(core) = actor.core.as_mut() {
                work(core, &view, now.elapsed, now.wall_ns / 1_000_000, &mut effects);
            }
            Ok(())
        });
        if decided.is_some() {
            self.perform(effects, traced, ctx);
        }
    }

    pub(super) fn perform(&mut self, effects: Vec<GroupEffect>, traced: Option<Coordination>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                GroupEffect::Answer { token, answer } => self.answer(token, answer),
                GroupEffect::Append { append, records } => match framed_batch(&records) {
                    Ok(batch) => {
                        self.compaction.note_append();
                        let request = self.append_request(append, batch.bytes, batch.record_count);
                        let trace = traced.map(|Coordination { own: context, since: received_at, .. }| {
                            Box::new(RequestTrace { context, received_at })
                        });
                        self.outgoing.extend(request.map(|request| ProduceRequest { trace, ..request }));
                    }
                    Err(error) => return fail(self, ctx, format!("a record of __groups cannot be written: {error}")),
                },
            }
        }
        self.send_appends(ctx);
    }

    fn answer(&mut self, token: u64, answer: GroupAnswer) {
        let answer = match answer {
            GroupAnswer::Heartbeat(result) => result.map(Response::GroupHeartbeat),
            GroupAnswer::Commit(result) => result.map(|committed: GroupCommitted| Response::GroupCommit(committed)),
            GroupAnswer::Deleted(result) => result.map(|()| Response::DeleteGroup),
            GroupAnswer::Plain(result) => {
                if let Some(Waiting::Commit(waiting)) = self.waiting.remove(&token) {
                    _ = waiting.send(result);
                }
                return;
            }
        };
        if let Some(Waiting::Group(waiting, traced)) = self.waiting.remove(&token) {
            self.tell_coordinated(traced, answer.as_ref().err().copied());
            _ = waiting.send(answer);
        }
    }

    /// Nobody will answer those who wait.
    pub(super) fn refuse_waiting(&mut self, code: ErrorCode) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            // The connection may be gone.
            match waiting {
                Waiting::Commit(answer) => _ = answer.send(Err(code)),
                Waiting::Group(answer, traced) => {
                    self.tell_coordinated(traced, Some(code));
                    _ = answer.send(Err(code));
                }
            }
        }
    }

    fn tell_coordinated(&self, traced: Option<Coordination>, error: Option<ErrorCode>) {
        let (Some(tracer), Some(traced)) = (tracer(), traced) else { return };
        let Coordination { parent, own, since: started, group } = traced;
        let error = error.map(StageError::Refused);
        let (span_id, stage) = (Some(own.span_id), Stage::Coordinate { group });
        let span = StageSpan { parent, span_id, stage, partition: None, started, ended: None, error };
        tracer.record(Box::new(span), self.setup.clock.stamp(), None);
    }

    pub(super) fn append_request(&self, request: u64, records: Vec<u8>, record_count: u32) -> Option<ProduceRequest> {
        let records = Bytes::from(records);
        Some(ProduceRequest {
            request,
            partition: self.partition?,
            records_crc: crc32fast::hash(&records),
            plain_len: records.len() as u32,
            records,
            record_count,
            flags: BatchFlags::RECORDS,
            timestamp_ns: self.setup.clock.now().wall_ns,
            producer: None,
            at: None,
            trace: None,
        })
    }

    /// Sends what is to be appended, in order: what does not fit into the shard's mailbox is waited for.
    fn send_appends(&mut self, ctx: &mut Context<Self>) {
        if self.outgoing.is_empty() || self.sending {
            return;
        }
        let Some(shard) = self.groups_shard() else {
            self.outgoing.clear();
            return;
        };
        let message = Produce { connection: CONNECTION, requests: std::mem::take(&mut self.outgoing) };
        if let Err(SendError::Full(message)) = shard.try_send(message) {
            self.sending = true;
            let sent = actix::fut::wrap_future::<_, Self>(shard.send(message));
            ctx.spawn(sent.map(|_, actor, ctx| {
                actor.sending = false;
                actor.send_appends(ctx);
            }));
        }
    }

    pub(super) fn groups_shard(&self) -> Option<Mailbox<IngestionActor>> {
        self.shard(self.partition?).cloned()
    }
}
