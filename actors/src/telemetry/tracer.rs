//! The process's tracer: there is one where traces are exported, and none where they are not.

use super::export::{self, ExportError, Item, SpanCounts, SpanSink};
use super::facts::{Naming, RequestFacts, SCOPE};
use super::plan::{Sampling, TracePlan};
use crate::ingestion::core::Now;
use crate::stages::{RequestTraces, StageSpan};
use crate::view::ClusterView;
use arc_swap::ArcSwap;
use lance_messages::id::NodeId;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, ContextGuard};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use std::collections::HashMap;
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

/// Until the guard is dropped, spans of this thread belong to the span that started the program, if it says which in
/// `TRACEPARENT`.
pub fn enter_parent(lookup: &dyn Fn(&str) -> Option<String>) -> Option<ContextGuard> {
    let carried = ["traceparent", "tracestate"].map(|name| (name.to_owned(), lookup(&name.to_uppercase())));
    let carried: HashMap<String, String> =
        carried.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    carried.contains_key("traceparent").then(|| {
        let parent: Context = TraceContextPropagator::new().extract(&carried);
        parent.attach()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::TraceContextExt as _;

    #[test]
    fn a_program_belongs_to_the_span_that_started_it() {
        let current = || Context::map_current(|context| context.span().span_context().trace_id().to_string());
        let given = |name: &str| {
            (name == "TRACEPARENT").then(|| "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned())
        };
        let entered = enter_parent(&given);
        assert_eq!(current(), "0af7651916cd43dd8448eb211c80319c");
        drop(entered);
        assert_eq!(current(), "00000000000000000000000000000000");
        assert!(enter_parent(&|_| None).is_none());
    }
}
