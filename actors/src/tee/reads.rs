//! Reading the source: from the ring of recent batches or from segments, on a thread that may wait.

use super::actor::TeeActor;
use super::core::flow::{SourceBatch, SourceBounds};
use super::core::{ReadFrom, ReadOutcome};
use crate::ingestion::actor::IngestionActor;
use crate::ingestion::committed::{
    CommittedBatches, CommittedBounds, CommittedFound, CommittedFrom, ListCommitted, ReadCommitted,
};
use crate::ingestion::damage::{self, DamageFound};
use crate::mailbox::Mailbox;
use crate::outbound::LinkPiece;
use crate::sendfile::FileRange;
use bytes::Bytes;
use lance_messages::batch::BatchHeader;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::peer::LogPlace;
use lance_storage::disk::Disk;
use lance_storage::log::LogView;
use lance_storage::reader::{Lookup, Piece, PlacedBatch, Reader, ReplicaSlice, split_batches};
use std::sync::Arc;

/// Segments that one read keeps open.
const OPEN_FILES: usize = 2;

impl TeeActor {
    pub(super) fn read(
        &self,
        partition: TopicPartition,
        from: ReadFrom,
        max_bytes: usize,
        in_files: bool,
    ) -> impl Future<Output = ReadOutcome> + use<> {
        let disk = Arc::clone(&self.setup.disk);
        let wanted = match from {
            ReadFrom::Start => CommittedFrom::Start,
            ReadFrom::Time(_) => CommittedFrom::Look,
            ReadFrom::Position(position) => CommittedFrom::Position(position),
        };
        let shard = self.shard(partition).cloned();
        let asked = shard.map(|shard| (shard.send(ReadCommitted { partition, from: wanted, max_bytes }), shard));
        async move {
            let Some((asked, shard)) = asked else { return failed("no shard has the partition", true) };
            match asked.await {
                Ok(Ok(CommittedBatches { bounds, found })) => {
                    let reading = Reading { disk, shard, partition, from, max_bytes, in_files };
                    reading.finish(source_bounds(bounds), found).await
                }
                Ok(Err(code)) => failed(code.text(), code == ErrorCode::StorageOffline),
                Err(error) => failed(&error.to_string(), false),
            }
        }
    }

    pub(super) fn look(
        &self,
        partitions: Vec<TopicPartition>,
    ) -> impl Future<Output = Vec<(TopicPartition, SourceBounds)>> + use<> {
        let mut by_shard: Vec<Vec<TopicPartition>> = vec![Vec::new(); self.setup.shards.len()];
        for partition in partitions {
            let shard = crate::network::session::shard_of(partition, self.setup.shards.len() as u16);
            if let Some(of_shard) = by_shard.get_mut(usize::from(shard)) {
                of_shard.push(partition);
            }
        }
        let asked = self.setup.shards.iter().zip(by_shard).filter(|(_, partitions)| !partitions.is_empty());
        let asked: Vec<_> = asked.map(|(shard, partitions)| shard.send(ListCommitted { partitions })).collect();
        async move {
            let mut found = Vec::new();
            for answer in asked {
                // A shard that recovers says nothing of its partitions.
                found.extend(answer.await.unwrap_or_default());
            }
            found.into_iter().map(|(partition, bounds)| (partition, source_bounds(bounds))).collect()
        }
    }
}

fn failed(reason: &str, stuck: bool) -> ReadOutcome {
    ReadOutcome::Failed { reason: format!("the source cannot be read: {reason}"), stuck }
}

fn source_bounds(bounds: CommittedBounds) -> SourceBounds {
    SourceBounds { log_start: bounds.log_start, high_watermark: bounds.high_watermark }
}

/// A read behind the shard, which has said where to read.
struct Reading {
    disk: Arc<dyn Disk>,
    shard: Mailbox<IngestionActor>,
    partition: TopicPartition,
    from: ReadFrom,
    max_bytes: usize,
    in_files: bool,
}

/// What a segment gave.
enum SegmentBatches {
    /// Whole batches, checked.
    Memory(Bytes),
    /// Batches of which large ones lie in their file, unchecked.
    Placed(Vec<PlacedBatch>),
}

