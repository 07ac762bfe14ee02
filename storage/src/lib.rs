//! Bytes on disk: segments, indexes, recovery and the disks they live on.

pub mod disk;
