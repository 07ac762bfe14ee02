//! LWP on the wire: frames, commands and their replies, decoded and encoded in both directions.
//!
//! `codec` cuts frames out of a byte stream, `request` and `response` give them meaning; the modules beside them own
//! one payload layout each. Everything is little-endian. `docs/LWP-Specification.md` has the tables.

pub mod cluster;
pub mod codec;
pub mod command;
pub mod compression;
pub mod features;
pub mod fetch;
pub mod group;
pub mod header;
pub mod hello;
pub mod json;
pub mod lookup;
pub mod peer;
pub mod produce;
pub mod request;
mod request_encode;
pub mod response;
mod response_encode;
pub mod security;
pub mod tee;
pub mod text;
pub mod topics;
pub mod trace;
pub mod typed_error;

mod payload;

#[cfg(test)]
mod tests;

pub use codec::{Frame, FrameError, FrameLimits, next_frame};
pub use command::Command;
pub use features::Features;
pub use header::{Flags, FrameKind, HEADER_LEN, Header, HeaderCrc, MAX_PAYLOAD_BYTES};
pub use request::{Request, RequestError, RequestFrame};
pub use response::{Response, ResponseError, ResponseFrame};
pub use trace::TraceContext;
