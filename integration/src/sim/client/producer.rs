//! A producer with Hello: several lanes, pipelined; with or without sequences and retries.

use super::wire::Wire;
use crate::sim::check::metadata::producer_allocated;
use crate::sim::context::{Context, Phase};
use crate::sim::oracle::LaneKind;
use crate::sim::payload::{Batch, BatchKey};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::wire::compression::Compression;
use lance_messages::wire::hello::{InitProducer, ProducerEpoch};
use lance_messages::wire::produce::Produce;
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Request, Response};
use std::collections::VecDeque;

/// Batches of a lane that wait for their acks; the server remembers five sequences.
const LANE_WINDOW: usize = 5;
/// Batches each lane writes after faults have ended.
const LAST_BATCHES: u32 = 2;
/// Bytes all clients together write while things go wrong.
const MOST_BYTES: u64 = 12 << 20;

struct Pending {
    batch: Batch,
    sequence: Option<u32>,
}

struct Lane {
    number: u16,
    partition: TopicPartition,
    unacked: VecDeque<Pending>,
    /// How many of them were sent on this connection.
    sent: usize,
    in_flight: usize,
    /// One of them failed: once nothing is in flight, all are sent again.
    rewind: bool,
    paused_until_ns: u64,
    next_number: u32,
    next_sequence: u32,
    last_batches: u32,
}

/// A producer.
pub struct Producer {
    client: u16,
    kind: LaneKind,
    lanes: Vec<Lane>,
    /// Sizes: most records of a batch, most bytes of a record.
    shape: (u32, usize),
    identity: Option<ProducerEpoch>,
    asked_identity: bool,
    bound: bool,
    in_flight: VecDeque<(usize, u64, BatchKey)>,
    settled: bool,
    /// It was told that another node leads.
    pub misled: bool,
}

impl Producer {
    /// A producer that writes to these partitions.
    pub fn new(client: u16, kind: LaneKind, partitions: &[TopicPartition], shape: (u32, usize)) -> Self {
        let lane = |(number, partition): (u16, &TopicPartition)| Lane {
            number,
            partition: *partition,
            unacked: VecDeque::new(),
            sent: 0,
            in_flight: 0,
            rewind: false,
            paused_until_ns: 0,
            next_number: 0,
            next_sequence: 0,
            last_batches: LAST_BATCHES,
        };
        Self {
            client,
            kind,
            lanes: (0..).zip(partitions).map(lane).collect(),
            shape,
            identity: None,
            asked_identity: false,
            bound: false,
            in_flight: VecDeque::new(),
            settled: false,
            misled: false,
        }
    }

    /// What still has to be acked.
    pub fn unfinished(&self) -> Option<String> {
        let waiting = self.lanes.iter().find(|lane| lane.last_batches > 0 || !lane.unacked.is_empty())?;
        let (client, kind, partition) = (self.client, self.kind, waiting.partition);
        Some(format!("producer {client} ({kind:?}) waits for {} acks of {partition}", waiting.unacked.len()))
    }

    /// Makes new batches.
    pub fn have_ideas(&mut self, ctx: &mut Context<'_>) {
        self.settled |= ctx.phase == Phase::Settle;
        let settling = self.settled;
        for lane in &mut self.lanes {
            let wanted = if settling { lane.last_batches } else { ctx.rng.below(4) as u32 };
            for _ in 0..wanted {
                let enough = !settling && ctx.oracle.sent_bytes > MOST_BYTES;
                if enough || lane.unacked.len() >= LANE_WINDOW * 2 {
                    break;
                }
                lane.last_batches -= u32::from(settling);
                let key = BatchKey { client: self.client, lane: lane.number, number: lane.next_number };
                lane.next_number += 1;
                let record_count = ctx.rng.below(u64::from(self.shape.0) + 1) as u32;
                let record_bytes = ctx.rng.below(self.shape.1 as u64 + 1) as usize;
                lane.unacked.push_back(Pending { batch: Batch::new(key, record_count, record_bytes), sequence: None });
            }
        }
    }

    /// Sends what may be sent.
    pub fn work(&mut self, wire: &mut Wire, ctx: &mut Context<'_>) {
        if self.kind == LaneKind::Idempotent && !self.bound {
            if !self.asked_identity {
                self.asked_identity = true;
                wire.send(Request::InitProducer(InitProducer { existing: self.identity }), 0, 1, ctx);
            }
            return;
        }
        for at in 0..self.lanes.len() {
            self.send_lane(at, wire, ctx);
        }
    }

