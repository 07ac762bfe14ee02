//! How connections come about: the seam for anything but plain TCP.

use socket2::SockRef;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Idle time after which the system asks whether the other end is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);

/// A stream of bytes in both directions; whatever reads and writes is one.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// What [`Connector::connect`] returns.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Transport>>> + Send + 'a>>;

/// Opens connections to servers, for [`ClientOptions::connector`](crate::ClientOptions::connector).
///
/// A connector wraps whatever it likes around TCP: encryption, a proxy, faults for tests.
///
/// ```
/// use lance_client::connection::{Connecting, Connector, TcpConnector};
/// use lance_client::ClientOptions;
/// use std::sync::Arc;
///
/// /// Reaches every server through one port of this machine.
/// #[derive(Debug)]
/// struct Tunnel;
///
/// impl Connector for Tunnel {
///     fn connect<'a>(&'a self, _address: &'a str) -> Connecting<'a> {
///         TcpConnector.connect("127.0.0.1:7001")
///     }
/// }
///
/// let mut options = ClientOptions::new("lance-1:1992")?;
/// options.connector = Arc::new(Tunnel);
/// # Ok::<(), lance_client::ClientError>(())
/// ```
pub trait Connector: fmt::Debug + Send + Sync {
    /// Connects to `HOST:PORT`. The client limits the time this may take.
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a>;
}

/// Plain TCP, without delay and with keepalive.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnector;

impl TcpConnector {
    /// A connected socket.
    pub(super) async fn stream(address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(stream)
    }
}

impl Connector for TcpConnector {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move { Ok(Box::new(Self::stream(address).await?) as Box<dyn Transport>) })
    }
}
