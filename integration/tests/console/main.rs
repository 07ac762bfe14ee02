//! The console and what it asks the admin interface, on real processes; in a real browser where there is one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test throughout")]

mod browser;
mod endpoints;
mod files;
mod origins;
mod records;
