//! The task that owns a connection: writes requests, reads replies, hands them to who waits.

use super::Throttled;
use super::connector::Transport;
use super::handshake::Greeted;
use super::outgoing::Outgoing;
use super::pace::Pace;
use super::pending::{OutOfStep, Pending};
use crate::error::ClientError;
use bytes::{Bytes, BytesMut};
use lance_messages::wire::codec::missing_bytes;
use lance_messages::wire::produce::AckOffsets;
use lance_messages::wire::{Features, FrameLimits, Request, RequestFrame, Response, ResponseFrame, next_frame};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Idle time after which the server is asked for a sign of life.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// Silence after which the connection is given up while something is awaited.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Room kept for reading.
const READ_ROOM: usize = 256 * 1024;

pub(super) type AckSender = oneshot::Sender<Result<Option<AckOffsets>, ClientError>>;
pub(super) type ControlSender = oneshot::Sender<Result<Response, ClientError>>;

/// Something to send.
#[derive(Debug)]
pub(super) enum Work {
    Produce { batch_id: u64, header: Bytes, payload: Bytes, answer: AckSender },
    Control { correlation: u64, frame: Bytes, answer: ControlSender },
}

/// Why the task ends.
enum End {
    /// Nobody holds the connection any more and nothing is under way.
    Unused,
    Lost(ClientError),
}

/// Work that must wait, and what is behind it too.
struct Held {
    work: Work,
    /// Since when the pace holds it, rather than bytes without an answer.
    paced_since: Option<Instant>,
}

pub(super) struct Driver {
    address: String,
    features: Option<Features>,
    max_in_flight_bytes: u64,
    reader: ReadHalf<Box<dyn Transport>>,
    writer: WriteHalf<Box<dyn Transport>>,
    input: BytesMut,
    work: mpsc::Receiver<Work>,
    held: Option<Held>,
    pending: Pending,
    outgoing: Outgoing,
    limits: FrameLimits,
    pace: Pace,
    throttled: Arc<Throttled>,
    heard: Instant,
    asked_for_life: bool,
    handles_gone: bool,
}

impl Driver {
    pub(super) fn new(
        address: String,
        greeted: Greeted,
        work: mpsc::Receiver<Work>,
        throttled: Arc<Throttled>,
    ) -> Self {
        let Greeted { stream, input, features, max_in_flight_bytes, .. } = greeted;
        let header_crc = features.unwrap_or_default().header_crc();
        let (reader, writer) = tokio::io::split(stream);
        Self {
            address,
            features,
            max_in_flight_bytes,
            reader,
            writer,
            input,
            work,
            held: None,
            pending: Pending::new(features.is_none()),
            outgoing: Outgoing::default(),
            limits: FrameLimits { header_crc, ..FrameLimits::default() },
            pace: Pace::new(Instant::now()),
            throttled,
            heard: Instant::now(),
            asked_for_life: false,
            handles_gone: false,
        }
    }

    pub(super) async fn run(mut self) {
        let end = loop {
            match self.turn().await {
                Ok(()) => {}
                Err(End::Unused) => break ClientError::lost(&self.address, "closed"),
                Err(End::Lost(error)) => break error,
            }
        };
        // Nothing new is accepted, and what waits in the queue is told too.
        self.work.close();
        self.pending.fail_all(&end);
        let held = self.held.take().map(|held| held.work);
        for work in held.into_iter().chain(std::iter::from_fn(|| self.work.try_recv().ok())) {
            match work {
                Work::Produce { answer, .. } => _ = answer.send(Err(end.clone())),
                Work::Control { answer, .. } => _ = answer.send(Err(end.clone())),
            }
        }
    }

    async fn turn(&mut self) -> Result<(), End> {
        let paced_until = self.release();
        let accepts_work = !self.handles_gone && self.held.is_none() && self.outgoing.is_empty();
        let is_empty = self.held.is_none() && self.pending.is_empty() && self.outgoing.is_empty();
        if self.handles_gone && is_empty {
            return Err(End::Unused);
        }
        let give_up = self.heard + self.patience();
        let wake = paced_until.map_or(give_up, |paced| paced.min(give_up));
        let room = missing_bytes(&self.input).clamp(READ_ROOM / 2, READ_ROOM * 4);
        self.input.reserve(room);
        tokio::select! {
            read = self.reader.read_buf(&mut self.input) => self.on_read(read),
            written = self.outgoing.write_some(&mut self.writer), if !self.outgoing.is_empty() => {
                written.map_err(|error| End::Lost(ClientError::lost(&self.address, error)))
            }
            work = self.work.recv(), if accepts_work => {
                self.on_work(work);
                Ok(())
            }
            () = tokio::time::sleep_until(wake) => self.on_wake(),
        }
    }

