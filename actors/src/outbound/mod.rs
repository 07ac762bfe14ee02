//! Connections on which this node is the client of another: their sockets, and what their owners hear of them.

mod outgoing;
pub mod socket;

use crate::sendfile::FileRange;
use actix::prelude::*;
use bytes::Bytes;
use lance_messages::wire::ResponseFrame;
use lance_messages::wire::hello::HelloResponse;

/// Number of a link; its owner never uses one twice in a process.
pub type LinkId = u64;

/// A part of what is written to a link.
#[derive(Clone, Debug)]
pub enum LinkPiece {
    /// Bytes in memory.
    Memory(Bytes),
    /// A range of a file, which goes from there to the socket without passing through memory of this process. Only for
    /// links without encryption.
    File(FileRange),
}

impl LinkPiece {
    /// Bytes of it.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(range) => usize::try_from(range.len).unwrap_or(usize::MAX),
        }
    }

    /// Whether there is nothing of it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, where they are in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match self {
            Self::Memory(bytes) => Some(bytes),
            Self::File(_) => None,
        }
    }
}

impl From<Bytes> for LinkPiece {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

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
