//! `PeerSessionActor`: one connection that a proven peer has opened; what the peer asks comes in, answers go out.

mod handlers;

pub use handlers::{CloseSession, RegisterPeerSession, UnregisterPeerSession};

use super::acceptor::{PeerAcceptorActor, SessionClosed, SessionRoutes};
use super::delivery::Delivery;
use super::formation::FormationAsked;
use super::inlet::Inlet;
use super::socket::{FrameSocket, LinkEnd};
use super::{MAX_QUEUED_CONTROL_BYTES, MAX_QUEUED_DATA_BYTES};
use crate::supervision::{ActorState, Vitals};
use actix::fut::ActorFuture;
use actix::prelude::*;
use lance_messages::mail::peer::{AppendReplica, ControlReceived};
use lance_messages::peer::{LinkKind, PeerIdentity, ReplicaRequest};
use lance_messages::wire::peer::{PeerFrame, PeerPurpose};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

/// Mailbox capacity of a session: answers and news, each for many requests.
pub const PEER_SESSION_MAILBOX: usize = 1024;

/// What a session is made of.
pub struct SessionSetup {
    /// Its number; one process never uses one twice.
    pub session: u64,
    /// Who opened it.
    pub from: PeerIdentity,
    /// What for.
    pub purpose: PeerPurpose,
    /// Who takes what arrives; a formation session has none.
    pub routes: Option<SessionRoutes>,
    /// Who answers how far the formation is.
    pub formation: Option<Inlet<FormationAsked>>,
    /// Who counts sessions.
    pub acceptor: Addr<PeerAcceptorActor>,
}

/// The shell of one session.
pub struct PeerSessionActor {
    pub(super) vitals: Arc<Vitals>,
    pub(super) setup: SessionSetup,
    pub(super) socket: FrameSocket,
    pub(super) delivery: Delivery,
    frames: Vec<PeerFrame>,
    /// One question about the formation is being answered.
    asked: bool,
    /// Frames may have been read before the session began.
    fresh: bool,
    drive: Option<Waker>,
}

impl PeerSessionActor {
    /// The actor of a session; to be started on the thread that will serve it.
    pub fn new(vitals: Arc<Vitals>, setup: SessionSetup, socket: FrameSocket) -> Self {
        Self {
            vitals,
            setup,
            socket,
            delivery: Delivery::default(),
            frames: Vec::new(),
            asked: false,
            fresh: true,
            drive: None,
        }
    }

