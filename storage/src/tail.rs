//! The tail ring: recent whole batches of all partitions of a shard, headers included, in one fixed piece of memory.
//!
//! Followers are fed from it byte for byte, control batches too; consumers get its records. Bytes are overwritten oldest first, whoever may still want them. Each batch has an entry in a fixed table; entries of
//! one partition are linked backwards, and every entry also jumps far back (skew-binary jump pointers), so that any
//! offset or position is found in logarithmic time without an index that would have to be kept. Nothing is allocated after
//! construction.

use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader};
use lance_messages::id::TopicPartition;

/// Assumed size of a batch when the table of entries is sized.
const ENTRY_PER_BYTES: usize = 1024;
const MIN_ENTRIES: usize = 64;
const MAX_ENTRIES: usize = 1 << 20;

/// The number of an entry: counts all batches that ever entered the ring, from 1. 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TailNumber(u64);

/// What the ring knows of one batch.
#[derive(Clone, Copy, Debug)]
pub struct TailEntry {
    /// Whose batch it is.
    pub partition: TopicPartition,
    /// Log position of the batch.
    pub position: u64,
    /// Log position behind it.
    pub end_position: u64,
    /// Offset of its first plain byte.
    pub base_offset: u64,
    /// Offset behind its last plain byte.
    pub end_offset: u64,
    /// Number of its first record.
    pub base_record: u64,
    /// Records in it.
    pub record_count: u32,
    /// What kind of bytes it stores.
    pub flags: BatchFlags,
    /// CRC-32 of the stored bytes.
    pub records_crc: u32,
    /// The greatest timestamp of its records, ns.
    pub timestamp_ns: u64,
    /// Bytes stored.
    stored_len: u32,
    /// Where its header starts, in bytes since the ring began.
    start: u64,
    previous: TailNumber,
    jump: TailNumber,
    next: TailNumber,
    /// Batches of the partition before this one in an unbroken chain.
    depth: u64,
}

/// Fixed memory for recent batches.
pub struct TailRing {
    bytes: Box<[u8]>,
    /// Bytes ever taken, the unused ends of rounds included; the next batch starts here or at the next round.
    head: u64,
    entries: Box<[Option<TailEntry>]>,
    next_number: u64,
    /// All entries below are overwritten.
    oldest: u64,
}

impl TailRing {
    /// A ring of `bytes` bytes; 0 keeps nothing.
    pub fn new(bytes: usize) -> Self {
        let entries = (bytes / ENTRY_PER_BYTES).clamp(MIN_ENTRIES, MAX_ENTRIES).next_power_of_two();
        Self {
            bytes: vec![0; bytes].into_boxed_slice(),
            head: 0,
            entries: vec![None; entries].into_boxed_slice(),
            next_number: 1,
            oldest: 1,
        }
    }

    /// Bytes of the ring.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Copies a batch into the ring behind `last`, the partition's batch before it; answers its number.
    ///
    /// A batch larger than the ring is not kept, and breaks the partition's chain.
    pub fn push(
        &mut self,
        partition: TopicPartition,
        header: &BatchHeader,
        raw_header: &[u8; BATCH_HEADER_BYTES],
        stored: &[u8],
        last: TailNumber,
    ) -> TailNumber {
        let Some(start) = self.reserve(BATCH_HEADER_BYTES + stored.len()) else {
            return TailNumber::default();
        };
        let number = TailNumber(self.next_number);
        let (previous, jump, depth) = self.links(partition, header.position, last);
        if let Some(before) = self.entry_mut(previous) {
            before.next = number;
        }
        let entry = TailEntry {
            partition,
            position: header.position,
            end_position: header.end_position(),
            base_offset: header.base_offset,
            end_offset: header.end_offset(),
            base_record: header.base_record,
            record_count: header.record_count,
            flags: header.flags,
            records_crc: header.records_crc,
            timestamp_ns: header.max_timestamp_ns,
            stored_len: header.stored_len,
            start,
            previous,
            jump,
            next: TailNumber::default(),
            depth,
        };
        let place = self.place(number);
        // The table is a ring of its own: the entry that stood here was at least as old as the oldest bytes.
        self.oldest = self.oldest.max((number.0 + 1).saturating_sub(self.entries.len() as u64));
        self.entries[place] = Some(entry);
        self.next_number += 1;
        let at = (start % self.bytes.len() as u64) as usize;
        let place = self.bytes.get_mut(at..at + BATCH_HEADER_BYTES + stored.len()).unwrap_or_default();
        if let Some((header_place, stored_place)) = place.split_at_mut_checked(BATCH_HEADER_BYTES) {
            header_place.copy_from_slice(raw_header);
            stored_place.copy_from_slice(stored);
        }
        number
    }

