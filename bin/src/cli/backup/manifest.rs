//! `manifest.json`: what a backup holds. `{"crc32": "…", "backup": {…}}`: the checksum is that of the inner object as this
//! program writes it. It is written last, and replaces the one before in one step.

use super::error::BackupError;
use super::files::{replace, sync_dir};
use lance_client::rules::AclRule;
use lance_client::{TopicId, TopicMode, TopicPartition};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The version that this program writes, and the only one it reads.
pub const VERSION: u32 = 1;
const NAME: &str = "manifest.json";

#[derive(Serialize, Deserialize)]
struct Sealed {
    crc32: String,
    backup: serde_json::Value,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// What a backup holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of its layout.
    pub version: u32,
    /// How many runs have made it.
    pub runs: u32,
    /// When the last run began: what was committed by then is in it. RFC 3339.
    pub begun_at: String,
    /// No topic of the cluster had this id or a higher one.
    pub next_topic_id: u32,
    /// No producer of these batches has this id or a higher one.
    pub next_producer_id: u64,
    /// The topics, in order of id.
    pub topics: Vec<TopicBackup>,
    /// What consumer groups had committed when the run began.
    pub groups: Vec<GroupBackup>,
    /// What consumers of 1.0 had committed when the run began.
    pub consumers: Vec<ConsumerBackup>,
    /// Users, without what proves them.
    pub users: Vec<String>,
    /// Rules about who may do what.
    pub rules: Vec<AclRule>,
    /// Rules by which topics went on to other clusters.
    pub tees: Vec<serde_json::Value>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopicBackup {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// When producers are acked: L1, L2.
    pub mode: String,
    /// How many nodes held a copy.
    pub replication_factor: u8,
    /// When it was made, seconds since the Unix epoch.
    pub created_at: u64,
    /// Retention by age, seconds; 0 = unlimited.
    pub max_age_secs: u64,
    /// Retention by size; 0 = unlimited.
    pub max_bytes: u64,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionBackup>,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionBackup {
    /// Where it begins: what is below was gone already.
    pub start: Place,
    /// Behind its last record.
    pub end: Place,
    /// Its batches, in order, each file beginning where the one before ends.
    pub files: Vec<FileBackup>,
}

/// A place in the stream of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Byte offset.
    pub offset: u64,
    /// Record number.
    pub record: u64,
}

/// One file of batches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBackup {
    /// Its name in the folder of its partition.
    pub name: String,
    /// Its first record.
    pub start: Place,
    /// Behind its last record.
    pub end: Place,
    /// How many batches it holds.
    pub batches: u64,
    /// Its size.
    pub bytes: u64,
    /// CRC-32 of all of it.
    pub crc32: u32,
}

/// What a group had committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupBackup {
    /// Its name.
    pub name: String,
    /// By topic and partition.
    pub offsets: Vec<OffsetBackup>,
}

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetBackup {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u16,
    /// The next offset that is read.
    pub offset: u64,
    /// What is kept beside it.
    #[serde(default)]
    pub metadata: String,
}

/// What a consumer of 1.0 had committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerBackup {
    /// Its id.
    pub consumer_id: u64,
    /// Where it goes on.
    #[serde(flatten)]
    pub at: OffsetBackup,
}

impl TopicBackup {
    /// When producers are acked.
    pub fn mode(&self) -> TopicMode {
        if self.mode == "L2" { TopicMode::L2 } else { TopicMode::L1 }
    }

    /// One of its partitions as the cluster named it.
    pub fn partition(&self, number: u16) -> TopicPartition {
        TopicPartition::new(TopicId(self.id), number)
    }

    /// The folder of one of its partitions.
    pub fn dir(&self, backup: &Path, number: u16) -> PathBuf {
        backup.join("topics").join(format!("{}-{number}", self.id))
    }
}

impl Manifest {
    /// Every partition with its topic.
    pub fn partitions(&self) -> impl Iterator<Item = (&TopicBackup, u16, &PartitionBackup)> {
        self.topics
            .iter()
            .flat_map(|topic| (0..).zip(&topic.partitions).map(move |(number, held)| (topic, number, held)))
    }

    /// Reads that of a backup.
    pub fn read(dir: &Path) -> Result<Self, BackupError> {
        let path = dir.join(NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(BackupError::ManifestMissing { path });
            }
            Err(error) => return Err(BackupError::io(&path, "read")(error)),
        };
        let unreadable = |source| BackupError::ManifestUnreadable { path: path.clone(), source };
        let sealed: Sealed = serde_json::from_slice(&bytes).map_err(unreadable)?;
        let computed = seal(&sealed.backup);
        if computed != sealed.crc32 {
            return Err(BackupError::ManifestDamaged { path: path.clone(), stored: sealed.crc32, computed });
        }
        let VersionOnly { version } = VersionOnly::deserialize(&sealed.backup).map_err(unreadable)?;
        if version != VERSION {
            return Err(BackupError::ManifestVersion { path, found: version, known: VERSION });
        }
        Self::deserialize(sealed.backup).map_err(unreadable)
    }

    /// Replaces that of a backup, durably.
    pub fn write(&self, dir: &Path) -> Result<(), BackupError> {
        let path = dir.join(NAME);
        let unreadable = |source| BackupError::ManifestUnreadable { path: path.clone(), source };
        let backup = serde_json::to_value(self).map_err(unreadable)?;
        let sealed = Sealed { crc32: seal(&backup), backup };
        let mut text = serde_json::to_vec_pretty(&sealed).map_err(unreadable)?;
        text.push(b'\n');
        replace(&path, &text)?;
        sync_dir(dir)
    }
}

/// The checksum of an object's compact form; keys stand in one order.
fn seal(backup: &serde_json::Value) -> String {
    format!("{:08x}", crc32fast::hash(backup.to_string().as_bytes()))
}
