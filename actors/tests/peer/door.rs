//! One port for clients and peers: a connection whose first frame is a PeerHello leaves the clients' side of a real node.

use super::support::{self, PATIENCE, SECRET, policy, secret, start_acceptor};
use super::{DATA, run};
use arc_swap::ArcSwap;
use lance_actors::admin::Health;
use lance_actors::clock::NodeClock;
use lance_actors::forward::actor::{FORWARD_MAILBOX, ForwardActor, ForwardSetup};
use lance_actors::mailbox::Mailbox;
use lance_actors::network::actor::{NETWORK_MAILBOX, NetworkActor, NetworkSetup};
use lance_actors::network::budget::ByteBudget;
use lance_actors::network::connection::ConnectionSetup;
use lance_actors::network::readers::ReaderPool;
use lance_actors::node::side::SideParts;
use lance_actors::node::{self, Node, Starter};
use lance_actors::options;
use lance_actors::peer::{Inlet, PeerAcceptorSetup, PeerRefusal, handshake};
use lance_actors::supervision::{ActorKind, NodeSupervisor};
use lance_actors::threads::Thread;
use lance_actors::view::ClusterView;
use lance_config::model::{Config, IoBackend};
use lance_messages::id::NodeId;
use lance_storage::disk::{Disk, open_disk};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// A keepalive, and its answer.
const KEEPALIVE: [u8; 12] = [0x4C, 0x41, 0x4E, 0x43, 1, 0x20, 0, 0, 0x06, 0x1E, 0x9C, 0x53];

struct Rig {
    address: SocketAddr,
    view: Arc<ArcSwap<ClusterView>>,
    node: Node,
    _network: Mailbox<NetworkActor>,
    _threads: Vec<Thread>,
    _folder: tempfile::TempDir,
}

/// A second door of a real node, which peers may enter: `max_connections` clients, served once `view` is known.
async fn rig(max_connections: usize, known: bool) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.node.data_dir = folder.path().join("data");
    config.network.bind = "127.0.0.1:0".to_owned();
    config.admin.bind = "127.0.0.1:0".to_owned();
    config.io.backend = IoBackend::Blocking;
    config.storage.reserve_bytes = 1024 * 1024;
    let disk: Arc<dyn Disk> = open_disk(options::disk_options(&config)).unwrap();
    let supervisor = NodeSupervisor::start(policy(), |escalated| panic!("{}", escalated.reason));
    let (drain, _) = mpsc::channel(1);
    let side =
        SideParts { health: Arc::new(Health::new()), drain, faults: None, log_level: None, tls: None, auth: None };
    let view = Arc::new(ArcSwap::from_pointee(ClusterView::default()));
    let node = node::start(&config, Arc::clone(&disk), supervisor.clone(), Arc::default(), Arc::clone(&view), side)
        .await
        .unwrap();
    while view.load().node.is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }

    let starter = Starter::new(supervisor.clone(), policy());
    let listener = support::listen();
    let address = listener.local_addr().unwrap();
    let local = support::local_peer(1, 1, support::CLUSTER, address, secret(SECRET));
    let (links, clients) = (Thread::start("links", &[]).unwrap(), Thread::start("clients", &[]).unwrap());
    let setup = PeerAcceptorSetup {
        local,
        data_threads: Vec::new(),
        clock: NodeClock::start(),
        supervisor: supervisor.clone(),
    };
    let acceptor = start_acceptor(&starter, &links.handle(), setup).await;
    let own_view = if known { Arc::clone(&view) } else { Arc::default() };
    let (forward_setup, name) = (
        ForwardSetup {
            index: 1,
            view: Arc::clone(&own_view),
            clock: NodeClock::start(),
            credentials: Default::default(),
        },
        "forward-door".to_owned(),
    );
    let forward = starter
        .start(&links.handle(), name, ActorKind::Forward, FORWARD_MAILBOX, |vitals, policy, parent| {
            ForwardActor::new(vitals, policy, parent, forward_setup)
        })
        .await;
    let network = NetworkSetup {
        listener,
        max_connections,
        tcp_keepalive: config.network.tcp_keepalive,
        tcp_user_timeout: config.network.tcp_user_timeout,
        connection: ConnectionSetup {
            limits: options::session_limits(&config),
            idle_timeout: config.limits.idle_timeout,
            view: Arc::clone(&own_view),
            shards: node.shards.clone(),
            metadata: node.metadata.clone(),
            group: node.group.clone(),
            tee: node.tee.clone(),
            readers: ReaderPool::start(1, disk, 4).unwrap(),
            frames: ByteBudget::default(),
            copies: ByteBudget::default(),
            forward,
            quotas: Arc::default(),
            auth: None,
            clock: NodeClock::start(),
            metrics: Arc::clone(&node.metrics),
            peers: Some(Inlet::of(&acceptor)),
        },
        threads: vec![clients.handle()],
        supervisor,
        tls: None,
    };
    let network = starter
        .start(&clients.handle(), "door".into(), ActorKind::Network, NETWORK_MAILBOX, |vitals, policy, parent| {
            NetworkActor::new(vitals, policy, parent, network)
        })
        .await;
    Rig { address, view: own_view, node, _network: network, _threads: vec![links, clients], _folder: folder }
}