    /// The batch of `partition` that holds `offset`, found backwards from its newest one.
    pub fn find(&self, partition: TopicPartition, offset: u64, newest: TailNumber) -> Option<TailNumber> {
        self.find_by(partition, offset, newest, |entry| (entry.base_offset, entry.end_offset))
    }

    /// The batch of `partition` that holds the log position `position`, found backwards from its newest one.
    pub fn find_position(&self, partition: TopicPartition, position: u64, newest: TailNumber) -> Option<TailNumber> {
        self.find_by(partition, position, newest, |entry| (entry.position, entry.end_position))
    }

    fn find_by(
        &self,
        partition: TopicPartition,
        wanted: u64,
        newest: TailNumber,
        bounds: impl Fn(&TailEntry) -> (u64, u64),
    ) -> Option<TailNumber> {
        let mut at = newest;
        let mut entry = self.entry(at).filter(|entry| entry.partition == partition)?;
        if wanted >= bounds(entry).1 {
            return None;
        }
        while bounds(entry).0 > wanted {
            let far = self.entry(entry.jump).filter(|far| bounds(far).1 > wanted);
            at = if far.is_some() { entry.jump } else { entry.previous };
            entry = self.entry(at)?;
        }
        (wanted < bounds(entry).1).then_some(at)
    }

    /// What is known of a batch that is still there.
    pub fn entry(&self, number: TailNumber) -> Option<&TailEntry> {
        if number.0 < self.oldest || number.0 >= self.next_number {
            return None;
        }
        self.entries[self.place(number)].as_ref()
    }

    /// The stored bytes of a batch that is still there.
    pub fn stored(&self, entry: &TailEntry) -> &[u8] {
        self.batch(entry).get(BATCH_HEADER_BYTES..).unwrap_or_default()
    }

    /// All bytes of a batch that is still there, its header first.
    pub fn batch(&self, entry: &TailEntry) -> &[u8] {
        if self.bytes.is_empty() {
            return &[];
        }
        let at = (entry.start % self.bytes.len() as u64) as usize;
        self.bytes.get(at..at + BATCH_HEADER_BYTES + entry.stored_len as usize).unwrap_or_default()
    }

    /// The partition's batch after `entry`, if it is in the ring.
    pub fn next(&self, entry: &TailEntry) -> Option<TailNumber> {
        (entry.next.0 != 0).then_some(entry.next)
    }

    fn place(&self, number: TailNumber) -> usize {
        (number.0 & (self.entries.len() as u64 - 1)) as usize
    }

    fn entry_mut(&mut self, number: TailNumber) -> Option<&mut TailEntry> {
        self.entry(number)?;
        let place = self.place(number);
        self.entries[place].as_mut()
    }

    /// Makes room for `len` bytes in one piece and forgets the batches that stood there.
    fn reserve(&mut self, len: usize) -> Option<u64> {
        let capacity = self.bytes.len() as u64;
        let len = len as u64;
        if len > capacity || capacity == 0 {
            return None;
        }
        let left_in_round = capacity - self.head % capacity;
        let start = if left_in_round < len { self.head + left_in_round } else { self.head };
        self.head = start + len;
        let kept_from = self.head.saturating_sub(capacity);
        while self.oldest < self.next_number {
            let place = self.place(TailNumber(self.oldest));
            match &self.entries[place] {
                Some(entry) if entry.start >= kept_from => break,
                _ => self.oldest += 1,
            }
        }
        Some(start)
    }

    /// Previous batch, jump and depth of the partition's next entry.
    fn links(&self, partition: TopicPartition, position: u64, last: TailNumber) -> (TailNumber, TailNumber, u64) {
        let continues = |entry: &&TailEntry| entry.partition == partition && entry.end_position == position;
        let Some(previous) = self.entry(last).filter(continues) else {
            return (TailNumber::default(), TailNumber::default(), 0);
        };
        // Two equal jumps in a row are joined into one of twice the length.
        let jump = self.entry(previous.jump).and_then(|near| {
            let far = self.entry(near.jump)?;
            (previous.depth - near.depth == near.depth - far.depth).then_some(near.jump)
        });
        (last, jump.unwrap_or(last), previous.depth + 1)
    }
}

#[cfg(test)]
mod tests;
