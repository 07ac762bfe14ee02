//! The follower's side of a partition: what it takes from which leader, and what it confirms.

use lance_messages::id::{LeaderEpoch, ReplicaIncarnation, TopicPartition};
use lance_messages::peer::{AppendRequest, DivergedLog, LogPlace, ReplicaBatch, TruncateRequest, TruncateTo};

/// What a follower's log is at the moment; every number is a log position.
#[derive(Clone, Copy)]
pub struct LogFacts<'a> {
    /// First position it still has.
    pub log_start: u64,
    /// First position not written.
    pub log_end: u64,
    /// First position not synced.
    pub durable_end: u64,
    /// Everything below is committed, as far as this replica knows.
    pub high_watermark: u64,
    /// Epoch of its last batch; 0 of an empty log.
    pub last_epoch: LeaderEpoch,
    /// Epoch of the batch that ends at a position, as [`EpochHistory::epoch_before`](super::EpochHistory::epoch_before) says.
    pub epoch_before: &'a dyn Fn(u64) -> Option<LeaderEpoch>,
}

/// What a request for a promise has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// The promise is this epoch now, and was lower.
    Raised,
    /// It was this epoch already: perhaps only in memory, so that it is persisted before it is answered all the same.
    Already,
    /// It is a higher epoch, which stands.
    Higher(LeaderEpoch),
}

/// What becomes of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendDecision {
    /// A higher epoch is promised: the leader has to step down.
    Fenced {
        /// Which.
        promised: LeaderEpoch,
    },
    /// The log does not end where the request begins, or holds something else there; nothing changes.
    Diverged,
    /// It is taken.
    Append {
        /// This many batches, from the first, are held already; the others go to the log's end.
        skip_batches: usize,
        /// The high watermark of this replica from now on; never below the one it had.
        high_watermark: u64,
    },
}

/// What becomes of a truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TruncateDecision {
    /// It answers a state of the log that holds no more.
    Ignore,
    /// A higher epoch is promised.
    Fenced {
        /// Which.
        promised: LeaderEpoch,
    },
    /// Everything from here on goes.
    Cut {
        /// The log's end afterwards.
        position: u64,
    },
    /// Everything goes; an empty log begins here.
    Restart {
        /// Where.
        place: LogPlace,
    },
    /// Committed batches would go: the protocol was broken somewhere. The partition stops on this node, nothing is cut.
    BelowHighWatermark {
        /// Where the cut was asked for.
        position: u64,
        /// What this replica knows to be committed.
        high_watermark: u64,
    },
}

/// How far the log is known to be that of the leader of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Matched {
    epoch: LeaderEpoch,
    /// Below it, both logs are the same.
    end: u64,
    /// The leader's high watermark, the highest one heard.
    high_watermark: u64,
}

/// One partition on a node that does not lead it.
///
/// It lives as long as the log is open: a log that was opened again, or refilled after damage, gets a new one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FollowerReplica {
    partition: TopicPartition,
    incarnation: ReplicaIncarnation,
    promised: LeaderEpoch,
    matched: Option<Matched>,
}

impl FollowerReplica {
    /// A replica that has promised `promised`: the greater of the stored promise and the epoch of its last durable batch.
    pub fn new(partition: TopicPartition, incarnation: ReplicaIncarnation, promised: LeaderEpoch) -> Self {
        Self { partition, incarnation, promised, matched: None }
    }

    /// The partition.
    pub fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// Which life of the replica this is.
    pub fn incarnation(&self) -> ReplicaIncarnation {
        self.incarnation
    }

    /// The epoch below which nothing is taken and nothing confirmed; it only rises.
    pub fn promised(&self) -> LeaderEpoch {
        self.promised
    }

    /// An epoch was opened. From now on nothing of a lower one is confirmed; the promise is answered once it is persisted and
    /// the writes under way are synced.
    pub fn promise(&mut self, epoch: LeaderEpoch) -> Promise {
        if epoch < self.promised {
            return Promise::Higher(self.promised);
        }
        if epoch == self.promised {
            return Promise::Already;
        }
        self.promised = epoch;
        Promise::Raised
    }

    /// What the promise is answered with, once it is persisted and the writes under way are synced: the epoch of the last durable
    /// batch and the durable end. `None` means unclean for now: a log that began anew where its leader's log starts, and has
    /// no durable batch yet, stands in for batches whose epoch it may not have been told; a stale log would win against it.
    pub fn promise_answer(&self, log: &LogFacts<'_>) -> Option<(LeaderEpoch, u64)> {
        let epoch = (log.epoch_before)(log.durable_end)?;
        Some((epoch, log.durable_end))
    }

