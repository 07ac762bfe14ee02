//! Nodes that form a cluster over real sockets and real files.

use super::run;
use super::support::{PATIENCE, SECRET, accept_for, listen, policy, secret, start_acceptor};
use lance_actors::clock::NodeClock;
use lance_actors::mailbox::Mailbox;
use lance_actors::node::Starter;
use lance_actors::peer::formation::FormationActor;
use lance_actors::peer::{
    FormationParts, Formed, Inlet, LocalPeer, PeerAcceptorSetup, PeerTrust, SocketOptions, form_cluster,
};
use lance_actors::supervision::NodeSupervisor;
use lance_actors::supervision::node_supervisor::PanicActor;
use lance_actors::threads::Thread;
use lance_messages::id::NodeId;
use lance_messages::peer::PeerIdentity;
use lance_storage::checkpoint::DataDir;
use lance_storage::disk::{BackendChoice, Disk, DiskOptions, open_disk};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What keeps a formed node answering.
struct Running {
    formed: Formed,
    data_dir: DataDir,
    _actor: Mailbox<FormationActor>,
}

fn addresses(listeners: &[TcpListener]) -> Vec<String> {
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

/// Forms the cluster of one node, and afterwards goes on accepting peers.
async fn form(
    node: u16,
    folder: PathBuf,
    listener: TcpListener,
    listed: Vec<String>,
    trust: PeerTrust,
    problems: mpsc::UnboundedSender<String>,
) -> Running {
    form_failing(node, folder, listener, listed, trust, problems, false).await
}

/// The same; the formation may fail as soon as it is asked for something it waits for.
async fn form_failing(
    node: u16,
    folder: PathBuf,
    listener: TcpListener,
    listed: Vec<String>,
    trust: PeerTrust,
    problems: mpsc::UnboundedSender<String>,
    fails: bool,
) -> Running {
    let disk: Arc<dyn Disk> = open_disk(DiskOptions { backend: BackendChoice::Blocking, o_direct: false }).unwrap();
    let mut data_dir = DataDir::open(&disk, &folder, NodeId(node), 0x100 + u64::from(node)).unwrap();
    let record = *data_dir.record();
    let identity =
        PeerIdentity { node: NodeId(node), incarnation: record.incarnation, boot_number: record.boot_number };
    let address = listener.local_addr().unwrap().to_string();
    let local = Arc::new(LocalPeer::new(identity, address, record.cluster_id, trust, SocketOptions::default()));
    let supervisor = NodeSupervisor::start(policy(), |escalated| panic!("{}", escalated.reason));
    let starter = Starter::new(supervisor.clone(), policy());
    let mut failing = fails.then(|| supervisor.clone());
    let thread = Thread::start("links", &[]).unwrap();
    let setup = PeerAcceptorSetup {
        local: Arc::clone(&local),
        data_threads: Vec::new(),
        clock: NodeClock::start(),
        supervisor,
    };
    let acceptor = start_acceptor(&starter, &thread.handle(), setup).await;
    let parts = FormationParts {
        starter: &starter,
        thread: &thread.handle(),
        disk: &disk,
        data_dir: &mut data_dir,
        local: &local,
        listed,
        listener: &listener,
        acceptor: &acceptor,
    };
    let (formed, actor) = form_cluster(parts, |problem| {
        if let Some(supervisor) = failing.take() {
            let panic = PanicActor { name: "formation".to_owned() };
            actix_rt::spawn(async move { assert!(supervisor.send(panic).await.unwrap()) });
        }
        // Not every test listens.
        let _ = problems.send(problem);
    })
    .await
    .unwrap();
    accept_for(listener, Inlet::of(&acceptor));
    Running { formed, data_dir, _actor: actor }
}

fn nobody() -> mpsc::UnboundedSender<String> {
    mpsc::unbounded_channel().0
}

#[test]
fn three_nodes_form_one_cluster_keep_it_and_a_fourth_joins_it() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let dir = |node: u16| folder.path().join(node.to_string());
        let listeners = [listen(), listen(), listen()];
        let listed = addresses(&listeners);
        let [first, second, third] = listeners;
        let (one, two, three) = tokio::join!(
            form(1, dir(1), first, listed.clone(), secret(SECRET), nobody()),
            form(2, dir(2), second, listed.clone(), secret(SECRET), nobody()),
            form(3, dir(3), third, listed.clone(), secret(SECRET), nobody()),
        );
        assert_eq!(one.formed, two.formed);
        assert_eq!(one.formed, three.formed);
        let genesis = one.formed.genesis.clone().unwrap();
        assert!(one.formed.is_voter && one.formed.cluster_id == genesis.cluster_id);
        let voters: Vec<_> = genesis.voters.iter().map(|voter| (voter.node.0, voter.address.clone())).collect();
        assert_eq!(voters, [(1, listed[0].clone()), (2, listed[1].clone()), (3, listed[2].clone())]);
        assert_eq!(one.data_dir.record().cluster_id, genesis.cluster_id);

        let fourth = form(4, dir(4), listen(), listed.clone(), secret(SECRET), nobody()).await;
        assert_eq!((fourth.formed.is_voter, fourth.formed.genesis.as_ref()), (false, Some(&genesis)));
        assert_eq!(fourth.data_dir.record().cluster_id, genesis.cluster_id);

        drop(two);
        let again = form(2, dir(2), listen(), listed, secret(SECRET), nobody()).await;
        assert_eq!(again.formed.genesis, Some(genesis));
    });
}

