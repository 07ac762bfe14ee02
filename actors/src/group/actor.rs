//! `GroupActor`: consumer groups and durable offsets. It appends to `__groups` through ingestion like any producer, and
//! reads it back like any consumer.

use super::compaction::{COMPACTION_CHECK, Compaction};
use super::core::{GROUPS_TOPIC, GroupCore};
use super::describing::{Asker, DescribeAllGroups, LAG_INTERVAL};
use super::lag::LagBook;
use super::requests::{Catalog, Held, Waiting};
use crate::background::run_guarded_interval;
use crate::clock::NodeClock;
use crate::forward::actor::ForwardActor;
use crate::ingestion::actor::{IngestionActor, RegisterConnection, ReplyTo};
use crate::ingestion::damage;
use crate::lease::LeaseWatch;
use crate::mailbox::Mailbox;
use crate::metadata::actor::{Call, MetadataActor};
use crate::metrics::Metrics;
use crate::network::readers::{ReadFailure, SegmentRead, read_committed};
use crate::network::session::answers::CallFailure;
use crate::network::session::{MetadataCall, shard_of};
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, fail, guarded};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use hashbrown::HashMap;
use lance_cluster::metadata::MetadataRefusal;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{ConnectionId, LeaderEpoch, TopicPartition};
use lance_messages::mail::connection::{Answer, FetchedData, Replies, ShardRestarted};
use lance_messages::mail::group::{AskGroup, CommitOffset, CommittedOffset};
use lance_messages::mail::ingestion::{Fetch, ProduceRequest};
use lance_messages::wire::Response;
use lance_messages::wire::topics::{CreateTopicWithConfig, TopicMode};
use lance_storage::disk::Disk;
use serde_json::Value;
use std::collections::BTreeSet;
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
/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(50);
/// A node that was stopped for so long has not heard members that tried: their sessions begin anew.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Requests from this number on are look-ups, those below appends.
pub(super) const FIRST_LOOK_UP: u64 = 1 << 62;
/// And from this on parts of a snapshot.
pub(super) const FIRST_SNAPSHOT: u64 = 1 << 63;

