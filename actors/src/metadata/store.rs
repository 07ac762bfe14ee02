//! What the metadata actor keeps on disk: the Raft log, the hard state, the newest snapshot.

use bytes::Bytes;
use lance_cluster::codec::CodecError;
use lance_cluster::metadata::{HardStateRecord, Persist, PersistedRaft, RaftConf, RaftEntry, RaftSnapshot};
use lance_messages::id::{TopicId, TopicPartition};
use lance_storage::checkpoint::{Checkpoint, CheckpointError};
use lance_storage::disk::Disk;
use lance_storage::sync_log::{LogEntry, SyncLog, SyncLogError, SyncLogOptions};
use std::path::Path;
use std::sync::Arc;

/// Seeds the checksums of the Raft log; no topic ever has this id.
const RAFT_LOG: TopicPartition = TopicPartition::new(TopicId(u32::MAX), 0);
const SEGMENT_BYTES: u64 = 16 << 20;
const BODY_VERSION: u8 = 1;

/// Why the metadata cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The Raft log.
    #[error("raft log: {0}")]
    Log(#[from] SyncLogError),
    /// Hard state or snapshot.
    #[error("raft checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// Bytes that cannot be read.
    #[error("raft checkpoint: {0}")]
    Codec(#[from] CodecError),
}

impl StoreError {
    /// Whether what was made durable is there no more.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Log(SyncLogError::Damaged { .. } | SyncLogError::Gap { .. })
                | Self::Checkpoint(CheckpointError::Damaged { .. })
        )
    }
}

/// The files of the metadata actor; used from its own thread only.
pub struct MetadataStore {
    log: SyncLog,
    hard_state: Checkpoint,
    snapshot: Checkpoint,
}

impl MetadataStore {
    /// Opens what is in `dir`; `genesis` are the members before any snapshot says otherwise.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, genesis: RaftConf) -> Result<(Self, PersistedRaft), StoreError> {
        let options = SyncLogOptions { dir: dir.to_path_buf(), partition: RAFT_LOG, segment_bytes: SEGMENT_BYTES };
        let (log, entries, _) = SyncLog::open(disk, options)?;
        let hard_state = Checkpoint::new(disk, dir.join("hard_state"), BODY_VERSION);
        let snapshot = Checkpoint::new(disk, dir.join("snapshot"), BODY_VERSION);
        let persisted = PersistedRaft {
            hard_state: match hard_state.read()? {
                Some(bytes) => HardStateRecord::decode(&bytes)?,
                None => HardStateRecord::default(),
            },
            entries: entries
                .into_iter()
                .map(|entry| RaftEntry { index: entry.index, term: entry.term, bytes: entry.data })
                .collect(),
            snapshot: snapshot.read()?.map(|bytes| RaftSnapshot::decode(&bytes)).transpose()?,
            conf: genesis,
        };
        Ok((Self { log, hard_state, snapshot }, persisted))
    }

    /// Makes a batch of changes durable, in the order the batch demands.
    pub fn persist(&mut self, persist: &Persist) -> Result<(), StoreError> {
        if let Some(snapshot) = &persist.snapshot {
            self.snapshot.write(&snapshot.encode()?)?;
            self.log.clear()?;
        }
        if let Some(index) = persist.truncate_from {
            self.log.truncate_from(index)?;
        }
        if !persist.entries.is_empty() {
            let entries: Vec<LogEntry> = persist
                .entries
                .iter()
                .map(|entry| LogEntry { index: entry.index, term: entry.term, data: Bytes::clone(&entry.bytes) })
                .collect();
            self.log.append(&entries)?;
        }
        // Without must_sync only the commit index moved, which the log gives back by itself.
        if let (Some(hard_state), true) = (persist.hard_state, persist.must_sync) {
            self.hard_state.write(&hard_state.encode()?)?;
        }
        Ok(())
    }

    /// Keeps a snapshot and drops the log it stands for.
    pub fn save_snapshot(&mut self, snapshot: &RaftSnapshot, drop_through: u64) -> Result<(), StoreError> {
        self.snapshot.write(&snapshot.encode()?)?;
        self.log.drop_before(drop_through + 1)?;
        Ok(())
    }
}
