//! Connections on which this node is the client of another: their sockets, and what their owners hear of them.

pub mod socket;

use actix::prelude::*;
use lance_messages::wire::ResponseFrame;
use lance_messages::wire::hello::HelloResponse;

/// Number of a link; its owner never uses one twice in a process.
pub type LinkId = u64;

/// An answer, with the CRC-32 of the data it carries (0 without).
#[derive(Debug)]
pub struct LinkAnswer {
    /// The frame.
    pub frame: ResponseFrame,
    /// CRC-32 of a fetch's data.
    pub data_crc: u32,
}

/// A link stands.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct LinkUp {
    /// Which.
    pub link: LinkId,
    /// What the other node grants.
    pub hello: HelloResponse,
}

/// A node answered over a link.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LinkAnswered {
    /// Which link.
    pub link: LinkId,
    /// The answers, in order.
    pub answers: Vec<LinkAnswer>,
}

/// A link is gone.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct LinkEnded {
    /// Which.
    pub link: LinkId,
    /// Bytes written, Hello not counted.
    pub written: u64,
    /// Why; empty when its owner gave it up.
    pub reason: String,
}
