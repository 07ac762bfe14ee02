//! Logs batch by batch, as they are stored: for backups and whoever else copies them whole.

use crate::client::Client;
use crate::connection::Connection;
use crate::error::ClientError;
use crate::links::Links;
use crate::metadata::{TopicInfo, unexpected};
use crate::options::Backoff;
use bytes::Bytes;
use lance_messages::batch::{BATCH_HEADER_BYTES, BatchHeader, BatchPlace, BatchSeed};
use lance_messages::id::TopicPartition;
use lance_messages::wire::fetch::{DataEncoding, FetchList, FetchPartition, FetchPartitions};
use lance_messages::wire::lookup::{LookupOffset, LookupTarget};
use lance_messages::wire::produce::ProduceHeader;
use lance_messages::wire::{Features, Request, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Redirects that are followed at once before the topic is asked about anew.
const MAX_REDIRECTS: u32 = 3;

/// Reads and writes whole batches, over connections of its own.
///
/// ```no_run
/// use lance_client::{Client, ClientOptions};
///
/// # async fn example() -> Result<(), lance_client::ClientError> {
/// let client = Client::connect(ClientOptions::new("127.0.0.1:1992")?).await?;
/// let logs = client.stored_logs().await?;
/// let (start, end) = logs.bounds("orders", 0).await?;
/// let batches = logs.read("orders", 0, start.offset, 1 << 20).await?;
/// println!("{} bytes of {} to {}", batches.data.len(), start.offset, end.offset);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct StoredLogs {
    client: Client,
    links: Links,
}

/// Whole batches, header and records, one after the other; control batches are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredBatches {
    /// Offset of the oldest record of the partition.
    pub log_start: u64,
    /// Offset up to which everything is committed.
    pub high_watermark: u64,
    /// Where to go on.
    pub next_offset: u64,
    /// The batches; empty at the end.
    pub data: Bytes,
}

impl Client {
    /// The logs as they are stored. An older server does not show them.
    pub async fn stored_logs(&self) -> Result<StoredLogs, ClientError> {
        let mut options = self.options().clone();
        options.stored_batches = true;
        let client = Client::connect(options).await?;
        if !client.supports(Features::STORED_BATCHES).await? {
            let address = client.control().await?.address().to_owned();
            return Err(ClientError::Unsupported { address, feature: "reading logs as they are stored" });
        }
        Ok(StoredLogs { links: Links::new(client.clone(), false), client })
    }
}

impl StoredLogs {
    /// Where a partition begins, and the end of what is committed.
    pub async fn bounds(&self, topic: &str, partition: u16) -> Result<(BatchPlace, BatchPlace), ClientError> {
        self.with_leader(topic, partition, async |connection, info| {
            let at = TopicPartition::new(info.id, partition);
            Ok((look_up(&connection, at, LookupTarget::Earliest).await?, {
                look_up(&connection, at, LookupTarget::Latest).await?
            }))
        })
        .await
    }

    /// Committed batches from the one that holds `offset` on: about `max_bytes` at most, and one batch at least.
    pub async fn read(
        &self,
        topic: &str,
        partition: u16,
        offset: u64,
        max_bytes: u32,
    ) -> Result<StoredBatches, ClientError> {
        self.with_leader(topic, partition, async |connection, info| {
            let wanted =
                FetchPartition { partition: TopicPartition::new(info.id, partition), offset, max_bytes, near: false };
            let partitions = FetchList::new(&[wanted]);
            let request = Request::FetchPartitions(FetchPartitions {
                max_wait_ms: 0,
                min_bytes: 0,
                max_bytes,
                partitions,
                rack: String::new(),
            });
            let Response::FetchPartitions(reply) = connection.request(request, "read batches").await? else {
                return Err(unexpected(&connection, "read batches"));
            };
            let Some((fetched, data)) = reply.partitions.into_iter().next() else {
                return Err(unexpected(&connection, "read batches"));
            };
            if let Some(code) = fetched.error {
                return Err(ClientError::from_code(code));
            }
            if fetched.encoding != DataEncoding::StoredBatches {
                return Err(unexpected(&connection, "read batches"));
            }
            let (log_start, high_watermark, next_offset) =
                (fetched.log_start, fetched.high_watermark, fetched.next_offset);
            Ok(StoredBatches { log_start, high_watermark, next_offset, data })
        })
        .await
    }

