//! The leader's side: taking up an epoch, feeding followers, and what a quorum of them allows.

use super::committing::{queue, release};
use super::following::step_down;
use super::refusals::{refuse_waiters, stop};
use super::stages::over;
use super::{Effects, IngestionCore, IngestionEffect, Now, Terms, stages};
use crate::ingestion::partition::{Leadership, Partition};
use crate::ingestion::replica::{Follower, LeaderRole, LeaderSide};
use crate::stages::batches::TracedBatches;
use bytes::Bytes;
use lance_cluster::replica::{
    CatchUpPace, DivergedAnswer, DivergedStep, EpochHistory, EpochStart, FlowLog, FlowOptions, FlowStep, FollowerFlow,
    LeaderEffect, LeaderLog, LeaderReplica, Vote,
};
use lance_messages::batch::{BatchFlags, ControlBatch};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{LeaderEpoch, NodeId, TopicPartition};
use lance_messages::peer::{
    AppendOutcome, AppendRequest, AppendResponse, BelowStart, PeerIdentity, ReplicaBatch, ReplicaRequest,
    TruncateRequest, TruncateTo,
};
use lance_storage::log::{AppendError, Log, NewBatch, ReplicaRead};
use lance_storage::reader::split_batches;
use lance_storage::tail::TailRing;
use std::time::Duration;

/// Most bytes of batches that one append carries, unless a single batch is larger.
const APPEND_BYTES: u64 = 1024 * 1024;

impl IngestionCore {
    /// This node leads the partition from now on: it was chosen in this life of its log, and promised the epoch in it.
    pub fn on_become_leader(&mut self, role: LeaderRole, now: Now, effects: &mut Effects) {
        let id = role.partition;
        let Some(partition) = self.partition_mut(id) else {
            return;
        };
        let promised = partition.follower.as_ref().and_then(|follower| follower.answered);
        // A choice that was made before the log went through recovery is never taken up: what was appended in that epoch
        // may be known to others and no longer here.
        if promised != Some(role.epoch) {
            return;
        }
        partition.next_role = Some(role);
        self.start_epoch(id, effects);
        self.feed_partition(id, now, effects);
    }

    /// Takes up the epoch that waits, unless the log is behind it by now.
    pub(super) fn start_epoch(&mut self, id: TopicPartition, effects: &mut Effects) {
        let node = self.options.node;
        let Some(slot) = self.index.get(&id).copied() else {
            return;
        };
        let sync_always = self.options.sync_always;
        let Self { partitions, pool, tail, clock, peers, options, .. } = self;
        let Some(partition) = partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let (Some(log), Some(role)) = (partition.log.as_mut(), partition.next_role.take()) else {
            return;
        };
        let epoch = role.epoch;
        let outdated = partition.follower.as_ref().is_some_and(|follower| follower.replica.promised() > epoch);
        if outdated || log.last_epoch() >= epoch || matches!(partition.leadership, Leadership::Stopped { .. }) {
            return;
        }
        clock.pass(log.last_sort_key());
        let body = ControlBatch::EpochStart { leader: node }.encode();
        let batch = NewBatch {
            records: &body,
            records_crc: crc32fast::hash(&body),
            plain_len: 0,
            record_count: 0,
            flags: BatchFlags::CONTROL,
            leader_epoch: epoch,
            committed_through: log.high_watermark().position.min(log.durable_end()),
            sort_key: clock.tick(0),
            max_timestamp_ns: 0,
            producer: None,
        };
        match log.append(&batch, pool, tail) {
            Ok(appended) => {
                // Readers who came to a follower ask whoever leads.
                refuse_waiters(&mut partition.waiters, ErrorCode::NotLeader, effects);
                partition.leadership = Leadership::Starting { epoch, start_end: appended.end_position };
                partition.leader = role.is_replicated().then(|| {
                    let flushed = if sync_always { log.durable_end() } else { log.written_end() };
                    let high_watermark = log.high_watermark().position;
                    let mut quorum = LeaderReplica::new(id, epoch, node, &role.votes, high_watermark, flushed);
                    // Nothing can be on a quorum yet: the batch was only just appended.
                    quorum.on_epoch_started(appended.end_position, &mut Vec::new());
                    let followers = role.fed(node).map(|fed| new_follower(fed, peers, options.flow)).collect();
                    Box::new(LeaderSide { role, quorum, followers, moving: None, replacing: None })
                });
                queue(&mut self.dirty, partition, slot);
            }
            // Slots come back with the next completion; the epoch is tried again then.
            Err(AppendError::PoolExhausted { .. }) => {
                partition.next_role = Some(role);
                partition.queued = true;
                self.dirty.push_back(slot);
            }
            Err(error) => stop(partition, error.to_string(), None, effects),
        }
    }

