//! `NetworkActor`: accepts connections and starts an actor for each on one of the connection threads.

use super::connection::{BeginDrain, CloseWhenIdle, ConnectionActor, ConnectionSetup};
use crate::peer::doorstep::{Caller, caller, hand_over};
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, fail, guarded};
use crate::supervision::{
    ActorKind, ActorStarted, ActorState, ActorStopped, Escalated, NodeSupervisor, RestartPolicy, Vitals,
};
use crate::tls::{Arrival, TlsKeeper, TlsRefusal};
use actix::fut::ActorFuture;
use actix::prelude::*;
use bytes::BytesMut;
use hashbrown::HashMap;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::ConnectionId;
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Response, ResponseFrame};
use socket2::{SockRef, TcpKeepalive};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Mailbox capacity of the network actor: news of connections.
pub const NETWORK_MAILBOX: usize = 16_384;
/// Ids below this belong to actors that speak to shards like a connection does.
pub const FIRST_CLIENT_CONNECTION: u64 = 16;
/// After a failed accept (out of descriptors, mostly) the listener rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// While the committed metadata is not known yet, the listener looks for it this often.
const METADATA_PAUSE: Duration = Duration::from_millis(5);
/// Connections of which nobody knows yet whether they are peers: while clients are not served, or no more of them.
const MAX_DOORSTEP: usize = 256;
/// How long those may take to show it.
const DOORSTEP_PATIENCE: Duration = Duration::from_millis(500);
/// How long clients wait for the committed metadata.
const EARLY_PATIENCE: Duration = Duration::from_millis(500);
/// Connections whose TLS handshake is under way.
const MAX_HANDSHAKES: usize = 1024;
/// Accepts of one turn.
const ACCEPTS: usize = 64;
/// Between two of the kernel's probes of a silent connection, and how many may stay unanswered.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// A connection ended.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ConnectionClosed(pub ConnectionId);

/// A connection's actor runs.
#[derive(Message)]
#[rtype(result = "()")]
struct ConnectionOpened(ConnectionId, Addr<ConnectionActor>);

/// Accept no more; new produce requests are refused from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopAccepting;

/// Close every connection once it is idle; answered with the number still open.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct CloseConnections;

/// A TLS handshake has ended, on this connection thread.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Shaken(usize, Result<Arrival, TlsRefusal>);

/// A connection before its actor runs.
struct Caught {
    stream: TcpStream,
    /// The name in its certificate.
    principal: Option<Arc<str>>,
    /// The thread that its bytes come from, with TLS.
    thread: Option<usize>,
}

impl From<TcpStream> for Caught {
    fn from(stream: TcpStream) -> Self {
        Self { stream, principal: None, thread: None }
    }
}

/// What a network actor is made of.
pub struct NetworkSetup {
    /// The bound socket; kept, so that a restart listens on.
    pub listener: std::net::TcpListener,
    /// Most client connections.
    pub max_connections: usize,
    /// Silence after which the kernel probes a connection.
    pub tcp_keepalive: Duration,
    /// How long sent bytes may stay unacknowledged.
    pub tcp_user_timeout: Duration,
    /// What connections share.
    pub connection: ConnectionSetup,
    /// Threads that serve connections.
    pub threads: Vec<ArbiterHandle>,
    /// Who shows connections in the tree.
    pub supervisor: Addr<NodeSupervisor>,
    /// Ends TLS; without it connections are plain.
    pub tls: Option<Arc<TlsKeeper>>,
}

/// The shell of the listener.
pub struct NetworkActor {
    life: Life,
    setup: NetworkSetup,
    listener: Option<TcpListener>,
    connections: HashMap<ConnectionId, Option<Addr<ConnectionActor>>>,
    next_connection: u64,
    accepting: bool,
    draining: bool,
    /// Connections that are being looked at.
    doorstep: usize,
    /// Clients that came before the committed metadata.
    early: VecDeque<Caught>,
    /// TLS handshakes under way.
    handshakes: usize,
    next_thread: usize,
}

