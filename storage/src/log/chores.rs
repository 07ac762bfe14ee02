//! Work on files that no ack waits for: saving the state to `producers`, and closing segments.
//!
//! A segment is closed in this order: its index file is made and written, then the segment is cut to its length; only
//! then do readers treat it as closed. A crash between any two steps leaves what recovery can finish.

use super::{InFlight, Log};
use crate::disk::{BLOCK, Chunk, DiskError, DiskFile, OpKind, OpenMode, SlotPool};
use crate::flush::FlushStep;
use crate::index::{INDEX_PAGE_BYTES, encode_page, file_bytes};
use crate::producers::state::{self, StateRef};
use crate::segment::Mark;
use std::path::PathBuf;
use std::sync::Arc;

/// The state is saved anew after so many bytes of log: what opening has to read at most, apart from what was not synced.
const STATE_INTERVAL_BYTES: u64 = 16 * 1024 * 1024;
/// ... and after so many times its own size, so that saving stays a small part of all writes.
const STATE_INTERVAL_SIZES: u64 = 64;
/// ... or, where the log grows slowly enough for that to cost nothing, after so few bytes and so much time: many logs that
/// are opened at once have little to read then.
const EARLY_STATE_BYTES: u64 = 512 * 1024;
const EARLY_STATE_NS: u64 = 300_000_000;

/// The file that holds the saved state.
pub(crate) const STATE_FILE: &str = "producers";

/// A step that no ack waits for.
#[derive(Debug)]
pub(super) enum Chore {
    CreateState,
    SaveState { file_range: (u64, u64), position: u64 },
    CreateIndex { base_position: u64 },
    WriteIndex { base_position: u64 },
    Truncate { base_position: u64 },
}

/// How far a rolled segment is with closing.
#[derive(Debug, Default)]
pub(super) enum Closing {
    /// The index file is to be made.
    #[default]
    CreateIndex,
    /// The index file is there; its pages wait for slots.
    FillIndex { file: Arc<dyn DiskFile> },
    /// The pages are to be written.
    WriteIndex { file: Arc<dyn DiskFile>, chunks: Vec<Chunk> },
    /// The segment is to be cut to its length.
    Truncate,
}

/// A state on its way to the file, as of a position that must be durable first.
#[derive(Debug)]
struct Prepared {
    position: u64,
    file_range: (u64, u64),
    chunks: Vec<Chunk>,
}

/// What the log remembers of its chores.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    /// Whose turn the next step is, if both have one.
    chore_next: bool,
    /// Whether the file `producers` is there.
    state_exists: bool,
    /// Where the newest whole state stands in it.
    state_range: Option<(u64, u64)>,
    /// As of which position the state was last prepared.
    state_position: u64,
    /// As of which position the newest whole state in the file is.
    saved_position: u64,
    /// Whether the last save found no space.
    save_failed: bool,
    /// Segments below here were to be dropped, and wait for a state that covers them.
    removal_waits: Option<u64>,
    /// Time of the newest batch then.
    state_time_ns: u64,
    state_bytes: u64,
    prepared: Option<Prepared>,
    saving: bool,
}

impl Chores {
    /// Nothing to do; what is known of the state file.
    pub(super) fn restored(state_exists: bool, state_range: Option<(u64, u64)>, state_position: u64) -> Self {
        Self { state_exists, state_range, state_position, saved_position: state_position, ..Self::default() }
    }

    /// Segments up to here may be dropped: the saved state covers them, and nothing else would know their producers. Where
    /// there was no space for one, making some comes first.
    pub(super) fn covered_end(&self) -> u64 {
        if self.save_failed { u64::MAX } else { self.saved_position }
    }

    /// Segments below here were to be dropped, and wait for a state.
    pub(super) fn set_removal_waits(&mut self, position: Option<u64>) {
        self.removal_waits = position;
    }

    /// True every other time.
    pub(super) fn take_turn(&mut self) -> bool {
        self.chore_next = !self.chore_next;
        !self.chore_next
    }
}

impl Log {
    /// True when enough was appended since the state was saved last.
    pub(super) fn wants_state(&self) -> bool {
        if self.chores.removal_waits.is_some() && self.overdue_removal().is_none() {
            return true;
        }
        let took_ns = self.last_sort_key.timestamp_ns().saturating_sub(self.chores.state_time_ns);
        let interval = if took_ns >= EARLY_STATE_NS { EARLY_STATE_BYTES } else { STATE_INTERVAL_BYTES };
        let appended = self.end.position - self.chores.state_position;
        appended >= interval.max(self.chores.state_bytes * STATE_INTERVAL_SIZES)
    }

