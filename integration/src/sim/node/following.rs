//! What the ingestion actor's shell does about replicas, as `actors/src/ingestion/replica_handlers.rs` does.

use super::ingestion::Ingestion;
use super::sabotaged;
use crate::sim::check::{committed, decided, losses, removals, replicas};
use crate::sim::context::{Context, Outgoing};
use crate::sim::mail::{Address, LogCut, Mail, Part, ReplicaReadDone};
use crate::sim::sabotage::Sabotage;
use lance_actors::ingestion::core::{IngestionCore, IngestionEffect, Now};
use lance_actors::ingestion::opener::{Opened, TruncateJob};
use lance_actors::ingestion::partition::Partition;
use lance_actors::ingestion::replica_handlers::ReplicaReport;
use lance_actors::replication::actor::ReplicaNews;
use lance_cluster::metadata::MetadataCommand;
use lance_messages::id::TopicPartition;
use lance_messages::peer::{AppendResponse, BelowStart, LogPlace, ReplicaRequest, TruncateTo};
use lance_storage::reader::Reader;
use lance_storage::retention::{RetentionPolicy, expired};
use lance_storage::segment;
use std::collections::BTreeMap;

const READER_FILES: usize = 8;

impl Ingestion {
    /// Followers are looked after.
    pub(super) fn on_feed(&mut self, now: Now, effects: &mut Vec<IngestionEffect>) {
        if let Some(core) = self.core.as_mut() {
            core.check_lease(now, effects);
            core.feed_followers(now, effects);
            core.check_moves(now, effects);
        }
    }

    /// What the replication actor proposes about the followers of this shard: admissions, and planned exchanges.
    pub(super) fn propose_changes(&mut self, ctx: &mut Context<'_>) {
        let Some(core) = self.core.as_mut() else { return };
        let admitted = core.candidates().into_iter().filter(|one| one.may_be_admitted);
        let admissions = admitted.map(|one| MetadataCommand::Admit {
            node: one.node,
            partitions: vec![(one.partition, one.incarnation, one.epoch, one.in_quorum_version)],
        });
        let mut commands: Vec<MetadataCommand> = admissions.collect();
        match self.setup.sabotage {
            Sabotage::AdmitAtHighWatermark => commands.extend(self.stale.admit(core)),
            Sabotage::ReplaceInOneStep => commands.extend(sabotaged::replace_in_one_step(core)),
            _ => {}
        }
        if self.setup.sabotage != Sabotage::ReplaceInOneStep {
            commands.extend(core.take_replacements(ctx.now));
        }
        let metadata = self.to(Part::Metadata);
        commands.into_iter().for_each(|command| ctx.send(metadata, Mail::Propose(command)));
    }

    /// A window ends: the replication actor is told how followers did in it.
    pub(super) fn report_followers(&mut self, ctx: &mut Context<'_>) {
        let Some(core) = self.core.as_mut() else { return };
        let report = ReplicaReport {
            windows: core.take_windows(ctx.now),
            counted: core.counted(),
            refilling: core.refilling(),
            candidates: core.candidates(),
            replacements: Vec::new(),
            sync_p99_micros: core.end_sync_window(),
        };
        core.measure_followers();
        ctx.send(self.to(Part::Replication), Mail::Report(Box::new(report)));
    }

