//! Whether traces are exported, where to and how many: what the configuration says, else what OpenTelemetry's environment
//! variables say, else the defaults. Pure: it is handed the environment.

use percent_encoding::percent_decode_str;
use std::time::Duration;

/// Port on which collectors take OTLP over gRPC everywhere.
const GRPC_PORT: &str = ":4317";
/// What OTLP over HTTP appends to a base URL.
const TRACES_PATH: &str = "/v1/traces";

/// How spans travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, protobuf bodies.
    Http,
}

/// Who exports, and what its configuration says; what is `None` was not set there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceOptions {
    /// `service.name`, unless the environment names another.
    pub service: &'static str,
    /// `service.instance.id`, likewise.
    pub instance: Option<String>,
    /// Base URL of the collector.
    pub endpoint: Option<String>,
    /// Transport to it.
    pub transport: Option<Transport>,
    /// Share of the requests without a trace of their own that get one.
    pub ratio: Option<f64>,
    /// The same where nobody says anything.
    pub default_ratio: f64,
}

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Share of the traces that begin here.
    pub ratio: f64,
    /// Whether what others decided about theirs holds.
    pub parent_based: bool,
}

impl Sampling {
    /// Whether nothing can ever be kept.
    pub fn is_off(&self) -> bool {
        self.ratio <= 0.0 && !self.parent_based
    }
}

/// How spans are exported.
#[derive(Clone, Debug, PartialEq)]
pub struct TracePlan {
    /// Where to, in full.
    pub endpoint: String,
    /// How.
    pub transport: Transport,
    /// Which.
    pub sampling: Sampling,
    /// Attributes of the process; later ones replace earlier ones.
    pub resource: Vec<(String, String)>,
    /// Spans that may wait.
    pub queue_spans: usize,
    /// Most spans of one request to the collector.
    pub batch_spans: usize,
    /// Longest wait for a batch to fill.
    pub delay: Duration,
    /// Longest wait for the collector's answer.
    pub timeout: Duration,
}

/// A variable that makes no sense; it is passed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?} is passed over: {expected}")]
pub struct PassedOver {
    /// The variable.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What would be understood.
    pub expected: &'static str,
}

/// Reads variables, and notes those that make no sense.
struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    passed_over: Vec<PassedOver>,
}

impl Environment<'_> {
    /// An empty variable counts as unset.
    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.text(name)?;
        let parsed = parse(&value);
        if parsed.is_none() {
            self.passed_over.push(PassedOver { name, value, expected });
        }
        parsed
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn count(&mut self, name: &'static str) -> Option<usize> {
        self.read(name, "a number from 1 to 1000000", |text| {
            text.parse().ok().filter(|count| (1..=1_000_000).contains(count))
        })
    }

    fn millis(&mut self, name: &'static str) -> Option<Duration> {
        self.read(name, "milliseconds", |text| text.parse().ok().map(Duration::from_millis))
    }
}

fn url(text: &str) -> Option<String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
    (!rest.is_empty() && !rest.starts_with('/')).then(|| text.to_owned())
}

fn transport(text: &str) -> Option<Transport> {
    match text {
        "grpc" => Some(Transport::Grpc),
        "http/protobuf" => Some(Transport::Http),
        _ => None,
    }
}

/// The URL of the traces below a base URL.
fn below(base: &str, transport: Transport) -> String {
    match transport {
        Transport::Grpc => base.to_owned(),
        Transport::Http => format!("{}{TRACES_PATH}", base.trim_end_matches('/')),
    }
}

/// What is exported, if anything is; and which variables are passed over.
pub fn plan(options: &TraceOptions, lookup: &dyn Fn(&str) -> Option<String>) -> (Option<TracePlan>, Vec<PassedOver>) {
    let mut environment = Environment { lookup, passed_over: Vec::new() };
    let plan = planned(options, &mut environment);
    (plan, environment.passed_over)
}

