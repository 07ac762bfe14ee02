//! Where each leader epoch of a log begins.

use lance_messages::id::LeaderEpoch;
use thiserror::Error;

/// One epoch of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The position of its first batch.
    pub start_position: u64,
}

/// Why an epoch cannot follow the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EpochHistoryError {
    /// Epochs only rise.
    #[error("epoch {given} cannot follow epoch {last}")]
    Falls {
        /// The epoch given.
        given: LeaderEpoch,
        /// The last one present.
        last: LeaderEpoch,
    },
    /// A later epoch begins at a higher position.
    #[error("epoch {given} at position {start_position} cannot follow position {last_position}")]
    Overlaps {
        /// The epoch given.
        given: LeaderEpoch,
        /// Its start.
        start_position: u64,
        /// The start of the last one present.
        last_position: u64,
    },
}

/// The epochs of a log in order: both epochs and positions rise strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochHistory {
    starts: Vec<EpochStart>,
}

impl EpochHistory {
    /// A history of these epochs, in order.
    pub fn from_starts(starts: impl IntoIterator<Item = EpochStart>) -> Result<Self, EpochHistoryError> {
        let mut history = Self::default();
        for EpochStart { epoch, start_position } in starts {
            history.note_batch(epoch, start_position)?;
        }
        Ok(history)
    }

    /// A batch of `epoch` begins at `position`; only the first of an epoch changes anything.
    pub fn note_batch(&mut self, epoch: LeaderEpoch, position: u64) -> Result<(), EpochHistoryError> {
        if let Some(last) = self.starts.last() {
            if epoch == last.epoch {
                return Ok(());
            }
            if epoch < last.epoch {
                return Err(EpochHistoryError::Falls { given: epoch, last: last.epoch });
            }
            if position <= last.start_position {
                let last_position = last.start_position;
                return Err(EpochHistoryError::Overlaps { given: epoch, start_position: position, last_position });
            }
        }
        self.starts.push(EpochStart { epoch, start_position: position });
        Ok(())
    }

    /// The log ends at `log_end` now: epochs that begin there or later are gone.
    pub fn truncate(&mut self, log_end: u64) {
        self.starts.retain(|start| start.start_position < log_end);
    }

    /// The log begins at `log_start` now: epochs that ended by then are gone.
    pub fn advance_start(&mut self, log_start: u64) {
        let ended = self.starts.windows(2).take_while(|pair| pair[1].start_position <= log_start).count();
        self.starts.drain(..ended);
    }

    /// The epoch of the last batch; 0 of an empty log.
    pub fn last_epoch(&self) -> LeaderEpoch {
        self.starts.last().map_or(LeaderEpoch(0), |start| start.epoch)
    }

    /// The epoch of the batch that holds `position`, for a position below the log end.
    pub fn epoch_at(&self, position: u64) -> Option<LeaderEpoch> {
        let after = self.starts.partition_point(|start| start.start_position <= position);
        self.starts[..after].last().map(|start| start.epoch)
    }

    /// The epoch of the batch that ends at `position`, 0 at the beginning of every log; `None` where the history begins later.
    ///
    /// Whether a batch ends there need not be known: a byte of an epoch was written by its one leader, so two logs that have
    /// the same epoch below a position have the same batches below it.
    pub fn epoch_before(&self, position: u64) -> Option<LeaderEpoch> {
        match position.checked_sub(1) {
            None => Some(LeaderEpoch(0)),
            Some(last_byte) => self.epoch_at(last_byte),
        }
    }

    /// Where the first batch of `epoch` begins.
    pub fn start_of(&self, epoch: LeaderEpoch) -> Option<u64> {
        let at = self.starts.binary_search_by_key(&epoch, |start| start.epoch).ok()?;
        Some(self.starts[at].start_position)
    }

