//! `PollerActor`: the only writer of the partition logs of its shard.
//!
//! Operations come in groups; everything that waits in the mailbox is handed to the disk with one kick, and the
//! disk's notification descriptor wakes the actor when completions are there.

use super::core::PollerCore;
use crate::ingestion::actor::IngestionActor;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, fail, guarded};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use actix::fut::ActorFuture;
use actix::prelude::*;
use lance_messages::mail::ingestion::{DiskDone, PollerFailed};
use lance_messages::mail::poller::{Drain, Submit};
use lance_storage::disk::{Arena, Disk, DiskCompletion, DiskError, DiskOp, QueueOptions, WriteQueue};
use std::future::Future;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// Mailbox capacity of a poller: groups of operations.
pub const POLLER_MAILBOX: usize = 1024;

/// Tells the poller whom it works for.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ServeIngestion(pub Mailbox<IngestionActor>);

/// What a poller is made of.
pub struct PollerSetup {
    /// Where it writes.
    pub disk: Arc<dyn Disk>,
    /// The memory its chunks live in.
    pub arena: Arc<Arena>,
    /// Depth of the disk's queue.
    pub queue: QueueOptions,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
}

/// Watches the disk's notification descriptor through a duplicate of its own.
fn watch(descriptor: RawFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the queue, which the caller holds, keeps the descriptor open over this call.
    let own = unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()?;
    // SAFETY: the duplicate is open for as long as the AsyncFd owns it, and it never changes.
    Ok(unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }?)
}

struct Running {
    core: PollerCore,
    readiness: Option<AsyncFd<OwnedFd>>,
    queue: Box<dyn WriteQueue>,
}

impl Running {
    /// Collects what the disk finished of what nobody waits for any more; `true` once nothing is in flight.
    fn has_left(&mut self, task: &mut TaskContext<'_>) -> bool {
        let mut completions: Vec<DiskCompletion> = Vec::new();
        loop {
            // A queue that cannot be kicked still hands out what is complete.
            let _ = self.queue.kick();
            let ready = self.readiness.as_ref().map(|descriptor| descriptor.poll_read_ready(task));
            self.queue.completions(&mut completions);
            // Dropped chunks send their slots home.
            completions.clear();
            if self.queue.in_flight() == 0 {
                return true;
            }
            match ready {
                Some(Poll::Ready(Ok(mut guard))) => guard.clear_ready(),
                _ => return false,
            }
        }
    }
}

/// The shell of a poller.
pub struct PollerActor {
    life: Life,
    setup: PollerSetup,
    running: Option<Running>,
    /// Queues of cores that failed, until the disk is done with what they were handed: dropping one earlier would block
    /// the thread that the whole shard shares.
    leaving: Vec<Running>,
    ingestion: Option<Mailbox<IngestionActor>>,
    ingestion_life: u64,
    drains: Vec<oneshot::Sender<()>>,
    kicked_at: Option<Instant>,
    /// Until when the thread looks for completions without parking.
    watch_until: Option<Instant>,
}

impl PollerActor {
    /// A poller; it starts to serve once it is connected to its ingestion actor.
    pub fn new(vitals: Arc<Vitals>, policy: RestartPolicy, parent: Recipient<Escalated>, setup: PollerSetup) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            setup,
            running: None,
            leaving: Vec::new(),
            ingestion: None,
            ingestion_life: 0,
            drains: Vec::new(),
            kicked_at: None,
            watch_until: None,
        }
    }

    /// Whether completions are looked for without parking the thread.
    fn is_watching(&mut self) -> bool {
        let in_flight = self.running.as_ref().is_some_and(|running| running.queue.in_flight() > 0);
        let watching = in_flight && self.watch_until.is_some_and(|until| Instant::now() < until);
        if !watching {
            self.watch_until = None;
        }
        watching
    }

    /// Hands waiting operations to the disk and collects what it finished.
    fn turn(&mut self, task: &mut TaskContext<'_>) -> Result<(), DiskError> {
        self.leaving.retain_mut(|running| !running.has_left(task));
        let Some(running) = self.running.as_mut() else {
            return Ok(());
        };
        loop {
            let mut submitted = false;
            while let Some(operation) = running.core.next_operation() {
                if let Err(refused) = running.queue.submit(operation) {
                    running.core.on_refused(refused);
                    break;
                }
                submitted = true;
            }
            if submitted {
                running.queue.kick()?;
                self.kicked_at.get_or_insert_with(Instant::now);
            }
            let mut completions: Vec<DiskCompletion> = Vec::new();
            let ready = match running.readiness.as_ref() {
                Some(descriptor) => descriptor.poll_read_ready(task),
                None => Poll::Pending,
            };
            running.queue.completions(&mut completions);
            let woken = match ready {
                Poll::Ready(Ok(mut guard)) => {
                    guard.clear_ready();
                    true
                }
                _ => false,
            };
            if completions.is_empty() && !woken {
                break;
            }
            if completions.is_empty() {
                continue;
            }
            running.core.on_completed(&completions);
            if let Some(started) = self.kicked_at.take() {
                self.setup.metrics.observe_sync(started.elapsed());
            }
            deliver(self.ingestion.as_ref(), self.ingestion_life, completions);
        }
        if running.core.is_idle() && self.leaving.is_empty() {
            self.kicked_at = None;
            for drained in self.drains.drain(..) {
                // The ingestion actor may have failed again meanwhile.
                let _ = drained.send(());
            }
        }
        Ok(())
    }
}

