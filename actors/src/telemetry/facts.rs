//! From a stage of a traced request to the span that is exported: names and attributes, after OpenTelemetry's conventions
//! for messaging.

use crate::ingestion::core::Now;
use crate::stages::epochs::{EpochCause, PromiseKind};
use crate::stages::{GroupLabel, GroupOperation, ReadSource, Stage, StageError, StageSpan};
use crate::view::ClusterView;
use arc_swap::ArcSwap;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use lance_messages::wire::TraceContext;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SpanData};
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who instruments.
pub const SCOPE: &str = "lance";

/// What is known of the client of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFacts {
    /// Its address.
    pub peer: Option<std::net::SocketAddr>,
    /// What it calls itself.
    pub client: Option<String>,
}

/// The names behind the numbers, once the node knows them.
#[derive(Debug, Default)]
pub struct Naming {
    view: OnceLock<Arc<ArcSwap<ClusterView>>>,
    node: OnceLock<NodeId>,
}

impl Naming {
    /// From now on names are those of this node's view.
    pub fn learn(&self, node: NodeId, view: Arc<ArcSwap<ClusterView>>) {
        // One node a process: the first stays.
        let _ = (self.node.set(node), self.view.set(view));
    }

    /// The name of a topic; its number where it has none any more.
    pub fn topic(&self, partition: TopicPartition) -> String {
        let view = self.view.get().map(|view| view.load());
        let topic = view.as_ref().and_then(|view| view.any_topic(partition.topic));
        topic.map_or_else(|| partition.topic.0.to_string(), |topic| topic.name.clone())
    }

    fn address(&self, node: NodeId) -> Option<String> {
        self.view.get()?.load().address(node).map(str::to_owned)
    }
}

/// A context as the SDK has it.
pub fn span_context(context: &TraceContext, is_remote: bool) -> SpanContext {
    let (trace, span) = (TraceId::from_bytes(context.trace_id), SpanId::from_bytes(context.span_id));
    SpanContext::new(trace, span, TraceFlags::new(context.flags), is_remote, TraceState::default())
}

/// The instrumentation scope of every span.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build()
}

fn text(name: &'static str, value: impl Into<Cow<'static, str>>) -> KeyValue {
    KeyValue::new(name, value.into())
}

fn number(name: &'static str, value: u64) -> KeyValue {
    KeyValue::new(name, i64::try_from(value).unwrap_or(i64::MAX))
}

/// `host:port` as the two attributes.
pub fn server(address: &str) -> Vec<KeyValue> {
    match address.rsplit_once(':') {
        Some((host, port)) => {
            let host = text("server.address", host.to_owned());
            let port = port.parse().ok().map(|port| number("server.port", port));
            std::iter::once(host).chain(port).collect()
        }
        None => vec![text("server.address", address.to_owned())],
    }
}

/// From the time since the process started to that of the world. Both clocks are read with every stage, a little apart: they
/// are laid over each other anew only where one of them was changed, so that stages stay in order.
#[derive(Debug, Default)]
pub(super) struct WallClock {
    /// Nanoseconds since the Unix epoch at which the process started.
    origin_ns: Option<u64>,
}

impl WallClock {
    /// Two readings may be this far apart.
    const TOLERANCE_NS: u64 = 20_000;

    pub(super) fn set(&mut self, now: Now) {
        let origin_ns = now.wall_ns.saturating_sub(u64::try_from(now.elapsed.as_nanos()).unwrap_or(u64::MAX));
        if self.origin_ns.is_none_or(|known| known.abs_diff(origin_ns) > Self::TOLERANCE_NS) {
            self.origin_ns = Some(origin_ns);
        }
    }

    fn time(&self, elapsed: Duration) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.origin_ns.unwrap_or(0)) + elapsed
    }
}

struct Description {
    name: Cow<'static, str>,
    kind: SpanKind,
    actor: &'static str,
    attributes: Vec<KeyValue>,
}

fn operation(name: &'static str, kind: &'static str) -> [KeyValue; 2] {
    [text("messaging.operation.name", name), text("messaging.operation.type", kind)]
}

