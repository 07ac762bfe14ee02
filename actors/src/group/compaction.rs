//! How `__groups` stays small: once it has rolled, a snapshot of all offsets is appended, and the segments that end before
//! it go.
//!
//! Commits wait while a snapshot is taken and written, so that it voids none. A crash at any point is harmless: until
//! its last record is there a snapshot counts for nothing, and nothing is removed before it is durable.

use super::actor::{CONNECTION, FIRST_SNAPSHOT, GroupActor, Stage};
use crate::background::spawn_guarded;
use crate::ingestion::maintenance::{ListSegments, PartitionSegments, RemoveSegments};
use crate::supervision::shell::guarded;
use actix::prelude::*;
use hashbrown::HashSet;
use lance_messages::error_code::ErrorCode;
use lance_messages::mail::ingestion::{Produce, ProduceRequest};
use std::time::Duration;

/// How often a log that has grown is looked at.
pub const COMPACTION_CHECK: Duration = Duration::from_secs(1);
/// A log is compacted when it can lose this many times what its last snapshot took.
const WORTH: u64 = 2;

/// Where the compaction of `__groups` stands.
#[derive(Debug, Default)]
pub struct Compaction {
    stage: Progress,
    /// Something was appended since the log was looked at.
    grown: bool,
    /// Bytes of the last snapshot.
    snapshot_bytes: u64,
    /// Parts of snapshots written so far.
    parts: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    None,
    /// Commits under way are waited for; everything below this log position will be in the snapshot.
    Settling { covers: u64 },
    /// The snapshot is being written, by these requests.
    Writing { covers: u64, requests: HashSet<u64>, failed: Option<ErrorCode> },
}

impl Compaction {
    /// Whether commits have to wait.
    pub fn holds_commits(&self) -> bool {
        self.stage != Progress::None
    }

    /// The log grows.
    pub fn note_append(&mut self) {
        self.grown = true;
    }

    /// What is being written may or may not be there; neither matters.
    pub fn abandon(&mut self) {
        self.stage = Progress::None;
        self.grown = true;
    }
}

impl GroupActor {
    /// Looks whether the log has rolled since it was compacted.
    pub(super) fn consider_compaction(&mut self, ctx: &mut Context<Self>) {
        if self.stage != Stage::Ready || self.compaction.holds_commits() || !self.compaction.grown {
            return;
        }
        let Some(partition) = self.partition else { return };
        let Some(shard) = self.shard(partition).cloned() else { return };
        self.compaction.grown = false;
        let listed = async move { shard.send(ListSegments { partitions: vec![partition] }).await };
        spawn_guarded(ctx, listed, |listed, actor, ctx| {
            // What a recovering shard cannot say is asked again.
            match listed.ok().and_then(|found| found.into_iter().next()) {
                Some(found) => actor.on_segments(&found, ctx),
                None => actor.compaction.grown = true,
            }
        });
    }

    fn on_segments(&mut self, found: &PartitionSegments, ctx: &mut Context<Self>) {
        let closed = found.segments.iter().take_while(|segment| segment.closed);
        let (bytes, covers) = closed.fold((0, 0), |(bytes, _), segment| {
            (bytes + segment.end_position - segment.base_position, segment.end_position)
        });
        let worth = bytes > 0 && bytes >= WORTH * self.compaction.snapshot_bytes;
        if !worth || self.stage != Stage::Ready || self.compaction.holds_commits() {
            return;
        }
        self.compaction.stage = Progress::Settling { covers };
        self.write_snapshot_when_settled(ctx);
    }

    /// Writes the snapshot once no commit is under way that it would void.
    pub(super) fn write_snapshot_when_settled(&mut self, ctx: &mut Context<Self>) {
        let Progress::Settling { covers } = self.compaction.stage else { return };
        let batches = guarded(self, ctx, |actor, _| match actor.core.as_mut() {
            Some(core) if core.coordinator.is_settled() => core.snapshot().map(Some),
            _ => Ok(None),
        });
        let Some(Some(batches)) = batches else { return };
        self.compaction.snapshot_bytes = batches.iter().map(|batch| batch.bytes.len() as u64).sum();
        let parts: Vec<ProduceRequest> = batches
            .into_iter()
            .filter_map(|batch| {
                self.compaction.parts += 1;
                self.append_request(FIRST_SNAPSHOT + self.compaction.parts, batch.bytes, batch.record_count)
            })
            .collect();
        let requests = parts.iter().map(|part| part.request).collect();
        // Into the mailbox at once or not at all: it must stand before whatever is sent from now on.
        let message = Produce { connection: CONNECTION, requests: parts };
        let sent = self.groups_shard().filter(|_| !self.sending).and_then(|shard| shard.try_send(message).ok());
        match sent {
            Some(()) => self.compaction.stage = Progress::Writing { covers, requests, failed: None },
            None => self.end_compaction(ctx),
        }
    }

    /// A part of the snapshot is durable, or was refused.
    pub(super) fn on_snapshot_appended(&mut self, request: u64, refusal: Option<ErrorCode>, ctx: &mut Context<Self>) {
        let Progress::Writing { covers, requests, failed } = &mut self.compaction.stage else { return };
        if !requests.remove(&request) {
            return;
        }
        *failed = failed.or(refusal);
        if !requests.is_empty() {
            return;
        }
        let (covers, failed) = (*covers, *failed);
        match failed {
            None => self.remove_covered(covers, ctx),
            Some(code) => tracing::warn!(%code, "the snapshot of committed offsets was not written: later again"),
        }
        self.end_compaction(ctx);
    }

    fn end_compaction(&mut self, ctx: &mut Context<Self>) {
        self.compaction.abandon();
        if self.stage == Stage::Ready {
            self.serve_held(ctx);
        }
    }

    fn remove_covered(&self, before: u64, ctx: &mut Context<Self>) {
        let Some(partition) = self.partition else { return };
        let Some(shard) = self.shard(partition).cloned() else { return };
        let removed = async move { shard.send(RemoveSegments { partition, before }).await };
        spawn_guarded(ctx, removed, move |removed, _, _| match removed {
            Ok(Ok(removed)) => {
                tracing::info!(%partition, segments = removed.segments, bytes = removed.bytes, "compacted");
            }
            Ok(Err(error)) => tracing::warn!(%partition, %error, "segments before a snapshot could not be removed"),
            Err(error) => tracing::warn!(%partition, %error, "segments before a snapshot could not be removed"),
        });
    }
}
