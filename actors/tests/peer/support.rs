//! A node that is nothing but its peers' side: an acceptor, links, and somebody who collects what they deliver.

use actix::prelude::*;
use bytes::Bytes;
use lance_actors::clock::NodeClock;
use lance_actors::mailbox::Mailbox;
use lance_actors::node::Starter;
use lance_actors::peer::doorstep::{Caller, caller, hand_over};
use lance_actors::peer::{
    AcceptPeer, Inlet, LinkSetup, LocalPeer, PEER_ACCEPTOR_MAILBOX, PEER_LINK_MAILBOX, PeerAcceptorActor,
    PeerAcceptorSetup, PeerLinkActor, PeerTrust, RegisterPeerSession, ServePeers, SessionRoutes, SocketOptions,
    UnregisterPeerSession, link_name,
};
use lance_actors::supervision::{ActorKind, NodeSupervisor, RestartPolicy};
use lance_actors::threads::Thread;
use lance_messages::batch::{BatchFlags, BatchHeader, BatchSeed};
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use lance_messages::mail::peer::{AppendReplica, ControlReceived, LinkChanged, ReplicaAnswered};
use lance_messages::peer::{AppendRequest, LinkKind, PeerIdentity, ReplicaBatch, ReplicaRequest};
use lance_messages::sort_key::SortKey;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Far beyond what anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const SECRET: &str = "a secret of tests";
/// Shards of a fake node: a partition belongs to the one of its own number.
pub const SHARDS: usize = 2;
/// The cluster of fake nodes.
pub const CLUSTER: u64 = 0xC1;

/// What a fake node's actors hear.
#[derive(Debug)]
pub enum Heard {
    Registered(usize, u64, Recipient<lance_messages::mail::peer::SendToLeader>),
    Unregistered(u64),
    Append(usize, AppendReplica),
    Answered(usize, ReplicaAnswered),
    Control(ControlReceived),
    Changed(LinkChanged),
}

struct Shard {
    number: usize,
    heard: mpsc::UnboundedSender<Heard>,
}

impl Actor for Shard {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Small, so that a shard that is stuck is felt.
        ctx.set_mailbox_capacity(2);
    }
}

/// The shard takes nothing any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct GetStuck;

impl Handler<GetStuck> for Shard {
    type Result = ();

    fn handle(&mut self, _: GetStuck, ctx: &mut Self::Context) {
        ctx.wait(actix::fut::wrap_future(std::future::pending::<()>()));
    }
}

macro_rules! hears {
    ($message:ty, $heard:expr) => {
        impl Handler<$message> for Shard {
            type Result = ();

            fn handle(&mut self, message: $message, _: &mut Self::Context) {
                let heard: fn(usize, $message) -> Heard = $heard;
                // The test may be over.
                let _ = self.heard.send(heard(self.number, message));
            }
        }
    };
}

hears!(AppendReplica, Heard::Append);
hears!(ReplicaAnswered, Heard::Answered);
hears!(RegisterPeerSession, |shard, it| Heard::Registered(shard, it.session, it.answers));
hears!(UnregisterPeerSession, |_, it| Heard::Unregistered(it.0));
hears!(ControlReceived, |_, it| Heard::Control(it));
hears!(LinkChanged, |_, it| Heard::Changed(it));

/// A fake node.
pub struct FakeNode {
    pub local: Arc<LocalPeer>,
    pub address: SocketAddr,
    _acceptor: Mailbox<PeerAcceptorActor>,
    pub supervisor: Addr<NodeSupervisor>,
    pub starter: Starter,
    pub heard: mpsc::UnboundedReceiver<Heard>,
    shards: Vec<Addr<Shard>>,
    links: Thread,
}

pub fn policy() -> RestartPolicy {
    RestartPolicy {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
        budget: 10,
        window: Duration::from_secs(60),
    }
}

pub fn local_peer(node: u16, boot_number: u64, cluster: u64, address: SocketAddr, trust: PeerTrust) -> Arc<LocalPeer> {
    let identity = PeerIdentity { node: NodeId(node), incarnation: 0x100 + u64::from(node), boot_number };
    Arc::new(LocalPeer::new(identity, address.to_string(), cluster, trust, SocketOptions::default()))
}

pub fn secret(text: &str) -> PeerTrust {
    PeerTrust::Secret(text.as_bytes().to_vec())
}

/// Gives peers to the acceptor, as the network actor does.
pub fn accept_for(listener: std::net::TcpListener, acceptor: Inlet<AcceptPeer>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    actix_rt::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            actix_rt::spawn(async move {
                if caller(&stream, PATIENCE).await == Caller::Peer {
                    acceptor.send(hand_over(stream).unwrap()).await;
                }
            });
        }
    });
}

pub fn listen() -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

pub async fn start_acceptor(
    starter: &Starter,
    thread: &ArbiterHandle,
    setup: PeerAcceptorSetup,
) -> Mailbox<PeerAcceptorActor> {
    starter
        .start(thread, "peers".into(), ActorKind::Acceptor, PEER_ACCEPTOR_MAILBOX, |vitals, policy, parent| {
            PeerAcceptorActor::new(vitals, policy, parent, setup)
        })
        .await
}

