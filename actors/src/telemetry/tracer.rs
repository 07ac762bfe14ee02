//! The process's tracer: there is one where traces are exported, and none where they are not.

use super::export::{self, ExportError, Item, SpanCounts, SpanSink};
use super::facts::{Naming, RequestFacts, SCOPE};
use super::plan::{Sampling, TracePlan};
use crate::ingestion::core::Now;
use crate::stages::{RequestTraces, StageSpan};
use crate::view::ClusterView;
use arc_swap::ArcSwap;
use lance_messages::id::NodeId;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// What exports the spans of this process.
#[derive(Debug)]
pub struct Tracer {
    sink: SpanSink,
    provider: SdkTracerProvider,
    sampling: Sampling,
    naming: Arc<Naming>,
}

/// The tracer, where traces are exported.
pub fn tracer() -> Option<&'static Tracer> {
    TRACER.get()
}

impl Tracer {
    fn start(plan: &TracePlan, sampler: Sampler, retry: bool) -> Result<Self, ExportError> {
        let naming = Arc::new(Naming::default());
        let sink = export::start(plan, Arc::clone(&naming), retry)?;
        let provider = SdkTracerProvider::builder()
            .with_span_processor(sink.clone())
            .with_sampler(sampler)
            .with_resource(export::resource(plan))
            .build();
        Ok(Self { sink, provider, sampling: plan.sampling, naming })
    }

    fn install(self) -> &'static Self {
        // Asked for once, at the start of the process; a second one would end unused.
        TRACER.get_or_init(|| self)
    }

    /// How the requests of a node come to be traced.
    pub fn request_traces(&self, seed: u64) -> RequestTraces {
        RequestTraces::new(seed, self.sampling.ratio, self.sampling.parent_based)
    }

    /// From now on spans name topics and nodes as this node knows them.
    pub fn learn(&self, node: NodeId, view: Arc<ArcSwap<ClusterView>>) {
        self.naming.learn(node, view);
    }

    /// Exports a stage of a traced request; never waits.
    pub fn record(&self, stage: Box<StageSpan>, now: Now, facts: Option<Arc<RequestFacts>>) {
        self.sink.send(Item::Stage(stage, now, facts));
    }

    /// The SDK's tracer, for spans that are open while something happens.
    pub(super) fn sdk(&self) -> SdkTracer {
        self.provider.tracer(SCOPE)
    }

    /// What became of spans so far.
    pub fn counts(&self) -> &SpanCounts {
        self.sink.counts()
    }

    /// Spans that wait to be exported.
    pub fn waiting(&self) -> usize {
        self.sink.waiting()
    }

    /// Exports what waits, within `patience`, and ends; what comes later is dropped.
    pub fn finish(&self, patience: Duration) {
        if !self.sink.finish(patience) {
            tracing::debug!("traces that waited at the end were not taken in time");
        }
    }
}

/// Begins to export the traces of a node. What happens to the node itself is always told: the ratio is one of requests.
pub fn export_node(plan: &TracePlan) -> Result<&'static Tracer, ExportError> {
    Ok(Tracer::start(plan, Sampler::AlwaysOn, true)?.install())
}

/// Begins to export the traces of a client program, whose library finds the tracer by OpenTelemetry's global one. Nothing is
/// sent twice: the program is about to end.
pub fn export_client(plan: &TracePlan) -> Result<&'static Tracer, ExportError> {
    let Sampling { ratio, parent_based } = plan.sampling;
    let share = Sampler::TraceIdRatioBased(ratio);
    let sampler = if parent_based { Sampler::ParentBased(Box::new(share)) } else { share };
    let tracer = Tracer::start(plan, sampler, false)?.install();
    opentelemetry::global::set_tracer_provider(tracer.provider.clone());
    Ok(tracer)
}
