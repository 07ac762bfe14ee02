//! The trace context in front of a traced payload.
//!
//! ```text
//! off size field
//!   0   16 trace id
//!  16    8 span id of the sender
//!  24    1 W3C trace flags (1 = sampled)
//! ```

/// Bytes of a trace context.
pub const TRACE_CONTEXT_LEN: usize = 25;

/// Where a request comes from, as in W3C `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The sender's span.
    pub span_id: [u8; 8],
    /// Trace flags; bit 0 = sampled.
    pub flags: u8,
}

impl TraceContext {
    /// The flag of a trace that is recorded.
    pub const SAMPLED: u8 = 1;

    /// Whether the trace is recorded: by whoever began it, and so by everybody.
    pub const fn is_sampled(&self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    /// Whether both ids are any: W3C gives no meaning to zeroes.
    pub fn is_valid(&self) -> bool {
        self.trace_id != [0; 16] && self.span_id != [0; 8]
    }

    /// A span of the same trace. Spans below the same one differ as their `salt` does, and nobody has to be asked for a
    /// random number.
    #[must_use]
    pub fn child(&self, salt: u64) -> TraceContext {
        let mixed = mix(mix(u64::from_be_bytes(self.span_id)) ^ salt);
        TraceContext { span_id: mixed.max(1).to_be_bytes(), ..*self }
    }

    /// A trace that begins with a span of this id, made of `seed`, which is random, and a number that is used once with it.
    /// It is sampled.
    pub fn root(seed: u64, number: u64) -> TraceContext {
        let first = mix(seed ^ mix(number));
        let second = mix(first ^ seed.rotate_left(32));
        let mut trace_id = [0; 16];
        trace_id[..8].copy_from_slice(&first.to_be_bytes());
        trace_id[8..].copy_from_slice(&second.max(1).to_be_bytes());
        TraceContext { trace_id, span_id: mix(second).max(1).to_be_bytes(), flags: Self::SAMPLED }
    }

    /// What a sampler by ratio compares with its bound: the lower half of the trace id, as OpenTelemetry's does, so that
    /// everybody who is told the same ratio keeps the same traces.
    pub fn sampling_number(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.trace_id;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1
    }

    /// The 25 bytes.
    pub fn encode(&self) -> [u8; TRACE_CONTEXT_LEN] {
        let mut bytes = [0u8; TRACE_CONTEXT_LEN];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.span_id);
        bytes[24] = self.flags;
        bytes
    }

    /// Reads the context at the front of `payload`; `None` when it is too short.
    pub fn decode(payload: &[u8]) -> Option<TraceContext> {
        let (trace_id, rest) = payload.split_first_chunk::<16>()?;
        let (span_id, rest) = rest.split_first_chunk::<8>()?;
        Some(TraceContext { trace_id: *trace_id, span_id: *span_id, flags: *rest.first()? })
    }
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit given.
const fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// CRC of a prefix and the bytes after it, from the CRC of each.
pub fn crc_with_prefix(prefix: &[u8], rest_crc: u32, rest_len: u64) -> u32 {
    let mut whole = crc32fast::Hasher::new();
    whole.update(prefix);
    whole.combine(&crc32fast::Hasher::new_with_initial_len(rest_crc, rest_len));
    whole.finalize()
}

/// CRC of the bytes after a prefix, from the CRC of both: linear, so nothing is read again.
pub fn crc_after_prefix(whole_crc: u32, prefix_crc: u32, rest_len: u64) -> u32 {
    if rest_len == 0 {
        return 0;
    }
    let mut shifted = crc32fast::Hasher::new_with_initial_len(prefix_crc, 1);
    shifted.combine(&crc32fast::Hasher::new_with_initial_len(0, rest_len));
    whole_crc ^ shifted.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_trace_context_round_trips_through_its_golden_bytes() {
        let context = TraceContext { trace_id: [0xAB; 16], span_id: [0xCD; 8], flags: 1 };
        let mut golden = vec![0xAB; 16];
        golden.extend_from_slice(&[0xCD; 8]);
        golden.push(1);
        assert_eq!(context.encode().to_vec(), golden);
        assert_eq!(TraceContext::decode(&golden), Some(context));
        assert_eq!(TraceContext::decode(&golden[..24]), None);
    }

    #[test]
    fn spans_below_one_another_are_told_apart_and_stay_in_their_trace() {
        let root = TraceContext::root(7, 1);
        let mut seen = std::collections::HashSet::from([root.span_id]);
        for salt in 0..1000 {
            let child = root.child(salt);
            assert!(child.is_valid() && child.is_sampled() && child.trace_id == root.trace_id);
            assert!(seen.insert(child.span_id) && seen.insert(child.child(salt).span_id), "{salt}");
        }
        assert_eq!(root.child(3), root.child(3));
    }

    #[test]
    fn traces_begun_with_one_seed_differ_and_spread_over_the_sampling_numbers() {
        let roots: Vec<TraceContext> = (0..4000).map(|number| TraceContext::root(99, number)).collect();
        let ids: std::collections::HashSet<_> = roots.iter().map(|root| root.trace_id).collect();
        assert_eq!(ids.len(), roots.len());
        let below = roots.iter().filter(|root| root.sampling_number() < 1 << 61).count();
        assert!((900..1100).contains(&below), "{below} of 4000 in the lowest quarter");
    }

    proptest! {
        #[test]
        fn the_crc_of_the_rest_or_of_the_whole_needs_no_second_reading(
            prefix in prop::collection::vec(any::<u8>(), 1..40),
            rest in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let whole = [prefix.clone(), rest.clone()].concat();
            let found = crc_after_prefix(crc32fast::hash(&whole), crc32fast::hash(&prefix), rest.len() as u64);
            prop_assert_eq!(found, crc32fast::hash(&rest));
            let joined = crc_with_prefix(&prefix, crc32fast::hash(&rest), rest.len() as u64);
            prop_assert_eq!(joined, crc32fast::hash(&whole));
        }
    }
}
