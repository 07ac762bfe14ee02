//! Peers: the connections between the nodes of a cluster, and how a cluster forms.
//!
//! A node opens a control and a data [`link`] to each of the others, and accepts one of each from them as [`session`]s.
//! Requests go over the own link, answers come back on it; what others ask arrives in sessions. Before any of it, both
//! sides of a connection prove themselves ([`handshake`]). [`formation`] has connections of its own.

pub mod acceptor;
pub mod delivery;
pub mod doorstep;
pub mod formation;
pub mod handshake;
pub mod inlet;
pub mod link;
pub mod local;
pub mod proof;
pub mod registry;
pub mod session;
pub mod socket;
mod versions;

pub use acceptor::{
    AcceptPeer, PEER_ACCEPTOR_MAILBOX, PeerAcceptorActor, PeerAcceptorSetup, ServePeers, SessionRoutes,
};
pub use formation::{FormationError, FormationParts, Formed, form_cluster};
pub use handshake::PeerRefusal;
pub use inlet::Inlet;
pub use link::{LinkSetup, MoveLink, PEER_LINK_MAILBOX, PeerLinkActor, StopLink, link_name};
pub use local::{LocalPeer, SocketOptions};
pub use proof::PeerTrust;
pub use session::{RegisterPeerSession, UnregisterPeerSession};
pub use versions::PeerVersions;

use lance_messages::id::TopicPartition;
use std::sync::Arc;

/// Which shard owns a partition: an index below the number of shards.
pub type ShardOf = Arc<dyn Fn(TopicPartition) -> usize + Send + Sync>;

/// Connections that may be in their opening at once; one that takes too long is closed.
const OPENING_SESSIONS: usize = 256;
/// Bytes that may wait to be written on a data connection.
pub const MAX_QUEUED_DATA_BYTES: usize = 64 * 1024 * 1024;
/// Bytes that may wait to be written on a control connection; one message goes out whatever its size.
pub const MAX_QUEUED_CONTROL_BYTES: usize = 16 * 1024 * 1024;
