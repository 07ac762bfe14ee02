//! The ingestion core alone, on a disk in memory that fails: nobody who asked waits for ever.
#![allow(clippy::unwrap_used, reason = "a test throughout")]

use bytes::Bytes;
use lance_actors::ingestion::core::{IngestionCore, IngestionEffect, IngestionOptions, Now};
use lance_actors::ingestion::partition::Leadership;
use lance_actors::ingestion::replica::LeaderRole;
use lance_actors::network::budget::ByteBudget;
use lance_cluster::replica::{FlowOptions, Vote};
use lance_messages::batch::{BatchFlags, ProducerSequence};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, LeaderEpoch, NodeId, ProducerId, ReplicaIncarnation, TopicId, TopicPartition};
use lance_messages::mail::connection::{Answer, FetchedData};
use lance_messages::mail::ingestion::{CancelWait, Fetch, ProduceRequest};
use lance_messages::peer::{AppendOutcome, AppendResponse, PeerIdentity};
use lance_storage::disk::memory::{Fault, FaultKind, MemoryConfig, MemoryDisk};
use lance_storage::disk::{
    Arena, Disk, DiskCompletion, DiskError, DiskOp, Operation, QueueOptions, SlotPool, WriteQueue,
};
use lance_storage::log::{Log, LogOptions, OpenContext};
use lance_storage::tail::TailRing;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SLOT_BYTES: usize = 16 * 1024;
const CONNECTION: ConnectionId = ConnectionId(16);
const PARTITIONS: [TopicPartition; 2] = [TopicPartition::new(TopicId(1), 0), TopicPartition::new(TopicId(1), 1)];

struct Rig {
    memory: MemoryDisk,
    queue: Box<dyn WriteQueue>,
    core: IngestionCore,
    effects: Vec<IngestionEffect>,
    replies: Vec<(u64, Answer<lance_actors::network::readers::SegmentRead>)>,
    seconds: u64,
    fed: usize,
}

impl Rig {
    /// A shard with two partitions that it leads.
    fn leading(slots: usize) -> Self {
        let mut rig = Self::new(slots);
        for partition in PARTITIONS {
            rig.lead(partition);
        }
        rig.turn();
        rig
    }

    fn lead(&mut self, partition: TopicPartition) {
        self.lead_in(partition, 1);
    }

    fn lead_in(&mut self, partition: TopicPartition, epoch: u32) {
        let incarnation = ReplicaIncarnation { node: 1, copy_version: 0, damage_count: 0 };
        self.core.on_replica_known(partition, LeaderEpoch(0), incarnation);
        self.core.on_promise(partition, LeaderEpoch(epoch), &mut self.effects);
        let role = LeaderRole::alone(partition, LeaderEpoch(epoch));
        self.core.on_become_leader(role, Now::default(), &mut self.effects);
    }

    fn new(slots: usize) -> Self {
        let memory = MemoryDisk::new(MemoryConfig::default());
        let disk = memory.as_disk();
        disk.create_dir_all(Path::new("/logs")).unwrap();
        let arena = Arena::new(SLOT_BYTES, slots).unwrap();
        let queue = disk.write_queue(&QueueOptions::default(), &arena).unwrap();
        let options = IngestionOptions {
            node: NodeId(1),
            shard: 0,
            sync_always: true,
            sync_bytes: 0,
            flow: FlowOptions::default(),
        };
        let mut core = IngestionCore::new(options, SlotPool::new(arena), TailRing::new(1 << 20));
        let mut effects = Vec::new();
        for partition in PARTITIONS {
            core.on_assigned(partition);
            core.on_log_opened(partition, open(&disk, partition), &mut effects);
        }
        Self { memory, queue, core, effects, replies: Vec::new(), seconds: 1, fed: 0 }
    }

    /// The process starts again on the same disk; nobody leads yet.
    fn restart(&mut self) {
        let arena = Arena::new(SLOT_BYTES, 8).unwrap();
        let disk = self.memory.as_disk();
        self.queue = disk.write_queue(&QueueOptions::default(), &arena).unwrap();
        let options = IngestionOptions {
            node: NodeId(1),
            shard: 0,
            sync_always: true,
            sync_bytes: 0,
            flow: FlowOptions::default(),
        };
        self.core = IngestionCore::new(options, SlotPool::new(arena), TailRing::new(1 << 20));
        for partition in PARTITIONS {
            self.core.on_assigned(partition);
            self.core.on_log_opened(partition, open(&disk, partition), &mut self.effects);
        }
    }

