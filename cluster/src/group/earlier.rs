//! Commits of members that the log may bring back as they were: of a coordinator before this one, until the log is read;
//! then of members that went or began anew, until that is durable.

use super::member::Member;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The highest epoch of a member's commits and the number of the last, by group and member.
type CommitNumbers = BTreeMap<(Arc<str>, Arc<str>), (i32, u64)>;

/// Numbers of last commits; those of two generations of appends, so that a log which is never idle lets go of them too.
#[derive(Clone, Debug, Default)]
pub(super) struct EarlierCommits {
    recent: CommitNumbers,
    older: CommitNumbers,
    /// Once this append is durable nothing brings back a member of `older`.
    older_until: u64,
}

impl EarlierCommits {
    /// Keeps what a member has committed.
    pub(super) fn keep(&mut self, group: &Arc<str>, id: &str, member: &Member) {
        if member.commit_number > 0 {
            let numbers = (member.commit_epoch, member.commit_number);
            self.recent.insert((Arc::clone(group), id.into()), numbers);
        }
    }

    /// Appends through `durable` are durable; what was kept so far has its records in those through `last`.
    pub(super) fn on_durable(&mut self, durable: u64, last: u64) {
        if durable >= self.older_until {
            self.older = std::mem::take(&mut self.recent);
            self.older_until = last;
        }
    }

    /// Group, member, epoch and number of all, those of a later life last.
    pub(super) fn take(&mut self) -> impl Iterator<Item = ((Arc<str>, Arc<str>), (i32, u64))> + use<> {
        let Self { recent, older, .. } = std::mem::take(self);
        older.into_iter().chain(recent)
    }
}
