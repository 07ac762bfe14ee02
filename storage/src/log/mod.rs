//! One partition's log: what is appended, written, durable, committed and readable. It has no thread and no clock, and
//! blocks only while it is opened.
//!
//! Its owner appends batches, hands the steps of [`Log::take_flush`] to the poller one at a time, and gives their
//! completions to [`Log::complete`]. Reading answers from the tail ring or names the part of a segment to read.

use crate::disk::{Chunk, Disk, DiskFile};
use crate::flush::SegmentBuffer;
use crate::index::IndexBuilder;
use crate::producers::ProducerTable;
use crate::retention::SegmentFacts;
use crate::segment::{Mark, Segment, SegmentEnd};
use crate::tail::TailNumber;
use lance_messages::batch::{BatchFlags, BatchSeed, ProducerSequence};
use lance_messages::id::{LeaderEpoch, TopicPartition};
use lance_messages::peer::LogPlace;
use lance_messages::sort_key::SortKey;
use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

mod append;
mod chores;
mod error;
mod read;
mod replica;
mod steps;

pub use crate::producers::state::EpochStart;
pub use crate::recovery::{
    Damage, DamageReason, OpenError, RecoveryReport, RestartError, TruncateError, restart_log, truncate_log,
};
pub use append::UNKNOWN_OFFSET;
pub(crate) use chores::STATE_FILE;
pub use error::{AppendError, DiskFailed, Latch, ReplicaAppendError};
pub use read::{LogRead, LogView, TailRead};
pub use replica::ReplicaRead;

/// Marks kept between the high watermark and the log end before every other one is forgotten.
const MAX_MARKS: usize = 256;

/// What a log needs to know of its surroundings.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The folder of the partition, `logs/<topic id>-<partition>`.
    pub dir: PathBuf,
    /// Whose log it is.
    pub partition: TopicPartition,
    /// A segment that would grow past this many bytes is closed, at 4 GiB − 32 MiB at the latest.
    pub segment_bytes: u64,
    /// Distance of index entries.
    pub index_interval_bytes: u64,
    /// Zeroes written ahead of a segment that takes small groups; 0 = none.
    pub zero_ahead_bytes: u64,
}

/// What is known of a log from elsewhere when it is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenContext {
    /// The log position known to be durable, from the `flushed` file.
    pub flushed_position: Option<u64>,
    /// Nothing was ever written above, as the process knows that wrote the log before; without it all of the file is read.
    pub written_position: Option<u64>,
    /// Now, ns since the Unix epoch: producers older than their expiry are forgotten.
    pub now_ns: u64,
}

/// A batch to be appended; borrows its records.
#[derive(Clone, Copy, Debug)]
pub struct NewBatch<'a> {
    /// The bytes to store.
    pub records: &'a [u8],
    /// Their CRC-32.
    pub records_crc: u32,
    /// Plain bytes; ignored for control batches.
    pub plain_len: u32,
    /// Records; ignored for control batches.
    pub record_count: u32,
    /// Control, opaque, codec; where segments start is the log's own affair.
    pub flags: BatchFlags,
    /// The epoch it is appended in.
    pub leader_epoch: LeaderEpoch,
    /// The high watermark now.
    pub committed_through: u64,
    /// Greater than every key of the log before.
    pub sort_key: SortKey,
    /// The greatest timestamp of its records, ns since the Unix epoch.
    pub max_timestamp_ns: u64,
    /// Its maker's sequence.
    pub producer: Option<ProducerSequence>,
}

/// Where a batch was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Log position of the batch.
    pub position: u64,
    /// Log position behind it: it may be acked once this is durable (committed).
    pub end_position: u64,
    /// Offset of its first plain byte; [`UNKNOWN_OFFSET`] for a retry of a batch no longer remembered.
    pub base_offset: u64,
    /// Offset behind its last plain byte; [`UNKNOWN_OFFSET`] as above.
    pub end_offset: u64,
    /// Number of its first record; [`UNKNOWN_OFFSET`] as above.
    pub base_record: u64,
    /// Records in it.
    pub record_count: u32,
    /// True when it had been stored before and nothing was appended now.
    pub duplicate: bool,
}