impl NetworkActor {
    /// A network actor.
    pub fn new(vitals: Arc<Vitals>, policy: RestartPolicy, parent: Recipient<Escalated>, setup: NetworkSetup) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            setup,
            listener: None,
            connections: HashMap::new(),
            next_connection: FIRST_CLIENT_CONNECTION,
            accepting: true,
            draining: false,
            doorstep: 0,
            early: VecDeque::new(),
            handshakes: 0,
            next_thread: 0,
        }
    }

    fn listen(&mut self) -> std::io::Result<()> {
        let listener = self.setup.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        self.listener = Some(TcpListener::from_std(listener)?);
        Ok(())
    }

    /// Half-open peers are found by the kernel: a client without Hello is sent no frame that would find them.
    fn configure(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive =
            TcpKeepalive::new().with_time(self.setup.tcp_keepalive).with_interval(PROBE_INTERVAL).with_retries(PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(self.setup.tcp_user_timeout))
    }

    /// A client that came before the committed metadata would be told that its topics do not exist.
    fn serves_clients(&self) -> bool {
        self.setup.connection.view.load().node.is_some()
    }

    /// With TLS its handshake comes first, on a thread of connections.
    fn arrive(&mut self, stream: TcpStream, ctx: &mut Context<Self>) {
        let Some(tls) = self.setup.tls.clone() else { return self.receive(stream.into(), ctx) };
        if self.handshakes >= MAX_HANDSHAKES {
            self.setup.connection.metrics.connections_refused.add(1);
            return;
        }
        if let Err(error) = self.configure(&stream) {
            return tracing::debug!(%error, "a connection vanished while it was set up");
        }
        let number = self.next_thread % self.setup.threads.len().max(1);
        let Some(thread) = self.setup.threads.get(number) else { return };
        let Ok(stream) = stream.into_std() else { return };
        self.handshakes += 1;
        self.next_thread = self.next_thread.wrapping_add(1);
        let network = ctx.address();
        thread.spawn_fn(move || {
            actix_rt::spawn(async move {
                let shaken = match TcpStream::from_std(stream) {
                    Ok(stream) => tls.accept(stream).await,
                    Err(error) => Err(TlsRefusal::Sockets(error)),
                };
                // Gone only when the process goes down.
                let _ = network.send(Shaken(number, shaken)).await;
            });
        });
    }

    fn on_shaken(&mut self, thread: usize, shaken: Result<Arrival, TlsRefusal>, ctx: &mut Context<Self>) {
        self.handshakes = self.handshakes.saturating_sub(1);
        let arrival = match shaken {
            Ok(arrival) => arrival,
            Err(refusal) => {
                self.setup.connection.metrics.connections_refused.add(1);
                return tracing::info!(%refusal, "a connection is closed");
            }
        };
        let Ok(stream) = TcpStream::from_std(arrival.stream) else { return };
        if self.accepting {
            self.receive(Caught { stream, principal: arrival.principal, thread: Some(thread) }, ctx);
        }
    }

    /// Peers come in at any time, and beyond the limit of clients.
    fn receive(&mut self, caught: Caught, ctx: &mut Context<Self>) {
        let full = self.connections.len() >= self.setup.max_connections;
        if self.serves_clients() && !full || self.setup.connection.peers.is_none() || self.doorstep >= MAX_DOORSTEP {
            return self.accept(caught, ctx);
        }
        self.doorstep += 1;
        let looked_at = async move { (caller(&caught.stream, DOORSTEP_PATIENCE).await, caught) };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(looked_at).map(|(caller, caught), actor, ctx| {
            actor.doorstep = actor.doorstep.saturating_sub(1);
            guarded(actor, ctx, |actor, ctx| -> Result<(), Infallible> {
                match caller {
                    Caller::Peer => actor.hand_over(caught.stream),
                    Caller::Client if actor.serves_clients() => actor.accept(caught, ctx),
                    Caller::Client => actor.keep_early(caught, ctx),
                    Caller::Gone => {}
                }
                Ok(())
            });
        }));
    }

    /// Clients that came too early wait a little. After that others serve them better: a node that refills may take long.
    fn keep_early(&mut self, caught: Caught, ctx: &mut Context<Self>) {
        self.early.push_back(caught);
        ctx.run_later(EARLY_PATIENCE, |actor, _| {
            // All wait equally long, so that the first is the one whose time is over; the close tells it.
            drop(actor.early.pop_front());
        });
    }

    fn hand_over(&self, stream: TcpStream) {
        let Some(peers) = &self.setup.connection.peers else { return };
        match hand_over(stream) {
            Ok(peer) => {
                let accepted = peers.send(peer);
                actix_rt::spawn(async move {
                    // The acceptor is gone only when the process goes down.
                    let _ = accepted.await;
                });
            }
            Err(error) => tracing::debug!(%error, "a peer vanished while it was handed over"),
        }
    }

    fn accept(&mut self, caught: Caught, ctx: &mut Context<Self>) {
        let Caught { stream, principal, thread } = caught;
        if self.connections.len() >= self.setup.max_connections {
            self.setup.connection.metrics.connections_refused.add(1);
            refuse(stream);
            return;
        }
        // With TLS the socket of the network was set up before its handshake.
        if self.setup.tls.is_none()
            && let Err(error) = self.configure(&stream)
        {
            tracing::debug!(%error, "a connection vanished while it was set up");
            return;
        }
        let Ok(stream) = stream.into_std() else { return };
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.connections.insert(id, None);
        self.setup.connection.metrics.connections.set(self.connections.len() as u64);
        let capacity = self.setup.connection.limits.max_requests + super::connection::CONNECTION_MAILBOX_SPARE;
        let vitals = Vitals::new(format!("connection-{}", id.0), ActorKind::Connection, capacity);
        let setup = self.setup.connection.clone();
        let network = ctx.address();
        let supervisor = self.setup.supervisor.clone();
        let parent = self.life.vitals.name.clone();
        let thread = thread.unwrap_or(id.0 as usize % self.setup.threads.len().max(1));
        let Some(thread) = self.setup.threads.get(thread) else { return };
        thread.spawn_fn(move || {
            let Ok(stream) = TcpStream::from_std(stream) else {
                // Else its place would be taken for ever.
                actix_rt::spawn(async move {
                    let _ = network.send(ConnectionClosed(id)).await;
                });
                return;
            };
            let actor = ConnectionActor::new(id, Arc::clone(&vitals), setup, network.clone(), stream, principal);
            let address = actor.start();
            let started = ActorStarted { vitals, parent, panic: address.clone().recipient() };
            actix_rt::spawn(async move {
                // Both are gone only when the process goes down.
                let _ = supervisor.send(started).await;
                let _ = network.send(ConnectionOpened(id, address)).await;
            });
        });
    }
}

