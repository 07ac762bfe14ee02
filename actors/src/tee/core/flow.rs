//! A flow: one partition on its way by one rule. What was read and not acked, and which number each batch of it has.

use crate::outbound::{LinkId, LinkPiece};
use lance_cluster::metadata::{TeeCheckpoint, TeeProducer};
use lance_messages::batch::Codec;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{LeaderEpoch, TeeId, TopicId, TopicPartition};
use lance_messages::peer::LogPlace;
use lance_messages::wire::tee::TeeState;
use std::collections::VecDeque;

/// Number of a flow; never used twice by one process.
pub type FlowId = u64;

/// What a batch is counted with beside its records.
const BATCH_BYTES: usize = 160;

/// A committed batch as the source stores it.
#[derive(Clone, Debug)]
pub struct SourceBatch {
    /// Where it begins.
    pub start: LogPlace,
    /// Where it ends.
    pub end: LogPlace,
    /// Its records as they are stored; those that were left in their file are unchecked.
    pub records: LinkPiece,
    /// CRC-32 of those.
    pub records_crc: u32,
    /// How many records.
    pub record_count: u32,
    /// How they are compressed.
    pub codec: Option<Codec>,
    /// Bytes of them once decompressed.
    pub plain_len: u32,
    /// The newest timestamp that their producer gave, ns since the Unix epoch.
    pub timestamp_ns: u64,
    /// When it was stored, ns since the Unix epoch.
    pub appended_ns: u64,
}

/// What can be read of a source partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceBounds {
    /// The first batch boundary that is there.
    pub log_start: LogPlace,
    /// Everything below is committed.
    pub high_watermark: LogPlace,
}

/// Where a flow writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetPlace {
    /// The topic.
    pub topic: TopicId,
    /// The partition of it.
    pub partition: u16,
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its place is to be asked for.
    Unclaimed,
    /// It was asked for.
    Claiming,
    /// Nothing was forwarded yet: where to begin is being looked up.
    Placing,
    /// It forwards.
    Running,
}

/// The connection of a flow.
#[derive(Debug)]
pub(super) struct FlowLink {
    pub(super) id: LinkId,
    pub(super) phase: LinkPhase,
    /// Numbers and bytes of the batches under way, in the order they are answered in.
    pub(super) due: VecDeque<(u64, usize)>,
    pub(super) in_flight_bytes: usize,
    /// Most bytes under way.
    pub(super) window_bytes: usize,
    pub(super) max_payload_bytes: usize,
    /// Nothing is sent before: the target is pressed.
    pub(super) paused_until_ms: u64,
    /// When it last answered, or began to have something to answer.
    pub(super) heard_ms: u64,
    pub(super) used_ms: u64,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkPhase {
    Opening,
    Binding,
    /// The producer is bound.
    Bound,
}

/// A refusal of the batch that comes next, to be acted on once nothing is under way any more.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) sequence: u64,
    pub(super) code: ErrorCode,
    pub(super) message: String,
    pub(super) detail: String,
}

#[derive(Debug)]
struct Queued {
    batch: SourceBatch,
    /// Bytes of memory that are free once this batch is acked: all of a read, at its last batch.
    frees_bytes: usize,
}

/// One partition on its way by one rule.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) tee: TeeId,
    pub(super) partition: TopicPartition,
    pub(super) epoch: LeaderEpoch,
    pub(super) stage: Stage,
    pub(super) claim: u64,
    /// The last checkpoint that is durable.
    pub(super) durable: Option<TeeCheckpoint>,
    pub(super) stored_ms: u64,
    /// The producer was taken and is in no durable checkpoint yet: nothing may be sent.
    pub(super) unstored: bool,
    /// Batches acked since the last checkpoint was taken.
    pub(super) acked_since: u64,
    /// Everything before is acked.
    pub(super) front: LogPlace,
    /// The number of the batch there.
    pub(super) front_sequence: u64,
    queue: VecDeque<Queued>,
    /// Batches of the queue that are under way.
    pub(super) sent: usize,
    pub(super) queued_bytes: usize,
    /// Batches before this one were sent once.
    pub(super) sent_through: u64,
    /// Where to read on.
    pub(super) read_end: LogPlace,
    /// The read that is under way.
    pub(super) reading: Option<u64>,
    pub(super) waiting: bool,
    /// Where the log begins, though what comes next lay before.
    pub(super) removed_to: Option<LogPlace>,
    /// Losses before this record are counted.
    pub(super) lost_through: u64,
    pub(super) source: SourceBounds,
    pub(super) read_failures: u32,
    pub(super) read_not_before_ms: u64,
    pub(super) target: Option<TargetPlace>,
    pub(super) producer: Option<TeeProducer>,
    pub(super) link: Option<FlowLink>,
    pub(super) trouble: Option<Trouble>,
    pub(super) failures: u32,
    pub(super) not_before_ms: u64,
    pub(super) state: TeeState,
    pub(super) error: String,
    /// When the oldest batch that is not acked was stored, as far as it was ever read.
    pub(super) oldest_ns: u64,
}

