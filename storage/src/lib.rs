#![doc = include_str!("../README.md")]

pub mod checkpoint;
pub mod disk;
pub mod flush;
pub mod index;
pub mod log;
pub mod producers;
pub mod reader;
pub mod recovery;
pub mod retention;
pub mod scrub;
pub mod segment;
pub mod sync_log;
pub mod tail;
