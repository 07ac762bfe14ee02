//! `IngestionCore`: appends, commits and reads for the partitions of one shard. No clock, file or socket inside.

mod appending;
mod committing;
mod following;
mod leading;
pub mod moving;
mod reading;
mod refusals;
mod replacing;
mod stages;

use self::refusals::{fail_all, refuse_pending, stop};
use super::gather::Gather;
use super::partition::{Leadership, Partition};
use super::replica::Fenced;
use crate::metrics::LatencyCounts;
use crate::network::budget::ByteBudget;
use crate::network::readers::SegmentRead;
use crate::stages::StageSpan;
use crate::stages::batches::StepTimes;
use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use lance_cluster::replica::{CatchUpPace, FlowOptions, FollowerMeter, LatencyWindow};
use lance_messages::batch::BatchHeader;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, LeaderEpoch, NodeId, TopicPartition};
use lance_messages::mail::connection::Reply;
use lance_messages::mail::ingestion::{Fetch, ProduceRequest};
use lance_messages::peer::{AppendResponse, BelowStart, PeerIdentity, ReplicaBatch, ReplicaRequest, TruncateTo};
use lance_messages::sort_key::HybridClock;
use lance_storage::disk::{DiskCompletion, SlotPool};
use lance_storage::flush::FlushStep;
use lance_storage::log::{Latch, Log};
use lance_storage::reader::ReplicaSlice;
use lance_storage::tail::TailRing;
use std::collections::VecDeque;
use std::time::Duration;

/// Most bytes of a fetch that are copied from the tail into a connection's buffer.
pub const TAIL_COPY_BYTES: usize = 256 * 1024;

/// The two clocks, read once by the shell for each message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Nanoseconds since the Unix epoch.
    pub wall_ns: u64,
    /// Time since the process started; never goes back.
    pub elapsed: Duration,
}

/// What an ingestion core wants done.
#[derive(Debug)]
pub enum IngestionEffect {
    /// Carry out a step of a log; `token` names the partition.
    Submit {
        /// Whose log.
        partition: TopicPartition,
        /// The partition's slot in this core.
        token: u32,
        /// The step.
        step: FlushStep,
    },
    /// Answer a connection.
    Reply(ConnectionId, Reply<SegmentRead>),
    /// The partition serves in this epoch.
    Leading(TopicPartition, LeaderEpoch),
    /// The partition stopped acking; the reason is for operators, the latch stays until the process restarts.
    Stopped(TopicPartition, String, Option<Latch>),
    /// The partition's log is durable up to here.
    Flushed(TopicPartition, u64),
    /// The disk is full: release the reserve.
    NoSpace(TopicPartition),
    /// Another node leads the partition in this epoch.
    Following(TopicPartition, LeaderEpoch),
    /// A replica promised this higher epoch: nothing is acked in the own one any more.
    SteppedDown(TopicPartition, LeaderEpoch),
    /// The answer to a request for the promise of an epoch.
    Promised(TopicPartition, LeaderEpoch, Fenced),
    /// Send this to the follower on a node.
    ToFollower(NodeId, ReplicaRequest),
    /// Answer the leader that opened this session.
    ToLeader(u64, AppendResponse),
    /// Read batches for a follower on a thread that may wait; the outcome goes to `on_replica_read`.
    ReadForFollower {
        /// The partition.
        partition: TopicPartition,
        /// The follower's node.
        node: NodeId,
        /// The epoch it is fed in.
        epoch: LeaderEpoch,
        /// Log position of the first batch.
        from: u64,
        /// Where to read.
        slice: ReplicaSlice,
        /// Most bytes, unless the first batch is larger.
        max_bytes: usize,
    },
    /// Cut a log, or begin it anew, on a thread that may wait; the outcome goes to `on_log_truncated`.
    Truncate {
        /// The partition.
        partition: TopicPartition,
        /// Its log, with nothing in flight.
        log: Box<Log>,
        /// What to do.
        to: TruncateTo,
        /// What a log that begins anew is told of what lay below.
        below: BelowStart,
    },
    /// The leader dropped everything below this position.
    DropBefore(TopicPartition, u64),
    /// Batches could not be taken, or read for a follower; it is tried again.
    NotTaken(TopicPartition, String),
    /// The target of a planned move holds everything in this epoch.
    MoveReady(TopicPartition, LeaderEpoch, NodeId),
    /// A stage of a traced request is over.
    StageOver(Box<StageSpan>),
}

/// How a core is set up.
#[derive(Clone, Copy, Debug)]
pub struct IngestionOptions {
    /// This node.
    pub node: NodeId,
    /// The shard's index; also the actor id in sort keys.
    pub shard: u16,
    /// Whether an ack waits for the sync.
    pub sync_always: bool,
    /// In interval mode: sync once this many bytes are written.
    pub sync_bytes: u64,
    /// Bounds of what is sent to a follower.
    pub flow: FlowOptions,
}

/// What counts as flushed, and what is told of it.
#[derive(Clone, Copy, Debug)]
struct Terms {
    sync_always: bool,
    sync_p99_micros: u32,
    /// Whether a metadata leader was heard a moment ago: only then a leader acks alone.
    lease_holds: bool,
}

