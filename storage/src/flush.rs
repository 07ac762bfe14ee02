//! Bytes on their way to a segment file: slots that mirror block-aligned ranges of it, and the steps that write them.
//!
//! While a group is in flight its slots belong to the poller. What arrives meanwhile goes into a fresh slot that begins
//! with a copy of the group's partial last block, so that no block is in two writes at once and none is written short.
//! A group that is large enough is sealed in the same way while it still waits: what comes after it is another group.

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
    /// The last slot of its group: the next one begins with a copy of its partial block.
    sealed: bool,
}

impl Filling {
    fn room(&self) -> usize {
        if self.sealed { 0 } else { self.slot.len() - self.filled }
    }
}

/// Bytes of one segment that no step has taken yet.
#[derive(Debug)]
pub(crate) struct SegmentBuffer {
    /// In order, without gaps; only the last may have room left (or one cut by [`SegmentBuffer::restore`]).
    slots: VecDeque<Filling>,
    /// What the last block of the file holds so far; read only while `slots` is empty or its last is sealed.
    partial: Vec<u8>,
    /// Where the first block of the last group stands.
    group_start: u64,
    /// Where the next byte goes.
    end: u64,
}

impl SegmentBuffer {
    /// For a file that holds `end` bytes, of which `partial` is the part behind the last whole block.
    pub(crate) fn new(end: u64, partial: Vec<u8>) -> Self {
        Self { slots: VecDeque::new(), partial, group_start: end - end % BLOCK as u64, end }
    }

    /// True when everything appended was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of the group that would be taken next.
    pub(crate) fn next_group_bytes(&self) -> u64 {
        let (first, last) = (self.slots.front(), self.slots.iter().find(|filling| filling.sealed));
        let end = last.map_or(self.end, |last| last.file_offset + last.filled as u64);
        first.map_or(0, |first| end - first.file_offset)
    }

    /// Bytes of the last group, to which the next bytes will belong.
    pub(crate) fn open_group_bytes(&self) -> u64 {
        let open = self.slots.back().is_some_and(|last| !last.sealed);
        if open { self.end - self.group_start } else { 0 }
    }

