//! TLS on the node's ports: what is read from its files, and the relay between an encrypted connection and its actor.
//!
//! Actors own plain sockets. An encrypted connection is ended by a [`relay`], which gives the actor one end of a pair of
//! local sockets: it reads, writes and sends files as ever, and a connection without TLS pays nothing.

pub mod keeper;
pub mod material;
pub mod name;
pub mod relay;

pub use keeper::TlsKeeper;
pub use material::{TlsFiles, TlsFilesError};
pub use relay::{Arrival, TlsRefusal};
