//! `Delivery`: messages to other actors in the order they arose, waiting where a mailbox is full.
//!
//! While anything waits, its owner reads nothing more from its socket: that is the backpressure of peers.

use super::inlet::Inlet;
use actix::prelude::*;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

type Waiting = Pin<Box<dyn Future<Output = ()>>>;

/// Messages that found no room yet, oldest first.
#[derive(Default)]
pub struct Delivery {
    waiting: VecDeque<Waiting>,
}

impl Delivery {
    /// Sends a message behind everything sent before.
    pub fn push<M>(&mut self, inlet: &Inlet<M>, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let message = match self.waiting.is_empty() {
            true => match inlet.try_send(message) {
                Ok(()) => return,
                Err(message) => message,
            },
            false => message,
        };
        let inlet = inlet.clone();
        self.waiting.push_back(Box::pin(async move {
            let _ = inlet.send(message).await;
        }));
    }

    /// Goes on with what waits; ready once nothing does.
    pub fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<()> {
        while let Some(first) = self.waiting.front_mut() {
            if first.as_mut().poll(task).is_pending() {
                return Poll::Pending;
            }
            self.waiting.pop_front();
        }
        Poll::Ready(())
    }

    /// Ends once nothing waits.
    pub async fn finish(mut self) {
        std::future::poll_fn(|task| self.poll(task)).await;
    }
}
