//! One connection: a handle to the task that owns the socket.

mod connector;
mod driver;
mod handshake;
mod outgoing;
mod pace;
mod pending;
#[cfg(feature = "tls")]
mod tls;

use crate::error::ClientError;
use crate::options::ClientOptions;
use bytes::{Bytes, BytesMut};
use driver::{Driver, Work};
use lance_messages::wire::produce::AckOffsets;
use lance_messages::wire::{Features, Request, RequestFrame, Response, TraceContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

pub use connector::{Connecting, Connector, TcpConnector, Transport};
pub use handshake::wanted_features;
#[cfg(feature = "tls")]
pub use tls::{TlsConnector, TlsError};

/// Requests waiting for the connection's task.
const WORK_QUEUE: usize = 256;

/// A connection that speaks LWP, after Hello and authentication. Clones share it; the last one dropped closes it.
///
/// For tools that speak the protocol by themselves; producers and consumers open their own.
///
/// ```no_run
/// use lance_client::ClientOptions;
/// use lance_client::connection::Connection;
/// use lance_client::wire::{Request, Response};
///
/// # async fn example() -> Result<(), lance_client::ClientError> {
/// let options = ClientOptions::new("127.0.0.1:1992")?;
/// let connection = Connection::open("127.0.0.1:1992", &options).await?;
/// if let Response::Topic(json) = connection.request(Request::ListTopics, "list topics").await? {
///     println!("{}", String::from_utf8_lossy(&json));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    /// `None`: the server speaks 1.0 only.
    features: Option<Features>,
    max_payload_bytes: u32,
    request_timeout: Duration,
    next_correlation: AtomicU64,
    work: mpsc::Sender<Work>,
}

/// How servers have slowed connections down.
#[derive(Debug, Default)]
pub(crate) struct Throttled {
    /// Backpressure frames.
    pub(crate) count: AtomicU64,
    /// Nanoseconds that frames have waited because of them.
    pub(crate) ns: AtomicU64,
}

/// The outcome of an ingest frame, still under way.
#[derive(Debug)]
pub struct PendingAck {
    address: String,
    reply: oneshot::Receiver<Result<Option<AckOffsets>, ClientError>>,
}

impl Connection {
    /// Connects, greets and authenticates.
    pub async fn open(address: &str, options: &ClientOptions) -> Result<Connection, ClientError> {
        Self::open_counted(address, options, Arc::default()).await
    }

    /// As [`Connection::open`]; `throttled` counts how the server slows it down.
    pub(crate) async fn open_counted(
        address: &str,
        options: &ClientOptions,
        throttled: Arc<Throttled>,
    ) -> Result<Connection, ClientError> {
        let opened = tokio::time::timeout(options.connect_timeout, handshake::greet(address, options)).await;
        let greeted = opened.map_err(|_| ClientError::Connect {
            address: address.to_owned(),
            reason: format!("no answer within {:?}", options.connect_timeout),
        })??;
        let (work, queue) = mpsc::channel(WORK_QUEUE);
        let shared = Shared {
            address: address.to_owned(),
            features: greeted.features,
            max_payload_bytes: greeted.max_payload_bytes,
            request_timeout: options.request_timeout,
            next_correlation: AtomicU64::new(1),
            work,
        };
        tokio::spawn(Driver::new(address.to_owned(), greeted, queue, throttled).run());
        Ok(Connection { shared: Arc::new(shared) })
    }

    /// Who is at the other end.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// What was granted; `None` on a 1.0 server.
    pub fn features(&self) -> Option<Features> {
        self.shared.features
    }

    /// Whether a feature was granted.
    pub fn supports(&self, feature: Features) -> bool {
        self.shared.features.is_some_and(|granted| granted.contains(feature))
    }

    /// Largest payload of a frame.
    pub fn max_payload_bytes(&self) -> u32 {
        self.shared.max_payload_bytes
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.work.is_closed()
    }

    /// Sends a control request and waits for its reply; a refusal is an error.
    pub async fn request(&self, request: Request, what: &'static str) -> Result<Response, ClientError> {
        self.request_for(request, 0, None, what, Duration::ZERO).await
    }

    /// As [`Connection::request`], about one partition; `patience` is added to the time allowed, for long polls.
    pub async fn request_for(
        &self,
        request: Request,
        partition: u16,
        trace: Option<TraceContext>,
        what: &'static str,
        patience: Duration,
    ) -> Result<Response, ClientError> {
        let correlation = self.shared.next_correlation.fetch_add(1, Ordering::Relaxed);
        let mut frame = BytesMut::new();
        RequestFrame { correlation, partition, trace, request }.encode(&mut frame, self.shared.features);
        let (answer, reply) = oneshot::channel();
        let after = self.shared.request_timeout + patience;
        let work = Work::Control { correlation, frame: frame.freeze(), answer };
        let exchange = async {
            self.shared.work.send(work).await.map_err(|_| self.lost())?;
            reply.await.map_err(|_| self.lost())?
        };
        tokio::time::timeout(after, exchange).await.map_err(|_| ClientError::TimedOut { what, after })?
    }

    /// Hands an ingest frame to the connection; waits only while too much is under way.
    ///
    /// Frames leave in the order of these calls, and acks come in that order.
    pub async fn produce(&self, batch_id: u64, header: Bytes, payload: Bytes) -> Result<PendingAck, ClientError> {
        let (answer, reply) = oneshot::channel();
        let work = Work::Produce { batch_id, header, payload, answer };
        self.shared.work.send(work).await.map_err(|_| self.lost())?;
        Ok(PendingAck { address: self.shared.address.clone(), reply })
    }

    fn lost(&self) -> ClientError {
        ClientError::lost(&self.shared.address, "closed")
    }
}

impl PendingAck {
    /// Waits for the outcome. Can be dropped and called again.
    pub async fn wait(&mut self) -> Result<Option<AckOffsets>, ClientError> {
        match (&mut self.reply).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClientError::lost(&self.address, "closed")),
        }
    }
}
