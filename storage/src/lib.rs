//! Bytes on disk: segments, indexes, recovery and the disks they live on.

pub mod checkpoint;
pub mod disk;
pub mod reader;
pub mod retention;
pub mod sync_log;