    /// Encodes the state as of the log end, to be written once all below is durable; skipped without enough slots.
    pub(super) fn prepare_state(&mut self, segment_base: Mark, pool: &mut SlotPool) {
        // One at a time: a newer one in its place might wait for its turn for ever.
        if self.chores.saving || self.chores.prepared.is_some() {
            return;
        }
        self.producers.expire(self.last_sort_key.timestamp_ns());
        let same_segment = segment_base == self.active.segment.base();
        let state = StateRef {
            mark: self.end,
            last_sort_key: self.last_sort_key,
            segment_base,
            epochs: &self.epochs,
            entries: if same_segment { self.active.index.entries() } else { &[] },
            producers: &self.producers,
        };
        let mut bytes = Vec::new();
        state.encode(&mut bytes, self.options.partition);
        let file_offset = state::place(self.chores.state_range, bytes.len() as u64);
        let Some(chunks) = chunks_of(&bytes, file_offset, pool) else {
            return;
        };
        self.chores.state_bytes = bytes.len() as u64;
        (self.chores.state_position, self.chores.state_time_ns) =
            (self.end.position, self.last_sort_key.timestamp_ns());
        let file_range = (file_offset, file_offset + bytes.len() as u64);
        self.chores.prepared = Some(Prepared { position: self.end.position, file_range, chunks });
    }

    /// Encodes the index of the oldest closing segment, if it waits for slots and there are enough now.
    pub(super) fn prepare_index(&mut self, pool: &mut SlotPool) {
        let partition = self.options.partition;
        let Some(front) = self.closing.front_mut() else { return };
        let Closing::FillIndex { file } = &front.closing else {
            return;
        };
        let entries = front.index.entries();
        let mut bytes = vec![0; file_bytes(entries.len())];
        let (pages, _) = bytes.as_chunks_mut::<INDEX_PAGE_BYTES>();
        for (number, page) in pages.iter_mut().enumerate() {
            encode_page(page, entries, number, partition, front.segment.base().position);
        }
        if let Some(chunks) = chunks_of(&bytes, 0, pool) {
            front.closing = Closing::WriteIndex { file: Arc::clone(file), chunks };
        }
    }

    /// Goes on with closing a segment whose index waited for slots of the pool, and with saving the state that a removal waits
    /// for; true when there is a step now. To be called now and then: a log that nothing is appended to hears of neither.
    pub fn resume_chores(&mut self, pool: &mut SlotPool) -> bool {
        let closes = self.closing.front().is_some_and(|front| matches!(front.closing, Closing::FillIndex { .. }));
        if closes {
            self.prepare_index(pool);
        }
        let saves = self.chores.removal_waits.is_some() && self.wants_state();
        if saves {
            self.prepare_state(self.active.segment.base(), pool);
        }
        (closes || saves) && self.wants_flush(false)
    }

    /// Up to where [`Log::remove_segments_before`] is to be asked again: the state it waited for is saved.
    pub fn overdue_removal(&self) -> Option<u64> {
        let first_end = self.closed.front()?.end()?.mark.position;
        self.chores.removal_waits.filter(|_| first_end <= self.chores.covered_end())
    }

    /// True when [`Log::take_chore`] would answer a step.
    pub(super) fn has_chore(&self) -> bool {
        let state = self.chores.prepared.as_ref().is_some_and(|state| state.position <= self.durable.position);
        let close = self.closing.front().is_some_and(|front| {
            front.end.is_some_and(|end| end.mark.position <= self.durable.position)
                && !matches!(front.closing, Closing::FillIndex { .. })
        });
        state || close
    }

    /// The next step that no ack waits for.
    pub(super) fn take_chore(&mut self) -> Option<Result<FlushStep, DiskError>> {
        self.take_state().or_else(|| self.take_close())
    }

    fn take_close(&mut self) -> Option<Result<FlushStep, DiskError>> {
        let durable = self.durable.position;
        let written = self.written.position;
        let front = self.closing.front_mut()?;
        let end = front.end.filter(|end| end.mark.position <= durable)?;
        let base_position = front.segment.base().position;
        let file = match super::steps::open(&*self.disk, front) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let step = |file, kind| Some(Ok(FlushStep { file, kind, end_position: written }));
        match std::mem::take(&mut front.closing) {
            Closing::CreateIndex => {
                self.in_flight = Some(InFlight::Chore(Chore::CreateIndex { base_position }));
                step(file, OpKind::Create { path: front.segment.index_path() })
            }
            waiting @ Closing::FillIndex { .. } => {
                front.closing = waiting;
                None
            }
            Closing::WriteIndex { file, chunks } => {
                self.in_flight = Some(InFlight::Chore(Chore::WriteIndex { base_position }));
                front.closing = Closing::Truncate;
                step(file, OpKind::Write { chunks, sync: true })
            }
            Closing::Truncate => {
                self.in_flight = Some(InFlight::Chore(Chore::Truncate { base_position }));
                front.closing = Closing::Truncate;
                step(file, OpKind::SetLen { len: end.mark.position - base_position })
            }
        }
    }

