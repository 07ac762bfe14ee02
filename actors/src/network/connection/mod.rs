//! `ConnectionActor`: the socket of one client around its [`SessionCore`].

mod asking;
mod handlers;
mod throttle;
mod writing;

use crate::audit::audit;
use crate::clock::NodeClock;
use crate::forward::actor::{FORWARD_CLIENT_NAME, ForwardActor};
use crate::group::actor::GroupActor;
use crate::ingestion::actor::{IngestionActor, RegisterConnection, ReplyTo, UnregisterConnection};
use crate::mailbox::Mailbox;
use crate::metadata::actor::MetadataActor;
use crate::metrics::Metrics;
use crate::network::actor::{ConnectionClosed, NetworkActor};
use crate::network::budget::{ByteBudget, FREE_FRAME_BYTES, Reservation};
use crate::network::outbox::{ShardMessage, forward_message, push_produce, send, try_forward, try_send};
use crate::network::quotas::{Meters, Quotas};
use crate::network::readers::{ReadFailure, ReaderJob, ReaderPool};
use crate::network::session::access::{AuthGate, Identity};
use crate::network::session::{MAX_PART_REPLIES, SessionCore, SessionEffect, SessionLimits};
use crate::peer::{AcceptPeer, Inlet};
use crate::supervision::{ActorState, Vitals};
use crate::tee::actor::TeeActor;
use crate::telemetry::RequestFacts;
use crate::view::ClusterView;
use actix::fut::ActorFuture;
use actix::prelude::*;
use arc_swap::ArcSwap;
use bytes::BytesMut;
use futures_util::FutureExt;
use lance_messages::id::ConnectionId;
use lance_messages::wire::codec::missing_bytes;
use lance_messages::wire::peer::begins_with_peer_hello;
use lance_storage::reader::ReadPlan;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Mailbox capacity of a connection above one reply a request: those to the parts of its fetches, and news.
pub const CONNECTION_MAILBOX_SPARE: usize = MAX_PART_REPLIES + 64;
/// What a connection reads at once, at first and at most.
const READ_BYTES: std::ops::RangeInclusive<usize> = 16 * 1024..=256 * 1024;
/// How often a frame for which there is no room asks again.
const FRAME_ROOM_RETRY: Duration = Duration::from_millis(10);
/// A large frame that makes no progress for this long gives its room back: its connection is closed.
const FRAME_STALL: Duration = Duration::from_secs(30);
/// How often idleness is looked at.
const IDLE_CHECK: Duration = Duration::from_secs(5);

/// A reader thread planned a part of a fetch.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PlanDone {
    /// The request.
    pub request: u64,
    /// Which of its parts.
    pub part: u16,
    /// The plan.
    pub plan: Result<ReadPlan, ReadFailure>,
}

/// A reader thread looked an offset up.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LookUpDone {
    /// The request.
    pub request: u64,
    /// Offset, record number and timestamp.
    pub result: Result<(u64, u64, u64), ReadFailure>,
}

/// New produce requests are refused from now on.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct BeginDrain;

/// Close once everything asked for is answered.
#[derive(Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct CloseWhenIdle;

/// What connections share.
#[derive(Clone)]
pub struct ConnectionSetup {
    /// Limits of a session.
    pub limits: SessionLimits,
    /// Time without a frame after which a connection with Hello is closed; half of it brings a keepalive.
    pub idle_timeout: Duration,
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// Ingestion actors, by shard.
    pub shards: Vec<Mailbox<IngestionActor>>,
    /// Asks other nodes.
    pub forward: Mailbox<ForwardActor>,
    /// The metadata actor.
    pub metadata: Mailbox<MetadataActor>,
    /// The group actor.
    pub group: Mailbox<GroupActor>,
    /// The tee actor.
    pub tee: Mailbox<TeeActor>,
    /// Reader threads.
    pub readers: ReaderPool,
    /// Room for large frames.
    pub frames: ByteBudget,
    /// Room for copies of recent batches, which shards make for all connections.
    pub copies: ByteBudget,
    /// How fast clients may be.
    pub quotas: Arc<Quotas>,
    /// Who may do what; `None` where anybody may do everything.
    pub auth: Option<Arc<AuthGate>>,
    /// The node's clock.
    pub clock: NodeClock,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Who takes a connection that begins with a PeerHello; none where there are no peers.
    pub peers: Option<Inlet<AcceptPeer>>,
}

