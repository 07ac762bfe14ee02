//! Connecting, Hello with the fallback to 1.0, and the token.

use super::connector::Transport;
use crate::error::{ClientError, from_text};
use crate::options::{ClientOptions, Login};
use bytes::{Bytes, BytesMut};
use lance_messages::error_code::ErrorCode;
use lance_messages::scram::{ScramClient, ScramError};
use lance_messages::wire::hello::{Hello, MINOR_VERSION};
use lance_messages::wire::{
    Features, Frame, FrameLimits, MAX_PAYLOAD_BYTES, Request, RequestFrame, Response, ResponseFrame, next_frame,
};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What this library can use.
pub fn wanted_features() -> Features {
    Features::PARTITIONS
        | Features::HEADER_CRC
        | Features::TYPED_ERRORS
        | Features::ACK_OFFSETS
        | Features::TRACE_CONTEXT
        | Features::IDEMPOTENT
        | Features::LONG_POLL
        | Features::LOOKUP
        | Features::METADATA
        | Features::COMPRESSED_INGEST
        | Features::CLUSTER
        | Features::TEE
        | Features::GROUPS
        | Features::SECURITY
        | Features::SCRAM
}

/// A connection ready for requests.
pub(super) struct Greeted {
    pub(super) stream: Box<dyn Transport>,
    /// Bytes that came after the last reply of the handshake.
    pub(super) input: BytesMut,
    pub(super) features: Option<Features>,
    pub(super) max_payload_bytes: u32,
    pub(super) max_in_flight_bytes: u64,
}

pub(super) async fn greet(address: &str, options: &ClientOptions) -> Result<Greeted, ClientError> {
    let connected = options.connector.connect(address).await;
    let mut greeted = Greeted {
        stream: connected.map_err(|error| ClientError::connect(address, &error))?,
        input: BytesMut::with_capacity(64 * 1024),
        features: None,
        max_payload_bytes: MAX_PAYLOAD_BYTES,
        // A 1.0 server grants nothing and stops reading when it has enough.
        max_in_flight_bytes: 64 * 1024 * 1024,
    };
    hello(&mut greeted, address, options).await?;
    if let Some(login) = &options.login {
        log_in(&mut greeted, address, login).await?;
    } else if let Some(token) = &options.token {
        authenticate(&mut greeted, address, token).await?;
    }
    Ok(greeted)
}

async fn hello(greeted: &mut Greeted, address: &str, options: &ClientOptions) -> Result<(), ClientError> {
    let wanted = if options.stored_batches { wanted_features() | Features::STORED_BATCHES } else { wanted_features() };
    let hello = Hello { minor_version: MINOR_VERSION, features: wanted, client_name: options.client_name.clone() };
    match exchange(greeted, address, Request::Hello(hello)).await? {
        Response::Hello(granted) => {
            greeted.features = Some(granted.features & wanted);
            greeted.max_payload_bytes = granted.max_payload_bytes.min(MAX_PAYLOAD_BYTES);
            greeted.max_in_flight_bytes = granted.max_in_flight_bytes.max(u64::from(greeted.max_payload_bytes));
            Ok(())
        }
        Response::ErrorText(text) if text == ErrorCode::InvalidCommand.text() => Ok(()),
        Response::ErrorText(text) => Err(from_text(text)),
        _ => Err(ClientError::UnexpectedReply { address: address.to_owned(), request: "hello" }),
    }
}

async fn authenticate(greeted: &mut Greeted, address: &str, token: &str) -> Result<(), ClientError> {
    let token = Bytes::copy_from_slice(token.as_bytes());
    match exchange(greeted, address, Request::Authenticate { token }).await? {
        Response::Authenticate { ok: true, .. } => Ok(()),
        Response::Authenticate { ok: false, text } => {
            Err(ClientError::Server { code: Some(ErrorCode::InvalidToken), message: text, detail: String::new() })
        }
        Response::ErrorText(text) => Err(from_text(text)),
        Response::Error(error) => Err(error.into()),
        _ => Err(ClientError::UnexpectedReply { address: address.to_owned(), request: "authentication" }),
    }
}

/// Logs in by password. The server proves itself too: nothing more is said to one that cannot.
async fn log_in(greeted: &mut Greeted, address: &str, login: &Login) -> Result<(), ClientError> {
    let refused = |error: ScramError| ClientError::Server {
        code: Some(ErrorCode::InvalidToken),
        message: error.to_string(),
        detail: String::new(),
    };
    if !greeted.features.unwrap_or_default().contains(Features::SCRAM) {
        return Err(ClientError::Unsupported { address: address.to_owned(), feature: "authentication by password" });
    }
    let nonce: String = rand::random::<[u8; 18]>().iter().map(|byte| format!("{byte:02x}")).collect();
    let client = ScramClient::new(&login.user, &login.password, &nonce).map_err(refused)?;
    let first = scram_step(greeted, address, client.first()).await?;
    let (last, proof) = client.last(&first).map_err(refused)?;
    let answer = scram_step(greeted, address, last).await?;
    proof.check(&answer).map_err(refused)
}

async fn scram_step(greeted: &mut Greeted, address: &str, message: String) -> Result<String, ClientError> {
    match exchange(greeted, address, Request::ScramStep(message)).await? {
        Response::ScramStep(answer) => Ok(answer),
        Response::Error(error) => Err(error.into()),
        Response::ErrorText(text) => Err(from_text(text)),
        _ => Err(ClientError::UnexpectedReply { address: address.to_owned(), request: "authentication" }),
    }
}

/// One request, one reply, nothing else under way.
async fn exchange(greeted: &mut Greeted, address: &str, request: Request) -> Result<Response, ClientError> {
    let mut frame = BytesMut::new();
    RequestFrame { correlation: 0, partition: 0, trace: None, request }.encode(&mut frame, greeted.features);
    let sent = async {
        greeted.stream.write_all(&frame).await?;
        greeted.stream.flush().await
    };
    let sent = sent.await;
    sent.map_err(|error| broken(address, &error))?;
    loop {
        let frame = receive(greeted, address).await?;
        let decoded = ResponseFrame::decode(frame, greeted.features);
        let reply = decoded.map_err(|source| ClientError::Response { address: address.to_owned(), source })?;
        if reply.response != Response::Keepalive {
            return Ok(reply.response);
        }
    }
}

async fn receive(greeted: &mut Greeted, address: &str) -> Result<Frame, ClientError> {
    let header_crc = greeted.features.unwrap_or_default().header_crc();
    let limits = FrameLimits { header_crc, ..FrameLimits::default() };
    loop {
        let next = next_frame(&mut greeted.input, &limits);
        if let Some(frame) = next.map_err(|source| ClientError::Frame { address: address.to_owned(), source })? {
            return Ok(frame);
        }
        let read = greeted.stream.read_buf(&mut greeted.input).await;
        if read.map_err(|error| broken(address, &error))? == 0 {
            return Err(closed(address));
        }
    }
}

/// A server that takes TLS only says nothing to others, and closes.
fn closed(address: &str) -> ClientError {
    let reason = "the server closed the connection during the handshake: does it take TLS only, or another kind of it?";
    ClientError::Connect { address: address.to_owned(), reason: reason.to_owned() }
}

fn broken(address: &str, error: &io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => closed(address),
        _ => ClientError::connect(address, error),
    }
}
