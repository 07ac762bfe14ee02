//! Scripted faults, power-cut policies and the small generator that decides the rest from a seed.

use std::path::Path;

use super::super::Operation;

/// What a fault does to the operation it hits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The operation fails with this errno and changes nothing.
    ///
    /// On [`Operation::Sync`] it is a failed sync as Linux does it: what was unsynced stays readable from the
    /// cache, is not on the device, and no later sync brings it there.
    Errno(i32),
    /// A write puts down its first `bytes` bytes, then fails with this errno.
    Torn {
        /// Bytes written before the failure.
        bytes: u64,
        /// The errno.
        errno: i32,
    },
    /// A queued operation completes only after this many further steps.
    Delay {
        /// Steps (calls of `step`, or polls where polling completes).
        steps: u64,
    },
}

/// A scripted fault: which operations it hits, and what it does to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    operation: Option<Operation>,
    path_contains: String,
    skip: u64,
    times: u64,
    kind: FaultKind,
}

impl Fault {
    /// Hits the next operation of this kind, once.
    pub fn new(operation: Operation, kind: FaultKind) -> Self {
        Self { operation: Some(operation), path_contains: String::new(), skip: 0, times: 1, kind }
    }

    /// Hits the next operation of any kind, once.
    pub fn any(kind: FaultKind) -> Self {
        Self { operation: None, path_contains: String::new(), skip: 0, times: 1, kind }
    }

    /// Only on paths that contain this text.
    #[must_use]
    pub fn on(mut self, path_contains: impl Into<String>) -> Self {
        self.path_contains = path_contains.into();
        self
    }

    /// Lets this many matching operations pass first.
    #[must_use]
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Hits this many matching operations instead of one.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Whether it only slows operations down.
    pub(super) fn is_delay(&self) -> bool {
        matches!(self.kind, FaultKind::Delay { .. })
    }

    /// Whether it hits this operation; counts it when it matches.
    pub(super) fn hit(&mut self, operation: Operation, path: &Path) -> Option<FaultKind> {
        let matches = self.operation.is_none_or(|wanted| wanted == operation)
            && path.to_string_lossy().contains(&self.path_contains);
        if !matches || self.times == 0 {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times -= 1;
        Some(self.kind.clone())
    }
}

/// What a power cut leaves of the changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPolicy {
    /// Nothing: the disk as of the last syncs.
    DropUnsynced,
    /// Everything, also of writes in flight.
    KeepAll,
    /// Any subset of the writes, some of them torn by sector or by byte; a prefix of the folder changes.
    Random {
        /// Decides what is kept: the same seed, the same outcome.
        seed: u64,
    },
}

/// Splitmix64: small, seeded, the same everywhere.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    /// A generator of its own for each seed.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound` (0 when `bound` is 0).
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or(0)
    }

    /// True in half of the cases.
    pub(super) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}
