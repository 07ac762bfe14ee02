//! Why bytes are no frame between nodes.

use super::PeerCommand;
use crate::batch::BatchError;
use crate::id::TopicPartition;
use crate::wire::codec::FrameError;
use thiserror::Error;

/// Why a stream of bytes cannot go on; also why a body cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PeerFrameError {
    /// The header is none of LWP.
    #[error(transparent)]
    Header(#[from] FrameError),
    /// Flags other than those of a control frame.
    #[error("peer frame: flags are {found:#04x}, 0x40 expected")]
    Flags {
        /// The flags byte.
        found: u8,
    },
    /// A command nobody knows.
    #[error("peer frame: command {code:#x} is unknown")]
    UnknownCommand {
        /// The code.
        code: u64,
    },
    /// A command that only proven peers may send.
    #[error("peer frame: {command:?} before the connection is open")]
    TooEarly {
        /// The command.
        command: PeerCommand,
    },
    /// A header field that peer frames do not use.
    #[error("peer frame: {field} of {command:?} is {found}, 0 expected")]
    Reserved {
        /// The command.
        command: PeerCommand,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// The payload is over the limit of its command.
    #[error("peer frame: {command:?} of {bytes} bytes, at most {max_bytes} are allowed")]
    TooLarge {
        /// The command.
        command: PeerCommand,
        /// Bytes of the payload.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// The payload was damaged.
    #[error("peer frame: payload CRC of {command:?} is {stored:#010x}, computed {computed:#010x}")]
    PayloadCrc {
        /// The command.
        command: PeerCommand,
        /// As sent.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// The payload is shorter or longer than its fields, or one of them has an unknown value.
    #[error("peer frame: {bytes} bytes are no {command:?}")]
    Malformed {
        /// The command.
        command: PeerCommand,
        /// Bytes of the payload.
        bytes: usize,
    },
    /// A batch's header is damaged or of another partition.
    #[error("peer frame: batch {index} of partition {partition}: {source}")]
    Batch {
        /// The partition.
        partition: TopicPartition,
        /// Which of the frame's batches, from 0.
        index: u32,
        /// What is wrong.
        source: BatchError,
    },
    /// A batch does not follow the one before it.
    #[error("peer frame: batch {index} of partition {partition}: {field} is {found}, {expected} expected")]
    Chain {
        /// The partition.
        partition: TopicPartition,
        /// Which of the frame's batches, from 0.
        index: u32,
        /// Which count.
        field: &'static str,
        /// Its value.
        found: u64,
        /// The value that continues what came before; of an epoch its bound.
        expected: u64,
    },
}
