//! The raft crate's log lines, handed to a function: where they go is the shell's business.

use slog::{Drain, KV, Level, Logger, OwnedKVList, Record, Serializer, o};
use std::fmt::{self, Write};
use std::panic::{RefUnwindSafe, UnwindSafe};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RaftLogLevel {
    /// For those who look into it.
    Debug,
    /// A change worth noting.
    Info,
    /// Somebody should look.
    Warning,
    /// Something failed.
    Error,
}

/// A logger whose every line at or above `lowest` is given to `hook` as one string.
pub fn hooked_logger(
    lowest: RaftLogLevel,
    hook: impl Fn(RaftLogLevel, &str) + Send + Sync + UnwindSafe + RefUnwindSafe + 'static,
) -> Logger {
    Logger::root(HookDrain { lowest, hook }, o!())
}

struct HookDrain<F> {
    lowest: RaftLogLevel,
    hook: F,
}

impl<F: Fn(RaftLogLevel, &str)> Drain for HookDrain<F> {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        let level = match record.level() {
            Level::Critical | Level::Error => RaftLogLevel::Error,
            Level::Warning => RaftLogLevel::Warning,
            Level::Info => RaftLogLevel::Info,
            Level::Debug | Level::Trace => RaftLogLevel::Debug,
        };
        if level < self.lowest {
            return Ok(());
        }
        let mut line = Line(record.msg().to_string());
        // A value that cannot be formatted costs only itself.
        let _ = record.kv().serialize(record, &mut line);
        let _ = values.serialize(record, &mut line);
        (self.hook)(level, &line.0);
        Ok(())
    }
}

struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn lines_reach_the_hook_with_their_values_and_below_the_level_they_do_not() {
        let (sender, receiver) = mpsc::channel();
        let logger = hooked_logger(RaftLogLevel::Info, move |level, line| {
            sender.send((level, line.to_owned())).unwrap();
        });
        slog::debug!(logger, "unheard");
        slog::warn!(logger, "lost"; "term" => 7);
        drop(logger);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [(RaftLogLevel::Warning, "lost term=7".to_owned())]);
    }
}
