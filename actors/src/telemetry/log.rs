//! The log of the process: lines on standard error, as text or JSON, at a level that can be changed while it runs.

use super::line::WithTrace;
use super::tracer::tracer;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, ParseError, filter_fn};
use tracing_subscriber::fmt::format::{JsonFields, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt, reload};

/// Spans and their events are those of this project: the exporter's own libraries have some, too.
const OWN_TARGETS: &str = "lance";

/// The environment variable that overrides the configured filter, as everywhere in Rust.
const FILTER_VARIABLE: &str = "RUST_LOG";

/// How the process logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryOptions {
    /// Which lines: `info`, or `info,lance_storage=debug`.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter makes no sense.
    #[error(transparent)]
    Level(#[from] LogLevelError),
    /// Somebody else has set it up.
    #[error("the log of this process is set up already: {0}")]
    Taken(#[from] TryInitError),
}

/// Why a level was not set.
#[derive(Debug, thiserror::Error)]
pub enum LogLevelError {
    /// One word that is no level.
    #[error("log filter {filter:?} is none of error, warn, info, debug, trace, off, and no list of target=level")]
    NotALevel {
        /// As given.
        filter: String,
    },
    /// The filter makes no sense.
    #[error("log filter {filter:?} is no list of levels and target=level: {source}")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong.
        source: ParseError,
    },
    /// The log is gone.
    #[error("the log cannot be changed any more: {0}")]
    Gone(#[from] reload::Error),
}

/// Changes which lines are logged, at once and from any thread.
#[derive(Clone, Debug)]
pub struct LogLevel {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogLevel {
    /// Logs what `filter` says from now on; gives it as it was understood.
    pub fn set(&self, filter: &str) -> Result<String, LogLevelError> {
        let filter = parse(filter)?;
        let understood = filter.to_string();
        self.handle.reload(filter)?;
        Ok(understood)
    }

    /// The filter in force.
    pub fn get(&self) -> Result<String, LogLevelError> {
        Ok(self.handle.with_current(ToString::to_string)?)
    }
}

/// What a span of the process is made of: where there is a tracer, what happens inside becomes events of it.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO && metadata.target().starts_with(OWN_TARGETS)
}

/// Logs from now on, panics of every thread included; spans go to the tracer, if there is one by now.
pub fn start(options: &TelemetryOptions) -> Result<LogLevel, TelemetryError> {
    let from_environment = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.trim().is_empty());
    let filter = parse(from_environment.as_deref().unwrap_or(&options.filter))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if options.json {
        let line = format().json().flatten_event(true).with_current_span(false).with_span_list(false);
        lines.fmt_fields(JsonFields::new()).event_format(WithTrace::json(line)).boxed()
    } else {
        let ansi = std::io::stderr().is_terminal();
        lines.with_ansi(ansi).event_format(WithTrace::text(format().with_ansi(ansi))).boxed()
    };
    // Spans are the tracer's: a line says what it has to say without them.
    let lines = lines.with_filter(filter.and(filter_fn(|metadata: &Metadata<'_>| metadata.is_event())));
    let spans = tracer().map(|tracer| {
        let layer = tracing_opentelemetry::layer().with_tracer(tracer.sdk());
        let layer = layer.with_location(false).with_threads(false).with_tracked_inactivity(false).with_target(false);
        layer.with_level(true).with_filter(filter_fn(is_traced))
    });
    tracing_subscriber::registry().with(lines).with(spans).try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(LogLevel { handle })
}

fn parse(filter: &str) -> Result<EnvFilter, LogLevelError> {
    let filter = filter.trim();
    // A single unknown word would be taken for a target, and an empty filter would silence everything.
    let is_word = !filter.contains(['=', ',', '[']);
    if filter.is_empty() || is_word && filter.parse::<LevelFilter>().is_err() {
        return Err(LogLevelError::NotALevel { filter: filter.to_owned() });
    }
    filter.parse::<EnvFilter>().map_err(|source| LogLevelError::Filter { filter: filter.to_owned(), source })
}

/// A panic is caught by a guard and answered with a restart; the log says where it came from.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let backtrace = Backtrace::capture();
    tracing::error!(%thread, %location, "panic: {message}");
    if backtrace.status() == BacktraceStatus::Captured {
        let tell = move || tracing::error!(%thread, %location, %backtrace, "backtrace of a panic");
        // To find the names takes long, and a thread that is caught by a guard has others to serve.
        if std::thread::current().name() == Some("main") {
            tell();
        } else {
            let _ = std::thread::Builder::new().name("backtrace".to_owned()).spawn(tell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_or_lists_of_targets() {
        for good in ["info", " WARN ", "off", "info,lance_storage=debug", "lance_actors::network=trace"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "lance_storage", "info,lance_storage=loud", "=", "a=b=c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_level_that_cannot_be_read_changes_nothing() {
        let (layer, handle) = reload::Layer::<EnvFilter, Registry>::new(parse("info").unwrap());
        let level = LogLevel { handle };
        assert_eq!(level.set("info,lance_storage=debug").unwrap(), "lance_storage=debug,info");
        assert!(level.set("loud").is_err());
        assert_eq!(level.get().unwrap(), "lance_storage=debug,info");
        drop(layer);
        assert!(matches!(level.set("info"), Err(LogLevelError::Gone(_))));
    }
}
