//! Committed batches as they are stored, for who sends them on as they are.

use super::actor::IngestionActor;
use super::core::IngestionCore;
use super::partition::Leadership;
use actix::prelude::*;
use bytes::Bytes;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::peer::LogPlace;
use lance_storage::log::{Log, LogView, ReplicaRead};
use lance_storage::reader::ReplicaSlice;

/// Asks for batches of a partition that is led here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "Result<CommittedBatches, ErrorCode>")]
pub struct ReadCommitted {
    /// Which one.
    pub partition: TopicPartition,
    /// From where on.
    pub from: CommittedFrom,
    /// Bytes of them, about; one batch at least.
    pub max_bytes: usize,
}

/// Where batches are wanted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommittedFrom {
    /// The log start: only the bounds are wanted.
    Start,
    /// The first batch stored at or after some time: all of the log, to look it up in.
    Look,
    /// This log position, a batch boundary.
    Position(u64),
}

/// What was found.
#[derive(Debug)]
pub struct CommittedBatches {
    /// How far the partition is.
    pub bounds: CommittedBounds,
    /// The batches.
    pub found: CommittedFound,
}

/// How far a partition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommittedBounds {
    /// The first batch boundary that is there.
    pub log_start: LogPlace,
    /// Everything below is committed.
    pub high_watermark: LogPlace,
}

/// Where batches are.
#[derive(Debug)]
pub enum CommittedFound {
    /// Here: whole batches, the last of which may lie above the high watermark.
    Batches(Bytes),
    /// In a segment, to be read on a thread that may wait; as above.
    Segment(ReplicaSlice),
    /// Everything there is, to look a time up in.
    Log(Box<LogView>),
    /// Nothing is committed there yet.
    AtEnd,
    /// It was removed.
    BelowStart,
    /// No batch begins there, or the log ends before.
    NotABoundary,
}

/// Asks how far these partitions are; those that are not led here are left out of the answer.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Vec<(TopicPartition, CommittedBounds)>")]
pub struct ListCommitted {
    /// Which ones.
    pub partitions: Vec<TopicPartition>,
}

fn bounds_of(log: &Log) -> CommittedBounds {
    CommittedBounds { log_start: log.log_start().into(), high_watermark: log.high_watermark().into() }
}

impl IngestionCore {
    fn committed_log(&self, partition: TopicPartition) -> Result<&Log, ErrorCode> {
        let partition = self.partition(partition).ok_or(ErrorCode::NotLeader)?;
        match partition.leadership {
            // Before its epoch has begun a leader may not know yet what is committed.
            Leadership::Waiting | Leadership::Starting { .. } => Err(ErrorCode::Unavailable),
            Leadership::Leading { .. } => partition.log.as_ref().ok_or(ErrorCode::Unavailable),
            Leadership::Following { .. } => Err(ErrorCode::NotLeader),
            Leadership::Stopped { .. } => Err(ErrorCode::StorageOffline),
        }
    }

    /// Finds committed batches.
    pub fn read_committed(&self, read: ReadCommitted) -> Result<CommittedBatches, ErrorCode> {
        let log = self.committed_log(read.partition)?;
        let bounds = bounds_of(log);
        let found = match read.from {
            CommittedFrom::Start => CommittedFound::AtEnd,
            CommittedFrom::Look => CommittedFound::Log(Box::new(log.view())),
            CommittedFrom::Position(position) => self.batches_at(log, position, read.max_bytes),
        };
        Ok(CommittedBatches { bounds, found })
    }

    fn batches_at(&self, log: &Log, position: u64, max_bytes: usize) -> CommittedFound {
        let committed = log.high_watermark().position;
        if position >= committed {
            return if position == committed { CommittedFound::AtEnd } else { CommittedFound::NotABoundary };
        }
        let wanted = usize::try_from(committed - position).unwrap_or(usize::MAX).min(max_bytes);
        match log.replica_read(position, wanted, self.tail_ring()) {
            ReplicaRead::Batches { bytes, .. } => CommittedFound::Batches(bytes),
            ReplicaRead::Segments(slice) => CommittedFound::Segment(slice),
            // What is committed here is written here, or in the ring.
            ReplicaRead::AtEnd => CommittedFound::AtEnd,
            ReplicaRead::BelowStart { .. } => CommittedFound::BelowStart,
            ReplicaRead::NotABoundary => CommittedFound::NotABoundary,
        }
    }
}

impl Handler<ReadCommitted> for IngestionActor {
    type Result = Result<CommittedBatches, ErrorCode>;

    fn handle(&mut self, message: ReadCommitted, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let mut found = Err(ErrorCode::Unavailable);
        self.with_core(ctx, |core, _, _| found = core.read_committed(message));
        found
    }
}

impl Handler<ListCommitted> for IngestionActor {
    type Result = Vec<(TopicPartition, CommittedBounds)>;

    fn handle(&mut self, message: ListCommitted, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let mut found = Vec::new();
        self.with_core(ctx, |core, _, _| {
            let partitions = message.partitions.into_iter();
            found.extend(partitions.filter_map(|it| Some((it, bounds_of(core.committed_log(it).ok()?)))));
        });
        found
    }
}
