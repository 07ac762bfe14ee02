//! Making a log of what recovery found: cut, sync, and only then report an end.

use super::replay::Replay;
use super::{
    BLOCK, Damage, Disk, DiskFile, Folder, Found, Mark, OpenError, OpenMode, RecoveryReport, Segment, SegmentEnd,
};
use crate::index::IndexBuilder;
use crate::log::{Log, LogOptions, LogParts, OpenContext};
use crate::producers::ProducerTable;
use lance_messages::batch::BatchHeader;
use lance_messages::sort_key::SortKey;
use std::collections::VecDeque;
use std::sync::Arc;

/// A log without any batch.
pub(super) fn fresh(disk: &Arc<dyn Disk>, options: LogOptions, file: Arc<dyn DiskFile>) -> Log {
    let index = IndexBuilder::new(options.index_interval_bytes);
    Log::from_parts(LogParts {
        disk: Arc::clone(disk),
        active: Segment::new(&options.dir, options.partition, Mark::default()),
        options,
        closed: VecDeque::new(),
        file,
        file_len: 0,
        partial: Vec::new(),
        index,
        start: Mark::default(),
        end: Mark::default(),
        last_sort_key: SortKey::default(),
        epochs: Vec::new(),
        producers: ProducerTable::default(),
        state_exists: false,
        state_range: None,
        state_position: 0,
        offline: None,
    })
}

pub(super) fn finish(
    disk: &Arc<dyn Disk>,
    options: LogOptions,
    context: OpenContext,
    folder: Folder,
    bases: Vec<BatchHeader>,
    mut replay: Replay,
    mut report: RecoveryReport,
) -> Result<(Log, RecoveryReport), OpenError> {
    let last = &folder.segments[replay.segment_number];
    let file = disk.open(&last.path, OpenMode::ReadWrite)?;
    let file_end = replay.end.position - last.base_position;
    let mut file_len = last.len;
    report.log_end = replay.end.position;
    report.replayed_batches = replay.batches;
    let offline = replay.damage.take().map(|stop| Damage {
        path: stop.path,
        file_offset: stop.file_offset,
        position: stop.position,
        durable_position: replay.durable_position.max(stop.position),
        reason: stop.reason,
    });
    if let Some(damage) = &offline {
        report.offline = Some(damage.clone());
    } else {
        if let Some(torn_end) = replay.torn_end {
            report.truncated_bytes = torn_end - file_end;
            file.set_len(file_end)?;
            file_len = file_end;
        }
        // Nothing above the mark was reported to be durable before: it is made so now. An empty segment may have been made
        // by a step whose sync of the folder failed: no mark speaks for its name.
        let empty = replay.end.position == last.base_position;
        if empty || replay.torn_end.is_some() || context.flushed_position != Some(replay.end.position) {
            file.sync()?;
            disk.sync_dir(&options.dir)?;
        }
        remove_index_of(&**disk, &options, &folder, last)?;
    }
    let partial = read_partial(&*file, file_end)?;
    replay.producers.expire(context.now_ns);
    let closed = closed_segments(&options, &folder.segments[..replay.segment_number], &bases, &replay);
    let start = closed.front().map_or(replay.segment_base, |segment| segment.base());
    let log = Log::from_parts(LogParts {
        disk: Arc::clone(disk),
        active: Segment::new(&options.dir, options.partition, replay.segment_base),
        options,
        closed,
        file,
        file_len,
        partial,
        index: replay.index,
        start,
        end: replay.end,
        last_sort_key: replay.last_sort_key,
        epochs: replay.epochs,
        producers: replay.producers,
        state_exists: folder.has_state,
        state_range: replay.state_range,
        state_position: replay.state_position,
        offline: offline.map(Arc::new),
    });
    Ok((log, report))
}

/// A segment that is written again loses the index of a closing that never came to its end.
fn remove_index_of(disk: &dyn Disk, options: &LogOptions, folder: &Folder, active: &Found) -> Result<(), OpenError> {
    let path = active.path.with_extension("idx");
    let name = path.file_name().and_then(|name| name.to_str());
    if folder.indexes.iter().any(|index| Some(index.as_str()) == name) {
        disk.remove_file(&path)?;
        disk.sync_dir(&options.dir)?;
    }
    Ok(())
}

/// The bytes of the last block that is not full: the next group writes them again.
fn read_partial(file: &dyn DiskFile, file_end: u64) -> Result<Vec<u8>, OpenError> {
    let bytes = (file_end % BLOCK as u64) as usize;
    let mut partial = vec![0; bytes];
    if bytes > 0 {
        let read = file.read_uncached_at(&mut partial, file_end - bytes as u64)?;
        partial.truncate(read);
    }
    Ok(partial)
}

fn closed_segments(
    options: &LogOptions,
    found: &[Found],
    bases: &[BatchHeader],
    replay: &Replay,
) -> VecDeque<Arc<Segment>> {
    let mark = |header: &BatchHeader| Mark {
        position: header.position,
        offset: header.base_offset,
        record: header.base_record,
    };
    let mut closed = VecDeque::with_capacity(found.len());
    for (number, first) in bases.iter().enumerate().take(found.len()) {
        let next = bases.get(number + 1).filter(|_| number + 1 < found.len());
        let end = match next {
            Some(next) => SegmentEnd { mark: mark(next), last_append_ns: next.sort_key.timestamp_ns() },
            None => SegmentEnd { mark: replay.segment_base, last_append_ns: replay.last_sort_key.timestamp_ns() },
        };
        let segment = Segment::new(&options.dir, options.partition, mark(first));
        segment.close(end);
        closed.push_back(Arc::new(segment));
    }
    closed
}
