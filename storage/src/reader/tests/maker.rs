//! A log made byte by byte, and a disk that counts how often its files are read.

use crate::disk::{
    Arena, Backend, BackendKind, DirEntry, Disk, DiskError, DiskFile, OpenMode, Operation, QueueOptions, Space,
    WriteQueue,
};
use crate::index::{IndexBuilder, encode_page, file_bytes};
use crate::reader::Reader;
use crate::segment::{Mark, Segment, SegmentEnd, SegmentSlice};
use lance_messages::batch::{BatchFlags, BatchHeader, BatchSeed, Codec};
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use lance_messages::record::{RecordType, put_record};
use lance_messages::sort_key::SortKey;
use std::any::Any;
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) const PARTITION: TopicPartition = TopicPartition::new(TopicId(7), 3);

/// A file that only reads, and counts how often.
#[derive(Debug)]
pub(crate) struct Bytes {
    path: PathBuf,
    bytes: Vec<u8>,
    reads: AtomicUsize,
}

/// A disk of such files.
#[derive(Default)]
pub(crate) struct Files(pub(crate) HashMap<PathBuf, Arc<Bytes>>);

impl Files {
    pub(crate) fn put(&mut self, path: &Path, bytes: Vec<u8>) {
        let (path, reads) = (path.to_owned(), AtomicUsize::new(0));
        self.0.insert(path.clone(), Arc::new(Bytes { path, bytes, reads }));
    }

    pub(crate) fn reads(&self, slice: &SegmentSlice) -> usize {
        self.0[slice.segment.path()].reads.load(Ordering::Relaxed)
    }

    pub(crate) fn reader(self: &Arc<Self>) -> Reader {
        let disk: Arc<dyn Disk> = Arc::<Self>::clone(self);
        Reader::new(&disk, 2)
    }
}

fn refused<T>(operation: Operation, path: &Path) -> Result<T, DiskError> {
    Err(DiskError::os(operation, path, libc::EBADF))
}

impl Disk for Files {
    fn backend(&self) -> Backend {
        let kind = BackendKind::Memory;
        Backend { kind, o_direct: false, registered: false, refused: None }
    }
    fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        refused(Operation::CreateDir, path)
    }
    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, DiskError> {
        refused(Operation::List, dir)
    }
    fn open(&self, path: &Path, _: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        match self.0.get(path) {
            Some(file) => Ok(Arc::<Bytes>::clone(file)),
            None => Err(DiskError::os(Operation::Open, path, libc::ENOENT)),
        }
    }
    fn rename(&self, from: &Path, _: &Path) -> Result<(), DiskError> {
        refused(Operation::Rename, from)
    }
    fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        refused(Operation::Remove, path)
    }
    fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        refused(Operation::Remove, path)
    }
    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        refused(Operation::SyncDir, dir)
    }
    fn space(&self, path: &Path) -> Result<Space, DiskError> {
        refused(Operation::Space, path)
    }
    fn write_queue(&self, _: &QueueOptions, _: &Arc<Arena>) -> Result<Box<dyn WriteQueue>, DiskError> {
        refused(Operation::QueueSetup, Path::new(""))
    }
}