    /// The replicas of a partition that this node leads changed by committed metadata.
    pub fn on_role_changed(&mut self, role: LeaderRole, now: Now, effects: &mut Effects) {
        let id = role.partition;
        let Some(slot) = self.index.get(&id).copied() else {
            return;
        };
        let terms = self.terms();
        let Self { partitions, peers, options, .. } = self;
        let Some(partition) = partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let mut follow_ups = Vec::new();
        if partition.leader.is_none() && role.is_replicated() {
            partition.leader = as_first_of_several(partition, &role, options.node, terms, &mut follow_ups);
        }
        let Some(leader) = partition.leader.as_mut().filter(|leader| leader.role.epoch == role.epoch) else {
            return;
        };
        let (known, given) = (leader.role.replicas_version, role.replicas_version);
        if given < known {
            return;
        }
        if given == known {
            leader.quorum.on_votes_changed(&role.votes, &mut follow_ups);
        } else {
            leader.replacing = None;
            leader.quorum.on_replicas_changed(&role.votes, &mut follow_ups);
            for gone in leader.followers.iter().filter(|follower| Some(follower.node) != role.newcomer()) {
                leader.quorum.on_newcomer_removed(gone.node);
            }
        }
        leader.followers.retain(|follower| role.fed(options.node).any(|node| node == follower.node));
        for node in role.fed(options.node) {
            if leader.followers.iter().all(|follower| follower.node != node) {
                leader.followers.push(new_follower(node, peers, options.flow));
            }
        }
        leader.role = role;
        self.obey_quorum(slot, follow_ups, now, effects);
        self.feed(slot, now, effects);
    }

    /// The data link to a node stands, or stands no more.
    pub fn on_link_changed(&mut self, node: NodeId, peer: Option<PeerIdentity>, now: Now, effects: &mut Effects) {
        match peer {
            Some(peer) => self.peers.insert(node, peer),
            None => self.peers.remove(&node),
        };
        for slot in 0..self.partitions.len() as u32 {
            let partition = self.partitions.get_mut(slot as usize).and_then(Option::as_mut);
            let leader = partition.and_then(|partition| partition.leader.as_mut());
            let Some(follower) = leader.and_then(|leader| leader.follower_mut(node)) else {
                continue;
            };
            follower.peer = peer;
            match peer {
                Some(_) => follower.flow.on_link_up(),
                None => follower.flow.on_link_down(),
            }
            self.feed(slot, now, effects);
        }
    }

    /// A follower's answer.
    pub fn on_replica_answered(
        &mut self,
        from: PeerIdentity,
        response: &AppendResponse,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.index.get(&response.partition).copied() else {
            return;
        };
        let Self { partitions, meters, ack_times, .. } = self;
        let Some(partition) = partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let Some(leader) = partition.leader.as_mut().filter(|leader| leader.role.epoch == response.epoch) else {
            return;
        };
        let Some(follower) = leader.followers.iter_mut().find(|follower| follower.node == from.node) else {
            return;
        };
        if follower.peer != Some(from) {
            return;
        }
        let mut follow_ups = Vec::new();
        let is_present_copy = leader.role.copy_version(from.node) == Some(response.incarnation.copy_version);
        match &response.outcome {
            AppendOutcome::Appended { .. } | AppendOutcome::Diverged { .. } if !is_present_copy => {
                follower.flow.on_unavailable(now.elapsed);
            }
            AppendOutcome::Appended { durable_end, sync_p99_micros } => {
                follower.incarnation = Some(response.incarnation);
                let progress = follower.flow.on_appended(response.incarnation, *durable_end, now.elapsed);
                if !partition.traced.is_empty() {
                    partition.traced.on_acked(partition.id, from.node, *durable_end, now.elapsed, &mut over(effects));
                }
                meters.entry(from.node).or_default().on_ack(&progress, *sync_p99_micros);
                if let Some(latency) = progress.latency {
                    ack_times.entry(from.node).or_default().observe(latency);
                }
                let (epoch, incarnation) = (response.epoch, response.incarnation);
                if leader.role.newcomer() == Some(from.node) {
                    leader.quorum.on_newcomer_added(from.node, incarnation);
                }
                leader.quorum.on_appended(from.node, epoch, incarnation, *durable_end, &mut follow_ups);
            }
            AppendOutcome::Fenced { promised } => leader.quorum.on_fenced(*promised, &mut follow_ups),
            AppendOutcome::Diverged { .. } => {
                if let Some(log) = partition.log.as_ref() {
                    effects.extend(on_diverged(follower, log, response, now.elapsed));
                }
            }
            AppendOutcome::Unavailable => follower.flow.on_unavailable(now.elapsed),
        }
        self.obey_quorum(slot, follow_ups, now, effects);
        self.feed(slot, now, effects);
    }

