//! Who stands before the door: whether a connection begins with a PeerHello, found out without taking a byte of it.

use super::acceptor::AcceptPeer;
use bytes::BytesMut;
use lance_messages::wire::peer::{RECOGNISED_BYTES, begins_with_peer_hello};
use std::time::Duration;
use tokio::net::TcpStream;

/// Between two looks at a connection that has sent too little.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Who has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Another node.
    Peer,
    /// Anybody else, or somebody who has said too little in time.
    Client,
    /// Nobody any more.
    Gone,
}

/// Waits at most `patience` for the first bytes, and leaves them where they are.
pub async fn caller(stream: &TcpStream, patience: Duration) -> Caller {
    actix_rt::time::timeout(patience, look(stream)).await.unwrap_or(Caller::Client)
}

async fn look(stream: &TcpStream) -> Caller {
    let mut first = [0u8; RECOGNISED_BYTES];
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return Caller::Gone,
            Ok(count) => match begins_with_peer_hello(&first[..count]) {
                Some(true) => return Caller::Peer,
                Some(false) => return Caller::Client,
                // The socket stays readable, so waiting for that again would spin.
                None => actix_rt::time::sleep(LOOK_AGAIN).await,
            },
        }
    }
}

/// A connection of which nothing was taken yet, for the acceptor.
pub fn hand_over(stream: TcpStream) -> std::io::Result<AcceptPeer> {
    Ok(AcceptPeer { stream: stream.into_std()?, received: BytesMut::new() })
}
