//! The Raft log in memory: `raft::Storage` reads from here, the shell keeps the same on disk.

use super::raft_config::RaftError;
use super::raft_persist::{PersistedRaft, RaftConf, RaftSnapshot};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;

/// The log behind its truncation point, and the newest snapshot.
pub struct RaftStorage {
    hard_state: HardState,
    conf: ConfState,
    snapshot: Option<Snapshot>,
    /// A member needs a newer snapshot than there is.
    snapshot_wanted: Cell<bool>,
    /// Index and term of the entry before the first one kept.
    truncated: (u64, u64),
    entries: VecDeque<Entry>,
}

impl RaftStorage {
    /// Takes what was on disk, when it is whole; also says from which index on the log on disk is stale.
    pub(super) fn open(persisted: &PersistedRaft) -> Result<(Self, Option<u64>), RaftError> {
        let (index, term) = persisted.snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.index, snapshot.term));
        let conf = persisted.snapshot.as_ref().map_or(&persisted.conf, |snapshot| &snapshot.conf);
        let mut storage = Self {
            hard_state: persisted.hard_state.to_raft(),
            conf: conf.to_raft(),
            snapshot: persisted.snapshot.as_ref().map(RaftSnapshot::to_raft),
            snapshot_wanted: Cell::new(false),
            truncated: (index, term),
            entries: VecDeque::new(),
        };
        let mut first_stale = None;
        for stored in &persisted.entries {
            // An older log beside a snapshot that contradicts it was on its way out when the process ended.
            if stored.index == index && stored.term != term {
                first_stale = Some(stored.index);
                break;
            }
            if stored.index <= index {
                continue;
            }
            let expected = storage.last() + 1;
            if stored.index != expected {
                return Err(RaftError::LogGap { expected, found: stored.index });
            }
            let entry = stored.to_raft().map_err(|source| RaftError::EntryUndecodable { index: expected, source })?;
            storage.entries.push_back(entry);
        }
        // Nor may a log that ends below the snapshot be appended to: it would have a hole.
        let ends_below = persisted.entries.last().is_some_and(|last| last.index < index);
        if ends_below {
            first_stale = persisted.entries.first().map(|entry| entry.index);
        }
        // A snapshot that arrived just before the end was durable before the hard state that goes with it.
        if storage.hard_state.term < term {
            storage.hard_state = HardState { term, commit: storage.hard_state.commit, ..HardState::default() };
        }
        storage.hard_state.commit = storage.hard_state.commit.max(index);
        let (last_index, commit) = (storage.last(), storage.hard_state.commit);
        if commit > last_index {
            return Err(RaftError::LostEntries { last_index, commit });
        }
        Ok((storage, first_stale))
    }

    pub(super) fn last(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    /// Whether a member waits for a newer snapshot than there is.
    pub(super) fn is_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.get()
    }

    pub(super) fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.get_metadata().index)
    }

    /// Appends entries that follow the log or replace its end; returns the first index replaced.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Option<u64> {
        let first = entries.first()?.index;
        let kept = first.saturating_sub(self.truncated.0 + 1) as usize;
        let replaced = (kept < self.entries.len()).then_some(first);
        self.entries.truncate(kept);
        self.entries.extend(entries.iter().cloned());
        replaced
    }

    pub(super) fn set_hard_state(&mut self, hard_state: &HardState) {
        self.hard_state = hard_state.clone();
    }

    pub(super) fn set_conf(&mut self, conf: ConfState) {
        self.conf = conf;
    }

    pub(super) fn conf(&self) -> RaftConf {
        RaftConf::from_raft(&self.conf)
    }

    /// A snapshot from the leader takes the place of the whole log.
    pub(super) fn install(&mut self, snapshot: Snapshot) {
        let metadata = snapshot.get_metadata();
        self.truncated = (metadata.index, metadata.term);
        self.conf = metadata.get_conf_state().clone();
        self.entries.clear();
        self.snapshot = Some(snapshot);
    }

    /// Keeps an own snapshot of an applied index and drops the log through `drop_through`, which lies at or below it.
    pub(super) fn compact(&mut self, snapshot: Snapshot, drop_through: u64) {
        self.snapshot_wanted.set(false);
        self.snapshot = Some(snapshot);
        while self.truncated.0 < drop_through {
            let Some(entry) = self.entries.pop_front() else { break };
            self.truncated = (entry.index, entry.term);
        }
    }

    pub(super) fn term_of(&self, index: u64) -> Result<u64, StorageError> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(StorageError::Compacted);
        }
        let entry = self.entries.get((index - self.truncated.0 - 1) as usize);
        entry.map(|entry| entry.term).ok_or(StorageError::Unavailable)
    }
}

impl Storage for RaftStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let first = (low - self.truncated.0 - 1) as usize;
        let count = high.saturating_sub(low) as usize;
        let mut entries: Vec<Entry> = self.entries.iter().skip(first).take(count).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        Ok(self.term_of(index)?)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let names = |conf: &ConfState| {
            [conf.get_voters(), conf.get_learners(), conf.get_voters_outgoing()].concat().contains(&to)
        };
        match &self.snapshot {
            // Nobody takes a snapshot of a time before it was a member.
            Some(snapshot)
                if snapshot.get_metadata().index >= request_index
                    && names(snapshot.get_metadata().get_conf_state()) =>
            {
                Ok(snapshot.clone())
            }
            _ => {
                self.snapshot_wanted.set(names(&self.conf));
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}
