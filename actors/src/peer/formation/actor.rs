//! `FormationActor`: the shell of the formation core. It lives as long as the node: others may come to form a cluster
//! that this node has long been part of.

use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, fail, guarded};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use actix::prelude::*;
use bytes::Bytes;
use lance_cluster::codec::CodecError;
use lance_cluster::formation::{FormationCore, FormationEffect, FormationReport, Genesis, Voter};
use lance_messages::peer::PeerIdentity;
use lance_storage::checkpoint::{Checkpoint, CheckpointError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;

/// Mailbox capacity of the formation actor: questions of nodes that look for their cluster.
pub const FORMATION_MAILBOX: usize = 256;
/// Version of the checkpoint that keeps the genesis.
pub const GENESIS_BODY_VERSION: u8 = 1;

/// How far the formation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormationStatus {
    /// It goes on; what it waits for, once that is known.
    Forming(Option<String>),
    /// The node has a cluster, durably; `None` where it has one and never kept its genesis.
    Formed(Option<Genesis>),
}

/// A node that looks for its cluster asks; answered with a report of this node.
#[derive(Debug, Message)]
#[rtype(result = "Option<Bytes>")]
pub struct FormationAsked {
    /// Who asks.
    pub from: PeerIdentity,
    /// Its report.
    pub body: Bytes,
}

/// What is to be asked at a listed address?
#[derive(Debug, Message)]
#[rtype(result = "Question")]
pub struct ReportWanted {
    /// The address.
    pub address: String,
}

/// What is to be asked.
#[derive(Debug, MessageResponse)]
pub enum Question {
    /// This.
    Ask(Report),
    /// It is not known at the moment: the actor starts again.
    Later,
    /// Nothing more: this node has its cluster, and whoever is there knows of it.
    Nothing,
}

/// A report, and who knows of a newer one.
#[derive(Debug)]
pub struct Report {
    /// Encoded.
    pub body: Bytes,
    /// Changes when there is another.
    pub news: watch::Receiver<FormationStatus>,
}

/// A listed address answers.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AddressAnswered {
    /// The address.
    pub address: String,
    /// Who is there; proven.
    pub from: PeerIdentity,
    /// Its report.
    pub body: Bytes,
}

/// Nobody is reached at a listed address; answered with whether that matters still.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct AddressLost {
    /// The address.
    pub address: String,
    /// Why.
    pub reason: String,
}

/// A listed address is this node's own.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct OwnAddressFound {
    /// The address.
    pub address: String,
}

/// What a formation actor is made of.
pub struct FormationSetup {
    /// This node.
    pub own: Voter,
    /// The addresses listed.
    pub listed: Vec<String>,
    /// The id of a cluster that this node would make, not 0.
    pub fresh_cluster_id: u64,
    /// Its cluster, 0 while it has none.
    pub cluster_id: u64,
    /// Where the genesis is kept.
    pub kept: Checkpoint,
    /// Who waits for the end.
    pub status: watch::Sender<FormationStatus>,
}

#[derive(Debug, thiserror::Error)]
enum FormationFailure {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// The shell of a formation.
pub struct FormationActor {
    life: Life,
    setup: FormationSetup,
    core: Option<FormationCore>,
    effects: Vec<FormationEffect>,
    /// What the core waits for.
    problem: String,
    /// Why listed addresses are not reached.
    unreached: BTreeMap<String, String>,
    /// Addresses that are this node's own; nobody asks there again.
    own_addresses: BTreeSet<String>,
    /// Addresses whose last answer told that they have a cluster.
    informed: BTreeSet<String>,
}

impl FormationActor {
    /// A formation; it begins as soon as it runs.
    pub fn new(
        vitals: Arc<Vitals>,
        policy: RestartPolicy,
        parent: Recipient<Escalated>,
        setup: FormationSetup,
    ) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            setup,
            core: None,
            effects: Vec::new(),
            problem: String::new(),
            unreached: BTreeMap::new(),
            own_addresses: BTreeSet::new(),
            informed: BTreeSet::new(),
        }
    }

    fn open(&mut self) -> Result<(), FormationFailure> {
        let kept = self.setup.kept.read()?;
        let kept = kept.map(|bytes| Genesis::decode(&bytes)).transpose()?;
        let FormationSetup { own, listed, fresh_cluster_id, cluster_id, .. } = &self.setup;
        let mut core = FormationCore::new(own.clone(), listed.iter().cloned(), *fresh_cluster_id, *cluster_id, kept);
        core.on_start(&mut self.effects);
        for address in &self.own_addresses {
            core.on_own_address(address, &mut self.effects);
        }
        self.core = Some(core);
        self.obey()
    }

    /// Performs effects; a genesis is synced before anybody hears of it.
    fn obey(&mut self) -> Result<(), FormationFailure> {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    FormationEffect::AdoptGenesis(genesis) | FormationEffect::JoinExisting(genesis) => {
                        self.setup.kept.write(&genesis.encode()?)?;
                        let cluster = format!("{:016x}", genesis.cluster_id);
                        tracing::info!(%cluster, voters = genesis.voters.len(), "the cluster is known");
                        if let Some(core) = &mut self.core {
                            core.on_synced(&mut self.effects);
                        }
                    }
                    FormationEffect::Problem(problem) => {
                        self.problem = problem;
                        self.say();
                    }
                    FormationEffect::Ready => {
                        let genesis = self.core.as_ref().and_then(|core| core.genesis().cloned());
                        self.setup.status.send_replace(FormationStatus::Formed(genesis));
                    }
                    // Whoever asks that address looks for news of the status, which came or comes with this.
                    FormationEffect::Send { .. } => {}
                }
            }
        }
        Ok(())
    }

    /// Says what is waited for, and why addresses that are not reached are not.
    fn say(&self) {
        let mut problem = self.problem.clone();
        for (address, reason) in &self.unreached {
            problem.push_str(&format!("; {address}: {reason}"));
        }
        let status = FormationStatus::Forming(Some(problem.clone()));
        let news = self.setup.status.send_if_modified(|before| {
            let differs = *before != status && !matches!(before, FormationStatus::Formed(_));
            if differs {
                *before = status;
            }
            differs
        });
        if news {
            tracing::info!(reason = %problem, "the cluster is not formed yet");
        }
    }

    fn with_core<R>(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut FormationCore, &mut Vec<FormationEffect>) -> R,
    ) -> Option<R> {
        self.core.as_ref()?;
        guarded(self, ctx, |actor, _| {
            let result = actor.core.as_mut().map(|core| work(core, &mut actor.effects));
            actor.obey()?;
            Ok::<_, FormationFailure>(result)
        })
        .flatten()
    }
}

