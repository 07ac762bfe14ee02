//! Connections of the admin interface: no more than so many, not all of them from one address, and none that keeps a request
//! or an answer waiting. Whoever opens them by the thousand, or sends a byte at a time, holds neither memory nor descriptors
//! that the node needs, and locks out nobody's probes.

use hashbrown::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// Connections at once from one address; further ones are closed.
const MAX_OF_ADDRESS: usize = 128;
/// Time for a whole request and for what answers it. No answer takes as long to make.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for any progress of an answer, and between requests: longer than proxies and scrapers keep connections.
const IDLE: Duration = Duration::from_secs(75);

/// A listener whose connections are bounded.
pub struct Bounded<L> {
    listener: L,
    places: Arc<Semaphore>,
    shares: Shares,
    patience: Duration,
    idle: Duration,
}

/// Who takes up how much: as many of one address as there may be, and of IPv6 of one network of 64 bits.
pub struct Shares {
    /// What everything of an address shares: the count is that of the owners, less one.
    of_address: HashMap<IpAddr, Arc<()>>,
    most: usize,
}

/// A part of an address's share, until it is dropped.
pub struct Share(#[expect(dead_code, reason = "held to be counted")] Arc<()>);

impl Shares {
    /// At most so many of one address.
    pub fn new(most: usize) -> Self {
        Self { of_address: HashMap::new(), most }
    }

    /// One more of this address, unless it has its share.
    pub fn take(&mut self, address: IpAddr) -> Option<Share> {
        if self.of_address.len() > MAX_CONNECTIONS {
            self.of_address.retain(|_, shared| Arc::strong_count(shared) > 1);
        }
        let whose = match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
            address @ IpAddr::V4(_) => address,
        };
        let shared = self.of_address.entry(whose).or_default();
        (Arc::strong_count(shared) <= self.most).then(|| Share(Arc::clone(shared)))
    }
}

impl<L> Bounded<L> {
    /// Bounds what a listener accepts.
    pub fn new(listener: L) -> Self {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Self { listener, places, shares: Shares::new(MAX_OF_ADDRESS), patience: PATIENCE, idle: IDLE }
    }
}

impl<L> axum::serve::Listener for Bounded<L>
where
    L: axum::serve::Listener<Addr = SocketAddr>,
{
    type Io = BoundedIo<L::Io>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // Never closed: a place comes free with the connection that has it.
            let place = Arc::clone(&self.places).acquire_owned().await.ok();
            let (io, from) = self.listener.accept().await;
            if let Some(share) = self.shares.take(from.ip()) {
                let deadline = Box::pin(tokio::time::sleep(self.patience));
                let Self { patience, idle, .. } = *self;
                return (BoundedIo { io, deadline, patience, idle, is_asking: false, _held: (place, share) }, from);
            }
            tracing::debug!(%from, "an admin connection is closed: there are too many from there");
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when it keeps a request or an answer waiting.
pub struct BoundedIo<I> {
    io: I,
    deadline: Pin<Box<Sleep>>,
    patience: Duration,
    idle: Duration,
    /// Some of a request was read, and nothing written since.
    is_asking: bool,
    _held: (Option<OwnedSemaphorePermit>, Share),
}

impl<I> BoundedIo<I> {
    fn extend(&mut self, by: Duration) {
        self.deadline.as_mut().reset(Instant::now() + by);
    }

    /// It waits: no longer than it may.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(written) => {
                self.is_asking = false;
                self.extend(self.idle);
                Poll::Ready(written)
            }
            Poll::Pending => self.wait(context),
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for BoundedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_read(context, buffer) {
            Poll::Ready(read) => {
                // From its first byte on a request has its time, however its other bytes come.
                if !std::mem::replace(&mut self.is_asking, true) {
                    let patience = self.patience;
                    self.extend(patience);
                }
                Poll::Ready(read)
            }
            Poll::Pending => self.wait(context),
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for BoundedIo<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, data);
        self.wrote(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(context) {
            Poll::Pending => self.wait(context),
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_shutdown(context) {
            Poll::Pending => self.wait(context),
            ended => ended,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.wrote(written, context)
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

    async fn bounded(patience: Duration) -> (Bounded<TcpListener>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Bounded { patience, idle: patience, ..Bounded::new(listener) }, address)
    }

    #[tokio::test]
    async fn a_request_that_comes_byte_by_byte_has_its_time_and_no_more() {
        let patience = Duration::from_millis(300);
        let (mut bounded, address) = bounded(patience).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        let trickle = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let (begun, mut byte) = (Instant::now(), [0]);
        let error = loop {
            if let Err(error) = connection.read_exact(&mut byte).await {
                break error;
            }
            assert!(begun.elapsed() < patience * 20, "it goes on and on");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= patience);
        drop(connection);
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn each_answer_gives_the_next_request_its_time() {
        let patience = Duration::from_millis(400);
        let (mut bounded, address) = bounded(patience).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        let begun = Instant::now();
        let mut byte = [0];
        while begun.elapsed() < patience * 3 {
            client.write_all(b"x").await.unwrap();
            connection.read_exact(&mut byte).await.unwrap();
            connection.write_all(b"y").await.unwrap();
            client.read_exact(&mut byte).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_is_given_up() {
        let (mut bounded, address) = bounded(Duration::from_millis(100)).await;
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        let answer = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = connection.write_all(&answer).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn there_are_no_more_connections_than_places_and_not_all_of_one_address() {
        let (mut bounded, address) = bounded(PATIENCE).await;
        bounded.places = Arc::new(Semaphore::new(2));
        let connect = || TcpStream::connect(address);
        let _clients = [connect().await.unwrap(), connect().await.unwrap(), connect().await.unwrap()];
        let (first, _) = bounded.accept().await;
        let (_second, _) = bounded.accept().await;
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, bounded.accept()).await.is_err(), "there is no place");
        drop(first);
        let (third, _) = bounded.accept().await;
        drop(third);
        bounded.shares.most = 1;
        let mut refused = connect().await.unwrap();
        assert!(tokio::time::timeout(soon, bounded.accept()).await.is_err(), "the address has its share");
        assert_eq!(refused.read(&mut [0]).await.unwrap(), 0, "it is closed");
    }
    #[test]
    fn a_network_of_ipv6_shares_what_an_address_of_ipv4_has_alone() {
        let mut shares = Shares::new(1);
        let address = |text: &str| text.parse().unwrap();
        let first = shares.take(address("2001:db8::1")).unwrap();
        assert!(shares.take(address("2001:db8::ffff:2")).is_none());
        let _other = shares.take(address("2001:db8:0:1::1")).unwrap();
        let _mapped = shares.take(address("::ffff:10.0.0.1")).unwrap();
        assert!(shares.take(address("10.0.0.1")).is_none());
        assert!(shares.take(address("10.0.0.2")).is_some());
        drop(first);
        assert!(shares.take(address("2001:db8::3")).is_some());
    }
}
