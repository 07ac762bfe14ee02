//! Cutting a log, and beginning one anew: for a replica whose leader's log goes another way.
//!
//! Both work on the files of a closed log, and in an order that leaves a log that opens wherever the power fails. A cut
//! first makes what stays durable and saves the state as of the cut in the place of every other (a later one would be
//! believed again once the log has grown past it), then removes the segments behind it, newest first, and at last cuts the
//! one that holds it.

use super::replay::Stop;
use super::{
    Damage, DamageReason, Folder, Found, OpenContext, OpenError, RestartError, TruncateError, finish_closing, list,
    read_states, walk,
};
use crate::checkpoint::replace_file;
use crate::disk::{Disk, DiskError, OpenMode};
use crate::index::IndexEntry;
use crate::log::{EpochStart, Log, LogOptions, RecoveryReport, STATE_FILE};
use crate::producers::ProducerTable;
use crate::producers::state::{State, StateRef};
use crate::segment::{Mark, file_name, remove_files, remove_if_there};
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchError, BatchHeader, BatchSeed};
use lance_messages::id::LeaderEpoch;
use lance_messages::peer::{BelowStart, LogPlace};
use lance_messages::sort_key::SortKey;
use std::sync::Arc;

/// What is known of the log as of a cut.
struct Kept {
    mark: Mark,
    last_sort_key: SortKey,
    segment_base: Mark,
    epochs: Vec<EpochStart>,
    entries: Vec<IndexEntry>,
    producers: ProducerTable,
}

/// Cuts a log at the batch boundary `to_position`, durably; blocking. The log must be closed: nothing may write its files
/// meanwhile, no operation may be in flight, and what lies below `to_position` must have been written. What readers of the
/// old log find is worth nothing from now on, damage included.
///
/// The `flushed` mark of the partition must have been lowered to `to_position` before ([`FlushedFile::lower`]): above the
/// new end it would make the cut look like damage. Not for a log that has latched, whose unsynced bytes nobody can vouch
/// for. After a crash in the middle [`Log::open`] finds the old log or a shorter one that still reaches `to_position`.
///
/// A cut at the log start leaves an empty log that begins there.
///
/// [`FlushedFile::lower`]: crate::checkpoint::FlushedFile::lower
pub fn truncate_log(disk: &Arc<dyn Disk>, options: &LogOptions, to_position: u64) -> Result<(), TruncateError> {
    let mut folder = list(&**disk, &options.dir)?;
    let Some(log_start) = folder.segments.first().map(|first| first.base_position) else {
        return Err(TruncateError::NoLog { dir: options.dir.clone(), to_position });
    };
    if to_position < log_start {
        return Err(TruncateError::BelowStart { log_start, to_position });
    }
    let below = folder.segments.partition_point(|segment| segment.base_position < to_position);
    let behind = folder.segments.split_off(below.max(1));
    let holder = &folder.segments[folder.segments.len() - 1];
    let (path, file_end) = (holder.path.clone(), to_position - holder.base_position);
    let kept = if to_position == log_start {
        kept_at_start(&**disk, options, &folder)?
    } else {
        kept_at(&**disk, options, &mut folder, to_position)?
    };
    let file = disk.open(&path, OpenMode::ReadWrite)?;
    // A saved state says that all below it is durable.
    file.sync()?;
    save(disk, options, &kept)?;
    for segment in behind.iter().rev() {
        remove_files(&**disk, &segment.path)?;
    }
    remove_if_there(&**disk, &path.with_extension("idx"))?;
    file.set_len(file_end)?;
    file.sync()?;
    disk.sync_dir(&options.dir)?;
    Ok(())
}