/// What a completed step changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Everything below is durable.
    pub durable_end: u64,
    /// Everything below is written, synced or not.
    pub written_end: u64,
    /// Whether a step waits to be taken.
    pub more: bool,
}

/// A segment that is still written: the active one, or one on its way to be closed.
#[derive(Debug)]
struct WritingSegment {
    segment: Arc<Segment>,
    file: Option<Arc<dyn DiskFile>>,
    created: bool,
    buffer: SegmentBuffer,
    /// Where the sealed groups of `buffer` end, oldest first.
    group_ends: VecDeque<Mark>,
    index: IndexBuilder,
    /// The file is written (with zeroes) up to here.
    zeroed_to: u64,
    /// Set once a roll has ended it.
    end: Option<SegmentEnd>,
    closing: chores::Closing,
}

/// What the step in flight will have done.
#[derive(Debug)]
enum InFlight {
    /// Bytes of the segment at `base_position`, through `end`.
    Write { base_position: u64, end: Mark, file_end: u64, sync: bool },
    /// All of that segment durable through `end`.
    Sync { end: Mark },
    /// The file of that segment.
    Create { base_position: u64 },
    /// Zeroes of that segment up to a byte of its file.
    Zero { base_position: u64, zeroed_to: u64 },
    /// Something that no ack waits for.
    Chore(chores::Chore),
}

/// One partition's log.
pub struct Log {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    seed: BatchSeed,
    /// Oldest first; nothing in them changes any more.
    closed: VecDeque<Arc<Segment>>,
    /// Between them and the active one: rolled, but not yet cut to length.
    closing: VecDeque<WritingSegment>,
    active: WritingSegment,
    start: Mark,
    end: Mark,
    written: Mark,
    durable: Mark,
    high_watermark: Mark,
    /// Ends of flush groups above the high watermark, oldest first.
    marks: VecDeque<Mark>,
    epochs: Vec<EpochStart>,
    last_sort_key: SortKey,
    producers: ProducerTable,
    in_flight: Option<InFlight>,
    spare_chunks: Vec<Chunk>,
    chores: chores::Chores,
    /// Moving average of the bytes of a flush group.
    group_bytes: u64,
    groups: u32,
    newest_in_tail: TailNumber,
    latched: Option<Latch>,
    offline: Option<Arc<Damage>>,
}

/// What opening found out: everything a log is made of.
pub(crate) struct LogParts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: LogOptions,
    pub(crate) closed: VecDeque<Arc<Segment>>,
    pub(crate) active: Segment,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) file_len: u64,
    pub(crate) partial: Vec<u8>,
    pub(crate) index: IndexBuilder,
    pub(crate) start: Mark,
    pub(crate) end: Mark,
    pub(crate) last_sort_key: SortKey,
    pub(crate) epochs: Vec<EpochStart>,
    pub(crate) producers: ProducerTable,
    pub(crate) state_exists: bool,
    pub(crate) state_range: Option<(u64, u64)>,
    pub(crate) state_position: u64,
    pub(crate) offline: Option<Arc<Damage>>,
}

impl Log {
    /// A log of which everything found is durable and nothing known to be committed.
    pub(crate) fn from_parts(parts: LogParts) -> Self {
        let seed = BatchSeed::new(parts.options.partition);
        let file_end = parts.end.position - parts.active.base().position;
        let active = WritingSegment {
            segment: Arc::new(parts.active),
            file: Some(parts.file),
            created: true,
            buffer: SegmentBuffer::new(file_end, parts.partial),
            group_ends: VecDeque::new(),
            index: parts.index,
            zeroed_to: parts.file_len,
            end: None,
            closing: chores::Closing::default(),
        };
        Self {
            disk: parts.disk,
            seed,
            closed: parts.closed,
            closing: VecDeque::new(),
            active,
            start: parts.start,
            end: parts.end,
            written: parts.end,
            durable: parts.end,
            high_watermark: parts.start,
            marks: VecDeque::new(),
            epochs: parts.epochs,
            last_sort_key: parts.last_sort_key,
            producers: parts.producers,
            in_flight: None,
            spare_chunks: Vec::new(),
            chores: chores::Chores::restored(parts.state_exists, parts.state_range, parts.state_position),
            group_bytes: 0,
            groups: 0,
            newest_in_tail: TailNumber::default(),
            latched: None,
            offline: parts.offline,
            options: parts.options,
        }
    }

