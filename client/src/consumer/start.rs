//! Where to begin reading.

use crate::client::Client;
use crate::connection::Connection;
use crate::error::ClientError;
use crate::metadata::{TopicInfo, unexpected};
use crate::record::unix_ns;
use lance_messages::id::TopicPartition;
use lance_messages::wire::fetch::{END_OFFSET, Fetch};
use lance_messages::wire::lookup::{LookupOffset, LookupTarget};
use lance_messages::wire::{Features, Request, Response};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where to begin reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOffset {
    /// At the oldest record.
    Earliest,
    /// After the newest.
    Latest,
    /// At this offset.
    At(u64),
    /// At the first batch with a timestamp at or after this, ns since the Unix epoch.
    Timestamp(u64),
}

impl StartOffset {
    /// At the first batch with a timestamp at or after `time`.
    ///
    /// ```
    /// use lance_client::StartOffset;
    /// use std::time::{Duration, UNIX_EPOCH};
    ///
    /// assert_eq!(StartOffset::at_time(UNIX_EPOCH + Duration::from_secs(1)), StartOffset::Timestamp(1_000_000_000));
    /// ```
    pub fn at_time(time: SystemTime) -> Self {
        Self::Timestamp(unix_ns(time))
    }
}

/// The offset a start stands for.
pub(crate) async fn resolve(
    client: &Client,
    topic: &str,
    partition: u16,
    start: StartOffset,
) -> Result<u64, ClientError> {
    let target = match start {
        StartOffset::At(offset) => return Ok(offset),
        StartOffset::Earliest => LookupTarget::Earliest,
        StartOffset::Latest => LookupTarget::Latest,
        StartOffset::Timestamp(ns) => LookupTarget::Timestamp(ns),
    };
    let ask = async |connection: Connection, topic: Arc<TopicInfo>| {
        if !connection.supports(Features::LOOKUP) {
            return resolve_1_0(&connection, &topic, partition, target).await;
        }
        let lookup = LookupOffset { partition: TopicPartition::new(topic.id, partition), target };
        match connection.request_for(Request::LookupOffset(lookup), partition, None, "lookup", Duration::ZERO).await? {
            Response::LookupOffset(found) => Ok(found.offset),
            _ => Err(unexpected(&connection, "lookup")),
        }
    };
    client.ask_leader(topic, partition, ask).await
}

/// Without LookupOffset: the log start is wherever a fetch from 0 finds itself, and a fetch past the end names it.
async fn resolve_1_0(
    connection: &Connection,
    topic: &TopicInfo,
    partition: u16,
    target: LookupTarget,
) -> Result<u64, ClientError> {
    let unsupported = |feature| ClientError::Unsupported { address: connection.address().to_owned(), feature };
    if partition != 0 {
        return Err(unsupported("partitions"));
    }
    match target {
        LookupTarget::Earliest => Ok(0),
        LookupTarget::Latest => {
            let fetch = Fetch { topic: topic.id, offset: END_OFFSET, max_bytes: 0 };
            match connection.request(Request::Fetch(fetch), "fetch").await? {
                Response::Fetch { next_offset, .. } => Ok(next_offset),
                Response::CatchingUp { end_offset } => Ok(end_offset),
                _ => Err(unexpected(connection, "fetch")),
            }
        }
        LookupTarget::Timestamp(_) | LookupTarget::RecordNumber(_) | LookupTarget::Offset(_) => {
            Err(unsupported("look-up by time"))
        }
    }
}
