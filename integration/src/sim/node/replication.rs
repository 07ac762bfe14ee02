//! The replication actor's shell, as `actors/src/replication/actor.rs` is.

use super::Failure;
use crate::sim::context::Context;
use crate::sim::disk::SimDisk;
use crate::sim::mail::{Address, Mail, Part, Wake};
use lance_actors::network::session::shard_of;
use lance_actors::replication::core::{ReplicationCore, ReplicationEffect};
use lance_actors::replication::promises::{self, PROMISES_VERSION};
use lance_messages::id::{LeaderEpoch, TopicPartition};
use lance_storage::checkpoint::Checkpoint;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

/// The shell of a replication core.
pub struct Replication {
    node: u16,
    shards: u16,
    incarnation: u64,
    boot_number: u64,
    promises: Checkpoint,
    core: Option<ReplicationCore>,
    logs: Vec<(TopicPartition, u32, u64)>,
    led: Vec<(TopicPartition, LeaderEpoch)>,
}

impl Replication {
    /// An actor of a process that starts.
    pub fn new(
        node: u16,
        shards: u16,
        (incarnation, boot_number): (u64, u64),
        disk: &SimDisk,
        promises: PathBuf,
    ) -> Self {
        let promises = Checkpoint::new(&disk.as_disk(), promises, PROMISES_VERSION);
        Self { node, shards, incarnation, boot_number, promises, core: None, logs: Vec::new(), led: Vec::new() }
    }

    /// What is done when the actor fails.
    pub fn drop_core(&mut self) {
        self.core = None;
    }

    /// Starts, for the first time or again.
    pub fn begin(&mut self, ctx: &mut Context<'_>, first: bool) -> Result<(), Failure> {
        let body = self.promises.read().map_err(|error| Failure(error.to_string()))?.unwrap_or_default();
        let promises = promises::decode(&body).map_err(|error| Failure(error.to_string()))?;
        let mut core = ReplicationCore::new(self.incarnation, self.boot_number, promises);
        if !self.logs.is_empty() {
            core.on_restarted(&self.logs, &self.led);
        }
        self.core = Some(core);
        if first {
            ctx.wake(Wake::Tick, REQUEST_INTERVAL);
        }
        Ok(())
    }

    /// One message.
    pub fn handle(&mut self, mail: Mail, ctx: &mut Context<'_>) -> Result<(), Failure> {
        if matches!(mail, Mail::Wake(Wake::Tick)) {
            ctx.wake(Wake::Tick, REQUEST_INTERVAL);
        }
        let Some(core) = self.core.as_mut() else {
            return Ok(());
        };
        let mut effects = Vec::new();
        match mail {
            Mail::Wake(Wake::Tick) => core.on_tick(&mut effects),
            Mail::EpochsWanted(partitions) => {
                self.logs.retain(|known| !partitions.iter().any(|opened| opened.0 == known.0));
                self.logs.extend_from_slice(&partitions);
                core.on_epochs_wanted(&partitions, &mut effects);
            }
            Mail::PromiseWanted(asked) => core.on_promise_wanted(&asked, &mut effects),
            Mail::LeadersChosen(chosen) => core.on_leaders_chosen(chosen, &mut effects),
            Mail::Fenced(fenced) => core.on_fenced(&fenced, &mut effects),
            Mail::LeadershipChanged(partition, result) => core.on_leadership_changed(partition, &result, &mut effects),
            _ => {}
        }
        for effect in effects {
            self.obey(effect, ctx)?;
        }
        Ok(())
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
                self.led.retain(|led| led.0 != partition);
                self.led.push((partition, epoch));
                ctx.send(metadata, Mail::Led(partition, epoch));
            }
            ReplicationEffect::Lead(roles) => self.tell(roles, |role| role.partition, Mail::Lead, ctx),
            ReplicationEffect::Introduce(replicas) => self.tell(replicas, |replica| replica.0, Mail::Introduce, ctx),
            ReplicationEffect::Fence(epochs) => self.tell(epochs, |epoch| epoch.0, Mail::Fence, ctx),
            ReplicationEffect::Refill(..) => {}
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
