//! How groups stand, with how far they are behind: for tools, the admin interface and the metrics.

use super::actor::{CONNECTION, GroupActor, Stage};
use super::lag::{LookUp, Place};
use crate::background::spawn_guarded;
use crate::forward::actor::DescribeGroupsElsewhere;
use crate::metrics::{GroupLag, GroupsShown};
use crate::network::readers::{SegmentRead, look_up};
use actix::prelude::*;
use lance_cluster::group::{ConsumerKey, GroupDescription, GroupState, Partitions};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicPartition;
use lance_messages::mail::ingestion::{LookUpOffset, OffsetQuery};
use lance_messages::wire::Response;
use lance_messages::wire::group::DescribeGroups;
use lance_storage::reader::Reader;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often lags are looked up for the metrics.
pub(super) const LAG_INTERVAL: Duration = Duration::from_secs(1);
/// How long the answers of other nodes are waited for: what did not come is left out.
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(2);

/// Every group, and every consumer of 1.0, for the admin interface.
#[derive(Message)]
#[rtype(result = "Option<Value>")]
pub struct DescribeAllGroups;

/// Who wants to know.
pub(super) enum Asker {
    Client(DescribeGroups, oneshot::Sender<Result<Response, ErrorCode>>),
    Admin(oneshot::Sender<Value>),
}

impl GroupActor {
    pub(super) fn describe(
        &mut self,
        describe: DescribeGroups,
        answer: oneshot::Sender<Result<Response, ErrorCode>>,
        ctx: &mut Context<Self>,
    ) {
        self.asked.push(Asker::Client(describe, answer));
        self.consider_round(ctx);
    }

    fn serves(&mut self) -> bool {
        self.keeps_offsets() && self.stage == Stage::Ready
    }

    /// Looks lags up for the metrics, or shows that another node does.
    pub(super) fn refresh_lags(&mut self, ctx: &mut Context<Self>) {
        if self.serves() {
            self.shows = true;
            self.consider_round(ctx);
        } else {
            self.setup.metrics.groups.store(Arc::default());
        }
    }

    /// Begins a round of look-ups, unless one is under way: the next begins when that ends.
    fn consider_round(&mut self, ctx: &mut Context<Self>) {
        if self.lags.is_busy() || (self.asked.is_empty() && !self.shows) {
            return;
        }
        self.answering = std::mem::take(&mut self.asked);
        let offsets: Vec<(TopicPartition, u64)> = match self.core.as_ref().filter(|_| self.stage == Stage::Ready) {
            Some(core) => {
                let groups = core.coordinator.offsets().iter();
                let groups = groups.filter(|(key, _)| matches!(key.consumer, ConsumerKey::Group(_)));
                groups.map(|(key, at)| (key.partition, at.offset)).collect()
            }
            None => Vec::new(),
        };
        let round = self.lags.begin(&offsets);
        if round.is_empty() {
            return self.end_round(ctx);
        }
        self.rounds += 1;
        let number = self.rounds;
        for (request, (partition, query)) in round {
            self.look_up(request, (partition, query));
        }
        ctx.run_later(LOOK_UP_PATIENCE, move |actor, ctx| {
            if actor.rounds == number && actor.lags.is_busy() {
                actor.lags.abandon();
                actor.end_round(ctx);
            }
        });
    }

    /// The shard answers where this node leads, the leader's node elsewhere.
    fn look_up(&self, request: u64, (partition, query): LookUp) {
        let message = LookUpOffset { connection: CONNECTION, request, partition, query };
        let view = self.setup.view.load();
        match self.shard(partition).filter(|_| view.leads(partition) || view.is_alone()).cloned() {
            Some(shard) => _ = actix_rt::spawn(async move { shard.send(message).await }),
            None => {
                let forward = self.setup.forward.clone();
                actix_rt::spawn(async move { forward.send(message).await });
            }
        }
    }

    pub(super) fn on_looked_up(
        &mut self,
        request: u64,
        answer: Result<(u64, u64, u64), ErrorCode>,
        ctx: &mut Context<Self>,
    ) {
        let place = answer.map(|(offset, record, timestamp_ns)| Place { offset, record, timestamp_ns });
        if self.lags.on_answer(request, place) && !self.lags.is_busy() {
            self.end_round(ctx);
        }
    }