    /// Lets work that was held go, if it may by now; else says until when the pace holds it.
    fn release(&mut self) -> Option<Instant> {
        if !self.outgoing.is_empty() {
            return None;
        }
        let Held { work, paced_since } = self.held.take()?;
        if !self.fits(&work) {
            // It waits for answers.
            self.held = Some(Held { work, paced_since });
            return None;
        }
        let now = Instant::now();
        if let Some(until) = self.pace.wait_until(now) {
            self.held = Some(Held { work, paced_since: paced_since.or(Some(now)) });
            return Some(until);
        }
        let waited = paced_since.map_or(Duration::ZERO, |since| now - since);
        self.throttled.ns.fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
        self.accept(work);
        self.accept_more();
        None
    }

    /// Below what the server grants: at the limit it says Backpressure.
    fn fits(&self, work: &Work) -> bool {
        match work {
            Work::Produce { header, payload, .. } => {
                let bytes = (header.len() + payload.len()) as u64;
                self.pending.bytes() == 0 || self.pending.bytes() + bytes < self.max_in_flight_bytes
            }
            Work::Control { .. } => true,
        }
    }

    fn patience(&self) -> Duration {
        if self.asked_for_life { SILENCE_LIMIT } else { KEEPALIVE_AFTER }
    }

    fn on_work(&mut self, work: Option<Work>) {
        let Some(work) = work else {
            self.handles_gone = true;
            return;
        };
        self.accept_or_hold(work);
        self.accept_more();
    }

    /// Whatever else is ready leaves in the same write.
    fn accept_more(&mut self) {
        while self.held.is_none() {
            let Ok(work) = self.work.try_recv() else { break };
            self.accept_or_hold(work);
        }
    }

    fn accept_or_hold(&mut self, work: Work) {
        let is_ingest = matches!(work, Work::Produce { .. });
        let now = Instant::now();
        let paced = is_ingest && self.pace.wait_until(now).is_some();
        if paced || !self.fits(&work) {
            self.held = Some(Held { work, paced_since: paced.then_some(now) });
        } else {
            self.accept(work);
        }
    }

    fn accept(&mut self, work: Work) {
        match work {
            Work::Produce { batch_id, header, payload, answer } => {
                let bytes = (header.len() + payload.len()) as u64;
                self.pace.on_sent(bytes, Instant::now());
                self.pending.push_ack(batch_id, bytes, answer);
                self.outgoing.push(header);
                self.outgoing.push(payload);
            }
            Work::Control { correlation, frame, answer } => {
                self.pending.push_control(correlation, answer);
                self.outgoing.push(frame);
            }
        }
    }

    fn on_read(&mut self, read: std::io::Result<usize>) -> Result<(), End> {
        match read {
            Ok(0) => {
                return Err(End::Lost(ClientError::lost(&self.address, "the server closed the connection")));
            }
            Ok(_) => {}
            Err(error) => return Err(End::Lost(ClientError::lost(&self.address, error))),
        }
        self.heard = Instant::now();
        self.asked_for_life = false;
        while let Some(frame) = next_frame(&mut self.input, &self.limits)
            .map_err(|source| End::Lost(ClientError::Frame { address: self.address.clone(), source }))?
        {
            let reply = ResponseFrame::decode(frame, self.features)
                .map_err(|source| End::Lost(ClientError::Response { address: self.address.clone(), source }))?;
            if reply.response == Response::Backpressure {
                self.throttled.count.fetch_add(1, Ordering::Relaxed);
                self.pace.on_backpressure(self.heard);
            }
            let before = self.pending.bytes();
            self.pending
                .resolve(reply)
                .map_err(|OutOfStep(reason)| End::Lost(ClientError::lost(&self.address, reason)))?;
            self.pace.on_answered(before - self.pending.bytes(), self.heard);
        }
        Ok(())
    }

    fn on_wake(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if now < self.heard + self.patience() {
            return Ok(());
        }
        if self.asked_for_life {
            return Err(End::Lost(ClientError::lost(&self.address, format!("silent for {SILENCE_LIMIT:?}"))));
        }
        // The answer to a Keepalive of ours is a Keepalive; those of the server need none.
        let mut frame = BytesMut::new();
        let keepalive = RequestFrame { correlation: 0, partition: 0, trace: None, request: Request::Keepalive };
        keepalive.encode(&mut frame, self.features);
        self.outgoing.push(frame.freeze());
        self.asked_for_life = true;
        Ok(())
    }
}
