//! What others may ask of a shard's logs beside the data path: status, segments, their removal, and an end to appends.

use super::actor::IngestionActor;
use super::partition::{Leadership, Partition};
use crate::mailbox::Mailbox;
use actix::prelude::*;
use futures_util::future::join_all;
use lance_messages::id::NodeId;
use lance_messages::id::TopicPartition;
use lance_storage::disk::DiskError;
use lance_storage::retention::SegmentFacts;
use lance_storage::segment::{self, Segment};
use std::sync::Arc;
use std::time::Duration;

/// Asks for the status of every partition of the shard.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<PartitionStatus>")]
pub struct DescribePartitions;

/// How one partition stands; all numbers are log positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Which one.
    pub partition: TopicPartition,
    /// `opening`, `electing`, `serving`, `read_only` or `stopped`.
    pub state: &'static str,
    /// Why it takes no records.
    pub reason: Option<String>,
    /// The first position still there.
    pub log_start: u64,
    /// Everything below is committed.
    pub high_watermark: u64,
    /// Everything below survives a power cut.
    pub durable_end: u64,
    /// Where the next batch goes.
    pub log_end: u64,
    /// The followers of a partition that is led here.
    pub followers: Vec<FollowerStatus>,
}

/// How far one follower is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerStatus {
    /// Its node.
    pub node: NodeId,
    /// Log position below which it has synced everything; `None` until it has said so.
    pub acked: Option<u64>,
}

/// How long a shard may take before a listing goes on without it.
const SHARD_PATIENCE: Duration = Duration::from_secs(2);

/// How the partitions of these shards stand; those of a shard that is recovering are left out.
pub async fn describe_partitions(shards: &[Mailbox<IngestionActor>]) -> Vec<PartitionStatus> {
    let asked = shards.iter().map(|shard| tokio::time::timeout(SHARD_PATIENCE, shard.send(DescribePartitions)));
    let answers = join_all(asked.collect::<Vec<_>>()).await;
    answers.into_iter().filter_map(|answer| answer.ok()?.ok()).flatten().collect()
}

/// Asks what retention has to know of these partitions.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Vec<PartitionSegments>")]
pub struct ListSegments {
    /// Which ones; those that are not open are left out of the answer.
    pub partitions: Vec<TopicPartition>,
}

/// The segments of one partition.
#[derive(Clone, Debug)]
pub struct PartitionSegments {
    /// Which one.
    pub partition: TopicPartition,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentFacts>,
    /// Log position of its high watermark.
    pub high_watermark: u64,
}

/// Asks for the closed segments of these partitions, for the scrubber.
#[derive(Clone, Debug, Message)]
#[rtype(result = "Vec<Arc<Segment>>")]
pub struct ListClosedSegments {
    /// Which ones; those that are not open are left out of the answer.
    pub partitions: Vec<TopicPartition>,
}

