//! Messages from and to the links between nodes.

use crate::id::NodeId;
use crate::peer::{AppendResponse, LinkKind, PeerIdentity, ReplicaRequest};
use bytes::Bytes;

/// Requests for a follower, in order; received by the data link to its node.
#[derive(Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct SendToFollower {
    /// The requests; never empty.
    pub requests: Vec<ReplicaRequest>,
}

/// Answers for a leader; received by the session that the leader's node opened.
#[derive(Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct SendToLeader {
    /// The answers; never empty.
    pub responses: Vec<AppendResponse>,
}

/// A leader's requests for partitions of one shard; received by its ingestion actor.
#[derive(Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct AppendReplica {
    /// Who asks.
    pub from: PeerIdentity,
    /// The session to answer on; one process never uses a number twice.
    pub session: u64,
    /// The requests; never empty.
    pub requests: Vec<ReplicaRequest>,
}

/// Answers of a follower about partitions of one shard; received by its ingestion actor.
#[derive(Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct ReplicaAnswered {
    /// Who answers.
    pub from: PeerIdentity,
    /// The answers; never empty.
    pub responses: Vec<AppendResponse>,
}

/// A link to a peer stands, or stands no more: what was sent on it before may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct LinkChanged {
    /// The peer.
    pub node: NodeId,
    /// Which link.
    pub kind: LinkKind,
    /// Who is at the other end; `None` while nobody is.
    pub peer: Option<PeerIdentity>,
}

/// An encoded message for the control link of a peer; lost when the link is down or full.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct SendControl(pub Bytes);

/// An encoded message of a proven peer has arrived over a control link.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "actix", derive(actix::Message))]
#[cfg_attr(feature = "actix", rtype(result = "()"))]
pub struct ControlReceived {
    /// Who sent it.
    pub from: PeerIdentity,
    /// The message.
    pub body: Bytes,
}
