//! What the supervision tree shows of one actor; written by the actor, read by anybody.

use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What an actor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ActorKind {
    /// The root of the tree.
    Node,
    /// Accepts connections.
    Network,
    /// Serves one client connection.
    Connection,
    /// Owns the logs of a shard's partitions.
    Ingestion,
    /// Writes and syncs for a shard.
    Poller,
    /// Opens leader epochs.
    Replication,
    /// Commits cluster metadata.
    Metadata,
    /// Keeps committed consumer offsets.
    Group,
    /// Asks other nodes for clients that know one address.
    Forward,
    /// Sends topics on to other ones.
    Tee,
    /// Removes old segments.
    Retention,
    /// Re-reads closed segments.
    Scrub,
    /// Serves the admin HTTP API.
    Admin,
    /// Speaks to one peer.
    Link,
    /// Proves peers and accepts their connections.
    Acceptor,
    /// Listens to one peer.
    Session,
    /// Forms the cluster.
    Formation,
}

impl ActorKind {
    /// The word used in names, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Network => "network",
            Self::Connection => "connection",
            Self::Ingestion => "ingestion",
            Self::Poller => "poller",
            Self::Replication => "replication",
            Self::Metadata => "metadata",
            Self::Group => "group",
            Self::Forward => "forward",
            Self::Tee => "tee",
            Self::Retention => "retention",
            Self::Scrub => "scrub",
            Self::Admin => "admin",
            Self::Link => "link",
            Self::Acceptor => "acceptor",
            Self::Session => "session",
            Self::Formation => "formation",
        }
    }
}

/// Where an actor is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum ActorState {
    /// Not serving yet.
    Starting = 0,
    /// Serving.
    Running = 1,
    /// Failed; waiting for its pause to end.
    Restarting = 2,
    /// Rebuilding its core from durable state.
    Recovering = 3,
    /// Finished.
    Stopped = 4,
}

/// The vital signs of one actor.
#[derive(Debug)]
pub struct Vitals {
    /// Unique name, one URL segment.
    pub name: String,
    /// What it is for.
    pub kind: ActorKind,
    /// Messages its mailbox takes before senders feel it.
    pub mailbox_capacity: usize,
    state: AtomicU8,
    restarts: AtomicU64,
    sent: AtomicU64,
    taken: AtomicU64,
}

impl Vitals {
    /// Vitals of an actor that is starting.
    pub fn new(name: impl Into<String>, kind: ActorKind, mailbox_capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            kind,
            mailbox_capacity,
            state: AtomicU8::new(ActorState::Starting as u8),
            restarts: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            taken: AtomicU64::new(0),
        })
    }

    /// Current state.
    pub fn state(&self) -> ActorState {
        match self.state.load(Ordering::Relaxed) {
            0 => ActorState::Starting,
            1 => ActorState::Running,
            2 => ActorState::Restarting,
            3 => ActorState::Recovering,
            _ => ActorState::Stopped,
        }
    }

    /// Sets the state.
    pub fn set_state(&self, state: ActorState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Restarts since the process started.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Counts one restart.
    pub fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Messages sent and not handled yet.
    pub fn mailbox_depth(&self) -> u64 {
        let taken = self.taken.load(Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed).saturating_sub(taken)
    }

    /// A message was put into the mailbox.
    pub fn message_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was taken out of the mailbox.
    pub fn message_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }
}
