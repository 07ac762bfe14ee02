//! How a node finds or makes its cluster before any of its other actors runs, and answers who does so later.

mod actor;
mod asking;
mod door;

pub use actor::{
    AddressAnswered, AddressLost, FORMATION_MAILBOX, FormationActor, FormationAsked, FormationSetup, FormationStatus,
    GENESIS_BODY_VERSION, OwnAddressFound, ReportWanted,
};

use self::asking::ask_forever;
use self::door::accept_peers;
use super::acceptor::{AcceptPeer, PeerAcceptorActor, ServeFormation};
use super::inlet::Inlet;
use super::local::LocalPeer;
use crate::mailbox::Mailbox;
use crate::node::Starter;
use crate::supervision::ActorKind;
use actix::prelude::*;
use lance_cluster::codec::CodecError;
use lance_cluster::formation::{Genesis, Voter};
use lance_storage::checkpoint::{Checkpoint, CheckpointError, DataDir};
use lance_storage::disk::Disk;
use std::net::TcpListener;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a node has no cluster and looks for none any more.
#[derive(Debug, thiserror::Error)]
pub enum FormationError {
    /// The genesis or the node file.
    #[error("cannot keep what the cluster began with: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The genesis that was kept.
    #[error("{path}: {source}")]
    Genesis {
        /// The file.
        path: String,
        /// Why it cannot be read.
        source: CodecError,
    },
    /// The listener.
    #[error("cannot accept peers: {0}")]
    Listen(std::io::Error),
    /// The actor is gone.
    #[error("the formation actor did not start")]
    Actor,
}

/// What formation needs of a node that starts.
pub struct FormationParts<'a> {
    /// Starts the actor.
    pub starter: &'a Starter,
    /// Thread that neither waits for data nor for clients.
    pub thread: &'a ArbiterHandle,
    /// The disk of the data directory.
    pub disk: &'a Arc<dyn Disk>,
    /// Whose cluster it shall be.
    pub data_dir: &'a mut DataDir,
    /// This node, as its peers see it.
    pub local: &'a Arc<LocalPeer>,
    /// Every address of `replication.peers`, with or without this node; empty for a cluster of one.
    pub listed: Vec<String>,
    /// The socket that peers connect to.
    pub listener: &'a TcpListener,
    /// Who proves them.
    pub acceptor: &'a Mailbox<PeerAcceptorActor>,
}

/// A node's cluster, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formed {
    /// The cluster.
    pub cluster_id: u64,
    /// What it began with; `None` where a node alone formed it before that was kept.
    pub genesis: Option<Genesis>,
    /// Whether this life of this node is one of its first voters; else it joins as a learner.
    pub is_voter: bool,
}

/// Finds or makes the cluster of this node, and answers peers meanwhile; ends once its genesis is durable.
///
/// `on_problem` hears why it takes longer. The actor that is given back goes on answering those who come later.
pub async fn form_cluster(
    parts: FormationParts<'_>,
    mut on_problem: impl FnMut(String),
) -> Result<(Formed, Mailbox<FormationActor>), FormationError> {
    let record = *parts.data_dir.record();
    let own = Voter { node: record.node_id, incarnation: record.incarnation, address: parts.local.address.clone() };
    let kept = kept_genesis(parts.disk, parts.data_dir)?;
    let (status, mut changes) = watch::channel(FormationStatus::Forming(None));
    let setup = FormationSetup {
        own: own.clone(),
        listed: parts.listed.clone(),
        fresh_cluster_id: rand::random::<u64>().max(1),
        cluster_id: record.cluster_id,
        kept: Checkpoint::new(parts.disk, parts.data_dir.genesis_path(), GENESIS_BODY_VERSION),
        status,
    };
    let needs_peers = kept.is_none() && record.cluster_id == 0 && !parts.listed.is_empty();
    let actor = parts
        .starter
        .start(parts.thread, "formation".into(), ActorKind::Formation, FORMATION_MAILBOX, |vitals, policy, parent| {
            FormationActor::new(vitals, policy, parent, setup)
        })
        .await;
    let serve = ServeFormation(Inlet::of(&actor));
    parts.acceptor.addr().send(serve).await.map_err(|_| FormationError::Actor)?;
    let door = match needs_peers {
        true => Some(open_door(&parts, &actor)?),
        false => None,
    };
    let genesis = loop {
        match &*changes.borrow_and_update() {
            FormationStatus::Forming(None) => {}
            FormationStatus::Forming(Some(problem)) => on_problem(problem.clone()),
            FormationStatus::Formed(genesis) => break genesis.clone(),
        }
        changes.changed().await.map_err(|_| FormationError::Actor)?;
    };
    drop(door);
    let cluster_id = genesis.as_ref().map_or(record.cluster_id, |genesis| genesis.cluster_id);
    // The genesis is durable before the node file names its cluster: a crash between the two is mended here.
    parts.data_dir.adopt_cluster(cluster_id)?;
    parts.local.set_cluster_id(cluster_id);
    let is_voter = genesis.as_ref().is_none_or(|genesis| genesis.names(own.node, own.incarnation));
    Ok((Formed { cluster_id, genesis, is_voter }, actor))
}

fn kept_genesis(disk: &Arc<dyn Disk>, data_dir: &DataDir) -> Result<Option<Genesis>, FormationError> {
    let path = data_dir.genesis_path();
    let Some(bytes) = Checkpoint::new(disk, path.clone(), GENESIS_BODY_VERSION).read()? else { return Ok(None) };
    let failed = |source| FormationError::Genesis { path: path.display().to_string(), source };
    Genesis::decode(&bytes).map(Some).map_err(failed)
}

/// Asks every listed address and accepts peers until it is dropped; peers that have no genesis yet are asked on until
/// they heard of it.
fn open_door(parts: &FormationParts<'_>, actor: &Mailbox<FormationActor>) -> Result<Door, FormationError> {
    let listener = parts.listener.try_clone().map_err(FormationError::Listen)?;
    let (open, closed) = watch::channel(());
    let acceptor: Inlet<AcceptPeer> = Inlet::of(parts.acceptor);
    let tls = parts.local.tls.clone();
    parts.thread.spawn_fn(move || {
        actix_rt::spawn(accept_peers(listener, acceptor, tls, closed));
    });
    for address in &parts.listed {
        let (address, local, actor) = (address.clone(), Arc::clone(parts.local), actor.clone());
        parts.thread.spawn_fn(move || {
            actix_rt::spawn(ask_forever(address, local, actor));
        });
    }
    Ok(Door { _open: open })
}

/// Peers are accepted here while it is held; afterwards the network actor does.
struct Door {
    _open: watch::Sender<()>,
}
