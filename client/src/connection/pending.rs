//! Requests under way, and which of them a frame answers.
//!
//! After Hello, acks and errors to ingest frames come in the order of those frames and control replies in the order of
//! their requests. A 1.0 server answers everything in one order.

use super::driver::{AckSender, ControlSender};
use crate::error::{ClientError, from_text};
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Response, ResponseFrame};
use std::collections::VecDeque;

/// Someone waits for the outcome.
#[derive(Debug)]
enum Waiting {
    Ack { batch_id: u64, bytes: u64, answer: AckSender },
    Control { correlation: u64, answer: ControlSender },
}

/// The requests under way on one connection.
#[derive(Debug)]
pub(super) struct Pending {
    /// Ingest frames; with 1.0 control requests too.
    acks: VecDeque<Waiting>,
    controls: VecDeque<Waiting>,
    one_order: bool,
    bytes: u64,
}

/// The server broke the order; the connection cannot go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfStep(pub(super) &'static str);

impl Pending {
    pub(super) fn new(one_order: bool) -> Self {
        Self { acks: VecDeque::new(), controls: VecDeque::new(), one_order, bytes: 0 }
    }

    pub(super) fn push_ack(&mut self, batch_id: u64, bytes: u64, answer: AckSender) {
        self.bytes += bytes;
        self.acks.push_back(Waiting::Ack { batch_id, bytes, answer });
    }

    pub(super) fn push_control(&mut self, correlation: u64, answer: ControlSender) {
        let queue = if self.one_order { &mut self.acks } else { &mut self.controls };
        queue.push_back(Waiting::Control { correlation, answer });
    }

    /// Bytes of ingest frames without an answer.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.controls.is_empty()
    }

    /// Gives a frame to whoever waits for it.
    pub(super) fn resolve(&mut self, frame: ResponseFrame) -> Result<(), OutOfStep> {
        match frame.response {
            Response::Keepalive | Response::Backpressure => Ok(()),
            Response::Ack { batch_id, offsets } => match self.acks.pop_front() {
                Some(Waiting::Ack { batch_id: expected, bytes, answer }) if expected == batch_id => {
                    self.bytes -= bytes;
                    _ = answer.send(Ok(offsets));
                    Ok(())
                }
                Some(Waiting::Control { answer, .. }) => {
                    _ = answer.send(Ok(Response::Ack { batch_id, offsets }));
                    Ok(())
                }
                Some(Waiting::Ack { .. }) => Err(OutOfStep("an ack came out of order")),
                None => self.resolve_control(frame.correlation, Ok(Response::Ack { batch_id, offsets })),
            },
            Response::Error(error) => self.resolve_error(frame.correlation, error),
            Response::ErrorText(text) => self.resolve_text(frame.correlation, text),
            reply => self.resolve_control(frame.correlation, Ok(reply)),
        }
    }

    fn resolve_error(&mut self, correlation: u64, error: TypedError) -> Result<(), OutOfStep> {
        let Answers::Ingest(batch_id) = error.answers else {
            return self.resolve_control(correlation, Err(error.into()));
        };
        match self.acks.pop_front() {
            Some(Waiting::Ack { batch_id: expected, bytes, answer }) if expected == batch_id => {
                self.bytes -= bytes;
                _ = answer.send(Err(error.into()));
                Ok(())
            }
            _ => Err(OutOfStep("an error answers an ingest frame that is not next")),
        }
    }

    /// An error without a code answers the oldest request; which queue that is, only its correlation can tell.
    fn resolve_text(&mut self, correlation: u64, text: String) -> Result<(), OutOfStep> {
        let is_control = correlation != 0 || self.acks.is_empty();
        if !self.one_order && is_control {
            return self.resolve_control(correlation, Err(from_text(text)));
        }
        match self.acks.pop_front() {
            Some(Waiting::Ack { bytes, answer, .. }) => {
                self.bytes -= bytes;
                _ = answer.send(Err(from_text(text)));
                Ok(())
            }
            Some(Waiting::Control { answer, .. }) => {
                _ = answer.send(Err(from_text(text)));
                Ok(())
            }
            None => Err(OutOfStep("an error answers nothing")),
        }
    }

    fn resolve_control(&mut self, correlation: u64, reply: Result<Response, ClientError>) -> Result<(), OutOfStep> {
        let queue = if self.one_order { &mut self.acks } else { &mut self.controls };
        match queue.pop_front() {
            Some(Waiting::Control { correlation: expected, answer }) if self.one_order || expected == correlation => {
                _ = answer.send(reply);
                Ok(())
            }
            _ => Err(OutOfStep("a reply answers a request that is not next")),
        }
    }

    /// Tells everyone that no answer will come.
    pub(super) fn fail_all(&mut self, error: &ClientError) {
        self.bytes = 0;
        for waiting in self.acks.drain(..).chain(self.controls.drain(..)) {
            match waiting {
                Waiting::Ack { answer, .. } => _ = answer.send(Err(error.clone())),
                Waiting::Control { answer, .. } => _ = answer.send(Err(error.clone())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::error_code::ErrorCode;
    use tokio::sync::oneshot;

    fn frame(correlation: u64, response: Response) -> ResponseFrame {
        ResponseFrame { correlation, response }
    }

    fn ack(batch_id: u64) -> ResponseFrame {
        frame(0, Response::Ack { batch_id, offsets: None })
    }

    #[test]
    fn acks_and_replies_keep_orders_of_their_own_after_hello() {
        let mut pending = Pending::new(false);
        let (control, mut controlled) = oneshot::channel();
        let (first, mut stored) = oneshot::channel();
        pending.push_control(7, control);
        pending.push_ack(1, 100, first);
        assert_eq!(pending.bytes(), 100);
        pending.resolve(ack(1)).unwrap();
        assert_eq!(stored.try_recv().unwrap(), Ok(None));
        pending.resolve(frame(7, Response::CatchingUp { end_offset: 1 })).unwrap();
        assert!(controlled.try_recv().unwrap().is_ok());
        assert!(pending.is_empty());
        assert_eq!(pending.bytes(), 0);
    }

    #[test]
    fn an_ack_out_of_order_ends_the_connection() {
        let mut pending = Pending::new(false);
        let (answer, _waits) = oneshot::channel();
        pending.push_ack(1, 1, answer);
        assert!(pending.resolve(ack(2)).is_err());
    }

    #[test]
    fn a_typed_error_finds_its_ingest_frame_beside_a_control_request() {
        let mut pending = Pending::new(false);
        let (control, _controlled) = oneshot::channel();
        let (answer, mut refused) = oneshot::channel();
        pending.push_control(7, control);
        pending.push_ack(3, 10, answer);
        let error = TypedError::new(ErrorCode::UnknownTopic, Answers::Ingest(3));
        pending.resolve(frame(0, Response::Error(error))).unwrap();
        assert_eq!(refused.try_recv().unwrap().unwrap_err().code(), Some(ErrorCode::UnknownTopic));
    }

    #[test]
    fn a_1_0_error_answers_the_oldest_request_of_any_kind() {
        let mut pending = Pending::new(true);
        let (answer, mut refused) = oneshot::channel();
        let (control, mut controlled) = oneshot::channel();
        pending.push_ack(0, 10, answer);
        pending.push_control(5, control);
        pending.resolve(frame(0, Response::ErrorText("Unknown topic".into()))).unwrap();
        assert!(refused.try_recv().unwrap().is_err());
        pending.resolve(frame(0, Response::Topic(bytes::Bytes::new()))).unwrap();
        assert!(controlled.try_recv().unwrap().is_ok());
    }
}
