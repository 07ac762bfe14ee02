//! How a consumer fetches.

use std::time::Duration;

/// How a consumer fetches.
///
/// ```
/// use lance_client::{ConsumerOptions, OutOfRange};
///
/// let options = ConsumerOptions { out_of_range: OutOfRange::Error, ..ConsumerOptions::default() };
/// assert_eq!(options.prefetch_bytes, 32 * 1024 * 1024);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerOptions {
    /// Most bytes in one answer, over all partitions.
    pub max_bytes: u32,
    /// Most bytes of one partition in one answer.
    pub partition_max_bytes: u32,
    /// How long the server waits for `min_bytes`.
    pub max_wait: Duration,
    /// Bytes worth answering for.
    pub min_bytes: u32,
    /// Most bytes fetched ahead of what was handed out, those on their way included; one record that is larger than all
    /// of it comes nevertheless.
    pub prefetch_bytes: usize,
    /// What to do at an offset that the partition does not have, or no longer.
    pub out_of_range: OutOfRange,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            max_bytes: 8 * 1024 * 1024,
            partition_max_bytes: 4 * 1024 * 1024,
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            prefetch_bytes: 32 * 1024 * 1024,
            out_of_range: OutOfRange::default(),
        }
    }
}

/// What to do at an offset that the partition does not have: before its oldest record, because retention removed what was
/// there, or after its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutOfRange {
    /// Go on at the oldest record.
    #[default]
    Earliest,
    /// Go on after the newest.
    Latest,
    /// Report [`ClientError::OffsetOutOfRange`](crate::ClientError::OffsetOutOfRange) and read the partition no further.
    Error,
}
