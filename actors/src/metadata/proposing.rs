//! Proposals: of sessions, of operators and of this node's own parts.

use super::actor::{Answered, Call, MetadataActor, ProposeChange};
use super::calls::{command_for, returning_producer};
use super::orders::{no_state, order_for, order_span};
use crate::network::session::MetadataCall;
use crate::network::session::answers::CallFailure;
use crate::replication::actor::ReplicationActor;
use crate::replication::judging::LiftBackOff;
use actix::prelude::*;
use lance_cluster::control::ControlMessage;
use lance_cluster::metadata::MetadataCommand;
use lance_messages::error_code::ErrorCode;
use lance_messages::id::NodeId;
use lance_messages::wire::cluster::ClusterCommand;
use tokio::sync::oneshot;
use tracing::Span;

impl Handler<Call> for MetadataActor {
    type Result = ResponseFuture<Answered>;

    fn handle(&mut self, message: Call, ctx: &mut Self::Context) -> Self::Result {
        self.vitals().message_taken();
        if let MetadataCall::InitProducer(Some(known)) = &message.0
            && let Some(running) = self.running.as_ref()
            && let Some(answer) = returning_producer(running.core.state(), *known)
        {
            return Box::pin(async move { Ok(answer) });
        }
        if let Err(failure) = self.setup.topic_limits.check(&message.0, &self.setup.view.load()) {
            return Box::pin(async move { Err(failure) });
        }
        let now_secs = self.setup.clock.now().wall_ns / 1_000_000_000;
        let request = self.new_request();
        let order = match &message.0 {
            MetadataCall::Cluster(order, _) => order_span(order),
            _ => Span::none(),
        };
        let lifted = match &message.0 {
            MetadataCall::Cluster(ClusterCommand::Admit { node }, _) => Some(*node),
            _ => None,
        };
        let command = match message.0 {
            MetadataCall::Cluster(order, complete) => match self.running.as_ref() {
                Some(running) => order_for(&order, running.core.state(), &complete, now_secs).map_err(Err),
                None => Err(Err(no_state())),
            },
            call => command_for(call, &self.setup.view.load(), &self.setup.topic_defaults, now_secs),
        };
        let command = match command {
            Ok(command) => command,
            Err(answer) => return Box::pin(async move { answer }),
        };
        if let Err(failure) = self.check_level(&command) {
            return Box::pin(async move { Err(failure) });
        }
        if let Some(node) = lifted {
            self.lift_back_off(node);
        }
        let answer = self.propose(request, &command, ctx);
        if order.is_none() {
            return answer;
        }
        Box::pin(async move {
            let answer = answer.await;
            order.in_scope(|| match &answer {
                Ok(_) => tracing::info!("an operator's order was carried out"),
                Err(failure) => tracing::warn!(?failure, "an operator's order was not carried out"),
            });
            answer
        })
    }
}

impl Handler<ProposeChange> for MetadataActor {
    type Result = ResponseFuture<Answered>;

    fn handle(&mut self, message: ProposeChange, ctx: &mut Self::Context) -> Self::Result {
        self.vitals().message_taken();
        let request = self.new_request();
        self.propose(request, &message.0, ctx)
    }
}

impl MetadataActor {
    /// Proposes here, or has the metadata leader do it.
    fn propose(
        &mut self,
        request: u64,
        command: &MetadataCommand,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Answered> {
        let unknown = || CallFailure::Failed(ErrorCode::OutcomeUnknown, ErrorCode::OutcomeUnknown.text().to_owned());
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(request, sender);
        if self.running.as_ref().is_some_and(|running| !running.core.is_leading()) {
            self.forward_call(request, command);
            return Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(unknown())) });
        }
        let mut refused = false;
        self.with_core(ctx, |core, effects| core.on_propose(request, command, effects).inspect_err(|_| refused = true));
        if refused {
            // No answer follows: the caller hears that nothing is known.
            self.waiting.remove(&request);
        }
        Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(unknown())) })
    }

    /// Every leader keeps the back-off of its followers itself.
    fn lift_back_off(&self, node: NodeId) {
        self.tell_replication(LiftBackOff(node));
        self.links.keys().for_each(|peer| self.send_to(*peer, &ControlMessage::LiftBackOff(node)));
    }

    pub(super) fn tell_replication<M>(&self, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        ReplicationActor: Handler<M>,
    {
        if let Some(replication) = self.replication.clone() {
            actix_rt::spawn(async move {
                // Closed only while the process goes down.
                let _ = replication.send(message).await;
            });
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.setup.clock.now().elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}
