//! Nodes that are broken on purpose, to prove that the checkers would see it. Nothing of it is in the product: what is
//! broken is the disk, the completions, the identities, and what goes in and out of the real cores.

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
    /// A leader commits what it holds alone: whatever a follower has synced, it counts for all of it.
    CommitAlone,
    /// A damaged replica is cut and goes on in the life it was in.
    KeepDamagedLife,
    /// A follower that is to cut its log begins it anew, whatever of it is committed.
    CutBelowHighWatermark,
    /// What older epochs left is committed without a batch of the leader's own.
    NoEpochStart,
    /// A leader does without silent followers, however few are left.
    EvictBelowQuorum,
    /// A refilled replica counts again once it has what its leader knew to be committed when its epoch began.
    AdmitAtHighWatermark,
    /// The replica set is changed as soon as it is planned, and nothing waits for the new one.
    ReplaceInOneStep,
}

impl Sabotage {
    /// Everything that can be broken among several nodes.
    pub const AMONG_NODES: [Self; 8] = [
        Self::AckBeforeSync,
        Self::CommitAlone,
        Self::KeepDamagedLife,
        Self::CutBelowHighWatermark,
        Self::NoEpochStart,
        Self::EvictBelowQuorum,
        Self::AdmitAtHighWatermark,
        Self::ReplaceInOneStep,
    ];

    /// The lies of the disk it takes.
    pub fn lies(self) -> Lies {
        Lies { segments: self == Self::AckBeforeSync, metadata: self == Self::UnsyncedMetadata }
    }
}