/// The shell of one connection.
pub struct ConnectionActor {
    id: ConnectionId,
    vitals: Arc<Vitals>,
    setup: ConnectionSetup,
    network: Addr<NetworkActor>,
    stream: TcpStream,
    file_socket: Option<Arc<OwnedFd>>,
    core: SessionCore,
    input: BytesMut,
    read_bytes: usize,
    effects: Vec<SessionEffect>,
    sending_file: bool,
    file_blocked: bool,
    at_end: bool,
    /// Nobody knows yet whether this is a client or a peer.
    unrecognised: bool,
    /// The socket lives on as that of a peer.
    handed_over: bool,
    close_when_idle: bool,
    last_frame: Duration,
    pinged: bool,
    drive: Option<Waker>,
    frame_room: Option<Reservation>,
    /// A look for room is due.
    asks_for_room: bool,
    /// What the quotas of its client's name and of its principal count, if there are any.
    meters: [Option<Arc<Meters>>; 2],
    /// Until when its quotas let it wait.
    throttled_until: Duration,
    /// What spans say of the client, once one is traced.
    facts: Option<Arc<RequestFacts>>,
}

impl ConnectionActor {
    /// The actor of an accepted connection; to be started on the thread that will serve it.
    pub fn new(
        id: ConnectionId,
        vitals: Arc<Vitals>,
        setup: ConnectionSetup,
        network: Addr<NetworkActor>,
        stream: TcpStream,
        principal: Option<Arc<str>>,
    ) -> Self {
        let last_frame = setup.clock.now().elapsed;
        let unrecognised = setup.peers.is_some();
        let by_certificate = principal.as_ref().and_then(|principal| setup.quotas.of_principal(principal));
        let meters = [setup.quotas.of_client(""), by_certificate];
        let core = SessionCore::new(id, setup.limits).guarded_by(setup.auth.clone(), principal);
        Self {
            id,
            vitals,
            setup,
            network,
            stream,
            file_socket: None,
            core,
            input: BytesMut::new(),
            read_bytes: *READ_BYTES.start(),
            effects: Vec::new(),
            sending_file: false,
            file_blocked: false,
            at_end: false,
            unrecognised,
            handed_over: false,
            close_when_idle: false,
            last_frame,
            pinged: false,
            drive: None,
            frame_room: None,
            asks_for_room: false,
            meters,
            throttled_until: Duration::ZERO,
            facts: None,
        }
    }

