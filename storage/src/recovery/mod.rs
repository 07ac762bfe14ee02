//! Opening a log: what is there, what is torn, what is damaged.
//!
//! Closed segments are checked by size and chain: each must reach exactly to the base of the next one (a longer one was
//! being closed, and is cut). A segment file that exists proves that the whole log below it was durable. From the newest
//! saved state (file `producers`) on, headers are hopped through; what lies above the durable mark is checked in full. A
//! bad batch there is a torn tail and cut, unless a later valid batch says that it was committed; below the mark it is
//! damage: nothing is cut, and the log opens offline, readable below.

use crate::disk::{BLOCK, Disk, DiskFile, OpenMode};
use crate::log::{Log, LogOptions, OpenContext};
use crate::producers::state::{State, decode_all};
use crate::segment::{Mark, Segment, SegmentEnd, file_name, parse_file_name, remove_files, remove_if_there};
use lance_messages::batch::{BatchHeader, BatchSeed};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod error;
mod finish;
mod replay;
mod truncate;
mod window;

pub use error::{Damage, DamageReason, OpenError, RecoveryReport, RestartError, TruncateError};
use replay::{Replay, Stop};
pub use truncate::{begin_log, restart_log, truncate_log};
use window::Window;

/// A segment file as it was found.
struct Found {
    path: PathBuf,
    base_position: u64,
    len: u64,
}

/// What is in the folder of a log.
struct Folder {
    segments: Vec<Found>,
    has_state: bool,
    indexes: Vec<String>,
}

impl Log {
    /// Opens the log in its folder, or makes it; blocking. Files and folder are synced before any end is reported.
    ///
    /// A single segment that holds nothing and begins nobody knows at which offset is no log: an empty one is made.
    pub fn open(
        disk: &Arc<dyn Disk>,
        options: LogOptions,
        context: OpenContext,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let mut folder = list(&**disk, &options.dir)?;
        if folder.segments.is_empty() {
            return create(disk, options, context, &folder);
        }
        let mut report = RecoveryReport::default();
        finish_closing(&**disk, &mut folder.segments, &mut report)?;
        let (mut bases, mut replay) = walk(&**disk, &options, &mut folder, context)?;
        if replay.damage.is_none() && !replay.knows_offset() {
            remove_files(&**disk, &folder.segments[0].path)?;
            return create(disk, options, OpenContext { flushed_position: None, ..context }, &folder);
        }
        // Whether the next batch begins a segment is not for this copy to decide: its leader may go on in the one before.
        if replay.damage.is_none()
            && let [.., _, newest] = &folder.segments[..]
            && newest.base_position == replay.end.position
        {
            report.truncated_bytes = replay.torn_end.unwrap_or_default();
            remove_files(&**disk, &newest.path)?;
            folder.segments.pop();
            let known = OpenContext { flushed_position: Some(replay.end.position), ..context };
            (bases, replay) = walk(&**disk, &options, &mut folder, known)?;
        }
        finish::finish(disk, options, context, folder, bases, replay, report)
    }
}

/// Reads all that opening has to read.
fn walk(
    disk: &dyn Disk,
    options: &LogOptions,
    folder: &mut Folder,
    context: OpenContext,
) -> Result<(Vec<BatchHeader>, Replay), OpenError> {
    let mut damage = None;
    let bases = first_headers(disk, folder, BatchSeed::new(options.partition), &mut damage)?;
    let states = read_states(disk, options, folder.has_state)?;
    let replay = Replay::run(disk, options, &folder.segments, &bases, states, context, damage)?;
    Ok((bases, replay))
}

