//! The replication actor's shell, as `actors/src/replication/actor.rs` is.

use super::Failure;
use crate::sim::context::Context;
use crate::sim::disk::SimDisk;
use crate::sim::mail::{Address, Mail, Part, Wake};
use lance_actors::network::session::shard_of;
use lance_actors::replication::core::{ReplicationCore, ReplicationEffect};
use lance_cluster::metadata::ReplicaIncarnation;
use lance_messages::id::{TopicId, TopicPartition};
use lance_storage::checkpoint::Checkpoint;
use std::path::PathBuf;
use std::time::Duration;

const BODY_VERSION: u8 = 1;
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
        let promises = Checkpoint::new(&disk.as_disk(), promises, BODY_VERSION);
        Self { node, shards, incarnation, boot_number, promises, core: None, logs: Vec::new() }
    }

    /// What is done when the actor fails.
    pub fn drop_core(&mut self) {
        self.core = None;
    }

    /// Starts, for the first time or again.
    pub fn begin(&mut self, ctx: &mut Context<'_>, first: bool) -> Result<(), Failure> {
        let body = self.promises.read().map_err(|error| Failure(error.to_string()))?.unwrap_or_default();
        let promises = body.chunks_exact(10).map(|entry| {
            let topic = TopicId(u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]));
            let partition = TopicPartition::new(topic, u16::from_le_bytes([entry[4], entry[5]]));
            (partition, u32::from_le_bytes([entry[6], entry[7], entry[8], entry[9]]))
        });
        let incarnation = ReplicaIncarnation { node: self.incarnation, damage_count: 0 };
        let mut core = ReplicationCore::new(incarnation, self.boot_number, promises);
        if !self.logs.is_empty() {
            core.on_restarted(&self.logs);
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
            Mail::LeadersChosen(chosen) => core.on_leaders_chosen(&chosen, &mut effects),
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
                let mut body = Vec::new();
                for (partition, epoch) in self.core.iter().flat_map(ReplicationCore::promises) {
                    body.extend_from_slice(&partition.topic.0.to_le_bytes());
                    body.extend_from_slice(&partition.partition.to_le_bytes());
                    body.extend_from_slice(&epoch.to_le_bytes());
                }
                self.promises.write(&body).map_err(|error| Failure(error.to_string()))?;
            }
            ReplicationEffect::Answer(answers) => ctx.send(metadata, Mail::Promised(answers)),
            ReplicationEffect::RequestEpochs(requests) => ctx.send(metadata, Mail::EpochsRequested(requests)),
            ReplicationEffect::Led(partition, epoch) => ctx.send(metadata, Mail::Led(partition, epoch)),
            ReplicationEffect::Lead(partitions) => {
                for shard in 0..self.shards {
                    let owned = |(partition, _): &&(TopicPartition, _)| shard_of(*partition, self.shards) == shard;
                    let mine: Vec<_> = partitions.iter().filter(owned).copied().collect();
                    if !mine.is_empty() {
                        ctx.send(Address::Node(self.node, Part::Ingestion(shard)), Mail::BecomeLeader(mine));
                    }
                }
            }
        }
        Ok(())
    }
}