    /// A leader sends batches, or none to probe. Taking them raises the promise.
    ///
    /// After [`AppendDecision::Append`] the caller asks [`on_flushed`](Self::on_flushed) even when all batches are skipped:
    /// nothing may be left to sync.
    pub fn on_append(&mut self, log: &LogFacts<'_>, request: &AppendRequest) -> AppendDecision {
        if request.epoch < self.promised {
            return AppendDecision::Fenced { promised: self.promised };
        }
        let Some(skip_batches) = held_batches(log, request) else {
            return AppendDecision::Diverged;
        };
        self.promised = request.epoch;
        self.match_through(request.epoch, request.end_position(), request.high_watermark);
        let high_watermark = log.high_watermark.max(self.high_watermark_limit(log.durable_end));
        AppendDecision::Append { skip_batches, high_watermark }
    }

    /// A leader answers a `Diverged`. Until the cut is durable the caller hands in no further request; then
    /// [`on_flushed`](Self::on_flushed) says what to answer.
    pub fn on_truncate(&mut self, log: &LogFacts<'_>, request: &TruncateRequest) -> TruncateDecision {
        if request.epoch < self.promised {
            return TruncateDecision::Fenced { promised: self.promised };
        }
        let now = DivergedLog { incarnation: self.incarnation, last_epoch: log.last_epoch, log_end: log.log_end };
        let position = match request.to {
            TruncateTo::Position(position) => position,
            TruncateTo::Restart(place) => place.position,
        };
        let cuts_nothing = matches!(request.to, TruncateTo::Position(position) if position > log.log_end);
        // A late or repeated truncation would cut what was taken and confirmed since.
        if request.answers != now || cuts_nothing {
            return TruncateDecision::Ignore;
        }
        if position < log.high_watermark {
            return TruncateDecision::BelowHighWatermark { position, high_watermark: log.high_watermark };
        }
        self.promised = request.epoch;
        let high_watermark = self.matched.filter(|matched| matched.epoch == request.epoch);
        let high_watermark = high_watermark.map_or(0, |matched| matched.high_watermark);
        // The leader has compared the logs: what stays is its own, or lies below its log's start and is committed.
        self.matched = Some(Matched { epoch: request.epoch, end: position, high_watermark });
        match request.to {
            TruncateTo::Position(position) => TruncateDecision::Cut { position },
            TruncateTo::Restart(place) => TruncateDecision::Restart { place },
        }
    }

    /// The log is synced below `durable_end`: what to confirm, and to the leader of which epoch. `None` while the promise is
    /// not the epoch last taken from: what such a leader hears would no longer bind this replica.
    pub fn on_flushed(&self, durable_end: u64) -> Option<(LeaderEpoch, u64)> {
        let matched = self.matched.filter(|matched| matched.epoch == self.promised)?;
        // What lies above may be the end of another leader's log: it is no copy of this one's.
        Some((matched.epoch, matched.end.min(durable_end)))
    }

    /// How far the high watermark may go with a log that is synced below `durable_end`; it never goes back to this.
    pub fn high_watermark_limit(&self, durable_end: u64) -> u64 {
        self.matched.map_or(0, |matched| matched.high_watermark.min(matched.end).min(durable_end))
    }

    fn match_through(&mut self, epoch: LeaderEpoch, end: u64, high_watermark: u64) {
        let matched = match self.matched {
            Some(before) if before.epoch == epoch => {
                Matched { epoch, end: before.end.max(end), high_watermark: before.high_watermark.max(high_watermark) }
            }
            _ => Matched { epoch, end, high_watermark },
        };
        self.matched = Some(matched);
    }
}

/// How many of the batches the log holds; `None` when the others cannot follow it.
fn held_batches(log: &LogFacts<'_>, request: &AppendRequest) -> Option<usize> {
    if !ends_batch_of(log, request.prev_end, request.prev_epoch) {
        return None;
    }
    let (mut held_count, mut end, mut epoch) = (0, request.prev_end, request.prev_epoch);
    for ReplicaBatch { header, .. } in &request.batches {
        let joins = header.position == end && header.leader_epoch >= epoch && header.leader_epoch <= request.epoch;
        if !joins {
            return None;
        }
        (end, epoch) = (header.end_position(), header.leader_epoch);
        if header.position >= log.log_end {
            continue;
        }
        if !ends_batch_of(log, end, epoch) {
            return None;
        }
        held_count += 1;
    }
    Some(held_count)
}

/// Whether the log holds, or once held, a batch of `epoch` that ends at `position`.
fn ends_batch_of(log: &LogFacts<'_>, position: u64, epoch: LeaderEpoch) -> bool {
    // What is gone from the front was committed, so every leader that may follow has or had the same.
    position <= log.log_start
        || position <= log.log_end && (log.epoch_before)(position).is_some_and(|held| held == epoch)
}
