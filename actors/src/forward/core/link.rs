//! Links: one connection to another node, and what is under way on it.

use super::flow::{FlowKey, Work};
use super::{FETCH_BYTES, FORWARD_FEATURES, LINK_BYTES, LINK_REQUESTS};
use bytes::{Bytes, BytesMut};
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::mail::ingestion::OffsetQuery;
use lance_messages::wire::fetch::Fetch;
use lance_messages::wire::group::DescribeGroups;
use lance_messages::wire::lookup::{LookupOffset, LookupTarget};
use lance_messages::wire::produce::ProduceHeader;
use lance_messages::wire::request::{CommitOffset, Subscribe};
use lance_messages::wire::trace::{TRACE_CONTEXT_LEN, crc_with_prefix};
use lance_messages::wire::{Request, RequestFrame, TraceContext};
use std::collections::VecDeque;

pub(super) use super::LinkId;

/// Where a link leads, and which of those it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) address: String,
    pub(super) slot: u16,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) flow: FlowKey,
    pub(super) item: u64,
    /// Batch id or correlation.
    pub(super) id: u64,
    /// Bytes of the link up to the end of its frame.
    pub(super) end: u64,
    weight: usize,
}

/// A connection to another node.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) place: Place,
    /// Largest payload the node takes, once the link stands.
    pub(super) max_payload_bytes: Option<u32>,
    /// Batches, answered in this order.
    pub(super) acks: VecDeque<Sent>,
    /// Everything else, answered in this order.
    pub(super) controls: VecDeque<Sent>,
    /// It was asked to end.
    pub(super) closing: bool,
    /// Something had to wait for room.
    pub(super) was_full: bool,
    /// When it last answered, or began to have something to answer, ms.
    pub(super) heard_ms: u64,
    /// When it was last used, ms.
    pub(super) used_ms: u64,
    in_flight_bytes: usize,
    queued_bytes: u64,
    next_id: u64,
}

impl Link {
    pub(super) fn new(place: Place, now_ms: u64) -> Self {
        Self {
            place,
            max_payload_bytes: None,
            acks: VecDeque::new(),
            controls: VecDeque::new(),
            closing: false,
            was_full: false,
            heard_ms: now_ms,
            used_ms: now_ms,
            in_flight_bytes: 0,
            queued_bytes: 0,
            next_id: 1,
        }
    }

    /// Whether nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.acks.is_empty() && self.controls.is_empty()
    }

    pub(super) fn has_room(&self, weight: usize) -> bool {
        let requests = self.acks.len() + self.controls.len();
        self.is_quiet() || (requests < LINK_REQUESTS && self.in_flight_bytes + weight <= LINK_BYTES)
    }

    /// Counts a request as under way; its frame.
    pub(super) fn push(&mut self, work: &Work, flow: FlowKey, item: u64, now_ms: u64) -> [Bytes; 2] {
        if self.is_quiet() {
            self.heard_ms = now_ms;
        }
        self.used_ms = now_ms;
        let id = self.next_id;
        self.next_id += 1;
        let pieces = encode(work, id, self.max_payload_bytes.unwrap_or(0) as usize);
        let weight = work.weight();
        self.in_flight_bytes += weight;
        self.queued_bytes += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        let sent = Sent { flow, item, id, end: self.queued_bytes, weight };
        match work {
            Work::Produce(..) => self.acks.push_back(sent),
            Work::Fetch(_) | Work::LookUp(_) | Work::Commit(..) | Work::Committed(..) | Work::Groups(_) => {
                self.controls.push_back(sent);
            }
        }
        pieces
    }

    /// Takes out the oldest batch, if an answer with this batch id is its.
    pub(super) fn pop_ack(&mut self, id: u64) -> Option<Sent> {
        self.acks.pop_front_if(|sent| sent.id == id).inspect(|sent| self.in_flight_bytes -= sent.weight)
    }

    /// Takes out the oldest other request, if an answer with this correlation is its.
    pub(super) fn pop_control(&mut self, id: u64) -> Option<Sent> {
        self.controls.pop_front_if(|sent| sent.id == id).inspect(|sent| self.in_flight_bytes -= sent.weight)
    }

    /// The answer to a sign of life.
    pub(super) fn keepalive(&mut self) -> [Bytes; 2] {
        let pieces = [frame(Request::Keepalive, 0, 0, None), Bytes::new()];
        self.queued_bytes += pieces[0].len() as u64;
        pieces
    }
}

fn frame(request: Request, partition: u16, correlation: u64, trace: Option<TraceContext>) -> Bytes {
    let mut out = BytesMut::new();
    RequestFrame { correlation, partition, trace, request }.encode(&mut out, Some(FORWARD_FEATURES));
    out.freeze()
}

/// The trace of a batch that leaves no room for it ends here.
fn encode(work: &Work, id: u64, max_payload_bytes: usize) -> [Bytes; 2] {
    let (request, partition) = match work {
        Work::Produce(_, request) => {
            let records_len = request.records.len();
            let fits = records_len + TRACE_CONTEXT_LEN <= max_payload_bytes;
            let context = request.trace.as_ref().filter(|_| fits).map(|trace| trace.context.encode());
            let context = context.as_ref().map_or(&[][..], |context| &context[..]);
            let header = ProduceHeader {
                topic: request.partition.topic,
                partition: request.partition.partition,
                batch_id: id,
                timestamp: request.timestamp_ns,
                record_count: request.record_count,
                compressed: false,
                traced: !context.is_empty(),
                payload_len: (context.len() + records_len) as u32,
                payload_crc: match context.is_empty() {
                    true => request.records_crc,
                    false => crc_with_prefix(context, request.records_crc, records_len as u64),
                },
            };
            let header = header.encode(FORWARD_FEATURES.header_crc());
            return [Bytes::from([&header[..], context].concat()), request.records.clone()];
        }
        Work::Fetch(fetch) => {
            let (topic, max_bytes) = (fetch.partition.topic, fetch.max_bytes.min(FETCH_BYTES));
            (Request::Fetch(Fetch { topic, offset: fetch.offset, max_bytes }), fetch.partition)
        }
        Work::LookUp(look_up) => {
            let target = match look_up.query {
                OffsetQuery::Earliest => LookupTarget::Earliest,
                OffsetQuery::Latest => LookupTarget::Latest,
                OffsetQuery::Timestamp(at) => LookupTarget::Timestamp(at),
                OffsetQuery::Record(number) => LookupTarget::RecordNumber(number),
                OffsetQuery::Offset(offset) => LookupTarget::Offset(offset),
            };
            let partition = look_up.partition;
            (Request::LookupOffset(LookupOffset { partition, target }), partition)
        }
        Work::Commit(_, commit) => {
            let (topic, consumer_id) = (commit.partition.topic, commit.consumer_id);
            (Request::CommitOffset(CommitOffset { topic, consumer_id, offset: commit.offset }), commit.partition)
        }
        Work::Committed(_, asked) => {
            let (topic, consumer_id) = (asked.partition.topic, asked.consumer_id);
            let subscribe = Subscribe { topic, start_offset: 0, max_batch_bytes: 0, consumer_id };
            (Request::Subscribe(subscribe), asked.partition)
        }
        // Of no partition.
        Work::Groups(_) => {
            let describe = DescribeGroups { groups: Vec::new() };
            (Request::DescribeGroups(describe), TopicPartition::new(TopicId(0), 0))
        }
    };
    let trace = if let Work::Fetch(fetch) = work { fetch.trace } else { None };
    [frame(request, partition.partition, id, trace), Bytes::new()]
}
