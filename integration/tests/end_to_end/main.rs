//! The whole of it: real processes, sockets and files. `LANCE_LONG_TESTS=1` runs the long variants,
//! `LANCE_TEST_WITHOUT_IO_URING=1` all of them where the kernel refuses io_uring to the servers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

mod client_library;
mod cluster;
mod commands;
mod configuration;
mod crash;
mod damage;
mod fallback;
mod faults;
mod full_disk;
mod hostile;
mod placement;
mod protocol;
mod public_clients;
mod reading;
mod shutdown;
