//! `PeerAcceptorActor`: proves whoever begins a connection with a PeerHello, and starts sessions for peers.

use super::formation::FormationAsked;
use super::handshake::{self, PeerRefusal};
use super::inlet::Inlet;
use super::local::LocalPeer;
use super::registry::PeerRegistry;
use super::session::{
    CloseSession, PEER_SESSION_MAILBOX, PeerSessionActor, RegisterPeerSession, SessionSetup, UnregisterPeerSession,
};
use super::socket::{DetachedSocket, FrameSocket};
use super::{OPENING_SESSIONS, ShardOf};
use crate::clock::NodeClock;
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, guarded};
use crate::supervision::{
    ActorKind, ActorStarted, ActorState, ActorStopped, Escalated, NodeSupervisor, RestartPolicy, Vitals,
};
use actix::prelude::*;
use bytes::BytesMut;
use lance_messages::mail::peer::{AppendReplica, ControlReceived};
use lance_messages::peer::{LinkKind, PeerIdentity};
use lance_messages::wire::peer::{PeerFrame, PeerHello, PeerPurpose};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Mailbox capacity of the acceptor: connections that begin with a PeerHello, and news of sessions.
pub const PEER_ACCEPTOR_MAILBOX: usize = 1024;
/// Its name in the tree.
pub const PEER_ACCEPTOR_NAME: &str = "peers";

/// A connection whose first frame is a PeerHello.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AcceptPeer {
    /// The socket.
    pub stream: std::net::TcpStream,
    /// What was read from it.
    pub received: BytesMut,
}

/// Who takes what arrives in sessions.
#[derive(Clone)]
pub struct SessionRoutes {
    /// Which shard owns a partition.
    pub shard_of: ShardOf,
    /// Ingestion actors, by shard.
    pub appends: Vec<Inlet<AppendReplica>>,
    /// The same actors, for the news of a session.
    pub registrations: Vec<Inlet<RegisterPeerSession>>,
    /// The same actors, for the end of a session.
    pub unregistrations: Vec<Inlet<UnregisterPeerSession>>,
    /// Who takes control messages.
    pub control: Inlet<ControlReceived>,
}

/// The node's actors stand: links of peers are accepted from now on. Until then only formation is answered.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ServePeers(pub SessionRoutes);

/// Who answers how far the formation is.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ServeFormation(pub Inlet<FormationAsked>);

/// A session has ended.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct SessionClosed {
    /// Its number.
    pub session: u64,
    /// Whether its actor ran.
    pub started: bool,
}

/// What an acceptor is made of.
pub struct PeerAcceptorSetup {
    /// This node.
    pub local: Arc<LocalPeer>,
    /// Threads that serve data sessions; without any, the acceptor's own, which serves all others.
    pub data_threads: Vec<ArbiterHandle>,
    /// The node's clock.
    pub clock: NodeClock,
    /// Who shows sessions in the tree.
    pub supervisor: Addr<NodeSupervisor>,
}

/// The shell that accepts peers.
pub struct PeerAcceptorActor {
    life: Life,
    setup: PeerAcceptorSetup,
    registry: PeerRegistry,
    routes: Option<SessionRoutes>,
    formation: Option<Inlet<FormationAsked>>,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
    /// Connections that are not proven yet.
    opening: usize,
}

/// A session, as its acceptor sees it.
struct Session {
    /// Its name in the tree.
    name: String,
    /// Known once it is shown in the tree.
    address: Option<Addr<PeerSessionActor>>,
    /// It ended, or was replaced, before it was shown.
    ended: bool,
    replaced: bool,
}

