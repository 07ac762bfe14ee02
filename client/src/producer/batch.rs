//! A batch: records of one partition that travel together.

use super::delivery::{BatchOutcome, Outcome};
use crate::error::ClientError;
use crate::links::Link;
use crate::spans::ClientSpan;
use bytes::{BufMut, Bytes, BytesMut};
use lance_messages::id::TopicId;
use lance_messages::wire::Features;
use lance_messages::wire::compression::{Codec, compression_prefix};
use lance_messages::wire::hello::ProducerEpoch;
use lance_messages::wire::produce::{AckOffsets, ProduceHeader};
use lance_messages::wire::trace::crc_with_prefix;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

/// A batch that still takes records.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) records: Vec<u8>,
    pub(super) count: u32,
    pub(super) opened: Instant,
    pub(super) outcome: watch::Sender<Outcome>,
    pub(super) permit: OwnedSemaphorePermit,
    /// Where the application traces what it does.
    pub(super) span: Option<ClientSpan>,
}

/// A batch that is complete.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) records: Bytes,
    pub(super) count: u32,
    pub(super) opened: Instant,
    outcome: watch::Sender<Outcome>,
    /// Given back when the batch is done.
    _permit: OwnedSemaphorePermit,
    /// The payload as sent, and its CRC: made at the first attempt.
    sealed: Option<Sealed>,
    /// Its place in the partition's order, once it had one, and the producer whose order that is.
    pub(super) sequence: Option<(Option<ProducerEpoch>, u32)>,
    /// How often it was sent.
    pub(super) attempts: u32,
    pub(super) span: Option<ClientSpan>,
}

#[derive(Clone, Debug)]
struct Sealed {
    payload: Bytes,
    crc: u32,
    compressed: bool,
}

impl OpenBatch {
    pub(super) fn seal(self) -> Batch {
        Batch {
            records: Bytes::from(self.records),
            count: self.count,
            opened: self.opened,
            outcome: self.outcome,
            _permit: self.permit,
            sealed: None,
            sequence: None,
            attempts: 0,
            span: self.span,
        }
    }
}

impl Batch {
    /// Header and payload for a connection.
    pub(super) fn frame(
        &mut self,
        topic: TopicId,
        partition: u16,
        batch_id: u64,
        codec: Option<Codec>,
        link: &Link,
    ) -> Result<(Bytes, Bytes), ClientError> {
        self.attempts += 1;
        let codec = codec.filter(|_| link.connection.supports(Features::COMPRESSED_INGEST));
        let sealed = match &self.sealed {
            Some(sealed) if !sealed.compressed || codec.is_some() => sealed.clone(),
            _ => self.sealed.insert(seal_payload(&self.records, codec)?).clone(),
        };
        let mut header = ProduceHeader {
            topic,
            partition,
            batch_id,
            timestamp: now_ns(),
            record_count: self.count,
            compressed: sealed.compressed,
            traced: false,
            payload_len: sealed.payload.len() as u32,
            payload_crc: sealed.crc,
        };
        let crc = link.connection.features().unwrap_or_default().header_crc();
        let context = self.span.as_mut().filter(|_| link.connection.supports(Features::TRACE_CONTEXT)).map(|span| {
            span.server(link.connection.address());
            span.context().encode()
        });
        let Some(context) = context else {
            return Ok((Bytes::copy_from_slice(&header.encode(crc)), sealed.payload));
        };
        header.payload_crc = crc_with_prefix(&context, sealed.crc, sealed.payload.len() as u64);
        header.payload_len += context.len() as u32;
        header.traced = true;
        Ok((Bytes::from([&header.encode(crc)[..], &context].concat()), sealed.payload))
    }

    pub(super) fn succeed(self, offsets: Option<AckOffsets>) {
        let base_offset = offsets.map(|offsets| offsets.base_offset).filter(|&base| base != u64::MAX);
        let duplicate = offsets.is_some_and(|offsets| offsets.duplicate);
        let outcome = BatchOutcome { base_offset, records: self.count, duplicate };
        if let Some(span) = self.span {
            span.finish(self.count.into(), self.records.len() as u64);
        }
        self.outcome.send_replace(Some(Ok(outcome)));
    }

    pub(super) fn fail(self, error: ClientError) {
        if let Some(span) = self.span {
            span.fail(&error);
        }
        self.outcome.send_replace(Some(Err(error)));
    }
}

/// Compressed only where that makes it smaller.
fn seal_payload(records: &Bytes, codec: Option<Codec>) -> Result<Sealed, ClientError> {
    if let Some(codec) = codec {
        let compressed = codec.compress(records);
        let compressed = compressed.map_err(|error| ClientError::Compression { reason: error.to_string() })?;
        let prefix = compression_prefix(codec, records.len() as u32);
        if prefix.len() + compressed.len() < records.len() {
            let mut payload = BytesMut::with_capacity(prefix.len() + compressed.len());
            payload.put_slice(&prefix);
            payload.put_slice(&compressed);
            return Ok(Sealed { crc: crc32fast::hash(&payload), payload: payload.freeze(), compressed: true });
        }
    }
    Ok(Sealed { crc: crc32fast::hash(records), payload: records.clone(), compressed: false })
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
