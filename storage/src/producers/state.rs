//! The file `producers`: what a log knew when it was saved, so that opening need not read everything again.
//!
//! A state begins at a multiple of 4 KiB and is padded with zeroes to the next; up to two of them stand in the file, so
//! that a torn save leaves the one before. The one with the greatest position counts. Little-endian:
//!
//! `[magic "LNPS"][version u8 = 1][zero × 3][crc u32][length u32][position u64][offset u64][record u64][sort key 16]`
//! `[segment base position u64][segment base offset u64][segment base record u64][epochs u32][entries u32][producers u32]`
//! then each epoch `[epoch u32][start position u64]`, each index entry of the segment (24 bytes, see `index`), each
//! producer `[id u64][epoch u16][batches u8][zero u8][last sequence u32][last append ns u64]` and its batches, the newest
//! first, `[position u64][base offset u64][base record u64][stored u32][plain u32][records u32]`. The checksum covers
//! the bytes from 12 to the length, seeded with the partition.
//!
//! To a replica that begins anew producers are handed over in the same form, one behind the other.

use super::{Producer, ProducerTable, REMEMBERED_BATCHES, StoredBatch};
use crate::disk::BLOCK;
use crate::index::IndexEntry;
use crate::segment::Mark;
use lance_messages::id::{LeaderEpoch, TopicPartition};
use lance_messages::sort_key::SortKey;

const MAGIC: [u8; 4] = *b"LNPS";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 92;
const EPOCH_BYTES: usize = 12;
const ENTRY_BYTES: usize = 24;
const PRODUCER_BYTES: usize = 24;
const BATCH_BYTES: usize = 36;
/// Most bytes of producers that are handed over: those that wrote last, at least 1,284 of them.
const MAX_HANDED_BYTES: usize = 256 * 1024;

/// When an epoch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Log position of its first batch.
    pub position: u64,
}

/// What is saved; borrowed from the log.
pub(crate) struct StateRef<'a> {
    pub(crate) mark: Mark,
    pub(crate) last_sort_key: SortKey,
    pub(crate) segment_base: Mark,
    pub(crate) epochs: &'a [EpochStart],
    pub(crate) entries: &'a [IndexEntry],
    pub(crate) producers: &'a ProducerTable,
}

/// What was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) mark: Mark,
    pub(crate) last_sort_key: SortKey,
    pub(crate) segment_base: Mark,
    pub(crate) epochs: Vec<EpochStart>,
    pub(crate) entries: Vec<IndexEntry>,
    pub(crate) producers: ProducerTable,
    /// Where in the file it stands, padding included: the next save goes elsewhere.
    pub(crate) file_range: (u64, u64),
}

impl StateRef<'_> {
    /// Writes the state to the end of `out`, padded to whole blocks.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, partition: TopicPartition) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&[0; 8]);
        put_mark(out, self.mark);
        out.extend_from_slice(&self.last_sort_key.to_le_bytes());
        put_mark(out, self.segment_base);
        let producers = self.producers.producers.len();
        for count in [self.epochs.len(), self.entries.len(), producers] {
            out.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for epoch in self.epochs {
            out.extend_from_slice(&epoch.epoch.0.to_le_bytes());
            out.extend_from_slice(&epoch.position.to_le_bytes());
        }
        for entry in self.entries {
            let mut raw = [0; ENTRY_BYTES];
            entry.encode(&mut raw);
            out.extend_from_slice(&raw);
        }
        for (id, producer) in &self.producers.producers {
            put_producer(out, *id, producer);
        }
        let length = (out.len() - start) as u32;
        let (from, to) = (start + 12, out.len());
        out[from..from + 4].copy_from_slice(&length.to_le_bytes());
        let crc = checksum(&out[from..to], partition);
        out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
        let padded = start + (to - start).next_multiple_of(BLOCK);
        out.resize(padded, 0);
    }
}