impl PeerAcceptorActor {
    /// An acceptor.
    pub fn new(
        vitals: Arc<Vitals>,
        policy: RestartPolicy,
        parent: Recipient<Escalated>,
        setup: PeerAcceptorSetup,
    ) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            setup,
            registry: PeerRegistry::default(),
            routes: None,
            formation: None,
            sessions: BTreeMap::new(),
            next_session: 1,
            opening: 0,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.setup.clock.now().elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    fn accept(&mut self, message: AcceptPeer, ctx: &mut Context<Self>) {
        if self.opening >= OPENING_SESSIONS {
            tracing::warn!(opening = self.opening, "too many connections claim to be peers: one is closed");
            return;
        }
        let AcceptPeer { stream, received } = message;
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "a connection could not be taken over"),
        };
        self.opening += 1;
        let local = Arc::clone(&self.setup.local);
        let answered = async move {
            let mut socket = FrameSocket::new(stream, received);
            let hello = handshake::answer(&mut socket, &local).await?;
            Ok((socket, hello))
        };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(answered).map(|answered, actor, ctx| {
            actor.opening = actor.opening.saturating_sub(1);
            guarded(actor, ctx, |actor, ctx| -> Result<(), Infallible> {
                actor.on_answered(answered, ctx);
                Ok(())
            });
        }));
    }

    fn on_answered(&mut self, answered: Result<(FrameSocket, PeerHello), PeerRefusal>, ctx: &mut Context<Self>) {
        let (mut socket, hello) = match answered {
            Ok(answered) => answered,
            // Both sides find out where a list of peers names the node itself; that is nothing to report.
            Err(PeerRefusal::OwnAddress) => return,
            Err(PeerRefusal::Said(text)) => return tracing::warn!(reason = %text, "a peer does not go on"),
            Err(refusal) => return tracing::warn!(%refusal, "a peer is refused"),
        };
        let refused = match hello.purpose {
            PeerPurpose::Formation if self.formation.is_none() => Some("this node is starting: ask again".to_owned()),
            PeerPurpose::Link(_) if self.routes.is_none() => Some("this node is starting: connect again".to_owned()),
            _ => None,
        };
        let session = self.next_session;
        let admitted = match (refused, hello.purpose) {
            (Some(text), _) => Err(text),
            (None, PeerPurpose::Formation) => Ok(Vec::new()),
            (None, PeerPurpose::Link(kind)) => {
                let now_ms = self.now_ms();
                let admitted = self.registry.admit(hello.identity, &hello.address, kind, session, now_ms);
                admitted.map_err(|outdated| {
                    tracing::warn!(%outdated, "a peer is refused");
                    outdated.to_string()
                })
            }
        };
        match admitted {
            Ok(replaced) => {
                self.next_session += 1;
                replaced.into_iter().for_each(|session| self.end(session));
                tracing::debug!(node = %hello.identity.node, session, links = self.registry.session_count(), "a peer is accepted");
                self.start_session(session, socket, hello, ctx);
            }
            Err(text) => {
                actix_rt::spawn(async move {
                    // A fresh socket takes these few bytes; if not, the close says enough.
                    let frame = PeerFrame::Refused(text);
                    let _ = actix_rt::time::timeout(handshake::OPENING_TIMEOUT, socket.send(&frame)).await;
                });
            }
        }
    }

    /// Ends a session whose place was taken.
    fn end(&mut self, session: u64) {
        let Some(session) = self.sessions.get_mut(&session) else { return };
        session.replaced = true;
        if let Some(address) = &session.address {
            close(address);
        }
    }

    /// Forgets a session that has ended and is shown.
    fn forget(&mut self, session: u64) {
        let Some(Session { name, .. }) = self.sessions.remove(&session) else { return };
        let supervisor = self.setup.supervisor.clone();
        actix_rt::spawn(async move {
            // The root outlives its children.
            let _ = supervisor.send(ActorStopped { name }).await;
        });
    }

    fn start_session(&mut self, session: u64, mut socket: FrameSocket, hello: PeerHello, ctx: &mut Context<Self>) {
        let PeerHello { identity: from, purpose, .. } = hello;
        let setup = self.session_setup(session, from, purpose, ctx.address());
        let name = format!("session-{}-{}-{session}", from.node, purpose_word(purpose));
        let vitals = Vitals::new(name.clone(), ActorKind::Session, PEER_SESSION_MAILBOX);
        let started = StartedSession { parent: self.life.vitals.name.clone(), vitals, setup };
        let supervisor = self.setup.supervisor.clone();
        self.sessions.insert(session, Session { name, address: None, ended: false, replaced: false });
        // Behind TLS there is no socket of the network to set up: that was done when it was accepted.
        let local = &self.setup.local;
        let ready = local.tls.is_some() || local.configure(socket.stream(), purpose).is_ok();
        if !ready || socket.queue(&PeerFrame::Welcome).is_err() {
            tracing::debug!(node = %from.node, "a peer vanished while its connection was set up");
            return self.on_closed(SessionClosed { session, started: false });
        }
        let threads = &self.setup.data_threads;
        let thread = threads.get(usize::from(from.node.0) % threads.len().max(1));
        match thread.filter(|_| purpose == PeerPurpose::Link(LinkKind::Data)) {
            None => started.start(socket, supervisor),
            Some(thread) => match socket.detach() {
                Ok(socket) => {
                    thread.spawn_fn(move || started.attach(socket, supervisor));
                }
                Err(error) => {
                    tracing::warn!(%error, "no session for a peer");
                    self.on_closed(SessionClosed { session, started: false });
                }
            },
        }
    }

    fn session_setup(
        &self,
        session: u64,
        from: PeerIdentity,
        purpose: PeerPurpose,
        acceptor: Addr<Self>,
    ) -> SessionSetup {
        let routes = self.routes.clone();
        let routes = match purpose {
            PeerPurpose::Link(LinkKind::Data) => routes,
            // Shards answer on data sessions only.
            PeerPurpose::Link(LinkKind::Control) => {
                routes.map(|routes| SessionRoutes { registrations: Vec::new(), unregistrations: Vec::new(), ..routes })
            }
            PeerPurpose::Formation => None,
        };
        let formation = self.formation.clone().filter(|_| purpose == PeerPurpose::Formation);
        SessionSetup { session, from, purpose, routes, formation, acceptor }
    }

    fn on_closed(&mut self, closed: SessionClosed) {
        self.registry.close(closed.session, self.now_ms());
        match self.sessions.get_mut(&closed.session) {
            // The news that it runs comes behind its place in the tree, which it then leaves.
            Some(session) if closed.started && session.address.is_none() => session.ended = true,
            _ => self.forget(closed.session),
        }
    }
}

