//! The links to other nodes: two to each, opened for those the cluster began with, those that registered since and those that
//! may, as the committed metadata names them; and the heartbeats on them.

use super::{StartError, Starter};
use crate::clock::NodeClock;
use crate::ingestion::actor::IngestionActor;
use crate::ingestion::replica_handlers::ServeLinks;
use crate::mailbox::Mailbox;
use crate::metadata::actor::{MetadataActor, ServeControlLinks};
use crate::metrics::Metrics;
use crate::network::session::shard_of;
use crate::peer::{
    Inlet, LinkSetup, LocalPeer, MAX_QUEUED_CONTROL_BYTES, MAX_QUEUED_DATA_BYTES, PEER_LINK_MAILBOX, PeerLinkActor,
    ShardOf, link_name,
};
use crate::supervision::ActorKind;
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use bytes::Bytes;
use hashbrown::HashMap;
use lance_cluster::control::ControlMessage;
use lance_messages::id::{NodeId, TopicPartition};
use lance_messages::mail::peer::{SendControl, SendToFollower};
use lance_messages::peer::LinkKind;
use std::sync::Arc;
use std::time::Duration;

/// Between two heartbeats to every peer.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);

/// Opens links, and keeps them as the metadata wants them.
pub(super) struct LinkKeeper {
    pub(super) starter: Starter,
    pub(super) local: Arc<LocalPeer>,
    /// Serves control links: heartbeats never wait for data.
    pub(super) control_thread: ArbiterHandle,
    pub(super) data_thread: ArbiterHandle,
    pub(super) shards: Vec<Mailbox<IngestionActor>>,
    pub(super) metadata: Mailbox<MetadataActor>,
    pub(super) view: Arc<ArcSwap<ClusterView>>,
    pub(super) clock: NodeClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) control: HashMap<NodeId, Mailbox<PeerLinkActor>>,
    pub(super) data: HashMap<NodeId, Mailbox<PeerLinkActor>>,
}

impl LinkKeeper {
    /// Opens both links to a node; nobody knows of them before [`Self::tell`].
    pub(super) async fn open(&mut self, node: NodeId, address: &str) {
        for kind in [LinkKind::Control, LinkKind::Data] {
            let setup = self.link_setup(node, address, kind);
            let thread = if kind == LinkKind::Data { &self.data_thread } else { &self.control_thread };
            let link = self
                .starter
                .start(thread, link_name(node, kind), ActorKind::Link, PEER_LINK_MAILBOX, |vitals, policy, parent| {
                    PeerLinkActor::new(vitals, policy, parent, setup)
                })
                .await;
            match kind {
                LinkKind::Control => drop(self.control.insert(node, link)),
                LinkKind::Data => drop(self.data.insert(node, link)),
            }
        }
    }

    /// Tells the shards which links there are.
    pub(super) async fn tell_shards(&self) -> Result<(), StartError> {
        let followers: HashMap<NodeId, Recipient<SendToFollower>> =
            self.data.iter().map(|(node, link)| (*node, link.addr().clone().recipient())).collect();
        for shard in &self.shards {
            let serve = ServeLinks(followers.clone());
            shard.addr().send(serve).await.map_err(|_| StartError::Actor("ingestion"))?;
        }
        Ok(())
    }

    fn link_setup(&self, peer: NodeId, address: &str, kind: LinkKind) -> LinkSetup {
        let (shards, metadata) = (&self.shards, &self.metadata);
        let (max_queued_bytes, changed) = match kind {
            LinkKind::Control => (MAX_QUEUED_CONTROL_BYTES, vec![Inlet::of(metadata)]),
            LinkKind::Data => (MAX_QUEUED_DATA_BYTES, shards.iter().map(Inlet::of).collect()),
        };
        LinkSetup {
            local: Arc::clone(&self.local),
            peer,
            address: address.to_owned(),
            kind,
            max_queued_bytes,
            shard_of: owner_among(shards.len()),
            answers: shards.iter().map(Inlet::of).collect(),
            control: Inlet::of(metadata),
            changed,
            supervisor: self.starter.supervisor.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Sends heartbeats, and opens and forgets links as the metadata changes; ends with its thread.
    pub(super) async fn run(mut self) {
        let mut seen = Arc::new(ClusterView::default());
        loop {
            let view = self.view.load_full();
            if !Arc::ptr_eq(&seen, &view) {
                self.follow(&view).await;
                seen = view;
            }
            self.beat();
            actix_rt::time::sleep(HEARTBEAT_INTERVAL).await;
        }
    }

    async fn follow(&mut self, view: &ClusterView) {
        let own = self.local.identity.node;
        let wanted = view.nodes.iter().chain(&view.allowed).filter(|(node, _)| *node != own);
        let missing: Vec<_> = wanted.filter(|(node, _)| !self.control.contains_key(node)).cloned().collect();
        // The metadata actor has stopped these before it showed the view.
        let is_gone = |node: &NodeId| view.removed.contains(node) && view.allowed.iter().all(|(id, _)| id != node);
        let gone: Vec<NodeId> = self.control.keys().copied().filter(|node| is_gone(node)).collect();
        if missing.is_empty() && gone.is_empty() {
            return;
        }
        for node in gone {
            self.control.remove(&node);
            self.data.remove(&node);
        }
        for (node, address) in missing {
            tracing::info!(%node, %address, "a node of the cluster that this one had no links to: opening them");
            self.open(node, &address).await;
        }
        let links = ServeControlLinks { links: self.control.clone(), data_links: self.data.clone() };
        if self.metadata.send(links).await.is_err() || self.tell_shards().await.is_err() {
            tracing::debug!("links changed while the node goes down");
        }
    }

    fn beat(&self) {
        let sent_ms = u64::try_from(self.clock.now().elapsed.as_millis()).unwrap_or(u64::MAX);
        let heartbeat = ControlMessage::Heartbeat { sent_ms };
        if let Ok(bytes) = heartbeat.encode() {
            let bytes = Bytes::from(bytes);
            for link in self.control.values() {
                // A link that takes nothing is down, or full of what tells as much.
                let _ = link.try_send(SendControl(bytes.clone()));
            }
        }
    }
}

/// Which of so many shards owns a partition.
pub(super) fn owner_among(shards: usize) -> ShardOf {
    let shards = shards as u16;
    Arc::new(move |partition: TopicPartition| usize::from(shard_of(partition, shards)))
}