/// What a group actor is made of.
pub struct GroupSetup {
    /// The metadata actor, which creates the internal topic.
    pub metadata: Mailbox<MetadataActor>,
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
    /// Asks other nodes.
    pub forward: Mailbox<ForwardActor>,
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// Until when nobody can have taken this node's place.
    pub lease: LeaseWatch,
    /// Where the log is.
    pub disk: Arc<dyn Disk>,
    /// The node's clock.
    pub clock: NodeClock,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
}

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
    pub(super) waiting: HashMap<u64, Waiting>,
    pub(super) held: Vec<Held>,
    pub(super) next_token: u64,
    /// Appends that are still to be sent, and whether some wait for room.
    pub(super) outgoing: Vec<ProduceRequest>,
    pub(super) sending: bool,
    /// Lags, who asked for them, and who will be answered with those that are being looked up.
    pub(super) lags: LagBook,
    pub(super) asked: Vec<Asker>,
    pub(super) answering: Vec<Asker>,
    /// The metrics want to know too.
    pub(super) shows: bool,
    pub(super) rounds: u64,
    /// When it was last looked what is due.
    ticked: Option<Duration>,
    /// The metadata that was looked at for deleted topics.
    swept: u64,
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
            held: Vec::new(),
            next_token: 0,
            outgoing: Vec::new(),
            sending: false,
            lags: LagBook::new(FIRST_LOOK_UP),
            asked: Vec::new(),
            answering: Vec::new(),
            shows: false,
            rounds: 0,
            ticked: None,
            swept: 0,
            loads: 0,
            epoch: None,
        }
    }

    pub(super) fn shard(&self, partition: TopicPartition) -> Option<&Mailbox<IngestionActor>> {
        self.setup.shards.get(usize::from(shard_of(partition, self.setup.shards.len() as u16)))
    }

    pub(super) fn find_topic(&mut self) {
        let view = self.setup.view.load();
        self.partition = view.internal_topic(GROUPS_TOPIC).map(|topic| TopicPartition::new(topic, 0));
    }

    pub(super) fn load(&mut self, offset: u64) {
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
            stored: false,
            near: false,
            trace: None,
        };
        actix_rt::spawn(async move {
            let _ = shard.send(fetch).await;
        });
    }

    /// Whether this node keeps offsets at the moment; what others wrote while they did is read first.
    pub(super) fn keeps_offsets(&mut self) -> bool {
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

    pub(super) fn load_anew(&mut self) {
        self.core = self.core.as_ref().map(GroupCore::after);
        self.compaction.abandon();
        self.outgoing.clear();
        self.ticked = None;
        // What is being appended may or may not be there: the log says.
        self.refuse_waiting(ErrorCode::OutcomeUnknown);
        self.load(0);
    }

    /// Whether nobody else can coordinate at the moment.
    pub(super) fn leads_for_sure(&self) -> bool {
        let now = self.setup.clock.now().elapsed;
        self.setup.view.load().is_alone() || self.setup.lease.holds(now)
    }

    /// Does what is due by time, or by topics that changed.
    fn tick(&mut self, ctx: &mut Context<Self>) {
        if self.stage == Stage::Empty {
            self.find_topic();
            if self.partition.is_some_and(|partition| self.setup.view.load().leads(partition)) {
                self.load(0);
            }
        }
        if self.stage != Stage::Ready || self.compaction.holds_commits() || !self.keeps_offsets() {
            return;
        }
        // Another stage, if the log is of another epoch by now.
        if self.stage != Stage::Ready {
            return;
        }
        let now = self.setup.clock.now().elapsed;
        if self.ticked.replace(now).is_some_and(|before| now - before > LONG_PAUSE) {
            return self.load_anew();
        }
        let view = self.setup.view.load_full();
        let due = |core: &GroupCore| core.coordinator.next_deadline().is_some_and(|due| due <= now);
        let changed = self.swept != view.applied;
        if !changed && !self.core.as_ref().is_some_and(due) {
            return;
        }
        self.swept = view.applied;
        self.decide(ctx, |core, view, now, wall_ms, effects| {
            if changed {
                let topics: BTreeSet<_> =
                    core.coordinator.offsets().iter().map(|(key, _)| key.partition.topic).collect();
                for topic in topics.into_iter().filter(|topic| view.is_deleted(*topic)) {
                    core.coordinator.on_topic_deleted(topic, effects);
                }
            }
            core.coordinator.on_tick(now, wall_ms, &Catalog(view), effects);
        });
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
                        let code = actor.on_read_failed(&error);
                        actor.load_later(offset, code, ctx);
                    }
                    Err(error) => fail(actor, ctx, format!("reading committed offsets was interrupted: {error}")),
                }));
            }
            Ok((_, FetchedData::Empty | FetchedData::BeyondEnd)) => {
                self.stage = Stage::Ready;
                self.decide(ctx, |core, _, now, _, _| core.coordinator.on_loaded(now));
                self.life.vitals.set_state(ActorState::Running);
                self.serve_held(ctx);
            }
            Err(code) => self.load_later(offset, code, ctx),
        }
    }

    /// Tells of damage; answers what those who asked hear.
    pub(super) fn on_read_failed(&self, failure: &ReadFailure) -> ErrorCode {
        if let Some(found) = failure.damage() {
            self.setup.metrics.damaged_batches.add(1);
            damage::report(&self.setup.shards, found);
        }
        failure.code(&self.setup.view.load())
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
        self.held.drain(..).for_each(|request| request.refuse(code));
    }

    pub(super) fn create_topic(&mut self, ctx: &mut Context<Self>) {
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
        self.refuse_waiting(ErrorCode::OutcomeUnknown);
        self.held.clear();
        self.outgoing.clear();
        self.sending = false;
        self.asked.clear();
        self.answering.clear();
        self.lags.abandon();
        self.ticked = None;
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
        let address = ctx.address();
        let reply_to = ReplyTo { replies: address.clone().recipient(), restarted: address.recipient() };
        let forward = self.setup.forward.addr().send(RegisterConnection { connection: CONNECTION, reply_to });
        let register = async move {
            for registration in registrations {
                let _ = registration.await;
            }
            let _ = forward.await;
        };
        run_guarded_interval(ctx, TICK, Self::tick);
        run_guarded_interval(ctx, LAG_INTERVAL, Self::refresh_lags);
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
        self.take(Held::Commit(message, sender), ctx);
        Box::pin(async move { receiver.await.unwrap_or(Err(ErrorCode::OutcomeUnknown)) })
    }
}

