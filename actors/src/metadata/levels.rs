//! The feature level of the cluster: raised once every registered node has said that it understands the next one.

use super::actor::MetadataActor;
use crate::network::session::answers::CallFailure;
use crate::peer::PeerVersions;
use actix::prelude::*;
use lance_cluster::metadata::state::MetadataState;
use lance_cluster::metadata::{FeatureLevel, MetadataCommand, MetadataRefusal};
use lance_messages::id::{NodeId, TopicPartition};
use lance_messages::peer::{LogPlace, PeerIdentity};
use lance_messages::wire::peer::{FEATURE_LEVEL_2_VERSION, OLDEST_PEER_VERSION};
use lance_storage::checkpoint::{NEWEST_FORMAT, raise_format};

/// How long a proposal to raise the level is given before it is made again, in milliseconds.
const RAISE_INTERVAL_MS: u64 = 1_000;

/// What a node has done about levels.
#[derive(Debug, Default)]
pub struct LevelWatch {
    /// Older programs are kept out of everything below this level.
    guarded: FeatureLevel,
    /// When a proposal may be made again.
    again_ms: u64,
}

/// The level that who speaks this version of the peer protocol understands.
pub fn level_of(version: u16) -> FeatureLevel {
    if version >= FEATURE_LEVEL_2_VERSION { FeatureLevel(2) } else { FeatureLevel::FIRST }
}

/// The oldest version of the peer protocol whose speakers understand a level.
fn version_of(level: FeatureLevel) -> u16 {
    if level >= FeatureLevel(2) { FEATURE_LEVEL_2_VERSION } else { OLDEST_PEER_VERSION }
}

/// The level that all registered nodes understand, if that is above the present one; `own` speaks for itself.
fn next_level(state: &MetadataState, own: NodeId, versions: &PeerVersions) -> Option<FeatureLevel> {
    let spoken = state.nodes().map(|(node, known)| {
        let peer = PeerIdentity { node, incarnation: known.incarnation, boot_number: known.boot_number };
        if node == own { Some(versions.newest()) } else { versions.of(peer) }
    });
    // One that has not said counts as the oldest.
    let levels = spoken.map(|version| version.map_or(FeatureLevel::FIRST, level_of));
    // Those that may still register have said nothing yet, and are refused afterwards if they know less.
    levels.min().filter(|level| *level > state.feature_level())
}

/// Where the log of a restored partition begins, unless that is at 0.
pub fn beginning_of(state: &MetadataState, partition: TopicPartition) -> Option<(TopicPartition, LogPlace)> {
    let begins = state.beginning(partition);
    // Any position will do, as long as all copies begin at the same one.
    let place = LogPlace { position: begins.offset, offset: begins.offset, record: begins.record };
    (begins.offset > 0).then_some((partition, place))
}

impl MetadataActor {
    /// Raises the level when that can be done, and keeps older programs out once it is raised.
    pub(super) fn mind_level(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        let Some(running) = self.running.as_ref() else { return };
        let (state, setup) = (running.core.state(), &self.setup);
        let level = state.feature_level();
        if level > self.levels.guarded && now_ms >= self.levels.again_ms {
            setup.versions.require(version_of(level));
            if let Some(data_dir) = setup.dir.parent()
                && let Err(error) = raise_format(&setup.disk, data_dir, NEWEST_FORMAT)
            {
                self.levels.again_ms = now_ms.saturating_add(RAISE_INTERVAL_MS);
                return tracing::warn!(%error, "the data dir is not marked as one of a newer version yet");
            }
            tracing::info!(%level, "the cluster uses the features of this level");
            self.levels.guarded = level;
        }
        if !running.core.is_leading() || now_ms < self.levels.again_ms {
            return;
        }
        if let Some(level) = next_level(state, setup.node, &setup.versions) {
            self.levels.again_ms = now_ms.saturating_add(RAISE_INTERVAL_MS);
            let request = self.new_request();
            let command = MetadataCommand::RaiseFeatureLevel { level };
            self.with_core(ctx, |core, effects| core.on_propose(request, &command, effects));
        }
    }

    /// What some node of the cluster would not understand is never proposed.
    pub(super) fn check_level(&self, command: &MetadataCommand) -> Result<(), CallFailure> {
        let Some(running) = self.running.as_ref() else { return Ok(()) };
        let (needed, level) = (command.level(), running.core.state().feature_level());
        match needed > level {
            true => Err(CallFailure::Refused(MetadataRefusal::FeatureLevel { needed, level })),
            false => Ok(()),
        }
    }
}
