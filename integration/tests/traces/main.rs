//! Traces of real processes, as a collector receives them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

mod collectors;
mod environment;
mod events;
mod requests;

use lance_integration::harness::collector::Received;
use lance_integration::harness::process::{Finished, lnc_with};
use lance_integration::harness::{Collector, ServerSpec};

/// A server that exports every trace to `collector`, as its configuration says.
fn exporting(spec: ServerSpec, collector: &Collector) -> ServerSpec {
    spec.set(format!("telemetry.otlp_endpoint={}", collector.endpoint()))
        .set(format!("telemetry.otlp_protocol={}", collector.configured_protocol()))
        .set("telemetry.sample_ratio=1")
}

/// Runs `lnc` with its traces exported to `collector`, and further variables.
fn traced_lnc(collector: &Collector, variables: &[(&str, &str)], servers: &str, arguments: &[&str]) -> Finished {
    let export = collector.variables();
    let all = export.iter().map(|(name, value)| (*name, value.as_str())).chain(variables.iter().copied());
    lnc_with(&all.collect::<Vec<_>>(), servers, arguments, b"")
}

/// The spans of this name.
fn named<'a>(spans: &'a [Received], name: &str) -> Vec<&'a Received> {
    spans.iter().filter(|span| span.name == name).collect()
}

/// The only span of this name from a process.
fn only<'a>(spans: &'a [Received], name: &str, node: &str) -> &'a Received {
    let found: Vec<_> = named(spans, name).into_iter().filter(|span| span.process().1 == node).collect();
    assert_eq!(found.len(), 1, "{name} of node {node}: {found:#?}");
    found[0]
}