    fn now(&self) -> Now {
        Now { wall_ns: 1_700_000_000_000_000_000, elapsed: Duration::from_secs(self.seconds) }
    }

    /// What the shell does until nothing is left to be done.
    fn turn(&mut self) {
        loop {
            self.core.flush(self.now(), &mut self.effects);
            let mut worked = false;
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    IngestionEffect::Submit { token, step, .. } => {
                        worked = true;
                        let operation: DiskOp = step.into_op(u64::from(token));
                        assert!(self.queue.submit(operation).is_ok());
                    }
                    IngestionEffect::Reply(_, reply) => self.replies.push((reply.request, reply.answer)),
                    _ => {}
                }
            }
            if !worked && self.queue.in_flight() == 0 {
                return;
            }
            self.queue.kick().unwrap();
            self.queue.wait(Duration::from_secs(10));
            let mut completions: Vec<DiskCompletion> = Vec::new();
            self.queue.completions(&mut completions);
            for completion in completions {
                self.core.on_disk_done(completion.token as u32, completion, self.now(), &mut self.effects);
            }
        }
    }

    fn second(&mut self) {
        self.seconds += 1;
        self.core.on_space_retry(&mut self.effects);
        self.core.refuse_overdue(self.now(), &mut self.effects);
        self.turn();
    }

    fn append(&mut self, request: u64, partition: TopicPartition, bytes: usize) {
        self.append_as(request, partition, bytes, None);
    }

    fn append_as(&mut self, request: u64, partition: TopicPartition, bytes: usize, sequence: Option<u32>) {
        let records = Bytes::from(vec![7; bytes]);
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
        self.core.on_produce(CONNECTION, request, self.now(), &mut self.effects);
    }

    fn produce(&mut self, request: u64, partition: TopicPartition, bytes: usize) {
        self.append(request, partition, bytes);
        self.turn();
    }

    fn produce_as(&mut self, request: u64, partition: TopicPartition, sequence: u32) {
        self.append_as(request, partition, 100, Some(sequence));
        self.turn();
    }

    fn fetch(&mut self, request: u64, offset: u64, max_bytes: u32) {
        let fetch = Fetch {
            connection: CONNECTION,
            request,
            part: 0,
            partition: PARTITIONS[0],
            offset,
            max_bytes,
            max_wait: Duration::from_secs(60),
            stored: false,
            near: false,
            trace: None,
        };
        self.core.on_fetch(fetch, self.now(), &mut self.effects);
        self.turn();
    }

    /// How a produce request was answered, if it was.
    fn produced(&self, request: u64) -> Option<Result<u64, ErrorCode>> {
        self.replies.iter().find(|reply| reply.0 == request).map(|(_, answer)| match answer {
            Answer::Produced(result) => result.map(|produced| produced.base_offset),
            other => panic!("{other:?}"),
        })
    }

    /// The log of the first partition gives its descriptor back.
    fn go_idle(&mut self) {
        self.core.release_idle();
        self.core.release_idle();
    }
}

fn open(disk: &Arc<dyn Disk>, partition: TopicPartition) -> Log {
    let options = LogOptions {
        dir: Path::new("/logs").join(partition.to_string()),
        partition,
        segment_bytes: 1 << 30,
        index_interval_bytes: 64 * 1024,
        zero_ahead_bytes: 0,
    };
    Log::open(disk, options, OpenContext::default()).unwrap().0
}

#[test]
fn a_fetch_that_wants_no_bytes_is_answered_and_never_parked() {
    let mut rig = Rig::leading(8);
    rig.produce(1, PARTITIONS[0], 100);
    rig.fetch(2, 0, 0);
    rig.produce(3, PARTITIONS[0], 100);
    let fetched = rig.replies.iter().find(|reply| reply.0 == 2).map(|reply| &reply.1);
    assert!(matches!(fetched, Some(Answer::Fetched { result: Ok((_, FetchedData::Empty)), .. })), "{fetched:?}");
    assert_eq!(rig.produced(3), Some(Ok(100)));
}

#[test]
fn a_fetch_that_is_no_longer_to_wait_does_not_begin_to_once_there_is_an_epoch() {
    let mut rig = Rig::new(8);
    rig.fetch(1, 0, 1000);
    let now = rig.now();
    rig.core.on_cancel_wait(
        CancelWait { connection: CONNECTION, request: 1, partition: PARTITIONS[0] },
        now,
        &mut rig.effects,
    );
    rig.lead_in(PARTITIONS[0], 1);
    rig.turn();
    let fetched = rig.replies.iter().find(|reply| reply.0 == 1).map(|reply| &reply.1);
    assert!(matches!(fetched, Some(Answer::Fetched { result: Ok((_, FetchedData::Empty)), .. })), "{fetched:?}");
}

