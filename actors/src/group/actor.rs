//! `GroupActor`: durable consumer offsets. It appends to `__groups` through ingestion like any producer, and reads
//! it back like any consumer.

use super::compaction::{COMPACTION_CHECK, Compaction};
use super::core::{GROUPS_TOPIC, GroupCore};
use crate::background::run_guarded_interval;
use crate::clock::NodeClock;
use crate::ingestion::actor::{IngestionActor, RegisterConnection, ReplyTo};
use crate::mailbox::Mailbox;
use crate::metadata::actor::{Call, MetadataActor};
use crate::metrics::Metrics;
use crate::network::readers::{SegmentRead, read_committed};
use crate::network::session::answers::CallFailure;
use crate::network::session::{MetadataCall, shard_of};
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, fail, guarded};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use bytes::Bytes;
use hashbrown::HashMap;
use lance_cluster::metadata::MetadataRefusal;
use lance_messages::batch::BatchFlags;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, LeaderEpoch, TopicPartition};
use lance_messages::mail::connection::{Answer, FetchedData, Replies, ShardRestarted};
use lance_messages::mail::group::{CommitOffset, CommittedOffset};
use lance_messages::mail::ingestion::{Fetch, Produce, ProduceRequest};
use lance_messages::wire::topics::{CreateTopicWithConfig, TopicMode};
use lance_storage::disk::Disk;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Mailbox capacity of the group actor.
pub const GROUP_MAILBOX: usize = 4096;
/// The group actor's id as seen by shards.
pub(super) const CONNECTION: ConnectionId = ConnectionId(1);
/// Bytes read at once while offsets are loaded.
const LOAD_BYTES: u32 = 1 << 20;
const RETRY: Duration = Duration::from_millis(100);

/// Every committed offset, for the admin API: topic, partition, consumer, offset.
#[derive(Message)]
#[rtype(result = "Vec<(u32, u16, String, u64)>")]
pub struct ListOffsets;

/// What a group actor is made of.
pub struct GroupSetup {
    /// The metadata actor, which creates the internal topic.
    pub metadata: Mailbox<MetadataActor>,
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// Where the log is.
    pub disk: Arc<dyn Disk>,
    /// The node's clock.
    pub clock: NodeClock,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
}

type Committing = (CommitOffset, oneshot::Sender<Result<(), ErrorCode>>);
type Asking = (CommittedOffset, oneshot::Sender<Result<Option<u64>, ErrorCode>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The topic does not exist: nobody ever committed.
    Empty,
    /// The topic is being created.
    Creating,
    /// Reading the log from this offset on.
    Loading(u64),
    /// Serving.
    Ready,
}

/// The shell of the group core.
pub struct GroupActor {
    pub(super) life: Life,
    pub(super) setup: GroupSetup,
    pub(super) core: Option<GroupCore>,
    pub(super) stage: Stage,
    pub(super) partition: Option<TopicPartition>,
    pub(super) compaction: Compaction,
    waiting: HashMap<u64, oneshot::Sender<Result<(), ErrorCode>>>,
    held_commits: Vec<Committing>,
    held_asks: Vec<Asking>,
    /// Counts what was read of the log: answers to any but the last are late.
    loads: u64,
    /// The leader epoch of the log that was read last.
    epoch: Option<LeaderEpoch>,
}

/// Copies of the log of committed offsets, where there are as many nodes.
const MAX_COPIES: u8 = 3;

