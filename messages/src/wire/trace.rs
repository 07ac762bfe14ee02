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

    proptest! {
        #[test]
        fn the_crc_of_the_rest_needs_no_second_reading(
            prefix in prop::collection::vec(any::<u8>(), 1..40),
            rest in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let whole = [prefix.clone(), rest.clone()].concat();
            let found = crc_after_prefix(crc32fast::hash(&whole), crc32fast::hash(&prefix), rest.len() as u64);
            prop_assert_eq!(found, crc32fast::hash(&rest));
        }
    }
}
