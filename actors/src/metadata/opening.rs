//! How the metadata are opened, and what becomes of them when they are not what was made durable.

use super::actor::{MetadataActor, Running};
use super::levels::level_of;
use super::store::MetadataStore;
use crate::supervision::shell::fail;
use actix::prelude::*;
use lance_cluster::metadata::{
    ControllerOptions, KnownStarts, MetadataCore, MetadataEffect, MetadataOptions, RaftConf, RaftConfig,
};

/// Why the metadata cannot be opened.
pub(super) struct OpenFailure {
    pub(super) reason: String,
    /// Whether what is on disk is not what was made durable.
    pub(super) is_loss: bool,
}

impl MetadataActor {
    pub(super) fn open(&mut self) -> Result<(Running, Vec<MetadataEffect>), OpenFailure> {
        // Who joins later begins with no members: the leader sends it a snapshot that names it.
        let genesis = match self.setup.is_voter {
            true => RaftConf::of_voters(self.setup.genesis.iter().map(|node| node.incarnation)),
            false => RaftConf::of_voters([]),
        };
        let (store, persisted) = MetadataStore::open(&self.setup.disk, &self.setup.dir, genesis)
            .map_err(|error| OpenFailure { reason: error.to_string(), is_loss: error.is_damage() })?;
        let config = RaftConfig::new(self.setup.incarnation, self.setup.nonce);
        let hard_state = persisted.hard_state;
        let mut effects = Vec::new();
        let options = MetadataOptions {
            raft: config,
            genesis: self.setup.genesis.clone(),
            controller: ControllerOptions::default(),
            understands: level_of(self.setup.versions.newest()),
        };
        let core = MetadataCore::new(options, &persisted, self.now_ms(), &mut effects)
            .map_err(|error| OpenFailure { reason: error.to_string(), is_loss: error.is_loss() })?;
        let starts = KnownStarts::of_log(&persisted.entries);
        Ok((Running { core, starts, store, hard_state }, effects))
    }

    /// The metadata could not be opened: a member of a cluster gets them anew, one alone keeps what it has.
    pub(super) fn on_open_failed(&mut self, failure: &OpenFailure, ctx: &mut Context<Self>) {
        let OpenFailure { reason, is_loss } = failure;
        if !is_loss {
            return fail(self, ctx, reason.clone());
        }
        let advice = match self.setup.genesis.len() {
            _ if !self.has_others() => {
                "the cluster began with this node alone, and perhaps nobody else has these metadata"
            }
            2 if self.setup.is_voter => "the cluster began with two voters, and one cannot replace the other alone",
            _ => return self.renew(ctx, reason),
        };
        let dir = self.setup.dir.display();
        fail(
            self,
            ctx,
            format!("{reason}: {advice}, so nothing is removed; restore the data directory of {dir} from a copy"),
        );
    }
}
