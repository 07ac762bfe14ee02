//! The vocabulary of LANCE: what the parts say to each other and what is written to disk.
//!
//! It decides nothing and does no I/O.

pub mod batch;
pub mod error_code;
pub mod id;
pub mod record;
pub mod sort_key;
pub mod wire;
