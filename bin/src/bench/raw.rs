//! Blocking connections that speak frames directly, and the topic they need.

use super::encrypted;
use crate::cli::args::Common;
use crate::cli::failure::Failure;
use crate::cli::session;
use bytes::{Bytes, BytesMut};
use lance_client::admin::exists_already;
use lance_client::wire::hello::{Hello, MINOR_VERSION};
use lance_client::wire::{Features, FrameLimits, Request, RequestFrame, Response, ResponseFrame, next_frame};
use lance_client::{ClientOptions, NewTopic, TopicDescription};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Waits this long for any one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The topic of a run; created when it is missing.
pub fn prepare_topic(common: &Common, name: &str, partitions: u16) -> Result<TopicDescription, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let client = session::connect(common).await?;
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: Some(partitions),
            replication_factor: None,
            mode: None,
            max_age_secs: None,
            max_bytes: None,
        };
        // Any node knows a topic that exists; only the metadata leader makes one.
        if client.admin().describe_topic(name).await.is_err() {
            match client.admin().create_topic(topic).await {
                Ok(_) => {}
                Err(error) if exists_already(&error) => {}
                Err(error) => return Err(Failure::of(format!("cannot create topic '{name}'"), &error)),
            }
        }
        let described = client.admin().describe_topic(name).await;
        let described = described.map_err(|error| Failure::of(format!("cannot describe topic '{name}'"), &error))?;
        if described.partitions.len() < usize::from(partitions) {
            let has = described.partitions.len();
            return Err(Failure::failed(format!("topic '{name}' has {has} partitions, {partitions} are asked for"))
                .with_hint("name another --topic, or delete this one"));
        }
        Ok(described)
    })
}

/// A blocking connection.
#[derive(Debug)]
pub struct RawConnection {
    socket: TcpStream,
    input: BytesMut,
    features: Option<Features>,
    address: String,
}

impl RawConnection {
    /// Connects to the first server, greets unless `plain`, and authenticates.
    pub fn open(common: &Common, wanted: Features, plain: bool) -> Result<Self, Failure> {
        let options =
            ClientOptions::new(&common.server).map_err(|error| Failure::usage(format!("--server: {error}")))?;
        let address = options.servers.addresses()[0].clone();
        let failed = |error: io::Error| Failure::failed(format!("cannot connect to {address}: {error}"));
        let socket = match session::tls(common)? {
            Some(connector) => encrypted::connect(connector, &address)?,
            None => {
                let socket = TcpStream::connect(&address).map_err(failed)?;
                socket.set_nodelay(true).map_err(failed)?;
                socket
            }
        };
        socket.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
        let mut connection =
            Self { socket, input: BytesMut::with_capacity(64 * 1024), features: None, address: address.clone() };
        if !plain {
            let client_name = concat!("lnc-bench/", env!("CARGO_PKG_VERSION")).to_owned();
            let hello = Hello { minor_version: MINOR_VERSION, features: wanted, client_name };
            match connection.ask(Request::Hello(hello), 0)? {
                Response::Hello(granted) => connection.features = Some(granted.features & wanted),
                Response::ErrorText(_) => {}
                _ => return Err(connection.surprised()),
            }
        }
        if let Some(token) = session::token(common)? {
            let token = Bytes::copy_from_slice(token.as_bytes());
            match connection.ask(Request::Authenticate { token }, 0)? {
                Response::Authenticate { ok: true, .. } => {}
                Response::Authenticate { text, .. } => return Err(Failure::failed(format!("{address}: {text}"))),
                _ => return Err(connection.surprised()),
            }
        }
        Ok(connection)
    }

    /// What was granted; `None` without Hello.
    pub fn features(&self) -> Option<Features> {
        self.features
    }

    /// The socket, for those who go on by themselves.
    pub fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// Sends one request and waits for its answer.
    pub fn ask(&mut self, request: Request, partition: u16) -> Result<Response, Failure> {
        let mut frame = BytesMut::new();
        RequestFrame { correlation: 1, partition, trace: None, request }.encode(&mut frame, self.features);
        self.socket.write_all(&frame).map_err(|error| self.lost(&error))?;
        let header_crc = self.features.unwrap_or_default().header_crc();
        let limits = FrameLimits { header_crc, ..FrameLimits::default() };
        let mut buffer = [0u8; 64 * 1024];
        loop {
            let next = next_frame(&mut self.input, &limits);
            if let Some(frame) = next.map_err(|error| Failure::failed(format!("{}: {error}", self.address)))? {
                let reply = ResponseFrame::decode(frame, self.features);
                return match reply.map_err(|error| Failure::failed(format!("{}: {error}", self.address)))?.response {
                    Response::Error(error) => Err(Failure::failed(format!("{}: {}", self.address, error.message))),
                    Response::Keepalive | Response::Backpressure => continue,
                    response => Ok(response),
                };
            }
            match self.socket.read(&mut buffer).map_err(|error| self.lost(&error))? {
                0 => return Err(self.lost(&io::Error::other("the server closed the connection"))),
                count => self.input.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn lost(&self, error: &io::Error) -> Failure {
        Failure::failed(format!("connection to {} lost: {error}", self.address))
    }

    /// An answer of another kind than the request wants.
    pub fn surprised(&self) -> Failure {
        Failure::failed(format!("{} answered with something else", self.address))
    }
}