impl DiskFile for Bytes {
    fn path(&self) -> &Path {
        &self.path
    }
    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.bytes.len() as u64)
    }
    fn read_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let rest = self.bytes.get(file_offset as usize..).unwrap_or_default();
        // Short reads are legal; callers must carry on.
        let len = rest.len().min(out.len()).min(300_000);
        out[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
    fn read_uncached_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.read_at(out, file_offset)
    }
    fn write_all_at(&self, _: &[u8], _: u64) -> Result<(), DiskError> {
        refused(Operation::Write, &self.path)
    }
    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
    fn set_len(&self, _: u64) -> Result<(), DiskError> {
        refused(Operation::SetLen, &self.path)
    }
    fn raw_fd(&self) -> Option<RawFd> {
        None
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// One segment under construction.
pub(crate) struct Part {
    pub(crate) base: Mark,
    pub(crate) bytes: Vec<u8>,
    index: IndexBuilder,
}

/// A log under construction, and what a reader must see of it.
pub(crate) struct Maker {
    pub(crate) parts: Vec<Part>,
    pub(crate) position: u64,
    pub(crate) plain: Vec<u8>,
    pub(crate) record: u64,
    /// Offsets at which records start, and at which batches do.
    pub(crate) records: Vec<u64>,
    pub(crate) batches: Vec<u64>,
    /// Log positions of all batches.
    pub(crate) positions: Vec<u64>,
    pub(crate) time: u64,
}

impl Maker {
    pub(crate) fn new() -> Self {
        let (parts, plain, records) = (Vec::new(), Vec::new(), Vec::new());
        let (batches, positions) = (Vec::new(), Vec::new());
        let mut maker = Self { parts, position: 0, plain, record: 0, records, batches, positions, time: 1_000 };
        maker.roll();
        maker
    }

    pub(crate) fn roll(&mut self) {
        let base = self.end();
        self.parts.push(Part { base, bytes: Vec::new(), index: IndexBuilder::new(65_536) });
    }

    pub(crate) fn end(&self) -> Mark {
        Mark { position: self.position, offset: self.plain.len() as u64, record: self.record }
    }

    /// A batch of records whose values have these lengths.
    pub(crate) fn batch(&mut self, values: &[usize], codec: Option<Codec>) -> &mut Self {
        let mut plain = Vec::new();
        self.batches.push(self.plain.len() as u64);
        for (number, len) in values.iter().enumerate() {
            self.records.push((self.plain.len() + plain.len()) as u64);
            let value: Vec<u8> = (0..*len).map(|at| (at * 7 + number + self.plain.len()) as u8).collect();
            put_record(&mut plain, RecordType::Raw, &value).unwrap();
        }
        let stored = match codec {
            None => plain.clone(),
            Some(codec) => codec.compress(&plain).unwrap(),
        };
        let flags = BatchFlags::RECORDS.with_codec(codec);
        self.store(flags, &stored, &plain, values.len() as u32)
    }

    pub(crate) fn opaque(&mut self, len: usize) -> &mut Self {
        self.batches.push(self.plain.len() as u64);
        self.records.push(self.plain.len() as u64);
        let plain: Vec<u8> = (0..len).map(|at| (at * 13) as u8).collect();
        self.store(BatchFlags::OPAQUE, &plain.clone(), &plain, 1)
    }

    pub(crate) fn control(&mut self) -> &mut Self {
        self.store(BatchFlags::CONTROL, &[1, 1, 1, 0], &[], 0)
    }

    fn store(&mut self, flags: BatchFlags, stored: &[u8], plain: &[u8], record_count: u32) -> &mut Self {
        self.time += 10;
        self.positions.push(self.position);
        let header = BatchHeader {
            flags,
            records_crc: crc32fast::hash(stored),
            position: self.position,
            base_offset: self.plain.len() as u64,
            base_record: self.record,
            stored_len: stored.len() as u32,
            plain_len: plain.len() as u32,
            record_count,
            leader_epoch: LeaderEpoch(1),
            committed_through: 0,
            sort_key: SortKey::new(self.time, NodeId(1), 0, 0),
            max_timestamp_ns: self.time,
            producer: None,
        };
        let part = self.parts.last_mut().unwrap();
        part.index.note(part.base.position, part.base.offset, &header);
        part.bytes.extend_from_slice(&header.encode(BatchSeed::new(PARTITION)));
        part.bytes.extend_from_slice(stored);
        self.position = header.end_position();
        self.record = header.end_record();
        self.plain.extend_from_slice(plain);
        self
    }

    /// The log as files and slices, all segments but the last one closed.
    pub(crate) fn make(&self) -> (Arc<Files>, Vec<SegmentSlice>) {
        let (files, slices) = self.make_files();
        (Arc::new(files), slices)
    }

    pub(crate) fn make_files(&self) -> (Files, Vec<SegmentSlice>) {
        let (mut files, mut slices) = (Files::default(), Vec::new());
        for (number, part) in self.parts.iter().enumerate() {
            let next = self.parts.get(number + 1).map(|part| part.base);
            let (base, limit) = (part.base, next.unwrap_or(self.end()));
            let segment = Arc::new(Segment::new(Path::new("log"), PARTITION, base));
            segment.close(SegmentEnd { mark: limit, last_append_ns: 0 });
            let (start_position, start_offset) = (base.position, base.offset);
            files.put(segment.path(), part.bytes.clone());
            let mut index = vec![0; file_bytes(part.index.entries().len())];
            for (page, bytes) in index.as_chunks_mut().0.iter_mut().enumerate() {
                encode_page(bytes, part.index.entries(), page, PARTITION, base.position);
            }
            files.put(&segment.index_path(), index);
            slices.push(SegmentSlice { segment, start_position, start_offset, limit, closed: next.is_some() });
        }
        (files, slices)
    }

    /// The only segment, its bytes changed, with files of its own.
    pub(crate) fn changed(&self, closed: bool, change: impl FnOnce(&mut Vec<u8>)) -> (Arc<Files>, SegmentSlice) {
        let (mut files, mut slices) = self.make_files();
        let mut bytes = self.parts[0].bytes.clone();
        change(&mut bytes);
        files.put(slices[0].segment.path(), bytes);
        slices[0].closed = closed;
        (Arc::new(files), slices.remove(0))
    }
}
