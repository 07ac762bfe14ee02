//! Collectors that are not there, die or fall silent: nobody waits for them.

use super::{exporting, named, traced_lnc};
use lance_integration::harness::collector::Speaks;
use lance_integration::harness::load::LoadOptions;
use lance_integration::harness::{Collector, Load, Server, ServerSpec, eventually, http};
use std::time::{Duration, Instant};

fn metric(server: &Server, name: &str) -> f64 {
    http::metric(&server.admin(), name, &[]).unwrap_or_else(|| panic!("{name} is missing"))
}

fn load(server: &Server) -> Load {
    let options = LoadOptions { pause: Duration::from_millis(1), ..LoadOptions::new("events", 4) };
    Load::start(&server.address(), options)
}

/// Everything acked is there, and the server ends as it does without a collector.
fn expect_undisturbed(mut server: Server, load: Load) {
    load.await_more(200);
    load.finish();
    let started = Instant::now();
    let status = server.terminate();
    assert!(status.success(), "{status}");
    assert!(started.elapsed() < Duration::from_secs(5), "it ended after {:?}", started.elapsed());
}

fn silent_collector(protocol: &str) {
    let collector = Collector::start(Speaks::Nothing);
    let spec = exporting(ServerSpec::new(), &collector).variable("OTEL_BSP_MAX_QUEUE_SIZE", "64");
    let server = spec.set(format!("telemetry.otlp_protocol={protocol}")).start();
    let load = load(&server);
    eventually("what does not fit is dropped and counted", || {
        (metric(&server, "lance_telemetry_dropped_spans_total") > 100.0).then_some(())
    });
    assert!(metric(&server, "lance_telemetry_waiting_spans") <= 64.0);
    assert_eq!(metric(&server, "lance_telemetry_exported_spans_total"), 0.0);
    expect_undisturbed(server, load);
}

#[test]
fn a_collector_that_never_answers_by_grpc_costs_spans_and_nothing_else() {
    silent_collector("grpc");
}

#[test]
fn a_collector_that_never_answers_by_http_costs_spans_and_nothing_else() {
    silent_collector("http");
}

fn killed_and_started_again(speaks: Speaks) {
    let mut collector = Collector::start(speaks);
    let server = exporting(ServerSpec::new(), &collector).start();
    let load = load(&server);
    collector.await_span("traces before its death", |span| span.name == "sync");
    collector.kill();
    let failed = || {
        metric(&server, "lance_telemetry_failed_spans_total") + metric(&server, "lance_telemetry_dropped_spans_total")
    };
    eventually("spans are lost and counted", || (failed() > 0.0).then_some(()));
    load.await_more(200);
    let known = collector.spans().len();
    collector.start_again();
    eventually("traces after its return", || {
        let spans = collector.spans();
        (!named(&spans[known..], "sync").is_empty()).then_some(())
    });
    expect_undisturbed(server, load);
}

#[test]
fn a_collector_that_dies_and_returns_is_missed_for_a_while_by_grpc() {
    killed_and_started_again(Speaks::Grpc);
}

#[test]
fn a_collector_that_dies_and_returns_is_missed_for_a_while_by_http() {
    killed_and_started_again(Speaks::Http);
}

#[test]
fn a_server_starts_serves_and_ends_without_its_collector() {
    let mut collector = Collector::start(Speaks::Grpc);
    collector.kill();
    let server = exporting(ServerSpec::new(), &collector).start();
    let load = load(&server);
    expect_undisturbed(server, load);
}

#[test]
fn what_happened_last_is_exported_at_the_end_of_the_process() {
    let collector = Collector::start(Speaks::Grpc);
    // Nothing goes out by itself for a minute.
    let spec = exporting(ServerSpec::new(), &collector).variable("OTEL_BSP_SCHEDULE_DELAY", "60000");
    let mut server = spec.start();
    let mut connection = server.connect();
    let topic = connection.create_topic("events");
    connection.store(topic, 1, b"click");
    drop(connection);
    assert!(server.terminate().success());
    let spans = collector.spans();
    assert_eq!(named(&spans, "publish events").len(), 1, "{spans:#?}");
    assert_eq!(named(&spans, "sync").len(), 1, "{spans:#?}");
}

#[test]
fn lnc_ends_promptly_whatever_becomes_of_the_collector() {
    let server = ServerSpec::new().start();
    let produce = ["produce", "--topic", "events", "--data", "click"];
    let mut dead = Collector::start(Speaks::Http);
    dead.kill();
    let started = Instant::now();
    traced_lnc(&dead, &[], &server.address(), &produce).ok();
    assert!(started.elapsed() < Duration::from_secs(2), "a dead one: {:?}", started.elapsed());
    for protocol in ["grpc", "http/protobuf"] {
        let silent = Collector::start(Speaks::Nothing);
        let started = Instant::now();
        let chosen = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
        let finished = traced_lnc(&silent, &chosen, &server.address(), &produce);
        assert!(started.elapsed() < Duration::from_secs(4), "{protocol}: {:?}", started.elapsed());
        finished.ok();
    }
}