#[test]
fn a_formation_that_fails_begins_anew() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let listeners = [listen(), listen()];
        let listed = addresses(&listeners);
        let [first, second] = listeners;
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        let (one, two) = tokio::join!(
            form_failing(1, one, first, listed.clone(), secret(SECRET), nobody(), true),
            form_failing(2, two, second, listed.clone(), secret(SECRET), nobody(), true),
        );
        assert_eq!(one.formed, two.formed);
    });
}

#[test]
fn a_node_alone_forms_its_cluster_at_once_and_keeps_it() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let alone = form(9, folder.path().to_owned(), listen(), Vec::new(), PeerTrust::Nothing, nobody()).await;
        let formed = alone.formed.clone();
        assert_eq!(formed.genesis.as_ref().map(|genesis| genesis.voters.len()), Some(1));
        drop(alone);
        let again = form(9, folder.path().to_owned(), listen(), Vec::new(), PeerTrust::Nothing, nobody()).await;
        assert_eq!(again.formed, formed);
    });
}

#[test]
fn a_node_with_another_secret_keeps_the_cluster_from_forming_and_is_named() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let listeners = [listen(), listen()];
        let listed = addresses(&listeners);
        let [first, second] = listeners;
        let (say, mut problems) = mpsc::unbounded_channel();
        let dir = |node: u16| folder.path().join(node.to_string());
        let (one, two) = (dir(1), dir(2));
        let forming = async {
            tokio::join!(
                form(1, one, first, listed.clone(), secret(SECRET), say),
                form(2, two, second, listed.clone(), secret("another secret...."), nobody()),
            );
        };
        let named = async {
            loop {
                let problem = tokio::time::timeout(PATIENCE, problems.recv()).await.unwrap().unwrap();
                if problem.contains("node 2 does not prove cluster.secret") && problem.contains(&listed[1]) {
                    return;
                }
            }
        };
        tokio::select! {
            () = forming => panic!("a cluster with two secrets"),
            () = named => {}
        }
    });
}

#[test]
fn two_nodes_of_one_id_are_both_named() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let listeners = [listen(), listen()];
        let listed = addresses(&listeners);
        let [first, second] = listeners;
        let (say, mut problems) = mpsc::unbounded_channel();
        let (one, two) = (folder.path().join("a"), folder.path().join("b"));
        let disk: Arc<dyn Disk> = open_disk(DiskOptions { backend: BackendChoice::Blocking, o_direct: false }).unwrap();
        drop(DataDir::open(&disk, &two, NodeId(1), 0x999).unwrap());
        let forming = async {
            tokio::join!(
                form(1, one, first, listed.clone(), secret(SECRET), say),
                form(1, two, second, listed.clone(), secret(SECRET), nobody()),
            );
        };
        let named = async {
            loop {
                let problem = tokio::time::timeout(PATIENCE, problems.recv()).await.unwrap().unwrap();
                if problem.contains("node id 1 is used twice") && listed.iter().all(|at| problem.contains(at)) {
                    return;
                }
            }
        };
        tokio::select! {
            () = forming => panic!("a cluster of two nodes with one id"),
            () = named => {}
        }
    });
}