/// Ends a connection above the limit, saying why.
fn refuse(stream: TcpStream) {
    let error = TypedError::with_message(
        ErrorCode::LimitReached,
        Answers::Control(0),
        "Limit reached: too many connections to this server",
    );
    let mut frame = BytesMut::new();
    ResponseFrame { correlation: 0, response: Response::Error(error) }.encode(&mut frame, None);
    if let Ok(mut stream) = stream.into_std() {
        // A fresh socket takes these few bytes; if not, the close says enough.
        let _ = stream.write_all(&frame);
    }
}

supervised_shell!(NetworkActor, NETWORK_MAILBOX);

impl Shell for NetworkActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// Connections have actors of their own and stay.
    fn drop_core(&mut self, _: &mut Self::Context) {
        self.listener = None;
        self.doorstep = 0;
        self.handshakes = 0;
    }

    fn begin(&mut self, ctx: &mut Self::Context) {
        if let Err(error) = self.listen() {
            return fail(self, ctx, format!("cannot listen: {error}"));
        }
        self.life.vitals.set_state(ActorState::Running);
        ctx.spawn(Accepts { resting: None });
    }
}

/// Accepts connections while the actor lives.
struct Accepts {
    resting: Option<Pin<Box<actix_rt::time::Sleep>>>,
}

