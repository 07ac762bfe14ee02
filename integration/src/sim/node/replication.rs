//! The replication actor's shell, as `actors/src/replication/actor.rs` is.

use super::Failure;
use super::judging::Judge;
use crate::sim::check::losses;
use crate::sim::context::Context;
use crate::sim::disk::SimDisk;
use crate::sim::mail::{Address, Mail, Part, Wake};
use crate::sim::sabotage::Sabotage;
use lance_actors::ingestion::replica::Fenced;
use lance_actors::network::session::shard_of;
use lance_actors::replication::actor::ReplicaNews;
use lance_actors::replication::core::{ReplicationCore, ReplicationEffect};
use lance_actors::replication::promises::{self, PROMISES_VERSION};
use lance_messages::id::{LeaderEpoch, TopicPartition};
use lance_storage::checkpoint::Checkpoint;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

/// The shell of a replication core.
pub struct Replication {
    node: u16,
    shards: u16,
    /// Other nodes hold every partition too.
    has_peers: bool,
    incarnation: u64,
    boot_number: u64,
    sabotage: Sabotage,
    promises: Checkpoint,
    core: Option<ReplicationCore>,
    judge: Judge,
    logs: Vec<(TopicPartition, u32, u32)>,
    /// Which of them are led, fed or stopped since.
    settled: BTreeSet<TopicPartition>,
    led: BTreeMap<TopicPartition, LeaderEpoch>,
}

impl Replication {
    /// An actor of a process that starts.
    pub fn new(
        node: u16,
        (shards, has_peers): (u16, bool),
        (incarnation, boot_number, sabotage): (u64, u64, Sabotage),
        disk: &SimDisk,
        promises: PathBuf,
    ) -> Self {
        let promises = Checkpoint::new(&disk.as_disk(), promises, PROMISES_VERSION);
        Self {
            node,
            shards,
            has_peers,
            incarnation,
            boot_number,
            sabotage,
            promises,
            core: None,
            judge: Judge::new(),
            logs: Vec::new(),
            settled: BTreeSet::new(),
            led: BTreeMap::new(),
        }
    }

    /// What is done when the actor fails.
    pub fn drop_core(&mut self) {
        self.core = None;
        self.judge = Judge::new();
    }

    /// Starts, for the first time or again.
    pub fn begin(&mut self, ctx: &mut Context<'_>, first: bool) -> Result<(), Failure> {
        // Also for the lives that come after one whose disk fails below.
        if first {
            ctx.wake(Wake::Tick, REQUEST_INTERVAL);
        }
        let body = self.promises.read().map_err(|error| Failure(error.to_string()))?.unwrap_or_default();
        let promises = promises::decode(&body).map_err(|error| Failure(error.to_string()))?;
        let mut core = ReplicationCore::new(self.incarnation, self.boot_number, promises);
        let logs = self.logs.iter().copied();
        let (settled, unled): (Vec<_>, Vec<_>) = logs.partition(|log| self.settled.contains(&log.0));
        let led: Vec<_> = self.led.iter().map(|(partition, epoch)| (*partition, *epoch)).collect();
        let mut effects = Vec::new();
        core.on_restarted(&settled, &led);
        core.on_restarted_unled(&unled, &mut effects);
        self.core = Some(core);
        effects.into_iter().try_for_each(|effect| self.obey(effect, ctx))
    }

    /// One message.
    pub fn handle(&mut self, mail: Mail, ctx: &mut Context<'_>) -> Result<(), Failure> {
        if matches!(mail, Mail::Wake(Wake::Tick)) {
            ctx.wake(Wake::Tick, REQUEST_INTERVAL);
        }
        let led = match &mail {
            Mail::LeadershipChanged(partition, Err(_)) => self.led.get(partition).copied(),
            _ => None,
        };
        self.take_notes(&mail);
        let Some(core) = self.core.as_mut() else {
            return Ok(());
        };
        let mut effects = Vec::new();
        match mail {
            Mail::Wake(Wake::Tick) => core.on_tick(&mut effects),
            Mail::EpochsWanted(partitions) => {
                core.on_epochs_wanted(&partitions, &mut effects);
            }
            Mail::PromiseWanted(asked) => core.on_promise_wanted(&asked, &mut effects),
            Mail::LeadersChosen(chosen) => core.on_leaders_chosen(chosen, &mut effects),
            Mail::Fenced(fenced) => core.on_fenced(&fenced, &mut effects),
            Mail::LeadershipChanged(partition, result) => {
                core.on_leadership_changed(partition, &result, &mut effects);
                if let Some(epoch) = led.filter(|_| self.has_peers) {
                    core.on_lead_stopped(partition, epoch, &mut effects);
                }
            }
            Mail::PartitionsGone(gone) => core.on_gone(&gone),
            Mail::News(ReplicaNews::Following(partition, epoch)) => core.on_following(partition, epoch),
            Mail::News(ReplicaNews::Damaged(partition, end)) if self.sabotage == Sabotage::KeepDamagedLife => {
                effects.push(ReplicationEffect::Refill(partition, end));
            }
            Mail::News(ReplicaNews::Damaged(partition, end)) => core.on_damaged(partition, end, &mut effects),
            Mail::News(ReplicaNews::MoveReady(partition, epoch, to)) => {
                ctx.send(Address::Node(self.node, Part::Metadata), Mail::MoveReady { partition, epoch, to });
            }
            Mail::Report(report) => {
                let metadata = Address::Node(self.node, Part::Metadata);
                let commands = self.judge.on_report(*report, self.shards, ctx.elapsed_ms());
                commands.into_iter().for_each(|command| ctx.send(metadata, Mail::Propose(command)));
            }
            Mail::RolesChanged(roles) => self.tell(roles, |role| role.partition, Mail::ChangeRoles, ctx),
            Mail::MoveWanted(wanted) => {
                self.tell(vec![wanted], |wanted| wanted.partition, |_| Mail::Move(wanted), ctx);
            }
            _ => {}
        }
        for effect in effects {
            self.obey(effect, ctx)?;
        }
        Ok(())
    }

