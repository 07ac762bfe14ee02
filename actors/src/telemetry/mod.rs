//! What the process tells of itself while it runs: its log, and traces.

pub mod export;
pub mod facts;
mod line;
pub mod log;
pub mod plan;
pub mod tracer;

pub use export::{ExportError, SpanCounts};
pub use facts::RequestFacts;
pub use log::{LogLevel, LogLevelError, TelemetryError, TelemetryOptions, start};
pub use plan::{PassedOver, TraceOptions, TracePlan, Transport, plan};
pub use tracer::{Tracer, enter_parent, export_client, export_node, tracer};
