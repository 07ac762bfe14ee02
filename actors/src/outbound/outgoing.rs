//! What waits to be written to a link: memory with few system calls, ranges of files inside the kernel.

use super::LinkPiece;
use crate::sendfile::{FileRange, FileSent, is_writable, send_files};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;
use tokio::task::JoinHandle;

/// Pieces handed to one write, and pieces that may wait.
const PIECES: usize = 64;

/// A queue of pieces.
#[derive(Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<LinkPiece>,
    /// The socket for threads that send files; made once one is sent.
    socket: Option<Arc<OwnedFd>>,
    /// Ranges at the front that such a thread is sending.
    sending: Option<JoinHandle<FileSent>>,
    written: u64,
}

impl Outgoing {
    pub(super) fn extend(&mut self, pieces: [LinkPiece; 2]) {
        self.pieces.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn takes_more(&self) -> bool {
        self.pieces.len() < PIECES
    }

    /// Bytes written ever.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes some of what waits; dropping the future loses nothing.
    pub(super) async fn write_some(&mut self, writer: &mut WriteHalf<'_>) -> io::Result<()> {
        if self.sending.is_none() && matches!(self.pieces.front(), Some(LinkPiece::Memory(_))) {
            return self.write_memory(writer).await;
        }
        let stream: &TcpStream = writer.as_ref();
        if self.sending.is_none() {
            // Only the look at the socket itself tells: what a thread has written since is not known here.
            let look = || if is_writable(stream) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
            stream.async_io(Interest::WRITABLE, look).await?;
            self.start_sending(stream)?;
        }
        let Some(sending) = &mut self.sending else { return Ok(()) };
        let sent = sending.await;
        self.sending = None;
        let FileSent { sent, error, .. } = sent.map_err(io::Error::other)?;
        self.wrote(sent);
        error.map_or(Ok(()), |error| Err(io::Error::other(error)))
    }

    async fn write_memory(&mut self, writer: &mut WriteHalf<'_>) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let memory = self.pieces.iter().map_while(LinkPiece::in_memory);
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(memory) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        match writer.write_vectored(&slices[..count]).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => {
                self.wrote(written as u64);
                Ok(())
            }
        }
    }

    fn start_sending(&mut self, stream: &TcpStream) -> io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => Arc::clone(socket),
            None => Arc::clone(self.socket.insert(Arc::new(stream.as_fd().try_clone_to_owned()?))),
        };
        let Some(LinkPiece::File(range)) = self.pieces.front() else { return Ok(()) };
        let ranges = [range.clone()];
        self.sending = Some(actix_rt::task::spawn_blocking(move || send_files(&socket, &ranges)));
        Ok(())
    }

    fn wrote(&mut self, mut count: u64) {
        self.written += count;
        while let Some(front) = self.pieces.front_mut() {
            let taken = count.min(front.len() as u64);
            front.skip(taken);
            count -= taken;
            if !front.is_empty() {
                break;
            }
            self.pieces.pop_front();
        }
    }
}

impl LinkPiece {
    fn skip(&mut self, count: u64) {
        match self {
            Self::Memory(bytes) => Bytes::advance(bytes, count as usize),
            Self::File(FileRange { file_offset, len, .. }) => {
                *file_offset += count;
                *len -= count;
            }
        }
    }
}
