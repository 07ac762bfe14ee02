//! Opening a [`SyncLog`]: check every entry, cut a torn tail, refuse damage.

use super::{LogEntry, Segment, SyncLog, SyncLogError, SyncLogOptions, SyncLogReport, entry_of, read_full};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::reader::check::{BatchFlaw, Chain, batch_at, find_header};
use lance_messages::batch::{BatchHeader, BatchSeed};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// What the segments read so far hold.
struct Scan {
    seed: BatchSeed,
    chain: Chain,
    entries: Vec<LogEntry>,
    positions: VecDeque<u64>,
    last: Option<BatchHeader>,
}

impl SyncLog {
    /// Opens the log in its folder, making it when it is missing, and hands over all entries.
    ///
    /// Files and folder are synced before any end is reported.
    pub fn open(
        disk: &Arc<dyn Disk>,
        options: SyncLogOptions,
    ) -> Result<(Self, Vec<LogEntry>, SyncLogReport), SyncLogError> {
        disk.create_dir_all(&options.dir)?;
        let files = segment_files(disk, &options)?;
        let seed = BatchSeed::new(options.partition);
        let start = files.first().map_or(0, |(base, _)| *base);
        let mut scan =
            Scan { seed, chain: Chain::at(start), entries: Vec::new(), positions: VecDeque::new(), last: None };
        let mut report = SyncLogReport::default();
        let mut segments = Vec::with_capacity(files.len());
        let newest = files.len().saturating_sub(1);
        for (number, (base_position, path)) in files.into_iter().enumerate() {
            if base_position != scan.chain.position {
                return Err(SyncLogError::Gap { path, found: base_position, expected: scan.chain.position });
            }
            let file = disk.open(&path, OpenMode::ReadWrite)?;
            report.truncated_bytes += scan.segment(&file, base_position, number == newest)?;
            segments.push(Segment { base_position, file });
        }
        if let Some(segment) = segments.last() {
            segment.file.sync()?;
        }
        disk.sync_dir(&options.dir)?;
        let log = Self {
            disk: Arc::clone(disk),
            options,
            seed,
            segments,
            first_index: scan.entries.first().map_or(0, |entry| entry.index),
            positions: scan.positions,
            end_position: scan.chain.position,
            end_offset: scan.chain.offset.unwrap_or(0),
            last_term: scan.last.map_or(0, |header| header.leader_epoch.0.into()),
            latched: None,
            buffer: Vec::new(),
        };
        Ok((log, scan.entries, report))
    }
}

impl Scan {
    /// Takes in one segment; answers how many torn bytes were cut from it.
    fn segment(&mut self, file: &Arc<dyn DiskFile>, base_position: u64, newest: bool) -> Result<u64, SyncLogError> {
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
        let filled = read_full(file, &mut bytes, 0)?;
        bytes.truncate(filled);
        let mut at = 0;
        while at < bytes.len() {
            match self.batch(&bytes[at..], at == 0) {
                Ok(batch_bytes) => at += batch_bytes,
                Err(flaw) => {
                    self.refuse_damage(file, base_position, &bytes, at, newest, flaw)?;
                    file.set_len(at as u64)?;
                    break;
                }
            }
        }
        Ok((bytes.len() - at) as u64)
    }

    fn batch(&mut self, bytes: &[u8], first: bool) -> Result<usize, BatchFlaw> {
        let (header, data) = batch_at(bytes, self.seed, &self.chain)?;
        if header.flags.starts_segment() != first {
            let (found, expected) = (header.flags.starts_segment().into(), first.into());
            return Err(BatchFlaw::Chain { field: "starts-segment", found, expected });
        }
        if header.record_count != 1 {
            return Err(BatchFlaw::Chain { field: "record count", found: header.record_count.into(), expected: 1 });
        }
        self.positions.push_back(header.position);
        self.entries.push(entry_of(&header, data));
        self.chain = Chain::after(&header);
        self.last = Some(header);
        Ok(header.batch_bytes() as usize)
    }

    /// An error unless the bad batch at `at` is a torn tail: in the newest segment, and below no synced position.
    fn refuse_damage(
        &self,
        file: &Arc<dyn DiskFile>,
        base_position: u64,
        bytes: &[u8],
        at: usize,
        newest: bool,
        flaw: BatchFlaw,
    ) -> Result<(), SyncLogError> {
        let bad = base_position + at as u64;
        let mut synced = if newest { 0 } else { base_position + bytes.len() as u64 };
        let mut from = at;
        while let Some((found, header)) = find_header(&bytes[from..], self.seed, base_position + from as u64) {
            synced = synced.max(header.committed_through);
            from += found + 1;
        }
        if synced <= bad {
            return Ok(());
        }
        Err(SyncLogError::Damaged { path: file.path().to_path_buf(), file_offset: at as u64, synced, flaw })
    }
}

/// The segments of the folder by base position. Files of other kinds are not ours to judge.
fn segment_files(disk: &Arc<dyn Disk>, options: &SyncLogOptions) -> Result<Vec<(u64, PathBuf)>, SyncLogError> {
    let mut files = Vec::new();
    for entry in disk.list(&options.dir)? {
        let digits = entry.name.strip_suffix(".lnc").filter(|digits| digits.len() == 20);
        if let Some(base) = digits.and_then(|digits| digits.parse::<u64>().ok()) {
            files.push((base, options.dir.join(&entry.name)));
        }
    }
    files.sort_unstable();
    Ok(files)
}
