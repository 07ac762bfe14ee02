//! Traces of a client program: exported where OpenTelemetry's environment variables say so.

use lance_actors::telemetry::{self, TraceOptions, Tracer};
use opentelemetry::ContextGuard;
use std::time::Duration;

/// How long the collector may take for what is there at the end.
const LAST_TRACES: Duration = Duration::from_secs(2);

/// Exports spans until it is dropped, and then what is left.
pub struct Traces {
    tracer: Option<&'static Tracer>,
    _parent: Option<ContextGuard>,
}

/// Begins to export, as the environment says; what it says wrong is told and passed over.
pub fn begin(program: &'static str) -> Traces {
    let lookup = |name: &str| std::env::var(name).ok();
    let options = TraceOptions { service: program, default_ratio: 1.0, ..TraceOptions::default() };
    let (plan, passed_over) = telemetry::plan(&options, &lookup);
    for variable in &passed_over {
        eprintln!("{program}: warning: {variable}");
    }
    let tracer = plan.as_ref().and_then(|plan| match telemetry::export_client(plan) {
        Ok(tracer) => Some(tracer),
        Err(error) => {
            eprintln!("{program}: warning: {error}");
            None
        }
    });
    let parent = tracer.and_then(|_| telemetry::enter_parent(&lookup));
    Traces { tracer, _parent: parent }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(tracer) = self.tracer {
            tracer.finish(LAST_TRACES);
        }
    }
}
