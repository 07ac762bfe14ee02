//! Feature levels: what all nodes of a cluster understand, as the cluster has decided.
//!
//! A node of an older version must never meet a command or a snapshot that it cannot read. So whatever is new has a level,
//! and is used only once a command has raised the level of the cluster to it, which is proposed when every registered
//! node says that it understands it. A level never goes back.
//!
//! | level | since then |
//! |---|---|
//! | 1 | everything up to command version 4 and snapshot version 6 |
//! | 2 | command version 5: `SetMaintenance`, `RestoreTopic`, `RestoreIds`, `RaiseFeatureLevel`; snapshot version 7 |

use super::command::MetadataCommand;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A level; the higher one includes the lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FeatureLevel(pub u16);

impl FeatureLevel {
    /// Where every cluster begins.
    pub const FIRST: Self = Self(1);
    /// The newest that this program understands.
    pub const NEWEST: Self = Self(2);
}

impl Default for FeatureLevel {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl MetadataCommand {
    /// The level that a cluster must have for this command. The one that raises it needs what it raises it to.
    pub fn level(&self) -> FeatureLevel {
        match self {
            Self::SetMaintenance { .. } | Self::RestoreTopic(_) | Self::RestoreIds { .. } => FeatureLevel(2),
            Self::RaiseFeatureLevel { level } => *level,
            _ => FeatureLevel::FIRST,
        }
    }
}