    /// The partition.
    pub fn partition(&self) -> TopicPartition {
        self.options.partition
    }

    /// The first batch boundary that is still there.
    pub fn log_start(&self) -> Mark {
        self.start
    }

    /// First log position not appended.
    pub fn log_end(&self) -> u64 {
        self.end.position
    }

    /// First log position not durable.
    pub fn durable_end(&self) -> u64 {
        self.durable.position
    }

    /// First log position not written.
    pub fn written_end(&self) -> u64 {
        self.written.position
    }

    /// First offset not appended.
    pub fn end_offset(&self) -> u64 {
        self.end.offset
    }

    /// First record number not appended.
    pub fn end_record(&self) -> u64 {
        self.end.record
    }

    /// The first batch boundary that is still there, as nodes tell it each other.
    pub fn log_start_place(&self) -> LogPlace {
        self.start.into()
    }

    /// The log end, as nodes tell it each other.
    pub fn log_end_place(&self) -> LogPlace {
        self.end.into()
    }

    /// [`Log::mark_at`], as nodes tell it each other.
    pub fn place_at(&self, position: u64) -> Option<LogPlace> {
        self.mark_at(position).map(LogPlace::from)
    }

    /// The epoch of the batch that ends at `position`, 0 at the beginning of the log; `None` beyond the log end, and below
    /// what the epoch history knows.
    pub fn epoch_before(&self, position: u64) -> Option<LeaderEpoch> {
        if position == 0 || position > self.end.position {
            return (position == 0).then_some(LeaderEpoch(0));
        }
        let behind = self.epochs.partition_point(|start| start.position < position);
        behind.checked_sub(1).and_then(|at| self.epochs.get(at)).map(|start| start.epoch)
    }

    /// The epoch of the last batch; 0 in an empty log.
    pub fn last_epoch(&self) -> LeaderEpoch {
        self.epochs.last().map_or(LeaderEpoch(0), |start| start.epoch)
    }

    /// The greatest sort key in the log.
    pub fn last_sort_key(&self) -> SortKey {
        self.last_sort_key
    }

    /// When each epoch began, oldest first; those wholly below the log start may be missing.
    pub fn epoch_history(&self) -> &[EpochStart] {
        &self.epochs
    }

    /// The idempotence table.
    pub fn producers(&self) -> &ProducerTable {
        &self.producers
    }

    /// True while something appended is not durable.
    pub fn is_dirty(&self) -> bool {
        self.durable.position < self.end.position
    }

    /// Why nothing is written any more, if a write or sync failed.
    pub fn latched(&self) -> Option<&Latch> {
        self.latched.as_ref()
    }

    /// Keeps a latch over a restart of the log's owner: only a restart of the process lifts it.
    pub fn latch(&mut self, latch: Latch) {
        self.latched.get_or_insert(latch);
    }

    /// The damage that keeps the log offline, if recovery found any.
    pub fn offline(&self) -> Option<&Damage> {
        self.offline.as_deref()
    }

    /// Everything below is on a quorum: the limit of readers.
    pub fn high_watermark(&self) -> Mark {
        self.high_watermark
    }

    /// Raises the high watermark to `position`, or to the last known batch boundary below it; never above what is
    /// written here, never back. Answers where it is now.
    pub fn advance_high_watermark(&mut self, position: u64) -> Mark {
        let limit = position.min(self.written.position);
        while let Some(mark) = self.marks.front().filter(|mark| mark.position <= limit) {
            if mark.position > self.high_watermark.position {
                self.high_watermark = *mark;
            }
            self.marks.pop_front();
        }
        for end in [self.durable, self.written] {
            if end.position <= limit && end.position > self.high_watermark.position {
                self.high_watermark = end;
            }
        }
        self.high_watermark
    }

