//! The task that owns a connection: writes requests, reads replies, hands them to who waits.

use super::handshake::Greeted;
use super::outgoing::Outgoing;
use super::pending::{OutOfStep, Pending};
use crate::error::ClientError;
use bytes::{Bytes, BytesMut};
use lance_messages::wire::codec::missing_bytes;
use lance_messages::wire::produce::AckOffsets;
use lance_messages::wire::{FrameLimits, Request, RequestFrame, Response, ResponseFrame, next_frame};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Idle time after which the server is asked for a sign of life.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// Silence after which the connection is given up while something is awaited.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How long ingest frames wait after a Backpressure frame.
const BACKPRESSURE_PAUSE: Duration = Duration::from_millis(5);
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

pub(super) struct Driver {
    address: String,
    greeted: Greeted,
    work: mpsc::Receiver<Work>,
    pending: Pending,
    outgoing: Outgoing,
    limits: FrameLimits,
    /// Ingest waits until then.
    paused_until: Option<Instant>,
    heard: Instant,
    asked_for_life: bool,
    handles_gone: bool,
}

impl Driver {
    pub(super) fn new(address: String, greeted: Greeted, work: mpsc::Receiver<Work>) -> Self {
        let header_crc = greeted.features.unwrap_or_default().header_crc();
        Self {
            address,
            pending: Pending::new(greeted.features.is_none()),
            greeted,
            work,
            outgoing: Outgoing::default(),
            limits: FrameLimits { header_crc, ..FrameLimits::default() },
            paused_until: None,
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
        while let Ok(work) = self.work.try_recv() {
            match work {
                Work::Produce { answer, .. } => _ = answer.send(Err(end.clone())),
                Work::Control { answer, .. } => _ = answer.send(Err(end.clone())),
            }
        }
    }

    async fn turn(&mut self) -> Result<(), End> {
        let accepts_work = !self.handles_gone
            && self.paused_until.is_none()
            && self.pending.bytes() < self.greeted.max_in_flight_bytes;
        if self.handles_gone && self.pending.is_empty() && self.outgoing.is_empty() {
            return Err(End::Unused);
        }
        let wake = self.paused_until.unwrap_or(self.heard + self.patience());
        let (mut reader, mut writer) = self.greeted.stream.split();
        let room = missing_bytes(&self.greeted.input).clamp(READ_ROOM / 2, READ_ROOM * 4);
        self.greeted.input.reserve(room);
        tokio::select! {
            read = reader.read_buf(&mut self.greeted.input) => self.on_read(read),
            written = self.outgoing.write_some(&mut writer), if !self.outgoing.is_empty() => {
                written.map_err(|error| End::Lost(ClientError::lost(&self.address, error)))
            }
            work = self.work.recv(), if accepts_work && self.outgoing.is_empty() => {
                self.on_work(work);
                Ok(())
            }
            () = tokio::time::sleep_until(wake) => self.on_wake(),
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
        self.accept(work);
        // Whatever else is ready leaves in the same write.
        while self.pending.bytes() < self.greeted.max_in_flight_bytes {
            let Ok(work) = self.work.try_recv() else { break };
            self.accept(work);
        }
    }

    fn accept(&mut self, work: Work) {
        match work {
            Work::Produce { batch_id, header, payload, answer } => {
                self.pending.push_ack(batch_id, (header.len() + payload.len()) as u64, answer);
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
        while let Some(frame) = next_frame(&mut self.greeted.input, &self.limits)
            .map_err(|source| End::Lost(ClientError::Frame { address: self.address.clone(), source }))?
        {
            let reply = ResponseFrame::decode(frame, self.greeted.features)
                .map_err(|source| End::Lost(ClientError::Response { address: self.address.clone(), source }))?;
            match reply.response {
                Response::Backpressure => self.paused_until = Some(Instant::now() + BACKPRESSURE_PAUSE),
                Response::Ack { .. } => self.paused_until = None,
                _ => {}
            }
            self.pending
                .resolve(reply)
                .map_err(|OutOfStep(reason)| End::Lost(ClientError::lost(&self.address, reason)))?;
        }
        Ok(())
    }

    fn on_wake(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            return Ok(());
        }
        if now < self.heard + self.patience() {
            return Ok(());
        }
        if self.asked_for_life {
            return Err(End::Lost(ClientError::lost(&self.address, format!("silent for {SILENCE_LIMIT:?}"))));
        }
        // The answer to a Keepalive of ours is a Keepalive; those of the server need none.
        let mut frame = BytesMut::new();
        let keepalive = RequestFrame { correlation: 0, partition: 0, trace: None, request: Request::Keepalive };
        keepalive.encode(&mut frame, self.greeted.features);
        self.outgoing.push(frame.freeze());
        self.asked_for_life = true;
        Ok(())
    }
}