impl GroupActor {
    /// A group actor.
    pub fn new(vitals: Arc<Vitals>, policy: RestartPolicy, parent: Recipient<Escalated>, setup: GroupSetup) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            setup,
            core: None,
            stage: Stage::Empty,
            partition: None,
            compaction: Compaction::default(),
            waiting: HashMap::new(),
            held_commits: Vec::new(),
            held_asks: Vec::new(),
            loads: 0,
            epoch: None,
        }
    }

    pub(super) fn shard(&self, partition: TopicPartition) -> Option<&Mailbox<IngestionActor>> {
        self.setup.shards.get(usize::from(shard_of(partition, self.setup.shards.len() as u16)))
    }

    fn find_topic(&mut self) {
        let view = self.setup.view.load();
        self.partition = view.internal_topic(GROUPS_TOPIC).map(|topic| TopicPartition::new(topic, 0));
    }

    fn load(&mut self, offset: u64) {
        self.stage = Stage::Loading(offset);
        self.loads += 1;
        let Some(partition) = self.partition else { return };
        let Some(shard) = self.shard(partition).cloned() else {
            return;
        };
        let fetch = Fetch {
            connection: CONNECTION,
            request: self.loads,
            part: 0,
            partition,
            offset,
            max_bytes: LOAD_BYTES,
            max_wait: Duration::ZERO,
            compressed: false,
            trace: None,
        };
        actix_rt::spawn(async move {
            let _ = shard.send(fetch).await;
        });
    }

    /// Whether this node keeps offsets at the moment; what others wrote while they did is read first.
    fn keeps_offsets(&mut self) -> bool {
        let Some(partition) = self.partition else { return true };
        let view = self.setup.view.load_full();
        let Some((leader, epoch)) = view.leadership(partition) else { return true };
        if leader != view.node {
            return false;
        }
        if self.epoch.replace(epoch).is_some_and(|before| before != epoch)
            && matches!(self.stage, Stage::Ready | Stage::Loading(_))
        {
            self.load_anew();
        }
        true
    }

    fn load_anew(&mut self) {
        self.core = self.core.as_ref().map(GroupCore::after);
        self.compaction.abandon();
        self.load(0);
    }

    fn loaded(&mut self, data: &[u8], next_offset: u64, ctx: &mut Context<Self>) {
        let replayed = guarded(self, ctx, |actor, _| -> Result<(), Infallible> {
            let Some(core) = actor.core.as_mut() else { return Ok(()) };
            if let Err(error) = core.on_replay(data) {
                tracing::error!(%error, next_offset, "committed offsets are incomplete");
            }
            actor.setup.metrics.undecodable_group_records.set(core.undecodable());
            Ok(())
        });
        if replayed.is_some() {
            self.load(next_offset);
        }
    }

    fn on_loading(&mut self, answer: Answer<SegmentRead>, offset: u64, ctx: &mut Context<Self>) {
        let Answer::Fetched { result, .. } = answer else { return };
        match result {
            Ok((_, FetchedData::Tail { data, next_offset, .. })) => self.loaded(&data, next_offset, ctx),
            Ok((bounds, FetchedData::Segments(read))) => {
                // A compacted log begins later than it was asked for.
                let offset = offset.max(bounds.log_start_offset);
                let disk = Arc::clone(&self.setup.disk);
                let reading = actix_rt::task::spawn_blocking(move || read_committed(&disk, &read, offset, LOAD_BYTES));
                let reading = actix::fut::wrap_future::<_, Self>(reading);
                ctx.wait(reading.map(move |read, actor, ctx| match read {
                    Ok(Ok((data, next_offset))) => actor.loaded(&data, next_offset, ctx),
                    Ok(Err(error)) => {
                        // A restart would read the same: the node goes on without its offsets until they can be read.
                        tracing::error!(%error, "committed offsets cannot be read");
                        actor.load_later(offset, ErrorCode::StorageOffline, ctx);
                    }
                    Err(error) => fail(actor, ctx, format!("reading committed offsets was interrupted: {error}")),
                }));
            }
            Ok((_, FetchedData::Empty | FetchedData::BeyondEnd)) => {
                self.stage = Stage::Ready;
                self.life.vitals.set_state(ActorState::Running);
                self.serve_held(ctx);
            }
            Err(code) => self.load_later(offset, code, ctx),
        }
    }

    /// Who waits hears why; the log is read on from `offset` a little later, unless it is read anew before.
    fn load_later(&mut self, offset: u64, code: ErrorCode, ctx: &mut Context<Self>) {
        self.refuse_held(code);
        let load = self.loads;
        ctx.run_later(RETRY, move |actor, _| {
            if actor.loads == load {
                actor.load(offset);
            }
        });
    }

    fn refuse_held(&mut self, code: ErrorCode) {
        for (_, answer) in self.held_commits.drain(..) {
            // The connection may be gone.
            let _ = answer.send(Err(code));
        }
        for (_, answer) in self.held_asks.drain(..) {
            let _ = answer.send(Err(code));
        }
    }

    pub(super) fn serve_held(&mut self, ctx: &mut Context<Self>) {
        for (asked, answer) in std::mem::take(&mut self.held_asks) {
            self.answer(asked, answer);
        }
        for (commit, answer) in std::mem::take(&mut self.held_commits) {
            self.commit(commit, answer, ctx);
        }
    }

    fn answer(&mut self, asked: CommittedOffset, answer: oneshot::Sender<Result<Option<u64>, ErrorCode>>) {
        let found = self.core.as_ref().and_then(|core| core.committed(asked.partition, asked.consumer_id));
        // The connection may be gone.
        let _ = answer.send(Ok(found));
    }

    fn commit(
        &mut self,
        commit: CommitOffset,
        answer: oneshot::Sender<Result<(), ErrorCode>>,
        ctx: &mut Context<Self>,
    ) {
        let now = self.setup.clock.now();
        let appended = guarded(self, ctx, |actor, _| match actor.core.as_mut() {
            Some(core) => {
                core.on_commit(commit.partition, commit.consumer_id, commit.offset, now.wall_ns / 1_000_000).map(Some)
            }
            None => Ok(None),
        });
        let Some(Some((request, record))) = appended else {
            return;
        };
        let Some(partition) = self.partition else { return };
        let Some(shard) = self.shard(partition).cloned() else {
            return;
        };
        self.waiting.insert(request, answer);
        self.compaction.note_append();
        let records = Bytes::from(record);
        let produce = ProduceRequest {
            request,
            partition,
            records_crc: crc32fast::hash(&records),
            plain_len: records.len() as u32,
            records,
            record_count: 1,
            flags: BatchFlags::RECORDS,
            timestamp_ns: now.wall_ns,
            producer: None,
            trace: None,
        };
        let message = Produce { connection: CONNECTION, requests: vec![produce] };
        actix_rt::spawn(async move {
            let _ = shard.send(message).await;
        });
    }

    fn create_topic(&mut self, ctx: &mut Context<Self>) {
        self.stage = Stage::Creating;
        let nodes = u8::try_from(self.setup.view.load().nodes.len()).unwrap_or(MAX_COPIES);
        let create = CreateTopicWithConfig {
            name: GROUPS_TOPIC.to_owned(),
            partitions: Some(1),
            replication_factor: Some(nodes.clamp(1, MAX_COPIES)),
            mode: Some(TopicMode::L2),
            max_age_secs: Some(0),
            max_bytes: Some(0),
        };
        let created = self.setup.metadata.send(Call(MetadataCall::CreateTopic(create)));
        let created = actix::fut::wrap_future::<_, Self>(created);
        ctx.spawn(created.map(|created, actor, _| match created {
            Ok(Ok(_) | Err(CallFailure::Refused(MetadataRefusal::TopicExists { .. }))) => {
                actor.find_topic();
                actor.load(0);
            }
            other => {
                tracing::warn!(?other, "the topic of committed offsets could not be created");
                actor.refuse_held(ErrorCode::Unavailable);
                actor.stage = Stage::Empty;
            }
        }));
    }
}