    /// Where the batches of `epoch` and all lower ones end, in a log that ends at `log_end`.
    pub fn end_of(&self, epoch: LeaderEpoch, log_end: u64) -> u64 {
        let after = self.starts.partition_point(|start| start.epoch <= epoch);
        self.starts.get(after).map_or(log_end, |next| next.start_position)
    }

    /// The highest position below which this log and `other` surely hold the same bytes.
    ///
    /// The greatest epoch both know decides: below its shorter end they were written by one leader, and so was all before.
    pub fn common_end(&self, log_end: u64, other: &Self, other_end: u64) -> u64 {
        let shared = self.starts.iter().rev().find(|start| other.start_of(start.epoch).is_some());
        shared.map_or(0, |start| self.end_of(start.epoch, log_end).min(other.end_of(start.epoch, other_end)))
    }

    /// The epochs, in order.
    pub fn starts(&self) -> &[EpochStart] {
        &self.starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(starts: &[(u32, u64)]) -> EpochHistory {
        let starts =
            starts.iter().map(|&(epoch, start_position)| EpochStart { epoch: LeaderEpoch(epoch), start_position });
        EpochHistory::from_starts(starts).unwrap()
    }

    #[test]
    fn a_position_belongs_to_the_epoch_that_began_last_before_it() {
        let history = history(&[(1, 0), (3, 100), (7, 250)]);
        let epoch_at = |position| history.epoch_at(position).map(|epoch| epoch.0);
        assert_eq!([0, 99, 100, 249, 250, 999].map(epoch_at), [1, 1, 3, 3, 7, 7].map(Some));
        assert_eq!(EpochHistory::default().epoch_at(0), None);
        let epoch_before = |position| history.epoch_before(position).map(|epoch| epoch.0);
        assert_eq!([0, 1, 100, 101, 250, 251].map(epoch_before), [0, 1, 1, 3, 3, 7].map(Some));
        assert_eq!(EpochHistory::default().epoch_before(8), None);
        assert_eq!(history.start_of(LeaderEpoch(3)), Some(100));
        assert_eq!(history.start_of(LeaderEpoch(2)), None);
        assert_eq!(history.end_of(LeaderEpoch(2), 300), 100);
        assert_eq!(history.end_of(LeaderEpoch(7), 300), 300);
        assert_eq!(history.last_epoch(), LeaderEpoch(7));
    }

    #[test]
    fn epochs_and_positions_only_rise() {
        let mut history = history(&[(2, 10)]);
        assert!(history.note_batch(LeaderEpoch(2), 50).is_ok());
        assert!(matches!(history.note_batch(LeaderEpoch(1), 60), Err(EpochHistoryError::Falls { .. })));
        assert!(matches!(history.note_batch(LeaderEpoch(3), 10), Err(EpochHistoryError::Overlaps { .. })));
        assert_eq!(history.starts().len(), 1);
    }

    #[test]
    fn cutting_either_end_forgets_the_epochs_outside() {
        let mut cut = history(&[(1, 0), (3, 100), (7, 250)]);
        cut.truncate(100);
        assert_eq!(cut, history(&[(1, 0)]));
        let mut cut = history(&[(1, 0), (3, 100), (7, 250)]);
        cut.advance_start(250);
        assert_eq!(cut, history(&[(7, 250)]));
        let mut cut = history(&[(1, 0), (3, 100), (7, 250)]);
        cut.advance_start(249);
        assert_eq!(cut, history(&[(3, 100), (7, 250)]));
    }

    #[test]
    fn logs_agree_below_the_shorter_end_of_their_last_shared_epoch() {
        let ours = history(&[(1, 0), (2, 100), (4, 200)]);
        let theirs = history(&[(1, 0), (2, 100), (3, 150)]);
        assert_eq!(ours.common_end(300, &theirs, 400), 150);
        assert_eq!(theirs.common_end(400, &ours, 300), 150);
        assert_eq!(ours.common_end(300, &ours, 260), 260);
        assert_eq!(ours.common_end(300, &EpochHistory::default(), 0), 0);
    }
}