    /// What a reader thread read for a follower.
    pub fn on_replica_read(
        &mut self,
        (id, node, epoch): (TopicPartition, NodeId, LeaderEpoch),
        from: u64,
        read: Result<Bytes, String>,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.index.get(&id).copied() else {
            return;
        };
        let Self { partitions, pace, .. } = self;
        let Some(partition) = partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let (Some(log), Some(leader)) = (partition.log.as_ref(), partition.leader.as_mut()) else {
            return;
        };
        let current = leader.role.epoch == epoch;
        let Some(follower) = leader.follower_mut(node).filter(|_| current) else {
            return;
        };
        if !std::mem::take(&mut follower.reading) {
            return;
        }
        if !leader.role.counts(node) {
            pace.on_sent(read.as_ref().map_or(0, |bytes| bytes.len() as u64));
        }
        let Some(follower) = leader.follower_mut(node) else {
            return;
        };
        let batches = read.and_then(|bytes| split_batches(&bytes, id).map_err(|error| error.to_string()));
        match batches {
            Ok(batches) => {
                effects.extend(send(follower, log, epoch, from, batches, now.elapsed, &mut partition.traced));
            }
            Err(reason) => {
                follower.flow.on_read_failed(now.elapsed);
                effects.push(IngestionEffect::NotTaken(id, reason));
            }
        }
        self.feed(slot, now, effects);
    }

    /// Sends followers what they lack; the shell calls this at least every 100 ms.
    pub fn feed_followers(&mut self, now: Now, effects: &mut Effects) {
        for slot in 0..self.partitions.len() as u32 {
            self.feed(slot, now, effects);
        }
    }

    fn feed_partition(&mut self, id: TopicPartition, now: Now, effects: &mut Effects) {
        if let Some(slot) = self.index.get(&id).copied() {
            self.feed(slot, now, effects);
        }
    }

    pub(super) fn feed(&mut self, slot: u32, now: Now, effects: &mut Effects) {
        let is_led = |partition: &Partition| partition.leader.is_some();
        if !self.partitions.get(slot as usize).and_then(Option::as_ref).is_some_and(is_led) {
            return;
        }
        // What was appended must be readable from memory.
        self.keep_tail(now, effects);
        let Self { partitions, tail, pace, .. } = self;
        pace.on_tick(now.elapsed);
        let Some(partition) = partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let (Some(log), Some(leader)) = (partition.log.as_ref(), partition.leader.as_mut()) else {
            return;
        };
        let LeaderSide { role, followers, .. } = leader.as_mut();
        for follower in followers {
            // Nobody waits for the others.
            let pace = if role.counts(follower.node) { None } else { Some(&mut *pace) };
            feed_one(follower, log, role.epoch, (tail, pace, &mut partition.traced), now.elapsed, effects);
        }
    }

    /// Pushes batches that were just appended to the followers that have everything before them.
    pub(super) fn push_live(&mut self, now: Now, effects: &mut Effects) {
        let mut live = std::mem::take(&mut self.live);
        // One append for each partition: what one connection sent lies together, and order is kept within a partition.
        live.sort_by_key(|(slot, _)| *slot);
        let mut group: Vec<ReplicaBatch> = Vec::new();
        let mut group_bytes = 0;
        let mut group_slot = 0;
        for (slot, batch) in live.drain(..) {
            if !group.is_empty() && (slot != group_slot || group_bytes >= APPEND_BYTES) {
                self.push_group(group_slot, std::mem::take(&mut group), now, effects);
                group_bytes = 0;
            }
            group_slot = slot;
            group_bytes += batch.header.batch_bytes();
            group.push(batch);
        }
        if !group.is_empty() {
            self.push_group(group_slot, group, now, effects);
        }
        self.live = live;
    }

