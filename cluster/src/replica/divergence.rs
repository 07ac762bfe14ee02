//! Where the log of a leader and that of a diverged follower part, and what the follower has to do.

use super::epoch::{EpochHistory, EpochHistoryError, EpochStart};
use lance_messages::id::{LeaderEpoch, ReplicaIncarnation};
use lance_messages::peer::{AppendOutcome, AppendResponse, DivergedLog, LogPlace, TruncateTo};

/// A leader's log, as far as it matters for what a follower needs.
#[derive(Clone, Copy, Debug)]
pub struct LeaderLog<'a> {
    /// The beginning of what it still has.
    pub start: LogPlace,
    /// First log position not written.
    pub log_end: u64,
    /// Its epochs.
    pub history: &'a EpochHistory,
}

/// What a follower said of its log when it took nothing.
#[derive(Clone, Copy, Debug)]
pub struct DivergedAnswer<'a> {
    /// The replica's incarnation.
    pub incarnation: ReplicaIncarnation,
    /// Epoch of its last batch; 0 of an empty log.
    pub last_epoch: LeaderEpoch,
    /// First position of its log.
    pub log_start: u64,
    /// Its log end.
    pub log_end: u64,
    /// Where each epoch of its log begins, in order.
    pub history: &'a [(LeaderEpoch, u64)],
}

impl<'a> DivergedAnswer<'a> {
    /// The answer, if it says that.
    pub fn of(response: &'a AppendResponse) -> Option<Self> {
        match &response.outcome {
            AppendOutcome::Diverged { last_epoch, log_start, log_end, history } => Some(Self {
                incarnation: response.incarnation,
                last_epoch: *last_epoch,
                log_start: *log_start,
                log_end: *log_end,
                history,
            }),
            _ => None,
        }
    }

    /// The state of the log that a truncation has to carry back.
    pub fn state(&self) -> DivergedLog {
        DivergedLog { incarnation: self.incarnation, last_epoch: self.last_epoch, log_end: self.log_end }
    }
}

/// What brings a follower's log back to the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// All it has is the leader's: it lacks what begins here.
    Resend {
        /// Its log end, a batch boundary of the leader's log too.
        from: u64,
    },
    /// It has what the leader has not, or lacks what the leader has no more.
    Truncate(TruncateTo),
}