    /// A look-up that needs a thread that may wait.
    pub(super) fn on_look_up_segments(
        &mut self,
        request: u64,
        read: SegmentRead,
        query: OffsetQuery,
        ctx: &mut Context<Self>,
    ) {
        let disk = Arc::clone(&self.setup.disk);
        let found = actix_rt::task::spawn_blocking(move || look_up(&read, query, &mut Reader::new(&disk, 1)));
        spawn_guarded(ctx, found, move |found, actor, ctx| {
            let found = found.map(|found| found.map_err(|failure| actor.on_read_failed(&failure)));
            actor.on_looked_up(request, found.unwrap_or(Err(ErrorCode::Unavailable)), ctx);
        });
    }

    fn end_round(&mut self, ctx: &mut Context<Self>) {
        if std::mem::take(&mut self.shows) {
            self.show();
        }
        for asker in std::mem::take(&mut self.answering) {
            match asker {
                Asker::Client(describe, answer) => {
                    let mut body = json!({ "groups": self.groups_json(&describe.groups) });
                    if describe.groups.is_empty() {
                        body["consumers"] = self.consumers_json().into();
                    }
                    // The connection may be gone; so below.
                    let _ = answer.send(Ok(Response::DescribeGroups(body.to_string().into())));
                }
                Asker::Admin(answer) => {
                    let groups = self.groups_json(&[]);
                    let coordinator = self.setup.view.load().node.map_or(0, |node| node.0);
                    let consumers = self.consumers_json();
                    _ = answer.send(
                        json!({ "coordinator": coordinator, "known": true, "groups": groups, "consumers": consumers }),
                    );
                }
            }
        }
        self.consider_round(ctx);
    }

    /// Answers the admin interface.
    pub(super) fn list(&mut self, answer: oneshot::Sender<Value>, ctx: &mut Context<Self>) {
        if !self.serves() {
            let view = self.setup.view.load();
            let coordinator = self.partition.and_then(|partition| view.leader(partition)).map_or(0, |node| node.0);
            // Without its topic nobody has ever committed.
            let never = self.partition.is_none();
            let is_elsewhere = coordinator != 0 && view.node.is_some_and(|node| node.0 != coordinator);
            let forward = self.setup.forward.clone();
            actix_rt::spawn(async move {
                let told = if is_elsewhere { forward.send(DescribeGroupsElsewhere).await.ok() } else { None };
                let told = told.and_then(Result::ok).and_then(|json| serde_json::from_slice::<Value>(&json).ok());
                let groups = told.map(|mut told| told["groups"].take());
                let is_known = never || groups.is_some();
                let groups = groups.unwrap_or_else(|| json!([]));
                let listed =
                    json!({ "coordinator": coordinator, "known": is_known, "groups": groups, "consumers": [] });
                // Who asked may have gone.
                _ = answer.send(listed);
            });
            return;
        }
        self.asked.push(Asker::Admin(answer));
        self.consider_round(ctx);
    }

    fn described(&self, names: &[String]) -> Vec<GroupDescription> {
        let Some(core) = self.core.as_ref() else { return Vec::new() };
        let now = self.setup.clock.now().elapsed;
        let coordinator = &core.coordinator;
        match names {
            [] => coordinator.names().filter_map(|name| coordinator.describe(name, now)).collect(),
            some => some.iter().filter_map(|name| coordinator.describe(name, now)).collect(),
        }
    }

    fn show(&mut self) {
        let mut shown = GroupsShown::default();
        let wall_ns = self.setup.clock.now().wall_ns;
        let view = self.setup.view.load();
        for group in self.described(&[]) {
            for (partition, at, _) in &group.offsets {
                let Some(topic) = view.topics.get(&partition.topic) else { continue };
                if let Some(lag) = self.lags.lag(*partition, at.offset, wall_ns) {
                    shown.lags.push(GroupLag {
                        group: group.name.clone(),
                        topic: topic.name.clone(),
                        partition: partition.partition,
                        records: lag.records,
                        bytes: lag.bytes,
                        seconds: lag.age.as_secs_f64(),
                    });
                }
            }
            let reconciling = group.state == GroupState::Reconciling;
            shown.groups.push((group.name, group.members.len() as u64, reconciling, group.epoch));
        }
        self.setup.metrics.groups.store(Arc::new(shown));
    }