supervised_shell!(GroupActor, GROUP_MAILBOX);

impl Shell for GroupActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// Who waits hears that the outcome is unknown.
    fn drop_core(&mut self, _: &mut Self::Context) {
        // Counters are all that is kept of it.
        self.core = self.core.as_ref().map(GroupCore::after);
        self.compaction.abandon();
        self.waiting.clear();
        self.held_commits.clear();
        self.held_asks.clear();
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        self.core.get_or_insert_default();
        self.life.vitals.set_state(ActorState::Recovering);
        let registrations: Vec<_> = self
            .setup
            .shards
            .iter()
            .map(|shard| {
                let address = ctx.address();
                let reply_to = ReplyTo { replies: address.clone().recipient(), restarted: address.recipient() };
                shard.addr().send(RegisterConnection { connection: CONNECTION, reply_to })
            })
            .collect();
        let register = async move {
            for registration in registrations {
                let _ = registration.await;
            }
        };
        run_guarded_interval(ctx, COMPACTION_CHECK, Self::consider_compaction);
        ctx.wait(actix::fut::wrap_future::<_, Self>(register).map(|(), actor, _| {
            actor.find_topic();
            if actor.partition.is_some() {
                actor.load(0);
            } else {
                actor.stage = Stage::Empty;
                actor.life.vitals.set_state(ActorState::Running);
            }
        }));
    }
}

