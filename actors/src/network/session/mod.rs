//! `SessionCore`: one connection's side of the protocol. Frames come in, requests to other actors and bytes for
//! the socket go out; no socket, clock or thread inside.

pub mod access;
pub mod answers;
mod cluster;
mod control;
mod fetching;
mod groups;
pub mod lanes;
pub mod output;
mod producing;
pub mod replies;
pub mod rights;
pub mod routing;
mod security;
mod spans;

use self::access::{Access, AuditLine, AuthGate, Identity};
use self::lanes::{CONTROL_LANE, INGEST_LANE, Lanes, RequestId};
use self::output::Output;
use self::replies::{ControlKind, ReplySlot};
use self::spans::OpenSpans;
use crate::network::readers::SegmentRead;
use crate::stages::{RequestTraces, StageSpan};
use crate::view::ClusterView;
use bytes::BytesMut;
use hashbrown::HashMap;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, NodeId, TopicId, TopicPartition};
use lance_messages::mail::group::{AskGroup, CommitOffset, CommittedOffset};
use lance_messages::mail::ingestion::{CancelWait, Fetch, LookUpOffset, OffsetQuery, ProduceRequest};
use lance_messages::wire::hello::ProducerEpoch;
use lance_messages::wire::tee::TeeRequest;
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{
    Features, Frame, FrameError, FrameLimits, Request, RequestFrame, Response, ResponseFrame, next_frame,
};
use std::sync::Arc;
use std::time::Duration;

pub use self::control::MetadataCall;

/// Features this server grants.
pub const GRANTED_FEATURES: Features = Features(
    Features::PARTITIONS.0
        | Features::HEADER_CRC.0
        | Features::TYPED_ERRORS.0
        | Features::ACK_OFFSETS.0
        | Features::TRACE_CONTEXT.0
        | Features::IDEMPOTENT.0
        | Features::LONG_POLL.0
        | Features::LOOKUP.0
        | Features::METADATA.0
        | Features::COMPRESSED_INGEST.0
        | Features::CLUSTER.0
        | Features::STORED_BATCHES.0
        | Features::GROUPS.0
        | Features::TEE.0
        | Features::SECURITY.0
        | Features::SCRAM.0,
);

/// Fetches of one connection that may be under way together; more are not read from the socket.
const MAX_FETCHES: usize = 2;
/// Replies to the parts of all fetches of one connection that may be under way together.
pub const MAX_PART_REPLIES: usize = MAX_FETCHES * fetching::MAX_PARTS;
/// Reply bytes in memory above which nothing more is read from the socket.
const MAX_OUTPUT_BYTES: usize = 512 * 1024;
/// Number given to the one metadata call that belongs to no reply slot: creating the default topic.
pub const DEFAULT_TOPIC_REQUEST: u64 = u64::MAX;

/// What one connection may do.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Largest payload of a frame.
    pub max_payload_bytes: u32,
    /// Longest record that is stored, its header included.
    pub max_record_bytes: u32,
    /// Produce payload bytes that may wait for their acks.
    pub max_in_flight_bytes: usize,
    /// Requests that may wait for their replies.
    pub max_requests: usize,
    /// Most data bytes of a fetch.
    pub max_fetch_bytes: u32,
    /// Longest time a fetch waits for data.
    pub max_fetch_wait: Duration,
    /// Whether a missing topic is created for clients that ask for that.
    pub auto_create: bool,
    /// Number of shards of the node.
    pub shards: u16,
    /// This node.
    pub node: NodeId,
    /// Which requests are traced; `None`: none is.
    pub traces: Option<RequestTraces>,
}

