//! The lives of a data dir and its starts: file `renewal` orders a new life, file `starts` tells starts apart.
//!
//! ```text
//! renewal (a checkpoint)   incarnation that ends u64 · reason, UTF-8                little-endian
//! starts (a checkpoint)    for each start, oldest first: boot number u64 · nonce u64
//! ```

use super::{Checkpoint, CheckpointError, NodeRecord, folder_of};
use crate::disk::Disk;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const RENEWAL_VERSION: u8 = 1;
const STARTS_VERSION: u8 = 1;
const START_BYTES: usize = 16;
/// Most starts that are kept: a node registers one of its next few.
const MAX_STARTS: usize = 256;

/// Starts of a data dir, as it tells of them itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PastStarts(Vec<(u64, u64)>);

impl PastStarts {
    /// The nonce of a start, unless it was too long ago or never told.
    pub fn nonce_of(&self, boot_number: u64) -> Option<u64> {
        self.0.iter().find(|(number, _)| *number == boot_number).map(|(_, nonce)| *nonce)
    }
}

/// Orders durably that the next start on the data dir at `path` ends the life `incarnation`: what is in `meta` is put aside,
/// and the node is a stranger to its peers from then on. For the process that has opened the data dir, which ends then.
pub fn order_renewal(disk: &Arc<dyn Disk>, path: &Path, incarnation: u64, reason: &str) -> Result<(), CheckpointError> {
    let mut body = incarnation.to_le_bytes().to_vec();
    body.extend_from_slice(reason.as_bytes());
    renewal(disk, path).write(&body)
}

fn renewal(disk: &Arc<dyn Disk>, path: &Path) -> Checkpoint {
    Checkpoint::new(disk, path.join("renewal"), RENEWAL_VERSION)
}

/// Puts aside the metadata of a life that shall end; gives the folder it is in. To be repeated until the new life is durable.
pub(super) fn end_life(
    disk: &Arc<dyn Disk>,
    path: &Path,
    record: &NodeRecord,
) -> Result<Option<PathBuf>, CheckpointError> {
    let Some(body) = renewal(disk, path).read()? else { return Ok(None) };
    let ended = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    if ended != Some(record.incarnation) {
        // The next life had begun when the process ended.
        return Ok(None);
    }
    let (meta, aside) = (path.join("meta"), path.join(format!("meta.{:016x}", record.incarnation)));
    disk.create_dir_all(&aside)?;
    for entry in list_if_there(disk, path, "meta")? {
        disk.rename(&meta.join(&entry), &aside.join(&entry))?;
    }
    disk.sync_dir(&aside)?;
    disk.create_dir_all(&meta)?;
    disk.sync_dir(&meta)?;
    disk.sync_dir(path)?;
    let reason = String::from_utf8_lossy(body.get(8..).unwrap_or_default()).into_owned();
    tracing::warn!(%reason, put_aside = %aside.display(), "a new life begins: this node is refilled by the others");
    Ok(Some(aside))
}

/// The order is carried out, durably.
pub(super) fn settle_renewal(disk: &Arc<dyn Disk>, path: &Path) -> Result<(), CheckpointError> {
    let file = renewal(disk, path);
    match disk.remove_file(file.path()) {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(disk.sync_dir(folder_of(file.path()))?),
    }
}

/// The names of the files in a folder of the data dir.
fn list_if_there(disk: &Arc<dyn Disk>, path: &Path, folder: &str) -> Result<Vec<String>, CheckpointError> {
    if !disk.list(path)?.iter().any(|entry| entry.is_dir && entry.name == folder) {
        return Ok(Vec::new());
    }
    Ok(disk.list(&path.join(folder))?.into_iter().map(|entry| entry.name).collect())
}

/// What is random stays so, and says nothing of what it was made from.
fn mixed(value: u64) -> u64 {
    let mixed = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Adds a start durably to those before it, and gives them all.
pub(super) fn note_start(
    disk: &Arc<dyn Disk>,
    path: &Path,
    boot_number: u64,
    randomness: u64,
) -> Result<PastStarts, CheckpointError> {
    let nonce = mixed(randomness ^ boot_number.rotate_left(32));
    let file = Checkpoint::new(disk, path.join("starts"), STARTS_VERSION);
    let body = match file.read() {
        Ok(body) => body.unwrap_or_default(),
        Err(CheckpointError::Damaged { path, flaw }) => {
            tracing::warn!(path = %path.display(), %flaw, "damaged: an older image of this disk is told less surely");
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let mut starts: Vec<(u64, u64)> =
        body.chunks_exact(START_BYTES).map(|entry| (number(entry), number(&entry[8..]))).collect();
    // A start that ended before it counted told nobody.
    starts.retain(|(known, _)| *known < boot_number);
    starts.drain(..starts.len().saturating_sub(MAX_STARTS - 1));
    starts.push((boot_number, nonce));
    let body: Vec<u8> =
        starts.iter().flat_map(|(number, nonce)| [number.to_le_bytes(), nonce.to_le_bytes()].concat()).collect();
    file.write(&body)?;
    Ok(PastStarts(starts))
}
