//! The ingestion core of a leader whose follower was cut for damage.
#![allow(clippy::unwrap_used, reason = "a test throughout")]

use lance_actors::ingestion::core::{IngestionCore, IngestionEffect, IngestionOptions, Now};
use lance_actors::ingestion::replica::LeaderRole;
use lance_cluster::metadata::ReplicationMode;
use lance_cluster::replica::{FlowOptions, Vote};
use lance_messages::id::{LeaderEpoch, NodeId, ReplicaIncarnation, TopicId, TopicPartition};
use lance_messages::peer::{AppendOutcome, AppendResponse, PeerIdentity};
use lance_storage::disk::memory::{MemoryConfig, MemoryDisk};
use lance_storage::disk::{Arena, DiskCompletion, QueueOptions, SlotPool, WriteQueue};
use lance_storage::log::{Log, LogOptions, OpenContext};
use lance_storage::tail::TailRing;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PARTITION: TopicPartition = TopicPartition::new(TopicId(1), 0);
const EPOCH: LeaderEpoch = LeaderEpoch(1);
const DAMAGED: NodeId = NodeId(2);

fn incarnation(node: NodeId, damage_count: u32) -> ReplicaIncarnation {
    ReplicaIncarnation { node: node.0.into(), copy_version: 0, damage_count }
}

fn peer(node: NodeId) -> PeerIdentity {
    PeerIdentity { node, incarnation: node.0.into(), boot_number: 1 }
}

/// The leader of three copies.
struct Leader {
    core: IngestionCore,
    queue: Box<dyn WriteQueue>,
    effects: Vec<IngestionEffect>,
}

impl Leader {
    fn new() -> Self {
        let disk = MemoryDisk::new(MemoryConfig::default()).as_disk();
        disk.create_dir_all(Path::new("/logs")).unwrap();
        let options = LogOptions {
            dir: PathBuf::from("/logs/1-0"),
            partition: PARTITION,
            segment_bytes: 1 << 20,
            index_interval_bytes: 64 * 1024,
            zero_ahead_bytes: 0,
        };
        let (log, _) = Log::open(&disk, options, OpenContext::default()).unwrap();
        let arena = Arena::new(16 * 1024, 8).unwrap();
        let queue = disk.write_queue(&QueueOptions::default(), &arena).unwrap();
        let (node, flow) = (NodeId(1), FlowOptions::default());
        let options = IngestionOptions { node, shard: 0, sync_always: true, sync_bytes: 0, flow };
        let core = IngestionCore::new(options, SlotPool::new(arena), TailRing::new(1 << 20));
        let mut leader = Self { core, queue, effects: Vec::new() };
        let Self { core, effects, .. } = &mut leader;
        core.on_assigned(PARTITION);
        core.on_log_opened(PARTITION, log, effects);
        for node in [2, 3].map(NodeId) {
            core.on_link_changed(node, Some(peer(node)), Now::default(), effects);
        }
        core.on_replica_known(PARTITION, LeaderEpoch(0), incarnation(node, 0));
        core.on_promise(PARTITION, EPOCH, effects);
        let vote = |node| Vote { node, admitted: incarnation(node, 0), in_quorum: true };
        let votes = [1, 2, 3].map(|node| vote(NodeId(node))).to_vec();
        let role = LeaderRole { votes, mode: ReplicationMode::L2, ..LeaderRole::alone(PARTITION, EPOCH) };
        core.on_become_leader(role, Now::default(), effects);
        leader.write();
        leader
    }

    fn write(&mut self) {
        loop {
            self.core.flush(Now::default(), &mut self.effects);
            let steps = std::mem::take(&mut self.effects);
            let mut worked = false;
            for effect in steps {
                if let IngestionEffect::Submit { token, step, .. } = effect {
                    worked = true;
                    assert!(self.queue.submit(step.into_op(u64::from(token))).is_ok());
                }
            }
            if !worked && self.queue.in_flight() == 0 {
                return;
            }
            self.queue.kick().unwrap();
            self.queue.wait(Duration::from_secs(10));
            let mut done: Vec<DiskCompletion> = Vec::new();
            self.queue.completions(&mut done);
            for done in done {
                self.core.on_disk_done(done.token as u32, done, Now::default(), &mut self.effects);
            }
        }
    }

    fn acked(&mut self, node: NodeId, damage_count: u32, durable_end: u64) {
        let outcome = AppendOutcome::Appended { durable_end, sync_p99_micros: 0 };
        let incarnation = incarnation(node, damage_count);
        let response = AppendResponse { partition: PARTITION, epoch: EPOCH, incarnation, outcome };
        self.core.on_replica_answered(peer(node), &response, Now::default(), &mut self.effects);
    }

    fn refilling(&self) -> Vec<NodeId> {
        self.core.refilling().iter().map(|counted| counted.node).collect()
    }
}

#[test]
fn a_follower_that_was_cut_for_damage_is_named_until_it_holds_everything() {
    let mut leader = Leader::new();
    let end = leader.core.log_mut(PARTITION).unwrap().log_end();
    assert!(end > 0);
    leader.acked(NodeId(3), 0, end);
    leader.acked(DAMAGED, 0, 0);
    assert_eq!(leader.refilling(), [], "it is behind, and in the life that is admitted");
    leader.acked(DAMAGED, 1, 0);
    assert_eq!(leader.refilling(), [DAMAGED]);
    assert_eq!(leader.core.candidates().len(), 0);
    leader.acked(DAMAGED, 1, end);
    assert_eq!(leader.refilling(), []);
    assert!(leader.core.candidates().iter().any(|one| one.node == DAMAGED && one.may_be_admitted));
}
