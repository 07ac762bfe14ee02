//! Produce requests: batches that clients make, and stored ones that are restored.

use super::lanes::INGEST_LANE;
use super::replies::{ProduceSlot, ReplySlot};
use super::routing::{Route, not_leader};
use super::{Effects, SessionCore, SessionEffect, SessionLimits, shard_of};
use crate::view::ClusterView;
use bytes::Bytes;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader, BatchPlace, BatchSeed, ProducerSequence};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::mail::ingestion::ProduceRequest;
use lance_messages::record::{max_timestamp_ns, measure_records};
use lance_messages::wire::compression::{Compression, decompress_unnamed};
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Features, Response};
use std::time::Duration;

/// A batch as it is to be stored.
struct Arrived {
    records: Bytes,
    records_crc: u32,
    record_count: u32,
    /// Of its longest record, or all of it when it is opaque.
    longest_bytes: usize,
    flags: BatchFlags,
    timestamp_ns: u64,
    producer: Option<ProducerSequence>,
    at: Option<BatchPlace>,
}

impl Arrived {
    fn new(records: Bytes, records_crc: u32, timestamp_ns: u64, producer: Option<ProducerSequence>) -> Self {
        let (record_count, longest_bytes, flags) = match measure_records(&records) {
            Some(measure) => (measure.count, measure.longest_bytes, BatchFlags::RECORDS),
            None => (1, records.len(), BatchFlags::OPAQUE),
        };
        let timestamp_ns = if timestamp_ns != 0 { timestamp_ns } else { max_timestamp_ns(&records).unwrap_or(0) };
        Self { records, records_crc, record_count, longest_bytes, flags, timestamp_ns, producer, at: None }
    }

    /// Why it is not stored, if a client makes it and one of its records is too long. What is restored was taken before,
    /// under whatever limit there was.
    fn too_long(&self, limits: &SessionLimits, answers: Answers) -> Option<TypedError> {
        let (bytes, most) = (self.longest_bytes, limits.max_record_bytes);
        if bytes <= most as usize || self.at.is_some() {
            return None;
        }
        let text = format!("A record of {bytes} bytes is over the {most} that limits.max_record_bytes allows");
        Some(TypedError::with_message(ErrorCode::TooLarge, answers, text))
    }
}

impl SessionCore {
    /// Whether the client copies logs: it speaks in stored batches.
    pub(super) fn copies_logs(&self) -> bool {
        self.features.is_some_and(|features| features.contains(Features::STORED_BATCHES))
    }

    pub(super) fn on_produce(
        &mut self,
        produce: lance_messages::wire::produce::Produce,
        partition: u16,
        view: &ClusterView,
        now: Duration,
        effects: &mut Effects,
    ) {
        let answers = Answers::Ingest(produce.batch_id);
        let known = view.topics.get(&produce.topic).map(|topic| usize::from(partition) < topic.partitions.len());
        let refusal = match known {
            None => Some(ErrorCode::UnknownTopic),
            Some(false) => Some(ErrorCode::UnknownPartition),
            Some(true) if self.draining => Some(ErrorCode::ShuttingDown),
            // It writes whatever it likes into a log, producers of others included.
            Some(true) if self.copies_logs() && !self.access.may_administer(view) => Some(ErrorCode::PermissionDenied),
            Some(true) => None,
        };
        if let Some(code) = refusal {
            self.lanes.reserve(INGEST_LANE, ReplySlot::ready(0, Response::Error(TypedError::new(code, answers))));
            return;
        }
        if produce.records.is_empty() {
            self.lanes
                .reserve(INGEST_LANE, ReplySlot::ready(0, Response::Ack { batch_id: produce.batch_id, offsets: None }));
            return;
        }
        let producer = self.producer.map(|producer| ProducerSequence {
            id: producer.id,
            epoch: producer.epoch,
            sequence: produce.sequence(),
        });
        let batch_id = produce.batch_id;
        let partition = TopicPartition::new(produce.topic, partition);
        let shard = match self.route_produce(partition, view) {
            Route::Here => shard_of(partition, self.limits.shards),
            Route::Forward => self.forwarder(),
            Route::Redirect => {
                let error = not_leader(view, Some(partition), answers);
                self.lanes.reserve(INGEST_LANE, ReplySlot::ready(0, Response::Error(error)));
                return;
            }
        };
        let timestamp = produce.timestamp;
        let arrived = match self.copies_logs() {
            true => restored_batch(partition, produce.records),
            false => plain_records(produce.compression, produce.records, produce.records_crc, &self.limits)
                .map(|(records, records_crc)| Arrived::new(records, records_crc, timestamp, producer)),
        };
        let taken = match arrived {
            Some(arrived) => arrived.too_long(&self.limits, answers).map_or(Ok(arrived), Err),
            None => Err(TypedError::new(ErrorCode::UndecodableRecords, answers)),
        };
        let Arrived { records, records_crc, record_count, flags, timestamp_ns, producer, at, .. } = match taken {
            Ok(arrived) => arrived,
            Err(error) => {
                self.lanes.reserve(INGEST_LANE, ReplySlot::ready(0, Response::Error(error)));
                return;
            }
        };
        let bytes = records.len();
        if shard == self.forwarder() {
            *self.forwarded.entry(partition).or_default() += 1;
        }
        let slot = ProduceSlot { batch_id, partition, shard, bytes, since: now };
        let request = self.lanes.reserve(INGEST_LANE, ReplySlot::Produce(slot));
        let trace = self.spans.produce_trace(request);
        self.in_flight_bytes += bytes;
        let request = ProduceRequest {
            request: request.0,
            partition,
            plain_len: bytes as u32,
            records,
            records_crc,
            record_count,
            flags,
            timestamp_ns,
            producer,
            at,
            trace,
        };
        effects.push(SessionEffect::Produce(shard, request));
    }
}

/// The records as they are stored: decompressed, within the limits.
fn plain_records(compression: Compression, stored: Bytes, crc: u32, limits: &SessionLimits) -> Option<(Bytes, u32)> {
    let most = limits.max_payload_bytes as usize;
    let plain = match compression {
        Compression::None => return Some((stored, crc)),
        Compression::Unnamed => decompress_unnamed(&stored, most).ok()?,
        Compression::Named { plain_len, .. } if plain_len as usize > most => return None,
        Compression::Named { codec, plain_len } => codec.decompress(&stored, plain_len as usize).ok()?,
    };
    let crc = crc32fast::hash(&plain);
    Some((Bytes::from(plain), crc))
}

/// A stored batch of `partition`, header and records; `None` when it is damaged, compressed, or not what its header says.
fn restored_batch(partition: TopicPartition, stored: Bytes) -> Option<Arrived> {
    let header = BatchHeader::decode(&stored, BatchSeed::new(partition)).ok()?;
    let records = stored.slice(BATCH_HEADER_BYTES..);
    let arrived = Arrived::new(records, header.records_crc, header.max_timestamp_ns, header.producer);
    let is_whole = header.stored_len as usize == arrived.records.len()
        && header.records_crc == crc32fast::hash(&arrived.records)
        && header.flags.without(BatchFlags::STARTS_SEGMENT) == arrived.flags
        && header.record_count == arrived.record_count
        && header.plain_len > 0;
    let at = Some(BatchPlace { offset: header.base_offset, record: header.base_record });
    is_whole.then_some(Arrived { at, ..arrived })
}
