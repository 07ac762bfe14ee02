//! `Inlet`: one kind of message into one actor's mailbox, counted among the actor's vital signs.

use crate::mailbox::Mailbox;
use crate::supervision::Vitals;
use actix::dev::ToEnvelope;
use actix::prelude::*;
use std::pin::Pin;
use std::sync::Arc;

/// Where messages of one kind go, whatever actor takes them.
pub struct Inlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    recipient: Recipient<M>,
    vitals: Option<Arc<Vitals>>,
}

impl<M> Clone for Inlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn clone(&self) -> Self {
        Self { recipient: self.recipient.clone(), vitals: self.vitals.clone() }
    }
}

impl<M> From<Recipient<M>> for Inlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn from(recipient: Recipient<M>) -> Self {
        Self { recipient, vitals: None }
    }
}

impl<M> Inlet<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// The inlet of a supervised actor.
    pub fn of<A>(mailbox: &Mailbox<A>) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        Self { recipient: mailbox.addr().clone().recipient(), vitals: Some(Arc::clone(mailbox.vitals())) }
    }

    /// Puts a message into the mailbox; gives it back when there is no room. One for an actor that is gone is dropped:
    /// the node goes down.
    pub fn try_send(&self, message: M) -> Result<(), M> {
        match self.recipient.try_send(message) {
            Ok(()) => self.count(),
            Err(SendError::Closed(_)) => {}
            Err(SendError::Full(message)) => return Err(message),
        }
        Ok(())
    }

    /// Waits for room, and until the message was taken.
    pub fn send(&self, message: M) -> Pin<Box<dyn Future<Output = Option<M::Result>>>> {
        self.count();
        let sent = self.recipient.send(message);
        Box::pin(async move { sent.await.ok() })
    }

    fn count(&self) {
        if let Some(vitals) = &self.vitals {
            vitals.message_sent();
        }
    }
}
