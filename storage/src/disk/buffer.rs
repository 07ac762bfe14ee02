//! The loaner pool: one aligned arena cut into slots, which travel free → ingestion → poller → free.
//!
//! A [`Slot`] is an owned token for one fixed range of the arena. There is never more than one token a range, so
//! whoever holds it has the bytes to itself, also while the kernel reads them.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::BLOCK;

/// NUMA nodes that a memory policy can name.
const MAX_NODES: usize = 1024;
/// Of linux/mempolicy.h: also moves pages that are there already.
const MPOL_MF_MOVE: libc::c_uint = 1 << 1;

/// Why an arena could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArenaError {
    /// Slot size and count must be positive, the size a multiple of the block size, the product addressable.
    #[error(
        "{slot_count} slots of {slot_bytes} bytes: need 1 or more slots of whole {BLOCK}-byte blocks, below 4 GiB each"
    )]
    Shape {
        /// Bytes of a slot.
        slot_bytes: usize,
        /// Number of slots.
        slot_count: usize,
    },
    /// The system gave no memory.
    #[error("cannot map {bytes} bytes for write buffers: errno {errno}")]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// The errno.
        errno: i32,
    },
}

/// One mapping, aligned to pages, that all slots of a shard live in. Freed with its last slot.
pub struct Arena {
    base: NonNull<u8>,
    slot_bytes: usize,
    slot_count: usize,
    give_back: Sender<u32>,
    given_back: Receiver<u32>,
}

// SAFETY: the mapping is reached only through slots, of which there is one a range; the channel is thread-safe.
unsafe impl Send for Arena {}
// SAFETY: as above; a shared arena hands out no reference into the mapping.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps `slot_count` slots of `slot_bytes` (a multiple of [`BLOCK`]) each; memory is used as it is touched.
    pub fn new(slot_bytes: usize, slot_count: usize) -> Result<Arc<Self>, ArenaError> {
        let shape = ArenaError::Shape { slot_bytes, slot_count };
        let fits = slot_bytes > 0
            && slot_bytes.is_multiple_of(BLOCK)
            && u32::try_from(slot_bytes).is_ok()
            && u32::try_from(slot_count).is_ok_and(|count| count > 0);
        let bytes = slot_bytes.checked_mul(slot_count).filter(|_| fits).ok_or(shape)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping; no existing memory is touched.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        let failed = || ArenaError::Map { bytes, errno: io::Error::last_os_error().raw_os_error().unwrap_or(0) };
        if address == libc::MAP_FAILED {
            return Err(failed());
        }
        let base = NonNull::new(address.cast::<u8>()).ok_or_else(failed)?;
        let (give_back, given_back) = bounded(slot_count);
        let arena = Self { base, slot_bytes, slot_count, give_back, given_back };
        for index in 0..slot_count as u32 {
            // The channel has room for every slot, so that a slot can always go back.
            let _ = arena.give_back.try_send(index);
        }
        Ok(Arc::new(arena))
    }

    /// Has the memory come from a NUMA node, what was touched before moved there. Another node serves when that one is full:
    /// slow buffers are better than none.
    pub fn prefer_node(&self, node: u32) -> io::Result<()> {
        const WORD_BITS: usize = libc::c_ulong::BITS as usize;
        let mut mask = [0 as libc::c_ulong; MAX_NODES / WORD_BITS];
        let word = mask.get_mut(node as usize / WORD_BITS).ok_or(io::ErrorKind::InvalidInput)?;
        *word = 1 << (node as usize % WORD_BITS);
        // SAFETY: the range is our own mapping, whose contents stay as they are; the mask has as many bits as are named (the
        // kernel counts one less) and lives over the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base.as_ptr(),
                self.bytes(),
                libc::MPOL_PREFERRED,
                mask.as_ptr(),
                MAX_NODES + 1,
                MPOL_MF_MOVE,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Number of slots.
    pub fn slot_count(&self) -> usize {
        self.slot_count
    }

    /// First byte of the mapping, for registration with the kernel.
    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes of the mapping.
    pub(super) fn bytes(&self) -> usize {
        self.slot_bytes * self.slot_count
    }

    /// Takes a slot that was dropped, or never taken.
    fn reclaim(self: &Arc<Self>) -> Option<Slot> {
        let index = self.given_back.try_recv().ok()?;
        Some(Slot { arena: Arc::clone(self), index })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: base and length are those of our mapping; every slot held an Arc, so none is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes()) };
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Arena({} slots of {} bytes)", self.slot_count, self.slot_bytes)
    }
}

/// An owned token for one slot; derefs to its bytes. Dropping it sends the slot home: none is lost by a panic.
pub struct Slot {
    arena: Arc<Arena>,
    index: u32,
}

impl Slot {
    /// Which slot of its arena it is.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// Whether it is a slot of `arena`.
    pub(super) fn belongs_to(&self, arena: &Arc<Arena>) -> bool {
        Arc::ptr_eq(&self.arena, arena)
    }

