//! One partition as its ingestion core sees it: a log, the epoch it is led in, and who waits for it.

use super::pending::PendingProduces;
use super::replica::{FollowerSide, LeaderRole, LeaderSide};
use super::waiters::Waiters;
use crate::stages::batches::TracedBatches;
use lance_cluster::replica::quorum::quorum_size;
use lance_messages::id::{ConnectionId, LeaderEpoch, TopicPartition};
use lance_messages::mail::ingestion::{Fetch, LookUpOffset, ProduceRequest};
use lance_storage::log::Log;
use std::collections::VecDeque;
use std::time::Duration;

/// Where a partition stands on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// No epoch was opened since the log was (re)opened.
    Waiting,
    /// The epoch-start batch is written and not durable yet.
    Starting {
        /// The epoch.
        epoch: LeaderEpoch,
        /// End of its epoch-start batch.
        start_end: u64,
    },
    /// Serving.
    Leading {
        /// The epoch.
        epoch: LeaderEpoch,
    },
    /// Another node leads: it is fed by that one, and clients are sent there.
    Following {
        /// The epoch of the newest leader heard.
        epoch: LeaderEpoch,
    },
    /// Serves reads at most; the reason says what an operator has to do.
    Stopped {
        /// Why.
        reason: String,
    },
}

/// A request that came while no epoch was open.
#[derive(Debug)]
pub enum Held {
    /// A batch to append.
    Produce(ConnectionId, ProduceRequest),
    /// A fetch.
    Fetch(Fetch),
    /// A look-up.
    LookUp(LookUpOffset),
}

/// A partition of the shard.
pub struct Partition {
    /// Which one.
    pub id: TopicPartition,
    /// Its log; `None` while it is being opened.
    pub log: Option<Log>,
    /// Its leadership.
    pub leadership: Leadership,
    /// Produce requests waiting for the high watermark.
    pub pending: PendingProduces,
    /// Fetches waiting for the high watermark.
    pub waiters: Waiters,
    /// Requests waiting for an epoch.
    pub held: VecDeque<Held>,
    /// When the first of them came.
    pub held_since: Duration,
    /// An operation of the log is with the poller.
    pub in_flight: bool,
    /// When that operation was handed out, as time since the process started.
    pub submitted_at: Duration,
    /// Already in the list of partitions to flush.
    pub queued: bool,
    /// The last write found no space: appends are refused until one succeeds.
    pub no_space: bool,
    /// Since when what waits to be written finds no space.
    pub no_space_since: Option<Duration>,
    /// The log has something to write and could not begin (out of descriptors): it is tried again.
    pub retry: bool,
    /// The role that is taken up once there is room for its first batch.
    pub next_role: Option<LeaderRole>,
    /// As the leader of other replicas.
    pub leader: Option<Box<LeaderSide>>,
    /// As a replica that promises and follows; `None` until it is known what was promised before.
    pub follower: Option<FollowerSide>,
    /// It is stopped, and another node leads what was led or followed here.
    pub succeeded: bool,
    /// It is damaged from this position on: its log is cut there once nothing is being written any more.
    pub refilling: Option<u64>,
    /// Its log is with the shell, which cuts it.
    pub cutting: bool,
    /// Bytes written and not synced, in interval mode.
    pub unsynced_bytes: u64,
    /// The sync interval is over: the next step syncs.
    pub sync_due: bool,
    /// Used since the last look for idle logs.
    pub touched: bool,
    /// Its traced batches that are still on their way.
    pub traced: TracedBatches,
}

impl Partition {
    /// A partition whose log is not open yet.
    pub fn new(id: TopicPartition) -> Self {
        Self {
            id,
            log: None,
            leadership: Leadership::Waiting,
            pending: PendingProduces::default(),
            waiters: Waiters::default(),
            held: VecDeque::new(),
            held_since: Duration::ZERO,
            in_flight: false,
            submitted_at: Duration::ZERO,
            queued: false,
            no_space: false,
            no_space_since: None,
            retry: false,
            next_role: None,
            leader: None,
            follower: None,
            succeeded: false,
            refilling: None,
            cutting: false,
            unsynced_bytes: 0,
            sync_due: false,
            touched: true,
            traced: TracedBatches::default(),
        }
    }

    /// Whether nothing is under way and everything appended is durable, or will never be.
    pub fn is_quiet(&self) -> bool {
        let stopped = self.no_space || matches!(self.leadership, Leadership::Stopped { .. });
        let dirty = self.log.as_ref().is_some_and(Log::is_dirty);
        self.pending.is_empty() && !self.in_flight && (stopped || !dirty)
    }

    /// Whether a leader's requests can be taken: the log is open and takes writes, and no cut is under way.
    pub fn may_follow(&self) -> bool {
        let stopped = matches!(self.leadership, Leadership::Stopped { .. });
        let cutting = self.follower.as_ref().is_none_or(|follower| follower.truncating.is_some());
        self.log.is_some() && !stopped && !cutting
    }

    /// Whether a planned move of the leadership waits for everything to be on its target.
    pub fn is_moving(&self) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.moving.is_some())
    }

    /// Whether its epoch cannot begin for want of space; what recovery found is served meanwhile.
    pub fn is_read_only(&self) -> bool {
        self.leader.is_none() && self.no_space_since.is_some() && matches!(self.leadership, Leadership::Starting { .. })
    }

    /// Whether reads have to wait until it is known what is committed.
    pub fn holds_reads(&self) -> bool {
        matches!(self.leadership, Leadership::Waiting | Leadership::Starting { .. }) && !self.is_read_only()
    }

    /// Whether another node could lead by now without this one having heard of it.
    pub fn may_have_successor(&self) -> bool {
        // Where a quorum takes this copy too, nobody leads before this node has promised it; more copies may be decided on.
        let may = |copies| quorum_size(copies) < copies;
        let of_leader = |leader: &LeaderSide| leader.replacing.is_some() || may(leader.quorum.copies());
        self.succeeded || self.leader.as_deref().is_some_and(of_leader)
    }

    /// The epoch in which this node serves, if it does.
    pub fn leading_epoch(&self) -> Option<LeaderEpoch> {
        match self.leadership {
            Leadership::Leading { epoch } => Some(epoch),
            _ => None,
        }
    }
}