fn planned(options: &TraceOptions, environment: &mut Environment<'_>) -> Option<TracePlan> {
    if environment.flag("OTEL_SDK_DISABLED") {
        return None;
    }
    let exporter = environment.read("OTEL_TRACES_EXPORTER", "\"otlp\" or \"none\"", |text| match text {
        "otlp" => Some(true),
        "none" => Some(false),
        _ => None,
    });
    if exporter == Some(false) {
        return None;
    }
    let (endpoint, transport) = destination(options, environment, exporter.is_some())?;
    let sampling = sampling(options, environment);
    if sampling.is_off() {
        return None;
    }
    let timeout = environment.millis("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT");
    let timeout = timeout.or_else(|| environment.millis("OTEL_EXPORTER_OTLP_TIMEOUT"));
    Some(TracePlan {
        endpoint,
        transport,
        sampling,
        resource: resource(options, environment),
        queue_spans: environment.count("OTEL_BSP_MAX_QUEUE_SIZE").unwrap_or(8192),
        batch_spans: environment.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").unwrap_or(512),
        delay: environment.millis("OTEL_BSP_SCHEDULE_DELAY").unwrap_or(Duration::from_secs(1)),
        timeout: timeout.unwrap_or(Duration::from_secs(10)),
    })
}

fn destination(options: &TraceOptions, environment: &mut Environment<'_>, wanted: bool) -> Option<(String, Transport)> {
    const KNOWN: &str = "\"grpc\" or \"http/protobuf\"";
    let by_environment = environment.read("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", KNOWN, transport);
    let by_environment = by_environment.or_else(|| environment.read("OTEL_EXPORTER_OTLP_PROTOCOL", KNOWN, transport));
    let chosen = options.transport.or(by_environment);
    if let Some(base) = &options.endpoint {
        let transport = chosen.unwrap_or(Transport::Grpc);
        return Some((below(base, transport), transport));
    }
    const URL: &str = "a URL that starts with http:// or https://";
    // OpenTelemetry's default is HTTP, except where everybody knows the port.
    let guess =
        |url: &str| if url.trim_end_matches('/').ends_with(GRPC_PORT) { Transport::Grpc } else { Transport::Http };
    if let Some(whole) = environment.read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", URL, url) {
        let transport = chosen.unwrap_or_else(|| guess(&whole));
        return Some((whole, transport));
    }
    if let Some(base) = environment.read("OTEL_EXPORTER_OTLP_ENDPOINT", URL, url) {
        let transport = chosen.unwrap_or_else(|| guess(&base));
        return Some((below(&base, transport), transport));
    }
    // Only who asks for an exporter by name gets the default collector.
    wanted.then(|| match chosen.unwrap_or(Transport::Http) {
        Transport::Grpc => ("http://localhost:4317".to_owned(), Transport::Grpc),
        Transport::Http => (format!("http://localhost:4318{TRACES_PATH}"), Transport::Http),
    })
}

fn sampling(options: &TraceOptions, environment: &mut Environment<'_>) -> Sampling {
    let based = |ratio| Sampling { ratio, parent_based: true };
    if let Some(ratio) = options.ratio {
        return based(ratio);
    }
    const KNOWN: &str = "always_on, always_off, traceidratio, or one of them after parentbased_";
    let sampler = environment.read("OTEL_TRACES_SAMPLER", KNOWN, |text| {
        let (name, parent_based) = match text.strip_prefix("parentbased_") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let ratio = match name {
            "always_on" => Some(1.0),
            "always_off" => Some(0.0),
            "traceidratio" => None,
            _ => return None,
        };
        Some((ratio, parent_based))
    });
    let Some((ratio, parent_based)) = sampler else {
        return based(options.default_ratio);
    };
    let argument = || {
        environment.read("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1", |text| {
            text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
        })
    };
    Sampling { ratio: ratio.or_else(argument).unwrap_or(1.0), parent_based }
}

