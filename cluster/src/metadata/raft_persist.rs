//! What a Raft node keeps on disk, as bytes.
//!
//! Entry: `[version u8 = 1][kind u8: 0 command, 1 conf change, 2 conf change v2][data]`; index and term are kept beside it.
//! Hard state and snapshot: `[version u8 = 1][bincode]`.

use crate::codec::{self, CodecError};
use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;

/// Term, vote and commit index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardStateRecord {
    /// The latest term seen.
    pub term: u64,
    /// Who got this node's vote in it; 0 for none.
    pub vote: u64,
    /// The last index known to be committed.
    pub commit: u64,
}

/// Who votes and who learns; the last three are of a change under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftConf {
    /// The voters.
    pub voters: Vec<u64>,
    /// Those who only follow.
    pub learners: Vec<u64>,
    /// The voters of the configuration that is being left.
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when it is left.
    pub learners_next: Vec<u64>,
    /// Whether it is left by itself.
    pub auto_leave: bool,
}

/// The state up to an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftSnapshot {
    /// The last index it contains.
    pub index: u64,
    /// The term of that index.
    pub term: u64,
    /// The members at that index.
    pub conf: RaftConf,
    /// The encoded state machine.
    pub data: Bytes,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftEntry {
    /// Its index, from 1, without gaps.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// Its encoded body.
    pub bytes: Bytes,
}

/// What was found on disk at start.
#[derive(Clone, Debug, Default)]
pub struct PersistedRaft {
    /// The hard state; the default on a first start.
    pub hard_state: HardStateRecord,
    /// The log, in order; entries inside the snapshot are passed over.
    pub entries: Vec<RaftEntry>,
    /// The newest snapshot.
    pub snapshot: Option<RaftSnapshot>,
    /// The members of the genesis; a snapshot's own take their place.
    pub conf: RaftConf,
}

/// A batch of changes to make durable, in this order: snapshot (its arrival empties the log), truncation, entries, hard state.
///
/// With `must_sync` the shell syncs, then reports `number` by `on_persisted`, in order. Without, it may write whenever it likes before
/// the next batch and need not report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Ascending.
    pub number: u64,
    /// A snapshot that came from the leader: it replaces the whole log.
    pub snapshot: Option<RaftSnapshot>,
    /// Entries at and above this index are dropped before the new ones are appended.
    pub truncate_from: Option<u64>,
    /// New entries, in order.
    pub entries: Vec<RaftEntry>,
    /// The new hard state, written after the entries, since its commit index counts on them.
    pub hard_state: Option<HardStateRecord>,
    /// Whether anybody will count on it.
    pub must_sync: bool,
}

impl HardStateRecord {
    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode("raft hard state", VERSION, self)
    }

    /// Reads it back.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode("raft hard state", VERSION, bytes)
    }

    pub(super) fn from_raft(state: &HardState) -> Self {
        Self { term: state.term, vote: state.vote, commit: state.commit }
    }

    pub(super) fn to_raft(self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.commit, ..HardState::default() }
    }
}

impl RaftConf {
    /// A group of these voters.
    pub fn of_voters(voters: impl IntoIterator<Item = u64>) -> Self {
        Self { voters: voters.into_iter().collect(), ..Self::default() }
    }

    pub(super) fn from_raft(conf: &ConfState) -> Self {
        Self {
            voters: conf.voters.clone(),
            learners: conf.learners.clone(),
            voters_outgoing: conf.voters_outgoing.clone(),
            learners_next: conf.learners_next.clone(),
            auto_leave: conf.auto_leave,
        }
    }

    pub(super) fn to_raft(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters_outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
            ..ConfState::default()
        }
    }
}

