//! End-to-end tests, simulator and benches of LANCE; nothing depends on this crate.

pub mod harness;
pub mod in_process;
pub mod sim;
