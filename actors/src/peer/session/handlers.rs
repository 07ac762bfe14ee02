//! What a session does with each message, and how it makes itself known to the shards.

use super::PeerSessionActor;
use crate::peer::inlet::Inlet;
use crate::peer::socket::LinkEnd;
use crate::supervision::InjectPanic;
use actix::prelude::*;
use lance_messages::mail::peer::{SendControl, SendToLeader};
use lance_messages::peer::PeerIdentity;
use lance_messages::wire::peer::{PeerFrame, PeerFrameError};

/// A peer has opened a data session: its requests follow, and answers go where this says. Received by every ingestion
/// actor, before the first request of the session.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct RegisterPeerSession {
    /// Its number.
    pub session: u64,
    /// Who opened it.
    pub from: PeerIdentity,
    /// Where answers go; full or closed, they are dropped, since the leader asks again.
    pub answers: Recipient<SendToLeader>,
}

/// A data session has ended; received by every ingestion actor, after the last request of the session.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct UnregisterPeerSession(pub u64);

/// The session is to end: another took its place.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct CloseSession;

impl PeerSessionActor {
    /// The shards know the session before its first request: both go through the same queue.
    pub(super) fn register(&mut self, ctx: &mut Context<Self>) {
        let Some(routes) = &self.setup.routes else { return };
        let answers = ctx.address().recipient();
        for inlet in &routes.registrations {
            let message =
                RegisterPeerSession { session: self.setup.session, from: self.setup.from, answers: answers.clone() };
            self.delivery.push(inlet, message);
        }
    }

    /// Whatever still waits for room goes first.
    pub(super) fn unregister(&mut self) {
        let Some(routes) = self.setup.routes.take() else { return };
        let mut delivery = std::mem::take(&mut self.delivery);
        let unregistrations: Vec<Inlet<UnregisterPeerSession>> = routes.unregistrations;
        for inlet in &unregistrations {
            delivery.push(inlet, UnregisterPeerSession(self.setup.session));
        }
        actix_rt::spawn(delivery.finish());
    }
}

impl Handler<SendToLeader> for PeerSessionActor {
    type Result = ();

    fn handle(&mut self, message: SendToLeader, ctx: &mut Self::Context) {
        self.guarded(ctx, |actor, _| actor.queue(&PeerFrame::AppendAnswer(message.responses)));
    }
}

impl Handler<SendControl> for PeerSessionActor {
    type Result = ();

    fn handle(&mut self, message: SendControl, ctx: &mut Self::Context) {
        let waiting = self.socket.queued_bytes();
        if waiting > 0 && waiting + message.0.len() > self.max_queued_bytes() {
            return;
        }
        self.guarded(ctx, |actor, _| match actor.socket.queue(&PeerFrame::ControlAnswer(message.0)) {
            Err(error @ PeerFrameError::TooLarge { .. }) => {
                tracing::error!(%error, "a control message is dropped");
                Ok(())
            }
            queued => queued.map_err(LinkEnd::from),
        });
    }
}

impl Handler<CloseSession> for PeerSessionActor {
    type Result = ();

    fn handle(&mut self, _: CloseSession, ctx: &mut Self::Context) {
        self.guarded(ctx, |_, _| Err(LinkEnd::Replaced));
    }
}

impl Handler<InjectPanic> for PeerSessionActor {
    type Result = ();

    #[allow(clippy::panic, reason = "fault injection is a panic on purpose")]
    fn handle(&mut self, _: InjectPanic, ctx: &mut Self::Context) {
        self.guarded(ctx, |_, _| panic!("injected fault"));
    }
}
