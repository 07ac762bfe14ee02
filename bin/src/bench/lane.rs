//! One connection of the generator: frames out, acks in, nothing blocking.

use super::frames::FrameRun;
use super::replies::ReplyCounter;
use crate::cli::failure::Failure;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// Most bytes handed to one write.
const WRITE_BYTES: u64 = 1 << 20;

/// A connection under load.
#[derive(Debug)]
pub struct Lane {
    socket: TcpStream,
    run: Arc<FrameRun>,
    in_flight: u64,
    /// Bytes of the endless stream of frames that were written.
    written: u64,
    /// Frames whose first byte may be written.
    started: u64,
    /// Frames answered.
    answered: u64,
    /// When each frame without an answer was due, or sent.
    times: VecDeque<u64>,
    /// Frames that are due; `None`: always one more.
    due: Option<u64>,
    blocked: bool,
    /// When the first frame was due that was refused since the last ack.
    refused_ns: Option<u64>,
    replies: ReplyCounter,
}

/// What came back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answered {
    /// Acks.
    pub acks: u64,
    /// Errors.
    pub errors: u64,
    /// Longest time from when a refused frame was due to the next ack, ns.
    pub outage_ns: u64,
}

impl Lane {
    /// Takes a connection that is ready for frames. With `paced` frames leave only when they are due.
    pub fn new(socket: TcpStream, run: Arc<FrameRun>, in_flight: usize, paced: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            run,
            in_flight: in_flight.max(1) as u64,
            written: 0,
            started: 0,
            answered: 0,
            times: VecDeque::with_capacity(in_flight.max(1024)),
            due: paced.then_some(0),
            blocked: false,
            refused_ns: None,
            replies: ReplyCounter::default(),
        })
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The frames it sends.
    pub fn run(&self) -> &FrameRun {
        &self.run
    }

    /// Frames without an answer, those waiting to be sent included.
    pub fn unanswered(&self) -> usize {
        self.times.len()
    }

    /// A frame is due.
    pub fn schedule(&mut self, due_ns: u64) {
        if let Some(due) = &mut self.due {
            *due += 1;
            self.times.push_back(due_ns);
        }
    }

    /// The socket may take bytes again.
    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Writes what may be written: due frames, or without a schedule as many as may be in flight. With `stopped` only
    /// frames that have begun.
    pub fn send(&mut self, now_ns: u64, stopped: bool) -> Result<(), Failure> {
        self.start_frames(now_ns, stopped);
        let end = self.started * self.run.frame_len() as u64;
        while self.written < end && !self.blocked {
            let slice = self.run.slice(self.written, (end - self.written).min(WRITE_BYTES));
            match self.socket.write(slice) {
                Ok(count) => self.written += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(())
    }

    fn start_frames(&mut self, now_ns: u64, stopped: bool) {
        let room = (self.answered + self.in_flight).saturating_sub(self.started);
        let count = match &mut self.due {
            Some(due) => {
                let count = room.min(*due);
                *due -= count;
                count
            }
            None if stopped => 0,
            None => {
                self.times.extend(std::iter::repeat_n(now_ns, room as usize));
                room
            }
        };
        self.started += count;
    }

    /// Reads what has come. `on_time` gets, for each answer, when its frame was due.
    pub fn receive(&mut self, buffer: &mut [u8], now: u64, mut on_time: impl FnMut(u64)) -> Result<Answered, Failure> {
        let mut sum = Answered::default();
        loop {
            let count = match self.socket.read(buffer) {
                Ok(0) => return Err(self.lost(io::Error::other("the server closed the connection"))),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(sum),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.lost(error)),
            };
            let counted = self.replies.feed(&buffer[..count]);
            sum.acks += counted.acks;
            sum.errors += counted.errors;
            let mut first = None;
            for _ in 0..counted.acks + counted.errors {
                match self.times.pop_front() {
                    Some(time) => {
                        first.get_or_insert(time);
                        on_time(time);
                    }
                    None => return Err(Failure::failed("the server answered more frames than were sent")),
                }
            }
            if counted.errors > 0 {
                self.refused_ns = self.refused_ns.or(first);
            }
            if counted.acks > 0 {
                sum.outage_ns = sum.outage_ns.max(self.refused_ns.take().map_or(0, |since| now.saturating_sub(since)));
            }
            self.answered += counted.acks + counted.errors;
            if count < buffer.len() {
                return Ok(sum);
            }
        }
    }

    /// What the server complained about first.
    pub fn complaint(&self) -> Option<String> {
        self.replies.complaint()
    }

    fn lost(&self, error: io::Error) -> Failure {
        let peer = self.socket.peer_addr().map_or_else(|_| "the server".to_owned(), |peer| peer.to_string());
        let said = self.complaint().map_or_else(String::new, |text| format!("; before, it said: {text}"));
        Failure::failed(format!("connection to {peer} lost: {error}{said}"))
    }
}