    fn push_group(&mut self, slot: u32, batches: Vec<ReplicaBatch>, now: Now, effects: &mut Effects) {
        let Some(partition) = self.partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let (Some(log), Some(leader)) = (partition.log.as_ref(), partition.leader.as_mut()) else {
            return;
        };
        let Some(from) = batches.first().map(|batch| batch.header.position) else {
            return;
        };
        let epoch = leader.role.epoch;
        for follower in leader.followers.iter_mut().filter(|follower| follower.flow.is_live(from)) {
            effects.extend(send(follower, log, epoch, from, batches.clone(), now.elapsed, &mut partition.traced));
        }
    }

    pub(super) fn obey_quorum(&mut self, slot: u32, follow_ups: Vec<LeaderEffect>, now: Now, effects: &mut Effects) {
        if follow_ups.is_empty() {
            return;
        }
        let terms = self.terms();
        for follow_up in follow_ups {
            let Self { partitions, tail, pace, timed, .. } = self;
            let Some(partition) = partitions.get_mut(slot as usize).and_then(Option::as_mut) else {
                return;
            };
            match follow_up {
                LeaderEffect::HighWatermarkAdvanced { position, .. } => {
                    if let Some(log) = partition.log.as_mut() {
                        log.advance_high_watermark_in(position, tail);
                    }
                    stages::on_committed(partition, now, effects);
                    if let Some(timed) = timed.take_if(|timed| timed.slot == slot && timed.end <= position) {
                        pace.on_committed(now.elapsed.saturating_sub(timed.appended_at));
                    }
                    release(partition, terms, effects);
                }
                LeaderEffect::Led { .. } if matches!(partition.leadership, Leadership::Stopped { .. }) => {}
                LeaderEffect::Led { epoch, .. } => {
                    partition.leadership = Leadership::Leading { epoch };
                    effects.push(IngestionEffect::Leading(partition.id, epoch));
                    release(partition, terms, effects);
                }
                LeaderEffect::SteppedDown { promised, .. } => {
                    step_down(partition, effects);
                    effects.push(IngestionEffect::SteppedDown(partition.id, promised));
                }
            }
        }
        self.serve_ready(slot, now, effects);
    }
}

/// The leader's side of a partition that is led alone so far, and shall have a second copy. What is committed already stays so.
fn as_first_of_several(
    partition: &Partition,
    role: &LeaderRole,
    node: NodeId,
    terms: Terms,
    follow_ups: &mut Vec<LeaderEffect>,
) -> Option<Box<LeaderSide>> {
    let log = partition.log.as_ref()?;
    let high_watermark = log.high_watermark().position;
    let start_end = match partition.leadership {
        Leadership::Starting { epoch, start_end } if epoch == role.epoch => start_end,
        Leadership::Leading { epoch } if epoch == role.epoch => high_watermark,
        _ => return None,
    };
    let flushed = terms.flushed(log);
    let alone: Vec<Vote> = role.votes.iter().copied().filter(|vote| vote.node == node).collect();
    let mut quorum = LeaderReplica::new(role.partition, role.epoch, node, &alone, high_watermark, flushed);
    quorum.on_epoch_started(start_end, follow_ups);
    let role = LeaderRole { votes: alone, planned: Vec::new(), replicas_version: 0, ..role.clone() };
    Some(Box::new(LeaderSide { role, quorum, followers: Vec::new(), moving: None, replacing: None }))
}

fn new_follower(node: NodeId, peers: &hashbrown::HashMap<NodeId, PeerIdentity>, options: FlowOptions) -> Follower {
    let peer = peers.get(&node).copied();
    let mut flow = FollowerFlow::new(options);
    if peer.is_some() {
        flow.on_link_up();
    }
    Follower { node, peer, incarnation: None, flow, reading: false }
}

fn flow_log(log: &Log) -> FlowLog {
    FlowLog {
        log_start: log.log_start().position,
        log_end: log.log_end(),
        high_watermark: log.high_watermark().position,
        allowance: u64::MAX,
    }
}