    /// What outlives the core.
    fn take_notes(&mut self, mail: &Mail) {
        match mail {
            Mail::EpochsWanted(partitions) => {
                self.logs.retain(|known| !partitions.iter().any(|opened| opened.0 == known.0));
                self.logs.extend_from_slice(partitions);
                for (partition, ..) in partitions {
                    self.settled.remove(partition);
                    self.led.remove(partition);
                }
            }
            Mail::LeadershipChanged(partition, result) => {
                self.settled.insert(*partition);
                match result {
                    Ok(epoch) => self.led.insert(*partition, *epoch),
                    Err(_) => self.led.remove(partition),
                };
            }
            Mail::PartitionsGone(gone) => {
                self.logs.retain(|log| !gone.contains(&log.0));
                self.settled.retain(|partition| !gone.contains(partition));
                self.led.retain(|partition, _| !gone.contains(partition));
            }
            Mail::Fenced(fenced) => {
                for (partition, _, fenced) in fenced {
                    if matches!(fenced, Fenced::Clean { .. }) {
                        self.led.remove(partition);
                    }
                }
            }
            Mail::News(ReplicaNews::Following(partition, _)) => {
                self.settled.insert(*partition);
                self.led.remove(partition);
            }
            _ => {}
        }
    }

    fn obey(&mut self, effect: ReplicationEffect, ctx: &mut Context<'_>) -> Result<(), Failure> {
        let metadata = Address::Node(self.node, Part::Metadata);
        match effect {
            ReplicationEffect::PersistPromises => {
                let body = promises::encode(self.core.iter().flat_map(ReplicationCore::promises));
                self.promises.write(&body).map_err(|error| Failure(error.to_string()))?;
            }
            ReplicationEffect::Answer(answers) => ctx.send(metadata, Mail::Promised(answers)),
            ReplicationEffect::RequestEpochs(requests) => ctx.send(metadata, Mail::EpochsRequested(requests)),
            ReplicationEffect::Led(partition, epoch) => {
                ctx.send(metadata, Mail::Led(partition, epoch));
            }
            ReplicationEffect::Lead(roles) => self.tell(roles, |role| role.partition, Mail::Lead, ctx),
            ReplicationEffect::Introduce(replicas) => self.tell(replicas, |replica| replica.0, Mail::Introduce, ctx),
            ReplicationEffect::Fence(epochs) => self.tell(epochs, |epoch| epoch.0, Mail::Fence, ctx),
            ReplicationEffect::Refill(partition, end) => {
                self.logs.retain(|log| log.0 != partition);
                let known = self.core.iter().flat_map(ReplicationCore::promises).find(|one| one.partition == partition);
                let damage_count = known.map_or(0, |known| known.damage_count);
                losses::told(ctx.oracle, partition, self.node, (self.incarnation, damage_count));
                self.tell(vec![partition], |partition| *partition, |_| Mail::Refill(partition, end), ctx);
            }
        }
        Ok(())
    }

    fn tell<T>(
        &self,
        items: Vec<T>,
        partition_of: impl Fn(&T) -> TopicPartition,
        mail: impl Fn(Vec<T>) -> Mail,
        ctx: &mut Context<'_>,
    ) {
        let mut by_shard: BTreeMap<u16, Vec<T>> = BTreeMap::new();
        for item in items {
            by_shard.entry(shard_of(partition_of(&item), self.shards)).or_default().push(item);
        }
        for (shard, mine) in by_shard {
            ctx.send(Address::Node(self.node, Part::Ingestion(shard)), mail(mine));
        }
    }
}
