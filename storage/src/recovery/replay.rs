//! Walking through the batches from the newest saved state to the end of the log.

use super::{DamageReason, Found, OpenError, Window};
use crate::disk::{BLOCK, Disk, OpenMode};
use crate::index::IndexBuilder;
use crate::log::{EpochStart, LogOptions, OpenContext};
use crate::producers::ProducerTable;
use crate::producers::state::State;
use crate::segment::Mark;
use lance_messages::batch::{BATCH_HEADER_BYTES, BATCH_TYPE, BATCH_VERSION, BatchError, BatchHeader, BatchSeed};
use lance_messages::id::LeaderEpoch;
use lance_messages::sort_key::SortKey;
use std::path::{Path, PathBuf};

/// Batches from this size on are hopped over without reading what is between their headers.
const FAR_BATCH_BYTES: u64 = 32 * 1024;

/// The first batch that is not what belongs there.
pub(super) struct Stop {
    pub(super) path: PathBuf,
    pub(super) file_offset: u64,
    pub(super) position: u64,
    pub(super) reason: DamageReason,
}

/// Everything the walk found out.
pub(super) struct Replay {
    pub(super) end: Mark,
    /// Known to be durable before anything was read.
    pub(super) durable_position: u64,
    pub(super) last_sort_key: SortKey,
    pub(super) epochs: Vec<EpochStart>,
    pub(super) producers: ProducerTable,
    /// Entries of the segment the log ends in.
    pub(super) index: IndexBuilder,
    /// The base of that segment, and its number among those found.
    pub(super) segment_base: Mark,
    pub(super) segment_number: usize,
    pub(super) state_range: Option<(u64, u64)>,
    pub(super) state_position: u64,
    pub(super) batches: u64,
    /// Whether it is known which offset and record number the log begins with, before any batch was read.
    pub(super) start_known: bool,
    /// The bad batch that makes the log offline.
    pub(super) damage: Option<Stop>,
    /// The bad batch that is torn, and where its remains end in the newest file.
    pub(super) torn_end: Option<u64>,
}

impl Replay {
    /// Walks through the log; `damage` was found before, behind the last of `segments`.
    pub(super) fn run(
        disk: &dyn Disk,
        options: &LogOptions,
        segments: &[Found],
        bases: &[BatchHeader],
        states: Vec<State>,
        context: OpenContext,
        damage: Option<Stop>,
    ) -> Result<Self, OpenError> {
        let newest = &segments[segments.len() - 1];
        let reach = damage.as_ref().map_or(newest.base_position + newest.len, |stop| stop.position);
        let start_position = segments[0].base_position;
        // A state that this log never reached, or left behind, says nothing about it.
        let state = states.into_iter().find(|state| (start_position..=reach).contains(&state.mark.position));
        let flushed = context.flushed_position.unwrap_or_default();
        let saved = state.as_ref().map_or(0, |state| state.mark.position);
        let mut replay = Self::from_state(options, segments, bases, state);
        let proved = if damage.is_some() { reach } else { newest.base_position };
        replay.durable_position = flushed.max(saved).max(proved);
        replay.damage = damage;
        let first = segments.partition_point(|segment| segment.base_position <= replay.end.position).max(1) - 1;
        let written = context.written_position.map(|written| written.max(replay.durable_position));
        for number in first..segments.len() {
            let segment = &segments[number];
            let last = number + 1 == segments.len() && replay.damage.is_none();
            replay.enter(options, segment, number, bases.get(number));
            let stop = replay.walk(disk, options, segment, last, written)?;
            if let Some(stop) = stop {
                replay.damage = Some(stop);
                break;
            }
        }
        // The log was durable further than it reaches: the rest is gone.
        if replay.damage.is_none() && replay.end.position < replay.durable_position {
            let needed = replay.durable_position - replay.end.position;
            let reason = DamageReason::Short { needed, left: 0 };
            let file_offset = replay.end.position - replay.segment_base.position;
            let path = segments[replay.segment_number].path.clone();
            replay.damage = Some(Stop { path, file_offset, position: replay.end.position, reason });
        }
        Ok(replay)
    }

    fn from_state(options: &LogOptions, segments: &[Found], bases: &[BatchHeader], state: Option<State>) -> Self {
        let base = |first: &BatchHeader| Mark {
            position: first.position,
            offset: first.base_offset,
            record: first.base_record,
        };
        let start = bases.first().map_or(Mark { position: segments[0].base_position, ..Mark::default() }, base);
        let start_known = state.is_some() || !bases.is_empty() || start.position == 0;
        let mut replay = Self {
            end: start,
            durable_position: 0,
            last_sort_key: SortKey::default(),
            epochs: Vec::new(),
            producers: ProducerTable::default(),
            index: IndexBuilder::new(options.index_interval_bytes),
            segment_base: start,
            segment_number: 0,
            state_range: None,
            state_position: 0,
            batches: 0,
            start_known,
            damage: None,
            torn_end: None,
        };
        if let Some(state) = state {
            replay.end = state.mark;
            replay.last_sort_key = state.last_sort_key;
            replay.epochs = state.epochs;
            replay.producers = state.producers;
            replay.segment_base = state.segment_base;
            replay.index.restore(state.entries);
            replay.state_range = Some(state.file_range);
            replay.state_position = state.mark.position;
        }
        replay
    }

