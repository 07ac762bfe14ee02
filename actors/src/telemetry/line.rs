//! Log lines that say which trace they belong to.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use std::fmt;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// A format, and with it the ids of the span that is open around the line, if one is.
pub(super) struct WithTrace<F> {
    format: F,
    json: bool,
}

impl<F> WithTrace<F> {
    pub(super) fn text(format: F) -> Self {
        Self { format, json: false }
    }

    pub(super) fn json(format: F) -> Self {
        Self { format, json: true }
    }
}

fn current() -> Option<SpanContext> {
    Context::map_current(|context| {
        let span = context.span();
        Some(span.span_context()).filter(|context| context.is_valid() && context.is_sampled()).cloned()
    })
}

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(span) = current() else {
            return self.format.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        let (trace_id, span_id) = (span.trace_id(), span.span_id());
        match line.trim_end().strip_suffix('}').filter(|_| self.json) {
            Some(fields) => writeln!(writer, "{fields},\"trace_id\":\"{trace_id}\",\"span_id\":\"{span_id}\"}}"),
            None => writeln!(writer, "{} trace_id={trace_id} span_id={span_id}", line.trim_end()),
        }
    }
}