    /// Where the next byte goes in the file.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Copies `parts` behind each other; all or, without enough slots, nothing.
    pub(crate) fn append(&mut self, parts: [&[u8]; 2], pool: &mut SlotPool) -> Result<(), NoSlot> {
        let bytes = parts[0].len() + parts[1].len();
        let before = self.slots.len();
        let mut room = self.slots.back().map_or(0, Filling::room);
        let mut at = if room > 0 { before - 1 } else { before };
        while room < bytes {
            let Some(slot) = pool.take() else {
                self.undo(before, pool);
                return Err(NoSlot);
            };
            room += self.add_slot(slot);
        }
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
            Some(last) if !last.sealed => (last.file_offset + last.slot.len() as u64, 0),
            _ => {
                slot[..self.partial.len()].copy_from_slice(&self.partial);
                self.group_start = self.end - self.partial.len() as u64;
                (self.group_start, self.partial.len())
            }
        };
        let room = slot.len() - filled;
        self.slots.push_back(Filling { slot, file_offset, filled, sealed: false });
        room
    }

    fn undo(&mut self, before: usize, pool: &mut SlotPool) {
        while self.slots.len() > before {
            if let Some(added) = self.slots.pop_back() {
                pool.put(added.slot);
            }
        }
    }

    /// Ends the last group: what is appended from now on is taken after it, in a write of its own.
    pub(crate) fn seal(&mut self) {
        let Some(last) = self.slots.back_mut().filter(|last| !last.sealed) else {
            return;
        };
        let whole = last.filled - last.filled % BLOCK;
        let padded = last.filled.next_multiple_of(BLOCK);
        last.slot[last.filled..padded].fill(0);
        last.sealed = true;
        self.partial.clear();
        self.partial.reserve_exact(BLOCK);
        self.partial.extend_from_slice(&last.slot[whole..last.filled]);
    }

    /// Moves the first group to `chunks`, padded with zeroes to whole blocks; tells whether it had been sealed before.
    pub(crate) fn take(&mut self, chunks: &mut Vec<Chunk>) -> bool {
        let sealed = self.slots.iter().position(|filling| filling.sealed);
        let count = sealed.map_or(self.slots.len(), |last| last + 1);
        if sealed.is_none() {
            self.seal();
        }
        chunks.extend(self.slots.drain(..count).map(|filling| Chunk {
            slot_start: 0,
            len: filling.filled.next_multiple_of(BLOCK) as u32,
            file_offset: filling.file_offset,
            slot: filling.slot,
        }));
        sealed.is_some()
    }

    /// Takes back the chunks of a write that found no space; the file held `end` bytes with them.
    pub(crate) fn restore(&mut self, chunks: &mut Vec<Chunk>, end: u64, pool: &mut SlotPool) {
        if let (Some(first), true) = (chunks.first(), self.slots.iter().all(|filling| !filling.sealed)) {
            self.group_start = first.file_offset;
        }
        // Newer bytes already begin with a copy of the partial block: it must not be written twice.
        let end = if self.slots.is_empty() { end } else { end - end % BLOCK as u64 };
        while let Some(chunk) = chunks.pop() {
            let filled = end.saturating_sub(chunk.file_offset).min(u64::from(chunk.len)) as usize;
            if filled == 0 {
                pool.put(chunk.slot);
            } else {
                let (slot, file_offset) = (chunk.slot, chunk.file_offset);
                self.slots.push_front(Filling { slot, file_offset, filled, sealed: false });
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
    fn sealed_groups_are_taken_one_by_one_and_repeat_the_block_they_share() {
        let mut pool = pool(8);
        let mut buffer = SegmentBuffer::new(0, Vec::new());
        let (mut chunks, mut image, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for (byte, bytes) in [(1, 100), (2, SLOT + 7), (3, BLOCK - 107), (4, 9)] {
            buffer.append([&vec![byte; bytes], &[]], &mut pool).unwrap();
            expected.extend(vec![byte; bytes]);
            if byte < 4 {
                buffer.seal();
            }
        }
        assert_eq!((buffer.next_group_bytes(), buffer.open_group_bytes()), (100, 9));
        for sealed in [true, true, true, false] {
            assert_eq!(buffer.take(&mut chunks), sealed);
            write(&mut image, &mut chunks, &mut pool);
        }
        assert_eq!(image[..expected.len()], expected);
        assert!(buffer.is_empty());
        assert_eq!(pool.free_count(), 8);
    }

    #[test]
    fn a_sealed_group_that_found_no_space_joins_the_next() {
        for (first, second, third) in [(100, 50, 7), (BLOCK, 1, 1), (SLOT + 7, 3 * BLOCK, 5), (SLOT, SLOT, BLOCK)] {
            let mut pool = pool(9);
            let mut buffer = SegmentBuffer::new(0, Vec::new());
            let (mut chunks, mut image) = (Vec::new(), Vec::new());
            buffer.append([&vec![1; first], &[]], &mut pool).unwrap();
            buffer.seal();
            buffer.append([&vec![2; second], &[]], &mut pool).unwrap();
            buffer.seal();
            assert!(buffer.take(&mut chunks));
            buffer.append([&vec![3; third], &[]], &mut pool).unwrap();
            buffer.restore(&mut chunks, first as u64, &mut pool);
            assert!(buffer.take(&mut chunks));
            let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
            assert_eq!(bytes as usize, (first + second).next_multiple_of(BLOCK), "no block twice");
            write(&mut image, &mut chunks, &mut pool);
            assert!(!buffer.take(&mut chunks));
            write(&mut image, &mut chunks, &mut pool);
            let expected = [vec![1; first], vec![2; second], vec![3; third]].concat();
            assert_eq!(image[..expected.len()], expected, "{first} {second} {third}");
            assert_eq!(pool.free_count(), 9);
        }
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
