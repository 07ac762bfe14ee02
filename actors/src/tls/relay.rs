//! The relay between an encrypted connection and the plain socket that an actor owns.

use super::keeper::TlsKeeper;
use super::name::principal_of;
use rustls::pki_types::ServerName;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How long the handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// What is carried at once: a TLS record.
const CARRY_BYTES: usize = 16 * 1024;
/// First byte of every TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 0x16;

/// A connection as the node's actors see it.
#[derive(Debug)]
pub struct Arrival {
    /// Plain bytes.
    pub stream: std::net::TcpStream,
    /// The name in the certificate that was shown.
    pub principal: Option<Arc<str>>,
}

/// Why there is no encrypted connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsRefusal {
    /// The other side speaks something else.
    #[error("the connection does not begin with TLS: this port serves nothing else")]
    Plaintext,
    /// It took too long.
    #[error("no TLS handshake within {HANDSHAKE_TIMEOUT:?}")]
    TimedOut,
    /// The handshake failed: a certificate, mostly.
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// The certificate shown names nobody.
    #[error("the certificate has no name of 1 to 255 visible ASCII characters that does not begin with __")]
    Nameless,
    /// The address has no host that a certificate could be for.
    #[error("{address} has no host that a certificate could be for")]
    NoName {
        /// The address.
        address: String,
    },
    /// Nothing to check the other side by.
    #[error("there is no tls.ca_file to check the other node by")]
    NoAuthorities,
    /// The system.
    #[error("no pair of local sockets: {0}")]
    Sockets(io::Error),
}

impl TlsKeeper {
    /// Ends TLS on a connection that was accepted, on this thread from now on.
    pub async fn accept(&self, stream: TcpStream) -> Result<Arrival, TlsRefusal> {
        let stream = self.shake(stream, true).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let principal = match shown {
            Some(certificate) => Some(principal_of(certificate).ok_or(TlsRefusal::Nameless)?),
            None => None,
        };
        let stream = relay(stream).map_err(TlsRefusal::Sockets)?;
        Ok(Arrival { stream, principal })
    }

    /// The handshake on a connection that was accepted; a certificate is asked for only if `asks_clients`.
    pub async fn shake(&self, stream: TcpStream, asks_clients: bool) -> Result<TlsStream<TcpStream>, TlsRefusal> {
        let acceptor = TlsAcceptor::from(if asks_clients { self.server() } else { self.server_for_anybody() });
        let shaken = async {
            let mut first = [0u8];
            match stream.peek(&mut first).await.map_err(TlsRefusal::Handshake)? {
                1 if first[0] == HANDSHAKE_RECORD => {}
                0 => return Err(TlsRefusal::Handshake(io::ErrorKind::UnexpectedEof.into())),
                _ => return Err(TlsRefusal::Plaintext),
            }
            acceptor.accept(stream).await.map_err(TlsRefusal::Handshake)
        };
        actix_rt::time::timeout(HANDSHAKE_TIMEOUT, shaken).await.map_err(|_| TlsRefusal::TimedOut)?
    }

    /// Begins TLS on a connection to another node; its certificate must be for the host of `address`.
    pub async fn connect(&self, address: &str, stream: TcpStream) -> Result<TcpStream, TlsRefusal> {
        let config = self.client().ok_or(TlsRefusal::NoAuthorities)?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let no_name = |_| TlsRefusal::NoName { address: address.to_owned() };
        let name = ServerName::try_from(host).map_err(no_name)?;
        let shaken = TlsConnector::from(config).connect(name, stream);
        let shaken = actix_rt::time::timeout(HANDSHAKE_TIMEOUT, shaken).await.map_err(|_| TlsRefusal::TimedOut)?;
        let stream = relay(shaken.map_err(TlsRefusal::Handshake)?).map_err(TlsRefusal::Sockets)?;
        TcpStream::from_std(stream).map_err(TlsRefusal::Sockets)
    }
}

/// Carries bytes in both directions, and gives the plain end: a stream socket like any other, but for the options of TCP.
fn relay<S>(encrypted: S) -> io::Result<std::net::TcpStream>
where
    S: AsyncRead + AsyncWrite + 'static,
{
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let far = UnixStream::from_std(far)?;
    actix_rt::spawn(async move {
        if let Err(error) = carry_both(encrypted, far).await {
            tracing::debug!(%error, "an encrypted connection ended");
        }
    });
    Ok(OwnedFd::from(near).into())
}

async fn carry_both<S: AsyncRead + AsyncWrite>(encrypted: S, plain: UnixStream) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(encrypted);
    let (mut from_actor, mut to_actor) = plain.into_split();
    let mut inward = std::pin::pin!(carry(&mut from_client, &mut to_actor));
    let mut outward = std::pin::pin!(carry(&mut from_actor, &mut to_client));
    // The actor closes once all is written, and then nobody listens any more; a client may close its half only.
    tokio::select! {
        ended = &mut outward => ended,
        ended = &mut inward => {
            ended?;
            outward.await
        }
    }
}

/// Carries what one side says to the other, which takes it before more is read.
async fn carry(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; CARRY_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
    }
}
