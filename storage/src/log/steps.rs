//! The write path: which step comes next, and what its completion changes.
//!
//! Order within a log: everything of an older segment is durable before the next segment's file is made, so that a
//! segment file which exists proves the whole log below it.

use super::{Completed, DiskFailed, InFlight, Latch, Log, Mark, WritingSegment};
use crate::disk::{BLOCK, Chunk, Disk, DiskCompletion, DiskError, DiskFile, OpKind, OpenMode, Operation, SlotPool};
use crate::flush::FlushStep;
use std::path::PathBuf;
use std::sync::Arc;

/// Groups larger than this gain nothing from zeroes written ahead.
const ZERO_AHEAD_MAX_GROUP_BYTES: u64 = 64 * 1024;
/// Groups seen in a segment before zeroes are written ahead: a log with little traffic gets none.
const ZERO_AHEAD_MIN_GROUPS: u32 = 8;
/// Most zeroes written by one step, so that no group waits long behind it.
const ZERO_STEP_BYTES: u64 = 1024 * 1024;

/// Segments on their way to be closed before closing them comes before everything else.
const MAX_CLOSING: usize = 4;

impl Log {
    /// The next step, if there is one and none is under way.
    ///
    /// With `sync` the step makes durable what it writes (and, with nothing left to write, what was written without).
    /// Steps that no ack waits for take turns with those that carry batches.
    pub fn take_flush(&mut self, sync: bool) -> Option<FlushStep> {
        if self.in_flight.is_some() || self.latched.is_some() || self.offline.is_some() {
            return None;
        }
        // Segments that roll faster than they are closed hold back new data before they hold all descriptors.
        let chore_first = self.chores.take_turn() || self.closing.len() > MAX_CLOSING;
        let step = if chore_first { self.take_chore() } else { None };
        let step = step.or_else(|| self.take_data(sync)).or_else(|| self.take_chore());
        match step {
            Some(Ok(step)) => Some(step),
            // Out of descriptors: nothing was taken, it is tried again.
            Some(Err(error)) if is_retriable(&error) => None,
            Some(Err(error)) => {
                self.fail(error);
                None
            }
            None => None,
        }
    }

    /// True when [`Log::take_flush`] would answer a step.
    pub fn wants_flush(&self, sync: bool) -> bool {
        let idle = self.in_flight.is_none() && self.latched.is_none() && self.offline.is_none();
        let data = self.written.position < self.end.position || (sync && self.durable.position < self.end.position);
        idle && (data || self.has_chore())
    }

    /// True while a step is under way.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Takes in the end of the step under way.
    ///
    /// A failed sync, or a write that failed other than for want of space, latches the log.
    pub fn complete(&mut self, mut completion: DiskCompletion, pool: &mut SlotPool) -> Result<Completed, DiskFailed> {
        let in_flight = self.in_flight.take();
        let failed = match (in_flight, completion.result) {
            (None, result) => result.err(),
            (Some(done), Ok(())) => {
                self.recycle(&mut completion.chunks, pool);
                self.succeed(done, completion.file, pool);
                None
            }
            (Some(tried), Err(error)) => self.retreat(tried, error, &mut completion.chunks, pool)?,
        };
        self.recycle(&mut completion.chunks, pool);
        if completion.chunks.capacity() > self.spare_chunks.capacity() {
            self.spare_chunks = completion.chunks;
        }
        if let Some(error) = failed {
            self.fail(error);
            self.discard(pool);
        }
        if let Some(latch) = &self.latched {
            return Err(DiskFailed::Latched(latch.clone()));
        }
        // Here and not at an append, which has somebody waiting and allocates nothing.
        if self.wants_state() {
            self.prepare_state(self.active.segment.base(), pool);
        }
        self.prepare_index(pool);
        self.active.index.make_room();
        Ok(Completed {
            durable_end: self.durable.position,
            written_end: self.written.position,
            more: self.wants_flush(true),
        })
    }

