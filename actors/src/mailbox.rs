//! An actor's address together with its vital signs, so that what waits in its mailbox can be seen.

use crate::supervision::Vitals;
use actix::dev::{MessageResponse, OneshotSender, ToEnvelope};
use actix::prelude::*;
use std::sync::Arc;

/// Where an actor is reached; counts what is sent.
pub struct Mailbox<A: Actor> {
    addr: Addr<A>,
    vitals: Arc<Vitals>,
}

impl<A: Actor> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Self { addr: self.addr.clone(), vitals: Arc::clone(&self.vitals) }
    }
}

impl<A: Actor> Mailbox<A> {
    /// The mailbox of the actor at `addr`.
    pub fn new(addr: Addr<A>, vitals: Arc<Vitals>) -> Self {
        Self { addr, vitals }
    }

    /// The actor's vital signs.
    pub fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// The bare address.
    pub fn addr(&self) -> &Addr<A> {
        &self.addr
    }

    /// Puts a message into the mailbox, or gives it back when the mailbox is full or closed.
    pub fn try_send<M>(&self, message: M) -> Result<(), SendError<M>>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        self.addr.try_send(message)?;
        self.vitals.message_sent();
        Ok(())
    }

    /// Sends a message and waits for its answer; waits for room in the mailbox first.
    pub fn send<M>(&self, message: M) -> Request<A, M>
    where
        M: Message + Send + 'static,
        M::Result: Send + MessageResponse<A, M>,
        OneshotSender<M::Result>: Sized,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        self.vitals.message_sent();
        self.addr.send(message)
    }
}
