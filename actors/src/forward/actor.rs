//! `ForwardActor`: the links to other nodes around one [`ForwardCore`]. To sessions it is one more shard.

use super::core::{FORWARD_FEATURES, ForwardCore, ForwardEffect};
use crate::clock::NodeClock;
use crate::ingestion::actor::{RegisterConnection, ReplyTo, UnregisterConnection};
use crate::network::readers::SegmentRead;
use crate::outbound::socket::{self, LinkCredentials, LinkHandle, LinkHello, LinkOwner};
use crate::outbound::{LinkAnswered, LinkEnded, LinkId, LinkPiece, LinkUp};
use crate::supervised_shell;
use crate::supervision::shell::{Life, Shell, guarded};
use crate::supervision::{ActorState, Escalated, RestartPolicy, Vitals};
use crate::view::ClusterView;
use actix::prelude::*;
use arc_swap::ArcSwap;
use bytes::Bytes;
use hashbrown::HashMap;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::ConnectionId;
use lance_messages::mail::connection::{Replies, Reply, ShardRestarted};
use lance_messages::mail::group::{CommitOffset, CommittedOffset};
use lance_messages::mail::ingestion::{Fetch, LookUpOffset, Produce};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Mailbox capacity of the forwarder.
pub const FORWARD_MAILBOX: usize = 8192;
/// The name that forwarders give in Hello, for logs: who says Hello at all is redirected, never forwarded again.
pub const FORWARD_CLIENT_NAME: &str = "lance-forward";

/// What a forwarder is made of.
pub struct ForwardSetup {
    /// The index that sessions know it by: the number of shards.
    pub index: u16,
    /// The committed metadata.
    pub view: Arc<ArcSwap<ClusterView>>,
    /// The node's clock.
    pub clock: NodeClock,
    /// What other nodes demand.
    pub credentials: LinkCredentials,
}

/// Asks the node that keeps them for every group, as JSON.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Result<Bytes, ErrorCode>")]
pub struct DescribeGroupsElsewhere;

/// The shell of the forwarder.
pub struct ForwardActor {
    life: Life,
    setup: ForwardSetup,
    core: Option<ForwardCore>,
    effects: Vec<ForwardEffect>,
    connections: HashMap<ConnectionId, ReplyTo>,
    outgoing: HashMap<ConnectionId, Vec<Reply<SegmentRead>>>,
    links: HashMap<LinkId, LinkHandle>,
    /// Where the core's successor goes on numbering links: what is said of earlier ones is no news of its own.
    next_link: LinkId,
    commits: HashMap<u64, oneshot::Sender<Result<(), ErrorCode>>>,
    asks: HashMap<u64, oneshot::Sender<Result<Option<u64>, ErrorCode>>>,
    groups: HashMap<u64, oneshot::Sender<Result<Bytes, ErrorCode>>>,
    next_ticket: u64,
    /// The next look at the time, and when it is due, ms.
    tick: Option<(SpawnHandle, u64)>,
    lives: u64,
}

impl ForwardActor {
    /// A forwarder.
    pub fn new(vitals: Arc<Vitals>, policy: RestartPolicy, parent: Recipient<Escalated>, setup: ForwardSetup) -> Self {
        Self {
            life: Life::new(vitals, policy, parent),
            setup,
            core: None,
            effects: Vec::new(),
            connections: HashMap::new(),
            outgoing: HashMap::new(),
            links: HashMap::new(),
            next_link: 1,
            commits: HashMap::new(),
            asks: HashMap::new(),
            groups: HashMap::new(),
            next_ticket: 0,
            tick: None,
            lives: 0,
        }
    }