fn describe(stage: Stage, topic: Option<&str>, naming: &Naming) -> Description {
    let named = |operation: &'static str| match topic {
        Some(topic) => Cow::Owned(format!("{operation} {topic}")),
        None => Cow::Borrowed(operation),
    };
    let inner = |name: &'static str, actor, attributes| Description {
        name: Cow::Borrowed(name),
        kind: SpanKind::Internal,
        actor,
        attributes,
    };
    let (count, bytes) = ("messaging.batch.message_count", "lance.batch.bytes");
    match stage {
        Stage::Publish { records, bytes: payload } => {
            let mut attributes = operation("publish", "send").to_vec();
            attributes.extend([number(count, records.into()), number(bytes, payload.into())]);
            Description { name: named("publish"), kind: SpanKind::Server, actor: "network", attributes }
        }
        Stage::Receive { partitions, records, bytes: data } => {
            let mut attributes = operation("receive", "receive").to_vec();
            attributes.extend([number(count, records.into()), number(bytes, data)]);
            attributes.push(number("lance.fetch.partitions", partitions.into()));
            Description { name: named("receive"), kind: SpanKind::Server, actor: "network", attributes }
        }
        Stage::Append { records, bytes: stored, offset, duplicate } => {
            let mut attributes = vec![number(count, records.into()), number(bytes, stored.into())];
            attributes.push(KeyValue::new("lance.duplicate", duplicate));
            attributes.extend((offset != u64::MAX).then(|| number("lance.offset", offset)));
            inner("append", "ingestion", attributes)
        }
        Stage::Group { operation, group } => describe_group(operation, group),
        Stage::Coordinate { group } => inner("coordinate", "group", vec![consumer_group(group)]),
        Stage::Queue => inner("queue", "poller", Vec::new()),
        Stage::Write { with_sync } => {
            inner("write", "poller", vec![KeyValue::new("lance.disk.write_with_sync", with_sync)])
        }
        Stage::Sync { with_write } => {
            inner("sync", "poller", vec![KeyValue::new("lance.disk.write_with_sync", with_write)])
        }
        Stage::Replicate { to } => {
            let mut attributes = vec![number("lance.follower", to.0.into())];
            attributes.extend(naming.address(to).iter().flat_map(|address| server(address)));
            Description { name: Cow::Borrowed("replicate"), kind: SpanKind::Client, actor: "replication", attributes }
        }
        Stage::AppendReplica { bytes: stored } => {
            let attributes = vec![number(bytes, stored)];
            Description { name: Cow::Borrowed("append"), kind: SpanKind::Server, actor: "replication", attributes }
        }
        Stage::Quorum => inner("quorum", "replication", Vec::new()),
        Stage::Ack => inner("ack", "network", Vec::new()),
        Stage::Wait => inner("wait", "ingestion", Vec::new()),
        Stage::Read { source, bytes: data } => {
            let (actor, source) = match source {
                ReadSource::Memory => ("ingestion", "memory"),
                ReadSource::Segments => ("network", "segments"),
            };
            inner("read", actor, vec![text("lance.read.source", source), number(bytes, data)])
        }
        Stage::Send { bytes: data } => inner("send", "network", vec![number(bytes, data)]),
        Stage::Election { .. } | Stage::Promise { .. } | Stage::Epoch { .. } | Stage::MetadataElection { .. } => {
            let (name, actor, attributes) = describe_epoch(stage);
            inner(name, actor, attributes)
        }
    }
}

fn consumer_group(group: GroupLabel) -> KeyValue {
    text("messaging.consumer.group.name", group.as_str().to_owned())
}

fn describe_group(operation: GroupOperation, group: GroupLabel) -> Description {
    let (operation, kind) = match operation {
        GroupOperation::Join => ("join", None),
        GroupOperation::Heartbeat => ("heartbeat", None),
        GroupOperation::Leave => ("leave", None),
        GroupOperation::Commit => ("commit", Some("settle")),
    };
    let mut attributes = vec![text("messaging.operation.name", operation), consumer_group(group)];
    attributes.extend(kind.map(|kind| text("messaging.operation.type", kind)));
    let name = Cow::Owned(format!("{operation} {}", group.as_str()));
    Description { name, kind: SpanKind::Server, actor: "network", attributes }
}

