//! The thread that makes spans of what others tell and sends them to the collector. Whoever tells never waits: a full queue
//! drops, and counts what it drops.

use super::facts::{Naming, RequestFacts, WallClock, span_data};
use super::plan::{TracePlan, Transport};
use crate::ingestion::core::Now;
use crate::stages::StageSpan;
use crate::threads::stand_back;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};
use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{
    Protocol, RetryPolicy, SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// How long a collector that failed last time is waited for at the end.
const LAST_CHANCE: Duration = Duration::from_millis(100);
/// Room beside the exporter's own time-out, which ends what it can by itself.
const TIMEOUT_ROOM: Duration = Duration::from_millis(500);

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The exporter.
    #[error("traces cannot be exported to {endpoint}: {reason}")]
    Exporter {
        /// Where to.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// Its thread.
    #[error("no thread for exporting traces: {0}")]
    Thread(#[from] std::io::Error),
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct SpanCounts {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    /// The collector took what it was sent last.
    answers: AtomicBool,
}

impl SpanCounts {
    /// Spans that the collector took.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans for which there was no room, or that nobody exported any more.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Spans that the collector did not take.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Something to export.
pub(super) enum Item {
    /// A stage of a traced request, to be made a span of.
    Stage(Box<StageSpan>, Now, Option<Arc<RequestFacts>>),
    /// A span.
    Span(Box<SpanData>),
}

/// Export everything told so far.
struct Flush {
    done: Sender<()>,
    /// Nothing follows.
    last: bool,
}

/// How often waiting spans are fetched, and from a queue of how many; a smaller one more often.
const PASSING: Duration = Duration::from_millis(50);
const PASSING_SPANS: f64 = 8192.0;

/// The way to the exporting thread; clones lead to the same.
#[derive(Clone)]
pub struct SpanSink {
    items: Sender<Item>,
    flushes: Sender<Flush>,
    counts: Arc<SpanCounts>,
}

impl std::fmt::Debug for SpanSink {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SpanSink").field("waiting", &self.items.len()).field("counts", &self.counts).finish()
    }
}

impl SpanSink {
    pub(super) fn send(&self, item: Item) {
        if self.items.try_send(item).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became of spans so far.
    pub fn counts(&self) -> &SpanCounts {
        &self.counts
    }

    /// Spans that wait.
    pub fn waiting(&self) -> usize {
        self.items.len()
    }

    /// Has everything exported that was told so far; `false` when that takes longer than `patience`.
    fn flush(&self, patience: Duration, last: bool) -> bool {
        let (done, wait) = bounded(1);
        // One flush at a time is enough: another that waits already covers what is there.
        let asked = self.flushes.try_send(Flush { done, last }).is_ok();
        asked && wait.recv_timeout(patience).is_ok()
    }

    /// Exports what waits and ends the thread, within `patience`, and at once where the collector does not answer.
    pub fn finish(&self, patience: Duration) -> bool {
        let nothing_sent = self.counts.exported() + self.counts.failed() == 0;
        let hopeful = nothing_sent || self.counts.answers.load(Ordering::Relaxed);
        self.flush(if hopeful { patience } else { patience.min(LAST_CHANCE) }, true)
    }
}

/// Hands spans of the OpenTelemetry SDK on.
impl SpanProcessor for SpanSink {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.send(Item::Span(Box::new(span)));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        let patience = Duration::from_secs(5);
        if self.flush(patience, false) { Ok(()) } else { Err(OTelSdkError::Timeout(patience)) }
    }

    /// The sink outlives the provider: [`SpanSink::finish`] ends it.
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The attributes of the process.
pub(super) fn resource(plan: &TracePlan) -> Resource {
    let own = plan.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty().with_detector(Box::new(TelemetryResourceDetector)).with_attributes(own).build()
}

/// Starts the exporting thread. `retry`: what the collector did not take is sent again a few times.
pub(super) fn start(plan: &TracePlan, naming: Arc<Naming>, retry: bool) -> Result<SpanSink, ExportError> {
    // Connections to the collector are served while something is exported, and at no other time.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let exporter = {
        let _inside = runtime.enter();
        let failed = |reason: String| ExportError::Exporter { endpoint: plan.endpoint.clone(), reason };
        let mut exporter = exporter(plan, retry).map_err(failed)?;
        exporter.set_resource(&resource(plan));
        exporter
    };
    let (items, waiting) = bounded(plan.queue_spans);
    let (flushes, asked) = bounded(1);
    let counts = Arc::new(SpanCounts::default());
    let (batch_spans, delay) = (plan.batch_spans, plan.delay);
    let timeout = plan.timeout + TIMEOUT_ROOM;
    let (clock, shared) = (WallClock::default(), Arc::clone(&counts));
    let worker = Worker { runtime, exporter, timeout, naming, clock, counts: shared, is_down: false };
    let work = move || {
        // Spans by the thousand are made and encoded here: requests go first.
        stand_back();
        worker.run(&waiting, &asked, batch_spans, delay);
    };
    std::thread::Builder::new().name("telemetry".to_owned()).spawn(work)?;
    Ok(SpanSink { items, flushes, counts })
}

fn exporter(plan: &TracePlan, retry: bool) -> Result<OtlpExporter, String> {
    let retry = if retry { RetryPolicy::recommended() } else { RetryPolicy::disabled() };
    let is_https = plan.endpoint.starts_with("https://");
    let built = match plan.transport {
        Transport::Grpc => {
            let builder = OtlpExporter::builder().with_tonic().with_endpoint(&plan.endpoint).with_timeout(plan.timeout);
            let builder = builder.with_retry_policy(retry);
            match is_https {
                true => builder.with_tls_config(ClientTlsConfig::new().with_native_roots()).build(),
                false => builder.build(),
            }
        }
        Transport::Http => {
            let builder = OtlpExporter::builder().with_http().with_endpoint(&plan.endpoint).with_timeout(plan.timeout);
            let builder = builder.with_protocol(Protocol::HttpBinary).with_retry_policy(retry);
            match is_https {
                true => {
                    let roots = HttpsConnectorBuilder::new().with_native_roots().map_err(|error| error.to_string())?;
                    let connector = roots.https_only().enable_http1().build();
                    builder.with_http_client(HyperClient::new(connector, plan.timeout, None)).build()
                }
                false => builder.build(),
            }
        }
    };
    built.map_err(|error| error.to_string())
}

struct Worker {
    runtime: Runtime,
    exporter: OtlpExporter,
    timeout: Duration,
    naming: Arc<Naming>,
    clock: WallClock,
    counts: Arc<SpanCounts>,
    is_down: bool,
}

impl Worker {
    fn run(mut self, items: &Receiver<Item>, flushes: &Receiver<Flush>, batch_spans: usize, delay: Duration) {
        let room = items.capacity().map_or(1.0, |capacity| capacity as f64 / PASSING_SPANS);
        let passing = PASSING.mul_f64(room.clamp(0.02, 1.0));
        loop {
            let mut batch = Vec::new();
            let mut flush = None;
            let mut deadline: Option<Instant> = None;
            while batch.len() < batch_spans {
                let next = match items.try_recv() {
                    Ok(item) => Ok(Some(item)),
                    Err(TryRecvError::Disconnected) => Err(()),
                    // The first is waited for. Those behind it are fetched in passing: whoever tells of one would else pay for
                    // waking this thread.
                    Err(TryRecvError::Empty) => match deadline {
                        None => select! {
                            recv(items) -> item => item.map(Some).map_err(|_| ()),
                            recv(flushes) -> asked => {
                                flush = asked.ok();
                                break;
                            }
                        },
                        Some(deadline) => {
                            let left = deadline.saturating_duration_since(Instant::now());
                            select! {
                                recv(flushes) -> asked => {
                                    flush = asked.ok();
                                    break;
                                }
                                default(left.min(passing)) => Ok(None),
                            }
                        }
                    },
                };
                match next {
                    Ok(Some(item)) => {
                        deadline = deadline.or_else(|| Instant::now().checked_add(delay));
                        batch.push(self.span(item));
                    }
                    Ok(None) => {}
                    Err(()) => return self.export(batch),
                }
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    break;
                }
            }
            // A stream of spans that never pauses does not keep who asked waiting.
            let Some(flush) = flush.or_else(|| flushes.try_recv().ok()) else {
                self.export(batch);
                continue;
            };
            // Everything that was there when it was asked for; what comes meanwhile waits for the next turn.
            for _ in 0..items.len() {
                if batch.len() >= batch_spans {
                    self.export(std::mem::take(&mut batch));
                }
                batch.extend(items.try_recv().ok().map(|item| self.span(item)));
            }
            self.export(batch);
            // Who asked may not wait any more.
            let _ = flush.done.send(());
            if flush.last {
                return;
            }
        }
    }

    fn span(&mut self, item: Item) -> SpanData {
        match item {
            Item::Stage(stage, now, facts) => {
                self.clock.set(now);
                span_data(&stage, now.elapsed, facts.as_deref(), &self.naming, &self.clock)
            }
            Item::Span(span) => *span,
        }
    }

    fn export(&mut self, batch: Vec<SpanData>) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let Self { runtime, exporter, timeout, .. } = self;
        let exported = runtime.block_on(async { tokio::time::timeout(*timeout, exporter.export(batch)).await });
        let failure = match exported {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {timeout:?}")),
        };
        self.counts.answers.store(failure.is_none(), Ordering::Relaxed);
        let counter = if failure.is_none() { &self.counts.exported } else { &self.counts.failed };
        counter.fetch_add(count, Ordering::Relaxed);
        let was_down = std::mem::replace(&mut self.is_down, failure.is_some());
        match failure {
            Some(reason) if !was_down => {
                tracing::warn!(%reason, "the collector takes no traces: they are dropped until it does")
            }
            None if was_down => tracing::info!("the collector takes traces again"),
            _ => {}
        }
    }
}