impl Handler<CommittedOffset> for GroupActor {
    type Result = ResponseFuture<Result<Option<u64>, ErrorCode>>;

    fn handle(&mut self, message: CommittedOffset, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let (sender, receiver) = oneshot::channel();
        self.take(Held::Committed(message, sender), ctx);
        Box::pin(async move { receiver.await.unwrap_or(Err(ErrorCode::Unavailable)) })
    }
}

impl Handler<AskGroup> for GroupActor {
    type Result = ResponseFuture<Result<Response, ErrorCode>>;

    fn handle(&mut self, message: AskGroup, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let (sender, receiver) = oneshot::channel();
        self.take(Held::Group(message, sender), ctx);
        Box::pin(async move { receiver.await.unwrap_or(Err(ErrorCode::OutcomeUnknown)) })
    }
}

impl Handler<DescribeAllGroups> for GroupActor {
    type Result = ResponseFuture<Option<Value>>;

    fn handle(&mut self, _: DescribeAllGroups, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let (sender, receiver) = oneshot::channel();
        self.list(sender, ctx);
        Box::pin(async move { receiver.await.ok() })
    }
}

impl Handler<Replies<SegmentRead>> for GroupActor {
    type Result = ();

    fn handle(&mut self, message: Replies<SegmentRead>, ctx: &mut Self::Context) {
        for reply in message.replies {
            match (reply.answer, self.stage) {
                (Answer::Produced(result), _) if reply.request >= FIRST_SNAPSHOT => {
                    self.on_snapshot_appended(reply.request, result.err(), ctx);
                }
                (Answer::Produced(result), _) => self.on_appended(reply.request, result.is_ok(), ctx),
                (Answer::LookedUp(result), _) => self.on_looked_up(reply.request, result, ctx),
                (Answer::LookUpSegments(read, query), _) => self.on_look_up_segments(reply.request, read, query, ctx),
                (answer @ Answer::Fetched { .. }, Stage::Loading(offset)) if reply.request == self.loads => {
                    self.on_loading(answer, offset, ctx);
                }
                _ => {}
            }
        }
    }
}

impl GroupActor {
    fn on_appended(&mut self, append: u64, durable: bool, ctx: &mut Context<Self>) {
        let (mut known, mut failed) = (true, false);
        self.decide(ctx, |core, _, _, _, effects| {
            known = core.coordinator.on_appended(append, durable, effects);
            failed = core.coordinator.needs_reload();
        });
        let read_too_early = !known && durable && self.stage == Stage::Ready;
        if read_too_early || (failed && matches!(self.stage, Stage::Ready)) {
            // The log has what was not read of it, or nobody knows what it has.
            self.load_anew();
        }
        self.write_snapshot_when_settled(ctx);
    }
}

impl Handler<ShardRestarted> for GroupActor {
    type Result = ();

    fn handle(&mut self, message: ShardRestarted, _: &mut Self::Context) {
        let Some(partition) = self.partition else { return };
        let groups = shard_of(partition, self.setup.shards.len() as u16);
        if message.shard == groups && matches!(self.stage, Stage::Ready | Stage::Loading(_)) {
            self.load_anew();
        }
    }
}