impl Reading {
    async fn finish(self, bounds: SourceBounds, found: CommittedFound) -> ReadOutcome {
        let end = bounds.high_watermark;
        match (found, self.from) {
            (CommittedFound::Batches(bytes), _) => batches(bytes, self.partition, bounds),
            (CommittedFound::Segment(slice), _) => {
                let partition = self.partition;
                match self.read_segment(slice).await {
                    Ok(SegmentBatches::Memory(bytes)) => batches(bytes, partition, bounds),
                    Ok(SegmentBatches::Placed(placed)) => committed(placed.into_iter().map(place), bounds),
                    Err(reason) => failed(&reason, true),
                }
            }
            (CommittedFound::Log(log), ReadFrom::Time(at_ns)) => match find(self.disk, log, at_ns).await {
                Ok(place) => ReadOutcome::Place { bounds, place: place.unwrap_or(end) },
                Err(reason) => failed(&reason, true),
            },
            (CommittedFound::AtEnd, ReadFrom::Position(_)) => ReadOutcome::Batches { bounds, batches: Vec::new(), end },
            (CommittedFound::BelowStart, _) => ReadOutcome::BelowStart { bounds },
            (CommittedFound::NotABoundary, ReadFrom::Position(position)) => {
                failed(&format!("no batch begins at log position {position}"), true)
            }
            (CommittedFound::AtEnd | CommittedFound::Log(_) | CommittedFound::NotABoundary, _) => {
                ReadOutcome::Place { bounds, place: bounds.log_start }
            }
        }
    }

    async fn read_segment(self, slice: ReplicaSlice) -> Result<SegmentBatches, String> {
        let Self { disk, shard, max_bytes, in_files, .. } = self;
        // What a reader knows of files does not outlive this read: logs are removed, and begun anew.
        let read = move || {
            let mut reader = Reader::new(&disk, OPEN_FILES);
            if in_files && let Some(placed) = slice.place(&mut reader, max_bytes) {
                return Ok(SegmentBatches::Placed(placed));
            }
            slice.read(&mut reader, max_bytes).map(SegmentBatches::Memory).map_err(|error| {
                if let Some(good_end) = error.good_end() {
                    damage::report(&[shard], DamageFound { segment: Arc::clone(slice.segment()), good_end });
                }
                error.to_string()
            })
        };
        actix_rt::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

async fn find(disk: Arc<dyn Disk>, log: Box<LogView>, at_ns: u64) -> Result<Option<LogPlace>, String> {
    let look = move || {
        let found = Reader::new(&disk, OPEN_FILES).find(&log.slices, Lookup::AppendTime(at_ns));
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.map(|found| LogPlace { position: found.position, offset: found.offset, record: found.record }))
    };
    actix_rt::task::spawn_blocking(look).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Takes apart what was read; what is not committed yet is read again later.
fn batches(bytes: Bytes, partition: TopicPartition, bounds: SourceBounds) -> ReadOutcome {
    match split_batches(&bytes, partition) {
        Ok(all) => committed(all.into_iter().map(|batch| (batch.header, batch.records.into())), bounds),
        Err(error) => failed(&error.to_string(), true),
    }
}

fn place(batch: PlacedBatch) -> (BatchHeader, LinkPiece) {
    let records = match batch.records {
        Piece::Inline(bytes) => LinkPiece::Memory(bytes),
        Piece::File { file, file_offset, len } => LinkPiece::File(FileRange { file, file_offset, len }),
    };
    (batch.header, records)
}

fn committed(all: impl Iterator<Item = (BatchHeader, LinkPiece)>, bounds: SourceBounds) -> ReadOutcome {
    let is_committed = |header: &BatchHeader| header.end_position() <= bounds.high_watermark.position;
    let (mut batches, mut end) = (Vec::new(), None);
    for (header, records) in all.take_while(|(header, _)| is_committed(header)) {
        let (position, offset, record) = (header.position, header.base_offset, header.base_record);
        let start = LogPlace { position, offset, record };
        let behind =
            LogPlace { position: header.end_position(), offset: header.end_offset(), record: header.end_record() };
        end = Some(behind);
        if !header.flags.is_control() {
            batches.push(SourceBatch {
                start,
                end: behind,
                records,
                records_crc: header.records_crc,
                record_count: header.record_count,
                codec: header.flags.codec(),
                plain_len: header.plain_len,
                timestamp_ns: header.max_timestamp_ns,
                appended_ns: header.sort_key.timestamp_ns(),
            });
        }
    }
    match end {
        Some(end) => ReadOutcome::Batches { bounds, batches, end },
        None => failed("what is committed ends inside a batch", false),
    }
}