/// Removes all of a log and begins an empty one at `at`, durably, that knows what its leader said of what lay `below`;
/// blocking. The log must be closed, as for [`truncate_log`], and the `flushed` mark of the partition must have been lowered
/// to 0 before.
///
/// After a crash in the middle [`Log::open`] finds the old log, a shorter one, or an empty one that begins at 0 or at `at`.
pub fn restart_log(
    disk: &Arc<dyn Disk>,
    options: LogOptions,
    at: LogPlace,
    below: &BelowStart,
) -> Result<Log, RestartError> {
    let last_epoch = below.last_epoch.map(|(epoch, position)| EpochStart { epoch, position });
    let epochs = last_epoch.into_iter().filter(|start| start.position < at.position).collect();
    // Without the table retries of those producers are refused, as they are of any that is not known.
    let producers = ProducerTable::from_bytes(&below.producers).unwrap_or_default();
    begin(disk, options, Kept { producers: producers.as_of(at.position), ..Kept::nothing(at.into(), epochs) })
}

/// As [`restart_log`], for a partition whose every copy begins at `at`: nothing that a leader ever committed lies below, which
/// the log tells by an epoch 0 there, as one that begins at 0 does.
pub fn begin_log(disk: &Arc<dyn Disk>, options: LogOptions, at: LogPlace) -> Result<Log, RestartError> {
    let epochs = vec![EpochStart { epoch: LeaderEpoch(0), position: 0 }];
    begin(disk, options, Kept::nothing(at.into(), epochs))
}

fn begin(disk: &Arc<dyn Disk>, options: LogOptions, kept: Kept) -> Result<Log, RestartError> {
    let at = LogPlace::from(kept.mark);
    disk.create_dir_all(&options.dir)?;
    let folder = list(&**disk, &options.dir)?;
    // Before any segment: a log that was left shorter and grew again would take the states for its own.
    remove_if_there(&**disk, &options.dir.join(STATE_FILE))?;
    disk.sync_dir(&options.dir)?;
    for segment in folder.segments.iter().rev() {
        remove_files(&**disk, &segment.path)?;
    }
    for index in &folder.indexes {
        remove_if_there(&**disk, &options.dir.join(index))?;
    }
    disk.sync_dir(&options.dir)?;
    if at.position > 0 {
        // The state first: it alone says at which offset the segment begins.
        save(disk, &options, &kept)?;
        disk.open(&options.dir.join(file_name(at.position)), OpenMode::Create)?.sync()?;
        disk.sync_dir(&options.dir)?;
    }
    let dir = options.dir.clone();
    let (log, report) = Log::open(disk, options, OpenContext::default())?;
    let found = log.log_end_place();
    if found != at || report.offline.is_some() {
        return Err(RestartError::Elsewhere { dir, found, wanted: at });
    }
    Ok(log)
}

impl Kept {
    /// A log without batches that begins at `mark`.
    fn nothing(mark: Mark, epochs: Vec<EpochStart>) -> Self {
        Self {
            mark,
            last_sort_key: SortKey::default(),
            segment_base: mark,
            epochs,
            entries: Vec::new(),
            producers: ProducerTable::default(),
        }
    }
}

fn save(disk: &Arc<dyn Disk>, options: &LogOptions, kept: &Kept) -> Result<(), DiskError> {
    let state = StateRef {
        mark: kept.mark,
        last_sort_key: kept.last_sort_key,
        segment_base: kept.segment_base,
        epochs: &kept.epochs,
        entries: &kept.entries,
        producers: &kept.producers,
    };
    let mut bytes = Vec::new();
    state.encode(&mut bytes, options.partition);
    replace_file(disk, &options.dir.join(STATE_FILE), &bytes)
}

