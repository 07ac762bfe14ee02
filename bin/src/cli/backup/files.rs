//! Files of batches: whole stored batches, one after the other, as `messages/src/batch.rs` describes them; control batches are
//! left out. A file is named after the offset of its first record.

use super::error::BackupError;
use super::manifest::{FileBackup, Place};
use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;
use lance_client::TopicPartition;
use lance_client::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchSeed};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// A file that reaches this size is closed, and the next one begun.
pub const FILE_BYTES: u64 = 64 * 1024 * 1024;
/// How the names of finished files end.
const ENDING: &str = ".batches";
/// How those of unfinished ones end.
const PART: &str = ".part";

/// A file that is being written; it gets its name once it is whole and durable.
pub struct BatchWriter {
    dir: PathBuf,
    out: BufWriter<File>,
    hasher: Hasher,
    file: FileBackup,
}

impl BatchWriter {
    /// Begins a file at `start`.
    pub fn create(dir: &Path, start: Place) -> Result<Self, BackupError> {
        fs::create_dir_all(dir).map_err(BackupError::io(dir, "make"))?;
        let name = format!("{:020}{ENDING}", start.offset);
        let path = dir.join(format!("{name}{PART}"));
        let out = File::create(&path).map_err(BackupError::io(&path, "make"))?;
        let file = FileBackup { name, start, end: start, ..FileBackup::default() };
        Ok(Self { dir: dir.to_owned(), out: BufWriter::with_capacity(1 << 20, out), hasher: Hasher::new(), file })
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.file.bytes
    }

    /// Adds a batch, which follows the one before.
    pub fn push(&mut self, header: &BatchHeader, records: &[u8], of: TopicPartition) -> Result<(), BackupError> {
        let at = self.file.bytes;
        let path = self.dir.join(&self.file.name);
        check_chain(&path, at, header, self.file.end)?;
        for part in [&header.encode(BatchSeed::new(of))[..], records] {
            self.hasher.update(part);
            self.out.write_all(part).map_err(BackupError::io(&path, "write"))?;
        }
        self.file.bytes += header.batch_bytes();
        self.file.batches += 1;
        self.file.end = Place { offset: header.end_offset(), record: header.end_record() };
        Ok(())
    }

    /// Makes it durable and gives it its name.
    pub fn finish(mut self) -> Result<FileBackup, BackupError> {
        let path = self.dir.join(&self.file.name);
        let part = self.dir.join(format!("{}{PART}", self.file.name));
        self.out.flush().map_err(BackupError::io(&part, "write"))?;
        self.out.get_ref().sync_all().map_err(BackupError::io(&part, "sync"))?;
        fs::rename(&part, &path).map_err(BackupError::io(&path, "name"))?;
        sync_dir(&self.dir)?;
        self.file.crc32 = self.hasher.finalize();
        Ok(self.file)
    }
}

/// Reads a file batch by batch, checking each; holds one batch in memory.
pub struct BatchReader {
    path: PathBuf,
    input: BufReader<File>,
    seed: BatchSeed,
    hasher: Hasher,
    at: u64,
    batches: u64,
    /// Where the next batch must begin.
    next: Option<Place>,
}

impl BatchReader {
    /// Opens a file whose first batch begins at `start`, if that is known.
    pub fn open(path: &Path, of: TopicPartition, start: Option<Place>) -> Result<Self, BackupError> {
        let input = File::open(path).map_err(BackupError::io(path, "read"))?;
        let input = BufReader::with_capacity(1 << 20, input);
        let (path, seed) = (path.to_owned(), BatchSeed::new(of));
        Ok(Self { path, input, seed, hasher: Hasher::new(), at: 0, batches: 0, next: start })
    }

