//! The admin interface over TLS: handshakes under way do not hold up other connections.

use super::bounded::Shares;
use crate::tls::TlsKeeper;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;

/// Handshakes under way at once.
const MAX_HANDSHAKES: usize = 64;
/// Those of one address; further ones are closed, so that whoever is silent on many holds up nobody else.
const MAX_HANDSHAKES_OF_ADDRESS: usize = 16;
/// After a failed accept (out of descriptors, mostly) the listener rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener whose connections are encrypted.
pub struct EncryptedListener {
    arrivals: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl EncryptedListener {
    /// Accepts on this thread's runtime for as long as the listener is kept. `asks_clients`: whether certificates are asked for.
    pub fn start(listener: TcpListener, tls: Arc<TlsKeeper>, asks_clients: bool) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (arrived, arrivals) = mpsc::channel(MAX_HANDSHAKES);
        tokio::spawn(accept_all(listener, tls, asks_clients, arrived));
        Ok(Self { arrivals, address })
    }
}

impl axum::serve::Listener for EncryptedListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.arrivals.recv().await {
            Some(arrival) => arrival,
            // Nobody accepts any more: the node goes down.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

async fn accept_all(
    listener: TcpListener,
    tls: Arc<TlsKeeper>,
    asks_clients: bool,
    arrived: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut shares = Shares::new(MAX_HANDSHAKES_OF_ADDRESS);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = arrived.closed() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, from)) => {
                let Some(share) = shares.take(from.ip()) else {
                    tracing::debug!(%from, "an admin connection is closed: too many handshakes are under way from there");
                    continue;
                };
                let (tls, arrived) = (Arc::clone(&tls), arrived.clone());
                tokio::spawn(async move {
                    match tls.shake(stream, asks_clients).await {
                        // Closed only when the interface ends.
                        Ok(stream) => drop(arrived.send((stream, from)).await),
                        Err(refusal) => tracing::debug!(%refusal, "an admin connection is closed"),
                    }
                    drop((place, share));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept: trying again shortly");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
