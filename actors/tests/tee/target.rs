//! The target: a cluster with one topic, which recognises producers exactly as the storage does.

use bytes::{Buf, BytesMut};
use lance_actors::tee::core::{TEE_FEATURES, TargetFound};
use lance_messages::batch::{BatchFlags, BatchHeader, ProducerSequence};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{LeaderEpoch, ProducerId, TopicId};
use lance_messages::sort_key::SortKey;
use lance_messages::wire::compression::Compression;
use lance_messages::wire::hello::ProducerEpoch;
use lance_messages::wire::produce::AckOffsets;
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Command, FrameLimits, Request, RequestFrame, Response, next_frame};
use lance_storage::producers::{ProducerTable, SequenceCheck};

/// A batch as the target stored it.
#[derive(Clone, Debug)]
pub struct Kept {
    pub plain: Vec<u8>,
    pub record_count: u32,
    pub timestamp_ns: u64,
    producer: ProducerSequence,
}

/// One partition.
#[derive(Clone, Default)]
pub struct Partition {
    pub log: Vec<Kept>,
    producers: ProducerTable,
}

/// The target's cluster.
pub struct Target {
    pub cluster: u64,
    pub topic: u32,
    pub partitions: Vec<Partition>,
    next_producer: u64,
    pub duplicates: u64,
}

/// What a connection is bound to.
pub type Bound = Option<ProducerEpoch>;

impl Target {
    pub fn new(partitions: usize) -> Self {
        let partitions = vec![Partition::default(); partitions];
        Self { cluster: 5, topic: 1, partitions, next_producer: 1, duplicates: 0 }
    }

    pub fn found(&self) -> TargetFound {
        let leaders = self.partitions.iter().map(|_| Some("leader:1".to_owned())).collect();
        TargetFound { cluster: self.cluster, topic: TopicId(self.topic), leaders }
    }

    /// The topic is deleted, and made anew.
    pub fn recreate(&mut self) {
        self.topic += 1;
        self.partitions = vec![Partition::default(); self.partitions.len()];
    }

    /// A change of leader loses the last batches of a partition, what was known of their producers included.
    pub fn lose_last(&mut self, partition: usize, count: usize) {
        let kept = &mut self.partitions[partition];
        kept.log.truncate(kept.log.len().saturating_sub(count));
        kept.producers = ProducerTable::default();
        for at in 0..kept.log.len() {
            let header = header(&kept.log[at], at as u64);
            kept.producers.note(&header);
        }
    }

    /// One frame of a connection; the answer to it. `refuse`: what a batch is refused with.
    pub fn serve(&mut self, input: &mut BytesMut, bound: &mut Bound, refuse: Option<ErrorCode>) -> Option<Response> {
        let limits = FrameLimits { header_crc: TEE_FEATURES.header_crc(), ..FrameLimits::default() };
        let frame = next_frame(input, &limits).expect("what the core sends is LWP")?;
        let frame = RequestFrame::decode(frame, Some(TEE_FEATURES)).expect("what the core asks makes sense");
        match frame.request {
            Request::InitProducer(init) => Some(self.bind(init.existing, bound)),
            Request::Produce(produce) => {
                let answers = Answers::Ingest(produce.batch_id);
                let refusal = |code| Some(Response::Error(TypedError::new(code, answers)));
                if let Some(code) = refuse {
                    return refusal(code);
                }
                if produce.topic != TopicId(self.topic) {
                    return refusal(ErrorCode::UnknownTopic);
                }
                let producer = bound.expect("a producer is bound before anything is sent");
                let producer =
                    ProducerSequence { id: producer.id, epoch: producer.epoch, sequence: produce.batch_id as u32 };
                let plain = match produce.compression {
                    Compression::Named { codec, plain_len } => {
                        codec.decompress(&produce.records, plain_len as usize).unwrap()
                    }
                    _ => produce.records.to_vec(),
                };
                let (record_count, timestamp_ns) = (produce.record_count, produce.timestamp);
                let kept = Kept { plain, record_count, timestamp_ns, producer };
                match self.keep(usize::from(frame.partition), kept) {
                    Ok(duplicate) => {
                        let offsets = AckOffsets { base_offset: 0, record_count, duplicate };
                        Some(Response::Ack { batch_id: produce.batch_id, offsets: Some(offsets) })
                    }
                    Err(code) => refusal(code),
                }
            }
            Request::Keepalive => Some(Response::Keepalive),
            other => panic!("nobody asks a target for {other:?} on such a link"),
        }
    }

    fn bind(&mut self, existing: Option<ProducerEpoch>, bound: &mut Bound) -> Response {
        let known = existing.filter(|producer| producer.id.0 < self.next_producer);
        let producer = known.unwrap_or_else(|| {
            self.next_producer += 1;
            ProducerEpoch { id: ProducerId(self.next_producer - 1), epoch: 0 }
        });
        *bound = Some(producer);
        Response::InitProducer(producer)
    }

    fn keep(&mut self, partition: usize, kept: Kept) -> Result<bool, ErrorCode> {
        let partition = self.partitions.get_mut(partition).ok_or(ErrorCode::UnknownPartition)?;
        match partition.producers.check(&kept.producer, 1) {
            SequenceCheck::Next => {
                partition.producers.note(&header(&kept, partition.log.len() as u64));
                partition.log.push(kept);
                Ok(false)
            }
            SequenceCheck::Duplicate(_) | SequenceCheck::DuplicateBefore(_) => {
                self.duplicates += 1;
                Ok(true)
            }
            SequenceCheck::OutOfOrder { .. } => Err(ErrorCode::OutOfOrderSequence),
            SequenceCheck::Fenced { .. } => Err(ErrorCode::FencedProducer),
        }
    }

    /// An error that answers a request for a producer.
    pub fn refuse_binding(code: ErrorCode) -> Response {
        Response::Error(TypedError::new(code, Answers::Control(Command::INIT_PRODUCER.0)))
    }
}

/// Takes the next frame out without looking at it.
pub fn skip_frame(input: &mut BytesMut) -> Option<bool> {
    let length = u32::from_le_bytes(input.get(32..36)?.try_into().unwrap()) as usize;
    let is_control = input[5] & 0x40 != 0;
    input.advance(44 + length);
    Some(is_control)
}

fn header(kept: &Kept, position: u64) -> BatchHeader {
    BatchHeader {
        flags: BatchFlags::RECORDS,
        records_crc: 0,
        position: position * 1000,
        base_offset: 0,
        base_record: 0,
        stored_len: kept.plain.len() as u32,
        plain_len: kept.plain.len() as u32,
        record_count: kept.record_count,
        leader_epoch: LeaderEpoch(1),
        committed_through: 0,
        sort_key: SortKey::at_time(1),
        max_timestamp_ns: kept.timestamp_ns,
        producer: Some(kept.producer),
    }
}
