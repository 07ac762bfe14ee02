//! Connections of the admin interface, no more than so many, and none that says nothing for long: whoever opens them by
//! the thousand, or a byte at a time, holds neither memory nor descriptors that the node needs.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// A connection on which nothing moves for this long is closed; no request takes as long.
const IDLE: Duration = Duration::from_secs(30);

/// A listener whose connections are bounded.
pub struct Bounded<L> {
    listener: L,
    places: Arc<Semaphore>,
    idle: Duration,
}

impl<L> Bounded<L> {
    /// Bounds what a listener accepts.
    pub fn new(listener: L) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)), idle: IDLE }
    }
}

impl<L> axum::serve::Listener for Bounded<L>
where
    L: axum::serve::Listener,
{
    type Io = BoundedIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // Never closed: a place comes free with the connection that has it.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (io, from) = self.listener.accept().await;
        let idle = Box::pin(tokio::time::sleep(self.idle));
        (BoundedIo { io, idle, patience: self.idle, _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing moves on it.
pub struct BoundedIo<I> {
    io: I,
    idle: Pin<Box<Sleep>>,
    patience: Duration,
    _place: Option<OwnedSemaphorePermit>,
}

impl<I> BoundedIo<I> {
    /// Something moved, or does not: then this says when that has lasted too long.
    fn note<T>(&mut self, moved: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match moved {
            Poll::Ready(outcome) => {
                self.idle.as_mut().reset(Instant::now() + self.patience);
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                ready!(self.idle.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for BoundedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        self.note(read, context)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for BoundedIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, data);
        self.note(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.note(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_connection_ends_when_nothing_moves_on_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let idle = Duration::from_millis(200);
        let mut bounded = Bounded { idle, ..Bounded::new(listener) };
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        let mut byte = [0];
        for _ in 0..3 {
            client.write_all(b"x").await.unwrap();
            connection.read_exact(&mut byte).await.unwrap();
        }
        let waits = Instant::now();
        let error = connection.read_exact(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(waits.elapsed() >= idle);
    }

    #[tokio::test]
    async fn there_are_no_more_connections_than_places() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bounded = Bounded { places: Arc::new(Semaphore::new(1)), ..Bounded::new(listener) };
        let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let (first, _) = bounded.accept().await;
        assert!(tokio::time::timeout(Duration::from_millis(50), bounded.accept()).await.is_err());
        drop(first);
        bounded.accept().await;
    }
}
