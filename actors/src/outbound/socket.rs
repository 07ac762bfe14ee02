//! The socket of one link: says Hello, writes what it is given, hands answers to the owner of the link.

use super::outgoing::Outgoing;
use super::{LinkAnswer, LinkAnswered, LinkEnded, LinkId, LinkPiece, LinkUp};
use crate::tls::{TlsKeeper, TlsRefusal};
use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::hello::{Hello, HelloResponse, MINOR_VERSION};
use lance_messages::wire::{
    Features, Frame, FrameError, FrameLimits, HeaderCrc, Request, RequestFrame, Response, ResponseError, ResponseFrame,
    next_frame,
};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// Requests that a link may carry unanswered.
pub const LINK_REQUESTS: usize = 1_024;
/// Frames between the owner and the socket: all that may be unanswered, and answers to signs of life.
pub const LINK_QUEUE: usize = LINK_REQUESTS + 64;
/// Longest wait for a connection and its Hello.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A host that is gone is noticed after this time without an ack of TCP.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Room kept for reading.
const READ_ROOM: usize = 256 * 1024;

/// What this node says of itself on a link.
#[derive(Clone, Debug)]
pub struct LinkHello {
    /// The name in Hello, for logs.
    pub client_name: String,
    /// The features it needs: a node that grants fewer is left alone.
    pub features: Features,
}

/// Who hears what becomes of a link.
#[derive(Clone)]
pub struct LinkOwner {
    /// That it stands.
    pub up: Recipient<LinkUp>,
    /// What is answered on it.
    pub answered: Recipient<LinkAnswered>,
    /// That it is gone.
    pub ended: Recipient<LinkEnded>,
}

/// Why a link ended, or never stood.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Too slow.
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    Timeout,
    /// Nobody listens there.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The connection broke.
    #[error("reading or writing failed: {0}")]
    Broken(io::Error),
    /// It was closed.
    #[error("the other node closed the connection")]
    Closed,
    /// What came is no LWP.
    #[error("the other node sent no LWP: {0}")]
    Frame(#[from] FrameError),
    /// What came is no answer.
    #[error("the other node sent a frame that makes no sense: {0}")]
    Response(#[from] ResponseError),
    /// It cannot do what is needed.
    #[error("the other node did not grant the features {wanted:#x} but {granted:#x}")]
    Features {
        /// Those needed.
        wanted: u64,
        /// Those granted.
        granted: u64,
    },
    /// It does not know this node.
    #[error("the other node does not take this node's token")]
    Unauthenticated,
    /// No encryption came about.
    #[error(transparent)]
    Tls(#[from] TlsRefusal),
    /// It speaks another protocol, or an older one.
    #[error("the other node answered {asked} with something else")]
    NoAnswer {
        /// What it was asked.
        asked: &'static str,
    },
    /// It refused.
    #[error("the other node refused {asked}: {message}")]
    Refused {
        /// What it was asked.
        asked: &'static str,
        /// The code.
        code: ErrorCode,
        /// Why.
        message: String,
    },
}

/// The owner's ends of a link.
pub struct LinkHandle {
    /// What is to be written.
    pub queue: mpsc::Sender<[LinkPiece; 2]>,
    /// Dropped to end the link at once.
    pub open: oneshot::Sender<()>,
}

/// What other nodes demand of a link.
#[derive(Clone, Default)]
pub struct LinkCredentials {
    /// Encryption.
    pub tls: Option<Arc<TlsKeeper>>,
    /// The token they know this node by.
    pub token: Option<Bytes>,
}

/// A connection to another node that has said Hello.
pub struct LinkSocket {
    stream: TcpStream,
    features: Features,
    input: BytesMut,
    outgoing: Outgoing,
}

/// Starts a link on the current thread; its owner hears of everything that becomes of it.
pub fn start(
    link: LinkId,
    address: String,
    hello: LinkHello,
    credentials: LinkCredentials,
    owner: LinkOwner,
) -> LinkHandle {
    let (queue, work) = mpsc::channel(LINK_QUEUE);
    let (open, ended) = oneshot::channel();
    actix_rt::spawn(async move {
        let connected = connect(&address, &hello, &credentials);
        let (written, reason) = match run(link, connected, &owner, work, ended).await {
            (written, Ok(())) => (written, String::new()),
            (written, Err(error)) => {
                tracing::debug!(name = %hello.client_name, link, address, %error, "a link ended");
                (written, error.to_string())
            }
        };
        // Closed only while the process goes down.
        let _ = owner.ended.send(LinkEnded { link, written, reason }).await;
    });
    LinkHandle { queue, open }
}

/// Runs until the link ends; bytes written, and why it ended by itself.
async fn run(
    link: LinkId,
    connected: impl Future<Output = Result<(LinkSocket, HelloResponse), LinkError>>,
    owner: &LinkOwner,
    work: mpsc::Receiver<[LinkPiece; 2]>,
    ended: oneshot::Receiver<()>,
) -> (u64, Result<(), LinkError>) {
    let (mut socket, hello) = match connected.await {
        Ok(connected) => connected,
        Err(error) => return (0, Err(error)),
    };
    let _ = owner.up.send(LinkUp { link, hello }).await;
    let outcome = tokio::select! {
        outcome = socket.serve(link, owner, work) => outcome,
        _ = ended => Ok(()),
    };
    (socket.outgoing.written(), outcome)
}

/// Connects, says Hello, and who this node is.
pub async fn connect(
    address: &str,
    hello: &LinkHello,
    credentials: &LinkCredentials,
) -> Result<(LinkSocket, HelloResponse), LinkError> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, greet(address, hello, credentials)).await;
    connected.unwrap_or(Err(LinkError::Timeout))
}

