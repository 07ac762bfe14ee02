//! LWP 1.0 on a socket, held against its published byte tables.

mod control;
mod extensions;
mod fetching;
mod framing;
mod ingest;
mod names;
