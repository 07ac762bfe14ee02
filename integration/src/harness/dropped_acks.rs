//! Connections that lose answers: what a server sends now and then never arrives, and the connection is gone.

use lance_client::connection::{Connecting, Connector, TcpConnector, Transport};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Opens connections of which every so many-th answer, counted over all of them, is lost with its connection.
#[derive(Clone, Debug)]
pub struct DroppedAcks {
    every: u64,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    dropped: AtomicU64,
}

impl DroppedAcks {
    /// Loses one read in `every`.
    pub fn every(every: u64) -> Self {
        Self { every, counts: Arc::default() }
    }

    /// How many were lost so far.
    pub fn count(&self) -> u64 {
        self.counts.dropped.load(Ordering::Acquire)
    }
}

impl Connector for DroppedAcks {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpConnector.connect(address).await?;
            Ok(Box::new(Lossy { stream, every: self.every, counts: Arc::clone(&self.counts) }) as Box<dyn Transport>)
        })
    }
}

struct Lossy {
    stream: Box<dyn Transport>,
    every: u64,
    counts: Arc<Counts>,
}

impl AsyncRead for Lossy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if !matches!(read, Poll::Ready(Ok(()))) || buf.filled().len() == before {
            return read;
        }
        let number = self.counts.reads.fetch_add(1, Ordering::AcqRel) + 1;
        if !number.is_multiple_of(self.every) {
            return read;
        }
        buf.set_filled(before);
        self.counts.dropped.fetch_add(1, Ordering::AcqRel);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, "the answer was lost on purpose")))
    }
}

impl AsyncWrite for Lossy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