impl Flow {
    pub(super) fn new(tee: TeeId, partition: TopicPartition, epoch: LeaderEpoch) -> Self {
        Self {
            tee,
            partition,
            epoch,
            stage: Stage::Unclaimed,
            claim: 0,
            durable: None,
            stored_ms: 0,
            unstored: false,
            acked_since: 0,
            front: LogPlace::default(),
            front_sequence: 0,
            queue: VecDeque::new(),
            sent: 0,
            queued_bytes: 0,
            sent_through: 0,
            read_end: LogPlace::default(),
            reading: None,
            waiting: false,
            removed_to: None,
            lost_through: 0,
            source: SourceBounds::default(),
            read_failures: 0,
            read_not_before_ms: 0,
            target: None,
            producer: None,
            link: None,
            trouble: None,
            failures: 0,
            not_before_ms: 0,
            state: TeeState::Starting,
            error: String::new(),
            oldest_ns: 0,
        }
    }

    /// The flow's own share of randomness, for rests.
    pub(super) fn seed(&self, seed: u64) -> u64 {
        seed ^ u64::from(self.tee.0) << 40
            ^ u64::from(self.partition.topic.0) << 16
            ^ u64::from(self.partition.partition)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Goes on from what is durable.
    pub(super) fn resume(&mut self, checkpoint: TeeCheckpoint) {
        let TeeCheckpoint { position, offset, record, topic, partition, producer, sequence } = checkpoint;
        self.durable = Some(checkpoint);
        self.go_to(LogPlace { position, offset, record });
        self.front_sequence = sequence;
        self.producer = producer;
        self.target = producer.map(|_| TargetPlace { topic, partition });
        self.unstored = false;
    }

    /// Forgets what was read, and reads on from `place`.
    pub(super) fn go_to(&mut self, place: LogPlace) -> usize {
        let freed = self.unload();
        self.front = place;
        self.read_end = place;
        self.removed_to = None;
        freed
    }

    /// Gives the memory of everything that was read back; it is read again. Gives the bytes that are free by that.
    pub(super) fn unload(&mut self) -> usize {
        self.queue.clear();
        self.sent = 0;
        self.read_end = self.front;
        // A read under way answers for nothing any more.
        self.reading = None;
        std::mem::take(&mut self.queued_bytes)
    }

    /// From now on another producer writes, from the present place on: it has to be taken, and stored, first.
    pub(super) fn forget_producer(&mut self) {
        self.producer = None;
        self.target = None;
        self.front_sequence = 0;
        self.sent_through = 0;
        self.unstored = false;
    }

    /// Takes what was read up to `end`. Gives the bytes of memory it holds.
    pub(super) fn push(&mut self, batches: Vec<SourceBatch>, end: LogPlace) -> usize {
        let first = self.queue.len();
        for batch in batches {
            if self.queue.is_empty() {
                // A checkpoint that was taken back knows the position alone.
                self.front = batch.start;
                self.oldest_ns = batch.appended_ns;
            }
            self.queue.push_back(Queued { batch, frees_bytes: 0 });
        }
        let held: usize = self.queue.range(first..).map(|queued| BATCH_BYTES + queued.batch.records.len()).sum();
        if let Some(last) = self.queue.back_mut().filter(|_| held > 0) {
            last.frees_bytes = held;
        }
        self.queued_bytes += held;
        self.read_end = end;
        if self.queue.is_empty() {
            self.front = end;
        }
        held
    }

    /// The batch that is to be sent next, and its number.
    pub(super) fn next(&self) -> Option<(u64, &SourceBatch)> {
        let queued = self.queue.get(self.sent)?;
        Some((self.front_sequence + self.sent as u64, &queued.batch))
    }

    /// Takes out every batch through `sequence`: the target has one only if it has all before. Gives the bytes of memory
    /// that are free by that, and what was acked.
    pub(super) fn acked_through(&mut self, sequence: u64) -> (usize, Vec<SourceBatch>) {
        let (mut freed, mut acked) = (0, Vec::new());
        while self.front_sequence <= sequence {
            let Some(Queued { batch, frees_bytes }) = self.queue.pop_front() else { break };
            freed += frees_bytes;
            self.queued_bytes -= frees_bytes;
            self.front = batch.end;
            self.front_sequence += 1;
            self.sent = self.sent.saturating_sub(1);
            self.acked_since += 1;
            acked.push(batch);
        }
        match self.queue.front() {
            Some(next) => self.oldest_ns = next.batch.appended_ns,
            None => {
                // What was read and not queued are control batches.
                self.front = self.read_end;
                self.oldest_ns = 0;
            }
        }
        (freed, acked)
    }

    /// The place up to which everything is acked, as it is to be stored.
    pub(super) fn checkpoint(&self) -> TeeCheckpoint {
        let LogPlace { position, offset, record } = self.front;
        let writing = self.producer.zip(self.target);
        let producer = writing.map(|(producer, _)| producer);
        let (topic, partition) = writing.map_or((TopicId(0), 0), |(_, target)| (target.topic, target.partition));
        let sequence = self.front_sequence;
        TeeCheckpoint { position, offset, record, topic, partition, producer, sequence }
    }

    /// Whether there is more committed than was read.
    pub(super) fn has_more(&self) -> bool {
        self.source.high_watermark.offset > self.read_end.offset
    }
}
