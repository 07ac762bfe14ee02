//! Real processes for the end-to-end tests: servers that can be killed and started again, sockets that speak LWP byte
//! by byte, load whose every ack is remembered, and files to damage.
//!
//! Nothing here uses the server's own code for the wire or the files: what is wrong on both sides would look right.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "part of tests: what fails ends the test and says why"
)]

pub mod browser;
pub mod cluster;
pub mod collector;
pub mod contents;
pub mod dropped_acks;
pub mod http;
pub mod load;
pub mod process;
pub mod programs;
pub mod python;
pub mod raw;
pub mod records;
pub mod seccomp;
pub mod segments;
pub mod server;
pub mod three_nodes;

pub use browser::Browser;
pub use cluster::Cluster;
pub use collector::Collector;
pub use contents::TopicView;
pub use dropped_acks::DroppedAcks;
pub use load::Load;
pub use raw::{Frame, Raw};
pub use server::{Server, ServerSpec};
pub use three_nodes::ThreeNodes;

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Longest wait for anything that should happen soon: generous, since machines that test are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the long variants were asked for, with `LANCE_LONG_TESTS=1`.
pub fn is_long() -> bool {
    std::env::var("LANCE_LONG_TESTS").is_ok_and(|value| value == "1")
}

/// How many rounds of kill -9 a test makes.
pub fn kill_round_count() -> u64 {
    if is_long() { 50 } else { 8 }
}

/// Whether every server of the tests runs where io_uring is refused, with `LANCE_TEST_WITHOUT_IO_URING=1`.
pub fn is_without_io_uring() -> bool {
    std::env::var("LANCE_TEST_WITHOUT_IO_URING").is_ok_and(|value| value == "1")
}

/// Whether servers can have io_uring here; where they cannot, says that this test looks at nothing.
pub fn needs_io_uring() -> bool {
    if is_without_io_uring() {
        not_run("LANCE_TEST_WITHOUT_IO_URING is set, and this is about io_uring");
        return false;
    }
    let works = seccomp::has_io_uring();
    if !works {
        not_run("this machine refuses io_uring");
    }
    works
}

/// Says, past what the test runner holds back of tests that pass, that a test looks at nothing.
pub fn not_run(why: &str) {
    let thread = std::thread::current();
    let line = format!("not run: {}: {why}\n", thread.name().unwrap_or("a test"));
    // Nobody may be there to read it.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Asks again and again until there is an answer; fails when [`PATIENCE`] is over.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
