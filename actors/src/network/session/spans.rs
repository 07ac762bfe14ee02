//! The spans of one connection's traced requests, from the frame to the reply.

use super::lanes::RequestId;
use super::replies::ReplySlot;
use super::{Effects, SessionCore, SessionEffect};
use crate::stages::{GroupLabel, GroupOperation, ReadSource, Stage, StageError, StageSpan};
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::mail::ingestion::RequestTrace;
use lance_messages::wire::group::{JOIN_EPOCH, LEAVE_EPOCH, PAUSE_EPOCH};
use lance_messages::wire::{Request, Response, TraceContext};
use std::time::Duration;

/// Parts of a traced fetch whose stages are told.
const MAX_TRACED_PARTS: u16 = 8;

/// The spans of requests that are traced: mostly none.
#[derive(Debug, Default)]
pub(super) struct OpenSpans {
    /// Requests without a reply.
    requests: Vec<OpenSpan>,
    /// Replies that are being written.
    sending: Vec<Sending>,
}

#[derive(Clone, Copy, Debug)]
struct OpenSpan {
    request: RequestId,
    parent: TraceContext,
    own: TraceContext,
    since: Duration,
    stage: Stage,
    partition: Option<TopicPartition>,
    /// When its answer became known.
    answered_at: Option<Duration>,
    /// When a reader thread was asked, by part.
    reads_since: [Option<Duration>; MAX_TRACED_PARTS as usize],
}

#[derive(Clone, Copy, Debug)]
struct Sending {
    span: StageSpan,
    own: TraceContext,
    since: Duration,
    /// Bytes that will have been written to the socket when this is over.
    mark: u64,
}

impl OpenSpan {
    fn over(&self, stage: Stage, error: Option<StageError>) -> StageSpan {
        let Self { parent, own, since, partition, .. } = *self;
        StageSpan { parent, span_id: Some(own.span_id), stage, partition, started: since, ended: None, error }
    }
}

impl OpenSpans {
    /// What a traced produce request carries along.
    pub(super) fn produce_trace(&self, request: RequestId) -> Option<Box<RequestTrace>> {
        // A request is looked for right after its span was opened.
        let span = self.requests.last().filter(|span| span.request == request)?;
        Some(Box::new(RequestTrace { context: span.own, received_at: span.since }))
    }

    /// What a traced request of a group carries along.
    pub(super) fn group_trace(&self, request: u64) -> Option<RequestTrace> {
        let span = self.requests.iter().rev().find(|span| span.request.0 == request)?;
        Some(RequestTrace { context: span.own, received_at: span.since })
    }

    /// The span of one part of a fetch.
    pub(super) fn fetch_trace(&self, request: RequestId, part: u16) -> Option<TraceContext> {
        let told = part < MAX_TRACED_PARTS;
        self.requests.iter().rev().find(|span| told && span.request == request).map(|span| span.own)
    }

    /// An answer became known.
    pub(super) fn on_answer(&mut self, request: u64, known_at: Duration) {
        if let Some(span) = self.requests.iter_mut().find(|span| span.request.0 == request) {
            span.answered_at = Some(known_at);
        }
    }

    /// A reader thread is asked for a part of a fetch.
    pub(super) fn on_plan_wanted(&mut self, request: u64, part: u16, now: Duration) {
        let span = self.requests.iter_mut().find(|span| span.request.0 == request);
        if let Some(since) = span.and_then(|span| span.reads_since.get_mut(usize::from(part))) {
            *since = Some(now);
        }
    }

    /// A reader thread has answered.
    pub(super) fn on_planned(
        &self,
        request: u64,
        part: u16,
        (partition, bytes): (TopicPartition, u64),
        effects: &mut Effects,
    ) {
        let Some(span) = self.requests.iter().find(|span| span.request.0 == request) else { return };
        if let Some(Some(since)) = span.reads_since.get(usize::from(part)) {
            let stage = Stage::Read { source: ReadSource::Segments, bytes };
            effects.push(over(StageSpan::until_now(span.own, stage, partition, *since)));
        }
    }

    fn take(&mut self, request: RequestId) -> Option<OpenSpan> {
        let at = self.requests.iter().position(|span| span.request == request)?;
        Some(self.requests.remove(at))
    }
}

fn over(span: StageSpan) -> SessionEffect {
    SessionEffect::StageOver(Box::new(span))
}

/// Why a request failed, as its reply says.
fn error_of(slot: &ReplySlot) -> Option<StageError> {
    let code = match slot {
        ReplySlot::Produced(_, result) => result.err(),
        ReplySlot::Ready(frame) => match &frame.response {
            Response::Error(error) => Some(error.code),
            _ => None,
        },
        ReplySlot::Fetch(fetch) => fetch.parts.iter().find_map(|part| part.answer.and_then(|answer| answer.error)),
        _ => None,
    };
    code.map(StageError::Refused)
}

