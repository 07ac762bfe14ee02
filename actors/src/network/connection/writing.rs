//! Writing to the socket, and what is told of traced requests.

use super::ConnectionActor;
use crate::network::readers::ReaderJob;
use crate::network::session::SessionEffect;
use crate::network::session::output::OutputItem;
use crate::stages::StageSpan;
use crate::telemetry::{RequestFacts, tracer};
use actix::prelude::*;
use std::io::{ErrorKind, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

/// Most slices of one write.
const WRITE_SLICES: usize = 64;

impl ConnectionActor {
    /// Writes until nothing waits or the socket is full.
    pub(super) fn write_socket(&mut self, ctx: &mut Context<Self>, task: &mut TaskContext<'_>) {
        while !self.sending_file {
            match self.core.output.front() {
                None => return,
                Some(OutputItem::File { .. }) if !self.file_blocked => {
                    self.send_files(ctx);
                    return;
                }
                Some(_) => {}
            }
            if !matches!(self.stream.poll_write_ready(task), Poll::Ready(Ok(()))) {
                return;
            }
            if self.file_blocked {
                self.file_blocked = false;
                continue;
            }
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(8);
            self.core.output.slices(&mut slices, WRITE_SLICES);
            match self.stream.try_write_vectored(&slices) {
                Ok(count) => {
                    drop(slices);
                    self.on_sent(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    ctx.stop();
                    return;
                }
            }
        }
    }

    fn send_files(&mut self, ctx: &mut Context<Self>) {
        if self.file_socket.is_none() {
            match self.stream.as_fd().try_clone_to_owned() {
                Ok(socket) => self.file_socket = Some(Arc::new(socket)),
                Err(error) => {
                    tracing::warn!(connection = self.id.0, %error, "no descriptor left: closing");
                    ctx.stop();
                    return;
                }
            }
        }
        let Some(socket) = self.file_socket.clone() else { return };
        self.sending_file = true;
        let reply = ctx.address().recipient();
        let ranges = self.core.output.file_ranges();
        self.read(Box::new(ReaderJob::SendFiles { socket, ranges, reply }), ctx);
    }

    /// The socket took so many bytes.
    pub(super) fn on_sent(&mut self, count: usize) {
        self.core.output.advance(count);
        if self.core.sends_traced() {
            let mut over = Vec::new();
            self.core.on_written(&mut over);
            self.record_all(over);
        }
    }

    /// A stage of a traced request is over.
    pub(super) fn record(&mut self, stage: Box<StageSpan>) {
        let Some(tracer) = tracer() else { return };
        let facts = self.facts.get_or_insert_with(|| {
            let client = self.core.client_name().map(str::to_owned);
            Arc::new(RequestFacts { peer: self.stream.peer_addr().ok(), client })
        });
        tracer.record(stage, self.setup.clock.stamp(), Some(Arc::clone(facts)));
    }

    /// The connection is over, and with it what was traced of it.
    pub(super) fn close_spans(&mut self) {
        let mut over = Vec::new();
        self.core.close_spans(&mut over);
        self.record_all(over);
    }

    fn record_all(&mut self, effects: Vec<SessionEffect>) {
        for effect in effects {
            if let SessionEffect::StageOver(stage) = effect {
                self.record(stage);
            }
        }
    }
}