    /// First byte of the slot.
    pub(super) fn start(&self) -> *mut u8 {
        // SAFETY: index < slot_count, so the result stays inside the mapping.
        unsafe { self.arena.base.as_ptr().add(self.index as usize * self.arena.slot_bytes) }
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is mapped while the Arc lives, and this token is its only one.
        unsafe { std::slice::from_raw_parts(self.start(), self.arena.slot_bytes) }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for deref; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.arena.slot_bytes) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Never full: the channel has room for every slot of the arena.
        let _ = self.arena.give_back.try_send(self.index);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Slot({})", self.index)
    }
}

/// The free slots of one owner; last in, first out, so that the next slot is warm in the cache.
#[derive(Debug)]
pub struct SlotPool {
    arena: Arc<Arena>,
    free: Vec<Slot>,
}

impl SlotPool {
    /// A pool over the free slots of `arena`; usually there is one pool an arena.
    pub fn new(arena: Arc<Arena>) -> Self {
        let free = Vec::with_capacity(arena.slot_count);
        Self { arena, free }
    }

    /// The arena the slots belong to.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// A free slot; its bytes are whatever was written last.
    pub fn take(&mut self) -> Option<Slot> {
        self.free.pop().or_else(|| self.arena.reclaim())
    }

    /// Gives a slot back (one of another arena goes home to that arena).
    pub fn put(&mut self, slot: Slot) {
        if slot.belongs_to(&self.arena) {
            self.free.push(slot);
        }
    }

    /// Slots that can be taken now.
    pub fn free_count(&self) -> usize {
        self.free.len() + self.arena.given_back.len()
    }

    /// Slots of the arena.
    pub fn capacity(&self) -> usize {
        self.arena.slot_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_taken_once_and_the_next_is_refused() {
        let mut pool = SlotPool::new(Arena::new(BLOCK, 3).unwrap());
        let mut taken: Vec<Slot> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(taken.iter().map(Slot::index).collect::<Vec<_>>(), [0, 1, 2]);
        for (value, slot) in taken.iter_mut().enumerate() {
            slot.fill(value as u8);
        }
        assert!(taken.iter().enumerate().all(|(value, slot)| slot.iter().all(|byte| *byte == value as u8)));
    }

    #[test]
    fn the_slot_given_back_last_is_taken_first() {
        let mut pool = SlotPool::new(Arena::new(BLOCK, 4).unwrap());
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        pool.put(first);
        pool.put(second);
        assert_eq!(pool.take().unwrap().index(), 1);
    }

    #[test]
    fn a_slot_dropped_by_a_panic_comes_home() {
        let mut pool = SlotPool::new(Arena::new(BLOCK, 1).unwrap());
        let slot = pool.take().unwrap();
        let died = std::thread::spawn(move || {
            let _held = slot;
            panic!("on purpose");
        });
        assert!(died.join().is_err());
        assert_eq!(pool.free_count(), 1);
        assert!(pool.take().is_some());
    }

    #[test]
    fn a_slot_of_another_arena_goes_to_its_own() {
        let mut mine = SlotPool::new(Arena::new(BLOCK, 1).unwrap());
        let mut other = SlotPool::new(Arena::new(BLOCK, 1).unwrap());
        mine.put(other.take().unwrap());
        assert_eq!((mine.free_count(), other.free_count()), (1, 1));
    }

    #[test]
    fn arenas_of_impossible_shape_are_refused() {
        for (slot_bytes, slot_count) in [(0, 1), (BLOCK, 0), (100, 1), (1 << 33, 1), (1 << 31, usize::MAX)] {
            assert_eq!(Arena::new(slot_bytes, slot_count).unwrap_err(), ArenaError::Shape { slot_bytes, slot_count });
        }
    }

    #[test]
    fn buffers_prefer_a_memory_node() {
        let arena = Arena::new(BLOCK, 4).unwrap();
        let mut pool = SlotPool::new(Arc::clone(&arena));
        let mut slot = pool.take().unwrap();
        slot.fill(7);
        arena.prefer_node(0).unwrap();
        assert!(slot.iter().all(|byte| *byte == 7));
        let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
        let address = format!("{:x} ", arena.base() as usize);
        let line = maps.lines().find(|line| line.starts_with(&address)).unwrap();
        assert!(line.contains("prefer:0"), "{line}");
        assert!(arena.prefer_node(1023).is_err());
        assert_eq!(arena.prefer_node(1024).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn slots_are_block_aligned() {
        let mut pool = SlotPool::new(Arena::new(3 * BLOCK, 2).unwrap());
        let slots = [pool.take().unwrap(), pool.take().unwrap()];
        assert!(slots.iter().all(|slot| (slot.start() as usize).is_multiple_of(BLOCK)));
    }
}