    fn send_lane(&mut self, at: usize, wire: &mut Wire, ctx: &mut Context<'_>) {
        let kind = self.kind;
        let lane = &mut self.lanes[at];
        while !lane.rewind
            && ctx.now_ns >= lane.paused_until_ns
            && lane.in_flight < LANE_WINDOW
            && lane.sent < lane.unacked.len()
        {
            let next_sequence = &mut lane.next_sequence;
            let pending = &mut lane.unacked[lane.sent];
            let sequence = *pending.sequence.get_or_insert_with(|| {
                let sequence = *next_sequence;
                *next_sequence += 1;
                sequence
            });
            let batch_id = u64::from(lane.number) << 32 | u64::from(sequence);
            let connection = wire.connection.unwrap_or_default();
            ctx.oracle.sending(&pending.batch, lane.partition, kind, connection);
            let produce = Produce {
                topic: lane.partition.topic,
                batch_id,
                timestamp: 0,
                record_count: pending.batch.record_count,
                compression: Compression::None,
                records: pending.batch.payload.clone(),
                records_crc: 0,
            };
            self.in_flight.push_back((at, batch_id, pending.batch.key));
            lane.sent += 1;
            lane.in_flight += 1;
            wire.send(Request::Produce(produce), lane.partition.partition, 0, ctx);
        }
    }

    /// The connection is gone: what was in flight may have been stored or not.
    pub fn on_lost(&mut self) {
        (self.asked_identity, self.bound) = (false, false);
        self.in_flight.clear();
        for lane in &mut self.lanes {
            if self.kind == LaneKind::Once {
                lane.unacked.drain(..lane.sent);
            }
            (lane.sent, lane.in_flight, lane.rewind) = (0, 0, false);
        }
    }

    /// A reply.
    pub fn on_reply(&mut self, response: Response, ctx: &mut Context<'_>) {
        match response {
            Response::InitProducer(producer) => self.on_identity(producer, ctx),
            Response::Ack { batch_id, offsets } => {
                let Some((lane, key)) = self.answered(batch_id, ctx) else { return };
                let offset = offsets.map(|offsets| offsets.base_offset);
                if self.kind == LaneKind::Once && offsets.is_some_and(|offsets| offsets.duplicate) {
                    ctx.oracle.violated(format!("{key:?} has no sequence and was called a duplicate"));
                }
                let lane = &mut self.lanes[lane];
                if let Some(at) = lane.unacked.iter().position(|pending| pending.batch.key == key)
                    && let Some(pending) = lane.unacked.remove(at)
                {
                    lane.sent = lane.sent.saturating_sub(1);
                    ctx.oracle.acked(&pending.batch, offset);
                }
                settle(lane, ctx.now_ns);
            }
            Response::Error(error) => match error.answers {
                Answers::Ingest(batch_id) => self.on_refused(batch_id, &error, ctx),
                // InitProducer failed: asked for again.
                Answers::Control(_) => (self.asked_identity, self.misled) = (false, true),
            },
            other => ctx.oracle.violated(format!("a producer was answered {other:?}")),
        }
    }

    fn on_identity(&mut self, producer: ProducerEpoch, ctx: &mut Context<'_>) {
        self.bound = true;
        match self.identity {
            None => producer_allocated(ctx.oracle, producer.id.0),
            Some(before) if before == producer => {}
            Some(_) => {
                // Another producer begins its order anew, as the client library does it.
                for lane in &mut self.lanes {
                    lane.next_sequence = 0;
                    lane.unacked.iter_mut().for_each(|pending| pending.sequence = None);
                }
            }
        }
        self.identity = Some(producer);
    }

    /// Answers come in the order of the frames.
    fn answered(&mut self, batch_id: u64, ctx: &mut Context<'_>) -> Option<(usize, BatchKey)> {
        let (lane, expected, key) = self.in_flight.pop_front()?;
        if batch_id != expected {
            ctx.oracle.violated(format!("batch {batch_id:#x} was answered where {expected:#x} is next"));
            return None;
        }
        self.lanes[lane].in_flight -= 1;
        Some((lane, key))
    }

    fn on_refused(&mut self, batch_id: u64, error: &TypedError, ctx: &mut Context<'_>) {
        let Some((at, key)) = self.answered(batch_id, ctx) else { return };
        let lane = &mut self.lanes[at];
        let code = error.code;
        self.misled |= matches!(code, ErrorCode::NotLeader | ErrorCode::Unavailable | ErrorCode::StorageOffline);
        let never = match code {
            ErrorCode::OutOfOrderSequence => !lane.rewind,
            ErrorCode::StorageOffline => false,
            code => !code.is_retriable(),
        };
        if never {
            let what = format!("{key:?} of {} was refused: {code:?} ({})", lane.partition, error.message);
            ctx.oracle.violated(what);
        }
        let pause_ns = if code == ErrorCode::StorageOffline { 300_000_000 } else { 30_000_000 };
        lane.paused_until_ns = ctx.now_ns + ctx.rng.range(pause_ns / 10, pause_ns);
        if self.kind == LaneKind::Idempotent {
            lane.rewind = true;
        } else if let Some(position) = lane.unacked.iter().position(|pending| pending.batch.key == key) {
            // Given up: it may have been stored all the same.
            lane.unacked.remove(position);
            lane.sent = lane.sent.saturating_sub(1);
        }
        settle(lane, ctx.now_ns);
    }
}

/// Once nothing of a lane that failed is in flight, all of it is sent again.
fn settle(lane: &mut Lane, _now_ns: u64) {
    if lane.rewind && lane.in_flight == 0 {
        lane.rewind = false;
        lane.sent = 0;
    }
}
