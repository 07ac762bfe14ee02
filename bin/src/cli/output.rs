//! Lines on standard output, each flushed by itself, and progress on a terminal.

use super::failure::Failure;
use serde_json::Value;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::{Duration, Instant};

/// Standard output.
pub struct Out {
    writer: BufWriter<StdoutLock<'static>>,
}

impl Out {
    /// Takes standard output.
    pub fn stdout() -> Self {
        Self { writer: BufWriter::with_capacity(64 * 1024, io::stdout().lock()) }
    }

    /// Prints a line.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.write(|out| writeln!(out, "{text}"))
    }

    /// Prints a JSON object on a line.
    pub fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&value.to_string())
    }

    /// Prints whatever `print` writes, and flushes it.
    pub fn write(&mut self, print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        print(&mut self.writer).and_then(|()| self.writer.flush()).map_err(closed)
    }
}

/// Whoever read the output has gone: nothing more to say, and no failure of ours.
fn closed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Failure::failed(format!("cannot write to standard output: {error}"))
}

/// A line on the terminal that is written over; silent in a pipe.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    next: Instant,
    enabled: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    const EVERY: Duration = Duration::from_millis(500);

    /// Shows itself only when standard error is a terminal.
    pub fn new() -> Self {
        Self { shown: false, next: Instant::now() + Self::EVERY, enabled: io::stderr().is_terminal() }
    }

    /// Shows `text`, at most twice a second.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if !self.enabled || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + Self::EVERY;
        self.shown = true;
        eprint!("\r\x1b[K{}", text());
    }

    /// Removes the line.
    pub fn clear(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
            self.shown = false;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