#[test]
fn a_parked_fetch_without_room_for_data_is_answered_by_the_next_batch() {
    let mut rig = Rig::leading(8);
    rig.fetch(1, 0, 0);
    rig.produce(2, PARTITIONS[0], 100);
    assert!(rig.replies.iter().any(|reply| reply.0 == 1));
    assert_eq!(rig.produced(2), Some(Ok(0)));
}

#[test]
fn a_batch_that_found_no_descriptor_is_written_once_there_is_one() {
    let mut rig = Rig::leading(8);
    rig.go_idle();
    rig.memory.inject(Fault::new(Operation::Open, FaultKind::Errno(libc::EMFILE)).times(2));
    rig.produce(1, PARTITIONS[0], 100);
    assert_eq!(rig.produced(1), None);
    rig.second();
    assert_eq!(rig.produced(1), None);
    rig.second();
    assert_eq!(rig.produced(1), Some(Ok(0)));
}

#[test]
fn a_batch_whose_file_cannot_be_opened_is_refused_at_once_and_costs_no_slot() {
    let mut rig = Rig::leading(8);
    let free = rig.core.pool_saturation().0;
    rig.go_idle();
    rig.memory.inject(Fault::new(Operation::Open, FaultKind::Errno(libc::EIO)));
    rig.produce(1, PARTITIONS[0], 100);
    assert_eq!(rig.produced(1), Some(Err(ErrorCode::OutcomeUnknown)));
    assert_eq!(rig.core.pool_saturation().0, free);
}

#[test]
fn who_waits_for_slots_that_a_full_disk_holds_is_refused() {
    let mut rig = Rig::leading(3);
    rig.memory.inject(Fault::new(Operation::Write, FaultKind::Errno(libc::ENOSPC)).times(1));
    rig.append(1, PARTITIONS[0], 2 * SLOT_BYTES);
    rig.produce(2, PARTITIONS[1], SLOT_BYTES);
    assert_eq!(rig.produced(1), None, "it is in the log and waits for space");
    assert_eq!(rig.produced(2), Some(Err(ErrorCode::NoSpace)));
    rig.second();
    assert_eq!(rig.produced(1), Some(Ok(0)));
    rig.produce(3, PARTITIONS[1], SLOT_BYTES);
    assert_eq!(rig.produced(3), Some(Ok(0)));
}

#[test]
fn a_batch_that_is_stored_later_was_never_answered_as_not_stored() {
    let mut rig = Rig::leading(8);
    rig.memory.inject(Fault::new(Operation::Write, FaultKind::Errno(libc::ENOSPC)).times(3));
    rig.produce(1, PARTITIONS[0], 100);
    assert_eq!(rig.produced(1), None);
    rig.produce(2, PARTITIONS[0], 100);
    assert_eq!(rig.produced(2), Some(Err(ErrorCode::NoSpace)), "it was not appended");
    rig.second();
    assert_eq!(rig.produced(1), None, "it may still find space");
    rig.second();
    assert_eq!(rig.produced(1), Some(Err(ErrorCode::OutcomeUnknown)));
    rig.second();
    rig.produce(3, PARTITIONS[0], 100);
    assert_eq!(rig.produced(3), Some(Ok(100)), "behind the batch of unknown outcome, and nothing else");
}

#[test]
fn a_retry_on_a_full_disk_is_acked_with_the_batch_it_repeats() {
    let mut rig = Rig::leading(8);
    rig.memory.inject(Fault::new(Operation::Write, FaultKind::Errno(libc::ENOSPC)).times(1));
    rig.produce_as(1, PARTITIONS[0], 0);
    rig.produce_as(2, PARTITIONS[0], 0);
    rig.produce_as(3, PARTITIONS[0], 1);
    assert_eq!(rig.produced(2), None, "it is in the log and waits for space");
    assert_eq!(rig.produced(3), Some(Err(ErrorCode::NoSpace)));
    rig.second();
    assert_eq!((rig.produced(1), rig.produced(2)), (Some(Ok(0)), Some(Ok(0))));
    rig.produce_as(4, PARTITIONS[0], 1);
    // The group may wait a moment for a second one.
    rig.second();
    assert_eq!(rig.produced(4), Some(Ok(100)));
}

