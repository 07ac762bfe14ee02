//! No ack, and no high watermark, of something that is not durable: at the moment a node says so, the log is read from
//! what a power cut would leave of its disk.

use super::losses::{Flip, mend};
use crate::sim::payload::{BatchKey, key_of};
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchSeed};
use lance_messages::id::TopicPartition;
use lance_storage::disk::memory::MemoryDisk;
use std::path::{Path, PathBuf};

/// A batch found in the durable log.
#[derive(Clone, Copy, Debug)]
pub struct FoundBatch {
    /// Its offset.
    pub offset: u64,
    /// Log position behind it.
    pub end_position: u64,
    /// Bytes of its records.
    pub bytes: u64,
    /// Number of its first record.
    pub record: u64,
    /// Records in it.
    pub record_count: u32,
    /// CRC-32 of its records.
    pub crc: u32,
    /// Who made it.
    pub key: Option<BatchKey>,
}

/// Where a segment begins, and what is known of everything below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentStart {
    /// Its base position.
    pub base_position: u64,
    /// Offset of its first batch.
    pub offset: u64,
    /// Epoch of the last batch below.
    pub epoch: u32,
    /// Hash of every byte below.
    pub hash: u64,
}

/// How far the durable log of a partition was followed; what lies below was durable once and must stay.
#[derive(Clone, Debug, Default)]
pub struct DurableCursor {
    /// Position and offset where the log begins: what lay below was committed, and is gone.
    pub begin: (u64, u64),
    segment_base: u64,
    file_offset: u64,
    /// Offset behind the last batch.
    pub offset: u64,
    epoch: u32,
    /// The batches on the way.
    pub found: Vec<FoundBatch>,
    /// Hash of every byte on the way.
    pub hash: u64,
    /// Where segments begin that were entered on the way.
    pub starts: Vec<SegmentStart>,
    /// Bits that flipped in these files: they are read as they were.
    pub flips: Vec<Flip>,
    /// Epoch, end position and hash after each batch on the way.
    pub trail: Vec<(u32, u64, u64)>,
}

impl DurableCursor {
    /// Begins where a log begins whose first segments are gone.
    pub fn beginning_at(start: SegmentStart) -> Self {
        let SegmentStart { base_position, offset, epoch, hash } = start;
        Self { begin: (base_position, offset), segment_base: base_position, offset, epoch, hash, ..Self::default() }
    }

    /// Log position behind the last batch.
    pub fn position(&self) -> u64 {
        self.segment_base + self.file_offset
    }

    /// Base of the segment it stands in: older ones are closed, and known in full.
    pub fn segment_base(&self) -> u64 {
        self.segment_base
    }

    /// Follows the log until `offset`; an error when it does not reach there.
    pub fn follow(
        &mut self,
        memory: &MemoryDisk,
        dir: &Path,
        partition: TopicPartition,
        offset: u64,
    ) -> Result<(), String> {
        while self.offset < offset {
            let position = self.segment_base + self.file_offset;
            let step = self.step(memory, dir, partition);
            step.map_err(|why| {
                format!(
                    "{partition}: offset {offset} is not durable, the log ends at {} (position {position}): {why}",
                    self.offset
                )
            })?;
        }
        Ok(())
    }

    /// Follows the log to its end.
    pub fn follow_to_end(&mut self, memory: &MemoryDisk, dir: &Path, partition: TopicPartition) {
        while self.step(memory, dir, partition).is_ok() {}
    }

    fn step(&mut self, memory: &MemoryDisk, dir: &Path, partition: TopicPartition) -> Result<(), String> {
        let mut raw = [0; BATCH_HEADER_BYTES];
        let path = segment_path(dir, partition, self.segment_base);
        let mut got = memory.read_durable(&path, &mut raw, self.file_offset);
        mend(&self.flips, &path, &mut raw[..got], self.file_offset);
        let mut file_offset = self.file_offset;
        let mut path = path;
        let mut segment_base = self.segment_base;
        if (got < raw.len() || raw[0] == 0) && self.file_offset > 0 {
            segment_base += self.file_offset;
            file_offset = 0;
            path = segment_path(dir, partition, segment_base);
            got = memory.read_durable(&path, &mut raw, 0);
        }
        mend(&self.flips, &path, &mut raw[..got], file_offset);
        let header = BatchHeader::decode(&raw[..got], BatchSeed::new(partition)).map_err(|error| error.to_string())?;
        if header.position != segment_base + file_offset {
            return Err(format!("its batch says position {}", header.position));
        }
        if !header.flags.is_control() && header.base_offset != self.offset {
            return Err(format!("its batch says offset {}", header.base_offset));
        }
        if header.leader_epoch.0 < self.epoch {
            return Err(format!("epoch {} follows epoch {}", header.leader_epoch, self.epoch));
        }
        let mut records = vec![0; header.stored_len as usize];
        let got = memory.read_durable(&path, &mut records, file_offset + BATCH_HEADER_BYTES as u64);
        mend(&self.flips, &path, &mut records[..got], file_offset + BATCH_HEADER_BYTES as u64);
        if got < records.len() || crc32fast::hash(&records) != header.records_crc {
            return Err("its records are not there".to_owned());
        }
        if segment_base > self.segment_base {
            let Self { offset, epoch, hash, .. } = *self;
            self.starts.push(SegmentStart { base_position: segment_base, offset, epoch, hash });
        }
        for bytes in [&raw[..], &records[..]] {
            self.hash =
                self.hash.rotate_left(7).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(crc32fast::hash(bytes));
        }
        self.segment_base = segment_base;
        self.file_offset = file_offset + header.batch_bytes();
        self.epoch = header.leader_epoch.0;
        self.offset = header.end_offset();
        self.trail.push((self.epoch, self.position(), self.hash));
        if !header.flags.is_control() {
            self.found.push(FoundBatch {
                offset: header.base_offset,
                end_position: self.position(),
                bytes: u64::from(header.plain_len),
                record: header.base_record,
                record_count: header.record_count,
                crc: header.records_crc,
                key: key_of(&records),
            });
        }
        Ok(())
    }
}

/// The file of a segment.
pub fn segment_path(dir: &Path, partition: TopicPartition, base_position: u64) -> PathBuf {
    dir.join(partition.to_string()).join(format!("{base_position:020}.lnc"))
}
