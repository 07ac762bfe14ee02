//! LookupOffset: from a time or a record number to an offset.
//!
//! ```text
//! LookupOffset 0x43               LookupOffsetResponse 0xC3
//!   0 4 topic id                    0 8 offset
//!   4 2 partition                   8 8 record number
//!   6 1 kind, 0..=4                16 8 timestamp of the batch, ns (0: none)
//!   7 1 zero
//!   8 8 value: ns for kind 2, record number for kind 3, offset for kind 4
//! ```

use super::payload::PayloadReader;
use crate::id::{TopicId, TopicPartition};
use bytes::{BufMut, BytesMut};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupTarget {
    /// Kind 0: the first record that is still there.
    Earliest,
    /// Kind 1: the high watermark.
    Latest,
    /// Kind 2: the first record of the first batch with a timestamp at or after this, ns since the Unix epoch.
    Timestamp(u64),
    /// Kind 3: the record with this number.
    RecordNumber(u64),
    /// Kind 4: the first record that starts at or after this offset.
    Offset(u64),
}

/// Asks where in a partition something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupOffset {
    /// The partition.
    pub partition: TopicPartition,
    /// What is looked for.
    pub target: LookupTarget,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupOffsetResponse {
    /// Byte offset in the plain record stream.
    pub offset: u64,
    /// Number of the record there.
    pub record_number: u64,
    /// Timestamp of its batch, ns; 0 at the end of the log.
    pub timestamp: u64,
}

impl LookupOffset {
    pub(super) fn decode(payload: &[u8]) -> Option<LookupOffset> {
        let mut reader = PayloadReader::new(payload);
        let partition = TopicPartition::new(TopicId(reader.u32()?), reader.u16()?);
        let kind = reader.u8()?;
        reader.u8()?;
        let value = reader.u64()?;
        let target = match kind {
            0 => LookupTarget::Earliest,
            1 => LookupTarget::Latest,
            2 => LookupTarget::Timestamp(value),
            3 => LookupTarget::RecordNumber(value),
            4 => LookupTarget::Offset(value),
            _ => return None,
        };
        Some(LookupOffset { partition, target })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        let (kind, value) = match self.target {
            LookupTarget::Earliest => (0, 0),
            LookupTarget::Latest => (1, 0),
            LookupTarget::Timestamp(ns) => (2, ns),
            LookupTarget::RecordNumber(number) => (3, number),
            LookupTarget::Offset(offset) => (4, offset),
        };
        out.put_u32_le(self.partition.topic.0);
        out.put_u16_le(self.partition.partition);
        out.put_u8(kind);
        out.put_u8(0);
        out.put_u64_le(value);
    }
}

impl LookupOffsetResponse {
    pub(super) fn decode(payload: &[u8]) -> Option<LookupOffsetResponse> {
        let mut reader = PayloadReader::new(payload);
        Some(LookupOffsetResponse { offset: reader.u64()?, record_number: reader.u64()?, timestamp: reader.u64()? })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.offset);
        out.put_u64_le(self.record_number);
        out.put_u64_le(self.timestamp);
    }
}
