//! Frames on their way to the socket, written with as few system calls as they allow and without copying payloads.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;

/// Pieces handed to one write.
const PIECES: usize = 64;

/// A queue of bytes to write.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// Something was written that may wait in a buffer of the transport.
    unflushed: bool,
}

impl Outgoing {
    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && !self.unflushed
    }

    /// Writes some of what waits; dropping the future loses nothing.
    pub(super) async fn write_some(&mut self, socket: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if !self.pieces.is_empty() {
            self.write_pieces(socket).await?;
        }
        if self.pieces.is_empty() {
            socket.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    async fn write_pieces(&mut self, socket: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let count = self.pieces.len().min(PIECES);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        let mut written = socket.write_vectored(&slices[..count]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        while let Some(front) = self.pieces.front_mut() {
            let taken = written.min(front.len());
            front.advance(taken);
            written -= taken;
            if !front.is_empty() {
                break;
            }
            self.pieces.pop_front();
        }
        Ok(())
    }
}