async fn greet(
    address: &str,
    hello: &LinkHello,
    credentials: &LinkCredentials,
) -> Result<(LinkSocket, HelloResponse), LinkError> {
    let stream = TcpStream::connect(address).await.map_err(LinkError::Connect)?;
    prepare(&stream).map_err(LinkError::Connect)?;
    let stream = match &credentials.tls {
        None => stream,
        Some(tls) => tls.connect(address, stream).await?,
    };
    let LinkHello { client_name, features } = hello.clone();
    let mut socket = LinkSocket { stream, features, input: BytesMut::new(), outgoing: Outgoing::default() };
    let hello = Hello { minor_version: MINOR_VERSION, features, client_name };
    let mut frame = BytesMut::new();
    RequestFrame { correlation: 0, partition: 0, trace: None, request: Request::Hello(hello) }.encode(&mut frame, None);
    socket.stream.write_all(&frame).await.map_err(LinkError::Broken)?;
    let reply = ResponseFrame::decode(socket.receive(HeaderCrc::Prefix).await?, None)?;
    match reply.response {
        Response::Hello(granted) if granted.features.contains(features) => {
            if let Some(token) = &credentials.token {
                socket.authenticate(token.clone()).await?;
            }
            Ok((socket, granted))
        }
        Response::Hello(granted) => Err(LinkError::Features { wanted: features.0, granted: granted.features.0 }),
        _ => Err(LinkError::NoAnswer { asked: "Hello" }),
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(USER_TIMEOUT))
}

impl LinkSocket {
    /// Asks one thing, on a connection that is used for nothing else at the time, and waits for the answer.
    pub async fn ask(&mut self, request: Request, asked: &'static str) -> Result<Response, LinkError> {
        let mut frame = BytesMut::new();
        let request = RequestFrame { correlation: 1, partition: 0, trace: None, request };
        request.encode(&mut frame, Some(self.features));
        self.stream.write_all(&frame).await.map_err(LinkError::Broken)?;
        loop {
            let frame = self.receive(self.features.header_crc()).await?;
            match ResponseFrame::decode(frame, Some(self.features))?.response {
                Response::Keepalive | Response::Backpressure => {}
                Response::Error(error) => {
                    return Err(LinkError::Refused { asked, code: error.code, message: error.message.into_owned() });
                }
                response => return Ok(response),
            }
        }
    }

    async fn authenticate(&mut self, token: Bytes) -> Result<(), LinkError> {
        match self.ask(Request::Authenticate { token }, "to authenticate").await? {
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

    /// Runs until something fails, or the owner gives the link up.
    async fn serve(
        &mut self,
        link: LinkId,
        owner: &LinkOwner,
        mut work: mpsc::Receiver<[LinkPiece; 2]>,
    ) -> Result<(), LinkError> {
        loop {
            self.input.reserve(READ_ROOM);
            let (mut reader, mut writer) = self.stream.split();
            tokio::select! {
                read = reader.read_buf(&mut self.input) => {
                    if read.map_err(LinkError::Broken)? == 0 {
                        return Err(LinkError::Closed);
                    }
                    let answers = self.take_answers()?;
                    if !answers.is_empty() {
                        let _ = owner.answered.send(LinkAnswered { link, answers }).await;
                    }
                }
                wrote = self.outgoing.write_some(&mut writer), if !self.outgoing.is_empty() => {
                    wrote.map_err(LinkError::Broken)?;
                }
                pieces = work.recv(), if self.outgoing.takes_more() => {
                    let Some(pieces) = pieces else { return Ok(()) };
                    self.outgoing.extend(pieces);
                }
            }
        }
    }

    fn take_answers(&mut self) -> Result<Vec<LinkAnswer>, LinkError> {
        let limits = FrameLimits { header_crc: self.features.header_crc(), ..FrameLimits::default() };
        let mut answers = Vec::new();
        while let Some(frame) = next_frame(&mut self.input, &limits)? {
            let frame = ResponseFrame::decode(frame, Some(self.features))?;
            let data_crc = match &frame.response {
                Response::Fetch { data, .. } => crc32fast::hash(data),
                _ => 0,
            };
            answers.push(LinkAnswer { frame, data_crc });
        }
        Ok(answers)
    }
}
