//! What can go wrong, in the words of the caller.

use crate::record::ProducerRecord;
use lance_messages::error_code::{ErrorCode, RETRIABLE_PREFIX_1_0};
use lance_messages::wire::typed_error::TypedError;
use lance_messages::wire::{FrameError, ResponseError};
use std::io;
use std::time::Duration;
use thiserror::Error;

/// Why an operation failed. Cheap to clone: one failure can concern many records.
///
/// ```
/// use lance_client::{ClientError, ClientOptions};
///
/// let error = ClientOptions::new("no address").unwrap_err();
/// assert!(matches!(error, ClientError::InvalidAddress { .. }) && !error.is_retriable());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// An address that is none.
    #[error("'{given}' is no server address: expected HOST:PORT[,HOST:PORT…]")]
    InvalidAddress {
        /// As given.
        given: String,
    },
    /// No connection to any of the servers.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// The server, or all of them.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// The connection ended with requests under way.
    #[error("connection to {address} lost: {reason}")]
    ConnectionLost {
        /// The server.
        address: String,
        /// What happened.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer to {what} within {after:?}")]
    TimedOut {
        /// The request.
        what: &'static str,
        /// The time allowed.
        after: Duration,
    },
    /// The server refused.
    #[error("{message}")]
    Server {
        /// Its code, when it gives one.
        code: Option<ErrorCode>,
        /// Its sentence.
        message: String,
        /// For NotLeader the leader's address.
        detail: String,
    },
    /// The server sent bytes that are no frame.
    #[error("{address} sent no LWP: {source}")]
    Frame {
        /// The server.
        address: String,
        /// What is wrong.
        source: FrameError,
    },
    /// The server sent a frame that makes no sense.
    #[error("{address}: {source}")]
    Response {
        /// The server.
        address: String,
        /// What is wrong.
        source: ResponseError,
    },
    /// A reply of another kind than the request wants.
    #[error("{address} answered {request} with something else")]
    UnexpectedReply {
        /// The server.
        address: String,
        /// The request.
        request: &'static str,
    },
    /// The server does not offer what is needed.
    #[error("the server at {address} does not support {feature}")]
    Unsupported {
        /// The server.
        address: String,
        /// What is missing.
        feature: &'static str,
    },
    /// A record that fits in no frame.
    #[error("record of {bytes} bytes is over the limit of {max_bytes}")]
    RecordTooLarge {
        /// Its size once encoded.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// A key that a record cannot carry.
    #[error("key of {bytes} bytes is over the limit of 65535")]
    KeyTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A header name that a record cannot carry.
    #[error("header name of {bytes} bytes is over the limit of 65535")]
    HeaderNameTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// More headers than a record can carry.
    #[error("{count} headers are over the limit of 65535")]
    TooManyHeaders {
        /// How many there are.
        count: usize,
    },
    /// The topic is not there and was not to be created.
    #[error("topic '{topic}' does not exist")]
    UnknownTopic {
        /// Its name.
        topic: String,
    },
    /// The topic has fewer partitions.
    #[error("topic '{topic}' has no partition {partition}: it has {count}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// As asked for.
        partition: u16,
        /// How many it has.
        count: usize,
    },
    /// The partition does not have the offset that was to be read: retention removed what was there, or nothing was yet.
    #[error("partition {partition} of topic '{topic}' has offsets {earliest} to {latest}, not {offset}")]
    OffsetOutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// As asked for.
        offset: u64,
        /// Offset of its oldest record.
        earliest: u64,
        /// Where its next record will be.
        latest: u64,
    },
    /// The consumer does not read the partition.
    #[error("partition {partition} of topic '{topic}' is not assigned to this consumer")]
    NotAssigned {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
    },
    /// The store of committed offsets failed.
    #[error("{store}: {reason}")]
    OffsetStore {
        /// Which one: a file's path, or a name.
        store: String,
        /// What happened.
        reason: String,
    },
    /// The partition has no leader at the moment.
    #[error("partition {partition} of topic '{topic}' has no leader")]
    NoLeader {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
    },
    /// Records that do not compress.
    #[error("records cannot be compressed: {reason}")]
    Compression {
        /// What the codec says.
        reason: String,
    },
    /// The thread of the blocking client did not start.
    #[error("the client's runtime did not start: {reason}")]
    Runtime {
        /// What the system says.
        reason: String,
    },
    /// The producer holds as many bytes as it may.
    #[error("the producer's buffer of {buffer_bytes} bytes is full")]
    BufferFull {
        /// Its size.
        buffer_bytes: usize,
    },
    /// The producer has not asked about the topic yet.
    #[error("nothing is known of topic '{topic}' yet")]
    TopicNotReady {
        /// The topic.
        topic: String,
    },
    /// The producer or consumer was closed.
    #[error("{what} is closed")]
    Closed {
        /// Which.
        what: &'static str,
    },
}

