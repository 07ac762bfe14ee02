//! A record on its way in, and its headers.

use crate::error::ClientError;
use bytes::Bytes;
use lance_messages::record::{EncodeRecordError, TLV_HEADER_BYTES, headers_value_bytes, put_data_with_headers};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A named value beside a record's own.
///
/// ```
/// use lance_client::Header;
///
/// let header = Header::new("trace", "4bf92f35");
/// assert_eq!((header.name.as_str(), &header.value[..]), ("trace", &b"4bf92f35"[..]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Its name; several headers of a record may have the same.
    pub name: String,
    /// Its value, any bytes.
    pub value: Bytes,
}

impl Header {
    /// A header.
    pub fn new(name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// What to send, and where.
///
/// Cloning is cheap: topic, key and value are shared.
///
/// ```
/// use lance_client::ProducerRecord;
///
/// let record = ProducerRecord::new("orders", r#"{"total": 12}"#)
///     .with_key("customer 7")
///     .with_header("content-type", "application/json");
/// assert_eq!(&*record.topic, "orders");
/// assert_eq!(record.headers.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerRecord {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partition; without one the producer's partitioner decides.
    pub partition: Option<u16>,
    /// Records with equal keys share a partition.
    pub key: Option<Bytes>,
    /// The bytes.
    pub value: Bytes,
    /// Nanoseconds since the Unix epoch, kept with the record; without it consumers see the time of its batch.
    pub timestamp_ns: Option<u64>,
    /// Named values beside it, in order.
    pub headers: Vec<Header>,
}

impl ProducerRecord {
    /// A value for a topic. Who sends many to one topic makes its name an `Arc<str>` once.
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
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

    /// With a time, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn with_timestamp_ns(mut self, timestamp_ns: u64) -> Self {
        self.timestamp_ns = Some(timestamp_ns);
        self
    }

    /// With a time. Times before 1970 count as 1970.
    ///
    /// ```
    /// use lance_client::ProducerRecord;
    /// use std::time::{Duration, UNIX_EPOCH};
    ///
    /// let record = ProducerRecord::new("events", "x").with_timestamp(UNIX_EPOCH + Duration::from_secs(2));
    /// assert_eq!(record.timestamp_ns, Some(2_000_000_000));
    /// ```
    #[must_use]
    pub fn with_timestamp(self, time: SystemTime) -> Self {
        self.with_timestamp_ns(unix_ns(time))
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header::new(name, value));
        self
    }

    /// Bytes on the wire, before compression.
    pub fn encoded_len(&self) -> usize {
        let key = self.key.as_deref();
        let value = match self.headers.is_empty() {
            true => key.map_or(0, |key| 2 + key.len()) + self.timestamp_ns.map_or(0, |_| 8) + self.value.len(),
            false => headers_value_bytes(key, pairs(&self.headers), &self.value),
        };
        TLV_HEADER_BYTES + value
    }

    /// Appends the record in wire form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ClientError> {
        let headers = pairs(&self.headers);
        let written = put_data_with_headers(out, self.key.as_deref(), self.timestamp_ns, headers, &self.value);
        written.map_err(|error| match error {
            EncodeRecordError::KeyTooLong { bytes } => ClientError::KeyTooLarge { bytes },
            EncodeRecordError::HeaderNameTooLong { bytes } => ClientError::HeaderNameTooLarge { bytes },
            EncodeRecordError::TooManyHeaders { count } => ClientError::TooManyHeaders { count },
            EncodeRecordError::ValueTooLong { bytes } => {
                ClientError::RecordTooLarge { bytes, max_bytes: u32::MAX as usize }
            }
        })
    }
}

fn pairs(headers: &[Header]) -> impl ExactSizeIterator<Item = (&str, &[u8])> + Clone {
    headers.iter().map(|header| (header.name.as_str(), &header.value[..]))
}

/// Nanoseconds since the Unix epoch; 0 before it.
pub(crate) fn unix_ns(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_announced_length_is_that_of_the_bytes() {
        let plain = ProducerRecord::new("t", "value");
        let keyed = plain.clone().with_key("key");
        let timed = keyed.clone().with_timestamp_ns(7);
        let records = [
            plain.clone().with_timestamp_ns(7),
            plain.clone().with_header("a", "b"),
            keyed.clone().with_header("a", "b").with_header("", ""),
            timed.clone().with_header("a", "b"),
            plain,
            keyed,
            timed,
        ];
        for record in records {
            let mut out = Vec::new();
            record.encode(&mut out).unwrap();
            assert_eq!(out.len(), record.encoded_len(), "{record:?}");
        }
    }

    #[test]
    fn what_a_record_cannot_carry_is_named() {
        let mut out = Vec::new();
        let plain = ProducerRecord::new("t", "value");
        let key = plain.clone().with_key(vec![0; 70_000]).encode(&mut out);
        assert_eq!(key, Err(ClientError::KeyTooLarge { bytes: 70_000 }));
        let name = plain.with_header("n".repeat(70_000), "").encode(&mut out);
        assert_eq!(name, Err(ClientError::HeaderNameTooLarge { bytes: 70_000 }));
        assert!(out.is_empty());
    }
}
