//! What must be true: everything that was promised to anybody, kept outside of the nodes. The checkers of `check` hold
//! what is seen against it.

use super::check::committed::CommittedTruth;
use super::check::decided::DecidedTruth;
use super::check::durable::DurableCursor;
use super::check::losses::Losses;
use super::check::reads::KnownBytes;
use super::check::removals::Removals;
use super::check::replicas::ReplicaTruth;
use super::payload::{Batch, BatchKey};
use lance_messages::id::{TopicId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// What a lane promises about the order of its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneKind {
    /// Sequences and retries: every batch is stored once, in order.
    Idempotent,
    /// Each batch is sent once: stored at most once, those of one connection in order.
    Once,
}

/// A batch that was sent at least once.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Where to.
    pub partition: TopicPartition,
    /// CRC-32 of its payload.
    pub crc: u32,
    /// Bytes of its payload.
    pub bytes: u64,
    /// Records in it.
    pub record_count: u32,
    /// What its lane promises.
    pub lane: LaneKind,
    /// The connection it was first sent on.
    pub connection: u64,
    /// Whether its client was told that it is stored.
    pub acked: bool,
    /// Where, if it was told that too.
    pub offset: Option<u64>,
}

/// What is known of one partition.
#[derive(Debug, Default)]
pub struct PartitionTruth {
    /// The bytes of its stream that anybody was shown.
    pub known: KnownBytes,
    /// The greatest high watermark any client was told.
    pub high_watermark: u64,
    /// The greatest epoch that answered.
    pub epoch: u32,
    /// Behind the last byte whose offset a client was told with its ack.
    pub acked_end: u64,
    /// Offsets of record numbers, as they were looked up.
    pub looked_up: Vec<(u64, u64)>,
    /// How far the durable log was followed.
    pub durable: DurableCursor,
}

/// A topic whose creation was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicTruth {
    /// Its id.
    pub id: TopicId,
    /// Partitions it has at least.
    pub partitions: u16,
    /// Somebody has asked to delete it: it may be gone.
    pub deleting: bool,
}

/// The truth about a simulation.
#[derive(Debug, Default)]
pub struct Oracle {
    /// By partition.
    pub partitions: BTreeMap<TopicPartition, PartitionTruth>,
    /// By name.
    pub topics: BTreeMap<String, TopicTruth>,
    /// Every id that was ever seen, and the name it stands for; an id of a deleted name is never another's.
    pub names: BTreeMap<TopicId, String>,
    /// Topics that are known to be gone.
    pub deleted: BTreeSet<TopicId>,
    /// Producer ids and epochs that were handed out as new.
    pub producers: BTreeSet<u64>,
    /// Every batch.
    pub sent: BTreeMap<BatchKey, Sent>,
    /// The first thing that was not as it must be.
    pub violation: Option<String>,
    /// Bits are flipped: a reply may be damaged, as long as it is not taken for a right one.
    pub damage: bool,
    /// What is known of replicas, when there are several nodes.
    pub replicas: ReplicaTruth,
    /// What is known of the decided metadata.
    pub decided: DecidedTruth,
    /// What several nodes have committed.
    pub committed: CommittedTruth,
    /// Segments that were removed for their age.
    pub removals: Removals,
    /// Replicas that lost what they held.
    pub losses: Losses,
    /// Bytes of all batches.
    pub sent_bytes: u64,
    /// Acks that clients received.
    pub acks: u64,
    /// Bytes that consumers received.
    pub read_bytes: u64,
}

impl Oracle {
    /// Something is wrong; the first report counts.
    pub fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Takes a checker's verdict.
    pub fn judge(&mut self, verdict: Result<(), String>) {
        if let Err(what) = verdict {
            self.violated(what);
        }
    }

    /// What is known of a partition.
    pub fn partition(&mut self, partition: TopicPartition) -> &mut PartitionTruth {
        self.partitions.entry(partition).or_default()
    }

    /// A batch is about to be sent.
    pub fn sending(&mut self, batch: &Batch, partition: TopicPartition, lane: LaneKind, connection: u64) {
        let crc = crc32fast::hash(&batch.payload);
        let sent = Sent {
            partition,
            crc,
            bytes: batch.payload.len() as u64,
            record_count: batch.record_count,
            lane,
            connection,
            acked: false,
            offset: None,
        };
        self.sent.entry(batch.key).or_insert_with(|| {
            self.sent_bytes += sent.bytes;
            sent
        });
    }

    /// A client was told that its batch is stored, and maybe where.
    pub fn acked(&mut self, batch: &Batch, offset: Option<u64>) {
        self.acks += 1;
        let Some(sent) = self.sent.get_mut(&batch.key) else {
            return self.violated(format!("{:?} was acked and never sent", batch.key));
        };
        sent.acked = true;
        if let Some(offset) = offset.filter(|offset| *offset != u64::MAX) {
            let before = *sent.offset.get_or_insert(offset);
            let partition = sent.partition;
            if before != offset {
                let key = batch.key;
                return self.violated(format!("{key:?} was acked at {before} and again at {offset} of {partition}"));
            }
            let truth = self.partition(partition);
            truth.acked_end = truth.acked_end.max(offset + batch.payload.len() as u64);
            let verdict = truth.known.learn(offset, &batch.payload);
            self.judge(verdict.map_err(|what| format!("ack of {:?} in {partition}: {what}", batch.key)));
        }
    }

    /// A client was shown bytes of a partition.
    pub fn shown(&mut self, partition: TopicPartition, offset: u64, data: &[u8]) {
        self.read_bytes += data.len() as u64;
        let verdict = self.partition(partition).known.learn(offset, data);
        self.judge(verdict.map_err(|what| format!("read of {partition}: {what}")));
    }
}
