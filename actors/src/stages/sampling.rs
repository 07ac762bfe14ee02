//! Which requests are traced: those whose client says so, and of the others a share.

use lance_messages::id::ConnectionId;
use lance_messages::wire::TraceContext;

/// How requests come to be traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTraces {
    /// Random, made for this start of the process.
    seed: u64,
    /// Traces whose sampling number is below are kept.
    kept_below: u64,
    /// Whether a client's decision holds.
    parent_based: bool,
}

/// Where a request's span hangs, and the span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanPlace {
    /// The client's span; of zeroes where the trace begins here.
    pub parent: TraceContext,
    /// The request's span.
    pub own: TraceContext,
}

impl RequestTraces {
    /// Keeps this share of the traces that begin here; of those that clients begin what they decide, or, unless
    /// `parent_based`, the same share.
    pub fn new(seed: u64, ratio: f64, parent_based: bool) -> Self {
        let share = (ratio.clamp(0.0, 1.0) * (1u64 << 63) as f64) as u64;
        Self { seed, kept_below: share.min(1 << 63), parent_based }
    }

    /// The span of a request, if it is traced. `number` is used once on its connection.
    pub fn place(&self, given: Option<TraceContext>, connection: ConnectionId, number: u64) -> Option<SpanPlace> {
        match given.filter(TraceContext::is_valid) {
            Some(parent) => {
                let kept = match self.parent_based {
                    true => parent.is_sampled(),
                    false => parent.sampling_number() < self.kept_below,
                };
                let own = parent.child(self.seed ^ connection.0.rotate_left(32)).child(number);
                let own = TraceContext { flags: own.flags | TraceContext::SAMPLED, ..own };
                kept.then_some(SpanPlace { parent, own })
            }
            None if self.kept_below == 0 => None,
            None => {
                let own = TraceContext::root(self.seed, connection.0.rotate_left(32) ^ number);
                let parent = TraceContext { span_id: [0; 8], ..own };
                (own.sampling_number() < self.kept_below).then_some(SpanPlace { parent, own })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: TraceContext = TraceContext { trace_id: [0x5A; 16], span_id: [3; 8], flags: 1 };
    const UNSAMPLED: TraceContext = TraceContext { flags: 0, ..CLIENT };

    fn is_traced(traces: &RequestTraces, given: Option<TraceContext>, number: u64) -> bool {
        traces.place(given, ConnectionId(7), number).is_some()
    }

    #[test]
    fn what_a_client_decides_holds_at_every_ratio() {
        for ratio in [0.0, 0.5, 1.0] {
            let traces = RequestTraces::new(1, ratio, true);
            for number in 0..50 {
                assert!(is_traced(&traces, Some(CLIENT), number) && !is_traced(&traces, Some(UNSAMPLED), number));
            }
        }
        let regardless = RequestTraces::new(1, 1.0, false);
        assert!(is_traced(&regardless, Some(UNSAMPLED), 1));
        assert!(!is_traced(&RequestTraces::new(1, 0.0, false), Some(CLIENT), 1));
    }

    #[test]
    fn a_share_of_the_other_requests_begins_a_trace() {
        for (ratio, least, most) in [(0.0, 0, 0), (0.25, 900, 1100), (1.0, 4000, 4000)] {
            let traces = RequestTraces::new(0xABCD, ratio, true);
            let traced = (0..4000).filter(|number| is_traced(&traces, None, *number)).count();
            assert!((least..=most).contains(&traced), "{traced} of 4000 at {ratio}");
        }
    }

    #[test]
    fn a_repeated_request_has_a_span_of_its_own() {
        let traces = RequestTraces::new(9, 0.0, true);
        let span = |connection, number| traces.place(Some(CLIENT), ConnectionId(connection), number).unwrap().own;
        let spans = [
            span(1, 1),
            span(1, 2),
            span(2, 1),
            RequestTraces::new(10, 0.0, true).place(Some(CLIENT), ConnectionId(1), 1).unwrap().own,
        ];
        for (at, one) in spans.iter().enumerate() {
            assert_eq!(one.trace_id, CLIENT.trace_id);
            assert!(spans[..at].iter().all(|other| other.span_id != one.span_id));
        }
    }

    #[test]
    fn a_context_without_ids_is_none() {
        let traces = RequestTraces::new(9, 0.0, true);
        assert!(!is_traced(&traces, Some(TraceContext { trace_id: [0; 16], ..CLIENT }), 1));
        assert!(!is_traced(&traces, Some(TraceContext { span_id: [0; 8], ..CLIENT }), 1));
    }
}