#[test]
fn a_start_on_a_full_disk_serves_what_is_there_and_appends_once_there_is_space() {
    let mut rig = Rig::leading(8);
    rig.produce(1, PARTITIONS[0], 100);
    rig.restart();
    rig.memory.inject(Fault::new(Operation::Write, FaultKind::Errno(libc::ENOSPC)).times(u64::MAX));
    rig.fetch(2, 0, 1000);
    rig.append(3, PARTITIONS[0], 100);
    assert!(rig.replies.iter().all(|reply| reply.0 < 2), "nobody knows yet what is committed");
    rig.lead_in(PARTITIONS[0], 2);
    rig.turn();
    assert_eq!(rig.produced(3), Some(Err(ErrorCode::NoSpace)));
    rig.produce(4, PARTITIONS[0], 100);
    assert_eq!(rig.produced(4), Some(Err(ErrorCode::NoSpace)));
    rig.fetch(5, 0, 1000);
    for request in [2, 5] {
        let fetched = rig.replies.iter().find(|reply| reply.0 == request).map(|reply| &reply.1);
        let Some(Answer::Fetched { result: Ok((bounds, found)), .. }) = fetched else { panic!("{fetched:?}") };
        assert_eq!(bounds.high_watermark_offset, 100);
        assert!(matches!(found, FetchedData::Segments(_)), "{found:?}");
    }
    rig.second();
    rig.memory.clear_faults();
    rig.second();
    rig.produce(6, PARTITIONS[0], 100);
    assert_eq!(rig.produced(6), Some(Ok(100)));
}

#[test]
fn readers_wait_for_room_that_slow_ones_hold_and_hear_no_error() {
    let mut rig = Rig::leading(8);
    let budget = ByteBudget::new(20_000);
    rig.core.share_copies(budget.clone());
    (1..4).for_each(|request| rig.produce(request, PARTITIONS[0], 8000));
    (10..14).for_each(|request| rig.fetch(request, 0, 8000));
    let answered = |rig: &Rig| rig.replies.iter().filter(|reply| reply.0 >= 10).count();
    assert_eq!(answered(&rig), 2, "no more than two copies at a time");
    rig.fetch(20, 24_000, 8000);
    rig.produce(4, PARTITIONS[0], 100);
    assert!(rig.replies.iter().any(|reply| reply.0 == 4), "appends do not wait");
    for expected in [4, 5] {
        // The socket takes what was copied for two.
        rig.replies.retain(|reply| !matches!(reply.1, Answer::Fetched { .. }));
        rig.core.on_deadline(Now { elapsed: Duration::from_secs(5), ..rig.now() }, &mut rig.effects);
        rig.turn();
        let found = |reply: &(u64, Answer<_>)| match &reply.1 {
            Answer::Fetched { result: Ok((_, FetchedData::Tail { data, .. })), .. } => !data.is_empty(),
            _ => false,
        };
        rig.fed += rig.replies.iter().filter(|reply| found(reply)).count();
        assert_eq!(rig.fed + 2, expected);
    }
    rig.replies.clear();
    assert!(budget.reserve(20_000).is_some(), "everything is given back");
}

#[test]
fn requests_do_not_wait_for_an_epoch_for_ever() {
    let mut rig = Rig::new(8);
    rig.produce(1, PARTITIONS[0], 100);
    (0..4).for_each(|_| rig.second());
    assert_eq!(rig.produced(1), None);
    rig.second();
    assert_eq!(rig.produced(1), Some(Err(ErrorCode::Unavailable)));
    rig.lead(PARTITIONS[0]);
    rig.turn();
    rig.produce(2, PARTITIONS[0], 100);
    assert_eq!(rig.produced(2), Some(Ok(0)));
}

#[test]
fn a_state_that_finds_no_space_is_not_tried_without_end() {
    let mut rig = Rig::leading(64);
    let no_space = DiskError::os(Operation::Create, Path::new("x"), libc::ENOSPC).errno().unwrap();
    rig.memory.inject(Fault::new(Operation::Create, FaultKind::Errno(no_space)).on("producers").times(u64::MAX));
    // Enough for the state to be saved.
    (0..40).for_each(|request| rig.produce(request, PARTITIONS[0], 30 * SLOT_BYTES));
    assert_eq!(rig.replies.iter().filter(|(_, answer)| matches!(answer, Answer::Produced(Ok(_)))).count(), 40);
}

