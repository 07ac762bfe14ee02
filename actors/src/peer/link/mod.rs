//! `PeerLinkActor`: this node's own connection to one peer, for control messages or for data; made anew when it ends.

mod backoff;
mod handlers;

pub use backoff::retry_delay;
pub use handlers::{MoveLink, StopLink};

use super::ShardOf;
use super::delivery::Delivery;
use super::handshake::{self, PeerRefusal};
use super::inlet::Inlet;
use super::local::LocalPeer;
use super::socket::{FrameSocket, LinkEnd};
use crate::metrics::{LinkFigure, Metrics};
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, guarded};
use crate::supervision::{ActorState, Escalated, NodeSupervisor, RestartPolicy, Vitals};
use actix::fut::ActorFuture;
use actix::prelude::*;
use lance_messages::id::NodeId;
use lance_messages::mail::peer::{ControlReceived, LinkChanged, ReplicaAnswered};
use lance_messages::peer::{AppendResponse, LinkKind, PeerIdentity};
use lance_messages::wire::peer::{PeerFrame, PeerPurpose};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

/// Mailbox capacity of a link: what other actors have to say to the peer, each message for many requests.
pub const PEER_LINK_MAILBOX: usize = 1024;

/// What a link is made of.
pub struct LinkSetup {
    /// This node.
    pub local: Arc<LocalPeer>,
    /// The peer; another node at its address is refused.
    pub peer: NodeId,
    /// Where it is, host:port.
    pub address: String,
    /// What the link carries.
    pub kind: LinkKind,
    /// Bytes that may wait to be written; a control message beyond is dropped, data beyond ends the connection.
    pub max_queued_bytes: usize,
    /// Which shard owns a partition.
    pub shard_of: ShardOf,
    /// Who takes answers of followers, by shard; empty on a control link.
    pub answers: Vec<Inlet<ReplicaAnswered>>,
    /// Who takes control messages that come back.
    pub control: Inlet<ControlReceived>,
    /// Who is told when the connection stands and when no more; before anything that arrives on it.
    pub changed: Vec<Inlet<LinkChanged>>,
    /// Who shows links in the tree.
    pub supervisor: Addr<NodeSupervisor>,
    /// Where it is shown whether the link stands.
    pub metrics: Arc<Metrics>,
}

/// The name of a link in the tree.
pub fn link_name(peer: NodeId, kind: LinkKind) -> String {
    match kind {
        LinkKind::Control => format!("link-{peer}-control"),
        LinkKind::Data => format!("link-{peer}-data"),
    }
}

struct Connection {
    socket: FrameSocket,
    peer: PeerIdentity,
    /// Frames may have been read while the connection was opened.
    fresh: bool,
}

/// The shell of one link.
pub struct PeerLinkActor {
    life: Life,
    setup: LinkSetup,
    figure: Arc<LinkFigure>,
    connection: Option<Connection>,
    delivery: Delivery,
    frames: Vec<PeerFrame>,
    /// Attempts since the link last stood.
    failures: u32,
    /// What the last attempt failed of, so that a lasting reason is logged once.
    last_refusal: String,
    attempt: Option<SpawnHandle>,
    stopped: bool,
    drive: Option<Waker>,
}