    /// Runs the core inside the guard. A connection that fails is closed: its client connects again.
    fn with_core(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut SessionCore, &ClusterView, Duration, &mut Vec<SessionEffect>),
    ) {
        let now = self.setup.clock.now().elapsed;
        let view = self.setup.view.load();
        let (core, effects) = (&mut self.core, &mut self.effects);
        if catch_unwind(AssertUnwindSafe(|| work(core, &view, now, effects))).is_err() {
            tracing::error!(actor = %self.vitals.name, "connection failed and is closed");
            self.setup.metrics.connection_failures.add(1);
            ctx.stop();
            return;
        }
        drop(view);
        self.perform(ctx);
    }

    /// As [`Self::with_core`], from a spawned future: those run after [`Drive`], which has to run once more.
    fn with_core_later(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut SessionCore, &ClusterView, Duration, &mut Vec<SessionEffect>),
    ) {
        self.with_core(ctx, work);
        self.wake();
    }

    fn perform(&mut self, ctx: &mut Context<Self>) {
        let mut outgoing: Vec<(u16, ShardMessage)> = Vec::new();
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                SessionEffect::Produce(shard, request) => {
                    self.charge_produce(request.records.len() as u64, ctx);
                    push_produce(&mut outgoing, self.id, shard, request);
                }
                SessionEffect::Fetch(shard, fetch) => outgoing.push((shard, ShardMessage::Fetch(fetch))),
                SessionEffect::CancelWait(shard, cancel) => outgoing.push((shard, ShardMessage::CancelWait(cancel))),
                SessionEffect::LookUp(shard, look_up) => outgoing.push((shard, ShardMessage::LookUp(look_up))),
                other => self.perform_rare(other, ctx),
            }
        }
        self.effects = effects;
        self.send_to_shards(outgoing, ctx);
    }

    fn perform_rare(&mut self, effect: SessionEffect, ctx: &mut Context<Self>) {
        match effect {
            SessionEffect::Metadata(request, call) => self.ask_metadata(request, call, ctx),
            SessionEffect::Describe(request) => self.describe(request, ctx),
            SessionEffect::Tee(request, asked) => self.ask_tee(request, asked, ctx),
            SessionEffect::Commit(request, commit) => {
                let answer = self.setup.group.send(commit);
                self.await_commit(request, answer, ctx);
            }
            SessionEffect::Audit(line) => audit(&line),
            SessionEffect::Named(name) => {
                // What nodes forward was counted where it came in. Without authentication anybody may say any name.
                let is_node = self.setup.auth.is_none() && *name == *FORWARD_CLIENT_NAME;
                self.meters[0] = if is_node { None } else { self.setup.quotas.of_client(&name) };
                self.take_over_debts(ctx);
            }
            SessionEffect::Identified(Identity::Node) => self.meters = [None, None],
            SessionEffect::Identified(identity) => {
                self.meters[1] = identity.name().and_then(|principal| self.setup.quotas.of_principal(principal));
                self.take_over_debts(ctx);
            }
            SessionEffect::Group(request, asked) => self.ask_group(request, asked, ctx),
            SessionEffect::ForwardCommit(request, commit) => {
                let answer = self.setup.forward.send(commit);
                self.await_commit(request, answer, ctx);
            }
            SessionEffect::Committed(request, asked) => {
                let answer = self.setup.group.send(asked);
                self.await_committed(request, answer, ctx);
            }
            SessionEffect::ForwardCommitted(request, asked) => {
                let answer = self.setup.forward.send(asked);
                self.await_committed(request, answer, ctx);
            }
            SessionEffect::Plan { request, part, read, offset, max_bytes, stored } => {
                let reply = ctx.address().recipient();
                self.read(Box::new(ReaderJob::Plan { request, part, read, offset, max_bytes, stored, reply }), ctx);
            }
            SessionEffect::PlanLookUp { request, read, query } => {
                let reply = ctx.address().recipient();
                self.read(Box::new(ReaderJob::LookUp { request, read, query, reply }), ctx);
            }
            SessionEffect::ProduceDone(took) => self.setup.metrics.produce_latency.observe(took),
            SessionEffect::FetchDone(took, bytes) => {
                if let Some(took) = took {
                    self.setup.metrics.fetch_latency.observe(took);
                }
                self.setup.metrics.fetched_bytes.add(bytes);
                self.charge_fetch(bytes, ctx);
            }
            SessionEffect::Close(error) => {
                tracing::debug!(connection = self.id.0, %error, "malformed frame: closing");
                self.setup.metrics.bad_frames.add(1);
            }
            SessionEffect::StageOver(stage) => self.record(stage),
            SessionEffect::Produce(..)
            | SessionEffect::Fetch(..)
            | SessionEffect::CancelWait(..)
            | SessionEffect::LookUp(..) => {}
        }
    }

    /// Hands a job to the reader threads; when too many wait, a little later.
    fn read(&mut self, job: Box<ReaderJob>, ctx: &mut Context<Self>) {
        if let Err(job) = self.setup.readers.submit(job) {
            ctx.run_later(Duration::from_millis(5), |actor, ctx| actor.read(job, ctx));
        }
    }

    fn send_to_shards(&mut self, outgoing: Vec<(u16, ShardMessage)>, ctx: &mut Context<Self>) {
        let mut messages = outgoing.into_iter();
        while let Some((shard, message)) = messages.next() {
            let sent = match self.setup.shards.get(usize::from(shard)) {
                Some(mailbox) => try_send(mailbox, message),
                // The index beyond the shards is the forwarder's.
                None => try_forward(&self.setup.forward, message),
            };
            let Err(message) = sent else {
                continue;
            };
            // The mailbox is full: nothing more is read from the socket until there is room.
            let (shards, forward) = (self.setup.shards.clone(), self.setup.forward.clone());
            let rest: Vec<(u16, ShardMessage)> = std::iter::once((shard, message)).chain(messages).collect();
            let send = async move {
                for (shard, message) in rest {
                    match shards.get(usize::from(shard)) {
                        Some(mailbox) => send(mailbox, message).await,
                        None => forward_message(&forward, message).await,
                    }
                }
            };
            ctx.wait(actix::fut::wrap_future::<_, Self>(send).map(|(), _, _| ()));
            return;
        }
    }

    /// Reads once; `true` when there may be more right away.
    fn read_socket(&mut self, ctx: &mut Context<Self>, task: &mut TaskContext<'_>) -> bool {
        if self.at_end || !self.core.wants_input() {
            return false;
        }
        match self.stream.poll_read_ready(task) {
            Poll::Pending => return false,
            Poll::Ready(Err(_)) => {
                ctx.stop();
                return false;
            }
            Poll::Ready(Ok(())) => {}
        }
        if !self.has_room_for_frame(ctx) {
            return false;
        }
        let wanted = self.read_bytes.max(missing_bytes(&self.input).min(*READ_BYTES.end() * 4));
        if self.input.capacity() - self.input.len() < wanted.min(*READ_BYTES.start()) || wanted > self.read_bytes {
            self.input.reserve(wanted);
        }
        // A read that does not fill its buffer emptied the socket: unlike `try_read_buf`, this one does not ask it again.
        let read = match pin!(self.stream.read_buf(&mut self.input)).poll(task) {
            Poll::Ready(read) => read,
            Poll::Pending => return false,
        };
        match read {
            Ok(0) => {
                // Perhaps only its half is closed: what it asked for is answered, without waiting for more records.
                self.at_end = true;
                self.with_core(ctx, |core, _, _, effects| core.end_waits(effects));
                false
            }
            Ok(count) => {
                if count >= self.read_bytes {
                    self.read_bytes = (self.read_bytes * 2).min(*READ_BYTES.end());
                }
                self.last_frame = self.setup.clock.now().elapsed;
                self.pinged = false;
                if self.unrecognised && !self.recognise(ctx) {
                    return !self.handed_over;
                }
                self.take_input(ctx);
                true
            }
            Err(_) => {
                ctx.stop();
                false
            }
        }
    }

    /// Whether the frame under way may go on being received; a large one asks the budget of the node first.
    fn has_room_for_frame(&mut self, ctx: &mut Context<Self>) -> bool {
        let frame_bytes = self.input.len() + missing_bytes(&self.input);
        if frame_bytes <= FREE_FRAME_BYTES {
            self.frame_room = None;
            return true;
        }
        if self.frame_room.as_ref().is_some_and(|room| room.bytes() >= frame_bytes) {
            return true;
        }
        self.frame_room = None;
        self.frame_room = self.setup.frames.reserve(frame_bytes);
        // Once at a time: a context polls everything again after each future it is given, and would never rest.
        if self.frame_room.is_none() && !self.asks_for_room {
            self.asks_for_room = true;
            ctx.run_later(FRAME_ROOM_RETRY, |actor, _| {
                actor.asks_for_room = false;
                actor.wake();
            });
        }
        self.frame_room.is_some()
    }

    /// Whether the first bytes are those of a client; a peer's connection is handed over, and this actor ends.
    fn recognise(&mut self, ctx: &mut Context<Self>) -> bool {
        let Some(is_peer) = begins_with_peer_hello(&self.input) else { return false };
        self.unrecognised = false;
        let Some(peers) = self.setup.peers.clone().filter(|_| is_peer) else { return true };
        ctx.stop();
        match self.stream.as_fd().try_clone_to_owned() {
            Ok(socket) => {
                self.handed_over = true;
                let received = std::mem::take(&mut self.input);
                let accepted = peers.send(AcceptPeer { stream: socket.into(), received });
                actix_rt::spawn(async move {
                    // The acceptor is gone only when the process goes down.
                    let _ = accepted.await;
                });
            }
            Err(error) => tracing::warn!(connection = self.id.0, %error, "no descriptor left for a peer: closing"),
        }
        false
    }

    fn wake(&self) {
        if let Some(waker) = &self.drive {
            waker.wake_by_ref();
        }
    }

    fn take_input(&mut self, ctx: &mut Context<Self>) {
        let mut input = std::mem::take(&mut self.input);
        self.with_core(ctx, |core, view, now, effects| core.on_input(&mut input, view, now, effects));
        self.input = input;
        // What a whole large frame took is free again, whether or not something follows.
        if self.input.len() + missing_bytes(&self.input) <= FREE_FRAME_BYTES {
            self.frame_room = None;
        }
    }

    fn check_idle(&mut self, ctx: &mut Context<Self>) {
        let idle = self.setup.clock.now().elapsed.saturating_sub(self.last_frame);
        if self.input.is_empty() && idle >= IDLE_CHECK {
            self.input = BytesMut::new();
            self.read_bytes = *READ_BYTES.start();
        }
        if self.frame_room.is_some() && idle >= FRAME_STALL {
            tracing::debug!(connection = self.id.0, "a large frame stopped coming: closing");
            ctx.stop();
            return;
        }
        // Without Hello, or where no time-out is set, a connection may be quiet for ever: TCP finds peers that are gone.
        if self.setup.idle_timeout.is_zero() || !self.core.said_hello() || !self.core.is_idle() {
            return;
        }
        if idle >= self.setup.idle_timeout {
            tracing::debug!(connection = self.id.0, "idle for too long: closing");
            ctx.stop();
        } else if idle >= self.setup.idle_timeout / 2 && !self.pinged {
            self.pinged = true;
            self.core.keepalive();
        }
    }
}