    /// Runs the core inside the guard and carries out what it wants done.
    fn with_core(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut ForwardCore, &ClusterView, u64, &mut Vec<ForwardEffect>),
    ) {
        let now_ms = u64::try_from(self.setup.clock.now().elapsed.as_millis()).unwrap_or(u64::MAX);
        let view = Arc::clone(&self.setup.view.load());
        guarded(self, ctx, |actor, ctx| -> Result<(), Infallible> {
            if let Some(core) = actor.core.as_mut() {
                work(core, &view, now_ms, &mut actor.effects);
                actor.next_link = core.next_link();
                let next_tick_ms = core.next_tick_ms();
                actor.perform(ctx);
                actor.arm(next_tick_ms, now_ms, ctx);
            }
            Ok(())
        });
    }

    fn perform(&mut self, ctx: &mut Context<Self>) {
        for effect in self.effects.drain(..) {
            match effect {
                ForwardEffect::Open { link, address } => {
                    let hello = LinkHello { client_name: FORWARD_CLIENT_NAME.to_owned(), features: FORWARD_FEATURES };
                    let credentials = self.setup.credentials.clone();
                    self.links.insert(link, socket::start(link, address, hello, credentials, owner(ctx)));
                }
                ForwardEffect::Send { link, pieces } => {
                    // The queue has room for all that the core lets be unanswered. A link that cannot take a frame is
                    // given up: it counts only what it wrote.
                    let sent = self.links.get(&link).map(|handle| handle.queue.try_send(pieces.map(LinkPiece::from)));
                    if !matches!(sent, Some(Ok(()))) {
                        self.links.remove(&link);
                    }
                }
                ForwardEffect::Close(link) => {
                    self.links.remove(&link);
                }
                ForwardEffect::Reply(connection, reply) => self.outgoing.entry(connection).or_default().push(reply),
                ForwardEffect::Committed(ticket, result) => {
                    if let Some(answer) = self.commits.remove(&ticket) {
                        // The connection may be gone; so below.
                        let _ = answer.send(result);
                    }
                }
                ForwardEffect::CommittedOffset(ticket, result) => {
                    if let Some(answer) = self.asks.remove(&ticket) {
                        let _ = answer.send(result);
                    }
                }
                ForwardEffect::Groups(ticket, result) => {
                    if let Some(answer) = self.groups.remove(&ticket) {
                        let _ = answer.send(result);
                    }
                }
            }
        }
        self.send_replies();
    }

    fn send_replies(&mut self) {
        let shard = self.setup.index;
        let known_at = self.setup.clock.now().elapsed;
        for (connection, replies) in self.outgoing.drain() {
            let Some(reply_to) = self.connections.get(&connection) else {
                continue;
            };
            let replies = Replies { shard, replies, pressed: false, known_at };
            if let Err(SendError::Full(message)) = reply_to.replies.try_send(replies) {
                let replies = reply_to.replies.clone();
                actix_rt::spawn(async move {
                    let _ = replies.send(message).await;
                });
            }
        }
    }

    fn arm(&mut self, next_tick_ms: Option<u64>, now_ms: u64, ctx: &mut Context<Self>) {
        let Some(after_ms) = next_tick_ms else { return };
        let due_ms = now_ms + after_ms;
        match self.tick {
            Some((_, armed_ms)) if armed_ms <= due_ms => return,
            Some((later, _)) => _ = ctx.cancel_future(later),
            None => {}
        }
        let tick = ctx.run_later(Duration::from_millis(after_ms), |actor, ctx| {
            actor.tick = None;
            actor.with_core(ctx, ForwardCore::on_tick);
        });
        self.tick = Some((tick, due_ms));
    }
}

fn owner(ctx: &Context<ForwardActor>) -> LinkOwner {
    let address = ctx.address();
    LinkOwner { up: address.clone().recipient(), answered: address.clone().recipient(), ended: address.recipient() }
}

supervised_shell!(ForwardActor, FORWARD_MAILBOX);

impl Shell for ForwardActor {
    fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// Who waits hears that the outcome is unknown: their senders are dropped, and `begin` tells connections.
    fn drop_core(&mut self, _: &mut Self::Context) {
        self.core = None;
        self.effects.clear();
        self.outgoing.clear();
        self.links.clear();
        self.commits.clear();
        self.asks.clear();
        self.groups.clear();
    }

    fn begin(&mut self, _: &mut Self::Context) {
        self.lives += 1;
        self.tick = None;
        self.core = Some(ForwardCore::new(self.next_link));
        self.life.vitals.set_state(ActorState::Running);
        if self.lives == 1 {
            return;
        }
        let shard = self.setup.index;
        for reply_to in self.connections.values() {
            if let Err(SendError::Full(message)) = reply_to.restarted.try_send(ShardRestarted { shard }) {
                let restarted = reply_to.restarted.clone();
                actix_rt::spawn(async move {
                    let _ = restarted.send(message).await;
                });
            }
        }
    }
}

