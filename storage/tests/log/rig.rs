//! A log on a memory disk, and the model it is held against.

use lance_messages::batch::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader, BatchSeed, ProducerSequence};
use lance_messages::id::{LeaderEpoch, ProducerId, TopicId, TopicPartition};
use lance_messages::peer::ReplicaBatch;
use lance_messages::record::{RecordType, put_record};
use lance_messages::sort_key::SortKey;
use lance_storage::disk::memory::{MemoryConfig, MemoryDisk};
use lance_storage::disk::{Arena, BLOCK, Disk, DiskCompletion, QueueOptions, SlotPool, WriteQueue};
use lance_storage::log::{
    AppendError, Appended, Completed, DiskFailed, Log, LogOptions, NewBatch, OpenContext, OpenError, RecoveryReport,
    ReplicaAppendError, ReplicaRead, TruncateError, truncate_log,
};
use lance_storage::reader::{Reader, split_batches};
use lance_storage::segment::MIN_SEGMENT_BYTES;
use lance_storage::tail::TailRing;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const SLOT_BYTES: usize = 16 * BLOCK;

/// A small generator: the same seed, the same test.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

/// What was appended, as the test knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub position: u64,
    pub base_offset: u64,
    pub base_record: u64,
    pub epoch: u32,
    pub control: bool,
    pub producer: Option<ProducerSequence>,
    pub bytes: Vec<u8>,
}

impl Known {
    pub fn end_position(&self) -> u64 {
        self.position + (BATCH_HEADER_BYTES + self.bytes.len()) as u64
    }
}

pub fn partition() -> TopicPartition {
    TopicPartition::new(TopicId(9), 3)
}

pub fn dir() -> PathBuf {
    PathBuf::from("/data/logs/9-3")
}

pub struct Rig {
    pub memory: MemoryDisk,
    pub disk: Arc<dyn Disk>,
    pub pool: SlotPool,
    pub tail: TailRing,
    pub queue: Box<dyn WriteQueue>,
    pub log: Log,
    pub known: Vec<Known>,
    /// The greatest end that was ever reported durable.
    pub durable: u64,
    pub flushed: Option<u64>,
    /// What the next opening is told of how far the log was ever written.
    pub written: Option<u64>,
    pub clock: u64,
    pub sequence: u32,
    pub segment_bytes: u64,
    pub zero_ahead_bytes: u64,
}

pub fn options(segment_bytes: u64, zero_ahead_bytes: u64) -> LogOptions {
    LogOptions { dir: dir(), partition: partition(), segment_bytes, index_interval_bytes: 64 * 1024, zero_ahead_bytes }
}

fn queue_of(disk: &Arc<dyn Disk>, pool: &SlotPool) -> Box<dyn WriteQueue> {
    disk.write_queue(&QueueOptions::default(), pool.arena()).unwrap()
}

pub fn records(count: usize, bytes: usize, fill: u8) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..count {
        put_record(&mut out, RecordType::Raw, &vec![fill; bytes]).unwrap();
    }
    out
}

impl Rig {
    pub fn new() -> Self {
        Self::on(MemoryDisk::new(MemoryConfig::default()), MIN_SEGMENT_BYTES, 0)
    }

    pub fn on(memory: MemoryDisk, segment_bytes: u64, zero_ahead_bytes: u64) -> Self {
        let disk = memory.as_disk();
        let pool = SlotPool::new(Arena::new(SLOT_BYTES, 128).unwrap());
        let queue = queue_of(&disk, &pool);
        let (log, report) = Log::open(&disk, options(segment_bytes, zero_ahead_bytes), OpenContext::default()).unwrap();
        assert!(report.created);
        Self {
            queue,
            memory,
            disk,
            pool,
            tail: TailRing::new(1 << 20),
            log,
            known: Vec::new(),
            durable: 0,
            flushed: None,
            written: None,
            clock: 1_000,
            sequence: 0,
            segment_bytes,
            zero_ahead_bytes,
        }
    }