    /// The batch boundary at `position`, if it is one that is remembered: the ends of recent flush groups above the high
    /// watermark, the bounds of segments, and the bounds of the log.
    pub fn mark_at(&self, position: u64) -> Option<Mark> {
        let bounds = [self.start, self.high_watermark, self.written, self.durable, self.end];
        let segments = self.closed.iter().chain(self.closing.iter().map(|closing| &closing.segment));
        let bases = segments.map(|segment| segment.base()).chain([self.active.segment.base()]);
        bounds.into_iter().chain(self.marks.iter().copied()).chain(bases).find(|mark| mark.position == position)
    }

    /// What retention needs to know of each segment, oldest first.
    pub fn segments(&self) -> Vec<SegmentFacts> {
        let facts = |segment: &Segment, end: SegmentEnd, closed| SegmentFacts {
            base_position: segment.base().position,
            end_position: end.mark.position,
            last_append_ns: end.last_append_ns,
            closed,
        };
        let now = SegmentEnd { mark: self.end, last_append_ns: self.last_sort_key.timestamp_ns() };
        let closed = self.closed.iter().filter_map(|segment| Some(facts(segment, segment.end()?, true)));
        let writing = self.closing.iter().chain([&self.active]);
        closed.chain(writing.map(|open| facts(&open.segment, open.end.unwrap_or(now), false))).collect()
    }

    /// The closed segments, oldest first: for scrubbing.
    pub fn closed_segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.closed.iter()
    }

    /// Whether this very segment is one of this log: not of one that was cut or begun anew since.
    pub fn holds(&self, segment: &Arc<Segment>) -> bool {
        let writing = self.closing.iter().chain([&self.active]).map(|open| &open.segment);
        self.closed.iter().chain(writing).any(|held| Arc::ptr_eq(held, segment))
    }

    /// Bytes from the log start to the log end.
    pub fn bytes(&self) -> u64 {
        self.end.position - self.start.position
    }

    /// Drops the closed segments that end at or below `position` and below the high watermark, and moves the log start up;
    /// those that the saved state does not cover stay until it does.
    ///
    /// The answer is to be handed to [`crate::segment::remove`] on a thread that may block.
    pub fn remove_segments_before(&mut self, position: u64) -> Vec<Arc<Segment>> {
        // With its first batch committed a log is never cut at its start, where a successor may begin no segment.
        let limit = position.min(self.high_watermark.position.saturating_sub(1));
        let mut removed = Vec::new();
        self.chores.set_removal_waits(None);
        while let Some(segment) = self.closed.front() {
            let Some(end) = segment.end().filter(|end| end.mark.position <= limit) else {
                break;
            };
            // Something durable must stay behind that says which offset comes next.
            if end.mark.position >= self.durable.position {
                break;
            }
            if end.mark.position > self.chores.covered_end() {
                self.chores.set_removal_waits(Some(position));
                break;
            }
            self.start = end.mark;
            removed.extend(self.closed.pop_front());
        }
        let start = self.start.position;
        // The epoch of the batch below the log start stays known: a follower asks for it.
        let covered = self.epochs.iter().skip(1).take_while(|epoch| epoch.position < start).count();
        self.epochs.drain(..covered);
        removed
    }

    /// True while the log holds a descriptor.
    pub fn has_open_file(&self) -> bool {
        self.active.file.is_some()
    }

    /// Gives back what an idle log can do without: its descriptor and spare memory. It opens the file again by itself.
    pub fn release_idle(&mut self) {
        if self.in_flight.is_none() && self.active.created && !self.is_dirty() {
            self.active.file = None;
            self.closing.iter_mut().for_each(|closing| closing.file = None);
            self.active.buffer.shrink();
            self.spare_chunks = Vec::new();
            self.marks.shrink_to_fit();
        }
    }

    fn push_mark(&mut self, mark: Mark) {
        if self.marks.len() >= MAX_MARKS {
            let mut even = false;
            self.marks.retain(|_| {
                even = !even;
                even
            });
        }
        if mark.position > self.high_watermark.position {
            self.marks.push_back(mark);
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("partition", &self.options.partition)
            .field("start", &self.start)
            .field("high_watermark", &self.high_watermark)
            .field("durable", &self.durable)
            .field("end", &self.end)
            .field("in_flight", &self.in_flight)
            .field("latched", &self.latched)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}