/// What a session wants done.
#[derive(Debug)]
pub enum SessionEffect {
    /// Append a batch. A shard's index, or the one beyond them, which is the forwarder's; so with a fetch.
    Produce(u16, ProduceRequest),
    /// Read.
    Fetch(u16, Fetch),
    /// Stop waiting.
    CancelWait(u16, CancelWait),
    /// Look an offset up.
    LookUp(u16, LookUpOffset),
    /// Ask the metadata actor.
    Metadata(u64, MetadataCall),
    /// Ask every shard how its partitions stand.
    Describe(u64),
    /// Ask the tee actor.
    Tee(u64, TeeRequest),
    /// Store an offset.
    Commit(u64, CommitOffset),
    /// Ask for a stored offset.
    Committed(u64, CommittedOffset),
    /// The client said what it calls itself.
    Named(Arc<str>),
    /// It is known, or not known any more, whose connection it is.
    Identified(Identity),
    /// Something for the audit log.
    Audit(AuditLine),
    /// Ask the coordinator of consumer groups.
    Group(u64, AskGroup),
    /// Store an offset on the node that keeps them.
    ForwardCommit(u64, CommitOffset),
    /// Ask the node that keeps them for a stored offset.
    ForwardCommitted(u64, CommittedOffset),
    /// Plan a read of segments on a reader thread.
    Plan {
        /// The request.
        request: u64,
        /// Which of its parts.
        part: u16,
        /// Where to read.
        read: SegmentRead,
        /// First byte wanted.
        offset: u64,
        /// Most data bytes.
        max_bytes: u32,
        /// Whether whole batches are wanted, as they are stored.
        stored: bool,
    },
    /// Look an offset up in segments on a reader thread.
    PlanLookUp {
        /// The request.
        request: u64,
        /// Where to look.
        read: SegmentRead,
        /// What to look for.
        query: OffsetQuery,
    },
    /// A produce request was answered after this time.
    ProduceDone(Duration),
    /// A fetch was answered after this time, with this many data bytes.
    FetchDone(Option<Duration>, u64),
    /// Close the connection once everything is written.
    Close(FrameError),
    /// A stage of a traced request is over.
    StageOver(Box<StageSpan>),
}

type Effects = Vec<SessionEffect>;

/// The protocol state of one connection.
pub struct SessionCore {
    id: ConnectionId,
    limits: SessionLimits,
    features: Option<Features>,
    /// What the client calls itself, from its Hello on.
    client_name: Arc<str>,
    producer: Option<ProducerEpoch>,
    access: Access,
    lanes: Lanes<ReplySlot>,
    /// What is to be written.
    pub output: Output,
    in_flight_bytes: usize,
    /// Batches that the forwarder has not answered, by partition.
    forwarded: HashMap<TopicPartition, u32>,
    /// Bytes of large replies that wait for their turn.
    waiting_bytes: usize,
    fetches: usize,
    blocked: Option<Frame>,
    closing: bool,
    draining: bool,
    pressed: bool,
    tight: bool,
    throttled: bool,
    spans: OpenSpans,
}

/// Whether a request can only be answered by who knows the topics.
fn needs_metadata(request: &Request) -> bool {
    !matches!(
        request,
        Request::Ignored
            | Request::Keepalive
            | Request::Hello(_)
            | Request::Authenticate { .. }
            | Request::ScramStep(_)
            | Request::GetClusterStatus
    )
}

/// Which shard owns a partition.
pub fn shard_of(partition: TopicPartition, shards: u16) -> u16 {
    let mixed =
        (u64::from(partition.topic.0) << 16 | u64::from(partition.partition)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed >> 32) % u64::from(shards.max(1))) as u16
}

impl SessionCore {
    /// The session of a new connection.
    pub fn new(id: ConnectionId, limits: SessionLimits) -> Self {
        Self {
            id,
            limits,
            features: None,
            client_name: Arc::from(""),
            producer: None,
            access: Access::default(),
            lanes: Lanes::default(),
            output: Output::default(),
            in_flight_bytes: 0,
            forwarded: HashMap::new(),
            waiting_bytes: 0,
            fetches: 0,
            blocked: None,
            closing: false,
            draining: false,
            pressed: false,
            tight: false,
            throttled: false,
            spans: OpenSpans::default(),
        }
    }

    /// The same session, held to what its client may do; `certificate` is the name in the client's certificate.
    #[must_use]
    pub fn guarded_by(self, gate: Option<Arc<AuthGate>>, certificate: Option<Arc<str>>) -> Self {
        Self { access: Access::new(gate, certificate), ..self }
    }

    /// Whether the client said Hello: only then it is sent frames it did not ask for.
    pub fn said_hello(&self) -> bool {
        self.features.is_some()
    }

    /// What the client calls itself, where requests are traced.
    pub fn client_name(&self) -> Option<&str> {
        (!self.client_name.is_empty()).then_some(&*self.client_name)
    }

    /// Whether more may be read from the socket: backpressure is not reading.
    pub fn wants_input(&self) -> bool {
        !self.closing
            && !self.throttled
            && self.blocked.is_none()
            && self.in_flight_bytes < self.limits.max_in_flight_bytes
            && self.lanes.len() < self.limits.max_requests
            && self.fetches < MAX_FETCHES
            && self.output.memory_bytes() + self.waiting_bytes < MAX_OUTPUT_BYTES
            && !(self.tight && (self.fetches > 0 || !self.output.is_empty()))
    }

    /// Whether the node holds so much for slow readers that each is given one thing at a time.
    pub fn set_tight(&mut self, tight: bool) {
        self.tight = tight;
    }

