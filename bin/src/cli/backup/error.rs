//! What can be wrong with a backup on disk.

use std::io;
use std::path::{Path, PathBuf};

/// Why a backup cannot be used, or written.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// No manifest: nothing was finished here.
    #[error("{} is missing", path.display())]
    ManifestMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Not JSON, or not that of a manifest.
    #[error("{} is no whole manifest: {source}", path.display())]
    ManifestUnreadable {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Its checksum is wrong.
    #[error("{} is damaged: its checksum is {stored}, its contents give {computed}", path.display())]
    ManifestDamaged {
        /// The file.
        path: PathBuf,
        /// As written.
        stored: String,
        /// As computed.
        computed: String,
    },
    /// Written by a newer program.
    #[error("{} has version {found}, this program reads {known}", path.display())]
    ManifestVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The one that is known.
        known: u32,
    },
    /// A file that the manifest names is not there.
    #[error("{} is missing", path.display())]
    FileMissing {
        /// The file.
        path: PathBuf,
    },
    /// A file is shorter or longer than the manifest says.
    #[error("{} has {found} bytes, the manifest says {expected}", path.display())]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The size it should have.
        expected: u64,
    },
    /// A file's bytes have changed.
    #[error("{} is damaged: its checksum is {computed:08x}, the manifest says {expected:08x}", path.display())]
    FileChecksum {
        /// The file.
        path: PathBuf,
        /// As computed.
        computed: u32,
        /// As the manifest says.
        expected: u32,
    },
    /// A batch does not check.
    #[error("{} at byte {at}: {reason}", path.display())]
    Batch {
        /// The file.
        path: PathBuf,
        /// Where the batch begins.
        at: u64,
        /// What is wrong.
        reason: String,
    },
    /// Batches do not follow each other.
    #[error("{} at byte {at}: {field} is {found} where {expected} follows", path.display())]
    Chain {
        /// The file.
        path: PathBuf,
        /// Where the batch begins.
        at: u64,
        /// Which count.
        field: &'static str,
        /// What it is.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// The folder holds the backup of another cluster.
    #[error("{} is a backup of another cluster: topic {id} is '{known}' there and '{found}' here", path.display())]
    OtherCluster {
        /// The folder.
        path: PathBuf,
        /// The topic's id.
        id: u32,
        /// Its name in the backup.
        known: String,
        /// Its name in the cluster.
        found: String,
    },
    /// The system refuses.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl BackupError {
    /// Names the file and what was tried.
    pub fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::NotFound if doing == "read" => Self::FileMissing { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), doing, source },
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::ManifestMissing { .. } => {
                Some("is this the folder of a backup? One that was interrupted goes on with `lnc backup --to`")
            }
            Self::FileMissing { .. }
            | Self::FileSize { .. }
            | Self::FileChecksum { .. }
            | Self::ManifestUnreadable { .. }
            | Self::ManifestDamaged { .. }
            | Self::Batch { .. }
            | Self::Chain { .. } => Some("take it from another copy of the backup, or make the backup anew elsewhere"),
            Self::OtherCluster { .. } => Some("give each cluster a folder of its own"),
            Self::ManifestVersion { .. } | Self::Io { .. } => None,
        }
    }
}
