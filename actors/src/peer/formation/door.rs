//! The listener before the network actor has it: peers come in, clients are told to come back.

use crate::peer::acceptor::AcceptPeer;
use crate::peer::doorstep::{Caller, caller, hand_over};
use crate::peer::inlet::Inlet;
use crate::tls::{TlsKeeper, TlsRefusal};
use bytes::BytesMut;
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Response, ResponseFrame};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// How long somebody may take to say who he is.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections that may stand on the doorstep at once; others wait in the kernel's queue.
const MAX_CALLERS: usize = 256;
/// After a failed accept (out of descriptors, mostly) the listener rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts peers until `closed` ends.
pub async fn accept_peers(
    listener: std::net::TcpListener,
    acceptor: Inlet<AcceptPeer>,
    tls: Option<Arc<TlsKeeper>>,
    mut closed: watch::Receiver<()>,
) {
    let listening = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    let listener = match listening {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "no peer can be accepted while the cluster forms"),
    };
    let places = Arc::new(Semaphore::new(MAX_CALLERS));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            _ = closed.changed() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let (acceptor, tls) = (acceptor.clone(), tls.clone());
                actix_rt::spawn(async move {
                    match plain(stream, tls.as_deref()).await {
                        Ok(stream) => receive(stream, &acceptor).await,
                        Err(refusal) => tracing::info!(%refusal, "a connection is closed"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept: trying again shortly");
                actix_rt::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What is inside of TLS, where that is spoken.
async fn plain(stream: TcpStream, tls: Option<&TlsKeeper>) -> Result<TcpStream, TlsRefusal> {
    match tls {
        None => Ok(stream),
        Some(tls) => TcpStream::from_std(tls.accept(stream).await?.stream).map_err(TlsRefusal::Sockets),
    }
}

async fn receive(stream: TcpStream, acceptor: &Inlet<AcceptPeer>) {
    match caller(&stream, PATIENCE).await {
        Caller::Peer => match hand_over(stream) {
            // The mailbox is long enough for everybody who can stand here.
            Ok(peer) => drop(acceptor.send(peer).await),
            Err(error) => tracing::debug!(%error, "a connection vanished while it was handed over"),
        },
        Caller::Client => refuse(stream),
        Caller::Gone => {}
    }
}

fn refuse(stream: TcpStream) {
    let text = "this node has not joined its cluster yet";
    let error = TypedError::with_message(ErrorCode::Unavailable, Answers::Control(0), text);
    let mut frame = BytesMut::new();
    ResponseFrame { correlation: 0, response: Response::Error(error) }.encode(&mut frame, None);
    if let Ok(mut stream) = stream.into_std() {
        // A fresh socket takes these few bytes; if not, the close says enough.
        let _ = stream.write_all(&frame);
    }
}