    fn take_state(&mut self) -> Option<Result<FlushStep, DiskError>> {
        self.chores.prepared.as_ref().filter(|state| state.position <= self.durable.position)?;
        let path = self.state_path();
        let end_position = self.written.position;
        if !self.chores.state_exists {
            let file = match self.any_file() {
                Ok(file) => file,
                Err(error) => return Some(Err(error)),
            };
            self.in_flight = Some(InFlight::Chore(Chore::CreateState));
            return Some(Ok(FlushStep { file, kind: OpKind::Create { path }, end_position }));
        }
        let file = match self.disk.open(&path, OpenMode::ReadWrite) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let state = self.chores.prepared.take()?;
        self.chores.saving = true;
        let chore = Chore::SaveState { file_range: state.file_range, position: state.position };
        self.in_flight = Some(InFlight::Chore(chore));
        let kind = OpKind::Write { chunks: state.chunks, sync: true };
        Some(Ok(FlushStep { file, kind, end_position }))
    }

    fn state_path(&self) -> PathBuf {
        self.options.dir.join(STATE_FILE)
    }

    pub(super) fn finish_chore(&mut self, chore: Chore, file: Option<Arc<dyn DiskFile>>, pool: &mut SlotPool) {
        match chore {
            Chore::CreateState => self.chores.state_exists = true,
            Chore::SaveState { file_range, position } => {
                self.chores.saving = false;
                self.chores.save_failed = false;
                self.chores.saved_position = position;
                self.chores.state_range = Some(file_range);
                self.chores.state_position = self.chores.state_position.max(position);
            }
            Chore::CreateIndex { base_position } => {
                if let Some(closing) = self.writing_at(base_position) {
                    closing.closing = match file {
                        Some(file) => Closing::FillIndex { file },
                        None => Closing::Truncate,
                    };
                }
                self.prepare_index(pool);
            }
            Chore::WriteIndex { base_position } => {
                if let Some(closing) = self.writing_at(base_position) {
                    closing.closing = Closing::Truncate;
                }
            }
            Chore::Truncate { base_position } => self.finish_close(base_position),
        }
    }

    fn finish_close(&mut self, base_position: u64) {
        let front = self.closing.front();
        if front.is_none_or(|front| front.segment.base().position != base_position) {
            return;
        }
        if let Some(done) = self.closing.pop_front()
            && let Some(end) = done.end
        {
            done.segment.close(end);
            self.closed.push_back(done.segment);
        }
    }

    /// A chore found no space: it is done without, or tried again with the next state.
    pub(super) fn drop_chore(&mut self, chore: Chore) {
        match chore {
            // Else it would be tried again at once, for ever.
            Chore::CreateState => {
                self.chores.prepared = None;
                self.chores.save_failed = true;
            }
            Chore::Truncate { .. } => {}
            Chore::SaveState { .. } => {
                self.chores.saving = false;
                self.chores.save_failed = true;
            }
            // A reader that misses the index file walks through the segment instead.
            Chore::CreateIndex { base_position } | Chore::WriteIndex { base_position } => {
                if let Some(closing) = self.writing_at(base_position) {
                    closing.closing = Closing::Truncate;
                }
            }
        }
    }

    pub(super) fn discard_chores(&mut self, pool: &mut SlotPool) {
        let mut put = |chunks: Vec<Chunk>| chunks.into_iter().for_each(|chunk| pool.put(chunk.slot));
        if let Some(prepared) = self.chores.prepared.take() {
            put(prepared.chunks);
        }
        for closing in &mut self.closing {
            if let Closing::WriteIndex { chunks, .. } = std::mem::take(&mut closing.closing) {
                put(chunks);
            }
        }
    }
}

/// Copies `bytes` (whole blocks) into slots, to be written from `file_offset` on; `None` without enough slots.
fn chunks_of(bytes: &[u8], file_offset: u64, pool: &mut SlotPool) -> Option<Vec<Chunk>> {
    let mut chunks = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let Some(mut slot) = pool.take() else {
            chunks.into_iter().for_each(|chunk: Chunk| pool.put(chunk.slot));
            return None;
        };
        let len = (bytes.len() - at).min(slot.len());
        slot[..len].copy_from_slice(&bytes[at..at + len]);
        debug_assert!(len.is_multiple_of(BLOCK));
        chunks.push(Chunk { slot, slot_start: 0, len: len as u32, file_offset: file_offset + at as u64 });
        at += len;
    }
    Some(chunks)
}
