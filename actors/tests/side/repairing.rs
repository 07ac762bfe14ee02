//! Damaged replicas: what the replication actor does about them, on a disk that fails.

use crate::support::{Rig, eventually, with_node};
use actix::{Addr, Supervisor};
use arc_swap::ArcSwap;
use lance_actors::clock::NodeClock;
use lance_actors::metrics::Metrics;
use lance_actors::replication::actor::{
    CountUnsettled, REPLICATION_MAILBOX, ReplicaNews, ReplicationActor, ReplicationSetup,
};
use lance_actors::replication::promises::{self, PROMISES_VERSION};
use lance_actors::supervision::{ActorKind, RestartPolicy, Vitals};
use lance_actors::view::{ClusterView, PartitionMembers, TopicView};
use lance_cluster::metadata::TopicConfig;
use lance_cluster::replica::EvictionOptions;
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use lance_messages::mail::replication::EpochsWanted;
use lance_storage::checkpoint::Checkpoint;
use lance_storage::disk::memory::{Fault, FaultKind, MemoryConfig, MemoryDisk};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Nobody else holds it here: what the shards are told of it concerns no log.
const PARTITION: TopicPartition = TopicPartition::new(TopicId(77), 0);
const PROMISES: &str = "/data/promises";

/// A replication actor of its own, beside the one of a node.
struct Replication {
    addr: Addr<ReplicationActor>,
    memory: MemoryDisk,
    vitals: Arc<Vitals>,
    view: Arc<ArcSwap<ClusterView>>,
    metrics: Arc<Metrics>,
}

impl Replication {
    fn start(rig: &Rig) -> Self {
        let memory = MemoryDisk::new(MemoryConfig::default());
        memory.as_disk().create_dir_all(Path::new("/data")).unwrap();
        let vitals = Vitals::new("replication of a test", ActorKind::Replication, REPLICATION_MAILBOX);
        let (view, metrics) = (Arc::new(ArcSwap::from_pointee(ClusterView::default())), Arc::<Metrics>::default());
        let setup = ReplicationSetup {
            disk: memory.as_disk(),
            promises: PathBuf::from(PROMISES),
            incarnation: 7,
            boot_number: 1,
            metadata: rig.node.metadata.clone(),
            shards: rig.node.shards.clone(),
            view: Arc::clone(&view),
            eviction: EvictionOptions::default(),
            eviction_window: Duration::from_secs(1),
            clock: NodeClock::start(),
            metrics: Arc::clone(&metrics),
            cluster_id: 1,
        };
        let (own, parent) = (Arc::clone(&vitals), rig.node.supervisor.clone().recipient());
        let addr = Supervisor::start(move |_| ReplicationActor::new(own, RestartPolicy::default(), parent, setup));
        Self { addr, memory, vitals, view, metrics }
    }

    /// Shows a partition of three copies that node 2 leads and node 1 holds, and of which these count.
    fn show(&self, counting: &[u16]) {
        let nodes = |ids: &[u16]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let members =
            PartitionMembers { replicas: nodes(&[1, 2, 3]), in_quorum: nodes(counting), ..PartitionMembers::default() };
        let mut view = ClusterView::default();
        view.node = Some(NodeId(1));
        view.insert(TopicView {
            id: PARTITION.topic,
            name: "events".to_owned(),
            created_at: 0,
            topic_epoch: 1,
            config: TopicConfig::default(),
            partitions: vec![(Some(NodeId(2)), LeaderEpoch(3))],
            members: vec![members],
        });
        self.view.store(Arc::new(view));
    }

    fn show_nothing(&self) {
        self.view.store(Arc::default());
    }

    async fn open_log(&self) {
        self.addr.send(EpochsWanted { partitions: vec![(PARTITION, 3, 0)] }).await.unwrap();
    }

    /// How many open logs it knows that nobody leads.
    async fn unsettled(&self) -> usize {
        self.addr.send(CountUnsettled).await.unwrap()
    }

    /// How often the replica was damaged, as its disk tells.
    fn damage_count(&self) -> u32 {
        let file = Checkpoint::new(&self.memory.as_disk(), PathBuf::from(PROMISES), PROMISES_VERSION);
        let records = promises::decode(&file.read().unwrap().unwrap_or_default()).unwrap();
        let record = records.iter().find(|record| record.partition == PARTITION);
        record.map_or(0, |record| record.damage_count)
    }
}

#[test]
fn a_damaged_replica_whose_new_life_cannot_be_made_durable_goes_on_and_is_cut_later() {
    with_node(
        |_| (),
        async |rig| {
            let replication = Replication::start(&rig);
            replication.open_log().await;
            assert_eq!(replication.unsettled().await, 1);
            replication.show(&[1, 2, 3]);
            replication.memory.inject(Fault::any(FaultKind::Errno(libc::EIO)).on("promises"));
            replication.addr.send(ReplicaNews::Damaged(PARTITION, 300)).await.unwrap();
            eventually("it restarts", async || replication.vitals.restarts() == 1).await;
            replication.show_nothing();
            assert_eq!(replication.unsettled().await, 1, "the log is open as before, and can promise");
            assert_eq!(replication.damage_count(), 0);
            replication.show(&[1, 2, 3]);
            eventually("it is cut after all", async || replication.damage_count() == 1).await;
            replication.show_nothing();
            eventually("its log is closed", async || replication.unsettled().await == 0).await;
        },
    );
}

#[test]
fn a_damaged_replica_is_cut_once_the_metadata_shows_enough_others() {
    with_node(
        |_| (),
        async |rig| {
            let replication = Replication::start(&rig);
            replication.show(&[1, 2]);
            replication.open_log().await;
            replication.addr.send(ReplicaNews::DamageFound(PARTITION, 300)).await.unwrap();
            let waiting = || replication.metrics.damaged_replicas_waiting.get();
            assert_eq!((waiting(), replication.damage_count()), (1, 0));
            replication.show(&[1, 2, 3]);
            eventually("it is cut", async || replication.damage_count() == 1).await;
            eventually("nothing waits", async || waiting() == 0).await;
        },
    );
}
