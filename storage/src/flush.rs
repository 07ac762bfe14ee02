//! Bytes on their way to a segment file: slots that mirror block-aligned ranges of it, and the steps that write them.
//!
//! While a group is in flight its slots belong to the poller. What arrives meanwhile goes into a fresh slot that begins
//! with a copy of the group's partial last block, so that no block is in two writes at once and none is written short.

use crate::disk::{BLOCK, Chunk, DiskFile, DiskOp, OpKind, Slot, SlotPool};
use std::collections::VecDeque;
use std::sync::Arc;

/// One operation a log asks its poller for; at most one of a log is under way.
#[derive(Debug)]
pub struct FlushStep {
    /// The file it acts on.
    pub file: Arc<dyn DiskFile>,
    /// What to do.
    pub kind: OpKind,
    /// Log position through which the log is written (durable if synced) once it is done.
    pub end_position: u64,
}

impl FlushStep {
    /// The operation to submit; its completion goes to `Log::complete`.
    pub fn into_op(self, token: u64) -> DiskOp {
        DiskOp { token, file: self.file, kind: self.kind }
    }
}

/// No slot is free; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoSlot;

/// A slot and the range of the file it mirrors.
#[derive(Debug)]
struct Filling {
    slot: Slot,
    /// Where the slot's first byte stands in the file; whole blocks.
    file_offset: u64,
    filled: usize,
}

/// Bytes of one segment that no step has taken yet.
#[derive(Debug)]
pub(crate) struct SegmentBuffer {
    /// In order, without gaps; only the last may have room left (or one cut by [`SegmentBuffer::restore`]).
    slots: VecDeque<Filling>,
    /// What the last block of the file holds so far; read only while `slots` is empty.
    partial: Vec<u8>,
    /// Where the next byte goes.
    end: u64,
}

impl SegmentBuffer {
    /// For a file that holds `end` bytes, of which `partial` is the part behind the last whole block.
    pub(crate) fn new(end: u64, partial: Vec<u8>) -> Self {
        Self { slots: VecDeque::new(), partial, end }
    }