    /// Runs `work`; a session that fails is closed, and the peer opens another.
    pub(super) fn guarded(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut Self, &mut Context<Self>) -> Result<(), LinkEnd>,
    ) {
        let from = self.setup.from;
        match catch_unwind(AssertUnwindSafe(|| work(self, ctx))) {
            Ok(Ok(())) => return,
            Ok(Err(end)) => tracing::info!(node = %from.node, session = self.setup.session, %end, "peer session ended"),
            Err(_) => tracing::error!(actor = %self.vitals.name, "peer session failed and is closed"),
        }
        ctx.stop();
    }

    pub(super) fn max_queued_bytes(&self) -> usize {
        match self.setup.purpose {
            PeerPurpose::Link(LinkKind::Data) => MAX_QUEUED_DATA_BYTES,
            PeerPurpose::Link(LinkKind::Control) | PeerPurpose::Formation => MAX_QUEUED_CONTROL_BYTES,
        }
    }

    /// Lets the socket be looked at once more, from a future that runs after [`Drive`].
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.drive {
            waker.wake_by_ref();
        }
    }

    /// Reads once; `true` when there may be more right away.
    fn read(&mut self, ctx: &mut Context<Self>, task: &mut TaskContext<'_>) -> Result<bool, LinkEnd> {
        if self.asked || self.delivery.poll(task).is_pending() {
            return Ok(false);
        }
        let mut frames = std::mem::take(&mut self.frames);
        let read = match std::mem::take(&mut self.fresh) {
            true => Poll::Ready(self.socket.take_frames(&mut frames)),
            false => self.socket.poll_read(task, &mut frames),
        };
        // What came whole before the end of the connection is delivered.
        let delivered = self.take(&mut frames, ctx);
        self.frames = frames;
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => delivered.map(|()| true),
            Poll::Ready(Err(end)) => Err(end),
        }
    }

    fn take(&mut self, frames: &mut Vec<PeerFrame>, ctx: &mut Context<Self>) -> Result<(), LinkEnd> {
        let mut requests: Vec<Vec<ReplicaRequest>> = Vec::new();
        for frame in frames.drain(..) {
            match (self.setup.purpose, frame) {
                (PeerPurpose::Link(LinkKind::Data), PeerFrame::Append(append)) => {
                    self.sort(ReplicaRequest::Append(append), &mut requests);
                }
                (PeerPurpose::Link(LinkKind::Data), PeerFrame::Truncate(truncate)) => {
                    self.sort(ReplicaRequest::Truncate(truncate), &mut requests);
                }
                (PeerPurpose::Link(LinkKind::Control), PeerFrame::Control(body)) => {
                    if let Some(routes) = &self.setup.routes {
                        self.delivery.push(&routes.control, ControlReceived { from: self.setup.from, body });
                    }
                }
                (PeerPurpose::Formation, PeerFrame::Formation(body)) if !self.asked => self.ask(body, ctx),
                (_, other) => return Err(LinkEnd::Unexpected { found: other.command() }),
            }
        }
        let Some(routes) = &self.setup.routes else { return Ok(()) };
        for (inlet, requests) in routes.appends.iter().zip(requests) {
            if !requests.is_empty() {
                let (from, session) = (self.setup.from, self.setup.session);
                self.delivery.push(inlet, AppendReplica { from, session, requests });
            }
        }
        Ok(())
    }

    /// Puts a request among those of its shard.
    fn sort(&self, request: ReplicaRequest, requests: &mut Vec<Vec<ReplicaRequest>>) {
        let Some(routes) = &self.setup.routes else { return };
        requests.resize_with(routes.appends.len(), Vec::new);
        let shard = (routes.shard_of)(request.partition());
        if let Some(requests) = requests.get_mut(shard) {
            requests.push(request);
        }
    }

    fn ask(&mut self, body: bytes::Bytes, ctx: &mut Context<Self>) {
        let Some(formation) = &self.setup.formation else { return };
        self.asked = true;
        let answer = formation.send(FormationAsked { from: self.setup.from, body });
        ctx.spawn(actix::fut::wrap_future::<_, Self>(answer).map(|answer, actor, ctx| {
            actor.asked = false;
            actor.guarded(ctx, |actor, _| match answer.flatten() {
                Some(body) => actor.queue(&PeerFrame::FormationAnswer(body)),
                // Who asks hears nothing and asks again.
                None => Err(LinkEnd::Closed),
            });
            actor.wake();
        }));
    }

    /// Queues a frame; more than may wait ends the session.
    pub(super) fn queue(&mut self, frame: &PeerFrame) -> Result<(), LinkEnd> {
        let max_bytes = self.max_queued_bytes();
        self.socket.queue(frame)?;
        let bytes = self.socket.queued_bytes();
        if bytes > max_bytes { Err(LinkEnd::TooSlow { bytes, max_bytes }) } else { Ok(()) }
    }
}

impl Actor for PeerSessionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(PEER_SESSION_MAILBOX);
        self.vitals.set_state(ActorState::Running);
        self.register(ctx);
        ctx.spawn(Drive);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.vitals.set_state(ActorState::Stopped);
        self.unregister();
        let closed = self.setup.acceptor.send(SessionClosed { session: self.setup.session, started: true });
        actix_rt::spawn(async move {
            // The acceptor is gone only when the process goes down.
            let _ = closed.await;
        });
    }
}

/// Moves frames between socket and mailboxes each time the actor's context is polled.
struct Drive;

impl ActorFuture<PeerSessionActor> for Drive {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut PeerSessionActor,
        ctx: &mut Context<PeerSessionActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if actor.drive.as_ref().is_none_or(|waker| !waker.will_wake(task.waker())) {
            actor.drive = Some(task.waker().clone());
        }
        actor.guarded(ctx, |actor, ctx| {
            if actor.read(ctx, task)? {
                task.waker().wake_by_ref();
            }
            actor.socket.poll_write(task)
        });
        Poll::Pending
    }
}