/// What the program knows of itself, then what the environment says of it.
fn resource(options: &TraceOptions, environment: &mut Environment<'_>) -> Vec<(String, String)> {
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut attributes = vec![own("service.name", options.service), own("service.version", env!("CARGO_PKG_VERSION"))];
    attributes.extend(options.instance.as_deref().map(|instance| own("service.instance.id", instance)));
    attributes.extend(lance_config::machine::host_name().map(|host| own("host.name", &host)));
    attributes.push(own("process.pid", &std::process::id().to_string()));
    let given = environment.read("OTEL_RESOURCE_ATTRIBUTES", "key=value,key=value", |text| {
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
        pairs.map(|pair| pair.split_once('=').map(|(name, value)| own(name.trim(), value.trim()))).collect()
    });
    let given: Vec<(String, String)> = given.unwrap_or_default();
    attributes.extend(
        given.into_iter().map(|(name, value)| (name, percent_decode_str(&value).decode_utf8_lossy().into_owned())),
    );
    attributes.extend(environment.text("OTEL_SERVICE_NAME").map(|name| own("service.name", &name)));
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(options: &TraceOptions, variables: &[(&str, &str)]) -> (Option<TracePlan>, Vec<PassedOver>) {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        plan(options, &find)
    }

    fn options() -> TraceOptions {
        TraceOptions { service: "lance", instance: Some("3".to_owned()), default_ratio: 0.25, ..Default::default() }
    }

    fn destination_of(options: &TraceOptions, variables: &[(&str, &str)]) -> Option<(String, Transport)> {
        let (plan, passed_over) = with(options, variables);
        assert!(passed_over.is_empty(), "{passed_over:?}");
        plan.map(|plan| (plan.endpoint, plan.transport))
    }

    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";

    #[test]
    fn nothing_is_exported_unless_somebody_says_so() {
        assert_eq!(destination_of(&options(), &[]), None);
        assert_eq!(destination_of(&options(), &[("OTEL_SERVICE_NAME", "x"), (PROTOCOL, "grpc")]), None);
        let there = [(ENDPOINT, "http://c:1")];
        assert!(destination_of(&options(), &there).is_some());
        for off in
            [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_TRACES_SAMPLER", "always_off")]
        {
            assert_eq!(destination_of(&options(), &[there[0], off]), None, "{off:?}");
        }
        assert!(destination_of(&options(), &[there[0], ("OTEL_SDK_DISABLED", "no")]).is_some());
        let wanted = destination_of(&options(), &[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert_eq!(wanted, Some(("http://localhost:4318/v1/traces".to_owned(), Transport::Http)));
    }

    #[test]
    fn an_endpoint_is_a_base_url_and_the_one_of_traces_is_whole() {
        for (variables, url, transport) in [
            (vec![(ENDPOINT, "http://c:9")], "http://c:9/v1/traces", Transport::Http),
            (vec![(ENDPOINT, "http://c:9/base/")], "http://c:9/base/v1/traces", Transport::Http),
            (vec![(ENDPOINT, "http://c:9"), (PROTOCOL, "grpc")], "http://c:9", Transport::Grpc),
            (vec![(ENDPOINT, "http://c:4317/")], "http://c:4317/", Transport::Grpc),
            (vec![(ENDPOINT, "http://c:9"), (TRACES_ENDPOINT, "http://t:1/x")], "http://t:1/x", Transport::Http),
            (
                vec![
                    (ENDPOINT, "http://c:9"),
                    (PROTOCOL, "grpc"),
                    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
                ],
                "http://c:9/v1/traces",
                Transport::Http,
            ),
        ] {
            assert_eq!(destination_of(&options(), &variables), Some((url.to_owned(), transport)), "{variables:?}");
        }
    }

    #[test]
    fn what_the_configuration_says_wins() {
        let set = TraceOptions { endpoint: Some("http://k:1".to_owned()), ..options() };
        let variables = [(ENDPOINT, "http://c:9"), (TRACES_ENDPOINT, "http://t:1/x")];
        assert_eq!(destination_of(&set, &variables), Some(("http://k:1".to_owned(), Transport::Grpc)));
        let http = [variables[0], (PROTOCOL, "http/protobuf")];
        assert_eq!(destination_of(&set, &http), Some(("http://k:1/v1/traces".to_owned(), Transport::Http)));
        let all = TraceOptions { transport: Some(Transport::Grpc), ratio: Some(0.5), ..set };
        assert_eq!(destination_of(&all, &http), Some(("http://k:1".to_owned(), Transport::Grpc)));
        let (plan, _) = with(&all, &[("OTEL_TRACES_SAMPLER", "always_off")]);
        assert_eq!(plan.unwrap().sampling, Sampling { ratio: 0.5, parent_based: true });
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        for (sampler, argument, ratio, parent_based) in [
            ("", "", 0.25, true),
            ("always_on", "", 1.0, false),
            ("traceidratio", "0.1", 0.1, false),
            ("traceidratio", "", 1.0, false),
            ("parentbased_always_on", "0.1", 1.0, true),
            ("parentbased_always_off", "", 0.0, true),
            ("parentbased_traceidratio", "0.75", 0.75, true),
        ] {
            let variables =
                [(ENDPOINT, "http://c:9"), ("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)];
            let (plan, passed_over) = with(&options(), &variables);
            assert_eq!(plan.unwrap().sampling, Sampling { ratio, parent_based }, "{sampler}");
            assert!(passed_over.is_empty());
        }
    }

    #[test]
    fn what_makes_no_sense_is_named_and_passed_over() {
        let variables = [
            (ENDPOINT, "http://c:9"),
            (TRACES_ENDPOINT, "collector:4317"),
            (PROTOCOL, "http/json"),
            ("OTEL_TRACES_EXPORTER", "console"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a"),
        ];
        let (plan, passed_over) = with(&options(), &variables);
        let plan = plan.unwrap();
        assert_eq!((plan.endpoint.as_str(), plan.transport), ("http://c:9/v1/traces", Transport::Http));
        assert_eq!((plan.queue_spans, plan.delay), (8192, Duration::from_secs(1)));
        let mut named: Vec<&str> = passed_over.iter().map(|one| one.name).collect();
        named.sort_unstable();
        let mut expected: Vec<&str> = variables[1..].iter().map(|(name, _)| *name).collect();
        expected.sort_unstable();
        assert_eq!(named, expected);
        assert!(passed_over[0].to_string().contains("console"), "{}", passed_over[0]);
    }

    #[test]
    fn the_environment_has_the_last_word_about_the_resource() {
        let of = |variables: &[(&str, &str)]| -> std::collections::HashMap<String, String> {
            let variables = [&[(ENDPOINT, "http://c:9")], variables].concat();
            with(&options(), &variables).0.unwrap().resource.into_iter().collect()
        };
        let plain = of(&[]);
        assert_eq!((plain["service.name"].as_str(), plain["service.instance.id"].as_str()), ("lance", "3"));
        assert_eq!(plain["service.version"], env!("CARGO_PKG_VERSION"));
        assert!(plain.contains_key("host.name"));
        let attributes = "service.name=mine, deployment.environment.name = a%20b ,service.instance.id=x,";
        let given = of(&[("OTEL_RESOURCE_ATTRIBUTES", attributes)]);
        assert_eq!((given["service.name"].as_str(), given["service.instance.id"].as_str()), ("mine", "x"));
        assert_eq!(given["deployment.environment.name"], "a b");
        let named = of(&[("OTEL_RESOURCE_ATTRIBUTES", attributes), ("OTEL_SERVICE_NAME", "named")]);
        assert_eq!(named["service.name"], "named");
    }
}
