//! Placement: what the machine is read as, what is decided, and what is written to the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

mod interrupts;
mod machine;
mod planning;
mod sources;