impl Handler<RegisterConnection> for ForwardActor {
    type Result = ();

    fn handle(&mut self, message: RegisterConnection, _: &mut Self::Context) {
        self.connections.insert(message.connection, message.reply_to);
    }
}

impl Handler<UnregisterConnection> for ForwardActor {
    type Result = ();

    fn handle(&mut self, message: UnregisterConnection, _: &mut Self::Context) {
        self.connections.remove(&message.0);
    }
}

impl Handler<Produce> for ForwardActor {
    type Result = ();

    fn handle(&mut self, message: Produce, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, view, now_ms, effects| {
            for request in message.requests {
                core.on_produce(message.connection, request, view, now_ms, effects);
            }
        });
    }
}

impl Handler<Fetch> for ForwardActor {
    type Result = ();

    fn handle(&mut self, message: Fetch, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, view, now_ms, effects| core.on_fetch(message, view, now_ms, effects));
    }
}

impl Handler<LookUpOffset> for ForwardActor {
    type Result = ();

    fn handle(&mut self, message: LookUpOffset, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.with_core(ctx, |core, view, now_ms, effects| core.on_look_up(message, view, now_ms, effects));
    }
}

impl Handler<CommitOffset> for ForwardActor {
    type Result = ResponseFuture<Result<(), ErrorCode>>;

    fn handle(&mut self, message: CommitOffset, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let (sender, receiver) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.commits.insert(ticket, sender);
        self.with_core(ctx, |core, view, now_ms, effects| core.on_commit(ticket, message, view, now_ms, effects));
        Box::pin(async move { receiver.await.unwrap_or(Err(ErrorCode::OutcomeUnknown)) })
    }
}

impl Handler<CommittedOffset> for ForwardActor {
    type Result = ResponseFuture<Result<Option<u64>, ErrorCode>>;

    fn handle(&mut self, message: CommittedOffset, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let (sender, receiver) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.asks.insert(ticket, sender);
        self.with_core(ctx, |core, view, now_ms, effects| core.on_committed(ticket, message, view, now_ms, effects));
        Box::pin(async move { receiver.await.unwrap_or(Err(ErrorCode::Unavailable)) })
    }
}

impl Handler<DescribeGroupsElsewhere> for ForwardActor {
    type Result = ResponseFuture<Result<Bytes, ErrorCode>>;

    fn handle(&mut self, _: DescribeGroupsElsewhere, ctx: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let (sender, receiver) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.groups.insert(ticket, sender);
        self.with_core(ctx, |core, view, now_ms, effects| core.on_groups(ticket, view, now_ms, effects));
        Box::pin(async move { receiver.await.unwrap_or(Err(ErrorCode::Unavailable)) })
    }
}

impl Handler<LinkUp> for ForwardActor {
    type Result = ();

    fn handle(&mut self, message: LinkUp, ctx: &mut Self::Context) {
        let (link, max_payload_bytes) = (message.link, message.hello.max_payload_bytes);
        self.with_core(ctx, |core, view, now_ms, effects| {
            core.on_link_up(link, max_payload_bytes, view, now_ms, effects);
        });
    }
}

impl Handler<LinkAnswered> for ForwardActor {
    type Result = ();

    fn handle(&mut self, message: LinkAnswered, ctx: &mut Self::Context) {
        let LinkAnswered { link, answers } = message;
        self.with_core(ctx, |core, view, now_ms, effects| core.on_answers(link, answers, view, now_ms, effects));
    }
}

impl Handler<LinkEnded> for ForwardActor {
    type Result = ();

    fn handle(&mut self, message: LinkEnded, ctx: &mut Self::Context) {
        let LinkEnded { link, written, .. } = message;
        self.links.remove(&link);
        self.with_core(ctx, |core, view, now_ms, effects| core.on_link_ended(link, written, view, now_ms, effects));
    }
}