    /// True when everything appended was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes waiting in slots.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.slots.front().map_or(0, |first| self.end - first.file_offset)
    }

    /// Where the next byte goes in the file.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Copies `parts` behind each other; all or, without enough slots, nothing.
    pub(crate) fn append(&mut self, parts: [&[u8]; 2], pool: &mut SlotPool) -> Result<(), NoSlot> {
        let bytes = parts[0].len() + parts[1].len();
        let before = self.slots.len();
        let mut room = self.slots.back().map_or(0, |last| last.slot.len() - last.filled);
        while room < bytes {
            let Some(slot) = pool.take() else {
                self.undo(before, pool);
                return Err(NoSlot);
            };
            room += self.add_slot(slot);
        }
        let mut at = before.saturating_sub(1);
        for part in parts {
            let mut rest = part;
            while let Some(filling) = self.slots.get_mut(at).filter(|_| !rest.is_empty()) {
                let free = &mut filling.slot[filling.filled..];
                let (now, later) = rest.split_at(rest.len().min(free.len()));
                free[..now.len()].copy_from_slice(now);
                filling.filled += now.len();
                rest = later;
                if !rest.is_empty() {
                    at += 1;
                }
            }
        }
        self.end += bytes as u64;
        Ok(())
    }

    /// Adds a slot behind the others; answers the room it brings.
    fn add_slot(&mut self, mut slot: Slot) -> usize {
        let (file_offset, filled) = match self.slots.back() {
            Some(last) => (last.file_offset + last.slot.len() as u64, 0),
            None => {
                slot[..self.partial.len()].copy_from_slice(&self.partial);
                (self.end - self.partial.len() as u64, self.partial.len())
            }
        };
        let room = slot.len() - filled;
        self.slots.push_back(Filling { slot, file_offset, filled });
        room
    }

    fn undo(&mut self, before: usize, pool: &mut SlotPool) {
        while self.slots.len() > before {
            if let Some(added) = self.slots.pop_back() {
                pool.put(added.slot);
            }
        }
    }

    /// Moves everything to `chunks`, padded with zeroes to whole blocks, and keeps a copy of the partial last block.
    pub(crate) fn take(&mut self, chunks: &mut Vec<Chunk>) {
        if let Some(last) = self.slots.back_mut() {
            let whole = last.filled - last.filled % BLOCK;
            let padded = last.filled.next_multiple_of(BLOCK);
            last.slot[last.filled..padded].fill(0);
            self.partial.clear();
            self.partial.reserve_exact(BLOCK);
            self.partial.extend_from_slice(&last.slot[whole..last.filled]);
        }
        chunks.extend(self.slots.drain(..).map(|filling| Chunk {
            slot_start: 0,
            len: filling.filled.next_multiple_of(BLOCK) as u32,
            file_offset: filling.file_offset,
            slot: filling.slot,
        }));
    }

    /// Takes back the chunks of a write that found no space; the file held `end` bytes with them.
    pub(crate) fn restore(&mut self, chunks: &mut Vec<Chunk>, end: u64, pool: &mut SlotPool) {
        // Newer bytes already begin with a copy of the partial block: it must not be written twice.
        let end = if self.slots.is_empty() { end } else { end - end % BLOCK as u64 };
        while let Some(chunk) = chunks.pop() {
            let filled = end.saturating_sub(chunk.file_offset).min(u64::from(chunk.len)) as usize;
            if filled == 0 {
                pool.put(chunk.slot);
            } else {
                self.slots.push_front(Filling { slot: chunk.slot, file_offset: chunk.file_offset, filled });
            }
        }
    }

    /// Gives all slots back: nothing of this segment will be written any more.
    pub(crate) fn discard(&mut self, pool: &mut SlotPool) {
        self.slots.drain(..).for_each(|filling| pool.put(filling.slot));
    }

    /// Keeps no more memory than the partial block needs.
    pub(crate) fn shrink(&mut self) {
        if self.slots.is_empty() {
            self.slots.shrink_to_fit();
            self.partial.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Arena;

    const SLOT: usize = 2 * BLOCK;

    fn pool(slots: usize) -> SlotPool {
        SlotPool::new(Arena::new(SLOT, slots).unwrap())
    }

    /// Applies chunks to an image of the file, as the disk would.
    fn write(image: &mut Vec<u8>, chunks: &mut Vec<Chunk>, pool: &mut SlotPool) {
        for chunk in chunks.drain(..) {
            let start = chunk.file_offset as usize;
            image.resize(image.len().max(start + chunk.len as usize), 0xEE);
            image[start..start + chunk.len as usize].copy_from_slice(chunk.data());
            pool.put(chunk.slot);
        }
    }

    #[test]
    fn a_group_is_padded_and_the_next_repeats_its_partial_block() {
        let mut pool = pool(4);
        let mut buffer = SegmentBuffer::new(0, Vec::new());
        let (mut chunks, mut image) = (Vec::new(), Vec::new());
        buffer.append([&[1; 100], &[2; 5000]], &mut pool).unwrap();
        buffer.take(&mut chunks);
        buffer.append([&[3; 10], &[]], &mut pool).unwrap();
        write(&mut image, &mut chunks, &mut pool);
        assert_eq!(image.len(), SLOT);
        buffer.take(&mut chunks);
        assert_eq!((chunks[0].file_offset, chunks[0].len), (BLOCK as u64, BLOCK as u32));
        write(&mut image, &mut chunks, &mut pool);
        assert_eq!(image[..100], [1; 100]);
        assert_eq!(image[100..5100], [2; 5000]);
        assert_eq!(image[5100..5110], [3; 10]);
        assert!(image[5110..].iter().all(|byte| *byte == 0));
        assert_eq!(pool.free_count(), 4);
    }

    #[test]
    fn bytes_without_enough_slots_change_nothing() {
        let mut pool = pool(2);
        let mut buffer = SegmentBuffer::new(10, vec![7; 10]);
        assert_eq!(buffer.append([&[0; 3 * SLOT], &[]], &mut pool), Err(NoSlot));
        assert_eq!((pool.free_count(), buffer.end()), (2, 10));
        buffer.append([&[1; 2 * SLOT - 10], &[]], &mut pool).unwrap();
        assert_eq!(buffer.append([&[1], &[]], &mut pool), Err(NoSlot));
        assert_eq!(buffer.end(), 2 * SLOT as u64);
    }

    #[test]
    fn a_group_that_found_no_space_is_written_again_with_what_came_after() {
        for (first, second) in [(100, 50), (BLOCK, 1), (SLOT + 7, 3 * BLOCK), (SLOT, SLOT), (5000, 0)] {
            let mut pool = pool(8);
            let mut buffer = SegmentBuffer::new(0, Vec::new());
            let (mut chunks, mut image) = (Vec::new(), Vec::new());
            buffer.append([&vec![1; first], &[]], &mut pool).unwrap();
            buffer.take(&mut chunks);
            buffer.append([&vec![2; second], &[]], &mut pool).unwrap();
            buffer.restore(&mut chunks, first as u64, &mut pool);
            buffer.append([&[3; 9], &[]], &mut pool).unwrap();
            buffer.take(&mut chunks);
            let mut blocks: Vec<u64> = chunks
                .iter()
                .flat_map(|chunk| (chunk.file_offset..chunk.file_offset + u64::from(chunk.len)).step_by(BLOCK))
                .collect();
            let count = blocks.len();
            blocks.sort_unstable();
            blocks.dedup();
            assert_eq!(count, blocks.len(), "no block twice: {first} {second}");
            write(&mut image, &mut chunks, &mut pool);
            let expected = [vec![1; first], vec![2; second], vec![3; 9]].concat();
            assert_eq!(image[..expected.len()], expected, "{first} {second}");
            assert_eq!(pool.free_count(), 8);
        }
    }
}