    /// The next batch; `None` at the end of the file.
    pub fn next(&mut self) -> Result<Option<(BatchHeader, Bytes)>, BackupError> {
        let mut raw = [0; BATCH_HEADER_BYTES];
        let filled = self.fill(&mut raw)?;
        if filled == 0 {
            return Ok(None);
        }
        let decoded = BatchHeader::decode(&raw[..filled], self.seed);
        let header = decoded.map_err(|error| self.wrong(error.to_string()))?;
        let mut records = BytesMut::zeroed(header.stored_len as usize);
        let found = self.fill(&mut records)?;
        if found < records.len() {
            return Err(self.wrong(format!("a batch of {} bytes is cut after {found}", records.len())));
        }
        let computed = crc32fast::hash(&records);
        if computed != header.records_crc {
            let stored = header.records_crc;
            return Err(self.wrong(format!("records checksum {stored:08x}, their bytes give {computed:08x}")));
        }
        let begins = Place { offset: header.base_offset, record: header.base_record };
        check_chain(&self.path, self.at, &header, self.next.unwrap_or(begins))?;
        self.hasher.update(&raw);
        self.hasher.update(&records);
        self.next = Some(Place { offset: header.end_offset(), record: header.end_record() });
        self.at += header.batch_bytes();
        self.batches += 1;
        Ok(Some((header, records.freeze())))
    }

    /// Where the batches read so far end, their bytes and checksum, and how many they were.
    pub fn so_far(&self) -> (Option<Place>, u64, u32, u64) {
        (self.next, self.at, self.hasher.clone().finalize(), self.batches)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<usize, BackupError> {
        let mut filled = 0;
        while filled < out.len() {
            match self.input.read(&mut out[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BackupError::io(&self.path, "read")(error)),
            }
        }
        Ok(filled)
    }

    fn wrong(&self, reason: String) -> BackupError {
        BackupError::Batch { path: self.path.clone(), at: self.at, reason }
    }
}

fn check_chain(path: &Path, at: u64, header: &BatchHeader, expected: Place) -> Result<(), BackupError> {
    let links = [
        ("the offset", header.base_offset, expected.offset),
        ("the record number", header.base_record, expected.record),
    ];
    match links.into_iter().find(|(_, found, expected)| found != expected) {
        Some((field, found, expected)) => Err(BackupError::Chain { path: path.to_owned(), at, field, found, expected }),
        None => Ok(()),
    }
}

/// The finished files of a partition that an interrupted run left, from `start` on and without a gap, each checked in full.
pub fn finished(dir: &Path, of: TopicPartition, start: Place) -> Result<Vec<FileBackup>, BackupError> {
    let (mut files, mut next) = (Vec::new(), start);
    loop {
        let name = format!("{:020}{ENDING}", next.offset);
        let path = dir.join(&name);
        if !path.exists() {
            return Ok(files);
        }
        let mut reader = BatchReader::open(&path, of, Some(next))?;
        while reader.next()?.is_some() {}
        let (Some(end), bytes, crc32, batches) = reader.so_far() else { return Ok(files) };
        if end.offset == next.offset {
            return Ok(files);
        }
        files.push(FileBackup { name, start: next, end, batches, bytes, crc32 });
        next = end;
    }
}

/// Removes whatever is in the folder of a partition that is not in `kept`.
pub fn remove_others(dir: &Path, kept: &[FileBackup]) -> Result<(), BackupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BackupError::io(dir, "list")(error)),
    };
    for entry in entries {
        let entry = entry.map_err(BackupError::io(dir, "list"))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.ends_with(ENDING) || name.ends_with(PART);
        if is_ours && !kept.iter().any(|file| file.name == name) {
            fs::remove_file(entry.path()).map_err(BackupError::io(&entry.path(), "remove"))?;
        }
    }
    Ok(())
}

/// Replaces a file in one step.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let part = path.with_extension("part");
    let mut file = File::create(&part).map_err(BackupError::io(&part, "make"))?;
    file.write_all(bytes).map_err(BackupError::io(&part, "write"))?;
    file.sync_all().map_err(BackupError::io(&part, "sync"))?;
    fs::rename(&part, path).map_err(BackupError::io(path, "name"))
}

/// Makes names in a folder durable.
pub fn sync_dir(dir: &Path) -> Result<(), BackupError> {
    let opened = File::open(dir).map_err(BackupError::io(dir, "open"))?;
    opened.sync_all().map_err(BackupError::io(dir, "sync"))
}
