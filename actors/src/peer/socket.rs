//! `FrameSocket`: a TCP connection that carries peer frames, with what was read and not decoded and what is not written.

use super::handshake::PeerRefusal;
use bytes::{Buf, Bytes, BytesMut};
use lance_messages::wire::codec::missing_bytes;
use lance_messages::wire::peer::{
    OLDEST_PEER_VERSION, PeerCommand, PeerFrame, PeerFrameError, PeerStage, next_peer_frame,
};
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::task::{Context as TaskContext, Poll};
use tokio::net::TcpStream;

/// Least that is read at once.
const READ_BYTES: usize = 64 * 1024;
/// The same while a connection is opened.
const OPENING_READ_BYTES: usize = 4096;
/// Most slices of one write.
const WRITE_SLICES: usize = 256;
/// Bytes written in one turn, before others on the thread have theirs.
const TURN_BYTES: usize = 4 * 1024 * 1024;

/// Why a connection that was open ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The other side closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// The other side said why it closes it.
    #[error("the peer ended the connection: {0}")]
    Said(String),
    /// The socket failed.
    #[error("the connection failed while {doing}: {source}")]
    Socket {
        /// Reading or writing.
        doing: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// What came is no frame.
    #[error(transparent)]
    Frame(#[from] PeerFrameError),
    /// A frame that has no place on this connection.
    #[error("{found:?} has no place on this connection")]
    Unexpected {
        /// The frame's command.
        found: PeerCommand,
    },
    /// More waits to be written than may.
    #[error("{bytes} bytes wait to be written, at most {max_bytes} may")]
    TooSlow {
        /// Bytes that wait.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// It is not wanted any more.
    #[error("a newer connection took its place")]
    Replaced,
}

/// One connection.
#[derive(Debug)]
pub struct FrameSocket {
    stream: TcpStream,
    input: BytesMut,
    output: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Of the peer protocol, once it was agreed on.
    version: u16,
}

/// A connection between two threads.
#[derive(Debug)]
pub struct DetachedSocket {
    stream: std::net::TcpStream,
    input: BytesMut,
    output: VecDeque<Bytes>,
    queued_bytes: usize,
    /// Of the peer protocol, once it was agreed on.
    version: u16,
}

impl DetachedSocket {
    /// The connection on the reactor of this thread.
    pub fn attach(self) -> std::io::Result<FrameSocket> {
        let Self { stream, input, output, queued_bytes, version } = self;
        Ok(FrameSocket { stream: TcpStream::from_std(stream)?, input, output, queued_bytes, version })
    }
}

impl FrameSocket {
    /// A connection on which `received` was read already.
    pub fn new(stream: TcpStream, received: BytesMut) -> Self {
        Self { stream, input: received, output: VecDeque::new(), queued_bytes: 0, version: OLDEST_PEER_VERSION }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Takes it off this thread's reactor, to be attached on another thread.
    pub fn detach(self) -> std::io::Result<DetachedSocket> {
        let Self { stream, input, output, queued_bytes, version } = self;
        Ok(DetachedSocket { stream: stream.into_std()?, input, output, queued_bytes, version })
    }

    /// The version of the peer protocol that is spoken here.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Both sides agreed on this version.
    pub fn set_version(&mut self, version: u16) {
        self.version = version;
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Puts a frame behind what waits to be written.
    pub fn queue(&mut self, frame: &PeerFrame) -> Result<(), PeerFrameError> {
        let mut pieces = Vec::new();
        frame.encode(&mut pieces)?;
        self.queued_bytes += pieces.iter().map(Bytes::len).sum::<usize>();
        self.output.extend(pieces);
        Ok(())
    }

    /// Writes until nothing waits, the socket is full, or others should have their turn.
    pub fn poll_write(&mut self, task: &mut TaskContext<'_>) -> Result<(), LinkEnd> {
        let failed = |source| LinkEnd::Socket { doing: "writing", source };
        let mut written = 0;
        while !self.output.is_empty() {
            if written >= TURN_BYTES {
                task.waker().wake_by_ref();
                return Ok(());
            }
            match self.stream.poll_write_ready(task) {
                Poll::Pending => return Ok(()),
                Poll::Ready(ready) => ready.map_err(failed)?,
            }
            let slices: Vec<IoSlice<'_>> =
                self.output.iter().take(WRITE_SLICES).map(|piece| IoSlice::new(piece)).collect();
            match self.stream.try_write_vectored(&slices) {
                Ok(count) => {
                    written += count;
                    self.advance(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn advance(&mut self, mut count: usize) {
        self.queued_bytes = self.queued_bytes.saturating_sub(count);
        while let Some(front) = self.output.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.output.pop_front();
        }
    }

    /// Reads once and decodes every whole frame; pending when the socket has nothing.
    pub fn poll_read(&mut self, task: &mut TaskContext<'_>, frames: &mut Vec<PeerFrame>) -> Poll<Result<(), LinkEnd>> {
        let failed = |source| LinkEnd::Socket { doing: "reading", source };
        loop {
            match self.stream.poll_read_ready(task) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ready) => ready.map_err(failed)?,
            }
            self.make_room();
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => return Poll::Ready(Err(LinkEnd::Closed)),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(failed(error))),
            }
        }
        Poll::Ready(self.take_frames(frames))
    }

    /// Decodes every whole frame that was read.
    pub fn take_frames(&mut self, frames: &mut Vec<PeerFrame>) -> Result<(), LinkEnd> {
        while let Some(frame) = next_peer_frame(&mut self.input, PeerStage::Open)? {
            if let PeerFrame::Refused(text) = frame {
                return Err(LinkEnd::Said(text));
            }
            frames.push(frame);
        }
        Ok(())
    }

    /// The frame under way fits at once: its length was checked when its header came.
    fn make_room(&mut self) {
        let wanted = missing_bytes(&self.input).max(READ_BYTES);
        if self.input.capacity() - self.input.len() < wanted.min(READ_BYTES) || wanted > READ_BYTES {
            self.input.reserve(wanted);
        }
    }

    /// The next frame of a connection that is being opened, or that one question at a time is asked on.
    pub async fn receive(&mut self, stage: PeerStage) -> Result<PeerFrame, PeerRefusal> {
        let failed = |source| PeerRefusal::Socket { doing: "reading", source };
        loop {
            match next_peer_frame(&mut self.input, stage)? {
                Some(PeerFrame::Refused(text)) => return Err(PeerRefusal::Said(text)),
                Some(frame) => return Ok(frame),
                None => {}
            }
            self.stream.readable().await.map_err(failed)?;
            self.input.reserve(missing_bytes(&self.input).max(OPENING_READ_BYTES));
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => return Err(PeerRefusal::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Writes a frame and everything that waits before it.
    pub async fn send(&mut self, frame: &PeerFrame) -> Result<(), PeerRefusal> {
        self.queue(frame)?;
        while !self.output.is_empty() {
            let failed = |source| PeerRefusal::Socket { doing: "writing", source };
            self.stream.writable().await.map_err(failed)?;
            let slices: Vec<IoSlice<'_>> =
                self.output.iter().take(WRITE_SLICES).map(|piece| IoSlice::new(piece)).collect();
            match self.stream.try_write_vectored(&slices) {
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}