/// What is known as of a position behind the first batch, the base of the last segment of `folder` or behind it.
fn kept_at(
    disk: &dyn Disk,
    options: &LogOptions,
    folder: &mut Folder,
    to_position: u64,
) -> Result<Kept, TruncateError> {
    finish_closing(disk, &mut folder.segments, &mut RecoveryReport::default())?;
    let Some(holder) = folder.segments.last_mut() else {
        return Err(TruncateError::NoLog { dir: options.dir.clone(), to_position });
    };
    let reaches = holder.len >= to_position - holder.base_position;
    holder.len = holder.len.min(to_position - holder.base_position);
    // Below the cut headers are enough, as they are below any mark: records are checked by whoever reads them.
    let context = OpenContext { flushed_position: Some(to_position), ..OpenContext::default() };
    let (_, mut replay) = walk(disk, options, folder, context)?;
    if let Some(stop) = replay.damage {
        return Err(refusal(stop, reaches, to_position));
    }
    let log_start = folder.segments[0].base_position;
    let earlier = below(read_states(disk, options, folder.has_state)?, log_start, to_position);
    replay.producers.inherit(earlier.producers);
    // Without a saved state below the cut, what was read begins with the first batch.
    if replay.epochs.first().is_some_and(|first| first.position >= log_start) {
        let known = replay.epochs.first().map_or(LeaderEpoch(0), |first| first.epoch);
        let first_is_older = earlier.epochs.last().is_some_and(|last| last.epoch == known);
        replay.epochs.splice(..usize::from(first_is_older), earlier.epochs);
    }
    Ok(Kept {
        mark: replay.end,
        last_sort_key: replay.last_sort_key,
        segment_base: replay.segment_base,
        epochs: replay.epochs,
        entries: replay.index.entries().to_vec(),
        producers: replay.producers,
    })
}

/// Why the batches below a cut do not lead up to it.
fn refusal(stop: Stop, reaches: bool, to_position: u64) -> TruncateError {
    match stop.reason {
        DamageReason::Header(BatchError::Empty) | DamageReason::Short { left: 0, .. } => {
            TruncateError::BeyondEnd { log_end: stop.position, to_position }
        }
        DamageReason::Short { .. } | DamageReason::Header(BatchError::Short { .. }) if reaches => {
            TruncateError::NotABoundary { batch_position: stop.position, to_position }
        }
        reason => {
            let Stop { path, file_offset, position, .. } = stop;
            let damage = Damage { path, file_offset, position, durable_position: to_position, reason };
            TruncateError::Damaged { to_position, damage }
        }
    }
}

/// What is known as of the first batch.
fn kept_at_start(disk: &dyn Disk, options: &LogOptions, folder: &Folder) -> Result<Kept, TruncateError> {
    let first = &folder.segments[0];
    let log_start = first.base_position;
    let states = read_states(disk, options, folder.has_state)?;
    let begins_here = |mark: &Mark| mark.position == log_start;
    let saved = states.iter().flat_map(|state| [state.segment_base, state.mark]).find(begins_here);
    let mark = match saved {
        Some(mark) => mark,
        None if log_start == 0 => Mark::default(),
        None => first_mark(disk, options, first)?.ok_or(TruncateError::UnknownStart { log_start })?,
    };
    let Earlier { epochs, producers } = below(states, log_start, log_start);
    Ok(Kept { producers, ..Kept::nothing(mark, epochs) })
}

/// What the segments do not tell of a log that is cut.
struct Earlier {
    /// The epochs that began below the first segment.
    epochs: Vec<EpochStart>,
    /// The producers as of the cut, those included that wrote nothing since the first segment began.
    producers: ProducerTable,
}

/// What the newest saved state, wherever it stands, says of a log that begins at `log_start` and is cut at `to_position`.
fn below(states: Vec<State>, log_start: u64, to_position: u64) -> Earlier {
    let (mut epochs, producers) = match states.into_iter().next() {
        Some(newest) => (newest.epochs, newest.producers.as_of(to_position)),
        None => (Vec::new(), ProducerTable::default()),
    };
    epochs.retain(|epoch| epoch.position < log_start);
    Earlier { epochs, producers }
}

/// Where the first batch of a segment says it begins.
fn first_mark(disk: &dyn Disk, options: &LogOptions, first: &Found) -> Result<Option<Mark>, OpenError> {
    let mut raw = [0; BATCH_HEADER_BYTES];
    let read = disk.open(&first.path, OpenMode::Read)?.read_uncached_at(&mut raw, 0)?;
    let header = BatchHeader::decode(&raw[..read], BatchSeed::new(options.partition)).ok();
    let header = header.filter(|header| header.position == first.base_position);
    Ok(header.map(|header| Mark { position: header.position, offset: header.base_offset, record: header.base_record }))
}