fn close(session: &Addr<PeerSessionActor>) {
    let closing = session.send(CloseSession);
    actix_rt::spawn(async move {
        // It may have ended by itself.
        let _ = closing.await;
    });
}

const fn purpose_word(purpose: PeerPurpose) -> &'static str {
    match purpose {
        PeerPurpose::Link(LinkKind::Control) => "control",
        PeerPurpose::Link(LinkKind::Data) => "data",
        PeerPurpose::Formation => "formation",
    }
}

/// A session before it runs.
struct StartedSession {
    parent: String,
    vitals: Arc<Vitals>,
    setup: SessionSetup,
}

/// A session's actor runs.
#[derive(Message)]
#[rtype(result = "()")]
struct SessionOpened(u64, Addr<PeerSessionActor>);

impl StartedSession {
    /// Starts the actor on this thread.
    fn start(self, socket: FrameSocket, supervisor: Addr<NodeSupervisor>) {
        let Self { parent, vitals, setup } = self;
        let (acceptor, session) = (setup.acceptor.clone(), setup.session);
        let address = PeerSessionActor::new(Arc::clone(&vitals), setup, socket).start();
        let shown = ActorStarted { vitals, parent, panic: address.clone().recipient() };
        actix_rt::spawn(async move {
            // Both are gone only when the process goes down.
            let _ = supervisor.send(shown).await;
            let _ = acceptor.send(SessionOpened(session, address)).await;
        });
    }

    /// Starts the actor on this thread with a socket from another.
    fn attach(self, socket: DetachedSocket, supervisor: Addr<NodeSupervisor>) {
        match socket.attach() {
            Ok(socket) => self.start(socket, supervisor),
            Err(error) => {
                tracing::warn!(%error, "no session for a peer");
                let closed = SessionClosed { session: self.setup.session, started: false };
                let closed = self.setup.acceptor.send(closed);
                actix_rt::spawn(async move {
                    let _ = closed.await;
                });
            }
        }
    }
}

supervised_shell!(PeerAcceptorActor, PEER_ACCEPTOR_MAILBOX);

impl Shell for PeerAcceptorActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// Sessions have actors of their own; which start of a node is the newest must not be forgotten.
    fn drop_core(&mut self, _: &mut Self::Context) {
        self.opening = 0;
    }

    fn begin(&mut self, _: &mut Self::Context) {
        self.life.vitals.set_state(ActorState::Running);
    }
}

impl Handler<AcceptPeer> for PeerAcceptorActor {
    type Result = ();

    fn handle(&mut self, message: AcceptPeer, ctx: &mut Self::Context) {
        guarded(self, ctx, |actor, ctx| -> Result<(), Infallible> {
            actor.accept(message, ctx);
            Ok(())
        });
    }
}

impl Handler<ServePeers> for PeerAcceptorActor {
    type Result = ();

    fn handle(&mut self, message: ServePeers, _: &mut Self::Context) {
        self.routes = Some(message.0);
    }
}

impl Handler<ServeFormation> for PeerAcceptorActor {
    type Result = ();

    fn handle(&mut self, message: ServeFormation, _: &mut Self::Context) {
        self.formation = Some(message.0);
    }
}

impl Handler<SessionOpened> for PeerAcceptorActor {
    type Result = ();

    fn handle(&mut self, message: SessionOpened, _: &mut Self::Context) {
        let SessionOpened(number, address) = message;
        let Some(session) = self.sessions.get_mut(&number) else { return };
        if session.ended {
            return self.forget(number);
        }
        if session.replaced {
            close(&address);
        }
        session.address = Some(address);
    }
}

impl Handler<SessionClosed> for PeerAcceptorActor {
    type Result = ();

    fn handle(&mut self, message: SessionClosed, _: &mut Self::Context) {
        self.on_closed(message);
    }
}