/// Removes the closed segments that end at or below a log position; answered once their files are gone.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<RemovedSegments, RemoveError>")]
pub struct RemoveSegments {
    /// Of which partition.
    pub partition: TopicPartition,
    /// The new log start, at most.
    pub before: u64,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedSegments {
    /// How many segments.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why segments were not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The partition is not open here.
    #[error("partition {0} is not open on this node")]
    NotOpen(TopicPartition),
    /// The disk; what is left is found at the next start.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The thread that deletes files ended.
    #[error("the removal of segments of {0} was interrupted")]
    Interrupted(TopicPartition),
}

/// Whether there is room for appends; sent again and again, since a restarted shard knows nothing of it. The answer
/// is how many partitions wait for space.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "u64")]
pub struct SetAppendsAllowed(pub bool);

impl PartitionStatus {
    fn of(partition: &Partition) -> Self {
        let (state, reason) = match &partition.leadership {
            Leadership::Stopped { reason } => ("stopped", Some(reason.clone())),
            _ if partition.log.is_none() => ("opening", None),
            _ if partition.is_read_only() => ("read_only", Some("no space left: its epoch cannot begin".to_owned())),
            Leadership::Waiting | Leadership::Starting { .. } => ("electing", None),
            Leadership::Leading { .. } => ("serving", None),
            Leadership::Following { .. } => ("following", None),
        };
        let log = partition.log.as_ref();
        let followers = partition.leader.iter().flat_map(|leader| &leader.followers);
        let followers = followers.map(|follower| FollowerStatus { node: follower.node, acked: follower.flow.acked() });
        Self {
            partition: partition.id,
            state,
            reason,
            log_start: log.map_or(0, |log| log.log_start().position),
            high_watermark: log.map_or(0, |log| log.high_watermark().position),
            durable_end: log.map_or(0, lance_storage::log::Log::durable_end),
            log_end: log.map_or(0, lance_storage::log::Log::log_end),
            followers: followers.collect(),
        }
    }
}

impl Handler<DescribePartitions> for IngestionActor {
    type Result = Vec<PartitionStatus>;

    fn handle(&mut self, _: DescribePartitions, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let mut found = Vec::new();
        self.with_core(ctx, |core, _, _| found = core.partitions().map(PartitionStatus::of).collect());
        found
    }
}

impl Handler<ListSegments> for IngestionActor {
    type Result = Vec<PartitionSegments>;

    fn handle(&mut self, message: ListSegments, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let mut found = Vec::new();
        self.with_core(ctx, |core, _, _| {
            for partition in message.partitions {
                let Some(log) = core.log_mut(partition) else { continue };
                let (segments, high_watermark) = (log.segments(), log.high_watermark().position);
                found.push(PartitionSegments { partition, segments, high_watermark });
            }
        });
        found
    }
}

impl Handler<ListClosedSegments> for IngestionActor {
    type Result = Vec<Arc<Segment>>;

    fn handle(&mut self, message: ListClosedSegments, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let mut found = Vec::new();
        self.with_core(ctx, |core, _, _| {
            for partition in message.partitions {
                if let Some(log) = core.log_mut(partition) {
                    found.extend(log.closed_segments().cloned());
                }
            }
        });
        found
    }
}

impl Handler<RemoveSegments> for IngestionActor {
    type Result = ResponseFuture<Result<RemovedSegments, RemoveError>>;

    fn handle(&mut self, message: RemoveSegments, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let RemoveSegments { partition, before } = message;
        let mut removed: Option<Vec<Arc<Segment>>> = None;
        self.with_core(ctx, |core, _, _| {
            removed = core.log_mut(partition).map(|log| log.remove_segments_before(before));
        });
        let disk = Arc::clone(&self.setup.opener.disk);
        Box::pin(async move {
            let segments = removed.ok_or(RemoveError::NotOpen(partition))?;
            if segments.is_empty() {
                return Ok(RemovedSegments::default());
            }
            let bytes =
                segments.iter().filter_map(|segment| Some(segment.end()?.mark.position - segment.base().position));
            let done = RemovedSegments { segments: segments.len(), bytes: bytes.sum() };
            // The files are deleted away from the shard's thread, and to the end whoever still waits for it.
            let removal = actix_rt::task::spawn_blocking(move || segment::remove(&*disk, &segments));
            removal.await.map_err(|_| RemoveError::Interrupted(partition))??;
            Ok(done)
        })
    }
}

impl Handler<SetAppendsAllowed> for IngestionActor {
    type Result = u64;

    fn handle(&mut self, message: SetAppendsAllowed, ctx: &mut Self::Context) -> u64 {
        self.life.vitals.message_taken();
        let mut waiting = 0;
        self.with_core(ctx, |core, _, _| {
            core.set_appends_allowed(message.0);
            waiting = core.partitions().filter(|partition| partition.no_space).count() as u64;
        });
        waiting
    }
}