    fn take_data(&mut self, sync: bool) -> Option<Result<FlushStep, DiskError>> {
        let durable = self.durable.position;
        let behind = |closing: &WritingSegment| closing.end.is_some_and(|end| durable < end.mark.position);
        // Oldest first, and nothing of a segment before all of the one below it is durable.
        if let Some(at) = self.closing.iter().position(behind) {
            let end = self.closing[at].end.map_or(self.end, |end| end.mark);
            if self.closing[at].buffer.is_empty() {
                return Some(take_sync(&*self.disk, &mut self.closing[at], &mut self.in_flight, end));
            }
            if !self.closing[at].created {
                let (base_position, path) = place_of(&self.closing[at]);
                return Some(self.take_create(base_position, path));
            }
            let (closing, spare) = (&mut self.closing[at], &mut self.spare_chunks);
            return Some(take_write(&*self.disk, closing, &mut self.in_flight, spare, end, true));
        }
        if !self.active.buffer.is_empty() {
            if !self.active.created {
                let (base_position, path) = place_of(&self.active);
                return Some(self.take_create(base_position, path));
            }
            if let Some(step) = self.take_zero() {
                return Some(step);
            }
            self.note_group();
            let (active, end) = (&mut self.active, self.end);
            return Some(take_write(&*self.disk, active, &mut self.in_flight, &mut self.spare_chunks, end, sync));
        }
        if sync && self.durable.position < self.written.position {
            return Some(take_sync(&*self.disk, &mut self.active, &mut self.in_flight, self.written));
        }
        None
    }

    fn take_create(&mut self, base_position: u64, path: PathBuf) -> Result<FlushStep, DiskError> {
        let file = self.any_file()?;
        self.in_flight = Some(InFlight::Create { base_position });
        Ok(FlushStep { file, kind: OpKind::Create { path }, end_position: self.written.position })
    }

    /// Any file of the log: an operation that makes a file names the disk by one.
    pub(super) fn any_file(&self) -> Result<Arc<dyn DiskFile>, DiskError> {
        let writing = [&self.active].into_iter().chain(self.closing.iter().rev());
        match writing.filter_map(|writing| writing.file.as_ref()).next() {
            Some(file) => Ok(Arc::clone(file)),
            None => {
                let created = self.closing.iter().filter(|closing| closing.created).map(|closing| &closing.segment);
                let newest = created.chain(self.closed.iter()).next_back().unwrap_or(&self.active.segment);
                newest.open(&*self.disk)
            }
        }
    }

    /// Zeroes ahead of the active segment when the last ones are nearly used up and groups are small.
    fn take_zero(&mut self) -> Option<Result<FlushStep, DiskError>> {
        let ahead = self.options.zero_ahead_bytes.min(self.options.segment_bytes);
        let active = &mut self.active;
        let small = self.group_bytes <= ZERO_AHEAD_MAX_GROUP_BYTES && self.groups >= ZERO_AHEAD_MIN_GROUPS;
        let step_bytes = (ahead / 2).min(ZERO_STEP_BYTES) / BLOCK as u64 * BLOCK as u64;
        let used_to = active.buffer.end().next_multiple_of(BLOCK as u64);
        let from = active.zeroed_to.max(used_to);
        if step_bytes == 0 || !small || !active.created || from - used_to >= step_bytes / 2 {
            return None;
        }
        // No zeroes behind what the segment may hold at all.
        if from >= self.options.segment_bytes {
            return None;
        }
        let file = match open(&*self.disk, active) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let base_position = active.segment.base().position;
        self.in_flight = Some(InFlight::Zero { base_position, zeroed_to: from + step_bytes });
        let kind = OpKind::Zero { file_offset: from, len: step_bytes };
        Some(Ok(FlushStep { file, kind, end_position: self.written.position }))
    }

    fn note_group(&mut self) {
        let bytes = self.active.buffer.next_group_bytes();
        self.group_bytes = if self.groups == 0 { bytes } else { (self.group_bytes * 7 + bytes) / 8 };
        self.groups = self.groups.saturating_add(1);
    }

    fn succeed(&mut self, done: InFlight, file: Option<Arc<dyn DiskFile>>, pool: &mut SlotPool) {
        match done {
            InFlight::Write { base_position, end, file_end, sync } => {
                if let Some(writing) = self.writing_at(base_position) {
                    writing.zeroed_to = writing.zeroed_to.max(file_end.next_multiple_of(BLOCK as u64));
                }
                self.written = end;
                if sync {
                    self.durable = end;
                }
                self.push_mark(end);
            }
            InFlight::Sync { end } => self.durable = end,
            InFlight::Create { base_position } => {
                if let Some(writing) = self.writing_at(base_position) {
                    writing.created = true;
                    writing.file = file;
                }
            }
            InFlight::Zero { base_position, zeroed_to } => {
                if let Some(writing) = self.writing_at(base_position) {
                    writing.zeroed_to = zeroed_to;
                }
            }
            InFlight::Chore(chore) => self.finish_chore(chore, file, pool),
        }
    }

