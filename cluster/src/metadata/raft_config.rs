//! How the metadata group is tuned, and what can go wrong in it.

use raft::Error as RaftCrateError;
use thiserror::Error;

/// Settings of one Raft node.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// This node's id in the group: derived from its incarnation, not 0, never reused.
    pub id: u64,
    /// Length of a tick.
    pub tick_ms: u64,
    /// Ticks without a leader before an election; the actual wait is 1 to 2 times this.
    pub election_ticks: u32,
    /// Ticks between a leader's heartbeats; fewer than `election_ticks`.
    pub heartbeat_ticks: u32,
    /// Election time-outs are drawn from this: the same seed gives the same run.
    pub seed: u64,
    /// Applied entries after which a snapshot is made; 0 = never.
    pub snapshot_interval_entries: u64,
    /// Entries kept behind a snapshot for followers that are only a little late.
    pub kept_entries: u64,
    /// Largest peer message that is parsed.
    pub max_message_bytes: usize,
    /// Bytes of proposals that may wait for their commit.
    pub max_uncommitted_bytes: u64,
    /// Where the raft crate's log lines go.
    pub logger: slog::Logger,
}

impl RaftConfig {
    /// The usual settings: ticks of 50 ms, elections after 0.5 to 1 s, heartbeats every 100 ms.
    pub fn new(id: u64, seed: u64) -> Self {
        Self {
            id,
            tick_ms: 50,
            election_ticks: 10,
            heartbeat_ticks: 2,
            seed,
            snapshot_interval_entries: 4096,
            kept_entries: 512,
            max_message_bytes: 64 << 20,
            max_uncommitted_bytes: 64 << 20,
            logger: slog::Logger::root(slog::Discard, slog::o!()),
        }
    }

    pub(super) fn to_raft(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.id,
            election_tick: self.election_ticks as usize,
            heartbeat_tick: self.heartbeat_ticks as usize,
            applied,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: self.max_uncommitted_bytes,
            max_committed_size_per_ready: 16 << 20,
            ..raft::Config::default()
        }
    }
}

/// Why an input was not taken.
#[derive(Debug, Error)]
pub enum RaftError {
    /// An earlier error or panic: this core is not used again, a new one is built from disk.
    #[error("this raft node stopped after an earlier error")]
    Stopped,
    /// The message is larger than any that is sent.
    #[error("a raft message of {bytes} bytes is above the limit of {limit}")]
    MessageTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The message does not parse.
    #[error("a raft message of {bytes} bytes does not parse: {source}")]
    MessageMalformed {
        /// Its size.
        bytes: usize,
        /// What protobuf says.
        source: protobuf::ProtobufError,
    },
    /// The message is for another node, or of a kind that peers do not send.
    #[error("a raft message from {from} to {to} is not for node {id}")]
    MessageMisdirected {
        /// Who sent it.
        from: u64,
        /// Whom it is for.
        to: u64,
        /// Who got it.
        id: u64,
    },
    /// A message of somebody who is not a member; the node goes on.
    #[error("a raft message was not taken: {source}")]
    MessageRefused {
        /// What the raft crate says.
        source: RaftCrateError,
    },
    /// The persisted log has a hole.
    #[error("the raft log lacks entry {expected}: entry {found} follows")]
    LogGap {
        /// The index that should come next.
        expected: u64,
        /// The index found.
        found: u64,
    },
    /// The persisted log ends before what was committed: the disk lost it, and the node needs a new incarnation.
    #[error("the raft log ends at {last_index}, below the commit index {commit} it confirmed")]
    LostEntries {
        /// The last index present.
        last_index: u64,
        /// The commit index persisted.
        commit: u64,
    },
    /// The leader goes by an ack of entries that are not in the log: the disk lost them, and the node needs a new incarnation.
    #[error("the raft log ends at {last_index}, below the index {acked} that this node acked")]
    LostAcked {
        /// The last index present.
        last_index: u64,
        /// The index that the leader commits here.
        acked: u64,
    },
    /// A persisted entry is of an unknown form.
    #[error("raft log entry {index} does not decode: {source}")]
    EntryUndecodable {
        /// Its index.
        index: u64,
        /// Why.
        source: crate::codec::CodecError,
    },
    /// The configuration is refused, or nobody may vote.
    #[error("the raft configuration is invalid: {reason}")]
    ConfigInvalid {
        /// Why.
        reason: &'static str,
    },
    /// A snapshot was asked for at an index that was not applied.
    #[error("a snapshot at {index} is not of the applied index {applied}")]
    SnapshotNotApplied {
        /// The index given.
        index: u64,
        /// The index applied.
        applied: u64,
    },
    /// The raft crate gave up: this core is not used again.
    #[error("the raft node failed: {source}")]
    Failed {
        /// What the raft crate says.
        source: RaftCrateError,
    },
    /// A message or a conf change cannot be encoded or decoded.
    #[error("the raft node failed to code a message: {source}")]
    Uncodable {
        /// What protobuf says.
        source: protobuf::ProtobufError,
    },
}

impl RaftError {
    /// Whether the log is not what this node once made durable: it must not vote by it.
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::LogGap { .. } | Self::LostEntries { .. } | Self::LostAcked { .. })
    }

    /// Whether the core that returned it can be used no more.
    pub fn is_fatal(&self) -> bool {
        !matches!(
            self,
            Self::MessageTooLarge { .. }
                | Self::MessageMalformed { .. }
                | Self::MessageMisdirected { .. }
                | Self::MessageRefused { .. }
                | Self::SnapshotNotApplied { .. }
        )
    }
}