fn checksum(bytes: &[u8], partition: TopicPartition) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&partition.topic.0.to_le_bytes());
    hasher.update(&partition.partition.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn put_mark(out: &mut Vec<u8>, mark: Mark) {
    for number in [mark.position, mark.offset, mark.record] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn put_producer(out: &mut Vec<u8>, id: u64, producer: &Producer) {
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&producer.epoch.to_le_bytes());
    out.extend_from_slice(&[producer.count, 0]);
    out.extend_from_slice(&producer.last_sequence.to_le_bytes());
    out.extend_from_slice(&producer.last_append_ns.to_le_bytes());
    for batch in producer.remembered() {
        for number in [batch.position, batch.base_offset, batch.base_record] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [batch.stored_len, batch.plain_len, batch.record_count] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

impl ProducerTable {
    /// The table as bytes, for a replica of the same log that begins anew; of very many producers those that wrote last.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut newest_first: Vec<_> = self.producers.iter().collect();
        newest_first.sort_by_key(|(id, producer)| (std::cmp::Reverse(producer.last_append_ns), **id));
        let mut out = Vec::new();
        for (id, producer) in newest_first {
            if out.len() + PRODUCER_BYTES + usize::from(producer.count) * BATCH_BYTES > MAX_HANDED_BYTES {
                break;
            }
            put_producer(&mut out, *id, producer);
        }
        out
    }

    /// What [`to_bytes`](Self::to_bytes) wrote; `None` of anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let mut producers = hashbrown::HashMap::new();
        while !fields.0.is_empty() {
            let (id, producer) = fields.producer()?;
            producers.insert(id, producer);
        }
        Some(Self { producers })
    }
}

/// The states that stand whole in the bytes of a `producers` file, the newest first.
pub(crate) fn decode_all(bytes: &[u8], partition: TopicPartition) -> Vec<State> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match decode(rest, partition) {
            Some((mut state, length)) => {
                let padded = length.next_multiple_of(BLOCK);
                state.file_range = (at as u64, (at + padded) as u64);
                found.push(state);
                at += padded;
            }
            None => at += BLOCK,
        }
    }
    found.sort_by_key(|state| std::cmp::Reverse(state.mark.position));
    found
}

/// Where a new state of `bytes` bytes goes, so that it does not touch the newest one at `current`.
pub(crate) fn place(current: Option<(u64, u64)>, bytes: u64) -> u64 {
    match current {
        Some((start, end)) if start < bytes => end,
        _ => 0,
    }
}

fn decode(bytes: &[u8], partition: TopicPartition) -> Option<(State, usize)> {
    let head = bytes.first_chunk::<16>()?;
    if head[..4] != MAGIC || head[4] != VERSION {
        return None;
    }
    let length = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
    let checked = bytes.get(12..length)?;
    if length < HEADER_BYTES || checksum(checked, partition).to_le_bytes() != head[8..12] {
        return None;
    }
    let mut fields = Fields(bytes.get(16..length)?);
    let mark = fields.mark()?;
    let mut key = [0; 16];
    key.copy_from_slice(fields.take(16)?);
    let segment_base = fields.mark()?;
    let (epoch_count, entry_count, producer_count) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let epochs = fields.many(epoch_count, EPOCH_BYTES, |fields| {
        Some(EpochStart { epoch: LeaderEpoch(fields.u32()?), position: fields.u64()? })
    })?;
    let entries = fields
        .many(entry_count, ENTRY_BYTES, |fields| fields.take(ENTRY_BYTES)?.first_chunk().map(IndexEntry::decode))?;
    let producers = fields.many(producer_count, PRODUCER_BYTES, Fields::producer)?;
    let state = State {
        mark,
        last_sort_key: SortKey::from_le_bytes(key),
        segment_base,
        epochs,
        entries,
        producers: ProducerTable { producers: producers.into_iter().collect() },
        file_range: (0, 0),
    };
    (fields.0.is_empty() && state.is_possible()).then_some((state, length))
}