    /// Whether the client has moved more than its quota and is not read from for a while. It hears of it, so that it
    /// knows that the connection lives.
    pub fn set_throttled(&mut self, throttled: bool) {
        self.throttled = throttled;
        if throttled {
            self.send_backpressure();
        }
    }

    /// Whether everything asked for was answered.
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty() && self.output.is_empty()
    }

    /// Whether the connection is to be closed once its output is written.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// From now on, new produce requests are refused with a retriable error.
    ///
    /// Fetches that wait for records are answered with what there is.
    pub fn on_drain(&mut self, effects: &mut Effects) {
        self.draining = true;
        self.end_waits(effects);
    }

    /// Fetches that wait for records are answered with what there is.
    pub fn end_waits(&mut self, effects: &mut Effects) {
        let connection = self.id;
        for (request, slot) in self.lanes.iter_mut() {
            let ReplySlot::Fetch(fetch) = slot else { continue };
            if !fetch.may_wait || std::mem::replace(&mut fetch.cancelled, true) {
                continue;
            }
            for part in fetch.parts.iter().filter(|part| part.answer.is_none()) {
                let Some(shard) = part.waiting_for else { continue };
                let cancel = CancelWait { connection, request: request.0, partition: part.partition };
                effects.push(SessionEffect::CancelWait(shard, cancel));
            }
        }
    }

    /// Sends a keepalive to a client that said Hello.
    pub fn keepalive(&mut self) {
        if let Some(features) = self.features {
            ResponseFrame { correlation: 0, response: Response::Keepalive }
                .encode(&mut self.output.tail, Some(features));
        }
    }

    /// Takes whole frames out of `input` as long as more may be read.
    pub fn on_input(&mut self, input: &mut BytesMut, view: &ClusterView, now: Duration, effects: &mut Effects) {
        while self.wants_input() {
            let features = self.features.unwrap_or_default();
            let limits =
                FrameLimits { max_payload_bytes: self.limits.max_payload_bytes, header_crc: features.header_crc() };
            match next_frame(input, &limits) {
                Ok(Some(frame)) => self.on_frame(frame, view, now, effects),
                Ok(None) => break,
                Err(error) => {
                    self.on_bad_frame(error, effects);
                    break;
                }
            }
        }
        self.note_pressure();
        self.advance(effects, now);
    }

    /// Tells a client with Hello, once an episode, that it has more in flight than it was granted.
    fn note_pressure(&mut self) {
        let pressed = self.in_flight_bytes >= self.limits.max_in_flight_bytes;
        if pressed && !self.pressed {
            self.send_backpressure();
        }
        self.pressed = pressed;
    }

    fn send_backpressure(&mut self) {
        if let Some(features) = self.features {
            let frame = ResponseFrame { correlation: 0, response: Response::Backpressure };
            frame.encode(&mut self.output.tail, Some(features));
        }
    }

    fn on_bad_frame(&mut self, error: FrameError, effects: &mut Effects) {
        let refusal = TypedError::with_message(ErrorCode::MalformedFrame, Answers::Control(0), error.to_string());
        // In order behind everything asked for before, so that acks are not lost.
        self.lanes.reserve(INGEST_LANE, ReplySlot::ready(0, Response::Error(refusal)));
        self.closing = true;
        effects.push(SessionEffect::Close(error));
    }

    fn control_lane(&self) -> usize {
        if self.features.is_some() { CONTROL_LANE } else { INGEST_LANE }
    }

    /// One frame of the client.
    fn on_frame(&mut self, frame: Frame, view: &ClusterView, now: Duration, effects: &mut Effects) {
        let kept = frame.clone();
        let RequestFrame { correlation, partition, trace, request } = match RequestFrame::decode(frame, self.features) {
            Ok(request) => request,
            Err(refused) => {
                let lane = match refused.error.answers {
                    Answers::Ingest(_) => INGEST_LANE,
                    Answers::Control(_) => self.control_lane(),
                };
                self.lanes.reserve(lane, ReplySlot::ready(refused.correlation, Response::Error(refused.error)));
                return;
            }
        };
        if !view.is_known() && (needs_metadata(&request) || self.access.needs_users(&request)) {
            let starting = "The server is starting: try again";
            return self.refuse(&request, correlation, kept.header.command(), ErrorCode::Unavailable, starting);
        }
        if let Err(code) = self.access.check(&request, view) {
            self.audit_denial(&request, code, view, effects);
            return self.refuse(&request, correlation, kept.header.command(), code, code.text());
        }
        if self.limits.traces.is_none() {
            return self.on_request(request, (correlation, partition), kept, view, now, effects);
        }
        let lane = if matches!(request, Request::Produce(_)) { INGEST_LANE } else { self.control_lane() };
        self.open_span(&request, (partition, trace), lane, now);
        self.on_request(request, (correlation, partition), kept, view, now, effects);
        self.keep_span(lane);
    }

    fn on_request(
        &mut self,
        request: Request,
        (correlation, partition): (u64, u16),
        kept: Frame,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        match request {
            Request::Ignored => {}
            Request::Keepalive => {
                // The answer to our own keepalive is not answered again.
                if self.features.is_none() {
                    self.lanes.reserve(INGEST_LANE, ReplySlot::ready(0, Response::Keepalive));
                }
            }
            Request::Produce(produce) => {
                if produce.topic == TopicId(0) && !view.topics.contains_key(&TopicId(0)) {
                    self.blocked = Some(kept);
                    effects.push(SessionEffect::Metadata(DEFAULT_TOPIC_REQUEST, MetadataCall::EnsureDefaultTopic));
                    return;
                }
                self.on_produce(produce, partition, view, now, effects);
            }
            Request::Hello(hello) => self.on_hello(&hello, correlation, effects),
            other => self.on_control(other, correlation, partition, kept.header.command(), view, now, effects),
        }
    }

    /// The request is not looked at.
    fn refuse(&mut self, request: &Request, correlation: u64, command: u8, code: ErrorCode, message: &'static str) {
        let (lane, correlation, answers) = match request {
            Request::Produce(produce) => (INGEST_LANE, 0, Answers::Ingest(produce.batch_id)),
            _ => (self.control_lane(), correlation, Answers::Control(command)),
        };
        let error = TypedError::with_message(code, answers, message);
        self.lanes.reserve(lane, ReplySlot::ready(correlation, Response::Error(error)));
    }

    /// The default topic exists (or could not be made): goes on with the frame that waited for it.
    pub fn on_default_topic(&mut self, created: bool, view: &ClusterView, now: Duration, effects: &mut Effects) {
        let Some(frame) = self.blocked.take() else { return };
        if created && view.topics.contains_key(&TopicId(0)) {
            self.on_frame(frame, view, now, effects);
        } else {
            let error = TypedError::new(ErrorCode::Unavailable, Answers::Ingest(frame.header.batch_id));
            self.lanes.reserve(INGEST_LANE, ReplySlot::ready(0, Response::Error(error)));
        }
        self.advance(effects, now);
    }

    /// A shard restarted: what it was asked is answered "outcome unknown".
    pub fn on_shard_restarted(&mut self, shard: u16, now: Duration, effects: &mut Effects) {
        let mut freed = 0;
        for (_, slot) in self.lanes.iter_mut() {
            match slot {
                ReplySlot::Produce(produce) if produce.shard == shard => {
                    freed += produce.bytes;
                    *slot = ReplySlot::Produced(*produce, Err(ErrorCode::OutcomeUnknown));
                }
                ReplySlot::Fetch(fetch) => fetching::fail_parts_of(fetch, shard),
                ReplySlot::Control { correlation, command, kind: ControlKind::LookUp { shard: asked, .. } }
                    if *asked == shard =>
                {
                    let error = TypedError::new(ErrorCode::OutcomeUnknown, Answers::Control(*command));
                    *slot = ReplySlot::ready(*correlation, Response::Error(error));
                }
                _ => {}
            }
        }
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(freed);
        if shard == self.forwarder() {
            self.forwarded.clear();
        }
        self.advance(effects, now);
    }

    /// Writes every reply whose turn has come.
    fn advance(&mut self, effects: &mut Effects, now: Duration) {
        for lane in [INGEST_LANE, CONTROL_LANE] {
            while let Some(slot) = self.lanes.front_mut(lane) {
                let ready = match slot {
                    ReplySlot::Produce(_) | ReplySlot::Control { .. } => false,
                    ReplySlot::Fetch(fetch) => fetch.is_complete(),
                    ReplySlot::Produced(..) | ReplySlot::Ready(_) | ReplySlot::Nothing => true,
                };
                if !ready {
                    break;
                }
                let request = self.lanes.front_id(lane);
                match self.lanes.pop(lane) {
                    Some(slot) if self.traces_nothing() => self.write_reply(slot, now, effects),
                    Some(slot) => self.write_traced_reply(request, slot, now, effects),
                    None => {}
                }
            }
        }
    }

    fn slot_mut(&mut self, request: u64) -> Option<&mut ReplySlot> {
        self.lanes.get_mut(RequestId(request))
    }
}