#[test]
fn who_waits_at_a_replica_that_is_cut_is_sent_to_its_leader() {
    let mut rig = Rig::leading(8);
    rig.produce(1, PARTITIONS[0], 100);
    rig.fetch(2, 100, 1000);
    assert!(!rig.core.on_refill(PARTITIONS[0], 0, &mut rig.effects));
    rig.turn();
    let fetched = rig.replies.iter().find(|reply| reply.0 == 2).map(|reply| &reply.1);
    assert!(matches!(fetched, Some(Answer::Fetched { result: Err(ErrorCode::NotLeader), .. })), "{fetched:?}");
}

#[test]
fn a_damaged_log_is_cut_once_nothing_is_being_written() {
    let mut rig = Rig::leading(8);
    rig.append(1, PARTITIONS[0], 100);
    let now = rig.now();
    rig.core.flush(now, &mut rig.effects);
    for effect in std::mem::take(&mut rig.effects) {
        if let IngestionEffect::Submit { token, step, .. } = effect {
            assert!(rig.queue.submit(step.into_op(u64::from(token))).is_ok());
        }
    }
    assert!(!rig.core.on_refill(PARTITIONS[0], 0, &mut rig.effects));
    let is_cut = |effect: &IngestionEffect| matches!(effect, IngestionEffect::Truncate { .. });
    assert!(!rig.effects.iter().any(is_cut));
    rig.queue.kick().unwrap();
    rig.queue.wait(Duration::from_secs(10));
    let mut completions: Vec<DiskCompletion> = Vec::new();
    rig.queue.completions(&mut completions);
    assert_eq!(completions.len(), 1);
    for completion in completions {
        rig.core.on_disk_done(completion.token as u32, completion, now, &mut rig.effects);
    }
    assert!(rig.effects.iter().any(is_cut));
}

#[test]
fn a_leader_of_other_copies_that_stopped_leaves_readers_to_its_successor() {
    let mut rig = Rig::leading(8);
    rig.produce(1, PARTITIONS[0], 100);
    let vote = |node: u16| {
        let admitted = ReplicaIncarnation { node: u64::from(node), copy_version: 0, damage_count: 0 };
        Vote { node: NodeId(node), admitted, in_quorum: true }
    };
    rig.core.on_promise(PARTITIONS[0], LeaderEpoch(2), &mut rig.effects);
    let votes = [1, 2, 3].map(vote).to_vec();
    let role = LeaderRole { votes, ..LeaderRole::alone(PARTITIONS[0], LeaderEpoch(2)) };
    rig.core.on_become_leader(role, Now::default(), &mut rig.effects);
    rig.memory.inject(Fault::new(Operation::Write, FaultKind::Errno(libc::EIO)));
    rig.turn();
    let is_stopped = |rig: &Rig| {
        let partition = rig.core.partitions().find(|partition| partition.id == PARTITIONS[0]);
        partition.is_some_and(|partition| matches!(partition.leadership, Leadership::Stopped { .. }))
    };
    assert!(is_stopped(&rig));
    rig.fetch(2, 0, 1000);
    // Another one leads by now.
    let peer = PeerIdentity { node: NodeId(2), incarnation: 2, boot_number: 1 };
    rig.core.on_link_changed(peer.node, Some(peer), Now::default(), &mut rig.effects);
    let fenced = AppendResponse {
        partition: PARTITIONS[0],
        epoch: LeaderEpoch(2),
        incarnation: vote(2).admitted,
        outcome: AppendOutcome::Fenced { promised: LeaderEpoch(3) },
    };
    rig.core.on_replica_answered(peer, &fenced, Now::default(), &mut rig.effects);
    assert!(is_stopped(&rig), "what could not be written stays so, whoever leads");
    rig.fetch(3, 0, 1000);
    rig.produce(4, PARTITIONS[0], 100);
    rig.turn();
    for request in [2, 3] {
        let fetched = rig.replies.iter().find(|reply| reply.0 == request).map(|reply| &reply.1);
        assert!(matches!(fetched, Some(Answer::Fetched { result: Err(ErrorCode::NotLeader), .. })), "{fetched:?}");
    }
    let produced = rig.replies.iter().find(|reply| reply.0 == 4).map(|reply| &reply.1);
    assert!(matches!(produced, Some(Answer::Produced(Err(ErrorCode::NotLeader)))), "{produced:?}");
}
