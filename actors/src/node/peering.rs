//! What a node of a cluster has that one alone has not: peers that it proves itself to, links to them, heartbeats.

use super::{StartError, Starter};
use crate::clock::NodeClock;
use crate::ingestion::actor::IngestionActor;
use crate::ingestion::replica_handlers::ServeLinks;
use crate::mailbox::Mailbox;
use crate::metadata::actor::MetadataActor;
use crate::network::session::shard_of;
use crate::options;
use crate::peer::acceptor::PEER_ACCEPTOR_NAME;
use crate::peer::{
    AcceptPeer, FormationParts, Formed, Inlet, LinkSetup, LocalPeer, MAX_QUEUED_CONTROL_BYTES, MAX_QUEUED_DATA_BYTES,
    PEER_ACCEPTOR_MAILBOX, PEER_LINK_MAILBOX, PeerAcceptorActor, PeerAcceptorSetup, PeerLinkActor, ServePeers,
    SessionRoutes, ShardOf, SocketOptions, form_cluster, link_name,
};
use crate::supervision::ActorKind;
use crate::threads::Thread;
use actix::prelude::*;
use bytes::Bytes;
use hashbrown::HashMap;
use lance_cluster::control::ControlMessage;
use lance_cluster::formation::Voter;
use lance_config::model::Config;
use lance_messages::id::{NodeId, TopicPartition};
use lance_messages::mail::peer::{SendControl, SendToFollower};
use lance_messages::peer::{LinkKind, PeerIdentity};
use lance_storage::checkpoint::DataDir;
use lance_storage::disk::Disk;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two heartbeats to every peer.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);

/// A node's place among its peers.
pub(super) struct Peering {
    /// What the cluster began with, and whether this node was there.
    pub(super) formed: Formed,
    /// Who proves peers that connect.
    pub(super) acceptor: Mailbox<PeerAcceptorActor>,
    /// Told to peers with every heartbeat.
    pub(super) leads_metadata: Arc<AtomicBool>,
    local: Arc<LocalPeer>,
    /// Serves control links and sessions: heartbeats never wait for data.
    thread: Thread,
}

/// The links to other nodes.
#[derive(Clone, Default)]
pub(super) struct Links {
    pub(super) control: HashMap<NodeId, Mailbox<PeerLinkActor>>,
    pub(super) data: HashMap<NodeId, Mailbox<PeerLinkActor>>,
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
pub(super) async fn join(
    config: &Config,
    starter: &Starter,
    disk: &Arc<dyn Disk>,
    data_dir: &mut DataDir,
    (listener, address): (&TcpListener, SocketAddr),
    (data_threads, clock): (Vec<ArbiterHandle>, NodeClock),
    on_problem: impl FnMut(String),
) -> Result<Peering, StartError> {
    let thread = Thread::start("links", None).map_err(StartError::Thread)?;
    let record = *data_dir.record();
    let identity =
        PeerIdentity { node: record.node_id, incarnation: record.incarnation, boot_number: record.boot_number };
    let (trust, sockets) = (options::peer_trust(config), SocketOptions::default());
    let local = LocalPeer::new(identity, advertised(config, address), record.cluster_id, trust, sockets);
    let local = Arc::new(local);
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
    Ok(Peering { formed, acceptor, leads_metadata: Arc::new(AtomicBool::new(false)), local, thread })
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
        shards: &[Mailbox<IngestionActor>],
        metadata: &Mailbox<MetadataActor>,
    ) -> Result<Links, StartError> {
        let voters = self.formed.genesis.iter().flat_map(|genesis| &genesis.voters);
        let others: Vec<&Voter> = voters.filter(|voter| voter.node != self.local.identity.node).collect();
        let mut links = Links::default();
        for voter in others {
            for kind in [LinkKind::Control, LinkKind::Data] {
                let setup = self.link_setup(starter, voter, kind, shards, metadata);
                let thread = if kind == LinkKind::Data { data_thread.clone() } else { self.thread.handle() };
                let name = link_name(voter.node, kind);
                let link = starter
                    .start(&thread, name, ActorKind::Link, PEER_LINK_MAILBOX, |vitals, policy, parent| {
                        PeerLinkActor::new(vitals, policy, parent, setup)
                    })
                    .await;
                match kind {
                    LinkKind::Control => drop(links.control.insert(voter.node, link)),
                    LinkKind::Data => drop(links.data.insert(voter.node, link)),
                }
            }
        }
        let followers: HashMap<NodeId, Recipient<SendToFollower>> =
            links.data.iter().map(|(node, link)| (*node, link.addr().clone().recipient())).collect();
        for shard in shards {
            let serve = ServeLinks(followers.clone());
            shard.addr().send(serve).await.map_err(|_| StartError::Actor("ingestion"))?;
        }
        Ok(links)
    }

    fn link_setup(
        &self,
        starter: &Starter,
        voter: &Voter,
        kind: LinkKind,
        shards: &[Mailbox<IngestionActor>],
        metadata: &Mailbox<MetadataActor>,
    ) -> LinkSetup {
        let (max_queued_bytes, changed) = match kind {
            LinkKind::Control => (MAX_QUEUED_CONTROL_BYTES, vec![Inlet::of(metadata)]),
            LinkKind::Data => (MAX_QUEUED_DATA_BYTES, shards.iter().map(Inlet::of).collect()),
        };
        LinkSetup {
            local: Arc::clone(&self.local),
            peer: voter.node,
            address: voter.address.clone(),
            kind,
            max_queued_bytes,
            shard_of: owner_among(shards.len()),
            answers: shards.iter().map(Inlet::of).collect(),
            control: Inlet::of(metadata),
            changed,
            supervisor: starter.supervisor.clone(),
        }
    }

    /// The node's actors stand: peers are served from now on, and hear that this node lives.
    pub(super) async fn serve(
        &self,
        shards: &[Mailbox<IngestionActor>],
        metadata: &Mailbox<MetadataActor>,
        links: &Links,
    ) -> Result<(), StartError> {
        let routes = SessionRoutes {
            shard_of: owner_among(shards.len()),
            appends: shards.iter().map(Inlet::of).collect(),
            registrations: shards.iter().map(Inlet::of).collect(),
            unregistrations: shards.iter().map(Inlet::of).collect(),
            control: Inlet::of(metadata),
        };
        self.acceptor.addr().send(ServePeers(routes)).await.map_err(|_| StartError::Actor("peers"))?;
        let (links, leads_metadata) = (links.control.clone(), Arc::clone(&self.leads_metadata));
        self.thread.handle().spawn_fn(move || {
            actix_rt::spawn(beat(links, leads_metadata));
        });
        Ok(())
    }

    /// The thread that it all runs on.
    pub(super) fn into_thread(self) -> Thread {
        self.thread
    }
}

fn owner_among(shards: usize) -> ShardOf {
    let shards = shards as u16;
    Arc::new(move |partition: TopicPartition| usize::from(shard_of(partition, shards)))
}

async fn beat(links: HashMap<NodeId, Mailbox<PeerLinkActor>>, leads_metadata: Arc<AtomicBool>) {
    loop {
        let heartbeat = ControlMessage::Heartbeat { leads_metadata: leads_metadata.load(Ordering::Relaxed) };
        if let Ok(bytes) = heartbeat.encode() {
            let bytes = Bytes::from(bytes);
            for link in links.values() {
                // A link that takes nothing is down, or full of what tells as much.
                let _ = link.try_send(SendControl(bytes.clone()));
            }
        }
        actix_rt::time::sleep(HEARTBEAT_INTERVAL).await;
    }
}
