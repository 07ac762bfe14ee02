//! The ingestion core alone: its messages in, its effects carried out on a disk in memory.
#![allow(clippy::unwrap_used, reason = "a test throughout")]

use bytes::Bytes;
use lance_actors::ingestion::core::{IngestionCore, IngestionEffect, IngestionOptions, Now};
use lance_actors::ingestion::replica::LeaderRole;
use lance_cluster::replica::FlowOptions;
use lance_messages::batch::{BatchFlags, ProducerSequence};
use lance_messages::id::{ConnectionId, LeaderEpoch, NodeId, ProducerId, ReplicaIncarnation, TopicId, TopicPartition};
use lance_messages::mail::connection::Answer;
use lance_messages::mail::ingestion::ProduceRequest;
use lance_storage::disk::memory::{MemoryConfig, MemoryDisk};
use lance_storage::disk::{Arena, Disk, DiskCompletion, OpKind, OpenMode, SlotPool};
use lance_storage::log::{Log, LogOptions, OpenContext};
use lance_storage::tail::TailRing;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SLOT_BYTES: usize = 16 * 1024;
const NOW: Now = Now { wall_ns: 1_700_000_000_000_000_000, elapsed: Duration::from_secs(1) };

fn partition(number: u16) -> TopicPartition {
    TopicPartition::new(TopicId(1), number)
}

struct Rig {
    disk: Arc<dyn Disk>,
    core: IngestionCore,
    effects: Vec<IngestionEffect>,
    submitted: Vec<(u32, OpKind)>,
    /// Request numbers, and the offset of what was stored; `None` = refused.
    replies: Vec<(u64, Option<u64>)>,
}

impl Rig {
    /// A shard with partitions 0 and 1, whose logs are open and that nobody leads.
    fn new(slots: usize) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(MemoryConfig::default()));
        disk.create_dir_all(Path::new("/logs")).unwrap();
        let pool = SlotPool::new(Arena::new(SLOT_BYTES, slots).unwrap());
        let options = IngestionOptions {
            node: NodeId(1),
            shard: 0,
            sync_always: true,
            sync_bytes: 0,
            flow: FlowOptions::default(),
        };
        let mut core = IngestionCore::new(options, pool, TailRing::new(1 << 20));
        let mut effects = Vec::new();
        for partition in [partition(0), partition(1)] {
            let options = LogOptions {
                dir: Path::new("/logs").join(partition.to_string()),
                partition,
                segment_bytes: 1 << 30,
                index_interval_bytes: 64 * 1024,
                zero_ahead_bytes: 0,
            };
            let (log, _) = Log::open(&disk, options, OpenContext::default()).unwrap();
            core.on_assigned(partition);
            core.on_log_opened(partition, log, &mut effects);
        }
        Self { disk, core, effects, submitted: Vec::new(), replies: Vec::new() }
    }

    fn take_effects(&mut self) {
        for effect in self.effects.drain(..) {
            match effect {
                IngestionEffect::Submit { token, step, .. } => self.submitted.push((token, step.kind)),
                IngestionEffect::Reply(_, reply) => match reply.answer {
                    Answer::Produced(result) => {
                        self.replies.push((reply.request, result.ok().map(|stored| stored.base_offset)));
                    }
                    _ => unreachable!("only produce requests are made"),
                },
                _ => {}
            }
        }
    }

    fn lead(&mut self, partition: TopicPartition) {
        let incarnation = ReplicaIncarnation { node: 1, copy_version: 0, damage_count: 0 };
        self.core.on_replica_known(partition, LeaderEpoch(0), incarnation);
        self.core.on_promise(partition, LeaderEpoch(1), &mut self.effects);
        self.core.on_become_leader(LeaderRole::alone(partition, LeaderEpoch(1)), NOW, &mut self.effects);
        self.core.flush(NOW, &mut self.effects);
        self.take_effects();
    }

    fn produce(&mut self, request: u64, partition: TopicPartition, sequence: Option<u32>) {
        let records = Bytes::from(vec![7u8; 15 * 1024]);
        let request = ProduceRequest {
            request,
            partition,
            records_crc: crc32fast::hash(&records),
            plain_len: records.len() as u32,
            records,
            record_count: 1,
            flags: BatchFlags::OPAQUE,
            timestamp_ns: 0,
            producer: sequence.map(|sequence| ProducerSequence { id: ProducerId(1), epoch: 0, sequence }),
            at: None,
            trace: None,
        };
        self.core.on_produce(ConnectionId(16), request, NOW, &mut self.effects);
        self.take_effects();
    }

    /// Carries out everything handed to the disk, and what follows from it.
    fn complete_all(&mut self) {
        while !self.submitted.is_empty() {
            let (token, kind) = self.submitted.remove(0);
            let (chunks, file) = match kind {
                OpKind::Write { chunks, .. } => (chunks, None),
                OpKind::Create { path } => (Vec::new(), self.disk.open(&path, OpenMode::CreateOrOpen).ok()),
                _ => (Vec::new(), None),
            };
            let completion =
                DiskCompletion { token: u64::from(token), result: Ok(()), chunks, file, times: Default::default() };
            self.core.on_disk_done(token, completion, NOW, &mut self.effects);
            self.core.flush(NOW, &mut self.effects);
            self.take_effects();
        }
    }
}

#[test]
fn requests_held_for_an_epoch_stay_before_those_that_wait_for_the_pool() {
    let mut rig = Rig::new(4);
    let (starting, busy) = (partition(0), partition(1));
    rig.lead(busy);
    rig.complete_all();
    rig.lead(starting);
    rig.produce(1, starting, Some(0));
    // The other partition takes every slot that is left, and more.
    (10..16).for_each(|request| rig.produce(request, busy, None));
    rig.produce(2, starting, Some(1));
    rig.complete_all();
    let of_starting: Vec<(u64, Option<u64>)> =
        rig.replies.iter().copied().filter(|(request, _)| *request < 10).collect();
    assert_eq!(of_starting, [(1, Some(0)), (2, Some(15 * 1024))]);
    assert_eq!(rig.replies.len(), 8);
}
