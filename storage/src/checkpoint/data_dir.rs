//! The data dir and whose it is: `lock`, and `node.json` as one JSON object
//! `{format_version, cluster_id, node_id, incarnation, boot_number, crc}`; ids of 64 bits and the CRC are hexadecimal strings,
//! the CRC-32 is over `format_version,cluster_id,node_id,incarnation,boot_number` as they stand there.

use super::lives::{PastStarts, end_life, note_start, settle_renewal};
use super::{CheckpointError, Flaw, make_room, read_file, replace_file};
use crate::disk::{Disk, DiskFile, OpenMode};
use lance_messages::id::{NodeId, TopicPartition};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The format of a data dir that any version of the program may open.
pub const FIRST_FORMAT: u64 = 1;
/// The newest format that this program opens: since 2 the metadata holds what older programs cannot read.
pub const NEWEST_FORMAT: u64 = 2;
const RESERVE_FILE: &str = "reserve";

/// Who a data dir belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRecord {
    /// The cluster, 0 before its genesis.
    pub cluster_id: u64,
    /// The node.
    pub node_id: NodeId,
    /// Made with the data dir, renewed by a wipe, a rollback or damage of the Raft log; never 0.
    pub incarnation: u64,
    /// How often a server started on it, this time included.
    pub boot_number: u64,
}

/// A data dir held by this process alone until dropped.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    record: NodeRecord,
    format: u64,
    created: bool,
    starts: PastStarts,
    /// Closing it gives the lock back, also when the process is killed.
    _lock: Arc<dyn DiskFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    format_version: u64,
    cluster_id: String,
    node_id: u16,
    incarnation: String,
    boot_number: u64,
    crc: String,
}

/// Read before the rest, which another version may shape differently.
#[derive(Deserialize)]
struct VersionOnly {
    format_version: u64,
}

impl DataDir {
    /// Takes the data dir at `path` for `node_id`, making it when it is missing, and counts this start durably.
    ///
    /// `randomness` becomes the incarnation of a new data dir, or of one whose renewal was ordered, and makes the nonce of this
    /// start.
    pub fn open(disk: &Arc<dyn Disk>, path: &Path, node_id: NodeId, randomness: u64) -> Result<Self, CheckpointError> {
        Self::open_up_to(disk, path, node_id, randomness, NEWEST_FORMAT)
    }

    /// As [`DataDir::open`], as a program that knows nothing newer than `newest_format`.
    pub fn open_up_to(
        disk: &Arc<dyn Disk>,
        path: &Path,
        node_id: NodeId,
        randomness: u64,
        newest_format: u64,
    ) -> Result<Self, CheckpointError> {
        disk.create_dir_all(path)?;
        let lock = take_lock(disk, &path.join("lock"))?;
        let freed_bytes = make_room(disk, &path.join(RESERVE_FILE))?;
        if freed_bytes > 0 {
            tracing::warn!(freed_bytes, "the disk is full: the reserve is released so that the node can start");
        }
        sign_lock(&*lock)?;
        let file = path.join("node.json");
        let stored = read_record(disk, &file, newest_format)?;
        let (mut record, format) = match stored {
            Some(stored) => stored,
            None => {
                refuse_ownerless_data(disk, path, &file)?;
                let incarnation = randomness.max(1);
                (NodeRecord { cluster_id: 0, node_id, incarnation, boot_number: 0 }, FIRST_FORMAT)
            }
        };
        if record.node_id != node_id {
            return Err(CheckpointError::ForeignIdentity {
                path: file,
                field: "node id",
                found: record.node_id.to_string(),
                expected: node_id.to_string(),
            });
        }
        if end_life(disk, path, &record)?.is_some() {
            // Equal randomness must still give another incarnation.
            record.incarnation = if randomness == record.incarnation { !randomness } else { randomness }.max(1);
        }
        record.boot_number += 1;
        // First, so that no start has a number whose nonce is not known.
        let starts = note_start(disk, path, record.boot_number, randomness)?;
        write_record(disk, &file, &record, format)?;
        settle_renewal(disk, path)?;
        let (disk, path, created) = (Arc::clone(disk), path.to_path_buf(), stored.is_none());
        Ok(Self { disk, path, record, format, created, starts, _lock: lock })
    }

    /// Who it belongs to.
    pub fn record(&self) -> &NodeRecord {
        &self.record
    }

    /// Whether this start made it.
    pub fn created(&self) -> bool {
        self.created
    }

    /// Binds the data dir to its cluster, once and durably; refuses any other cluster afterwards.
    pub fn adopt_cluster(&mut self, cluster_id: u64) -> Result<(), CheckpointError> {
        if self.record.cluster_id == cluster_id {
            return Ok(());
        }
        if self.record.cluster_id != 0 {
            return Err(CheckpointError::ForeignIdentity {
                path: self.node_file(),
                field: "cluster id",
                found: format!("{:016x}", self.record.cluster_id),
                expected: format!("{cluster_id:016x}"),
            });
        }
        self.replace_record(NodeRecord { cluster_id, ..self.record })
    }

    /// This and earlier starts.
    pub fn starts(&self) -> &PastStarts {
        &self.starts
    }

    /// Tells this start from any that an older image of the disk has with the same number.
    pub fn nonce(&self) -> u64 {
        self.starts.nonce_of(self.record.boot_number).unwrap_or_default()
    }

    /// The data dir itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Home of the Raft log, its hard state and snapshots.
    pub fn meta_dir(&self) -> PathBuf {
        self.path.join("meta")
    }

