//! A batch: records of one partition that travel together.

use super::delivery::{BatchOutcome, Teller};
use crate::error::ClientError;
use crate::links::Link;
use crate::record::unix_ns;
use crate::spans::ClientSpan;
use bytes::{BufMut, Bytes, BytesMut};
use lance_messages::id::TopicId;
use lance_messages::wire::Features;
use lance_messages::wire::compression::{Codec, compression_prefix};
use lance_messages::wire::hello::ProducerEpoch;
use lance_messages::wire::produce::{AckOffsets, ProduceHeader};
use lance_messages::wire::trace::crc_with_prefix;
use std::time::SystemTime;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// A batch that still takes records.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) records: Vec<u8>,
    pub(super) count: u32,
    pub(super) opened: Instant,
    pub(super) teller: Teller,
    pub(super) permit: OwnedSemaphorePermit,
    /// Where the application traces what it does.
    pub(super) span: Option<Box<ClientSpan>>,
}

/// A batch that is complete.
#[derive(Debug)]
pub(super) struct Batch {
    body: Body,
    /// Of the body, once it was needed.
    crc: Option<u32>,
    pub(super) count: u32,
    /// Bytes of its records, as stored.
    pub(super) plain_bytes: u64,
    pub(super) opened: Instant,
    teller: Teller,
    /// Given back when the batch is done.
    _permit: OwnedSemaphorePermit,
    /// Its place in the partition's order, once it had one, and the producer whose order that is.
    pub(super) sequence: Option<(Option<ProducerEpoch>, u32)>,
    /// How often it was sent.
    pub(super) attempts: u32,
    pub(super) span: Option<Box<ClientSpan>>,
}

/// Records as they are sent; never both ways, so that a batch takes no more memory than its records.
#[derive(Clone, Debug)]
enum Body {
    /// Not compressed; `tried`: since that would not make them smaller.
    Plain { records: Bytes, tried: bool },
    /// With the prefix that names the codec.
    Compressed { payload: Bytes, codec: Codec },
}

impl OpenBatch {
    pub(super) fn seal(self) -> Batch {
        Batch {
            plain_bytes: self.records.len() as u64,
            body: Body::Plain { records: Bytes::from(self.records), tried: false },
            crc: None,
            count: self.count,
            opened: self.opened,
            teller: self.teller,
            _permit: self.permit,
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
        self.prepare(codec)?;
        let (payload, compressed) = match &self.body {
            Body::Plain { records, .. } => (records.clone(), false),
            Body::Compressed { payload, .. } => (payload.clone(), true),
        };
        let max_bytes = link.connection.max_payload_bytes() as usize;
        if payload.len() > max_bytes {
            return Err(ClientError::RecordTooLarge { bytes: payload.len(), max_bytes });
        }
        let mut header = ProduceHeader {
            topic,
            partition,
            batch_id,
            timestamp: unix_ns(SystemTime::now()),
            record_count: self.count,
            compressed,
            traced: false,
            payload_len: payload.len() as u32,
            payload_crc: *self.crc.get_or_insert_with(|| crc32fast::hash(&payload)),
        };
        let crc = link.connection.features().unwrap_or_default().header_crc();
        let context = self.span.as_mut().filter(|_| link.connection.supports(Features::TRACE_CONTEXT)).map(|span| {
            span.server(link.connection.address());
            span.context().encode()
        });
        let Some(context) = context else {
            return Ok((Bytes::copy_from_slice(&header.encode(crc)), payload));
        };
        header.payload_crc = crc_with_prefix(&context, header.payload_crc, payload.len() as u64);
        header.payload_len += context.len() as u32;
        header.traced = true;
        Ok((Bytes::from([&header.encode(crc)[..], &context].concat()), payload))
    }

    /// Compresses the records where that makes them smaller, or makes them plain for who takes nothing else.
    fn prepare(&mut self, codec: Option<Codec>) -> Result<(), ClientError> {
        let body = match (&self.body, codec) {
            (Body::Plain { records, tried: false }, Some(codec)) => compress(records, codec)?,
            (Body::Compressed { payload, codec }, None) => {
                let compressed = payload.slice(compression_prefix(*codec, 0).len()..);
                let records = codec.decompress(&compressed, self.plain_bytes as usize);
                Body::Plain { records: Bytes::from(records.map_err(failed)?), tried: false }
            }
            _ => return Ok(()),
        };
        (self.body, self.crc) = (body, None);
        Ok(())
    }

    pub(super) fn succeed(mut self, offsets: Option<AckOffsets>) {
        let base_offset = offsets.map(|offsets| offsets.base_offset).filter(|&base| base != u64::MAX);
        let duplicate = offsets.is_some_and(|offsets| offsets.duplicate);
        if let Some(span) = self.span.take() {
            span.finish(self.count.into(), self.plain_bytes);
        }
        self.teller.tell(Ok(BatchOutcome { base_offset, records: self.count, duplicate }));
    }

    pub(super) fn fail(mut self, error: ClientError) {
        if let Some(span) = self.span.take() {
            span.fail(&error);
        }
        self.teller.tell(Err(error));
    }
}

fn compress(records: &Bytes, codec: Codec) -> Result<Body, ClientError> {
    let compressed = codec.compress(records).map_err(failed)?;
    let prefix = compression_prefix(codec, records.len() as u32);
    if prefix.len() + compressed.len() >= records.len() {
        return Ok(Body::Plain { records: records.clone(), tried: true });
    }
    let mut payload = BytesMut::with_capacity(prefix.len() + compressed.len());
    payload.put_slice(&prefix);
    payload.put_slice(&compressed);
    Ok(Body::Compressed { payload: payload.freeze(), codec })
}

fn failed(error: impl ToString) -> ClientError {
    ClientError::Compression { reason: error.to_string() }
}
