//! What stands before a node: everybody, peers and clients, reaches it through here, so that its links can fail.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes carried at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// How a proxy treats what comes to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// As if it were not there.
    Open,
    /// Connections end, and new ones are ended at once.
    Cut,
    /// Connections stay and carry nothing.
    Stalled,
    /// Every piece takes so much longer.
    Slow(Duration),
}

/// A listener before a node.
#[derive(Debug)]
pub struct Proxy {
    state: watch::Sender<LinkState>,
}

impl Proxy {
    /// Carries connections of `listen` to `target`.
    pub async fn start(listen: String, target: String) -> io::Result<Self> {
        let listener = TcpListener::bind(listen.as_str()).await?;
        let (state, changes) = watch::channel(LinkState::Open);
        tokio::spawn(accept(listener, target, changes));
        Ok(Self { state })
    }

    /// From now on.
    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }
}

async fn accept(listener: TcpListener, target: String, state: watch::Receiver<LinkState>) {
    loop {
        let accepted: io::Result<(TcpStream, SocketAddr)> = listener.accept().await;
        let Ok((client, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if *state.borrow() == LinkState::Cut {
            continue;
        }
        tokio::spawn(carry(client, target.clone(), state.clone()));
    }
}

/// Carries both ways until one ends, or the link is cut.
async fn carry(client: TcpStream, target: String, mut state: watch::Receiver<LinkState>) {
    let Ok(server) = TcpStream::connect(target.as_str()).await else { return };
    _ = client.set_nodelay(true);
    _ = server.set_nodelay(true);
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let there = tokio::spawn(copy(from_client, to_server, state.clone()));
    let back = tokio::spawn(copy(from_server, to_client, state.clone()));
    let (end_there, end_back) = (there.abort_handle(), back.abort_handle());
    let cut = async {
        // An error means that the proxy is gone, and all with it.
        _ = state.wait_for(|state| *state == LinkState::Cut).await;
    };
    tokio::select! {
        _ = there => {}
        _ = back => {}
        () = cut => {}
    }
    end_there.abort();
    end_back.abort();
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<LinkState>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let Ok(bytes @ 1..) = from.read(&mut chunk).await else { return };
        let current = *state.borrow();
        match current {
            LinkState::Open | LinkState::Cut => {}
            LinkState::Slow(delay) => tokio::time::sleep(delay).await,
            LinkState::Stalled => {
                if state.wait_for(|state| *state != LinkState::Stalled).await.is_err() {
                    return;
                }
            }
        }
        if to.write_all(&chunk[..bytes]).await.is_err() {
            return;
        }
    }
}
