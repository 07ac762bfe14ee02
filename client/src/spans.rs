//! Spans of what the client does, by OpenTelemetry's global tracer provider: an application that sets one up sees them, and
//! the server's below them. Names and attributes follow the conventions for messaging.

use crate::error::ClientError;
use lance_messages::wire::group::JOIN_EPOCH;
use lance_messages::wire::{Request, TraceContext};
use opentelemetry::global::{self, BoxedSpan};
use opentelemetry::trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use std::fmt;

const TOPIC: &str = "messaging.destination.name";
const GROUP: &str = "messaging.consumer.group.name";

/// A span that is open; it ends when it is finished, or dropped.
pub(crate) struct ClientSpan {
    span: BoxedSpan,
    parent: SpanContext,
    context: TraceContext,
}

impl fmt::Debug for ClientSpan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ClientSpan").field("context", &self.context).finish_non_exhaustive()
    }
}

fn begin(
    operation: &'static str,
    kind: Option<&'static str>,
    span_kind: SpanKind,
    (attribute, name): (&'static str, &str),
) -> Option<ClientSpan> {
    let scope = InstrumentationScope::builder("lance-client").with_version(env!("CARGO_PKG_VERSION")).build();
    let tracer = global::tracer_with_scope(scope);
    let parent = Context::current();
    let mut span =
        tracer.span_builder(format!("{operation} {name}")).with_kind(span_kind).start_with_context(&tracer, &parent);
    let made = span.span_context();
    // Nobody has set a provider up: there is nothing to tell anybody.
    if !made.is_valid() {
        return None;
    }
    let context = TraceContext {
        trace_id: made.trace_id().to_bytes(),
        span_id: made.span_id().to_bytes(),
        flags: made.trace_flags().to_u8(),
    };
    if span.is_recording() {
        span.set_attribute(KeyValue::new("messaging.system", "lance"));
        span.set_attribute(KeyValue::new("messaging.operation.name", operation));
        span.set_attributes(kind.map(|kind| KeyValue::new("messaging.operation.type", kind)));
        span.set_attribute(KeyValue::new(attribute, name.to_owned()));
    }
    Some(ClientSpan { span, parent: parent.span().span_context().clone(), context })
}

impl ClientSpan {
    /// Of a batch, from its first record to its ack.
    pub(crate) fn send(topic: &str, partition: u16) -> Option<Self> {
        let mut span = begin("send", Some("send"), SpanKind::Producer, (TOPIC, topic))?;
        span.partition(partition);
        Some(span)
    }

    /// Of one question for records.
    pub(crate) fn poll(topic: &str, partition: Option<u16>, address: &str) -> Option<Self> {
        let mut span = begin("poll", Some("receive"), SpanKind::Client, (TOPIC, topic))?;
        partition.into_iter().for_each(|partition| span.partition(partition));
        span.server(address);
        Some(span)
    }

    /// Of a request to a group's coordinator that changes something: joining, leaving, a commit.
    pub(crate) fn group(request: &Request) -> Option<Self> {
        let (operation, kind, group) = match request {
            Request::GroupHeartbeat(beat) if beat.epoch == JOIN_EPOCH => ("join", None, &beat.group),
            Request::GroupHeartbeat(beat) if beat.epoch < JOIN_EPOCH => ("leave", None, &beat.group),
            Request::GroupCommit(commit) => ("commit", Some("settle"), &commit.group),
            _ => return None,
        };
        begin(operation, kind, SpanKind::Client, (GROUP, group))
    }

    fn partition(&mut self, partition: u16) {
        self.set("messaging.destination.partition.id", partition.to_string());
    }

    fn set(&mut self, name: &'static str, value: impl Into<opentelemetry::Value>) {
        if self.span.is_recording() {
            self.span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// What the server is told.
    pub(crate) fn context(&self) -> TraceContext {
        self.context
    }

    /// Another record joined the batch, perhaps on behalf of another span than the first.
    pub(crate) fn join(&mut self) {
        if self.span.is_recording() {
            let other = Context::map_current(|current| current.span().span_context().clone());
            if other.is_valid() && other != self.parent {
                self.span.add_link(other, Vec::new());
            }
        }
    }

    /// Who is asked.
    pub(crate) fn server(&mut self, address: &str) {
        if let Some((host, port)) = address.rsplit_once(':') {
            self.set("server.address", host.to_owned());
            port.parse::<i64>().into_iter().for_each(|port| self.set("server.port", port));
        }
    }

    /// It is tried again.
    pub(crate) fn retry(&mut self, error: &ClientError) {
        if self.span.is_recording() {
            self.span.add_event("retry", vec![KeyValue::new("error.message", error.to_string())]);
        }
    }

    /// It is over.
    pub(crate) fn end(mut self) {
        self.span.end();
    }

    /// It is over, with so many records and bytes.
    pub(crate) fn finish(mut self, records: u64, bytes: u64) {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.set("messaging.batch.message_count", count(records));
        self.set("lance.batch.bytes", count(bytes));
        self.span.end();
    }

    /// It came to nothing.
    pub(crate) fn fail(mut self, error: &ClientError) {
        let kind = error.code().map_or_else(|| error.kind().to_owned(), |code| format!("{code:?}"));
        self.set("error.type", kind);
        self.span.set_status(Status::error(error.to_string()));
        self.span.end();
    }
}
