//! How a connection between nodes is opened: PeerHello, PeerHelloResponse, PeerProof, PeerWelcome.
//!
//! Each side makes a nonce and proves over both; nothing but these frames is read before. A side that does not go on says
//! why in an ErrorResponse, so that the sentence stands in both nodes' logs.

use super::local::LocalPeer;
use super::proof::{PeerTrust, ProofSide};
use super::socket::FrameSocket;
use crate::tls::TlsRefusal;
use lance_messages::id::NodeId;
use lance_messages::peer::PeerIdentity;
use lance_messages::wire::peer::{
    PeerCommand, PeerFrame, PeerFrameError, PeerHello, PeerHelloResponse, PeerProof, PeerPurpose, PeerStage,
};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long the opening of a connection may take, and connecting before it.
pub const OPENING_TIMEOUT: Duration = Duration::from_secs(3);

/// Why two nodes do not talk.
#[derive(Debug, thiserror::Error)]
pub enum PeerRefusal {
    /// Nobody was reached.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// No encrypted connection.
    #[error("{address}: {source}")]
    Tls {
        /// Where.
        address: String,
        /// Why.
        source: TlsRefusal,
    },
    /// The socket failed.
    #[error("the connection failed while {doing}: {source}")]
    Socket {
        /// Reading or writing.
        doing: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("not opened within {timeout_ms} ms")]
    TimedOut {
        /// How long it might take.
        timeout_ms: u128,
    },
    /// The other side closed it without a word.
    #[error("closed by the other side while it was opened")]
    Closed,
    /// The other side said why.
    #[error("refused by the other side: {0}")]
    Said(String),
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] PeerFrameError),
    /// A frame that has no place here.
    #[error("{found:?} where {expected:?} is expected")]
    Unexpected {
        /// The frame's command.
        found: PeerCommand,
        /// What should have come.
        expected: PeerCommand,
    },
    /// No version both speak.
    #[error(
        "node {node} speaks peer protocol {min} to {max}, this node speaks {oldest} to {newest}: they run versions that \
         are too far apart, or the cluster uses features that one of them does not know"
    )]
    Version {
        /// The other node.
        node: NodeId,
        /// Its oldest version.
        min: u16,
        /// Its newest version.
        max: u16,
        /// The oldest version of this node.
        oldest: u16,
        /// The newest version of this node.
        newest: u16,
    },
    /// This node has no means to trust anybody.
    #[error(
        "node {reached} has no cluster.secret and does not listen on loopback: peers cannot prove themselves to it"
    )]
    NoTrust {
        /// The node without means.
        reached: NodeId,
    },
    /// The proof is wrong or missing, or there is one where no secret is set.
    #[error("node {node} does not prove cluster.secret of node {local}: the two are not equal, or one has none")]
    Unproven {
        /// Who does not prove itself.
        node: NodeId,
        /// To whom.
        local: NodeId,
    },
    /// The two belong to different clusters.
    #[error("node {node} belongs to cluster {theirs:016x}, node {local} to cluster {ours:016x} (0: to none yet)")]
    Cluster {
        /// The other node.
        node: NodeId,
        /// Its cluster.
        theirs: u64,
        /// This node.
        local: NodeId,
        /// Its cluster.
        ours: u64,
    },
    /// This node reached itself.
    #[error("the address is that of this node")]
    OwnAddress,
    /// Another node has this node's id.
    #[error("node id {node} is used twice: by incarnations {theirs:016x} and {ours:016x}")]
    SameId {
        /// The id.
        node: NodeId,
        /// The other's incarnation.
        theirs: u64,
        /// This node's incarnation.
        ours: u64,
    },
    /// Another node than the one looked for was reached.
    #[error("node {found} answers where node {expected} is expected")]
    OtherNode {
        /// Who answers.
        found: NodeId,
        /// Who was looked for.
        expected: NodeId,
    },
}

/// Connects to `address` and opens a connection for `purpose`.
pub async fn connect(
    address: &str,
    local: &LocalPeer,
    purpose: PeerPurpose,
    expected: Option<NodeId>,
) -> Result<(FrameSocket, PeerIdentity), PeerRefusal> {
    let failed = |source| PeerRefusal::Connect { address: address.to_owned(), source };
    let stream = within(OPENING_TIMEOUT, async { TcpStream::connect(address).await.map_err(failed) }).await?;
    local.configure(&stream, purpose).map_err(failed)?;
    let stream = match &local.tls {
        None => stream,
        Some(tls) => {
            let refused = |source| PeerRefusal::Tls { address: address.to_owned(), source };
            within(OPENING_TIMEOUT, async { tls.connect(address, stream).await.map_err(refused) }).await?
        }
    };
    within(OPENING_TIMEOUT, open(FrameSocket::new(stream, Default::default()), local, purpose, expected)).await
}

async fn within<T>(timeout: Duration, work: impl Future<Output = Result<T, PeerRefusal>>) -> Result<T, PeerRefusal> {
    let late = |_| PeerRefusal::TimedOut { timeout_ms: timeout.as_millis() };
    actix_rt::time::timeout(timeout, work).await.map_err(late)?
}