    /// One message about replicas.
    pub(super) fn on_replicas(&mut self, mail: Mail, effects: &mut Vec<IngestionEffect>, ctx: &mut Context<'_>) {
        let now = ctx.now;
        if let Mail::LinkChanged(node, peer) = mail {
            match peer {
                Some(peer) => self.peers.insert(node, peer),
                None => self.peers.remove(&node),
            };
            if let Some(core) = self.core.as_mut() {
                core.on_link_changed(node, peer, now, effects);
            }
            return;
        }
        if let Mail::Refill(partition, good_end) = mail {
            if self.core.as_mut().is_some_and(|core| core.on_refill(partition, good_end, effects)) {
                let to = match good_end {
                    0 => TruncateTo::Restart(LogPlace::default()),
                    _ => TruncateTo::Position(good_end),
                };
                self.cut(TruncateJob { partition, log: None, to, below: BelowStart::default() }, ctx);
            }
            return;
        }
        let (lives, sabotage) = (self.lives, self.setup.sabotage);
        let Some(core) = self.core.as_mut() else { return };
        match mail {
            Mail::Lead(roles) => {
                for role in roles {
                    let partition = role.partition;
                    self.stale.note(core, partition);
                    core.on_become_leader(role, now, effects);
                    judge_leader(core, partition, self.node, ctx);
                }
            }
            Mail::ChangeRoles(roles) => {
                for role in roles {
                    let partition = role.partition;
                    core.on_role_changed(role, now, effects);
                    judge_leader(core, partition, self.node, ctx);
                }
            }
            Mail::Fence(epochs) => {
                for (partition, epoch) in epochs {
                    core.on_promise(partition, epoch, effects);
                }
            }
            Mail::Move(wanted) => core.on_move(wanted.partition, wanted.epoch, wanted.to, now, effects),
            Mail::ExtendLease(until) => core.on_lease(until, now, effects),
            Mail::AppendReplica(append) => {
                for request in append.requests {
                    core.on_replica_request(append.session, request, now, effects);
                }
            }
            Mail::ReplicaAnswered(mut answered) => {
                for response in &mut answered.responses {
                    match sabotage {
                        Sabotage::CommitAlone => sabotaged::count_for_all(core, response),
                        Sabotage::NoEpochStart => sabotaged::count_without_start(core, response),
                        _ => {}
                    }
                }
                for response in &answered.responses {
                    core.on_replica_answered(answered.from, response, now, effects);
                }
            }
            Mail::ReplicaRead(done) if done.life == lives => {
                let ReplicaReadDone { partition, node, epoch, from, read, .. } = done;
                core.on_replica_read((partition, node, epoch), from, read, now, effects);
            }
            Mail::Truncated(cut) if cut.life == lives => {
                core.on_log_truncated(cut.partition, *cut.result, effects);
                let opened = core.unintroduced(cut.partition);
                let with_copy = |(partition, last_epoch)| (partition, last_epoch, self.copy_version(partition));
                let wanted: Vec<_> = opened.into_iter().map(with_copy).collect();
                if !wanted.is_empty() {
                    ctx.send(self.to(Part::Replication), Mail::EpochsWanted(wanted));
                }
            }
            _ => {}
        }
    }

    /// Carries out what a core wants done about replicas.
    pub(super) fn obey_about_replicas(&mut self, effects: Vec<IngestionEffect>, ctx: &mut Context<'_>) {
        let mut to_followers: BTreeMap<u16, Vec<ReplicaRequest>> = BTreeMap::new();
        let mut to_leaders: BTreeMap<u64, Vec<AppendResponse>> = BTreeMap::new();
        for effect in effects {
            match effect {
                IngestionEffect::ToFollower(node, mut request) => {
                    if let (Sabotage::NoEpochStart, Some(core)) = (self.setup.sabotage, self.core.as_ref()) {
                        sabotaged::withhold_start(core, &mut request);
                    }
                    to_followers.entry(node.0 - 1).or_default().push(request);
                }
                IngestionEffect::ToLeader(session, response) => to_leaders.entry(session).or_default().push(response),
                IngestionEffect::Following(partition, epoch) => {
                    let news = Mail::News(ReplicaNews::Following(partition, epoch));
                    ctx.send(self.to(Part::Replication), news);
                }
                IngestionEffect::MoveReady(partition, epoch, to) => {
                    let news = Mail::News(ReplicaNews::MoveReady(partition, epoch, to));
                    ctx.send(self.to(Part::Replication), news);
                }
                IngestionEffect::ReadForFollower { partition, node, epoch, from, slice, max_bytes } => {
                    let mut reader = Reader::new(&self.opener.disk, READER_FILES);
                    let read = slice.read(&mut reader, max_bytes).map_err(|error| error.to_string());
                    let done = ReplicaReadDone { life: self.lives, partition, node, epoch, from, read };
                    later(Mail::ReplicaRead(done), ctx);
                }
                IngestionEffect::DropBefore(partition, before) => self.remove_segments(partition, before, ctx),
                IngestionEffect::Truncate { partition, log, to, below } => {
                    let to = match self.setup.sabotage {
                        Sabotage::CutBelowHighWatermark => TruncateTo::Position(0),
                        _ => to,
                    };
                    let copy = (self.node, partition);
                    committed::is_cut(ctx.oracle, &self.logs_dir, copy, end_of(to));
                    self.cut(TruncateJob { partition, log: Some(log), to, below }, ctx);
                }
                _ => {}
            }
        }
        for (node, requests) in to_followers {
            ctx.send(Address::Node(node, Part::Ingestion(self.shard)), Mail::Replicate(requests));
        }
        for (session, responses) in to_leaders {
            ctx.send(Address::World, Mail::Confirm { session, shard: self.shard, responses });
        }
    }

