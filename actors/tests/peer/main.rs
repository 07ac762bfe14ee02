//! Connections between nodes over real sockets: who is let in, what arrives, what happens when a link drops.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

mod door;
mod forming;
mod support;
mod versions;

use actix::prelude::*;
use bytes::Bytes;
use lance_actors::peer::{
    MAX_QUEUED_CONTROL_BYTES, MAX_QUEUED_DATA_BYTES, PeerRefusal, PeerTrust, StopLink, handshake,
};
use lance_actors::supervision::InjectPanic;
use lance_actors::supervision::node_supervisor::{ActorNode, DescribeTree, PanicActor};
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation};
use lance_messages::mail::peer::{SendControl, SendToFollower, SendToLeader};
use lance_messages::peer::{AppendOutcome, AppendResponse, LinkKind};
use lance_messages::wire::peer::PeerPurpose;
use support::{FakeNode, Heard, PATIENCE, SECRET, append, local_peer, partition, secret};

const DATA: PeerPurpose = PeerPurpose::Link(LinkKind::Data);

fn answer(shard: u16, durable_end: u64) -> AppendResponse {
    AppendResponse {
        partition: partition(shard),
        epoch: LeaderEpoch(1),
        incarnation: ReplicaIncarnation { node: 0x102, copy_version: 0, damage_count: 0 },
        outcome: AppendOutcome::Appended { durable_end, sync_p99_micros: 3 },
    }
}

fn run(test: impl Future<Output = ()>) {
    System::new().block_on(async {
        tokio::time::timeout(PATIENCE * 2, test).await.expect("the test hangs");
    });
}

#[test]
fn nodes_prove_themselves_and_exchange_appends_answers_and_control() {
    run(async {
        let mut leader = FakeNode::start(1, 1, secret(SECRET)).await;
        let mut follower = FakeNode::start(2, 5, secret(SECRET)).await;
        let data = leader.link(&follower, LinkKind::Data, MAX_QUEUED_DATA_BYTES).await;
        let up = leader.hears_of_link().await;
        assert_eq!((up.node, up.kind, up.peer), (NodeId(2), LinkKind::Data, Some(follower.local.identity)));

        let mut answers = Vec::new();
        for _ in 0..2 {
            let (shard, session, to) = follower
                .hears(|heard| match heard {
                    Heard::Registered(shard, session, to) => Ok((shard, session, to)),
                    other => Err(other),
                })
                .await;
            answers.push((shard, session, to));
        }
        let requests = vec![append(1, 1000), append(0, 10), append(1, 0)];
        data.try_send(SendToFollower { requests: requests.clone() }).unwrap();
        for _ in 0..2 {
            let (shard, append) = follower
                .hears(|heard| match heard {
                    Heard::Append(shard, append) => Ok((shard, append)),
                    other => Err(other),
                })
                .await;
            assert_eq!((append.from, append.session), (leader.local.identity, answers[0].1));
            let expected: Vec<_> = requests
                .iter()
                .filter(|request| usize::from(request.partition().partition) == shard)
                .cloned()
                .collect();
            assert_eq!(append.requests, expected);
        }
        answers[1].2.try_send(SendToLeader { responses: vec![answer(1, 5), answer(0, 6)] }).unwrap();
        for _ in 0..2 {
            let (shard, answered) = leader
                .hears(|heard| match heard {
                    Heard::Answered(shard, answered) => Ok((shard, answered)),
                    other => Err(other),
                })
                .await;
            assert_eq!(answered.from, follower.local.identity);
            assert_eq!(answered.responses, [answer(shard as u16, 6 - shard as u64)]);
        }

        let control = leader.link(&follower, LinkKind::Control, MAX_QUEUED_CONTROL_BYTES).await;
        leader.hears_of_link().await;
        control.try_send(SendControl(Bytes::from_static(b"vote"))).unwrap();
        let received = follower
            .hears(|heard| match heard {
                Heard::Control(received) => Ok(received),
                other => Err(other),
            })
            .await;
        assert_eq!((received.from, &received.body[..]), (leader.local.identity, &b"vote"[..]));
    });
}

fn names(node: &ActorNode, found: &mut Vec<String>) {
    found.push(format!("{} {}", node.kind.as_str(), node.name));
    node.children.iter().for_each(|child| names(child, found));
}