impl Handler<CommitOffset> for GroupActor {
    type Result = ResponseFuture<Result<(), ErrorCode>>;

    fn handle(&mut self, message: CommitOffset, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let (sender, receiver) = oneshot::channel();
        if self.stage == Stage::Empty {
            self.find_topic();
            if self.partition.is_some() { self.load(0) } else { self.create_topic(ctx) }
        }
        if !self.keeps_offsets() {
            return Box::pin(async { Err(ErrorCode::NotLeader) });
        }
        if self.stage == Stage::Ready && !self.compaction.holds_commits() {
            self.commit(message, sender, ctx);
        } else {
            self.held_commits.push((message, sender));
        }
        Box::pin(async move { receiver.await.unwrap_or(Err(ErrorCode::OutcomeUnknown)) })
    }
}

impl Handler<CommittedOffset> for GroupActor {
    type Result = ResponseFuture<Result<Option<u64>, ErrorCode>>;

    fn handle(&mut self, message: CommittedOffset, _: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let (sender, receiver) = oneshot::channel();
        if self.stage == Stage::Empty {
            self.find_topic();
            if self.partition.is_some() {
                self.load(0);
            }
        }
        if !self.keeps_offsets() {
            return Box::pin(async { Err(ErrorCode::NotLeader) });
        }
        match self.stage {
            Stage::Ready | Stage::Empty => self.answer(message, sender),
            Stage::Creating | Stage::Loading(_) => self.held_asks.push((message, sender)),
        }
        Box::pin(async move { receiver.await.unwrap_or(Err(ErrorCode::Unavailable)) })
    }
}

impl Handler<Replies<SegmentRead>> for GroupActor {
    type Result = ();

    fn handle(&mut self, message: Replies<SegmentRead>, ctx: &mut Self::Context) {
        for reply in message.replies {
            match (reply.answer, self.stage) {
                (Answer::Produced(result), _) if self.compaction.awaits(reply.request) => {
                    self.on_snapshot_appended(reply.request, result.err(), ctx);
                }
                (Answer::Produced(result), _) => {
                    let request = reply.request;
                    let known = guarded(self, ctx, |actor, _| -> Result<bool, std::convert::Infallible> {
                        Ok(actor.core.as_mut().is_some_and(|core| core.on_appended(request, result.is_ok())))
                    });
                    if known == Some(false) && result.is_ok() && self.stage == Stage::Ready {
                        // A commit of an earlier core came into the log behind what was read of it.
                        self.load_anew();
                    }
                    if let Some(waiting) = self.waiting.remove(&request) {
                        let _ = waiting.send(result.map(|_| ()));
                    }
                    self.write_snapshot_when_settled(ctx);
                }
                (answer @ Answer::Fetched { .. }, Stage::Loading(offset)) if reply.request == self.loads => {
                    self.on_loading(answer, offset, ctx);
                }
                _ => {}
            }
        }
    }
}

impl Handler<ShardRestarted> for GroupActor {
    type Result = ();

    /// What was being appended may or may not be there: the log says.
    fn handle(&mut self, message: ShardRestarted, _: &mut Self::Context) {
        let Some(partition) = self.partition else { return };
        if message.shard != shard_of(partition, self.setup.shards.len() as u16) {
            return;
        }
        for (_, waiting) in self.waiting.drain() {
            let _ = waiting.send(Err(ErrorCode::OutcomeUnknown));
        }
        if matches!(self.stage, Stage::Ready | Stage::Loading(_)) {
            self.load_anew();
        }
    }
}

impl Handler<ListOffsets> for GroupActor {
    type Result = MessageResult<ListOffsets>;

    fn handle(&mut self, _: ListOffsets, _: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let Some(core) = self.core.as_ref() else {
            return MessageResult(Vec::new());
        };
        let rows = core.offsets().iter().map(|(key, committed)| {
            let consumer = match &key.consumer {
                lance_cluster::group::offsets::ConsumerKey::Id(id) => id.to_string(),
                lance_cluster::group::offsets::ConsumerKey::Group(name) => name.clone(),
            };
            (key.partition.topic.0, key.partition.partition, consumer, committed.offset)
        });
        MessageResult(rows.collect())
    }
}