/// Compares the logs by their epochs.
pub fn resolve(leader: &LeaderLog<'_>, follower: &DivergedAnswer<'_>) -> Result<Resolution, EpochHistoryError> {
    let starts = follower.history.iter().map(|&(epoch, start_position)| EpochStart { epoch, start_position });
    let history = EpochHistory::from_starts(starts)?;
    let shared_end = leader.history.common_end(leader.log_end, &history, follower.log_end);
    // What the follower dropped from its front was committed: the leader's log is the same below, known epochs or not.
    let common_end = shared_end.max(follower.log_start);
    // From its very start the leader can send to an empty log only, when it no longer knows which epoch ended there.
    let is_nameless = common_end == leader.start.position && leader.history.epoch_before(common_end).is_none();
    let lacks_front = common_end < leader.start.position || is_nameless && !history.starts().is_empty();
    let resolution = if lacks_front || common_end > leader.log_end {
        Resolution::Truncate(TruncateTo::Restart(leader.start))
    } else if common_end >= follower.log_end {
        Resolution::Resend { from: follower.log_end }
    } else {
        Resolution::Truncate(TruncateTo::Position(common_end))
    };
    Ok(resolution)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INCARNATION: ReplicaIncarnation = ReplicaIncarnation { node: 9, copy_version: 0, damage_count: 0 };

    fn epochs(starts: &[(u32, u64)]) -> Vec<(LeaderEpoch, u64)> {
        starts.iter().map(|&(epoch, position)| (LeaderEpoch(epoch), position)).collect()
    }

    /// A log as (first position, end, epochs).
    type Log<'a> = (u64, u64, &'a [(u32, u64)]);

    fn resolved(leader: Log<'_>, follower: Log<'_>) -> Resolution {
        let starts = epochs(leader.2).into_iter();
        let starts = starts.map(|(epoch, start_position)| EpochStart { epoch, start_position });
        let history = EpochHistory::from_starts(starts).unwrap();
        let start = LogPlace { position: leader.0, offset: 7, record: 3 };
        let leader = LeaderLog { start, log_end: leader.1, history: &history };
        let history = epochs(follower.2);
        let last_epoch = history.last().map_or(LeaderEpoch(0), |last| last.0);
        let (log_start, log_end) = (follower.0, follower.1);
        let answer = DivergedAnswer { incarnation: INCARNATION, last_epoch, log_start, log_end, history: &history };
        resolve(&leader, &answer).unwrap()
    }

    fn restart(position: u64) -> Resolution {
        Resolution::Truncate(TruncateTo::Restart(LogPlace { position, offset: 7, record: 3 }))
    }

    #[test]
    fn each_pair_of_logs_has_its_way_back() {
        let resend = |from| Resolution::Resend { from };
        let cut = |position| Resolution::Truncate(TruncateTo::Position(position));
        let leader: Log<'_> = (0, 400, &[(1, 0), (2, 100), (4, 200)]);
        let cases: &[(&str, Log<'_>, Log<'_>, Resolution)] = &[
            ("empty", leader, (0, 0, &[]), resend(0)),
            ("shorter", leader, (0, 60, &[(1, 0)]), resend(60)),
            ("the same", leader, (0, 400, leader.2), resend(400)),
            ("a foreign epoch behind", leader, (0, 300, &[(1, 0), (2, 100), (3, 150)]), cut(150)),
            ("a foreign epoch behind more than the leader has", leader, (0, 900, &[(1, 0), (3, 100)]), cut(100)),
            ("more of an old epoch", leader, (0, 260, &[(1, 0), (2, 100)]), cut(200)),
            ("more of the last epoch", leader, (0, 900, leader.2), cut(400)),
            ("nothing in common", leader, (0, 900, &[(3, 0)]), cut(0)),
            ("its front dropped", leader, (100, 300, &[(3, 100)]), cut(100)),
            ("begun anew where the leader once began", leader, (100, 100, &[]), resend(100)),
            ("ended before the leader's start", (200, 400, &[(4, 200)]), (0, 150, &[(1, 0), (2, 100)]), restart(200)),
            ("parted before the leader's start", (300, 400, &[(4, 200)]), (0, 250, &[(1, 0), (3, 90)]), restart(300)),
            ("ended at the leader's start", (200, 400, &[(4, 200)]), (0, 200, &[(1, 0), (2, 100)]), restart(200)),
            ("parted at the leader's start", (200, 400, &[(4, 200)]), (0, 260, &[(1, 0), (3, 200)]), restart(200)),
            (
                "ended at the leader's start, of a known epoch",
                (200, 400, &[(2, 100)]),
                (0, 200, &[(2, 100)]),
                resend(200),
            ),
            ("begun anew at the leader's start", (200, 400, &[(4, 200)]), (200, 200, &[]), resend(200)),
            ("empty, behind the leader's start", (200, 400, &[(4, 200)]), (0, 0, &[]), restart(200)),
            ("begins behind all the leader has", (0, 400, &[(4, 0)]), (500, 600, &[(5, 500)]), restart(0)),
        ];
        for (name, leader, follower, expected) in cases {
            assert_eq!(resolved(*leader, *follower), *expected, "{name}");
        }
    }

    #[test]
    fn a_history_that_falls_is_an_error() {
        let history = EpochHistory::default();
        let leader = LeaderLog { start: LogPlace::default(), log_end: 0, history: &history };
        let falling = epochs(&[(3, 0), (2, 100)]);
        let last_epoch = LeaderEpoch(2);
        let answer =
            DivergedAnswer { incarnation: INCARNATION, last_epoch, log_start: 0, log_end: 200, history: &falling };
        assert!(matches!(resolve(&leader, &answer), Err(EpochHistoryError::Falls { .. })));
    }
}