/// Only for itself does anybody speak: who it is was proven.
fn speaks_for(from: PeerIdentity, report: &FormationReport) -> bool {
    (report.speaker.node, report.speaker.incarnation) == (from.node, from.incarnation)
}

supervised_shell!(FormationActor, FORMATION_MAILBOX);

impl Shell for FormationActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    fn drop_core(&mut self, _: &mut Self::Context) {
        self.core = None;
        self.effects.clear();
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        match self.open() {
            Ok(()) => self.life.vitals.set_state(ActorState::Running),
            Err(failure) => fail(self, ctx, failure.to_string()),
        }
    }
}

impl Handler<FormationAsked> for FormationActor {
    type Result = Option<Bytes>;

    fn handle(&mut self, message: FormationAsked, ctx: &mut Self::Context) -> Option<Bytes> {
        self.life.vitals.message_taken();
        let report = match FormationReport::decode(&message.body) {
            Ok(report) if speaks_for(message.from, &report) => report,
            Ok(_) => return None,
            Err(error) => {
                tracing::warn!(node = %message.from.node, %error, "a report of a node that forms a cluster is unreadable");
                return None;
            }
        };
        self.with_core(ctx, |core, effects| core.on_asked(&report, effects))?;
        self.core.as_ref()?.report().encode().ok().map(Bytes::from)
    }
}

impl Handler<ReportWanted> for FormationActor {
    type Result = Question;

    fn handle(&mut self, message: ReportWanted, _: &mut Self::Context) -> Question {
        self.life.vitals.message_taken();
        let Some(core) = &self.core else { return Question::Later };
        if core.is_settled() && self.informed.contains(&message.address) {
            return Question::Nothing;
        }
        match core.report().encode() {
            Ok(body) => Question::Ask(Report { body: Bytes::from(body), news: self.setup.status.subscribe() }),
            Err(error) => {
                tracing::error!(%error, "what this node knows of its formation cannot be said");
                Question::Later
            }
        }
    }
}

impl Handler<AddressAnswered> for FormationActor {
    type Result = ();

    fn handle(&mut self, message: AddressAnswered, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        let AddressAnswered { address, from, body } = message;
        self.unreached.remove(&address);
        match FormationReport::decode(&body) {
            Ok(report) if !speaks_for(from, &report) => {
                tracing::warn!(%address, node = %from.node, "a node speaks for another while the cluster forms");
            }
            Ok(report) => {
                if report.cluster_id != 0 {
                    self.informed.insert(address.clone());
                }
                self.with_core(ctx, |core, effects| core.on_answer(&address, report, effects));
            }
            Err(error) => tracing::warn!(%address, %error, "an answer to the formation of a cluster is unreadable"),
        }
    }
}

impl Handler<AddressLost> for FormationActor {
    type Result = bool;

    fn handle(&mut self, message: AddressLost, ctx: &mut Self::Context) -> bool {
        self.life.vitals.message_taken();
        let AddressLost { address, reason } = message;
        self.unreached.insert(address.clone(), reason);
        self.with_core(ctx, |core, effects| core.on_lost(&address, effects));
        // Who comes later asks this node.
        let matters = !self.core.as_ref().is_some_and(FormationCore::is_settled);
        if matters {
            self.say();
        }
        matters
    }
}

impl Handler<OwnAddressFound> for FormationActor {
    type Result = ();

    fn handle(&mut self, message: OwnAddressFound, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.unreached.remove(&message.address);
        self.own_addresses.insert(message.address.clone());
        self.with_core(ctx, |core, effects| core.on_own_address(&message.address, effects));
    }
}
