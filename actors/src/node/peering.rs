//! What a node of a cluster has that one alone has not: peers that it proves itself to, links to them, heartbeats.

use super::links::{LinkKeeper, owner_among};
use super::{StartError, Starter};
use crate::clock::NodeClock;
use crate::ingestion::actor::IngestionActor;
use crate::mailbox::Mailbox;
use crate::metadata::actor::MetadataActor;
use crate::metrics::Metrics;
use crate::options;
use crate::peer::acceptor::PEER_ACCEPTOR_NAME;
use crate::peer::{
    AcceptPeer, FormationParts, Formed, Inlet, LocalPeer, PEER_ACCEPTOR_MAILBOX, PeerAcceptorActor, PeerAcceptorSetup,
    PeerVersions, ServePeers, SessionRoutes, SocketOptions, form_cluster,
};
use crate::supervision::ActorKind;
use crate::threads::Thread;
use crate::tls::TlsKeeper;
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use hashbrown::HashMap;
use lance_config::model::Config;
use lance_messages::peer::PeerIdentity;
use lance_storage::checkpoint::DataDir;
use lance_storage::disk::Disk;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// A node's place among its peers.
pub(super) struct Peering {
    /// What the cluster began with, and whether this node was there.
    pub(super) formed: Formed,
    /// Who proves peers that connect.
    pub(super) acceptor: Mailbox<PeerAcceptorActor>,
    clock: NodeClock,
    local: Arc<LocalPeer>,
    /// Serves control links and sessions: heartbeats never wait for data.
    thread: Thread,
}

/// Where others reach this node.
pub(super) fn advertised(config: &Config, address: SocketAddr) -> String {
    if let Some(advertise) = &config.network.advertise {
        return advertise.clone();
    }
    let host_name = lance_config::machine::host_name();
    let others = lance_config::cluster::other_peers(config, host_name.as_deref());
    let mut own = config.replication.peers.iter().filter(|peer| !others.contains(&peer.as_str()));
    match (own.next(), own.next()) {
        (Some(own), None) => own.clone(),
        _ => address.to_string(),
    }
}

/// Finds or makes the cluster; ends once this node is part of one.
#[allow(clippy::too_many_arguments, reason = "the parts of a node that exist by then")]
pub(super) async fn join(
    config: &Config,
    starter: &Starter,
    disk: &Arc<dyn Disk>,
    data_dir: &mut DataDir,
    (listener, address): (&TcpListener, SocketAddr),
    (data_threads, clock): (Vec<ArbiterHandle>, NodeClock),
    (tls, versions): (Option<Arc<TlsKeeper>>, Arc<PeerVersions>),
    on_problem: impl FnMut(String),
) -> Result<Peering, StartError> {
    let thread = Thread::start("links", &[]).map_err(StartError::Thread)?;
    let record = *data_dir.record();
    let identity =
        PeerIdentity { node: record.node_id, incarnation: record.incarnation, boot_number: record.boot_number };
    let (trust, sockets) = (options::peer_trust(config), SocketOptions::default());
    let local = LocalPeer::new(identity, advertised(config, address), record.cluster_id, trust, sockets);
    let local = Arc::new(local.encrypted(tls).speaking(versions));
    let setup =
        PeerAcceptorSetup { local: Arc::clone(&local), data_threads, clock, supervisor: starter.supervisor.clone() };
    let acceptor = starter
        .start(
            &thread.handle(),
            PEER_ACCEPTOR_NAME.to_owned(),
            ActorKind::Acceptor,
            PEER_ACCEPTOR_MAILBOX,
            |vitals, policy, parent| PeerAcceptorActor::new(vitals, policy, parent, setup),
        )
        .await;
    let parts = FormationParts {
        starter,
        thread: &thread.handle(),
        disk,
        data_dir,
        local: &local,
        listed: config.replication.peers.clone(),
        listener,
        acceptor: &acceptor,
    };
    let (formed, _) = form_cluster(parts, on_problem).await?;
    Ok(Peering { formed, acceptor, clock, local, thread })
}

impl Peering {
    /// The inlet for connections that begin with a PeerHello.
    pub(super) fn door(&self) -> Inlet<AcceptPeer> {
        Inlet::of(&self.acceptor)
    }

    /// Opens both links to every other node the cluster began with.
    pub(super) async fn open_links(
        &self,
        starter: &Starter,
        data_thread: &ArbiterHandle,
        (shards, metadata): (&[Mailbox<IngestionActor>], &Mailbox<MetadataActor>),
        (view, metrics): (&Arc<ArcSwap<ClusterView>>, &Arc<Metrics>),
    ) -> Result<LinkKeeper, StartError> {
        let mut keeper = LinkKeeper {
            starter: starter.clone(),
            local: Arc::clone(&self.local),
            control_thread: self.thread.handle(),
            data_thread: data_thread.clone(),
            shards: shards.to_vec(),
            metadata: metadata.clone(),
            view: Arc::clone(view),
            clock: self.clock,
            metrics: Arc::clone(metrics),
            control: HashMap::new(),
            data: HashMap::new(),
        };
        let voters = self.formed.genesis.iter().flat_map(|genesis| &genesis.voters);
        for voter in voters.filter(|voter| voter.node != self.local.identity.node) {
            keeper.open(voter.node, &voter.address).await;
        }
        keeper.tell_shards().await?;
        Ok(keeper)
    }

    /// The node's actors stand: peers are served from now on, and hear that this node lives.
    pub(super) async fn serve(
        &self,
        shards: &[Mailbox<IngestionActor>],
        metadata: &Mailbox<MetadataActor>,
        keeper: LinkKeeper,
    ) -> Result<(), StartError> {
        let routes = SessionRoutes {
            shard_of: owner_among(shards.len()),
            appends: shards.iter().map(Inlet::of).collect(),
            registrations: shards.iter().map(Inlet::of).collect(),
            unregistrations: shards.iter().map(Inlet::of).collect(),
            control: Inlet::of(metadata),
        };
        self.acceptor.addr().send(ServePeers(routes)).await.map_err(|_| StartError::Actor("peers"))?;
        self.thread.handle().spawn_fn(move || {
            actix_rt::spawn(keeper.run());
        });
        Ok(())
    }

    /// The thread that it all runs on.
    pub(super) fn into_thread(self) -> Thread {
        self.thread
    }
}