/// The stages of a failover.
fn describe_epoch(stage: Stage) -> (&'static str, &'static str, Vec<KeyValue>) {
    let numbered = |epoch: LeaderEpoch| number("lance.epoch", epoch.0.into());
    match stage {
        Stage::Election { epoch, leader, before, cause } => {
            let cause = match cause {
                EpochCause::Created => "created",
                EpochCause::LeaderGone => "leader-gone",
                EpochCause::Requested => "requested",
            };
            let mut attributes = vec![numbered(epoch), number("lance.leader", leader.0.into())];
            attributes.push(text("lance.election.cause", cause));
            attributes.extend(before.map(|node| number("lance.leader.before", node.0.into())));
            ("election", "metadata", attributes)
        }
        Stage::Promise { epoch, kind, durable_end } => {
            let kind = match kind {
                PromiseKind::Clean => "clean",
                PromiseKind::Unclean => "unclean",
                PromiseKind::Refused => "refused",
            };
            let mut attributes = vec![numbered(epoch), text("lance.promise", kind)];
            attributes.extend(durable_end.map(|end| number("lance.log.durable_end", end)));
            ("promise", "replication", attributes)
        }
        Stage::Epoch { epoch, serves } => {
            let attributes = vec![numbered(epoch), KeyValue::new("lance.serves", serves)];
            ("epoch", "replication", attributes)
        }
        Stage::MetadataElection { term, leader } => {
            let attributes = vec![number("lance.metadata.term", term), number("lance.leader", leader.0.into())];
            ("metadata election", "metadata", attributes)
        }
        _ => ("", "", Vec::new()),
    }
}

fn status(error: Option<StageError>) -> (Status, Option<KeyValue>) {
    let (kind, sentence): (Cow<'static, str>, &str) = match error {
        None => return (Status::Unset, None),
        Some(StageError::Refused(code)) => (format!("{code:?}").into(), code.text()),
        Some(StageError::Closed) => ("ConnectionClosed".into(), "the connection ended first"),
        Some(StageError::TimedOut) => ("TimedOut".into(), "nothing was heard of it again"),
    };
    (Status::error(sentence.to_owned()), Some(text("error.type", kind)))
}

