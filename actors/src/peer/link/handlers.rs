//! What a link does with each message.

use super::PeerLinkActor;
use crate::peer::socket::LinkEnd;
use crate::supervision::ActorState;
use crate::supervision::shell::guarded;
use crate::supervision::{ActorStopped, Shell};
use actix::prelude::*;
use lance_messages::mail::peer::{SendControl, SendToFollower};
use lance_messages::peer::{BelowStart, ReplicaRequest};
use lance_messages::wire::peer::{BELOW_START_VERSION, PeerFrame, PeerFrameError, TRACED_VERSION};
use std::convert::Infallible;

/// The peer has another address: a connection to the old one ends.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct MoveLink {
    /// The new one, host:port.
    pub address: String,
}

/// The peer is no member any more: the link ends, leaves the tree, and connects no more.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct StopLink;

impl PeerLinkActor {
    /// Queues requests; those for a peer that is not connected are dropped, as its followers' flows begin anew with the
    /// connection.
    fn send_requests(&mut self, requests: Vec<ReplicaRequest>) -> Result<(), LinkEnd> {
        let max_bytes = self.setup.max_queued_bytes;
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let version = connection.socket.version();
        let (names_traced, says_below) = (version >= TRACED_VERSION, version >= BELOW_START_VERSION);
        for request in requests {
            connection.socket.queue(&match request {
                ReplicaRequest::Append(mut append) => {
                    if !names_traced {
                        append.traced.clear();
                    }
                    PeerFrame::Append(append)
                }
                ReplicaRequest::Truncate(mut truncate) => {
                    if !says_below {
                        truncate.below = BelowStart::default();
                    }
                    PeerFrame::Truncate(truncate)
                }
            })?;
            let bytes = connection.socket.queued_bytes();
            if bytes > max_bytes {
                return Err(LinkEnd::TooSlow { bytes, max_bytes });
            }
        }
        Ok(())
    }

    fn send_control(&mut self, message: SendControl) -> Result<(), LinkEnd> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let waiting = connection.socket.queued_bytes();
        // The first goes out whatever its size: a snapshot must get through at all.
        if waiting > 0 && waiting + message.0.len() > self.setup.max_queued_bytes {
            return Ok(());
        }
        match connection.socket.queue(&PeerFrame::Control(message.0)) {
            Err(error @ PeerFrameError::TooLarge { .. }) => {
                tracing::error!(%error, "a control message is dropped");
                Ok(())
            }
            queued => queued.map_err(LinkEnd::from),
        }
    }
}

impl Handler<SendToFollower> for PeerLinkActor {
    type Result = ();

    fn handle(&mut self, message: SendToFollower, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        guarded(self, ctx, |actor, ctx| -> Result<(), Infallible> {
            if let Err(end) = actor.send_requests(message.requests) {
                actor.end(&end, ctx);
            }
            Ok(())
        });
    }
}

impl Handler<SendControl> for PeerLinkActor {
    type Result = ();

    fn handle(&mut self, message: SendControl, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        guarded(self, ctx, |actor, ctx| -> Result<(), Infallible> {
            if let Err(end) = actor.send_control(message) {
                actor.end(&end, ctx);
            }
            Ok(())
        });
    }
}

impl Handler<MoveLink> for PeerLinkActor {
    type Result = ();

    fn handle(&mut self, message: MoveLink, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        guarded(self, ctx, |actor, ctx| -> Result<(), Infallible> {
            if actor.setup.address != message.address {
                actor.setup.address = message.address;
                actor.hang_up();
                if let Some(attempt) = actor.attempt.take() {
                    ctx.cancel_future(attempt);
                }
                actor.failures = 0;
                actor.connect(ctx);
            }
            Ok(())
        });
    }
}

impl Handler<StopLink> for PeerLinkActor {
    type Result = ();

    fn handle(&mut self, _: StopLink, ctx: &mut Self::Context) {
        self.life.vitals.message_taken();
        self.stopped = true;
        if let Some(attempt) = self.attempt.take() {
            ctx.cancel_future(attempt);
        }
        self.hang_up();
        self.setup.metrics.links.forget(self.setup.peer, self.setup.kind);
        self.life().vitals.set_state(ActorState::Stopped);
        let supervisor = self.setup.supervisor.clone();
        let gone = ActorStopped { name: self.life.vitals.name.clone() };
        actix_rt::spawn(async move {
            // The root outlives its children.
            let _ = supervisor.send(gone).await;
        });
    }
}
