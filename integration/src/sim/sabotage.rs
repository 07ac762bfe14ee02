//! Nodes that are broken on purpose, to prove that the checkers would see it. Nothing of it is in the product: what is
//! broken is the disk, the completions and the identities around the real cores.

use super::disk::Lies;

/// What is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    #[default]
    None,
    /// Writes complete before they are synced: acks leave too early.
    AckBeforeSync,
    /// A failed sync counts as one that succeeded: no latch.
    IgnoreFailedSync,
    /// What a producer had stored before a restart is not recognised after it.
    ForgetProducers,
    /// The metadata's files are not synced.
    UnsyncedMetadata,
    /// After a restart clients are answered although the log was cut below what had been acked.
    CutAckedTail,
    /// A leader commits what it holds alone.
    CommitAlone,
    /// Acks of epochs that are over count.
    CountAnyAck,
    /// A follower's promise is answered before it is kept: acks of the epoch before still leave.
    AckAfterPromise,
}

impl Sabotage {
    /// The lies of the disk it takes.
    pub fn lies(self) -> Lies {
        Lies { segments: self == Self::AckBeforeSync, metadata: self == Self::UnsyncedMetadata }
    }
}