fn list(disk: &dyn Disk, dir: &Path) -> Result<Folder, OpenError> {
    let entries = match disk.list(dir) {
        Ok(entries) => entries,
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut folder = Folder { segments: Vec::new(), has_state: false, indexes: Vec::new() };
    for entry in entries.into_iter().filter(|entry| !entry.is_dir) {
        if let Some(base_position) = parse_file_name(&entry.name) {
            folder.segments.push(Found { path: dir.join(&entry.name), base_position, len: entry.len });
        } else if entry.name == crate::log::STATE_FILE {
            folder.has_state = true;
        } else if entry.name.ends_with(".idx") {
            folder.indexes.push(entry.name);
        }
    }
    folder.segments.sort_by_key(|segment| segment.base_position);
    Ok(folder)
}

/// Makes the folder and the first segment of a new log.
fn create(
    disk: &Arc<dyn Disk>,
    options: LogOptions,
    context: OpenContext,
    folder: &Folder,
) -> Result<(Log, RecoveryReport), OpenError> {
    if let Some(flushed) = context.flushed_position.filter(|position| *position > 0) {
        return Err(OpenError::Missing { dir: options.dir, flushed });
    }
    disk.create_dir_all(&options.dir)?;
    if folder.has_state {
        // Once the new log has grown, a state of another would be taken for its own.
        remove_if_there(&**disk, &options.dir.join(crate::log::STATE_FILE))?;
        disk.sync_dir(&options.dir)?;
    }
    let path = options.dir.join(file_name(0));
    let file = disk.open(&path, OpenMode::Create)?;
    file.sync()?;
    disk.sync_dir(&options.dir)?;
    let report = RecoveryReport { created: true, ..RecoveryReport::default() };
    let log = finish::fresh(disk, options, file);
    Ok((log, report))
}

/// Checks that the segments follow each other, and cuts those whose closing was interrupted.
fn finish_closing(disk: &dyn Disk, segments: &mut [Found], report: &mut RecoveryReport) -> Result<(), OpenError> {
    for number in 1..segments.len() {
        let next = segments[number].base_position;
        let segment = &mut segments[number - 1];
        let len = next - segment.base_position;
        if segment.len < len {
            return Err(OpenError::Gap {
                path: segment.path.clone(),
                end_position: segment.base_position + segment.len,
                next_position: next,
            });
        }
        if segment.len > len {
            let file = disk.open(&segment.path, OpenMode::ReadWrite)?;
            let mut window = Window::new(&*file, segment.len);
            if let Some(found) = window.find_nonzero(len)? {
                return Err(OpenError::Overlap { path: segment.path.clone(), file_offset: found, next_position: next });
            }
            file.set_len(len)?;
            file.sync()?;
            segment.len = len;
            report.closed_segments += 1;
        }
    }
    Ok(())
}

/// The base of every segment but the newest, from its first header; a bad one ends what can be read.
fn first_headers(
    disk: &dyn Disk,
    folder: &mut Folder,
    seed: BatchSeed,
    damage: &mut Option<Stop>,
) -> Result<Vec<BatchHeader>, OpenError> {
    let mut headers: Vec<BatchHeader> = Vec::new();
    let closed = folder.segments.len() - 1;
    for number in 0..closed {
        let segment = &folder.segments[number];
        let file = disk.open(&segment.path, OpenMode::Read)?;
        let mut raw = [0; lance_messages::batch::BATCH_HEADER_BYTES];
        let read = file.read_at(&mut raw, 0)?;
        let decoded = BatchHeader::decode(&raw[..read], seed);
        let reason = match decoded {
            Ok(header) => match replay::check_first(&header, segment.base_position, headers.last()) {
                None => {
                    headers.push(header);
                    continue;
                }
                Some(reason) => reason,
            },
            Err(reason) => DamageReason::Header(reason),
        };
        replay::refuse_unknown_version(&segment.path, 0, &reason)?;
        *damage = Some(Stop { path: segment.path.clone(), file_offset: 0, position: segment.base_position, reason });
        // What lies below the damage stays readable; without anything below, the log is empty.
        folder.segments.truncate(number.max(1));
        return Ok(headers);
    }
    Ok(headers)
}

fn read_states(disk: &dyn Disk, options: &LogOptions, exists: bool) -> Result<Vec<State>, OpenError> {
    if !exists {
        return Ok(Vec::new());
    }
    let file = disk.open(&options.dir.join(crate::log::STATE_FILE), OpenMode::Read)?;
    let mut bytes = vec![0; file.len()? as usize];
    let read = file.read_uncached_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(decode_all(&bytes, options.partition))
}

#[cfg(test)]
mod tests;