    /// What the retention actor does about partitions that are led here.
    pub(super) fn drop_old_segments(&mut self, ctx: &mut Context<'_>) {
        let max_bytes = Some(self.setup.retain_bytes).filter(|bytes| *bytes > 0);
        let policy = RetentionPolicy { max_age: None, max_bytes };
        let expiry = |partition: &Partition| {
            let log = partition.log.as_ref().filter(|_| partition.leading_epoch().is_some())?;
            let expiry = expired(&log.segments(), policy, log.high_watermark().position, ctx.now.wall_ns)?;
            Some((partition.id, expiry.keep_from))
        };
        let expired: Vec<_> = self.core.iter().flat_map(IngestionCore::partitions).filter_map(expiry).collect();
        expired.into_iter().for_each(|(partition, before)| self.remove_segments(partition, before, ctx));
    }

    /// Removes the closed segments that end at or below a position.
    fn remove_segments(&mut self, partition: TopicPartition, before: u64, ctx: &mut Context<'_>) {
        let Some(log) = self.core.as_mut().and_then(|core| core.log_mut(partition)) else { return };
        let removed = log.remove_segments_before(before);
        if !removed.is_empty() {
            let log_start = log.log_start().position;
            removals::removing(ctx.oracle, &self.logs_dir, partition, self.node, log_start);
            // What is left is found at the next start.
            let _ = segment::remove(&self.disk, &removed);
        }
    }

    /// Cuts a log, or begins it anew; its mark of what is durable is lowered first.
    fn cut(&mut self, job: TruncateJob, ctx: &mut Context<'_>) {
        let partition = job.partition;
        let end = match job.to {
            TruncateTo::Position(position) => position,
            TruncateTo::Restart(_) => 0,
        };
        if let Some(mark) = self.marks.flushed.get_mut(&partition) {
            *mark = (*mark).min(end);
        }
        losses::cut(ctx.oracle, &self.logs_dir, partition, self.node);
        replicas::cut(ctx.oracle, partition, self.node);
        let opened = match self.flushed.lower(partition, end) {
            Ok(()) => self.opener.truncate(job, ctx.now.wall_ns),
            Err(error) => Opened::failed(partition, error.to_string()),
        };
        opened.result.iter().for_each(|log| self.marks.note_opened(log));
        later(Mail::Truncated(LogCut { life: self.lives, partition, result: Box::new(opened.result) }), ctx);
    }
}

/// Holds whom a leader counts now against what was decided.
fn judge_leader(core: &IngestionCore, partition: TopicPartition, node: u16, ctx: &mut Context<'_>) {
    let known = core.partitions().find(|known| known.id == partition);
    if let Some(leader) = known.and_then(|known| known.leader.as_ref()) {
        decided::acted_upon(ctx.oracle, node, leader);
    }
}

/// What a thread that may wait for the disk hands back.
fn later(mail: Mail, ctx: &mut Context<'_>) {
    let delay_ns = ctx.disk_delay();
    ctx.out.push(Outgoing::Send { from: ctx.me, to: ctx.me, mail, delay_ns });
}

/// Below this position a log stays what it is, or lies below where its leader's begins and is committed.
fn end_of(to: TruncateTo) -> u64 {
    match to {
        TruncateTo::Position(position) => position,
        TruncateTo::Restart(place) => place.position,
    }
}