    /// Begins with a segment: in the middle of it when a saved state stands there.
    fn enter(&mut self, options: &LogOptions, segment: &Found, number: usize, first: Option<&BatchHeader>) {
        self.segment_number = number;
        if self.end.position == segment.base_position {
            self.segment_base = self.end;
            self.index = IndexBuilder::new(options.index_interval_bytes);
        } else if self.segment_base.position != segment.base_position {
            // The state was saved when the segment was thought to end: its own first batch says how it began.
            self.index = IndexBuilder::new(options.index_interval_bytes);
            if let Some(first) = first {
                self.segment_base =
                    Mark { position: first.position, offset: first.base_offset, record: first.base_record };
                self.index.note(first.position, first.base_offset, first);
            }
        }
    }

    /// Walks to the end of a segment; in the newest, what follows the last good batch is judged, up to where it was `written`.
    fn walk(
        &mut self,
        disk: &dyn Disk,
        options: &LogOptions,
        segment: &Found,
        newest: bool,
        written: Option<u64>,
    ) -> Result<Option<Stop>, OpenError> {
        let file = disk.open(&segment.path, OpenMode::Read)?;
        let written = written.filter(|_| newest).map(|written| written.saturating_sub(segment.base_position));
        let len = written.map_or(segment.len, |bytes| segment.len.min(bytes.next_multiple_of(BLOCK as u64)));
        let mut window = Window::new(&*file, len);
        let seed = BatchSeed::new(options.partition);
        if self.segment_base.position != segment.base_position {
            self.learn_base(&mut window, segment, seed)?;
        }
        while self.end.position < segment.base_position + len {
            let file_offset = self.end.position - segment.base_position;
            let reason = match self.next(&mut window, file_offset, seed)? {
                Ok(header) => {
                    self.note(&header);
                    continue;
                }
                Err(reason) => reason,
            };
            refuse_unknown_version(&segment.path, file_offset, &reason)?;
            let stop = Stop { path: segment.path.clone(), file_offset, position: self.end.position, reason };
            return if newest { self.judge(&mut window, segment, seed, stop) } else { Ok(Some(stop)) };
        }
        Ok(None)
    }

    /// The base of the newest segment, when the state was saved as of its end.
    fn learn_base(&mut self, window: &mut Window<'_>, segment: &Found, seed: BatchSeed) -> Result<(), OpenError> {
        let bytes = window.bytes(0, BATCH_HEADER_BYTES as u64)?;
        if let Ok(first) = BatchHeader::decode(bytes, seed) {
            self.segment_base =
                Mark { position: segment.base_position, offset: first.base_offset, record: first.base_record };
            self.index.note(first.position, first.base_offset, &first);
        }
        Ok(())
    }

    /// The batch at the end of what is known; its records are checked where they may not have been durable.
    fn next(
        &mut self,
        window: &mut Window<'_>,
        file_offset: u64,
        seed: BatchSeed,
    ) -> Result<Result<BatchHeader, DamageReason>, OpenError> {
        let header = match BatchHeader::decode(window.bytes(file_offset, BATCH_HEADER_BYTES as u64)?, seed) {
            Ok(header) => header,
            Err(reason) => return Ok(Err(DamageReason::Header(reason))),
        };
        if let Some(reason) = self.check_chain(&header) {
            return Ok(Err(reason));
        }
        let left = window.file_len() - file_offset;
        if header.batch_bytes() > left {
            return Ok(Err(DamageReason::Short { needed: header.batch_bytes(), left }));
        }
        window.near = header.batch_bytes() < FAR_BATCH_BYTES || header.end_position() > self.durable_position;
        if header.end_position() > self.durable_position
            && let Some(reason) = check_records(window, file_offset, &header)?
        {
            return Ok(Err(reason));
        }
        Ok(Ok(header))
    }

    /// Whether it is known which offset and record number stand at the end.
    pub(super) fn knows_offset(&self) -> bool {
        self.start_known || self.batches > 0
    }

    fn check_chain(&self, header: &BatchHeader) -> Option<DamageReason> {
        let last_epoch = self.epochs.last().map_or(LeaderEpoch(0), |start| start.epoch);
        let first = header.position == self.segment_base.position;
        let chain = |field, found: u64, expected: u64| Some(DamageReason::Chain { field, found, expected });
        // Below the first batch of the log nothing says what it must continue.
        let known = self.knows_offset();
        if header.position != self.end.position {
            chain("position", header.position, self.end.position)
        } else if known && header.base_offset != self.end.offset {
            chain("base offset", header.base_offset, self.end.offset)
        } else if known && header.base_record != self.end.record {
            chain("base record", header.base_record, self.end.record)
        } else if header.leader_epoch < last_epoch {
            chain("leader epoch", header.leader_epoch.0.into(), last_epoch.0.into())
        } else if header.flags.starts_segment() != first {
            chain("starts-segment flag", header.flags.starts_segment().into(), first.into())
        } else {
            None
        }
    }