impl PeerLinkActor {
    /// A link; it connects as soon as it runs.
    pub fn new(vitals: Arc<Vitals>, policy: RestartPolicy, parent: Recipient<Escalated>, setup: LinkSetup) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            figure: setup.metrics.links.of(setup.peer, setup.kind),
            setup,
            connection: None,
            delivery: Delivery::default(),
            frames: Vec::new(),
            failures: 0,
            last_refusal: String::new(),
            attempt: None,
            stopped: false,
            drive: None,
        }
    }

    /// Connects after the pause that the failures so far have earned.
    fn connect(&mut self, ctx: &mut Context<Self>) {
        if self.stopped {
            return;
        }
        let delay = retry_delay(self.failures, rand::random());
        self.failures = self.failures.saturating_add(1);
        let (local, address) = (Arc::clone(&self.setup.local), self.setup.address.clone());
        let (purpose, peer) = (PeerPurpose::Link(self.setup.kind), self.setup.peer);
        let opened = async move {
            actix_rt::time::sleep(delay).await;
            handshake::connect(&address, &local, purpose, Some(peer)).await
        };
        let attempt = actix::fut::wrap_future::<_, Self>(opened).map(|opened, actor, ctx| {
            guarded(actor, ctx, |actor, ctx| -> Result<(), Infallible> {
                actor.attempt = None;
                actor.on_opened(opened, ctx);
                Ok(())
            });
        });
        self.attempt = Some(ctx.spawn(attempt));
    }

    fn on_opened(&mut self, opened: Result<(FrameSocket, PeerIdentity), PeerRefusal>, ctx: &mut Context<Self>) {
        match opened {
            Ok((socket, peer)) => {
                tracing::info!(link = %self.life.vitals.name, boot_number = peer.boot_number, "link stands");
                self.failures = 0;
                self.last_refusal.clear();
                self.connection = Some(Connection { socket, peer, fresh: true });
                self.figure.up.set(1);
                self.tell(Some(peer));
                self.wake();
            }
            Err(refusal) => {
                let text = refusal.to_string();
                if self.last_refusal == text {
                    tracing::debug!(link = %self.life.vitals.name, %refusal, "no link");
                } else {
                    tracing::warn!(link = %self.life.vitals.name, %refusal, "no link; trying again");
                    self.last_refusal = text;
                }
                self.connect(ctx);
            }
        }
    }

    /// Deliveries keep their order, so the end of one connection is heard of before the next.
    fn tell(&mut self, peer: Option<PeerIdentity>) {
        let change = LinkChanged { node: self.setup.peer, kind: self.setup.kind, peer };
        for inlet in &self.setup.changed {
            self.delivery.push(inlet, change);
        }
    }

    /// The connection is no more: everybody hears of it at once, and another is made.
    fn end(&mut self, end: &LinkEnd, ctx: &mut Context<Self>) {
        if self.hang_up() {
            tracing::warn!(link = %self.life.vitals.name, %end, "link is down");
            self.connect(ctx);
        }
    }

    /// Whether there was a connection.
    fn hang_up(&mut self) -> bool {
        let stood = self.connection.take().is_some();
        if stood {
            self.figure.up.set(0);
            self.figure.losses.add(1);
            self.tell(None);
        }
        stood
    }

    fn wake(&self) {
        if let Some(waker) = &self.drive {
            waker.wake_by_ref();
        }
    }

    /// Moves what can be moved; `true` when there may be more to read right away.
    fn move_bytes(&mut self, task: &mut TaskContext<'_>) -> Result<bool, LinkEnd> {
        let delivered = self.delivery.poll(task).is_ready();
        let Some(connection) = &mut self.connection else { return Ok(false) };
        connection.socket.poll_write(task)?;
        if !delivered {
            return Ok(false);
        }
        let mut frames = std::mem::take(&mut self.frames);
        let read = match std::mem::take(&mut connection.fresh) {
            true => Poll::Ready(connection.socket.take_frames(&mut frames)),
            false => connection.socket.poll_read(task, &mut frames),
        };
        let from = connection.peer;
        // What came whole before the end of the connection is delivered.
        let taken = self.take(&mut frames, from);
        self.frames = frames;
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => taken.map(|()| true),
            Poll::Ready(Err(end)) => Err(end),
        }
    }

    fn take(&mut self, frames: &mut Vec<PeerFrame>, from: PeerIdentity) -> Result<(), LinkEnd> {
        let mut answers: Vec<Vec<AppendResponse>> = Vec::new();
        for frame in frames.drain(..) {
            match (self.setup.kind, frame) {
                (LinkKind::Data, PeerFrame::AppendAnswer(responses)) => {
                    answers.resize_with(self.setup.answers.len(), Vec::new);
                    for response in responses {
                        if let Some(answers) = answers.get_mut((self.setup.shard_of)(response.partition)) {
                            answers.push(response);
                        }
                    }
                }
                (LinkKind::Control, PeerFrame::ControlAnswer(body)) => {
                    self.delivery.push(&self.setup.control, ControlReceived { from, body });
                }
                (_, other) => return Err(LinkEnd::Unexpected { found: other.command() }),
            }
        }
        for (inlet, responses) in self.setup.answers.iter().zip(answers) {
            if !responses.is_empty() {
                self.delivery.push(inlet, ReplicaAnswered { from, responses });
            }
        }
        Ok(())
    }
}

supervised_shell!(PeerLinkActor, PEER_LINK_MAILBOX);

impl Shell for PeerLinkActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    fn drop_core(&mut self, _: &mut Self::Context) {
        self.attempt = None;
        self.frames.clear();
        self.hang_up();
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        self.life.vitals.set_state(if self.stopped { ActorState::Stopped } else { ActorState::Running });
        ctx.spawn(Drive);
        self.connect(ctx);
    }
}

/// Moves frames between socket and mailboxes each time the actor's context is polled.
struct Drive;

impl ActorFuture<PeerLinkActor> for Drive {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut PeerLinkActor,
        ctx: &mut Context<PeerLinkActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if actor.drive.as_ref().is_none_or(|waker| !waker.will_wake(task.waker())) {
            actor.drive = Some(task.waker().clone());
        }
        guarded(actor, ctx, |actor, ctx| -> Result<(), Infallible> {
            match actor.move_bytes(task) {
                Ok(false) => {}
                Ok(true) => task.waker().wake_by_ref(),
                Err(end) => actor.end(&end, ctx),
            }
            Ok(())
        });
        Poll::Pending
    }
}
