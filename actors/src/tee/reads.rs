//! Reading the source: from the ring of recent batches or from segments, on a thread that may wait.

use super::actor::TeeActor;
use super::core::flow::{SourceBatch, SourceBounds};
use super::core::{ReadFrom, ReadOutcome};
use crate::ingestion::committed::{
    CommittedBatches, CommittedBounds, CommittedFound, CommittedFrom, ListCommitted, ReadCommitted,
};
use bytes::Bytes;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::peer::{LogPlace, ReplicaBatch};
use lance_storage::disk::Disk;
use lance_storage::log::LogView;
use lance_storage::reader::{Lookup, Reader, ReplicaSlice, split_batches};
use std::sync::Arc;

/// Segments that one read keeps open.
const OPEN_FILES: usize = 2;

impl TeeActor {
    pub(super) fn read(
        &self,
        partition: TopicPartition,
        from: ReadFrom,
        max_bytes: usize,
    ) -> impl Future<Output = ReadOutcome> + use<> {
        let disk = Arc::clone(&self.setup.disk);
        let wanted = match from {
            ReadFrom::Start => CommittedFrom::Start,
            ReadFrom::Time(_) => CommittedFrom::Look,
            ReadFrom::Position(position) => CommittedFrom::Position(position),
        };
        let asked = self.shard(partition).map(|shard| shard.send(ReadCommitted { partition, from: wanted, max_bytes }));
        async move {
            let Some(asked) = asked else { return failed("no shard has the partition", true) };
            match asked.await {
                Ok(Ok(CommittedBatches { bounds, found })) => {
                    finish(disk, partition, from, source_bounds(bounds), found, max_bytes).await
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

async fn finish(
    disk: Arc<dyn Disk>,
    partition: TopicPartition,
    from: ReadFrom,
    bounds: SourceBounds,
    found: CommittedFound,
    max_bytes: usize,
) -> ReadOutcome {
    let end = bounds.high_watermark;
    match (found, from) {
        (CommittedFound::Batches(bytes), _) => batches(bytes, partition, bounds),
        (CommittedFound::Segment(slice), _) => match read_segment(disk, slice, max_bytes).await {
            Ok(bytes) => batches(bytes, partition, bounds),
            Err(reason) => failed(&reason, true),
        },
        (CommittedFound::Log(log), ReadFrom::Time(at_ns)) => match find(disk, log, at_ns).await {
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

async fn read_segment(disk: Arc<dyn Disk>, slice: ReplicaSlice, max_bytes: usize) -> Result<Bytes, String> {
    // What a reader knows of files does not outlive this read: logs are removed, and begun anew.
    let read = move || slice.read(&mut Reader::new(&disk, OPEN_FILES), max_bytes).map_err(|error| error.to_string());
    actix_rt::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
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
    let all = match split_batches(&bytes, partition) {
        Ok(all) => all,
        Err(error) => return failed(&error.to_string(), true),
    };
    let committed = |batch: &ReplicaBatch| batch.header.end_position() <= bounds.high_watermark.position;
    let (mut batches, mut end) = (Vec::with_capacity(all.len()), None);
    for ReplicaBatch { header, records, .. } in all.into_iter().take_while(committed) {
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
