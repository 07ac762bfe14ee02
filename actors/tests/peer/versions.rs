//! Nodes of two versions of the peer protocol: they agree on the older one.

use super::support::{FakeNode, SECRET, append, listen, local_peer, secret};
use super::{NodeId, run};
use lance_actors::peer::proof::ProofSide;
use lance_actors::peer::socket::FrameSocket;
use lance_actors::peer::{LocalPeer, MAX_QUEUED_DATA_BYTES};
use lance_messages::mail::peer::SendToFollower;
use lance_messages::peer::{AppendRequest, LinkKind, ReplicaRequest, TracedBatch};
use lance_messages::wire::TraceContext;
use lance_messages::wire::peer::{PEER_VERSION, PeerFrame, PeerHelloResponse, PeerStage, TRACED_VERSION};
use tokio::net::TcpListener;

/// Takes one link as a node that speaks nothing newer than `version`; the first append on it.
async fn first_append(listener: TcpListener, local: &LocalPeer, version: u16) -> AppendRequest {
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = FrameSocket::new(stream, Default::default());
    let PeerFrame::Hello(hello) = socket.receive(PeerStage::Opening).await.unwrap() else { panic!("no hello") };
    assert!((hello.min_version..=hello.max_version).contains(&version), "{hello:?}");
    let (identity, cluster_id) = (local.identity, local.cluster_id());
    let mut response = PeerHelloResponse { version, cluster_id, identity, nonce: [7; 32], proof: None };
    response.proof = local.trust.prove(ProofSide::Reached, &hello, &response);
    socket.send(&PeerFrame::HelloResponse(response)).await.unwrap();
    assert!(matches!(socket.receive(PeerStage::Opening).await.unwrap(), PeerFrame::Proof(_)));
    socket.send(&PeerFrame::Welcome).await.unwrap();
    match socket.receive(PeerStage::Open).await.unwrap() {
        PeerFrame::Append(append) => append,
        other => panic!("{:?}", other.command()),
    }
}

#[test]
fn batches_are_named_as_traced_only_to_nodes_that_understand_it() {
    run(async {
        for (version, is_named) in [(TRACED_VERSION - 1, false), (PEER_VERSION, true)] {
            let mut leader = FakeNode::start(1, 1, secret(SECRET)).await;
            let listener = listen();
            let address = listener.local_addr().unwrap();
            let local = local_peer(2, 5, super::support::CLUSTER, address, secret(SECRET));
            let listener = TcpListener::from_std(listener).unwrap();
            let follower = actix_rt::spawn(async move { first_append(listener, &local, version).await });
            let link = leader.link_to(NodeId(2), address, LinkKind::Data, MAX_QUEUED_DATA_BYTES).await;
            leader.hears_of_link().await;
            let ReplicaRequest::Append(mut request) = append(0, 100) else { panic!("an append") };
            let context = TraceContext { trace_id: [1; 16], span_id: [2; 8], flags: TraceContext::SAMPLED };
            request.traced.push(TracedBatch { index: 0, context });
            link.try_send(SendToFollower { requests: vec![ReplicaRequest::Append(request.clone())] }).unwrap();
            let received = follower.await.unwrap();
            assert_eq!(received.batches, request.batches, "version {version}");
            assert_eq!(received.traced, if is_named { request.traced } else { Vec::new() }, "version {version}");
        }
    });
}