async fn open(
    mut socket: FrameSocket,
    local: &LocalPeer,
    purpose: PeerPurpose,
    expected: Option<NodeId>,
) -> Result<(FrameSocket, PeerIdentity), PeerRefusal> {
    if matches!(local.trust, PeerTrust::Nothing) {
        return Err(PeerRefusal::NoTrust { reached: local.identity.node });
    }
    let hello = local.hello(purpose, rand::random());
    socket.send(&PeerFrame::Hello(hello.clone())).await?;
    let response = match socket.receive(PeerStage::Opening).await? {
        PeerFrame::HelloResponse(response) => response,
        other => return Err(unexpected(&other, PeerCommand::HelloResponse)),
    };
    if let Err(refusal) = check_response(&hello, &response, local, expected) {
        return Err(say(&mut socket, refusal).await);
    }
    let proof = local.trust.prove(ProofSide::Opener, &hello, &response);
    socket.send(&PeerFrame::Proof(PeerProof { proof })).await?;
    match socket.receive(PeerStage::Opening).await? {
        PeerFrame::Welcome => {
            socket.set_version(response.version);
            local.versions.note(response.identity, response.version);
            Ok((socket, response.identity))
        }
        other => Err(unexpected(&other, PeerCommand::Welcome)),
    }
}

fn check_response(
    hello: &PeerHello,
    response: &PeerHelloResponse,
    local: &LocalPeer,
    expected: Option<NodeId>,
) -> Result<(), PeerRefusal> {
    let node = response.identity.node;
    if !(hello.min_version..=hello.max_version).contains(&response.version) {
        return Err(refused(node, (response.version, response.version), local));
    }
    if !local.trust.accepts(ProofSide::Reached, hello, response, response.proof) {
        return Err(PeerRefusal::Unproven { node, local: local.identity.node });
    }
    check_identity(response.identity, local, hello.purpose)?;
    match expected {
        Some(expected) if expected != node => Err(PeerRefusal::OtherNode { found: node, expected }),
        _ if matches!(hello.purpose, PeerPurpose::Link(_)) => {
            check_cluster(node, response.cluster_id, local, hello.cluster_id)
        }
        _ => Ok(()),
    }
}

/// While a cluster forms, equal ids are for formation to name; afterwards nobody talks to a node of the own id.
fn check_identity(theirs: PeerIdentity, local: &LocalPeer, purpose: PeerPurpose) -> Result<(), PeerRefusal> {
    let ours = local.identity;
    if theirs.incarnation == ours.incarnation {
        return Err(PeerRefusal::OwnAddress);
    }
    if theirs.node == ours.node && purpose != PeerPurpose::Formation {
        let (theirs, ours) = (theirs.incarnation, ours.incarnation);
        return Err(PeerRefusal::SameId { node: local.identity.node, theirs, ours });
    }
    Ok(())
}

fn check_cluster(node: NodeId, theirs: u64, local: &LocalPeer, ours: u64) -> Result<(), PeerRefusal> {
    match theirs == ours && ours != 0 {
        true => Ok(()),
        false => Err(PeerRefusal::Cluster { node, theirs, local: local.identity.node, ours }),
    }
}

/// Answers somebody who begins with a PeerHello; the last word, PeerWelcome or a refusal, is the caller's.
pub async fn answer(socket: &mut FrameSocket, local: &LocalPeer) -> Result<PeerHello, PeerRefusal> {
    let answered = within(OPENING_TIMEOUT, answer_unbounded(socket, local)).await;
    match answered {
        Ok(hello) => Ok(hello),
        Err(refusal) => Err(say(socket, refusal).await),
    }
}

async fn answer_unbounded(socket: &mut FrameSocket, local: &LocalPeer) -> Result<PeerHello, PeerRefusal> {
    let hello = match socket.receive(PeerStage::Opening).await? {
        PeerFrame::Hello(hello) => hello,
        other => return Err(unexpected(&other, PeerCommand::Hello)),
    };
    let node = hello.identity.node;
    // The newest that both speak.
    let version = hello.max_version.min(local.versions.newest());
    if version < hello.min_version.max(local.versions.oldest()) {
        return Err(refused(node, (hello.min_version, hello.max_version), local));
    }
    if matches!(local.trust, PeerTrust::Nothing) {
        return Err(PeerRefusal::NoTrust { reached: local.identity.node });
    }
    let cluster_id = local.cluster_id();
    let mut response =
        PeerHelloResponse { version, cluster_id, identity: local.identity, nonce: rand::random(), proof: None };
    response.proof = local.trust.prove(ProofSide::Reached, &hello, &response);
    socket.send(&PeerFrame::HelloResponse(response.clone())).await?;
    let proof = match socket.receive(PeerStage::Opening).await? {
        PeerFrame::Proof(PeerProof { proof }) => proof,
        other => return Err(unexpected(&other, PeerCommand::Proof)),
    };
    if !local.trust.accepts(ProofSide::Opener, &hello, &response, proof) {
        return Err(PeerRefusal::Unproven { node, local: local.identity.node });
    }
    check_identity(hello.identity, local, hello.purpose)?;
    if matches!(hello.purpose, PeerPurpose::Link(_)) {
        check_cluster(node, hello.cluster_id, local, cluster_id)?;
    }
    local.versions.note(hello.identity, version);
    Ok(hello)
}

fn refused(node: NodeId, (min, max): (u16, u16), local: &LocalPeer) -> PeerRefusal {
    let (oldest, newest) = (local.versions.oldest(), local.versions.newest());
    PeerRefusal::Version { node, min, max, oldest, newest }
}

fn unexpected(found: &PeerFrame, expected: PeerCommand) -> PeerRefusal {
    PeerRefusal::Unexpected { found: found.command(), expected }
}

/// Tells the other side why, unless it was the one who said it or is gone.
async fn say(socket: &mut FrameSocket, refusal: PeerRefusal) -> PeerRefusal {
    if !matches!(refusal, PeerRefusal::Said(_) | PeerRefusal::Closed | PeerRefusal::Socket { .. }) {
        let frame = PeerFrame::Refused(refusal.to_string());
        // Whoever does not even take this sentence gets none.
        let _ = actix_rt::time::timeout(OPENING_TIMEOUT, socket.send(&frame)).await;
    }
    refusal
}
