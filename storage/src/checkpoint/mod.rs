//! Small files that are read whole and replaced whole: identity, positions known to be synced, the reserve, blobs.
//!
//! A blob on disk is one *frame*, all integers little-endian:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic, by kind of file |
//! | 4 | 1 | version of this frame: 1 |
//! | 5 | 1 | version of the body, the owner's |
//! | 6 | 2 | zero |
//! | 8 | 8 | body bytes |
//! | 16 | 4 | CRC-32 of the body |
//! | 20 | 4 | CRC-32 of bytes 0..20 |
//! | 24 | … | body |
//!
//! These 24 bytes keep their meaning in every version, so that a newer file is told from a damaged one.

mod data_dir;
mod flushed;
mod frame;
mod lives;
mod reserve;

#[cfg(test)]
mod tests;

pub use data_dir::{DataDir, FIRST_FORMAT, NEWEST_FORMAT, NodeRecord, raise_format};
pub use flushed::{FlushedFile, FlushedMarks};
pub use frame::Flaw;
pub use lives::{PastStarts, order_renewal};
pub use reserve::{RESERVE_BYTES, Reserve, make_room};

use crate::disk::{Disk, DiskError, OpenMode};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Magic of a [`Checkpoint`] file.
const MAGIC: [u8; 4] = *b"LNCK";

/// Why a small file could not be read, written or trusted.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The bytes are not what was written.
    #[error("{}: damaged: {flaw}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// Not JSON of the expected shape.
    #[error("{}: not a node file: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Written by a version of the program that this one does not know.
    #[error("{}: {what} is version {found}, this program reads {supported}", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Which of the file's versions.
        what: &'static str,
        /// The version in the file.
        found: u64,
        /// The only version known here.
        supported: u64,
    },
    /// The data dir belongs to another node or cluster.
    #[error("{}: {field} is {found}, but this node was started as {expected}: wrong data dir or wrong configuration", path.display())]
    ForeignIdentity {
        /// The node file.
        path: PathBuf,
        /// Which part of the identity differs.
        field: &'static str,
        /// What the file says.
        found: String,
        /// What this process was started as.
        expected: String,
    },
    /// The data dir holds data, but nothing says whose.
    #[error("{}: missing, although {} holds data: restore the file, or start with an empty data dir", path.display(), data.display())]
    IdentityMissing {
        /// Where the node file should be.
        path: PathBuf,
        /// The data found.
        data: PathBuf,
    },
    /// Another process runs on this data dir.
    #[error("{}: another server (process {holder}) runs on this data dir", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it, `unknown` when it wrote nothing yet.
        holder: String,
    },
    /// The file system cannot lock.
    #[error("{}: cannot lock: errno {errno}", path.display())]
    LockRefused {
        /// The lock file.
        path: PathBuf,
        /// What `flock` answered.
        errno: i32,
    },
}

/// One checked value in a file of its own, replaced atomically: hard state, snapshots.
pub struct Checkpoint {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    body_version: u8,
}

impl Checkpoint {
    /// The checkpoint at `path`, whose body has layout `body_version`. Touches nothing yet.
    pub fn new(disk: &Arc<dyn Disk>, path: impl Into<PathBuf>, body_version: u8) -> Self {
        Self { disk: Arc::clone(disk), path: path.into(), body_version }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The body as last written, `None` when it never was.
    pub fn read(&self) -> Result<Option<Vec<u8>>, CheckpointError> {
        let Some(bytes) = read_file(&self.disk, &self.path)? else {
            return Ok(None);
        };
        let frame = frame::decode(&bytes, MAGIC).map_err(|flaw| at(&self.path, flaw))?;
        if frame.body_version != self.body_version {
            return Err(CheckpointError::UnknownVersion {
                path: self.path.clone(),
                what: "the content",
                found: frame.body_version.into(),
                supported: self.body_version.into(),
            });
        }
        Ok(Some(frame.body.to_vec()))
    }

    /// Replaces the body: once this returns, it and no other survives a power cut.
    pub fn write(&self, body: &[u8]) -> Result<(), CheckpointError> {
        let mut bytes = Vec::with_capacity(frame::HEADER_BYTES + body.len());
        frame::encode(&mut bytes, MAGIC, self.body_version, |out| out.extend_from_slice(body));
        Ok(replace_file(&self.disk, &self.path, &bytes)?)
    }
}

/// Names the file a flaw was found in.
fn at(path: &Path, flaw: Flaw) -> CheckpointError {
    match flaw {
        Flaw::FrameVersion { found } => CheckpointError::UnknownVersion {
            path: path.to_path_buf(),
            what: "the frame",
            found: found.into(),
            supported: frame::VERSION.into(),
        },
        flaw => CheckpointError::Damaged { path: path.to_path_buf(), flaw },
    }
}

/// All bytes of a file, `None` when there is no such file.
fn read_file(disk: &Arc<dyn Disk>, path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}

/// Puts `bytes` in the place of the file at `path`: old or new after a power cut, never a mixture.
pub(crate) fn replace_file(disk: &Arc<dyn Disk>, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let file = disk.open(&temporary, OpenMode::CreateOrOpen)?;
    file.set_len(0)?;
    file.write_all_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(folder_of(path))
}

/// The folder a path lies in; `.` for a bare name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