impl ActorFuture<NetworkActor> for Accepts {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut NetworkActor,
        ctx: &mut Context<NetworkActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if let Some(resting) = self.resting.as_mut() {
            if resting.as_mut().poll(task).is_pending() {
                return Poll::Pending;
            }
            self.resting = None;
        }
        if !actor.serves_clients() {
            self.resting = Some(Box::pin(actix_rt::time::sleep(METADATA_PAUSE)));
            task.waker().wake_by_ref();
            if actor.setup.connection.peers.is_none() || actor.early.len() + actor.doorstep >= MAX_DOORSTEP {
                return Poll::Pending;
            }
        } else if !actor.early.is_empty() {
            let early = std::mem::take(&mut actor.early);
            guarded(actor, ctx, |actor, ctx| -> Result<(), Infallible> {
                early.into_iter().for_each(|caught| actor.receive(caught, ctx));
                Ok(())
            });
        }
        for _ in 0..ACCEPTS {
            let Some(listener) = actor.listener.as_ref() else {
                return Poll::Ready(());
            };
            if !actor.accepting {
                return Poll::Ready(());
            }
            match listener.poll_accept(task) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok((stream, _))) => {
                    guarded(actor, ctx, |actor, ctx| -> Result<(), Infallible> {
                        actor.arrive(stream, ctx);
                        Ok(())
                    });
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "cannot accept: trying again shortly");
                    self.resting = Some(Box::pin(actix_rt::time::sleep(ACCEPT_PAUSE)));
                    break;
                }
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Handler<ConnectionOpened> for NetworkActor {
    type Result = ();

    fn handle(&mut self, message: ConnectionOpened, _: &mut Self::Context) {
        // It may have ended already, in which case its news came first.
        if let Some(address) = self.connections.get_mut(&message.0) {
            if self.draining {
                let _ = message.1.try_send(BeginDrain);
            }
            *address = Some(message.1);
        }
    }
}

impl Handler<Shaken> for NetworkActor {
    type Result = ();

    fn handle(&mut self, message: Shaken, ctx: &mut Self::Context) {
        let Shaken(thread, shaken) = message;
        guarded(self, ctx, |actor, ctx| -> Result<(), Infallible> {
            actor.on_shaken(thread, shaken, ctx);
            Ok(())
        });
    }
}

impl Handler<ConnectionClosed> for NetworkActor {
    type Result = ();

    fn handle(&mut self, message: ConnectionClosed, _: &mut Self::Context) {
        self.connections.remove(&message.0);
        self.setup.connection.metrics.connections.set(self.connections.len() as u64);
        let supervisor = self.setup.supervisor.clone();
        let stopped = ActorStopped { name: format!("connection-{}", message.0.0) };
        actix_rt::spawn(async move {
            let _ = supervisor.send(stopped).await;
        });
    }
}

impl Handler<StopAccepting> for NetworkActor {
    type Result = ();

    fn handle(&mut self, _: StopAccepting, _: &mut Self::Context) {
        self.accepting = false;
        self.draining = true;
        self.listener = None;
        for address in self.connections.values().flatten() {
            // A connection whose mailbox is full is told again by CloseWhenIdle.
            let _ = address.try_send(BeginDrain);
        }
    }
}

impl Handler<CloseConnections> for NetworkActor {
    type Result = usize;

    fn handle(&mut self, _: CloseConnections, _: &mut Self::Context) -> usize {
        for address in self.connections.values().flatten() {
            let _ = address.try_send(CloseWhenIdle);
        }
        self.connections.len()
    }
}