    /// Home of all partition logs.
    pub fn logs_dir(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Home of one partition's log.
    pub fn log_dir(&self, partition: TopicPartition) -> PathBuf {
        self.path.join("logs").join(partition.to_string())
    }

    /// The journal of promised epochs.
    pub fn promises_path(&self) -> PathBuf {
        self.path.join("promises")
    }

    /// What the cluster began with, once this node belongs to one.
    pub fn genesis_path(&self) -> PathBuf {
        self.path.join("genesis")
    }

    /// The space kept for a full disk.
    pub fn reserve_path(&self) -> PathBuf {
        self.path.join(RESERVE_FILE)
    }

    fn node_file(&self) -> PathBuf {
        self.path.join("node.json")
    }

    fn replace_record(&mut self, record: NodeRecord) -> Result<(), CheckpointError> {
        write_record(&self.disk, &self.node_file(), &record, self.format)?;
        self.record = record;
        Ok(())
    }
}

/// Says durably that the data dir at `path` holds what needs `format`: programs that do not know it refuse to start there.
/// For the node that has opened it, once it changes nothing else of who it belongs to.
pub fn raise_format(disk: &Arc<dyn Disk>, path: &Path, format: u64) -> Result<(), CheckpointError> {
    let file = path.join("node.json");
    match read_record(disk, &file, NEWEST_FORMAT)? {
        Some((record, found)) if found < format => write_record(disk, &file, &record, format),
        _ => Ok(()),
    }
}

/// A lost `node.json` must not turn a node with data into a new one under the same id.
fn refuse_ownerless_data(disk: &Arc<dyn Disk>, path: &Path, node_file: &Path) -> Result<(), CheckpointError> {
    for entry in disk.list(path)? {
        let holds_data = match entry.name.as_str() {
            "logs" | "meta" if entry.is_dir => !disk.list(&path.join(&entry.name))?.is_empty(),
            "promises" => entry.is_dir || entry.len > 0,
            _ => false,
        };
        if holds_data {
            let data = path.join(&entry.name);
            return Err(CheckpointError::IdentityMissing { path: node_file.to_path_buf(), data });
        }
    }
    Ok(())
}

fn read_record(
    disk: &Arc<dyn Disk>,
    path: &Path,
    newest_format: u64,
) -> Result<Option<(NodeRecord, u64)>, CheckpointError> {
    let Some(bytes) = read_file(disk, path)? else {
        return Ok(None);
    };
    let malformed = |source| CheckpointError::Malformed { path: path.to_path_buf(), source };
    let version: VersionOnly = serde_json::from_slice(&bytes).map_err(malformed)?;
    if !(FIRST_FORMAT..=newest_format).contains(&version.format_version) {
        return Err(CheckpointError::UnknownVersion {
            path: path.to_path_buf(),
            what: "the file",
            found: version.format_version,
            supported: newest_format,
        });
    }
    let file: NodeFile = serde_json::from_slice(&bytes).map_err(malformed)?;
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
    let record = NodeRecord {
        cluster_id: hex(&file.cluster_id),
        node_id: NodeId(file.node_id),
        incarnation: hex(&file.incarnation),
        boot_number: file.boot_number,
    };
    let (stored, computed) = (hex(&file.crc) as u32, record_crc(&record, file.format_version));
    let canonical = to_file(&record, file.format_version);
    if stored != computed || file.crc != canonical.crc || file.cluster_id != canonical.cluster_id {
        let flaw = Flaw::Crc { what: "identity", stored, computed };
        return Err(CheckpointError::Damaged { path: path.to_path_buf(), flaw });
    }
    Ok(Some((record, file.format_version)))
}

fn write_record(disk: &Arc<dyn Disk>, path: &Path, record: &NodeRecord, format: u64) -> Result<(), CheckpointError> {
    let mut text = serde_json::to_vec_pretty(&to_file(record, format))
        .map_err(|source| CheckpointError::Malformed { path: path.to_path_buf(), source })?;
    text.push(b'\n');
    Ok(replace_file(disk, path, &text)?)
}

fn to_file(record: &NodeRecord, format: u64) -> NodeFile {
    NodeFile {
        format_version: format,
        cluster_id: format!("{:016x}", record.cluster_id),
        node_id: record.node_id.0,
        incarnation: format!("{:016x}", record.incarnation),
        boot_number: record.boot_number,
        crc: format!("{:08x}", record_crc(record, format)),
    }
}

fn record_crc(record: &NodeRecord, format: u64) -> u32 {
    let NodeRecord { cluster_id, node_id, incarnation, boot_number } = record;
    crc32fast::hash(format!("{format},{cluster_id:016x},{node_id},{incarnation:016x},{boot_number}").as_bytes())
}

/// The lock of the data dir. A memory disk has no descriptors and one owner anyway.
fn take_lock(disk: &Arc<dyn Disk>, path: &Path) -> Result<Arc<dyn DiskFile>, CheckpointError> {
    let file = disk.open(path, OpenMode::CreateOrOpen)?;
    let Some(fd) = file.raw_fd() else { return Ok(file) };
    // SAFETY: `file` owns the descriptor and outlives the call.
    if unsafe { libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        if errno != libc::EWOULDBLOCK {
            return Err(CheckpointError::LockRefused { path: path.to_path_buf(), errno });
        }
        let text = read_file(disk, path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let holder = if text.trim().is_empty() { "unknown" } else { text.trim() };
        return Err(CheckpointError::Locked { path: path.to_path_buf(), holder: holder.to_owned() });
    }
    Ok(file)
}

/// Says who holds the lock; a disk without room for that does not keep a server from starting.
fn sign_lock(file: &dyn DiskFile) -> Result<(), CheckpointError> {
    if file.raw_fd().is_none() {
        return Ok(());
    }
    file.set_len(0)?;
    match file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0) {
        Err(error) if !error.is_no_space() => Err(error.into()),
        _ => Ok(()),
    }
}
