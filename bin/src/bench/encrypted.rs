//! Blocking sockets for encrypted connections: a thread carries bytes between a local socket and TLS.

use crate::cli::failure::Failure;
use lance_client::connection::{Connector, TlsConnector};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

/// What is carried at once.
const CARRY_BYTES: usize = 64 * 1024;

/// A stream socket whose other end speaks TLS with `address`.
pub fn connect(connector: TlsConnector, address: &str) -> Result<TcpStream, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot connect to {address}: {error}"));
    let (near, far) = UnixStream::pair().map_err(failed)?;
    far.set_nonblocking(true).map_err(failed)?;
    let (tell, told) = mpsc::channel();
    let target = address.to_owned();
    let carry = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(tell.send(Err(error))),
        };
        runtime.block_on(async move {
            let opened = async {
                let plain = tokio::net::UnixStream::from_std(far)?;
                Ok((connector.connect(&target).await?, plain))
            };
            match opened.await {
                Ok((mut encrypted, mut plain)) => {
                    _ = tell.send(Ok(()));
                    // How it ends is seen on the socket.
                    _ = tokio::io::copy_bidirectional_with_sizes(&mut encrypted, &mut plain, CARRY_BYTES, CARRY_BYTES)
                        .await;
                }
                Err(error) => _ = tell.send(Err(error)),
            }
        });
    };
    std::thread::Builder::new().name("tls".to_owned()).spawn(carry).map_err(failed)?;
    let gone = |_| failed(io::Error::other("the thread of the connection ended"));
    told.recv().map_err(gone)?.map_err(failed)?;
    Ok(OwnedFd::from(near).into())
}
