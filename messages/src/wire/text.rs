//! The sentences 1.0 clients see that belong to one command and to no error code of their own.

/// SetRetention with a short payload.
pub const INVALID_SET_RETENTION: &str = "Invalid set retention payload";
/// CreateTopic with bytes that are no name, or CreateTopicWithRetention with a short payload.
pub const INVALID_CREATE_TOPIC: &str = "Invalid create topic payload";
/// DeleteTopic with a short payload.
pub const INVALID_DELETE_TOPIC: &str = "Invalid delete topic payload";
/// GetTopic with a short payload.
pub const INVALID_GET_TOPIC: &str = "Invalid get topic payload";
/// Fetch with a short payload.
pub const INVALID_FETCH: &str = "Invalid fetch payload";
/// Subscribe with a short payload.
pub const INVALID_SUBSCRIBE: &str = "Invalid subscribe payload";
/// Unsubscribe with a short payload.
pub const INVALID_UNSUBSCRIBE: &str = "Invalid unsubscribe payload";
/// CommitOffset with a short payload.
pub const INVALID_COMMIT_OFFSET: &str = "Invalid commit offset payload";
/// AuthenticateResponse sent by a client.
pub const AUTHENTICATION_ELSEWHERE: &str = "Authentication handled at connection level";
/// A token was right.
pub const AUTHENTICATED: &str = "Authenticated";
/// A token was wrong.
pub const INVALID_TOKEN: &str = "Invalid token";
/// The token was empty.
pub const NO_TOKEN: &str = "No token provided";
/// A traced frame shorter than its trace context.
pub const INVALID_TRACE_CONTEXT: &str = "Invalid trace context: 25 bytes expected in front of the payload";
/// A compressed ingest payload whose codec or plain length is impossible.
pub const INVALID_COMPRESSION: &str =
    "Invalid compressed payload: codec 1 (LZ4 block) or 2 (Zstandard) and a plain length expected";
/// An extension's payload that is too short or impossible.
pub const INVALID_HELLO: &str = "Invalid hello payload";
/// See [`INVALID_HELLO`].
pub const INVALID_INIT_PRODUCER: &str = "Invalid init producer payload";
/// See [`INVALID_HELLO`].
pub const INVALID_LOOKUP: &str = "Invalid lookup payload";
/// See [`INVALID_HELLO`].
pub const INVALID_METADATA: &str = "Invalid metadata payload";
/// See [`INVALID_HELLO`].
pub const INVALID_CLUSTER_COMMAND: &str = "Invalid cluster command payload";
/// See [`INVALID_HELLO`].
pub const INVALID_GROUP_REQUEST: &str = "Invalid group payload";
/// See [`INVALID_HELLO`].
pub const INVALID_TOPIC_TEE: &str = "Invalid topic tee payload";
/// See [`INVALID_HELLO`].
pub const INVALID_SECURITY: &str = "Invalid security payload";
/// See [`INVALID_HELLO`].
pub const INVALID_ALTER_TOPIC: &str = "Invalid alter topic payload";