#[test]
fn links_and_sessions_are_in_the_tree_until_they_end() {
    run(async {
        let mut leader = FakeNode::start(1, 1, secret(SECRET)).await;
        let follower = FakeNode::start(2, 1, secret(SECRET)).await;
        let link = leader.link(&follower, LinkKind::Control, MAX_QUEUED_CONTROL_BYTES).await;
        leader.hears_of_link().await;
        eventually_in_tree(&follower, "session session-1-control-1", true).await;
        eventually_in_tree(&leader, "link link-2-control", true).await;
        link.send(StopLink).await.unwrap();
        assert_eq!(leader.hears_of_link().await.peer, None);
        eventually_in_tree(&leader, "link link-2-control", false).await;
        eventually_in_tree(&follower, "session session-1-control-1", false).await;
    });
}

async fn eventually_in_tree(node: &FakeNode, wanted: &str, there: bool) {
    loop {
        let tree = node.supervisor.send(DescribeTree).await.unwrap();
        let mut found = Vec::new();
        names(&tree, &mut found);
        if found.iter().any(|name| name == wanted) == there {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[test]
fn who_does_not_know_the_secret_is_refused_and_named() {
    run(async {
        let node = FakeNode::start(1, 1, secret(SECRET)).await;
        let address = node.address.to_string();
        let refused = async |trust: PeerTrust| {
            let stranger = local_peer(2, 1, support::CLUSTER, node.address, trust);
            handshake::connect(&address, &stranger, DATA, Some(NodeId(1))).await.unwrap_err()
        };
        let wrong = refused(secret("another secret....")).await;
        assert!(matches!(wrong, PeerRefusal::Unproven { node: NodeId(1), local: NodeId(2) }), "{wrong}");
        assert!(wrong.to_string().contains("cluster.secret"), "{wrong}");
        let none = refused(PeerTrust::SameMachine).await;
        assert!(matches!(none, PeerRefusal::Unproven { .. }), "{none}");
        let nothing = refused(PeerTrust::Nothing).await;
        assert!(matches!(nothing, PeerRefusal::NoTrust { reached: NodeId(2) }), "{nothing}");
    });
}

#[test]
fn a_node_without_means_to_trust_says_so_to_who_connects() {
    run(async {
        let node = FakeNode::start(1, 1, PeerTrust::Nothing).await;
        let peer = local_peer(2, 1, support::CLUSTER, node.address, secret(SECRET));
        let refused = handshake::connect(&node.address.to_string(), &peer, DATA, None).await.unwrap_err();
        let PeerRefusal::Said(text) = refused else { panic!("{refused}") };
        assert!(text.contains("node 1 has no cluster.secret"), "{text}");
    });
}

#[test]
fn other_clusters_other_nodes_and_the_node_itself_are_refused() {
    run(async {
        let node = FakeNode::start(1, 1, secret(SECRET)).await;
        let address = node.address.to_string();
        let connect = async |id: u16, cluster: u64, expected: u16| {
            let peer = local_peer(id, 1, cluster, node.address, secret(SECRET));
            handshake::connect(&address, &peer, DATA, Some(NodeId(expected))).await.map(drop)
        };
        let foreign = connect(2, 0xBAD, 1).await.unwrap_err();
        assert!(matches!(foreign, PeerRefusal::Cluster { theirs: support::CLUSTER, ours: 0xBAD, .. }), "{foreign}");
        assert!(matches!(connect(2, 0, 1).await, Err(PeerRefusal::Cluster { .. })), "before genesis");
        assert!(matches!(connect(2, support::CLUSTER, 3).await, Err(PeerRefusal::OtherNode { .. })));
        assert!(matches!(connect(1, support::CLUSTER, 1).await, Err(PeerRefusal::OwnAddress)));
        connect(2, support::CLUSTER, 1).await.unwrap();
    });
}

#[test]
fn an_older_start_of_a_node_is_refused() {
    run(async {
        let node = FakeNode::start(1, 1, secret(SECRET)).await;
        let address = node.address.to_string();
        let start = |number| local_peer(2, number, support::CLUSTER, node.address, secret(SECRET));
        let _newer = handshake::connect(&address, &start(7), DATA, None).await.unwrap();
        let refused = handshake::connect(&address, &start(6), DATA, None).await.unwrap_err();
        assert!(matches!(&refused, PeerRefusal::Said(text) if text.contains("started 7 times")), "{refused}");
    });
}

#[test]
fn a_link_that_is_replaced_drops_and_comes_back() {
    run(async {
        let mut leader = FakeNode::start(1, 1, secret(SECRET)).await;
        let mut follower = FakeNode::start(2, 1, secret(SECRET)).await;
        let data = leader.link(&follower, LinkKind::Data, MAX_QUEUED_DATA_BYTES).await;
        assert!(leader.hears_of_link().await.peer.is_some());
        let usurper = handshake::connect(&follower.address.to_string(), &leader.local, DATA, None).await.unwrap();
        assert_eq!(leader.hears_of_link().await.peer, None);
        assert!(leader.hears_of_link().await.peer.is_some(), "the link takes its place back");
        drop(usurper);
        data.try_send(SendToFollower { requests: vec![append(0, 5)] }).unwrap();
        let mut sessions = Vec::new();
        loop {
            match tokio::time::timeout(PATIENCE, follower.heard.recv()).await.unwrap().unwrap() {
                Heard::Append(_, append) => break assert_eq!(sessions.last(), Some(&append.session)),
                Heard::Registered(_, session, _) => sessions.push(session),
                // Each session ends on both shards.
                Heard::Unregistered(gone) => assert!(gone < 3, "session {gone}"),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn links_and_sessions_survive_a_panic_of_each_other() {
    run(async {
        let mut leader = FakeNode::start(1, 1, secret(SECRET)).await;
        let follower = FakeNode::start(2, 1, secret(SECRET)).await;
        let data = leader.link(&follower, LinkKind::Data, MAX_QUEUED_DATA_BYTES).await;
        assert!(leader.hears_of_link().await.peer.is_some());
        data.addr().send(InjectPanic).await.unwrap();
        assert_eq!(leader.hears_of_link().await.peer, None);
        assert!(leader.hears_of_link().await.peer.is_some());
        eventually_in_tree(&follower, "session session-1-data-2", true).await;
        let session = PanicActor { name: "session-1-data-2".to_owned() };
        assert!(follower.supervisor.send(session).await.unwrap());
        assert_eq!(leader.hears_of_link().await.peer, None);
        assert!(leader.hears_of_link().await.peer.is_some());
        assert_eq!(data.vitals().restarts(), 1, "only the panic of the link itself restarts it");
    });
}

#[test]
fn a_peer_that_takes_nothing_costs_no_more_than_the_queue_may_hold() {
    run(async {
        let mut leader = FakeNode::start(1, 1, secret(SECRET)).await;
        let mut follower = FakeNode::start(2, 1, secret(SECRET)).await;
        let data = leader.link(&follower, LinkKind::Data, 4 * 1024 * 1024).await;
        assert!(leader.hears_of_link().await.peer.is_some());
        for _ in 0..2 {
            follower.hears(|heard| if let Heard::Registered(..) = heard { Ok(()) } else { Err(heard) }).await;
        }
        follower.block(0).await;
        let mut sent = 0;
        let closed = loop {
            // Far more than sockets (a receive buffer may grow to 32 MiB and more) and mailboxes hold together.
            assert!(sent < 512, "{sent} MiB are gone nobody knows where");
            data.send(SendToFollower { requests: vec![append(0, 1024 * 1024)] }).await.unwrap();
            sent += 1;
            if let Ok(heard) = leader.heard.try_recv() {
                break heard;
            }
        };
        assert!(matches!(closed, Heard::Changed(changed) if changed.peer.is_none()), "{closed:?}");
        assert!(leader.hears_of_link().await.peer.is_some(), "the flow begins anew");
    });
}

#[test]
fn control_messages_beyond_the_queue_are_dropped_and_the_link_stays() {
    run(async {
        let mut leader = FakeNode::start(1, 1, secret(SECRET)).await;
        let mut follower = FakeNode::start(2, 1, secret(SECRET)).await;
        let control = leader.link(&follower, LinkKind::Control, 64 * 1024).await;
        assert!(leader.hears_of_link().await.peer.is_some());
        for number in 0..40u8 {
            control.send(SendControl(Bytes::from(vec![number; 1024 * 1024]))).await.unwrap();
        }
        let first = follower.hears(|heard| if let Heard::Control(it) = heard { Ok(it.body) } else { Err(heard) }).await;
        assert_eq!((first[0], first.len()), (0, 1024 * 1024), "the first goes out whatever its size");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert!(leader.heard.try_recv().is_err(), "the link stays");
    });
}