/// Whether a peer gets as far as being told that the fake node is only starting: it was handed over and proven.
async fn peer_is_proven(address: SocketAddr) {
    let peer = support::local_peer(2, 1, support::CLUSTER, address, secret(SECRET));
    let refused = handshake::connect(&address.to_string(), &peer, DATA, Some(NodeId(1))).await.unwrap_err();
    assert!(matches!(&refused, PeerRefusal::Said(text) if text.contains("is starting")), "{refused}");
}

async fn keepalive(stream: &mut TcpStream) -> std::io::Result<[u8; 44]> {
    let mut frame = [0u8; 44];
    frame[..12].copy_from_slice(&KEEPALIVE);
    stream.write_all(&frame).await?;
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

#[test]
fn a_peer_is_told_from_a_client_by_its_first_frame() {
    run(async {
        let rig = rig(100, true).await;
        let mut client = TcpStream::connect(rig.address).await.unwrap();
        assert_eq!(keepalive(&mut client).await.unwrap()[..12], KEEPALIVE);
        peer_is_proven(rig.address).await;
        assert_eq!(keepalive(&mut client).await.unwrap()[..12], KEEPALIVE);
        // A client that sends little at a time is no peer and loses nothing.
        let mut slow = TcpStream::connect(rig.address).await.unwrap();
        slow.write_all(&KEEPALIVE[..5]).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let mut rest = [0u8; 39];
        rest[..7].copy_from_slice(&KEEPALIVE[5..]);
        slow.write_all(&rest).await.unwrap();
        let mut answer = [0u8; 44];
        slow.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[..12], KEEPALIVE);
    });
}

#[test]
fn the_limit_of_clients_never_refuses_a_peer() {
    run(async {
        let rig = rig(1, true).await;
        let mut client = TcpStream::connect(rig.address).await.unwrap();
        keepalive(&mut client).await.unwrap();
        peer_is_proven(rig.address).await;
        let mut refused = Vec::new();
        TcpStream::connect(rig.address).await.unwrap().read_to_end(&mut refused).await.unwrap();
        assert!(String::from_utf8_lossy(&refused).contains("too many connections"), "{refused:?}");
        assert_eq!(rig.node.metrics.connections_refused.get(), 1);
    });
}

#[test]
fn peers_come_in_before_clients_are_served_and_clients_wait() {
    run(async {
        let rig = rig(100, false).await;
        let mut client = TcpStream::connect(rig.address).await.unwrap();
        let answered = actix_rt::spawn(async move { keepalive(&mut client).await.unwrap() });
        peer_is_proven(rig.address).await;
        assert!(!answered.is_finished());
        rig.view.store(rig.node.view.load_full());
        let answer = tokio::time::timeout(PATIENCE, answered).await.unwrap().unwrap();
        assert_eq!(answer[..12], KEEPALIVE);
    });
}