impl Actor for ConnectionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.setup.limits.max_requests + CONNECTION_MAILBOX_SPARE);
        self.vitals.set_state(ActorState::Running);
        let connection = self.id;
        let reply_to = || {
            let address = ctx.address();
            ReplyTo { replies: address.clone().recipient(), restarted: address.recipient() }
        };
        let shards = self.setup.shards.iter();
        let mut registrations: Vec<_> = shards
            .map(|shard| shard.addr().send(RegisterConnection { connection, reply_to: reply_to() }).boxed_local())
            .collect();
        let forward = self.setup.forward.addr();
        registrations.push(forward.send(RegisterConnection { connection, reply_to: reply_to() }).boxed_local());
        let register = async move {
            for registration in registrations {
                // A shard that is gone takes the node with it.
                let _ = registration.await;
            }
        };
        ctx.wait(actix::fut::wrap_future::<_, Self>(register));
        // Short time-outs are looked at often enough to ask before closing.
        let every = match self.setup.idle_timeout {
            Duration::ZERO => IDLE_CHECK,
            timeout => (timeout / 4).clamp(Duration::from_millis(10), IDLE_CHECK),
        };
        ctx.run_interval(every, Self::check_idle);
        ctx.spawn(Drive);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.vitals.set_state(ActorState::Stopped);
        self.close_spans();
        if !self.handed_over {
            // Reader threads may still hold a duplicate of the descriptor.
            let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Both);
        }
        let (id, shards, network) = (self.id, self.setup.shards.clone(), self.network.clone());
        let forward = self.setup.forward.clone();
        actix_rt::spawn(async move {
            let _ = forward.addr().send(UnregisterConnection(id)).await;
            for shard in shards {
                let _ = shard.addr().send(UnregisterConnection(id)).await;
            }
            let _ = network.send(ConnectionClosed(id)).await;
        });
    }
}

/// Moves bytes between socket and session each time the actor's context is polled.
struct Drive;

impl ActorFuture<ConnectionActor> for Drive {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        actor: &mut ConnectionActor,
        ctx: &mut Context<ConnectionActor>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if actor.drive.as_ref().is_none_or(|waker| !waker.will_wake(task.waker())) {
            actor.drive = Some(task.waker().clone());
        }
        actor.core.set_tight(actor.setup.copies.is_tight());
        let wanted_input = actor.core.wants_input();
        // What was read before but had to wait for room comes first.
        if !actor.input.is_empty() && actor.core.wants_input() {
            actor.take_input(ctx);
        }
        if actor.read_socket(ctx, task) {
            // One read a turn: the shard takes its batches before the buffer is used again.
            task.waker().wake_by_ref();
        }
        actor.write_socket(ctx, task);
        if !wanted_input && actor.core.wants_input() {
            // What was written made room for requests that nobody has looked for yet.
            task.waker().wake_by_ref();
        }
        // Only where input was wanted is what is left of it no whole frame.
        let finished = actor.core.is_closing() || (actor.at_end && wanted_input) || actor.close_when_idle;
        if finished && actor.core.is_idle() {
            ctx.stop();
        }
        Poll::Pending
    }
}
