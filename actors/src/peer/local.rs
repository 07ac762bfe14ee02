//! What this node says of itself to every peer, and how it sets up their sockets.

use super::proof::PeerTrust;
use super::versions::PeerVersions;
use crate::tls::TlsKeeper;
use lance_messages::peer::{LinkKind, PeerIdentity};
use lance_messages::wire::peer::{NONCE_BYTES, PeerHello, PeerPurpose};
use socket2::{SockRef, TcpKeepalive};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

/// Silence on a connection between nodes after which the kernel probes it, and between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Probes that may stay unanswered.
const PROBES: u32 = 3;

/// This node, as its peers see it.
#[derive(Debug)]
pub struct LocalPeer {
    /// Node, incarnation and boot number.
    pub identity: PeerIdentity,
    /// Where others reach it, host:port.
    pub address: String,
    /// What makes it trust a peer.
    pub trust: PeerTrust,
    /// How sockets are set up.
    pub sockets: SocketOptions,
    /// Encrypts connections to and from peers.
    pub tls: Option<Arc<TlsKeeper>>,
    /// The versions of the protocol that it and its peers speak.
    pub versions: Arc<PeerVersions>,
    cluster_id: AtomicU64,
}

/// How long sent bytes may stay unacknowledged before a connection is given up.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// On connections for control messages and formation.
    pub control_timeout: Duration,
    /// On connections for data; a follower that takes nothing for this long is connected again.
    pub data_timeout: Duration,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { control_timeout: Duration::from_secs(3), data_timeout: Duration::from_secs(10) }
    }
}

impl LocalPeer {
    /// This node; `cluster_id` is 0 before genesis.
    pub fn new(
        identity: PeerIdentity,
        address: String,
        cluster_id: u64,
        trust: PeerTrust,
        sockets: SocketOptions,
    ) -> Self {
        Self {
            identity,
            address,
            trust,
            sockets,
            tls: None,
            versions: Arc::default(),
            cluster_id: AtomicU64::new(cluster_id),
        }
    }

    /// The same, encrypted.
    #[must_use]
    pub fn encrypted(self, tls: Option<Arc<TlsKeeper>>) -> Self {
        Self { tls, ..self }
    }

    /// The same, speaking these versions.
    #[must_use]
    pub fn speaking(self, versions: Arc<PeerVersions>) -> Self {
        Self { versions, ..self }
    }

    /// Its cluster; 0 before genesis.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Acquire)
    }

    /// The genesis is durable: links may be opened from now on.
    pub fn set_cluster_id(&self, cluster_id: u64) {
        self.cluster_id.store(cluster_id, Ordering::Release);
    }

    /// The first frame of a connection.
    pub fn hello(&self, purpose: PeerPurpose, nonce: [u8; NONCE_BYTES]) -> PeerHello {
        PeerHello {
            min_version: self.versions.oldest(),
            max_version: self.versions.newest(),
            purpose,
            cluster_id: self.cluster_id(),
            identity: self.identity,
            nonce,
            address: self.address.clone(),
        }
    }

    /// Sets up the socket of a connection; a peer that is gone is found by the kernel.
    pub fn configure(&self, stream: &TcpStream, purpose: PeerPurpose) -> std::io::Result<()> {
        let timeout = match purpose {
            PeerPurpose::Link(LinkKind::Data) => self.sockets.data_timeout,
            PeerPurpose::Link(LinkKind::Control) | PeerPurpose::Formation => self.sockets.control_timeout,
        };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive =
            TcpKeepalive::new().with_time(PROBE_INTERVAL).with_interval(PROBE_INTERVAL).with_retries(PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(timeout))
    }
}