impl FakeNode {
    pub async fn start(node: u16, boot_number: u64, trust: PeerTrust) -> Self {
        let listener = listen();
        let address = listener.local_addr().unwrap();
        let local = local_peer(node, boot_number, CLUSTER, address, trust);
        let supervisor = NodeSupervisor::start(policy(), |escalated| panic!("{}", escalated.reason));
        let starter = Starter::new(supervisor.clone(), policy());
        let links = Thread::start("links", &[]).unwrap();
        let setup = PeerAcceptorSetup {
            local: Arc::clone(&local),
            data_threads: vec![Thread::start("data", &[]).unwrap().handle()],
            clock: NodeClock::start(),
            supervisor: supervisor.clone(),
        };
        let acceptor = start_acceptor(&starter, &links.handle(), setup).await;
        let (send, heard) = mpsc::unbounded_channel();
        let shards: Vec<Addr<Shard>> =
            (0..SHARDS).map(|number| Shard { number, heard: send.clone() }.start()).collect();
        let routes = SessionRoutes {
            shard_of: Arc::new(|partition| usize::from(partition.partition)),
            appends: shards.iter().map(|shard| shard.clone().recipient().into()).collect(),
            registrations: shards.iter().map(|shard| shard.clone().recipient().into()).collect(),
            unregistrations: shards.iter().map(|shard| shard.clone().recipient().into()).collect(),
            control: shards[0].clone().recipient().into(),
        };
        acceptor.send(ServePeers(routes)).await.unwrap();
        accept_for(listener, Inlet::of(&acceptor));
        Self { local, address, _acceptor: acceptor, supervisor, starter, heard, shards, links }
    }

    /// A link to `peer`.
    pub async fn link(&self, peer: &FakeNode, kind: LinkKind, max_queued_bytes: usize) -> Mailbox<PeerLinkActor> {
        self.link_to(peer.local.identity.node, peer.address, kind, max_queued_bytes).await
    }

    /// A link to whoever is there.
    pub async fn link_to(
        &self,
        id: NodeId,
        address: SocketAddr,
        kind: LinkKind,
        max_queued_bytes: usize,
    ) -> Mailbox<PeerLinkActor> {
        let setup = LinkSetup {
            local: Arc::clone(&self.local),
            peer: id,
            address: address.to_string(),
            kind,
            max_queued_bytes,
            shard_of: Arc::new(|partition| usize::from(partition.partition)),
            answers: self.shards.iter().map(|shard| shard.clone().recipient().into()).collect(),
            control: self.shards[0].clone().recipient().into(),
            changed: vec![self.shards[0].clone().recipient().into()],
            supervisor: self.supervisor.clone(),
            metrics: Arc::default(),
        };
        self.starter
            .start(
                &self.links.handle(),
                link_name(id, kind),
                ActorKind::Link,
                PEER_LINK_MAILBOX,
                |vitals, policy, parent| PeerLinkActor::new(vitals, policy, parent, setup),
            )
            .await
    }

    /// From now on a shard takes nothing.
    pub async fn block(&self, shard: usize) {
        self.shards[shard].send(GetStuck).await.unwrap();
    }

    /// The next thing heard that `wanted` picks; anything else fails the test.
    pub async fn hears<T>(&mut self, wanted: impl FnOnce(Heard) -> Result<T, Heard>) -> T {
        let heard = tokio::time::timeout(PATIENCE, self.heard.recv()).await.expect("nothing is heard").unwrap();
        wanted(heard).unwrap_or_else(|other| panic!("{other:?}"))
    }

    /// The link to a peer stands, or stands no more.
    pub async fn hears_of_link(&mut self) -> LinkChanged {
        self.hears(|heard| match heard {
            Heard::Changed(changed) => Ok(changed),
            other => Err(other),
        })
        .await
    }
}

/// The partition of a shard.
pub fn partition(shard: u16) -> TopicPartition {
    TopicPartition::new(TopicId(7), shard)
}

/// An append of one batch.
pub fn append(shard: u16, bytes: usize) -> ReplicaRequest {
    let records = Bytes::from(vec![9; bytes]);
    let header = BatchHeader {
        flags: BatchFlags::RECORDS,
        records_crc: crc32fast::hash(&records),
        position: 0,
        base_offset: 0,
        base_record: 0,
        stored_len: bytes as u32,
        plain_len: bytes as u32,
        record_count: 1,
        leader_epoch: LeaderEpoch(1),
        committed_through: 0,
        sort_key: SortKey(1),
        max_timestamp_ns: 1,
        producer: None,
    };
    let raw_header = header.encode(BatchSeed::new(partition(shard)));
    ReplicaRequest::Append(AppendRequest {
        partition: partition(shard),
        epoch: LeaderEpoch(1),
        prev_end: 0,
        prev_epoch: LeaderEpoch(0),
        high_watermark: 0,
        log_start: 0,
        batches: vec![ReplicaBatch { raw_header, header, records }],
        traced: Vec::new(),
    })
}