impl State {
    /// Whether the segment begins before the log ends: a state that contradicts itself says nothing about its log.
    fn is_possible(&self) -> bool {
        let (begin, end) = (self.segment_base, self.mark);
        begin.position <= end.position && begin.offset <= end.offset && begin.record <= end.record
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|raw| u32::from_le_bytes(*raw))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.first_chunk().map(|raw| u64::from_le_bytes(*raw))
    }

    fn mark(&mut self) -> Option<Mark> {
        Some(Mark { position: self.u64()?, offset: self.u64()?, record: self.u64()? })
    }

    /// `count` items of at least `least` bytes: a count that cannot be true reserves no memory.
    fn many<T>(&mut self, count: u32, least: usize, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        if (count as usize).checked_mul(least)? > self.0.len() {
            return None;
        }
        (0..count).map(|_| item(self)).collect()
    }

    fn producer(&mut self) -> Option<(u64, Producer)> {
        let id = self.u64()?;
        let head = self.take(4)?;
        let (epoch, count) = (u16::from_le_bytes([head[0], head[1]]), head[2]);
        let (last_sequence, last_append_ns) = (self.u32()?, self.u64()?);
        if usize::from(count) > REMEMBERED_BATCHES {
            return None;
        }
        let stored = self.many(count.into(), BATCH_BYTES, |fields| {
            Some(StoredBatch {
                position: fields.u64()?,
                base_offset: fields.u64()?,
                base_record: fields.u64()?,
                stored_len: fields.u32()?,
                plain_len: fields.u32()?,
                record_count: fields.u32()?,
            })
        })?;
        let mut batches = [StoredBatch::default(); REMEMBERED_BATCHES];
        batches.iter_mut().zip(stored).for_each(|(place, batch)| *place = batch);
        Some((id, Producer { epoch, last_sequence, batches, count, last_append_ns }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producers::tests::header;
    use lance_messages::id::{ProducerId, TopicId};

    fn partition() -> TopicPartition {
        TopicPartition::new(TopicId(7), 1)
    }

    fn table() -> ProducerTable {
        let mut table = ProducerTable::default();
        for sequence in 0..7 {
            table.note(&header(3, 2, sequence, u64::from(sequence) * 500, 9));
        }
        table.note(&header(4, 0, 100, 9_000, 10));
        table
    }

    fn encoded(position: u64) -> Vec<u8> {
        let entry = IndexEntry { sort_key: SortKey(5), offset_delta: 6, position_delta: 7 };
        let state = StateRef {
            mark: Mark { position, offset: 2, record: 3 },
            last_sort_key: SortKey(4),
            segment_base: Mark { position: 1, offset: 1, record: 1 },
            epochs: &[EpochStart { epoch: LeaderEpoch(1), position: 0 }],
            entries: &[entry],
            producers: &table(),
        };
        let mut out = Vec::new();
        state.encode(&mut out, partition());
        out
    }

    #[test]
    fn a_state_begins_with_golden_bytes() {
        let bytes = encoded(0x0102);
        assert_eq!(bytes.len(), BLOCK);
        assert_eq!(bytes[..8], *b"LNPS\x01\0\0\0");
        let length = HEADER_BYTES + 12 + 24 + 2 * 24 + 6 * 36;
        assert_eq!(bytes[12..16], (length as u32).to_le_bytes());
        assert_eq!(bytes[16..24], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[92..104], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_newest_whole_state_counts() {
        let mut bytes = encoded(10);
        bytes.extend(encoded(20));
        let states = decode_all(&bytes, partition());
        assert_eq!(states.iter().map(|state| state.mark.position).collect::<Vec<_>>(), [20, 10]);
        assert_eq!(states[0].producers, table());
        assert_eq!(states[0].file_range, (4096, 8192));
        bytes[4096 + 50] ^= 1;
        assert_eq!(decode_all(&bytes, partition())[0].mark.position, 10);
        assert!(decode_all(&bytes, TopicPartition::new(TopicId(8), 1)).is_empty());
    }

    #[test]
    fn a_table_is_handed_over_whole_or_not_at_all() {
        let bytes = table().to_bytes();
        assert_eq!(ProducerTable::from_bytes(&bytes), Some(table()));
        assert_eq!(ProducerTable::from_bytes(&[]), Some(ProducerTable::default()));
        let ends = [0, PRODUCER_BYTES + BATCH_BYTES];
        for cut in (0..bytes.len()).filter(|cut| !ends.contains(cut)) {
            assert_eq!(ProducerTable::from_bytes(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn of_many_producers_those_that_wrote_last_are_handed_over() {
        let mut table = ProducerTable::default();
        for id in 0..10_000 {
            table.note(&header(id, 0, 0, id * 100, id));
        }
        let bytes = table.to_bytes();
        assert!(bytes.len() <= MAX_HANDED_BYTES);
        let handed = ProducerTable::from_bytes(&bytes).unwrap();
        assert_eq!(handed.len(), MAX_HANDED_BYTES / (PRODUCER_BYTES + BATCH_BYTES));
        assert!(handed.last_sequence(ProducerId(9_999)).is_some());
        assert!(handed.last_sequence(ProducerId(0)).is_none());
    }

    #[test]
    fn a_new_state_never_overwrites_the_newest() {
        assert_eq!(place(None, 8192), 0);
        assert_eq!(place(Some((0, 4096)), 8192), 4096);
        assert_eq!(place(Some((4096, 12_288)), 4096), 0);
        assert_eq!(place(Some((4096, 12_288)), 8192), 12_288);
    }

    #[test]
    fn a_state_whose_segment_begins_behind_the_end_is_none() {
        assert_eq!(decode_all(&encoded(1), partition()).len(), 1);
        assert!(decode_all(&encoded(0), partition()).is_empty());
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let bytes = encoded(1);
        for cut in 0..400 {
            assert!(decode_all(&bytes[..cut], partition()).len() <= 1);
        }
        for at in 0..HEADER_BYTES + 300 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xFF;
            let still = decode_all(&damaged, partition());
            assert!(still.is_empty() || (5..8).contains(&at), "byte {at}");
        }
    }
}
