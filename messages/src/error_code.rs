//! Every error a client can be answered with: its code on the wire, whether trying again can help, its 1.0 text.

use std::fmt;

/// Retriable errors reach 1.0 clients with this prefix: it is what they look for.
pub const RETRIABLE_PREFIX_1_0: &str = "FORWARD_FAILED: ";

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $retriable:literal, $text:literal;)*) => {
        /// Why a request failed, as sent to clients.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $code,)*
        }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name),*];

            /// The error of a code; `None` for 0, which says that nothing failed, and for unknown codes.
            pub const fn from_code(code: u16) -> Option<ErrorCode> {
                match code {
                    $($code => Some(ErrorCode::$name),)*
                    _ => None,
                }
            }

            /// Whether the same request can succeed later or elsewhere.
            pub const fn is_retriable(self) -> bool {
                match self {
                    $(ErrorCode::$name => $retriable,)*
                }
            }

            /// The sentence, for 1.0 clients the exact one where they know it.
            pub const fn text(self) -> &'static str {
                match self {
                    $(ErrorCode::$name => $text,)*
                }
            }
        }
    };
}

error_codes! {
    /// The topic of an ingest frame, fetch or subscription does not exist.
    UnknownTopic = 1, false, "Unknown topic";
    /// The topic of a management command does not exist.
    TopicNotFound = 2, false, "Topic not found";
    /// The topic exists; the 1.0 text names it, see [`topic_exists_text`].
    TopicExists = 3, false, "Topic already exists";
    /// The topic name is empty.
    TopicNameRequired = 4, false, "Topic name required";
    /// The topic name has other characters, or too many.
    InvalidTopicName = 5, false, "Invalid topic name: 1 to 255 of A-Z a-z 0-9 . _ - and not . or ..";
    /// The topic has no such partition.
    UnknownPartition = 6, false, "Unknown partition";
    /// A payload too short or with impossible values.
    InvalidRequest = 7, false, "Invalid request payload";
    /// A command that clients do not send, or that was not negotiated.
    InvalidCommand = 8, false, "Invalid client command";
    /// Another node leads the partition; the detail is its address.
    NotLeader = 9, true, "NOT_LEADER: leader unknown";
    /// No leader, or not yet.
    Unavailable = 10, true, "The partition is not available at the moment";
    /// A pool or queue is full.
    Overloaded = 11, true, "The server is overloaded: slow down and try again";
    /// The client is over its rate.
    RateLimited = 12, true, "Rate limit exceeded";
    /// The connection has to authenticate first.
    AuthenticationRequired = 13, false, "Authentication required";
    /// The token is not known.
    InvalidToken = 14, false, "Invalid token";
    /// Authenticated, but not allowed to do this.
    PermissionDenied = 15, false, "Permission denied";
    /// The bytes are no frame, or were damaged; the connection is closed.
    MalformedFrame = 16, false, "Malformed frame";
    /// A record or batch is larger than allowed.
    TooLarge = 17, false, "Record too large";
    /// Compressed records that do not decompress within the limits.
    UndecodableRecords = 18, false, "Compressed records cannot be decoded";
    /// The offset is past the end or before the start.
    OffsetOutOfRange = 19, false, "Offset out of range";
    /// A sequence that does not follow the last one.
    OutOfOrderSequence = 20, false, "Sequence out of order";
    /// A newer instance of the producer exists.
    FencedProducer = 21, false, "Producer fenced by a newer epoch";
    /// The producer id was never given out.
    UnknownProducer = 22, false, "Unknown producer";
    /// The partition's files are damaged or failed a sync; it takes no records.
    StorageOffline = 23, false, "The partition is offline after a storage failure";
    /// The disk is full.
    NoSpace = 24, true, "No space left on the server's disk";
    /// The server is going down.
    ShuttingDown = 25, true, "The server is shutting down";
    /// A part restarted, or no space was found, while the request was under way: it may or may not have been done.
    OutcomeUnknown = 26, true, "Outcome unknown: a fault came between, the request may or may not have been carried out";
    /// The request took too long.
    TimedOut = 27, true, "The request timed out";
    /// Not enough replicas in the quorum.
    NotEnoughReplicas = 28, true, "Not enough replicas";
    /// This server or configuration cannot do it.
    Unsupported = 29, false, "Not supported by this server";
    /// A fault of the server.
    Internal = 30, false, "Internal error";
    /// A limit on numbers (topics, partitions, connections) is reached.
    LimitReached = 31, false, "Limit reached";
    /// The group has no such member: it left, was silent for too long, or never joined. It has to join again.
    UnknownMember = 32, false, "Unknown group member";
    /// The epoch is not the member's: a heartbeat tells the current one.
    StaleMemberEpoch = 33, false, "The group member's epoch is not the current one";
    /// Another member has taken the static member's name.
    FencedInstance = 34, false, "Another group member has taken this instance name";
    /// The group has members.
    GroupNotEmpty = 35, false, "The group has members";
    /// The group does not exist.
    GroupNotFound = 36, false, "Group not found";
    /// The partition is not the member's.
    PartitionNotOwned = 37, false, "The partition is not assigned to this group member";
    /// A replica in the reader's rack has the records too: the answer names its node.
    ReadElsewhere = 38, true, "A nearer replica serves these reads";
}

impl ErrorCode {
    /// The code on the wire, never 0.
    pub const fn code(self) -> u16 {
        self as u16
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Code of a result on the wire: 0 when nothing failed.
pub fn result_code(error: Option<ErrorCode>) -> u16 {
    error.map_or(0, ErrorCode::code)
}

/// The 1.0 text for re-creating a topic.
pub fn topic_exists_text(name: &str) -> String {
    format!("Topic '{name}' already exists")
}

/// The 1.0 text that sends a client to the leader.
pub fn not_leader_text(leader_address: Option<&str>) -> String {
    match leader_address {
        Some(address) => format!("NOT_LEADER: redirect to {address}"),
        None => ErrorCode::NotLeader.text().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_none_is_zero() {
        for &error in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(error.code()), Some(error));
        }
        assert_eq!(ErrorCode::from_code(0), None);
        assert_eq!(ErrorCode::from_code(9999), None);
    }

    #[test]
    fn texts_that_1_0_clients_match_on_are_exact() {
        assert_eq!(ErrorCode::UnknownTopic.text(), "Unknown topic");
        assert_eq!(ErrorCode::TopicNotFound.text(), "Topic not found");
        assert_eq!(ErrorCode::InvalidCommand.text(), "Invalid client command");
        assert_eq!(topic_exists_text("x"), "Topic 'x' already exists");
        assert_eq!(not_leader_text(Some("127.0.0.1:1992")), "NOT_LEADER: redirect to 127.0.0.1:1992");
        assert_eq!(not_leader_text(None), "NOT_LEADER: leader unknown");
    }
}