    /// After a failed step: what may be tried again is put back; an error that may not is answered for latching.
    fn retreat(
        &mut self,
        tried: InFlight,
        error: DiskError,
        chunks: &mut Vec<Chunk>,
        pool: &mut SlotPool,
    ) -> Result<Option<DiskError>, DiskFailed> {
        if !is_retriable(&error) {
            return Ok(Some(error));
        }
        match tried {
            InFlight::Write { base_position, file_end, .. } => {
                if let Some(writing) = self.writing_at(base_position) {
                    writing.buffer.restore(chunks, file_end, pool);
                }
            }
            // The group itself may still fit: no zeroes for this segment any more.
            InFlight::Zero { base_position, .. } => {
                if let Some(writing) = self.writing_at(base_position) {
                    writing.zeroed_to = u64::MAX;
                }
                return Ok(None);
            }
            InFlight::Chore(chore) => {
                self.drop_chore(chore);
                return Ok(None);
            }
            InFlight::Sync { .. } | InFlight::Create { .. } => {}
        }
        Err(DiskFailed::NoSpace {
            partition: self.options.partition,
            pending_bytes: self.end.position - self.written.position,
            cause: Arc::new(error),
        })
    }

    fn fail(&mut self, error: DiskError) {
        let latch =
            Latch { partition: self.options.partition, durable_end: self.durable.position, cause: Arc::new(error) };
        self.latched.get_or_insert(latch);
    }

    /// Gives every slot of a log back that latched before a step could begin.
    pub fn discard_latched(&mut self, pool: &mut SlotPool) {
        if self.latched.is_some() && self.in_flight.is_none() {
            self.discard(pool);
        }
    }

    /// Gives every slot back: a latched log writes nothing any more.
    fn discard(&mut self, pool: &mut SlotPool) {
        self.closing.iter_mut().for_each(|closing| closing.buffer.discard(pool));
        self.active.buffer.discard(pool);
        self.discard_chores(pool);
    }

    fn recycle(&mut self, chunks: &mut Vec<Chunk>, pool: &mut SlotPool) {
        chunks.drain(..).for_each(|chunk| pool.put(chunk.slot));
    }

    pub(super) fn writing_at(&mut self, base_position: u64) -> Option<&mut WritingSegment> {
        let mut writing = self.closing.iter_mut().chain([&mut self.active]);
        writing.find(|writing| writing.segment.base().position == base_position)
    }
}

/// No space, or no descriptor left: nothing was lost, and it may pass. A failed sync never is.
fn is_retriable(error: &DiskError) -> bool {
    match error {
        DiskError::Os { operation: Operation::Sync | Operation::SyncDir, .. } => false,
        DiskError::Os { operation: Operation::Create | Operation::Open, errno, .. }
            if matches!(*errno, libc::EMFILE | libc::ENFILE) =>
        {
            true
        }
        error => error.is_no_space(),
    }
}

/// The segment's file; opened again when it was given up while the log was idle.
pub(super) fn open(disk: &dyn Disk, writing: &mut WritingSegment) -> Result<Arc<dyn DiskFile>, DiskError> {
    if let Some(file) = &writing.file {
        return Ok(Arc::clone(file));
    }
    let file = disk.open(writing.segment.path(), OpenMode::ReadWrite)?;
    writing.file = Some(Arc::clone(&file));
    Ok(file)
}

fn place_of(writing: &WritingSegment) -> (u64, PathBuf) {
    (writing.segment.base().position, writing.segment.path().to_owned())
}

fn take_write(
    disk: &dyn Disk,
    writing: &mut WritingSegment,
    in_flight: &mut Option<InFlight>,
    spare: &mut Vec<Chunk>,
    end: Mark,
    sync: bool,
) -> Result<FlushStep, DiskError> {
    let base_position = writing.segment.base().position;
    let file = open(disk, writing)?;
    let mut chunks = std::mem::take(spare);
    let sealed = writing.buffer.take(&mut chunks);
    let group_end = if sealed { writing.group_ends.pop_front() } else { None };
    let end = group_end.unwrap_or(end);
    *in_flight = Some(InFlight::Write { base_position, end, file_end: end.position - base_position, sync });
    Ok(FlushStep { file, kind: OpKind::Write { chunks, sync }, end_position: end.position })
}

fn take_sync(
    disk: &dyn Disk,
    writing: &mut WritingSegment,
    in_flight: &mut Option<InFlight>,
    end: Mark,
) -> Result<FlushStep, DiskError> {
    let file = open(disk, writing)?;
    *in_flight = Some(InFlight::Sync { end });
    Ok(FlushStep { file, kind: OpKind::Sync, end_position: end.position })
}