impl SessionCore {
    /// Opens the span of a request that is traced, before it has its reply slot.
    pub(super) fn open_span(
        &mut self,
        request: &Request,
        (partition, given): (u16, Option<TraceContext>),
        lane: usize,
        now: Duration,
    ) {
        let Some(traces) = self.limits.traces else { return };
        let whole = |topic: TopicId| Some(TopicPartition::new(topic, partition));
        let (stage, partition) = match request {
            Request::Produce(produce) => {
                let (records, bytes) = (produce.record_count, produce.records.len() as u32);
                (Stage::Publish { records, bytes }, whole(produce.topic))
            }
            Request::Fetch(fetch) => (Stage::Receive { partitions: 1, records: 0, bytes: 0 }, whole(fetch.topic)),
            Request::FetchPartitions(fetch) => {
                let partitions = u16::try_from(fetch.partitions.len()).unwrap_or(u16::MAX);
                let only = fetch.partitions.iter().next().filter(|_| partitions == 1);
                (Stage::Receive { partitions, records: 0, bytes: 0 }, only.map(|asked| asked.partition))
            }
            Request::GroupHeartbeat(heartbeat) => {
                let operation = match heartbeat.epoch {
                    JOIN_EPOCH => GroupOperation::Join,
                    LEAVE_EPOCH | PAUSE_EPOCH => GroupOperation::Leave,
                    // One every few seconds, mostly without news: only who sends it knows when it matters.
                    _ if given.is_none() => return,
                    _ => GroupOperation::Heartbeat,
                };
                (Stage::Group { operation, group: GroupLabel::new(&heartbeat.group) }, None)
            }
            Request::GroupCommit(commit) => {
                let group = GroupLabel::new(&commit.group);
                (Stage::Group { operation: GroupOperation::Commit, group }, None)
            }
            _ => return,
        };
        let request = self.lanes.next_id(lane);
        if let Some(place) = traces.place(given, self.id, request.0) {
            let (parent, own) = (place.parent, place.own);
            let (answered_at, reads_since) = (None, Default::default());
            let span = OpenSpan { request, parent, own, since: now, stage, partition, answered_at, reads_since };
            self.spans.requests.push(span);
        }
    }

    /// The request was taken, or left for later without a reply slot: then its span is opened again.
    pub(super) fn keep_span(&mut self, lane: usize) {
        let next = self.lanes.next_id(lane);
        self.spans.requests.pop_if(|span| span.request == next);
    }

    /// Whether no request is traced.
    pub(super) fn traces_nothing(&self) -> bool {
        self.spans.requests.is_empty()
    }

    /// Writes the reply to a request that may be traced, and ends its span, or has it end with the last byte.
    pub(super) fn write_traced_reply(
        &mut self,
        request: RequestId,
        slot: ReplySlot,
        now: Duration,
        effects: &mut Effects,
    ) {
        let Some(span) = self.spans.take(request) else {
            return self.write_reply(slot, now, effects);
        };
        let error = error_of(&slot);
        let stage = match (&slot, span.stage) {
            (ReplySlot::Fetch(fetch), Stage::Receive { partitions, .. }) => {
                let answers = fetch.parts.iter().filter_map(|part| part.answer);
                let counted = answers.fold((0u32, 0u64), |(records, bytes), answer| {
                    (records.saturating_add(answer.record_count), bytes + u64::from(answer.data_len))
                });
                Stage::Receive { partitions, records: counted.0, bytes: counted.1 }
            }
            (_, stage) => stage,
        };
        self.write_reply(slot, now, effects);
        let whole = span.over(stage, error);
        match stage {
            Stage::Receive { .. } => {
                let mark = self.output.mark();
                self.spans.sending.push(Sending { span: whole, own: span.own, since: now, mark });
            }
            _ => {
                if let Some(answered_at) = span.answered_at {
                    let ack = StageSpan { parent: span.own, span_id: None, stage: Stage::Ack, ..whole };
                    effects.push(over(StageSpan { started: answered_at, error: None, ..ack }));
                }
                effects.push(over(whole));
            }
        }
    }

    /// Whether a traced reply is being written: then [`Self::on_written`] is to be called.
    pub fn sends_traced(&self) -> bool {
        !self.spans.sending.is_empty()
    }

    /// Bytes went to the socket.
    pub fn on_written(&mut self, effects: &mut Effects) {
        let written = self.output.written_bytes();
        self.spans.sending.retain(|Sending { span, own, since, mark }| {
            if *mark > written {
                return true;
            }
            if let Stage::Receive { bytes, .. } = span.stage {
                let send = StageSpan { parent: *own, span_id: None, stage: Stage::Send { bytes }, ..*span };
                effects.push(over(StageSpan { started: *since, error: None, ..send }));
            }
            effects.push(over(*span));
            false
        });
    }

    /// The connection ends: nobody hears the rest.
    pub fn close_spans(&mut self, effects: &mut Effects) {
        let error = Some(StageError::Closed);
        effects.extend(self.spans.requests.drain(..).map(|span| over(span.over(span.stage, error))));
        effects.extend(self.spans.sending.drain(..).map(|sending| over(StageSpan { error, ..sending.span })));
    }
}
