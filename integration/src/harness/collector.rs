//! A collector of traces: OTLP by gRPC and by HTTP, on the official protobuf definitions. It can fall silent and die.

use super::eventually;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode as SpanStatus};
use prost::Message as _;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

/// What a collector speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// OTLP by gRPC.
    Grpc,
    /// OTLP by HTTP.
    Http,
    /// Nothing: it takes connections and never answers.
    Nothing,
}

/// A span as it was received.
#[derive(Clone, Debug)]
pub struct Received {
    /// Attributes of the process it came from.
    pub resource: BTreeMap<String, String>,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: SpanKind,
    /// Its trace, hexadecimal.
    pub trace: String,
    /// Its id, hexadecimal.
    pub id: String,
    /// Its parent's id; empty at the root of a trace.
    pub parent: String,
    /// Nanoseconds since the Unix epoch.
    pub start_ns: u64,
    /// Likewise.
    pub end_ns: u64,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Names of its events, and their attributes.
    pub events: Vec<(String, BTreeMap<String, String>)>,
    /// Whether it says that it failed.
    pub failed: bool,
}

impl Received {
    /// `service.name` and `service.instance.id` of its process.
    pub fn process(&self) -> (&str, &str) {
        let of = |name: &str| self.resource.get(name).map_or("", String::as_str);
        (of("service.name"), of("service.instance.id"))
    }

    /// An attribute; empty when there is none.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Clone, Default)]
struct Store {
    spans: Arc<Mutex<Vec<Received>>>,
    /// Headers of every request.
    headers: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
}

impl Store {
    fn take(&self, request: ExportTraceServiceRequest) {
        let mut spans = self.spans.lock().unwrap();
        for resource in request.resource_spans {
            let attributes = resource.resource.map(|resource| texts(&resource.attributes)).unwrap_or_default();
            let received = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(received.map(|span| received_span(span, &attributes)));
        }
    }

    fn note_headers<'a>(&self, headers: impl Iterator<Item = (&'a str, &'a [u8])>) {
        let text = |(name, value): (&str, &[u8])| (name.to_owned(), String::from_utf8_lossy(value).into_owned());
        self.headers.lock().unwrap().push(headers.map(text).collect());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| {
        let value = match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::BoolValue(flag)) => flag.to_string(),
            Some(Value::DoubleValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (pair.key.clone(), value)
    };
    attributes.iter().map(text).collect()
}

fn received_span(span: Span, resource: &BTreeMap<String, String>) -> Received {
    Received {
        resource: resource.clone(),
        kind: span.kind(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        attributes: texts(&span.attributes),
        events: span.events.iter().map(|event| (event.name.clone(), texts(&event.attributes))).collect(),
        failed: span.status.is_some_and(|status| status.code() == SpanStatus::Error),
        name: span.name,
    }
}

#[tonic::async_trait]
impl TraceService for Store {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        self.note_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
        self.take(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn take_http(store: Store, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    store.note_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    let is_protobuf = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/x-protobuf");
    match ExportTraceServiceRequest::decode(body) {
        Ok(request) if is_protobuf => {
            store.take(request);
            let answer = ExportTraceServiceResponse::default().encode_to_vec();
            (StatusCode::OK, [(header::CONTENT_TYPE, "application/x-protobuf")], answer)
        }
        _ => (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "text/plain")], Vec::new()),
    }
}

/// A collector; it dies when dropped.
pub struct Collector {
    address: SocketAddr,
    speaks: Speaks,
    store: Store,
    running: Option<(oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
}

impl Collector {
    /// One that runs, on a port of its own.
    pub fn start(speaks: Speaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut collector = Self { address, speaks, store: Store::default(), running: None };
        collector.serve(listener);
        collector
    }

    fn serve(&mut self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (speaks, store) = (self.speaks, self.store.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let serving = tokio::spawn(serve(speaks, store, listener));
                // Dies as a process does: connections break where they are.
                let _ = stopped.await;
                serving.abort();
            });
        });
        self.running = Some((stop, thread));
    }

    /// Ends it, connections and all; nobody listens at its address any more.
    pub fn kill(&mut self) {
        let (stop, thread) = self.running.take().expect("it runs");
        drop(stop);
        thread.join().unwrap();
    }

    /// Has it listen again where it was.
    pub fn start_again(&mut self) {
        let listener = eventually("the collector's port is free", || TcpListener::bind(self.address).ok());
        self.serve(listener);
    }

    /// Its base URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How OpenTelemetry's variables call what it speaks.
    pub fn protocol(&self) -> &'static str {
        if self.speaks == Speaks::Http { "http/protobuf" } else { "grpc" }
    }

    /// How the configuration calls it.
    pub fn configured_protocol(&self) -> &'static str {
        if self.speaks == Speaks::Http { "http" } else { "grpc" }
    }

    /// The variables that have a program export to it.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", self.endpoint()), ("OTEL_EXPORTER_OTLP_PROTOCOL", self.protocol().to_owned())]
    }

    /// Everything received so far.
    pub fn spans(&self) -> Vec<Received> {
        self.store.spans.lock().unwrap().clone()
    }

    /// Headers of every request so far.
    pub fn headers(&self) -> Vec<BTreeMap<String, String>> {
        self.store.headers.lock().unwrap().clone()
    }

    /// Waits for a span.
    pub fn await_span(&self, what: &str, is_it: impl Fn(&Received) -> bool) -> Received {
        let mut names = Vec::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                let spans = self.spans();
                names = spans.iter().map(|span| format!("{:?} {}", span.process(), span.name)).collect();
                spans.into_iter().find(&is_it)
            })
        }));
        found.unwrap_or_else(|panic| {
            eprintln!("received so far:\n{}", names.join("\n"));
            std::panic::resume_unwind(panic)
        })
    }

    /// Waits until the trace that `root` belongs to is whole.
    pub fn await_trace(&self, root: &Received, what: &str, is_whole: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let trace = || self.spans().into_iter().filter(|span| span.trace == root.trace).collect::<Vec<_>>();
        let whole = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || Some(trace()).filter(|spans| is_whole(spans)))
        }));
        whole.unwrap_or_else(|panic| {
            for span in trace() {
                eprintln!(
                    "{:?} {} {} below {:?} {:?}",
                    span.process(),
                    span.name,
                    span.id,
                    span.parent,
                    span.attributes
                );
            }
            std::panic::resume_unwind(panic)
        })
    }
}

async fn serve(speaks: Speaks, store: Store, listener: tokio::net::TcpListener) {
    match speaks {
        Speaks::Grpc => {
            let routes = tonic::service::Routes::new(TraceServiceServer::new(store)).into_axum_router();
            axum::serve(listener, routes).await.unwrap();
        }
        Speaks::Http => {
            let taken = move |headers, body| take_http(store.clone(), headers, body);
            axum::serve(listener, Router::new().route("/v1/traces", post(taken))).await.unwrap();
        }
        Speaks::Nothing => {
            let mut kept = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                kept.push(connection);
            }
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            // A test that fails says so by itself.
            let _ = thread.join();
        }
    }
}
