//! A record on its way in.

use crate::error::ClientError;
use bytes::Bytes;
use lance_messages::record::{EncodeRecordError, put_data};

/// What to send, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerRecord {
    /// Name of the topic.
    pub topic: String,
    /// The partition; without one the key decides, and without a key either the producer does.
    pub partition: Option<u16>,
    /// Records with equal keys share a partition.
    pub key: Option<Bytes>,
    /// The bytes.
    pub value: Bytes,
    /// Nanoseconds since the Unix epoch, kept with the record.
    pub timestamp_ns: Option<u64>,
}

impl ProducerRecord {
    /// A value for a topic.
    pub fn new(topic: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), value: value.into(), ..Self::default() }
    }

    /// With a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// For one partition.
    #[must_use]
    pub fn with_partition(mut self, partition: u16) -> Self {
        self.partition = Some(partition);
        self
    }

    /// With a time.
    #[must_use]
    pub fn with_timestamp_ns(mut self, timestamp_ns: u64) -> Self {
        self.timestamp_ns = Some(timestamp_ns);
        self
    }

    /// Bytes on the wire.
    pub fn encoded_len(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| 2 + key.len());
        let time = if self.timestamp_ns.is_some() { 8 } else { 0 };
        lance_messages::record::TLV_HEADER_BYTES + key + time + self.value.len()
    }

    /// Appends the record in wire form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ClientError> {
        put_data(out, self.key.as_deref(), self.timestamp_ns, &self.value).map_err(|error| match error {
            EncodeRecordError::KeyTooLong { bytes } => ClientError::KeyTooLarge { bytes },
            EncodeRecordError::ValueTooLong { bytes } => {
                ClientError::RecordTooLarge { bytes, max_bytes: u32::MAX as usize }
            }
        })
    }
}