impl Terms {
    /// First position that may not be acked.
    fn flushed(self, log: &Log) -> u64 {
        if self.sync_always { log.durable_end() } else { log.written_end() }
    }
}

/// Figures of one core, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct IngestionCounts {
    /// Batches appended.
    pub batches: u64,
    /// Record bytes appended.
    pub bytes: u64,
    /// Records appended.
    pub records: u64,
    /// Batches recognised as retries.
    pub duplicates: u64,
    /// Fetches answered from the tail.
    pub tail_fetches: u64,
    /// Fetches of readers that are nearer to this node than to the leader.
    pub replica_fetches: u64,
    /// Fetches handed to reader threads.
    pub segment_fetches: u64,
    /// Appends that had to wait for a slot of the pool.
    pub pool_waits: u64,
}

/// The ingestion core of one shard.
pub struct IngestionCore {
    options: IngestionOptions,
    clock: HybridClock,
    pool: SlotPool,
    tail: TailRing,
    index: HashMap<TopicPartition, u32>,
    partitions: Vec<Option<Partition>>,
    dirty: VecDeque<u32>,
    stalled: VecDeque<(ConnectionId, ProduceRequest)>,
    scratch: BytesMut,
    counts: IngestionCounts,
    next_deadline: Option<Duration>,
    gather: Gather,
    gathering: bool,
    /// Appended batches whose copy into the tail ring waits until their write is under way.
    unkept: Vec<(u32, BatchHeader, Bytes)>,
    /// Those of them that go to followers, on their way.
    live: Vec<(u32, ReplicaBatch)>,
    /// Nodes whose data link stands.
    peers: HashMap<NodeId, PeerIdentity>,
    /// How followers did since the last look.
    meters: HashMap<NodeId, FollowerMeter>,
    /// From appends to their acks, since they were last taken.
    ack_times: HashMap<NodeId, LatencyCounts>,
    sync_p99_micros: u32,
    /// Time of the last flush or completion.
    now: Duration,
    /// From handing a step to the disk to its completion, in this window.
    sync_times: LatencyWindow,
    /// Until when a metadata leader counts as heard.
    lease_until: Duration,
    lease_holds: bool,
    appends_refused: bool,
    copies: ByteBudget,
    /// Fetches that wait for room to copy what they ask for.
    starved: VecDeque<Fetch>,
    /// How fast replicas are fed that nobody waits for.
    pace: CatchUpPace,
    /// A batch whose time to commit is measured; one at a time.
    timed: Option<Timed>,
    /// When the step that is completed next did what.
    step_times: StepTimes,
}

/// A batch that was appended to the partition in `slot`.
#[derive(Clone, Copy, Debug)]
struct Timed {
    slot: u32,
    end: u64,
    appended_at: Duration,
}

/// A batch that takes so long is not measured any more: it may never commit under this leader.
const TIMED_MAX: Duration = Duration::from_secs(1);

type Effects = Vec<IngestionEffect>;

impl IngestionCore {
    /// A core with no partitions.
    pub fn new(options: IngestionOptions, pool: SlotPool, tail: TailRing) -> Self {
        let actor = u8::try_from(options.shard).unwrap_or(u8::MAX);
        Self {
            clock: HybridClock::new(options.node, actor),
            options,
            pool,
            tail,
            index: HashMap::new(),
            partitions: Vec::new(),
            dirty: VecDeque::new(),
            stalled: VecDeque::new(),
            scratch: BytesMut::new(),
            counts: IngestionCounts::default(),
            next_deadline: None,
            gather: Gather::default(),
            gathering: false,
            unkept: Vec::new(),
            live: Vec::new(),
            peers: HashMap::new(),
            meters: HashMap::new(),
            ack_times: HashMap::new(),
            sync_p99_micros: 0,
            now: Duration::ZERO,
            sync_times: LatencyWindow::default(),
            lease_until: Duration::ZERO,
            lease_holds: false,
            appends_refused: false,
            copies: ByteBudget::default(),
            starved: VecDeque::new(),
            pace: CatchUpPace::default(),
            timed: None,
            step_times: StepTimes::default(),
        }
    }

    /// Tells when the step did what that is handed to [`Self::on_disk_done`] next.
    pub fn set_step_times(&mut self, times: StepTimes) {
        self.step_times = times;
    }

    /// Copies to readers are made within this budget, together with those of others.
    pub fn share_copies(&mut self, copies: ByteBudget) {
        self.copies = copies;
    }

    /// Gives the pool back; the rest is dropped.
    pub fn into_pool(self) -> SlotPool {
        self.pool
    }

    /// Figures since the last call.
    pub fn take_counts(&mut self) -> IngestionCounts {
        std::mem::take(&mut self.counts)
    }

    /// How long followers took from appends to acks, since the last call.
    pub fn take_ack_times(&mut self, mut out: impl FnMut(NodeId, &LatencyCounts)) {
        for (node, counts) in &mut self.ack_times {
            out(*node, &std::mem::take(counts));
        }
    }