    pub fn batch<'a>(&mut self, bytes: &'a [u8], epoch: u32) -> NewBatch<'a> {
        self.clock += 1;
        NewBatch {
            records: bytes,
            records_crc: crc32fast::hash(bytes),
            plain_len: bytes.len() as u32,
            record_count: lance_messages::record::count_records(bytes).unwrap_or(1),
            flags: BatchFlags::RECORDS,
            leader_epoch: LeaderEpoch(epoch),
            committed_through: self.log.high_watermark().position,
            sort_key: SortKey::at_time(self.clock),
            max_timestamp_ns: self.clock,
            producer: None,
        }
    }

    pub fn try_append(&mut self, batch: &NewBatch<'_>) -> Result<Appended, AppendError> {
        let appended = self.log.append(batch, &mut self.pool, &mut self.tail)?;
        if !appended.duplicate {
            self.known.push(Known {
                position: appended.position,
                base_offset: appended.base_offset,
                base_record: appended.base_record,
                epoch: batch.leader_epoch.0,
                control: batch.flags.is_control(),
                producer: batch.producer,
                bytes: batch.records.to_vec(),
            });
        }
        Ok(appended)
    }

    /// Appends plain records in the log's last epoch, or 1.
    pub fn append(&mut self, bytes: &[u8]) -> Appended {
        let epoch = self.log.last_epoch().0.max(1);
        let batch = self.batch(bytes, epoch);
        self.try_append(&batch).unwrap()
    }

    pub fn append_as(&mut self, bytes: &[u8], sequence: u32) -> Result<Appended, AppendError> {
        let epoch = self.log.last_epoch().0.max(1);
        let producer = Some(ProducerSequence { id: ProducerId(5), epoch: 0, sequence });
        let batch = NewBatch { producer, ..self.batch(bytes, epoch) };
        self.try_append(&batch)
    }

    pub fn append_control(&mut self, epoch: u32) -> Appended {
        let batch = NewBatch { flags: BatchFlags::CONTROL, plain_len: 0, ..self.batch(&[1, 1, 1, 0], epoch) };
        self.try_append(&batch).unwrap()
    }

    /// Takes and performs one step; `None` when there is none.
    pub fn step(&mut self, sync: bool) -> Option<Result<Completed, DiskFailed>> {
        let step = self.log.take_flush(sync)?;
        let completion = self.perform(step);
        Some(self.complete(completion))
    }

    pub fn perform(&mut self, step: lance_storage::flush::FlushStep) -> DiskCompletion {
        self.queue.submit(step.into_op(7)).unwrap();
        let _ = self.queue.kick();
        let mut done = Vec::new();
        while done.is_empty() {
            self.queue.wait(Duration::from_secs(10));
            self.queue.completions(&mut done);
        }
        done.remove(0)
    }

    pub fn complete(&mut self, completion: DiskCompletion) -> Result<Completed, DiskFailed> {
        let completed = self.log.complete(completion, &mut self.pool)?;
        self.durable = self.durable.max(completed.durable_end);
        let mark = self.log.advance_high_watermark(completed.durable_end);
        assert!(mark.position <= completed.durable_end);
        Ok(completed)
    }

    /// Performs steps until there is none.
    pub fn settle(&mut self) {
        while let Some(done) = self.step(true) {
            done.unwrap();
        }
        assert!(!self.log.is_dirty());
        // A log that was just opened had nothing to write, and knows of nothing committed.
        self.log.advance_high_watermark(u64::MAX);
        assert_eq!(self.log.high_watermark().position, self.log.log_end());
    }

    pub fn reopen(&mut self) -> Result<RecoveryReport, OpenError> {
        self.reopen_on(self.memory.as_disk())
    }

    /// Opens the log anew, as a process that starts does; the model forgets what was not durable and is gone.
    pub fn reopen_on(&mut self, disk: Arc<dyn Disk>) -> Result<RecoveryReport, OpenError> {
        let context =
            OpenContext { flushed_position: self.flushed, written_position: self.written, now_ns: self.clock };
        let (log, report) = Log::open(&disk, options(self.segment_bytes, self.zero_ahead_bytes), context)?;
        self.queue = queue_of(&disk, &self.pool);
        self.tail = TailRing::new(1 << 20);
        self.disk = disk;
        self.log = log;
        let end = self.log.log_end();
        self.known.retain(|known| known.end_position() <= end);
        Ok(report)
    }

    /// Cuts the log as its owner does: the mark first, then the files, then it is opened again.
    pub fn truncate(&mut self, to_position: u64) -> Result<RecoveryReport, TruncateError> {
        self.lower(to_position);
        truncate_log(&self.disk, &options(self.segment_bytes, self.zero_ahead_bytes), to_position)?;
        self.known.retain(|known| known.end_position() <= to_position);
        let report = self.reopen().unwrap();
        assert_eq!((self.log.log_end(), report.truncated_bytes), (to_position, 0));
        self.learn_sequence();
        Ok(report)
    }

    /// Goes on behind the last sequence that the log knows.
    pub fn learn_sequence(&mut self) {
        self.sequence = self.log.producers().last_sequence(ProducerId(5)).map_or(0, |last| last.sequence + 1);
    }

    /// Forgets what was durable above `position`.
    pub fn lower(&mut self, position: u64) {
        self.flushed = self.flushed.map(|mark| mark.min(position)).filter(|mark| *mark > 0);
        self.durable = self.durable.min(position);
    }

    /// Gives a leader's batches to the log, flushing when its pool is empty.
    pub fn append_batches(&mut self, batches: &[ReplicaBatch]) {
        for batch in batches {
            let ReplicaBatch { raw_header, header, records } = batch;
            self.log.part_from_committed(header.committed_through);
            while let Err(error) = self.log.append_replica(raw_header, header, records, &mut self.pool) {
                assert!(matches!(error, ReplicaAppendError::PoolExhausted { .. }), "{error}");
                self.step(true).unwrap().unwrap();
            }
            self.log.keep(header, records, &mut self.tail);
            self.known.push(Known {
                position: header.position,
                base_offset: header.base_offset,
                base_record: header.base_record,
                epoch: header.leader_epoch.0,
                control: header.flags.is_control(),
                producer: header.producer,
                bytes: records.to_vec(),
            });
        }
    }

    /// The whole batches at the follower's end, from the ring or the segments; empty at the end of this log.
    pub fn batches_at(&self, position: u64, max_bytes: usize, reader: &mut Reader) -> Vec<ReplicaBatch> {
        let bytes = match self.log.replica_read(position, max_bytes, &self.tail) {
            ReplicaRead::Batches { bytes, end_position } => {
                assert_eq!(end_position, position + bytes.len() as u64);
                bytes
            }
            ReplicaRead::Segments(slice) => slice.read(reader, max_bytes).unwrap(),
            ReplicaRead::AtEnd => return Vec::new(),
            other => panic!("{other:?} at {position}"),
        };
        let batches = split_batches(&bytes, partition()).unwrap();
        assert!(batches.len() == 1 || bytes.len() <= max_bytes);
        assert!(batches.iter().all(|batch| crc32fast::hash(&batch.records) == batch.header.records_crc));
        batches
    }

    /// Holds the closed segments of two logs against each other, byte for byte; answers how many both have.
    pub fn same_closed_segments(&self, other: &Self) -> usize {
        let mut same = 0;
        for segment in self.log.closed_segments() {
            let theirs = other.log.closed_segments().find(|their| their.base() == segment.base());
            let Some(theirs) = theirs else { continue };
            assert_eq!(segment.end().unwrap().mark, theirs.end().unwrap().mark);
            let (ours, theirs) = (self.memory.read_file(segment.path()), other.memory.read_file(theirs.path()));
            assert!(ours.unwrap() == theirs.unwrap(), "{:?} differs", segment.path());
            same += 1;
        }
        same
    }

    /// All batches in the segment files, up to the log end.
    pub fn stored(&self) -> Vec<Known> {
        let mut all = Vec::new();
        let view = self.log.segments();
        for facts in view {
            let path = dir().join(lance_storage::segment::file_name(facts.base_position));
            let Some(bytes) = self.read(&path) else { continue };
            let mut position = facts.base_position;
            while position < facts.end_position.min(self.log.durable_end()) {
                let at = (position - facts.base_position) as usize;
                let header = BatchHeader::decode(&bytes[at..], BatchSeed::new(partition())).unwrap();
                assert_eq!(header.position, position);
                assert_eq!(header.flags.starts_segment(), position == facts.base_position);
                let body = at + BATCH_HEADER_BYTES..at + header.batch_bytes() as usize;
                all.push(Known {
                    position,
                    base_offset: header.base_offset,
                    base_record: header.base_record,
                    epoch: header.leader_epoch.0,
                    control: header.flags.is_control(),
                    producer: header.producer,
                    bytes: bytes[body].to_vec(),
                });
                position = header.end_position();
            }
        }
        all
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.disk.open(path, lance_storage::disk::OpenMode::Read).ok()?;
        let mut bytes = vec![0; file.len().ok()? as usize];
        let read = file.read_uncached_at(&mut bytes, 0).ok()?;
        bytes.truncate(read);
        Some(bytes)
    }

    /// Holds the log and its files against the model.
    pub fn check(&self) {
        let stored = self.stored();
        let durable = self.log.durable_end();
        let expected: Vec<_> = self.known.iter().filter(|known| known.end_position() <= durable).cloned().collect();
        assert_eq!(stored.len(), expected.len(), "batches at {:?}", self.log);
        for (stored, expected) in stored.iter().zip(&expected) {
            assert_eq!(stored, expected);
        }
        assert!(durable >= self.durable, "durable once, gone now: {} of {}", durable, self.durable);
        let last = self.known.last();
        let plain = |known: &Known| if known.control { 0 } else { known.bytes.len() as u64 };
        assert_eq!(self.log.end_offset(), last.map_or(0, |last| last.base_offset + plain(last)));
        let mut epochs: Vec<u32> = self.known.iter().map(|known| known.epoch).collect();
        epochs.dedup();
        let history: Vec<u32> = self.log.epoch_history().iter().map(|start| start.epoch.0).collect();
        assert_eq!(history, epochs);
        for start in self.log.epoch_history() {
            let first = self.known.iter().find(|known| known.epoch == start.epoch.0).unwrap();
            assert_eq!(start.position, first.position);
        }
        let sequence = self.known.iter().rev().find_map(|known| known.producer).map(|producer| producer.sequence);
        let remembered = self.log.producers().last_sequence(ProducerId(5)).map(|producer| producer.sequence);
        assert_eq!(remembered, sequence);
    }
}