    fn groups_json(&self, names: &[String]) -> Vec<Value> {
        self.described(names).iter().map(|group| self.group_json(group)).collect()
    }

    fn group_json(&self, group: &GroupDescription) -> Value {
        let node = self.setup.view.load().node.map_or(0, |node| node.0);
        let members: Vec<Value> = group
            .members
            .iter()
            .map(|member| {
                json!({
                    "member": member.member, "instance": member.instance, "client": member.client,
                    "rack": member.rack, "epoch": member.epoch, "expelled": member.expelled,
                    "silent_ms": u64::try_from(member.silent.as_millis()).unwrap_or(u64::MAX),
                    "partitions": self.named(&member.assigned), "revoking": self.named(&member.revoking),
                })
            })
            .collect();
        json!({
            "name": group.name, "state": group.state.name(), "epoch": group.epoch,
            "strategy": group.strategy.name(), "coordinator": node,
            "members": members, "partitions": self.partitions_json(group),
        })
    }

    fn named(&self, partitions: &Partitions) -> Vec<Value> {
        let view = self.setup.view.load();
        let known = partitions.iter().filter_map(|at| Some((view.topics.get(&at.topic)?.name.clone(), at.partition)));
        known.map(|(topic, partition)| json!({ "topic": topic, "partition": partition })).collect()
    }

    /// Every partition that is committed or read.
    fn partitions_json(&self, group: &GroupDescription) -> Vec<Value> {
        let view = self.setup.view.load();
        let wall_ns = self.setup.clock.now().wall_ns;
        let mut owners: BTreeMap<TopicPartition, Option<&str>> =
            group.offsets.iter().map(|(partition, ..)| (*partition, None)).collect();
        for member in &group.members {
            let held = member.assigned.iter().chain(member.revoking.iter());
            owners.extend(held.map(|partition| (partition, Some(member.member.as_str()))));
        }
        let committed: BTreeMap<TopicPartition, _> =
            group.offsets.iter().map(|(partition, at, metadata)| (*partition, (at, metadata))).collect();
        let row = |(partition, owner): (TopicPartition, Option<&str>)| {
            let topic = view.topics.get(&partition.topic)?;
            let at = committed.get(&partition);
            let lag = at.and_then(|(at, _)| self.lags.lag(partition, at.offset, wall_ns));
            Some(json!({
                "topic": topic.name, "partition": partition.partition, "owner": owner,
                "committed": at.map(|(at, _)| at.offset),
                "committed_at_ms": at.map_or(0, |(at, _)| at.committed_at_ms),
                "metadata": at.map_or("", |(_, metadata)| metadata.as_str()),
                "end_offset": lag.map(|lag| lag.end_offset), "lag_records": lag.map(|lag| lag.records),
                "lag_bytes": lag.map(|lag| lag.bytes), "lag_seconds": lag.map(|lag| lag.age.as_secs_f64()),
            }))
        };
        owners.into_iter().filter_map(row).collect()
    }

    /// What consumers of 1.0 have committed.
    fn consumers_json(&self) -> Vec<Value> {
        let Some(core) = self.core.as_ref() else { return Vec::new() };
        let mut consumers: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
        for (key, at) in core.coordinator.offsets().iter() {
            if let ConsumerKey::Id(id) = key.consumer {
                let (topic, partition) = (key.partition.topic.0, key.partition.partition);
                let row = json!({ "topic_id": topic, "partition": partition, "committed": at.offset });
                consumers.entry(id).or_default().push(row);
            }
        }
        consumers.into_iter().map(|(id, rows)| json!({ "consumer_id": id, "partitions": rows })).collect()
    }
}