impl RaftSnapshot {
    /// Its bytes.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode("raft snapshot", VERSION, self)
    }

    /// Reads it back.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode("raft snapshot", VERSION, bytes)
    }

    pub(super) fn from_raft(snapshot: &Snapshot) -> Self {
        let metadata = snapshot.get_metadata();
        Self {
            index: metadata.index,
            term: metadata.term,
            conf: RaftConf::from_raft(metadata.get_conf_state()),
            data: snapshot.data.clone(),
        }
    }

    pub(super) fn to_raft(&self) -> Snapshot {
        let mut snapshot = Snapshot { data: self.data.clone(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.index;
        metadata.term = self.term;
        metadata.set_conf_state(self.conf.to_raft());
        snapshot
    }
}

impl RaftEntry {
    /// The command that it holds; `None` for Raft's own entries and what cannot be read.
    pub(super) fn command(&self) -> Option<&[u8]> {
        match self.bytes[..] {
            [VERSION, 0, ref command @ ..] if !command.is_empty() => Some(command),
            _ => None,
        }
    }

    pub(super) fn from_raft(entry: &Entry) -> Self {
        let kind = match entry.get_entry_type() {
            EntryType::EntryNormal => 0,
            EntryType::EntryConfChange => 1,
            EntryType::EntryConfChangeV2 => 2,
        };
        let mut bytes = BytesMut::with_capacity(2 + entry.data.len());
        bytes.put_u8(VERSION);
        bytes.put_u8(kind);
        bytes.put_slice(&entry.data);
        Self { index: entry.index, term: entry.term, bytes: bytes.freeze() }
    }

    pub(super) fn to_raft(&self) -> Result<Entry, CodecError> {
        let what = "raft entry";
        let kind = match self.bytes[..] {
            [VERSION, 0, ..] => EntryType::EntryNormal,
            [VERSION, 1, ..] => EntryType::EntryConfChange,
            [VERSION, 2, ..] => EntryType::EntryConfChangeV2,
            [VERSION, ..] => {
                return Err(CodecError::Inconsistent { what, reason: "unknown kind of entry" });
            }
            [found, ..] => {
                return Err(CodecError::UnknownVersion { what, found, known: VERSION });
            }
            [] => return Err(CodecError::Empty { what }),
        };
        let mut entry = Entry { index: self.index, term: self.term, data: self.bytes.slice(2..), ..Entry::default() };
        entry.set_entry_type(kind);
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_what_raft_persists() {
        let hard_state = HardStateRecord { term: 3, vote: 300, commit: 70_000 };
        let bytes = hard_state.encode().unwrap();
        assert_eq!(bytes, [1, 3, 251, 0x2c, 1, 252, 0x70, 0x11, 1, 0]);
        assert_eq!(HardStateRecord::decode(&bytes).unwrap(), hard_state);

        let conf = RaftConf::of_voters([7]);
        let snapshot = RaftSnapshot { index: 9, term: 2, conf, data: Bytes::from_static(b"ab") };
        let bytes = snapshot.encode().unwrap();
        assert_eq!(bytes, [1, 9, 2, 1, 7, 0, 0, 0, 0, 2, b'a', b'b']);
        assert_eq!(RaftSnapshot::decode(&bytes).unwrap(), snapshot);

        let entry = Entry { index: 5, term: 2, data: Bytes::from_static(b"x"), ..Entry::default() };
        let stored = RaftEntry::from_raft(&entry);
        assert_eq!(stored.bytes[..], [1, 0, b'x']);
        assert_eq!(stored.to_raft().unwrap(), entry);
    }

    #[test]
    fn unknown_versions_kinds_and_trailing_bytes_are_errors() {
        let entry = |bytes: &'static [u8]| RaftEntry { index: 1, term: 1, bytes: Bytes::from_static(bytes) };
        for bad in [&[][..], &[2, 0], &[1, 9], &[1]] {
            assert!(entry(bad).to_raft().is_err(), "{bad:?}");
        }
        assert!(HardStateRecord::decode(&[1, 3, 1, 1, 0]).is_err());
        assert!(HardStateRecord::decode(&[2, 3, 1, 1]).is_err());
        assert!(RaftSnapshot::decode(&[]).is_err());
    }
}