fn feed_one(
    follower: &mut Follower,
    log: &Log,
    epoch: LeaderEpoch,
    (tail, mut pace, traced): (&TailRing, Option<&mut CatchUpPace>, &mut TracedBatches),
    now: Duration,
    effects: &mut Effects,
) {
    loop {
        let mut flow_log = flow_log(log);
        if let Some(pace) = pace.as_mut().filter(|_| follower.flow.is_behind(flow_log.log_end)) {
            flow_log.allowance = pace.allowance(now);
        }
        match follower.flow.next(&flow_log, now) {
            FlowStep::Nothing => return,
            FlowStep::Probe { prev_end } => {
                effects.extend(send(follower, log, epoch, prev_end, Vec::new(), now, traced));
            }
            FlowStep::Send { from, max_bytes } => {
                let max_bytes = max_bytes.min(APPEND_BYTES) as usize;
                match log.replica_read(from, max_bytes, tail) {
                    ReplicaRead::Batches { bytes, .. } => match split_batches(&bytes, log.partition()) {
                        Ok(batches) => {
                            pace.iter_mut().for_each(|pace| pace.on_sent(bytes.len() as u64));
                            effects.extend(send(follower, log, epoch, from, batches, now, traced));
                        }
                        Err(error) => {
                            effects.push(IngestionEffect::NotTaken(log.partition(), error.to_string()));
                            follower.flow.on_read_failed(now);
                        }
                    },
                    ReplicaRead::Segments(slice) => {
                        follower.reading = true;
                        let (partition, node) = (log.partition(), follower.node);
                        effects.push(IngestionEffect::ReadForFollower {
                            partition,
                            node,
                            epoch,
                            from,
                            slice,
                            max_bytes,
                        });
                        return;
                    }
                    // Appended and not written yet, or gone by retention: looked at again in a moment.
                    ReplicaRead::AtEnd | ReplicaRead::BelowStart { .. } | ReplicaRead::NotABoundary => {
                        follower.flow.on_read_failed(now);
                        return;
                    }
                }
            }
        }
    }
}

fn send(
    follower: &mut Follower,
    log: &Log,
    epoch: LeaderEpoch,
    from: u64,
    batches: Vec<ReplicaBatch>,
    now: Duration,
    traced: &mut TracedBatches,
) -> Option<IngestionEffect> {
    let traced = if traced.is_empty() { Vec::new() } else { traced.on_sent(follower.node, &batches, now) };
    let high_watermark = log.high_watermark().position;
    let append = AppendRequest {
        partition: log.partition(),
        epoch,
        prev_end: from,
        prev_epoch: log.epoch_before(from).unwrap_or(LeaderEpoch(0)),
        high_watermark,
        log_start: log.log_start().position,
        batches,
        traced,
    };
    follower.flow.on_sent(from, append.end_position(), high_watermark, now);
    Some(IngestionEffect::ToFollower(follower.node, ReplicaRequest::Append(append)))
}

fn on_diverged(
    follower: &mut Follower,
    log: &Log,
    response: &AppendResponse,
    now: Duration,
) -> Option<IngestionEffect> {
    let answer = DivergedAnswer::of(response)?;
    let starts = log.epoch_history().iter();
    let starts = starts.map(|start| EpochStart { epoch: start.epoch, start_position: start.position });
    let history = EpochHistory::from_starts(starts).ok()?;
    let leader = LeaderLog { start: log.log_start_place(), log_end: log.log_end(), history: &history };
    match follower.flow.on_diverged(&leader, &answer, now) {
        DivergedStep::Ignore | DivergedStep::Resend => None,
        DivergedStep::Truncate { answers, to } => {
            let (partition, epoch) = (response.partition, response.epoch);
            let below = match to {
                TruncateTo::Restart(place) => below(log, place.position),
                TruncateTo::Position(_) => BelowStart::default(),
            };
            let request = TruncateRequest { partition, epoch, answers, to, below };
            Some(IngestionEffect::ToFollower(follower.node, ReplicaRequest::Truncate(request)))
        }
    }
}

/// What a replica that begins anew at `start` cannot learn from the batches that follow.
fn below(log: &Log, start: u64) -> BelowStart {
    let behind = log.epoch_history().partition_point(|epoch| epoch.position < start);
    let last = behind.checked_sub(1).and_then(|at| log.epoch_history().get(at));
    let producers = log.producers().as_of(start).to_bytes();
    BelowStart { last_epoch: last.map(|last| (last.epoch, last.position)), producers: producers.into() }
}
