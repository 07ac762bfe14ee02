//! A producer as 1.0 knows it: no Hello, acks in order, a batch whose ack does not come is given up.

use super::wire::Wire;
use crate::sim::context::{Context, Phase};
use crate::sim::oracle::LaneKind;
use crate::sim::payload::{Batch, BatchKey};
use lance_messages::id::TopicPartition;
use lance_messages::wire::compression::Compression;
use lance_messages::wire::produce::Produce;
use lance_messages::wire::{Request, Response};
use std::collections::VecDeque;

const WINDOW: usize = 4;
const LAST_BATCHES: u32 = 2;

/// A 1.0 producer.
pub struct Legacy {
    client: u16,
    partition: TopicPartition,
    waiting: VecDeque<Batch>,
    in_flight: VecDeque<Batch>,
    next_number: u32,
    last_batches: u32,
    paused_until_ns: u64,
}

impl Legacy {
    /// A producer that writes to partition 0 of a topic.
    pub fn new(client: u16, partition: TopicPartition) -> Self {
        Self {
            client,
            partition,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_number: 0,
            last_batches: LAST_BATCHES,
            paused_until_ns: 0,
        }
    }

    /// What still has to be acked.
    pub fn unfinished(&self) -> Option<String> {
        let left = self.waiting.len() + self.in_flight.len() + self.last_batches as usize;
        (left > 0).then(|| format!("1.0 producer {} waits for {left} acks of {}", self.client, self.partition))
    }

    /// Makes new batches.
    pub fn have_ideas(&mut self, ctx: &mut Context<'_>) {
        let settling = ctx.phase == Phase::Settle;
        let wanted = if settling { self.last_batches } else { ctx.rng.below(3) as u32 };
        for _ in 0..wanted {
            if self.waiting.len() > WINDOW {
                return;
            }
            self.last_batches -= u32::from(settling);
            let key = BatchKey { client: self.client, lane: 0, number: self.next_number };
            self.next_number += 1;
            let records = ctx.rng.below(4) as u32;
            let bytes = ctx.rng.below(900) as usize;
            self.waiting.push_back(Batch::new(key, records, bytes));
        }
    }

    /// Sends what may be sent.
    pub fn work(&mut self, wire: &mut Wire, ctx: &mut Context<'_>) {
        while self.in_flight.len() < WINDOW && ctx.now_ns >= self.paused_until_ns {
            let Some(batch) = self.waiting.pop_front() else { return };
            let connection = wire.connection.unwrap_or_default();
            ctx.oracle.sending(&batch, self.partition, LaneKind::Once, connection);
            let produce = Produce {
                topic: self.partition.topic,
                batch_id: u64::from(batch.key.number),
                timestamp: 0,
                record_count: batch.record_count,
                compression: Compression::None,
                records: batch.payload.clone(),
                records_crc: 0,
            };
            self.in_flight.push_back(batch);
            wire.send(Request::Produce(produce), 0, 0, ctx);
        }
    }

    /// The connection is gone.
    pub fn on_lost(&mut self) {
        self.in_flight.clear();
    }

    /// A reply.
    pub fn on_reply(&mut self, response: Response, ctx: &mut Context<'_>) {
        match response {
            Response::Ack { batch_id, .. } => match self.in_flight.pop_front() {
                Some(batch) if u64::from(batch.key.number) == batch_id => ctx.oracle.acked(&batch, None),
                other => {
                    let expected = other.map(|batch| batch.key.number);
                    ctx.oracle.violated(format!("1.0 batch {batch_id} was acked where {expected:?} is next"));
                }
            },
            Response::ErrorText(text) => {
                let offline = text.contains("offline");
                if !text.contains("FORWARD_FAILED") && !offline {
                    ctx.oracle.violated(format!("a 1.0 batch of {} was refused: {text}", self.partition));
                }
                self.in_flight.pop_front();
                self.paused_until_ns = ctx.now_ns + ctx.rng.range(5_000_000, 200_000_000);
                // What was refused while nothing goes wrong any more is made up for.
                self.last_batches += u32::from(ctx.phase == Phase::Settle);
            }
            other => ctx.oracle.violated(format!("a 1.0 producer was answered {other:?}")),
        }
    }
}