impl ClientError {
    /// Whether the same request can succeed later or elsewhere.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::ConnectionLost { .. } | Self::TimedOut { .. } | Self::NoLeader { .. } => true,
            Self::BufferFull { .. } | Self::TopicNotReady { .. } => true,
            Self::Server { code: Some(code), .. } => code.is_retriable(),
            Self::Server { code: None, message, .. } => is_retriable_1_0(message),
            _ => false,
        }
    }

    /// A word for the kind of failure.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::InvalidAddress { .. } => "InvalidAddress",
            Self::Connect { .. } => "Connect",
            Self::ConnectionLost { .. } => "ConnectionLost",
            Self::TimedOut { .. } => "TimedOut",
            Self::Server { .. } => "Server",
            Self::Frame { .. } => "Frame",
            Self::Response { .. } => "Response",
            Self::UnexpectedReply { .. } => "UnexpectedReply",
            Self::Unsupported { .. } => "Unsupported",
            Self::RecordTooLarge { .. } => "RecordTooLarge",
            Self::KeyTooLarge { .. } => "KeyTooLarge",
            Self::UnknownTopic { .. } => "UnknownTopic",
            Self::UnknownPartition { .. } => "UnknownPartition",
            Self::NoLeader { .. } => "NoLeader",
            Self::Compression { .. } => "Compression",
            Self::HeaderNameTooLarge { .. } => "HeaderNameTooLarge",
            Self::TooManyHeaders { .. } => "TooManyHeaders",
            Self::OffsetOutOfRange { .. } => "OffsetOutOfRange",
            Self::NotAssigned { .. } => "NotAssigned",
            Self::OffsetStore { .. } => "OffsetStore",
            Self::BufferFull { .. } => "BufferFull",
            Self::TopicNotReady { .. } => "TopicNotReady",
            Self::Runtime { .. } => "Runtime",
            Self::Closed { .. } => "Closed",
        }
    }

    /// The server's code, when the server refused and gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Server { code, .. } => *code,
            _ => None,
        }
    }

    /// Whether the server says another node leads, or that the metadata is old.
    pub fn is_stale_metadata(&self) -> bool {
        match self {
            Self::Server { code: Some(code), .. } => matches!(code, ErrorCode::NotLeader | ErrorCode::UnknownPartition),
            Self::Server { code: None, message, .. } => message.starts_with("NOT_LEADER"),
            Self::NoLeader { .. } | Self::Connect { .. } | Self::ConnectionLost { .. } => true,
            _ => false,
        }
    }

    /// Where the leader is, when the server says that it is another node and names it.
    pub fn redirect(&self) -> Option<&str> {
        match self {
            Self::Server { code: Some(ErrorCode::NotLeader), detail, .. } if !detail.is_empty() => Some(detail),
            _ => None,
        }
    }

    /// An error for stores of offsets to return.
    ///
    /// ```
    /// use lance_client::ClientError;
    ///
    /// let error = ClientError::offset_store("table offsets", "connection refused");
    /// assert_eq!(error.to_string(), "table offsets: connection refused");
    /// ```
    pub fn offset_store(store: impl ToString, reason: impl ToString) -> Self {
        Self::OffsetStore { store: store.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn connect(address: &str, error: &io::Error) -> Self {
        Self::Connect { address: address.to_owned(), reason: error.to_string() }
    }

    pub(crate) fn lost(address: &str, reason: impl ToString) -> Self {
        Self::ConnectionLost { address: address.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn from_code(code: ErrorCode) -> Self {
        Self::Server { code: Some(code), message: code.text().to_owned(), detail: String::new() }
    }
}

/// A record that was not taken, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{error}")]
pub struct TrySendError {
    pub(crate) record: Box<ProducerRecord>,
    pub(crate) error: ClientError,
}

impl TrySendError {
    /// Whether too many bytes are under way: later there will be room.
    pub fn is_full(&self) -> bool {
        matches!(self.error, ClientError::BufferFull { .. })
    }

    /// The reason.
    pub fn error(&self) -> &ClientError {
        &self.error
    }

    /// The record.
    pub fn into_record(self) -> ProducerRecord {
        *self.record
    }
}

impl From<TrySendError> for ClientError {
    fn from(refused: TrySendError) -> Self {
        refused.error
    }
}

impl From<TypedError> for ClientError {
    fn from(error: TypedError) -> Self {
        Self::Server { code: Some(error.code), message: error.message.into_owned(), detail: error.detail }
    }
}

/// An error of a server that gives no code.
pub(crate) fn from_text(message: String) -> ClientError {
    let detail = message.strip_prefix("NOT_LEADER: redirect to ").unwrap_or_default().to_owned();
    ClientError::Server { code: code_of_text(&message), message, detail }
}

/// The codes of sentences that only one of them has.
fn code_of_text(message: &str) -> Option<ErrorCode> {
    if message.starts_with("NOT_LEADER") {
        return Some(ErrorCode::NotLeader);
    }
    if message.starts_with("Topic '") && message.ends_with("already exists") {
        return Some(ErrorCode::TopicExists);
    }
    ErrorCode::ALL.iter().copied().find(|code| code.text() == message)
}

fn is_retriable_1_0(message: &str) -> bool {
    message.contains(RETRIABLE_PREFIX_1_0.trim_end_matches(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_of_1_0_get_their_codes_back() {
        assert_eq!(from_text("Topic 'x' already exists".into()).code(), Some(ErrorCode::TopicExists));
        assert_eq!(from_text("Unknown topic".into()).code(), Some(ErrorCode::UnknownTopic));
        let moved = from_text("NOT_LEADER: redirect to 10.0.0.1:9000".into());
        assert!(moved.is_retriable() && moved.is_stale_metadata());
        assert!(matches!(moved, ClientError::Server { detail, .. } if detail == "10.0.0.1:9000"));
        assert!(from_text("FORWARD_FAILED: no leader".into()).is_retriable());
        assert!(!from_text("something else".into()).is_retriable());
    }
}