    /// Stores batches, header and records each, at their own places, in order. What stands there already is left as it is, so
    /// that this may be repeated; a batch that does not follow what is there is refused.
    ///
    /// Their headers are sealed for the topic as it is known here, whatever id it had where they come from.
    pub async fn write(
        &self,
        topic: &str,
        partition: u16,
        batches: &[(BatchHeader, Bytes)],
    ) -> Result<(), ClientError> {
        self.with_leader(topic, partition, async |connection, info| {
            let at = TopicPartition::new(info.id, partition);
            let mut acks = Vec::with_capacity(batches.len());
            for (number, (header, records)) in (0..).zip(batches) {
                let payload = [&header.encode(BatchSeed::new(at))[..], records].concat();
                let frame = ProduceHeader {
                    topic: info.id,
                    partition,
                    batch_id: number,
                    timestamp: header.max_timestamp_ns,
                    record_count: header.record_count,
                    compressed: false,
                    traced: false,
                    payload_len: payload.len() as u32,
                    payload_crc: crc32fast::hash(&payload),
                };
                let crc = connection.features().unwrap_or_default().header_crc();
                let frame = Bytes::copy_from_slice(&frame.encode(crc));
                acks.push(connection.produce(number, frame, payload.into()).await?);
            }
            // Whatever the first failure is, the others only follow from it.
            for mut ack in acks {
                ack.wait().await?;
            }
            Ok(())
        })
        .await
    }

    /// Asks the leader of a partition, wherever it moves, again and again while that can help.
    async fn with_leader<T>(
        &self,
        topic: &str,
        partition: u16,
        ask: impl AsyncFn(Connection, Arc<TopicInfo>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let options = self.client.options();
        let deadline = Instant::now() + options.delivery_timeout;
        let mut backoff = Backoff::new(options.retry_backoff.max(Duration::from_millis(20)));
        let mut redirects = 0;
        loop {
            let asked = async {
                let link = self.links.to_leader(topic, partition, None).await?;
                ask(link.connection, self.client.topic(topic, false).await?).await
            };
            let error = match asked.await {
                Err(error) if error.is_retriable() && Instant::now() < deadline => error,
                outcome => return outcome,
            };
            if self.client.follow(topic, partition, &error) && redirects < MAX_REDIRECTS {
                redirects += 1;
                continue;
            }
            self.client.doubt_topic(topic).await;
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}

async fn look_up(
    connection: &Connection,
    partition: TopicPartition,
    target: LookupTarget,
) -> Result<BatchPlace, ClientError> {
    match connection.request(Request::LookupOffset(LookupOffset { partition, target }), "look up offset").await? {
        Response::LookupOffset(found) => Ok(BatchPlace { offset: found.offset, record: found.record_number }),
        _ => Err(unexpected(connection, "look up offset")),
    }
}

/// Takes stored batches apart, checking every header and every record's bytes; says what is wrong, and at which byte.
pub fn split_stored(data: &Bytes, of: TopicPartition) -> Result<Vec<(BatchHeader, Bytes)>, (usize, String)> {
    let (seed, mut at, mut batches) = (BatchSeed::new(of), 0, Vec::new());
    while at < data.len() {
        let wrong = |reason: String| (at, reason);
        let header = BatchHeader::decode(&data[at..], seed).map_err(|error| wrong(error.to_string()))?;
        let (from, stored_len) = (at + BATCH_HEADER_BYTES, header.stored_len as usize);
        if data.len() - from < stored_len {
            return Err(wrong(format!("a batch of {stored_len} bytes is cut after {}", data.len() - from)));
        }
        let records = data.slice(from..from + stored_len);
        let computed = crc32fast::hash(&records);
        if computed != header.records_crc {
            return Err(wrong(format!(
                "records checksum {:#010x}, their bytes give {computed:#010x}",
                header.records_crc
            )));
        }
        batches.push((header, records));
        at = from + stored_len;
    }
    Ok(batches)
}
