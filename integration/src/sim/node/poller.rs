//! The poller actor's shell, as `actors/src/poller/actor.rs` is.

use super::Failure;
use crate::sim::context::Context;
use crate::sim::disk::SimDisk;
use crate::sim::mail::{Address, Mail, Part, Wake};
use crate::sim::sabotage::Sabotage;
use lance_actors::poller::core::PollerCore;
use lance_messages::mail::ingestion::DiskDone;
use lance_storage::disk::{Arena, Disk, DiskCompletion, DiskError, Operation, QueueOptions, WriteQueue};
use std::sync::Arc;
use std::time::Duration;

/// The shell of a poller core.
pub struct Poller {
    node: u16,
    shard: u16,
    sabotage: Sabotage,
    disk: SimDisk,
    arena: Arc<Arena>,
    running: Option<(PollerCore, Box<dyn WriteQueue>)>,
    ingestion_life: u64,
    drains: Vec<u64>,
    turn_armed: bool,
}

impl Poller {
    /// A poller of a process that starts.
    pub fn new(node: u16, shard: u16, sabotage: Sabotage, disk: &SimDisk, arena: Arc<Arena>) -> Self {
        Self {
            node,
            shard,
            sabotage,
            disk: disk.clone(),
            arena,
            running: None,
            ingestion_life: 0,
            drains: Vec::new(),
            turn_armed: false,
        }
    }

    fn ingestion(&self) -> Address {
        Address::Node(self.node, Part::Ingestion(self.shard))
    }

    /// Dropping the queue waits for everything in flight.
    pub fn drop_core(&mut self, ctx: &mut Context<'_>) {
        self.running = None;
        let drained = std::mem::take(&mut self.drains);
        for life in drained {
            ctx.send(self.ingestion(), Mail::Drained(life));
        }
        ctx.send(self.ingestion(), Mail::PollerFailed);
    }

    /// Starts, for the first time or again.
    pub fn begin(&mut self) -> Result<(), Failure> {
        self.turn_armed = false;
        let options = QueueOptions { depth: 64, ..QueueOptions::default() };
        let queue = self.disk.write_queue(&options, &self.arena).map_err(|error| Failure(error.to_string()))?;
        self.running = Some((PollerCore::default(), queue));
        Ok(())
    }

    /// One message.
    pub fn handle(&mut self, mail: Mail, ctx: &mut Context<'_>) -> Result<(), Failure> {
        match mail {
            Mail::Submit(life, operations) => {
                self.ingestion_life = life;
                if let Some((core, _)) = self.running.as_mut() {
                    operations.into_iter().for_each(|operation| core.on_submit(operation));
                }
            }
            Mail::Drain(life) => self.drains.push(life),
            Mail::Wake(Wake::Turn) => {
                self.turn_armed = false;
                return self.turn(ctx);
            }
            _ => {}
        }
        if !self.turn_armed {
            self.turn_armed = true;
            let delay = ctx.rng.range(200, 20_000);
            ctx.wake(Wake::Turn, Duration::from_nanos(delay));
        }
        Ok(())
    }

    /// Hands waiting operations to the disk and collects what it finished.
    pub fn turn(&mut self, ctx: &mut Context<'_>) -> Result<(), Failure> {
        let Some((core, queue)) = self.running.as_mut() else { return Ok(()) };
        let mut submitted = 0;
        while let Some(operation) = core.next_operation() {
            if let Err(refused) = queue.submit(operation) {
                core.on_refused(refused);
                break;
            }
            submitted += 1;
        }
        if submitted > 0 {
            queue.kick().map_err(|error| Failure(error.to_string()))?;
            for _ in 0..submitted {
                let delay = ctx.disk_delay();
                let process = Address::Node(self.node, Part::Process);
                ctx.out.push(crate::sim::context::Outgoing::Wake { whom: process, wake: Wake::Disk, delay_ns: delay });
            }
        }
        let mut completions = Vec::new();
        queue.completions(&mut completions);
        if !completions.is_empty() {
            core.on_completed(&completions);
            if self.sabotage == Sabotage::IgnoreFailedSync {
                completions.iter_mut().for_each(overlook_failed_sync);
            }
            let done = DiskDone { ingestion_life: self.ingestion_life, completions };
            ctx.send(Address::Node(self.node, Part::Ingestion(self.shard)), Mail::DiskDone(done));
        }
        if core.is_idle() {
            for life in std::mem::take(&mut self.drains) {
                ctx.send(Address::Node(self.node, Part::Ingestion(self.shard)), Mail::Drained(life));
            }
        }
        Ok(())
    }
}

fn overlook_failed_sync(completion: &mut DiskCompletion) {
    if matches!(completion.result, Err(DiskError::Os { operation: Operation::Sync, .. })) {
        completion.result = Ok(());
    }
}
