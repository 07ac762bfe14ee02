//! What is being appended, and the answers that wait for it.
//!
//! An answer leaves once the append it depends on *and all before it* are durable: what a client was told, the log says.

use super::offsets::GroupOffsets;
use super::record::OffsetRecord;
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::group::{GroupAssignment, GroupCommitted};
use std::collections::BTreeMap;

/// What the coordinator wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEffect {
    /// Append records, in the order of their numbers and without anything of another append between them.
    Append {
        /// The number to report them by; counts up from one to the next.
        append: u64,
        /// The records.
        records: Vec<OffsetRecord>,
    },
    /// Answer a request.
    Answer {
        /// What the request came with.
        token: u64,
        /// The answer.
        answer: GroupAnswer,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupAnswer {
    /// To a heartbeat.
    Heartbeat(Result<GroupAssignment, ErrorCode>),
    /// To a commit of a group.
    Commit(Result<GroupCommitted, ErrorCode>),
    /// To a commit of a consumer of LWP 1.0.
    Plain(Result<(), ErrorCode>),
    /// To the deletion of a group.
    Deleted(Result<(), ErrorCode>),
}

impl GroupAnswer {
    fn refused(&self, code: ErrorCode) -> Self {
        match self {
            Self::Heartbeat(_) => Self::Heartbeat(Err(code)),
            Self::Commit(_) => Self::Commit(Err(code)),
            Self::Plain(_) => Self::Plain(Err(code)),
            Self::Deleted(_) => Self::Deleted(Err(code)),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Appends {
    last: u64,
    /// This one and all before it are durable.
    durable_through: u64,
    pending: BTreeMap<u64, Pending>,
    /// By the append they wait for.
    held: BTreeMap<u64, Vec<(u64, GroupAnswer)>>,
    failed: bool,
}

#[derive(Debug)]
struct Pending {
    durable: bool,
    /// Those that change offsets, which show once they are durable.
    offsets: Vec<OffsetRecord>,
}

impl Appends {
    /// None under way; numbers go on where `before` stopped.
    pub(super) fn after(before: &Self) -> Self {
        Self { last: before.last, durable_through: before.last, ..Self::default() }
    }

    pub(super) fn begin(&mut self, records: Vec<OffsetRecord>, effects: &mut Vec<GroupEffect>) -> u64 {
        self.last += 1;
        let of_offsets = records.iter().filter(|record| record.changes_offsets()).cloned();
        self.pending.insert(self.last, Pending { durable: false, offsets: of_offsets.collect() });
        effects.push(GroupEffect::Append { append: self.last, records });
        self.last
    }

    /// Answers once `depends` and all before it are durable. After a failure there is nothing but refusals.
    pub(super) fn answer(&mut self, depends: u64, token: u64, answer: GroupAnswer, effects: &mut Vec<GroupEffect>) {
        if self.is_durable(depends) || self.failed {
            effects.push(GroupEffect::Answer { token, answer });
        } else {
            self.held.entry(depends).or_default().push((token, answer));
        }
    }

    pub(super) fn is_durable(&self, append: u64) -> bool {
        append <= self.durable_through
    }

    /// `false`: it is no append of this life.
    pub(super) fn on_appended(
        &mut self,
        append: u64,
        durable: bool,
        offsets: &mut GroupOffsets,
        effects: &mut Vec<GroupEffect>,
    ) -> bool {
        let Some(pending) = self.pending.get_mut(&append) else { return false };
        pending.durable = durable;
        if !durable {
            self.fail(effects);
        }
        if self.failed {
            return true;
        }
        while let Some(entry) = self.pending.first_entry().filter(|entry| entry.get().durable) {
            let (append, pending) = entry.remove_entry();
            self.durable_through = append;
            for record in pending.offsets {
                // Plain records are always taken.
                let _ = offsets.apply(record);
            }
        }
        while let Some(entry) = self.held.first_entry().filter(|entry| *entry.key() <= self.durable_through) {
            let answers = entry.remove().into_iter();
            effects.extend(answers.map(|(token, answer)| GroupEffect::Answer { token, answer }));
        }
        true
    }

    /// Nobody knows any more what the log says: it has to be read again.
    fn fail(&mut self, effects: &mut Vec<GroupEffect>) {
        self.failed = true;
        for (token, answer) in std::mem::take(&mut self.held).into_values().flatten() {
            effects.push(GroupEffect::Answer { token, answer: answer.refused(ErrorCode::OutcomeUnknown) });
        }
    }

    /// The append through which all are durable, and the last that was begun.
    pub(super) fn durable_and_last(&self) -> (u64, u64) {
        (self.durable_through, self.last)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }
}