fn deliver(ingestion: Option<&Mailbox<IngestionActor>>, ingestion_life: u64, completions: Vec<DiskCompletion>) {
    let Some(ingestion) = ingestion else { return };
    let message = DiskDone { ingestion_life, completions };
    if let Err(SendError::Full(message)) = ingestion.try_send(message) {
        let ingestion = ingestion.clone();
        actix_rt::spawn(async move {
            // A closed mailbox means that the process is going down.
            let _ = ingestion.send(message).await;
        });
    }
}

supervised_shell!(PollerActor, POLLER_MAILBOX);

impl Shell for PollerActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// The logs recover from what is on disk, once everything in flight has happened.
    fn drop_core(&mut self, _: &mut Self::Context) {
        self.leaving.extend(self.running.take().filter(|running| running.queue.in_flight() > 0));
        self.drains.clear();
        if let Some(ingestion) = self.ingestion.clone() {
            actix_rt::spawn(async move {
                let _ = ingestion.send(PollerFailed).await;
            });
        }
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        let queue = match self.setup.disk.write_queue(&self.setup.queue, &self.setup.arena) {
            Ok(queue) => queue,
            Err(error) => return fail(self, ctx, error.to_string()),
        };
        let readiness = match queue.notify_fd().map(watch).transpose() {
            Ok(readiness) => readiness,
            Err(error) => return fail(self, ctx, format!("cannot watch the disk's completions: {error}")),
        };
        self.running = Some(Running { core: PollerCore::default(), readiness, queue });
        self.life.vitals.set_state(ActorState::Running);
        ctx.spawn(Turns);
    }
}

/// Runs a turn each time the actor's context is polled: after its mailbox is empty, and on completions.
struct Turns;

impl ActorFuture<PollerActor> for Turns {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut PollerActor,
        ctx: &mut Context<PollerActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        match guarded(actor, ctx, |actor, _| actor.turn(task)) {
            Some(()) => {
                if actor.is_watching() {
                    // Others that are ready to run on this core go first; then the runtime looks at its descriptors.
                    std::thread::yield_now();
                    let _ = pin!(tokio::task::yield_now()).poll(task);
                }
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }
}

impl Handler<ServeIngestion> for PollerActor {
    type Result = ();

    fn handle(&mut self, message: ServeIngestion, _: &mut Self::Context) {
        self.ingestion = Some(message.0);
    }
}

impl Handler<Submit<DiskOp>> for PollerActor {
    type Result = ();

    fn handle(&mut self, message: Submit<DiskOp>, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.ingestion_life = message.ingestion_life;
        if !message.watch.is_zero() {
            self.watch_until = Instant::now().checked_add(message.watch);
        }
        guarded(self, ctx, |actor, _| -> Result<(), std::convert::Infallible> {
            if let Some(running) = actor.running.as_mut() {
                message.operations.into_iter().for_each(|operation| running.core.on_submit(operation));
            }
            Ok(())
        });
    }
}

impl Handler<Drain> for PollerActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let (sender, receiver) = oneshot::channel();
        self.drains.push(sender);
        Box::pin(async move {
            // A poller that fails while it drains has waited for its operations too.
            let _ = receiver.await;
        })
    }
}