    /// Whether requests wait for a free slot of the pool.
    pub fn is_pressed(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// A completion asked for by an earlier life: only its slots are of use.
    pub fn on_stale_completion(&mut self, completion: DiskCompletion) {
        completion.chunks.into_iter().for_each(|chunk| self.pool.put(chunk.slot));
    }

    /// Free and all slots of the pool.
    pub fn pool_saturation(&self) -> (usize, usize) {
        (self.pool.free_count(), self.pool.capacity())
    }

    /// Partitions whose log was opened, or found impossible to open.
    pub fn opened_count(&self) -> usize {
        let settled = |p: &&Partition| p.log.is_some() || matches!(p.leadership, Leadership::Stopped { .. });
        self.partitions().filter(settled).count()
    }

    /// Whether there is room for appends; without, producers get a retriable error and everything else goes on.
    pub fn set_appends_allowed(&mut self, allowed: bool) {
        self.appends_refused = !allowed;
    }

    /// The partitions and their states.
    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().flatten()
    }

    /// Makes room for a partition whose log is being opened; requests for it are held.
    pub fn on_assigned(&mut self, id: TopicPartition) {
        if self.index.contains_key(&id) {
            return;
        }
        let slot = self.partitions.len() as u32;
        self.partitions.push(Some(Partition::new(id)));
        self.index.insert(id, slot);
    }

    /// Forgets a partition, which was deleted or is held by other nodes; everybody who waits for it is told so. Gives its log
    /// back for closing.
    pub fn on_unassigned(&mut self, id: TopicPartition, is_deleted: bool, effects: &mut Effects) -> Option<Log> {
        let slot = self.index.remove(&id)?;
        let mut partition = self.partitions.get_mut(slot as usize)?.take()?;
        if is_deleted {
            fail_all(&mut partition, ErrorCode::UnknownTopic, effects);
        } else {
            // What was appended here may be with the others, too.
            refuse_pending(&mut partition, ErrorCode::OutcomeUnknown, effects);
            fail_all(&mut partition, ErrorCode::NotLeader, effects);
        }
        partition.log.take()
    }

    /// The partition's log was opened.
    pub fn on_log_opened(&mut self, id: TopicPartition, log: Log, effects: &mut Effects) {
        self.clock.pass(log.last_sort_key());
        let Some(partition) = self.partition_mut(id) else {
            return;
        };
        let offline = log.offline().map(ToString::to_string);
        let latched = log.latched().map(ToString::to_string);
        partition.log = Some(log);
        partition.traced.clear();
        if let Some(reason) = offline.or(latched) {
            stop(partition, reason, None, effects);
        }
    }

    /// The partition's log could not be opened, or is damaged.
    pub fn on_log_failed(&mut self, id: TopicPartition, reason: String, effects: &mut Effects) {
        let Some(partition) = self.partition_mut(id) else {
            return;
        };
        stop(partition, reason, None, effects);
    }

    /// Every waiting request of every partition, answered with `code`; for a drain.
    pub fn refuse_everything(&mut self, code: ErrorCode, effects: &mut Effects) {
        for partition in self.partitions.iter_mut().flatten() {
            fail_all(partition, code, effects);
        }
    }

    /// Whether everything appended is durable, as far as it can become so.
    pub fn is_quiet(&self) -> bool {
        self.stalled.is_empty() && self.partitions().all(Partition::is_quiet)
    }

    /// Gives back what logs hold that were not used since the last call.
    pub fn release_idle(&mut self) {
        for partition in self.partitions.iter_mut().flatten() {
            if !std::mem::take(&mut partition.touched)
                && let Some(log) = partition.log.as_mut().filter(|log| log.has_open_file())
            {
                log.release_idle();
            }
        }
    }

    /// How long steps of the disk took in the window that ends; leaders are told with every ack.
    pub fn end_sync_window(&mut self) -> Option<u32> {
        let sync_p99_micros = self.sync_times.p99_micros();
        self.sync_times.clear();
        self.sync_p99_micros = sync_p99_micros.unwrap_or(0);
        sync_p99_micros
    }

    fn terms(&self) -> Terms {
        Terms {
            sync_always: self.options.sync_always,
            sync_p99_micros: self.sync_p99_micros,
            lease_holds: self.lease_holds,
        }
    }

    /// A partition's log, for retention.
    pub fn log_mut(&mut self, id: TopicPartition) -> Option<&mut Log> {
        self.partition_mut(id)?.log.as_mut()
    }

    /// A partition of the shard.
    pub fn partition(&self, id: TopicPartition) -> Option<&Partition> {
        self.partitions.get(*self.index.get(&id)? as usize)?.as_ref()
    }

    /// The ring of recent batches.
    pub fn tail_ring(&self) -> &TailRing {
        &self.tail
    }

    fn partition_mut(&mut self, id: TopicPartition) -> Option<&mut Partition> {
        let slot = self.index.get(&id).copied()?;
        self.partitions.get_mut(slot as usize)?.as_mut()
    }
}
