//! What a consumer hands out.

use crate::record::Header;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A record as it was stored. Key and value share the buffer they came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Where it is in the partition's stream.
    pub offset: u64,
    /// Where the record after it starts: what to commit once this one is done.
    pub next_offset: u64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its bytes; `None` for a null record.
    pub value: Option<Bytes>,
    /// Its own timestamp, else that of the newest batch it came with; ns since the Unix epoch.
    pub timestamp_ns: Option<u64>,
    /// Its headers, in the order they were written.
    pub headers: Vec<Header>,
}

impl ConsumedRecord {
    /// The value of the last header with this name.
    ///
    /// ```
    /// use lance_client::{ConsumedRecord, Header};
    ///
    /// let headers = vec![Header::new("try", "1"), Header::new("try", "2")];
    /// let record = ConsumedRecord { headers, ..ConsumedRecord::default() };
    /// assert_eq!(record.header("try").map(|value| &value[..]), Some(&b"2"[..]));
    /// assert_eq!(record.header("other"), None);
    /// ```
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().rev().find(|header| header.name == name).map(|header| &header.value)
    }

    /// [`timestamp_ns`](Self::timestamp_ns) as a system time.
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.timestamp_ns.and_then(|ns| UNIX_EPOCH.checked_add(Duration::from_nanos(ns)))
    }
}

/// Records of one partition, in order.
///
/// ```no_run
/// use lance_client::Consumer;
///
/// # async fn example(consumer: &mut Consumer) -> Result<(), lance_client::ClientError> {
/// let chunk = consumer.next_chunk().await?;
/// for record in &chunk.records {
///     println!("{:?}", record.value);
/// }
/// let lag_bytes = chunk.high_watermark.map(|end| end - chunk.next_offset);
/// # drop(lag_bytes);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedChunk {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// The records; may be empty.
    pub records: Vec<ConsumedRecord>,
    /// Where the next record starts.
    pub next_offset: u64,
    /// Offset up to which everything is committed; `None` on a 1.0 server.
    pub high_watermark: Option<u64>,
}

/// A partition and where a consumer is in it.
///
/// ```
/// use lance_client::Position;
///
/// let begin = Position::new("events", 0, 1024);
/// assert_eq!((&*begin.topic, begin.partition, begin.offset), ("events", 0, 1024));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u16,
    /// Where the next record starts that was not handed out.
    pub offset: u64,
}

impl Position {
    /// An offset of a partition.
    pub fn new(topic: impl Into<Arc<str>>, partition: u16, offset: u64) -> Self {
        Self { topic: topic.into(), partition, offset }
    }
}
