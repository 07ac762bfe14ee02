//! The device: small durable overwrites of blocks that were written before, and large durable appends.

use super::super::clock::now_ns;
use super::super::generator::new_histogram;
use super::Floors;
use crate::cli::failure::Failure;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const BLOCK: usize = 4096;
/// Blocks written before they are overwritten.
const WRITTEN_BYTES: usize = 16 * 1024 * 1024;
const APPEND_BYTES: usize = 1024 * 1024;
/// Largest file of the append floor.
const MOST_APPENDED: u64 = 2 * 1024 * 1024 * 1024;

/// A buffer as O_DIRECT wants it.
#[repr(align(4096))]
struct Aligned<const N: usize>([u8; N]);

fn failed(error: io::Error) -> Failure {
    Failure::failed(format!("disk floor: {error}"))
}

/// A file that is gone from its folder as soon as it is open.
pub(super) fn scratch_file(dir: &Path, name: &str) -> io::Result<File> {
    open_scratch(dir, name, 0)
}

fn open_scratch(dir: &Path, name: &str, flags: i32) -> io::Result<File> {
    let path = scratch_path(dir, name);
    let file = OpenOptions::new().read(true).write(true).create_new(true).custom_flags(flags).open(&path);
    let removed = fs::remove_file(&path);
    let file = file.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    removed?;
    Ok(file)
}

fn scratch_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".lnc-bench-{}-{name}", std::process::id()))
}

/// 4 KB onto blocks written before: O_DIRECT with O_DSYNC, and buffered with fdatasync.
pub(super) fn overwrites(floors: &mut Floors<'_>, dir: &Path) -> Result<(), Failure> {
    let block = Box::new(Aligned([7u8; BLOCK]));
    match open_scratch(dir, "direct", libc::O_DIRECT | libc::O_DSYNC) {
        Ok(file) => overwrite(floors, "direct_dsync_4k", &file, &block.0, false)?,
        Err(error) => floors.skip("direct_dsync_4k", error),
    }
    match scratch_file(dir, "buffered") {
        Ok(file) => overwrite(floors, "buffered_fdatasync_4k", &file, &block.0, true)?,
        Err(error) => floors.skip("buffered_fdatasync_4k", error),
    }
    Ok(())
}

fn overwrite(floors: &mut Floors<'_>, name: &str, file: &File, block: &[u8], sync: bool) -> Result<(), Failure> {
    let large = Box::new(Aligned([1u8; APPEND_BYTES]));
    for at in (0..WRITTEN_BYTES).step_by(APPEND_BYTES) {
        file.write_all_at(&large.0, at as u64).map_err(failed)?;
    }
    data_sync(file).map_err(failed)?;
    let mut times = new_histogram()?;
    let end = now_ns() + floors.time.as_nanos() as u64;
    let mut at = 0;
    while now_ns() < end {
        let begin = now_ns();
        file.write_all_at(block, at as u64).map_err(failed)?;
        if sync {
            data_sync(file).map_err(failed)?;
        }
        times.saturating_record((now_ns() - begin).max(1));
        at = (at + BLOCK) % WRITTEN_BYTES;
    }
    floors.add_times(name, &times);
    Ok(())
}

/// 1 MB at a time with O_DIRECT: appends, each followed by fdatasync, then what was written is read again.
pub(super) fn appends(floors: &mut Floors<'_>, dir: &Path) -> Result<(), Failure> {
    let file = match open_scratch(dir, "append", libc::O_DIRECT) {
        Ok(file) => file,
        Err(error) => {
            floors.skip("append_1m_direct", error);
            return Ok(());
        }
    };
    let large = Box::new(Aligned([3u8; APPEND_BYTES]));
    let mut syncs = new_histogram()?;
    let begin = now_ns();
    let end = begin + floors.time.as_nanos() as u64;
    let mut at = 0;
    while now_ns() < end && at < MOST_APPENDED {
        file.write_all_at(&large.0, at).map_err(failed)?;
        let written = now_ns();
        data_sync(&file).map_err(failed)?;
        syncs.saturating_record((now_ns() - written).max(1));
        at += APPEND_BYTES as u64;
    }
    floors.add("append_1m_direct", at as f64 / (now_ns() - begin).max(1) as f64 * 1e3, "MB_per_s");
    floors.add_times("append_1m_sync", &syncs);
    reads(floors, &file, at, large)
}

/// Reads the first `length` bytes of a file, past the page cache, until the time is up.
fn reads(
    floors: &mut Floors<'_>,
    file: &File,
    length: u64,
    mut large: Box<Aligned<APPEND_BYTES>>,
) -> Result<(), Failure> {
    let begin = now_ns();
    let end = begin + floors.time.as_nanos() as u64;
    let (mut at, mut bytes) = (0, 0);
    while now_ns() < end && length > 0 {
        file.read_exact_at(&mut large.0, at).map_err(failed)?;
        bytes += APPEND_BYTES as u64;
        at = (at + APPEND_BYTES as u64) % length;
    }
    floors.add("read_1m_direct", bytes as f64 / (now_ns() - begin).max(1) as f64 * 1e3, "MB_per_s");
    Ok(())
}

fn data_sync(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open during the call.
    let synced = unsafe { libc::fdatasync(file.as_raw_fd()) };
    if synced < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