    fn note(&mut self, header: &BatchHeader) {
        if header.position == self.segment_base.position {
            self.segment_base.offset = header.base_offset;
            self.segment_base.record = header.base_record;
        }
        self.index.note(self.segment_base.position, self.segment_base.offset, header);
        self.producers.note(header);
        if self.epochs.last().is_none_or(|start| start.epoch < header.leader_epoch) {
            self.epochs.push(EpochStart { epoch: header.leader_epoch, position: header.position });
        }
        self.last_sort_key = self.last_sort_key.max(header.sort_key);
        self.end = Mark { position: header.end_position(), offset: header.end_offset(), record: header.end_record() };
        self.batches += 1;
    }

    /// Damage, a torn tail, or simply the end of what was written.
    fn judge(
        &mut self,
        window: &mut Window<'_>,
        segment: &Found,
        seed: BatchSeed,
        stop: Stop,
    ) -> Result<Option<Stop>, OpenError> {
        if stop.position < self.durable_position {
            return Ok(Some(stop));
        }
        window.near = true;
        let data_end = window.end_of_data(stop.file_offset)?;
        let committed = committed_beyond(window, segment, seed, stop.file_offset, data_end)?;
        if committed > stop.position {
            self.durable_position = self.durable_position.max(committed);
            return Ok(Some(stop));
        }
        if data_end > stop.file_offset {
            // Cut, the log would go on from an offset that nobody knows.
            if !self.knows_offset() {
                return Ok(Some(stop));
            }
            self.torn_end = Some(data_end);
        }
        Ok(None)
    }
}

/// The greatest high watermark that valid batches behind a bad one speak of.
fn committed_beyond(
    window: &mut Window<'_>,
    segment: &Found,
    seed: BatchSeed,
    bad: u64,
    data_end: u64,
) -> Result<u64, OpenError> {
    let mut committed = 0;
    let mut at = bad + 1;
    while at + BATCH_HEADER_BYTES as u64 <= data_end {
        let piece = window.rest(at, BATCH_HEADER_BYTES as u64)?;
        let Some(skip) = piece.iter().position(|byte| *byte == BATCH_TYPE) else {
            at += (piece.len() as u64).max(1);
            continue;
        };
        at += skip as u64;
        let found = header_at(window, segment, seed, at)?;
        match found {
            Some(header) if check_records(window, at, &header)?.is_none() => {
                committed = committed.max(header.committed_through);
                at += header.batch_bytes();
            }
            _ => at += 1,
        }
    }
    Ok(committed)
}

fn header_at(
    window: &mut Window<'_>,
    segment: &Found,
    seed: BatchSeed,
    file_offset: u64,
) -> Result<Option<BatchHeader>, OpenError> {
    let bytes = window.bytes(file_offset, BATCH_HEADER_BYTES as u64)?;
    let position = segment.base_position + file_offset;
    // Cheap tests first: any byte of a record may look like the type of a header.
    let plausible = bytes.get(5) == Some(&BATCH_VERSION) && bytes.get(16..24) == Some(&position.to_le_bytes());
    Ok(if plausible { BatchHeader::decode(bytes, seed).ok() } else { None })
}

/// What is wrong with the records of a batch, if anything is.
fn check_records(
    window: &mut Window<'_>,
    file_offset: u64,
    header: &BatchHeader,
) -> Result<Option<DamageReason>, OpenError> {
    let needed = u64::from(header.stored_len);
    let stored = window.bytes(file_offset + BATCH_HEADER_BYTES as u64, needed)?;
    if (stored.len() as u64) < needed {
        return Ok(Some(DamageReason::Short { needed, left: stored.len() as u64 }));
    }
    let computed = crc32fast::hash(stored);
    let stored = header.records_crc;
    Ok((computed != stored).then_some(DamageReason::Records { stored, computed }))
}

/// What is wrong with the first batch of a closed segment, if anything is.
pub(super) fn check_first(
    header: &BatchHeader,
    base_position: u64,
    before: Option<&BatchHeader>,
) -> Option<DamageReason> {
    let chain = |field, found: u64, expected: u64| Some(DamageReason::Chain { field, found, expected });
    if header.position != base_position {
        chain("position", header.position, base_position)
    } else if !header.flags.starts_segment() {
        chain("starts-segment flag", 0, 1)
    } else if let Some(before) = before.filter(|before| header.base_offset < before.base_offset) {
        chain("base offset", header.base_offset, before.base_offset)
    } else {
        None
    }
}

/// A batch of another version is no damage: whoever wrote it knows how to read it.
pub(super) fn refuse_unknown_version(path: &Path, file_offset: u64, reason: &DamageReason) -> Result<(), OpenError> {
    match reason {
        DamageReason::Header(BatchError::UnknownVersion { found }) => {
            Err(OpenError::UnknownVersion { path: path.to_owned(), file_offset, version: *found })
        }
        _ => Ok(()),
    }
}
