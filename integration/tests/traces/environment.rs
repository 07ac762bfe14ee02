//! OpenTelemetry's environment variables, for the server and for `lnc`.

use super::{exporting, named, traced_lnc};
use lance_integration::harness::collector::{Received, Speaks};
use lance_integration::harness::{Collector, Server, ServerSpec};

const PRODUCE: [&str; 5] = ["produce", "--topic", "events", "--data", "click"];

/// A server that knows its collector from the environment alone.
fn told(collector: &Collector) -> ServerSpec {
    let variables = collector.variables();
    variables.into_iter().fold(ServerSpec::new(), |spec, (name, value)| spec.variable(name, value))
}

/// What a server tells of so many requests without a trace of their own, until its end.
fn told_of(spec: ServerSpec, collector: &Collector, requests: u64) -> Vec<Received> {
    let mut server = spec.start();
    let mut connection = server.connect();
    let topic = connection.create_topic("events");
    (1..=requests).for_each(|number| connection.store(topic, number, b"click"));
    drop(connection);
    assert!(server.terminate().success());
    collector.spans()
}

fn of_service(spans: &[Received], service: &str) -> usize {
    spans.iter().filter(|span| span.process().0 == service).count()
}

#[test]
fn a_server_exports_where_the_variables_say_and_says_who_it_is() {
    for speaks in [Speaks::Grpc, Speaks::Http] {
        let collector = Collector::start(speaks);
        let spec = told(&collector)
            .set("node.id=7")
            .variable("OTEL_TRACES_SAMPLER", "always_on")
            .variable("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue%20team,x-key=s3cret")
            .variable("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.namespace=a%2Cb");
        let spans = told_of(spec, &collector, 1);
        let publish = named(&spans, "publish events")[0];
        let resource = |name: &str| publish.resource.get(name).map_or("", String::as_str);
        assert_eq!(publish.process(), ("lance", "7"));
        assert_eq!(resource("service.version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(resource("deployment.environment.name"), "test");
        assert_eq!(resource("service.namespace"), "a,b");
        assert!(!resource("host.name").is_empty());
        let headers = collector.headers();
        let header =
            |name: &str| headers.iter().all(|request| request.get(name).is_some_and(|value| !value.is_empty()));
        assert!(header("x-tenant") && header("x-key"), "{headers:#?}");
        assert_eq!(headers[0]["x-tenant"], "blue team");
    }
}

#[test]
fn the_variable_for_traces_alone_holds_a_whole_url_and_wins() {
    let (collector, other) = (Collector::start(Speaks::Http), Collector::start(Speaks::Http));
    let spec = told(&other)
        .variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{}/v1/traces", collector.endpoint()))
        .variable("OTEL_SERVICE_NAME", "the-log")
        .variable("OTEL_TRACES_SAMPLER", "parentbased_always_on");
    let spans = told_of(spec, &collector, 1);
    assert_eq!(named(&spans, "publish events").len(), 1);
    assert_eq!(of_service(&spans, "the-log"), spans.len());
    assert!(other.spans().is_empty());
}

#[test]
fn what_the_configuration_says_wins_over_the_variables() {
    let (collector, other) = (Collector::start(Speaks::Grpc), Collector::start(Speaks::Http));
    let spec = exporting(told(&other), &collector).variable("OTEL_TRACES_SAMPLER", "always_off");
    let spans = told_of(spec, &collector, 1);
    assert_eq!(named(&spans, "publish events").len(), 1, "{spans:#?}");
    assert!(other.spans().is_empty());
}

#[test]
fn a_sampler_by_ratio_keeps_its_share() {
    let collector = Collector::start(Speaks::Grpc);
    let spec =
        told(&collector).variable("OTEL_TRACES_SAMPLER", "traceidratio").variable("OTEL_TRACES_SAMPLER_ARG", "0.25");
    let kept = named(&told_of(spec, &collector, 400), "publish events").len();
    // Eight standard deviations around 100.
    assert!((30..=170).contains(&kept), "{kept} of 400");
}

/// Whether a server tells of what `lnc` traces.
fn tells_of_lnc(spec: ServerSpec, collector: &Collector) -> bool {
    let mut server: Server = spec.start();
    traced_lnc(collector, &[], &server.address(), &PRODUCE).ok();
    assert!(server.terminate().success());
    let spans = collector.spans();
    assert_eq!(named(&spans, "send events").len(), 1, "lnc told of its part");
    of_service(&spans, "lance") > 0
}

#[test]
fn a_server_whose_variables_switch_traces_off_exports_none() {
    for (name, value) in
        [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_TRACES_SAMPLER", "always_off")]
    {
        let collector = Collector::start(Speaks::Grpc);
        assert!(!tells_of_lnc(told(&collector).variable(name, value), &collector), "{name}={value}");
    }
    let collector = Collector::start(Speaks::Grpc);
    assert!(!tells_of_lnc(ServerSpec::new(), &collector), "nobody told it to");
    let collector = Collector::start(Speaks::Grpc);
    let spec = told(&collector).variable("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    assert!(tells_of_lnc(spec, &collector), "what clients trace goes on");
}

#[test]
fn a_variable_that_makes_no_sense_is_named_and_passed_over() {
    let collector = Collector::start(Speaks::Grpc);
    let spec =
        told(&collector).variable("OTEL_TRACES_SAMPLER", "sometimes").variable("OTEL_BSP_MAX_QUEUE_SIZE", "many");
    let server = spec.start();
    server.await_log(&["OTEL_TRACES_SAMPLER", "sometimes"]);
    server.await_log(&["OTEL_BSP_MAX_QUEUE_SIZE", "many"]);
}

#[test]
fn lnc_heeds_the_variables() {
    let server = ServerSpec::new().start();
    let collector = Collector::start(Speaks::Http);
    let run = |variables: &[(&str, &str)]| traced_lnc(&collector, variables, &server.address(), &PRODUCE).ok();
    run(&[("OTEL_SDK_DISABLED", "true")]);
    run(&[("OTEL_TRACES_EXPORTER", "none")]);
    run(&[("OTEL_TRACES_SAMPLER", "always_off")]);
    assert!(collector.spans().is_empty() && collector.headers().is_empty());
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    run(&[
        ("OTEL_SERVICE_NAME", "job"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=blue"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue"),
        ("TRACEPARENT", parent),
    ]);
    // It flushes before it ends: nothing has to be waited for.
    let spans = collector.spans();
    let sent = named(&spans, "send events")[0];
    assert_eq!((sent.process().0, sent.resource["team"].as_str()), ("job", "blue"));
    assert_eq!((sent.trace.as_str(), sent.parent.as_str()), (&parent[3..35], &parent[36..52]));
    assert_eq!(collector.headers()[0]["x-tenant"], "blue");
    traced_lnc(&collector, &[("TRACEPARENT", &parent.replace("-01", "-00"))], &server.address(), &PRODUCE).ok();
    assert_eq!(collector.spans().len(), spans.len(), "who started it keeps no trace of this");
}
