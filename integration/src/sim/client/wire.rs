//! A client's end of a connection: frames, Hello, and what was granted.

use crate::sim::context::Context;
use crate::sim::mail::{Address, Mail, Part};
use crate::sim::node::connection::send_in_pieces;
use bytes::BytesMut;
use lance_messages::wire::hello::{Hello, HelloResponse, MINOR_VERSION};
use lance_messages::wire::{Features, FrameLimits, Request, RequestFrame, ResponseFrame, next_frame};

/// One client's connection, or the lack of it.
pub struct Wire {
    client: u16,
    node: u16,
    hello: bool,
    connections: u64,
    /// The connection in use.
    pub connection: Option<u64>,
    features: Option<Features>,
    input: BytesMut,
}

impl Wire {
    /// A client that is not connected yet.
    pub fn new(client: u16, node: u16, hello: bool) -> Self {
        Self { client, node, hello, connections: 0, connection: None, features: None, input: BytesMut::new() }
    }

    /// Connects, and says Hello.
    pub fn connect(&mut self, ctx: &mut Context<'_>) {
        self.connections += 1;
        let connection = u64::from(self.client) << 20 | self.connections;
        self.forget();
        self.connection = Some(connection);
        let to = Address::Node(self.node, Part::Connection(connection));
        ctx.send(to, Mail::Connect { connection, client: self.client });
        if self.hello {
            // Neither traces, nor copies of logs, which are another way to read and write.
            let unwanted = Features::TRACE_CONTEXT | Features::COMPRESSED_FETCH | Features::STORED_BATCHES;
            let features = Features(!unwanted.0);
            let hello = Hello { minor_version: MINOR_VERSION, features, client_name: "simulated".to_owned() };
            self.send(Request::Hello(hello), 0, 0, ctx);
        }
    }

    /// The node it connects to.
    pub fn node(&self) -> u16 {
        self.node
    }

    /// Connects to another node from now on.
    pub fn turn_to(&mut self, node: u16) {
        self.node = node;
    }

    /// Nothing of the connection is left.
    pub fn forget(&mut self) {
        self.connection = None;
        self.features = None;
        self.input.clear();
    }

    /// Closes the connection.
    pub fn hang_up(&mut self, ctx: &mut Context<'_>) {
        if let Some(connection) = self.connection {
            ctx.send(Address::Node(self.node, Part::Connection(connection)), Mail::Closed(connection));
        }
    }

    /// The server has answered Hello.
    pub fn greeted(&mut self, granted: &HelloResponse) {
        self.features = Some(granted.features);
    }

    /// Whether requests may be sent.
    pub fn is_ready(&self) -> bool {
        self.connection.is_some() && (self.features.is_some() || !self.hello)
    }

    /// Sends a request.
    pub fn send(&mut self, request: Request, partition: u16, correlation: u64, ctx: &mut Context<'_>) {
        let Some(connection) = self.connection else { return };
        let mut bytes = BytesMut::new();
        RequestFrame { correlation, partition, trace: None, request }.encode(&mut bytes, self.features);
        send_in_pieces(Address::Node(self.node, Part::Connection(connection)), connection, bytes.freeze(), ctx);
    }

    /// Bytes have arrived.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next whole reply.
    pub fn next_reply(&mut self) -> Result<Option<ResponseFrame>, String> {
        let header_crc = self.features.unwrap_or_default().header_crc();
        let limits = FrameLimits { header_crc, ..FrameLimits::default() };
        let Some(frame) = next_frame(&mut self.input, &limits).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        ResponseFrame::decode(frame, self.features).map(Some).map_err(|error| error.to_string())
    }
}