/// The span of a stage that was told of at `now`.
pub(super) fn span_data(
    stage: &StageSpan,
    now: Duration,
    facts: Option<&RequestFacts>,
    naming: &Naming,
    clock: &WallClock,
) -> SpanData {
    let topic = stage.partition.map(|partition| naming.topic(partition));
    let Description { name, kind, actor, mut attributes } = describe(stage.stage, topic.as_deref(), naming);
    attributes.extend([text("messaging.system", "lance"), text("lance.actor", actor)]);
    attributes.extend(naming.node.get().map(|node| number("lance.node", node.0.into())));
    if let (Some(partition), Some(topic)) = (stage.partition, topic) {
        attributes.push(text("messaging.destination.name", topic));
        attributes.push(text("messaging.destination.partition.id", partition.partition.to_string()));
    }
    if let Some(facts) = facts.filter(|_| kind == SpanKind::Server) {
        attributes.extend(facts.peer.iter().flat_map(|peer| {
            [text("client.address", peer.ip().to_string()), number("client.port", peer.port().into())]
        }));
        attributes.extend(facts.client.clone().map(|client| text("messaging.client.id", client)));
        let own = naming.node.get().and_then(|node| naming.address(*node));
        attributes.extend(own.iter().flat_map(|address| server(address)));
    }
    let (status, error) = status(stage.error);
    attributes.extend(error);
    let span_id = stage.span_id.map_or_else(|| RandomIdGenerator::default().new_span_id(), SpanId::from_bytes);
    let own = TraceContext { span_id: span_id.to_bytes(), ..stage.parent };
    SpanData {
        span_context: span_context(&TraceContext { flags: own.flags | TraceContext::SAMPLED, ..own }, false),
        parent_span_id: SpanId::from_bytes(stage.parent.span_id),
        parent_span_is_remote: kind == SpanKind::Server,
        span_kind: kind,
        name,
        start_time: clock.time(stage.started),
        end_time: clock.time(stage.ended.unwrap_or(now).max(stage.started)),
        attributes,
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status,
        instrumentation_scope: scope(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::error_code::ErrorCode;
    use lance_messages::id::TopicId;

    const PARENT: TraceContext = TraceContext { trace_id: [1; 16], span_id: [2; 8], flags: 1 };
    const PARTITION: TopicPartition = TopicPartition::new(TopicId(7), 3);

    fn attribute(span: &SpanData, name: &str) -> Option<String> {
        span.attributes.iter().find(|pair| pair.key.as_str() == name).map(|pair| pair.value.to_string())
    }

    #[test]
    fn a_stage_becomes_a_span_with_its_times_its_parent_and_its_names() {
        let stage = Stage::Publish { records: 5, bytes: 100 };
        let mut told = StageSpan::until_now(PARENT, stage, PARTITION, Duration::from_millis(700));
        told.span_id = Some([9; 8]);
        let now = Duration::from_millis(1000);
        let mut clock = WallClock::default();
        clock.set(Now { wall_ns: 5_000_000_000, elapsed: now });
        // Read a little apart, which changes nothing.
        clock.set(Now { wall_ns: 6_000_001_000, elapsed: now * 2 });
        let facts = RequestFacts { peer: Some(([10, 0, 0, 1], 99).into()), client: Some("app".to_owned()) };
        let span = span_data(&told, now, Some(&facts), &Naming::default(), &clock);
        assert_eq!(span.name, "publish 7", "a topic without a name is its number");
        assert_eq!((span.span_kind.clone(), span.parent_span_id), (SpanKind::Server, SpanId::from_bytes([2; 8])));
        assert_eq!(span.span_context.span_id(), SpanId::from_bytes([9; 8]));
        assert_eq!(span.start_time, UNIX_EPOCH + Duration::from_millis(4700));
        assert_eq!(span.end_time, UNIX_EPOCH + Duration::from_millis(5000));
        // Somebody set the clock.
        clock.set(Now { wall_ns: 9_000_000_000, elapsed: now });
        let span = span_data(&told, now, Some(&facts), &Naming::default(), &clock);
        assert_eq!(span.end_time, UNIX_EPOCH + Duration::from_millis(9000));
        for (name, value) in [
            ("messaging.system", "lance"),
            ("messaging.operation.name", "publish"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.partition.id", "3"),
            ("messaging.batch.message_count", "5"),
            ("messaging.client.id", "app"),
            ("client.address", "10.0.0.1"),
            ("client.port", "99"),
        ] {
            assert_eq!(attribute(&span, name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(span.status, Status::Unset);
    }

    #[test]
    fn a_refusal_is_an_error_with_its_code() {
        let told = StageSpan {
            error: Some(StageError::Refused(ErrorCode::NotLeader)),
            ..StageSpan::until_now(PARENT, Stage::Quorum, PARTITION, Duration::ZERO)
        };
        let span = span_data(&told, Duration::ZERO, None, &Naming::default(), &WallClock::default());
        assert_eq!(attribute(&span, "error.type").as_deref(), Some("NotLeader"));
        assert!(matches!(span.status, Status::Error { .. }));
        assert!(span.span_context.is_valid() && span.span_context.is_sampled());
    }

    #[test]
    fn addresses_are_told_in_two() {
        let pairs = |address| -> Vec<String> { server(address).iter().map(|pair| pair.value.to_string()).collect() };
        assert_eq!(pairs("n1:9000"), ["n1", "9000"]);
        assert_eq!(pairs("[::1]:9000"), ["[::1]", "9000"]);
        assert_eq!(pairs("n1"), ["n1"]);
    }
}
