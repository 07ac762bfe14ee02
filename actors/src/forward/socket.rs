//! The socket of one link: says Hello, writes what it is given, hands answers to the forwarder.

use super::actor::{ForwardActor, LinkAnswered, LinkEnded, LinkUp};
use super::core::answers::LinkAnswer;
use super::core::{FORWARD_FEATURES, LINK_REQUESTS, LinkId};
use crate::tls::{TlsKeeper, TlsRefusal};
use actix::prelude::*;
use bytes::{Buf, Bytes, BytesMut};
use lance_messages::wire::hello::{Hello, MINOR_VERSION};
use lance_messages::wire::{
    Features, Frame, FrameError, FrameLimits, HeaderCrc, Request, RequestFrame, Response, ResponseError, ResponseFrame,
    next_frame,
};
use socket2::{SockRef, TcpKeepalive};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// The name that forwarders give in Hello, for logs: who says Hello at all is redirected, never forwarded again.
pub const FORWARD_CLIENT_NAME: &str = "lance-forward";
/// Frames between the forwarder and the socket: all that may be unanswered, and answers to signs of life.
pub const LINK_QUEUE: usize = LINK_REQUESTS + 64;
/// Longest wait for a connection and its Hello.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A host that is gone is noticed after this time without an ack of TCP.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pieces handed to one write.
const PIECES: usize = 64;
/// Room kept for reading.
const READ_ROOM: usize = 256 * 1024;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    Timeout,
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("reading or writing failed: {0}")]
    Broken(io::Error),
    #[error("the other node closed the connection")]
    Closed,
    #[error("the other node sent no LWP: {0}")]
    Frame(#[from] FrameError),
    #[error("the other node sent a frame that makes no sense: {0}")]
    Response(#[from] ResponseError),
    #[error("the other node did not grant the features {wanted:#x} but {granted:#x}")]
    Features { wanted: u64, granted: u64 },
    #[error("the other node answered Hello with something else")]
    NoHello,
    #[error("the other node does not take this node's token: its cluster.secret is another")]
    Unauthenticated,
    #[error(transparent)]
    Tls(#[from] TlsRefusal),
}

/// The forwarder's ends of a link.
pub struct LinkHandle {
    /// What is to be written.
    pub queue: mpsc::Sender<[Bytes; 2]>,
    /// Dropped to end the link at once.
    pub open: oneshot::Sender<()>,
}

/// What other nodes demand of a link.
#[derive(Clone, Default)]
pub struct LinkCredentials {
    /// Encryption.
    pub tls: Option<Arc<TlsKeeper>>,
    /// The token that nodes know each other by.
    pub token: Option<Bytes>,
}

struct LinkSocket {
    stream: TcpStream,
    input: BytesMut,
    outgoing: VecDeque<Bytes>,
    written: u64,
}

/// Starts a link on the current thread; the forwarder hears of everything that becomes of it.
pub fn start(link: LinkId, address: String, credentials: LinkCredentials, owner: Addr<ForwardActor>) -> LinkHandle {
    let (queue, work) = mpsc::channel(LINK_QUEUE);
    let (open, ended) = oneshot::channel();
    actix_rt::spawn(async move {
        let written = run(link, &address, &credentials, &owner, work, ended).await;
        // Closed only while the process goes down.
        let _ = owner.send(LinkEnded { link, written }).await;
    });
    LinkHandle { queue, open }
}

/// Runs until the link ends; bytes written.
async fn run(
    link: LinkId,
    address: &str,
    credentials: &LinkCredentials,
    owner: &Addr<ForwardActor>,
    work: mpsc::Receiver<[Bytes; 2]>,
    ended: oneshot::Receiver<()>,
) -> u64 {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(address, credentials)).await;
    let (mut socket, max_payload_bytes) = match connected.unwrap_or(Err(LinkError::Timeout)) {
        Ok(connected) => connected,
        Err(error) => {
            tracing::debug!(link, address, %error, "cannot forward");
            return 0;
        }
    };
    let _ = owner.send(LinkUp { link, max_payload_bytes }).await;
    let outcome = tokio::select! {
        outcome = socket.serve(link, owner, work) => outcome,
        _ = ended => Ok(()),
    };
    if let Err(error) = outcome {
        tracing::debug!(link, address, %error, "a link for forwarding ended");
    }
    socket.written
}

async fn connect(address: &str, credentials: &LinkCredentials) -> Result<(LinkSocket, u32), LinkError> {
    let stream = TcpStream::connect(address).await.map_err(LinkError::Connect)?;
    prepare(&stream).map_err(LinkError::Connect)?;
    let stream = match &credentials.tls {
        None => stream,
        Some(tls) => tls.connect(address, stream).await?,
    };
    let mut socket = LinkSocket { stream, input: BytesMut::new(), outgoing: VecDeque::new(), written: 0 };
    let hello =
        Hello { minor_version: MINOR_VERSION, features: FORWARD_FEATURES, client_name: FORWARD_CLIENT_NAME.to_owned() };
    let mut frame = BytesMut::new();
    RequestFrame { correlation: 0, partition: 0, trace: None, request: Request::Hello(hello) }.encode(&mut frame, None);
    socket.stream.write_all(&frame).await.map_err(LinkError::Broken)?;
    let reply = ResponseFrame::decode(socket.receive(HeaderCrc::Prefix).await?, None)?;
    match reply.response {
        Response::Hello(granted) if granted.features.contains(FORWARD_FEATURES) => {
            if let Some(token) = &credentials.token {
                socket.authenticate(token.clone()).await?;
            }
            Ok((socket, granted.max_payload_bytes))
        }
        Response::Hello(granted) => {
            let (wanted, Features(granted)) = (FORWARD_FEATURES.0, granted.features);
            Err(LinkError::Features { wanted, granted })
        }
        _ => Err(LinkError::NoHello),
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(USER_TIMEOUT))
}

impl LinkSocket {
    async fn authenticate(&mut self, token: Bytes) -> Result<(), LinkError> {
        let mut frame = BytesMut::new();
        RequestFrame { correlation: 0, partition: 0, trace: None, request: Request::Authenticate { token } }
            .encode(&mut frame, Some(FORWARD_FEATURES));
        self.stream.write_all(&frame).await.map_err(LinkError::Broken)?;
        let reply = self.receive(FORWARD_FEATURES.header_crc()).await?;
        match ResponseFrame::decode(reply, Some(FORWARD_FEATURES))?.response {
            Response::Authenticate { ok: true, .. } => Ok(()),
            _ => Err(LinkError::Unauthenticated),
        }
    }

    async fn receive(&mut self, header_crc: HeaderCrc) -> Result<Frame, LinkError> {
        let limits = FrameLimits { header_crc, ..FrameLimits::default() };
        loop {
            if let Some(frame) = next_frame(&mut self.input, &limits)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.input).await.map_err(LinkError::Broken)? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }

    /// Runs until something fails, or the forwarder gives the link up.
    async fn serve(
        &mut self,
        link: LinkId,
        owner: &Addr<ForwardActor>,
        mut work: mpsc::Receiver<[Bytes; 2]>,
    ) -> Result<(), LinkError> {
        loop {
            self.input.reserve(READ_ROOM);
            let (mut reader, mut writer) = self.stream.split();
            let mut slices = [IoSlice::new(&[]); PIECES];
            let count = self.outgoing.len().min(PIECES);
            for (slice, piece) in slices.iter_mut().zip(&self.outgoing) {
                *slice = IoSlice::new(piece);
            }
            tokio::select! {
                read = reader.read_buf(&mut self.input) => {
                    if read.map_err(LinkError::Broken)? == 0 {
                        return Err(LinkError::Closed);
                    }
                    let answers = self.take_answers()?;
                    if !answers.is_empty() {
                        let _ = owner.send(LinkAnswered { link, answers }).await;
                    }
                }
                wrote = writer.write_vectored(&slices[..count]), if count > 0 => {
                    let count = wrote.map_err(LinkError::Broken)?;
                    self.wrote(count)?;
                }
                pieces = work.recv(), if count < PIECES => {
                    let Some(pieces) = pieces else { return Ok(()) };
                    self.outgoing.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
                }
            }
        }
    }

    fn wrote(&mut self, mut count: usize) -> Result<(), LinkError> {
        if count == 0 {
            return Err(LinkError::Broken(io::ErrorKind::WriteZero.into()));
        }
        self.written += count as u64;
        while let Some(front) = self.outgoing.front_mut() {
            let taken = count.min(front.len());
            front.advance(taken);
            count -= taken;
            if !front.is_empty() {
                break;
            }
            self.outgoing.pop_front();
        }
        Ok(())
    }

    fn take_answers(&mut self) -> Result<Vec<LinkAnswer>, LinkError> {
        let limits = FrameLimits { header_crc: FORWARD_FEATURES.header_crc(), ..FrameLimits::default() };
        let mut answers = Vec::new();
        while let Some(frame) = next_frame(&mut self.input, &limits)? {
            let frame = ResponseFrame::decode(frame, Some(FORWARD_FEATURES))?;
            let data_crc = match &frame.response {
                Response::Fetch { data, .. } => crc32fast::hash(data),
                _ => 0,
            };
            answers.push(LinkAnswer { frame, data_crc });
        }
        Ok(answers)
    }
}
