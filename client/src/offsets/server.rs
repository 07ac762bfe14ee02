//! Committed offsets on the server.

use super::{OffsetStore, StoreFuture};
use crate::client::{Client, MAX_REDIRECTS};
use crate::connection::Connection;
use crate::consumer::Position;
use crate::error::ClientError;
use crate::links::Links;
use crate::metadata::unexpected;
use crate::options::Backoff;
use lance_messages::id::TopicId;
use lance_messages::wire::request::{CommitOffset, Subscribe};
use lance_messages::wire::{Features, Request, Response};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The committed offsets of one consumer, kept by the server: durable, and found from everywhere.
///
/// Whoever commits under an id last has the last word; for several processes under one name there are groups.
///
/// ```no_run
/// use lance_client::offsets::CommittedOffsets;
/// use lance_client::{Client, ClientOptions, ConsumerOptions, StartOffset};
///
/// # async fn example() -> Result<(), lance_client::ClientError> {
/// let client = Client::connect(ClientOptions::new("127.0.0.1:1992")?).await?;
/// let store = CommittedOffsets::new(client.clone(), CommittedOffsets::id_of_name("billing"));
/// let mut consumer = client.consumer(ConsumerOptions::default()).with_offset_store(store);
/// consumer.assign_committed("orders", None, StartOffset::Earliest).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CommittedOffsets {
    client: Client,
    links: Links,
    consumer_id: u64,
    /// The node that keeps offsets, once another one has named it.
    keeper: Mutex<Option<String>>,
}

impl CommittedOffsets {
    /// The offsets of the consumer with this id.
    pub fn new(client: Client, consumer_id: u64) -> Self {
        Self { links: Links::new(client.clone(), false), client, consumer_id, keeper: Mutex::new(None) }
    }

    /// The id for a consumer with a name: 64-bit FNV-1a, never 0.
    pub fn id_of_name(name: &str) -> u64 {
        let hash = name
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
        hash.max(1)
    }

    /// The last committed offset; 0 when nothing was committed.
    pub async fn fetch(&self, topic: &str, partition: u16) -> Result<u64, ClientError> {
        let consumer_id = self.consumer_id;
        let subscribe =
            |topic| Request::Subscribe(Subscribe { topic, start_offset: 0, max_batch_bytes: 0, consumer_id });
        match self.ask(topic, partition, subscribe, "subscribe").await? {
            (_, Response::SubscribeAck { offset, .. }) => Ok(offset),
            (connection, _) => Err(unexpected(&connection, "subscribe")),
        }
    }

    /// Stores an offset; it is durable when this returns.
    pub async fn commit(&self, topic: &str, partition: u16, offset: u64) -> Result<(), ClientError> {
        let consumer_id = self.consumer_id;
        let commit = |topic| Request::CommitOffset(CommitOffset { topic, consumer_id, offset });
        match self.ask(topic, partition, commit, "commit offset").await? {
            (_, Response::CommitAck { .. }) => Ok(()),
            (connection, _) => Err(unexpected(&connection, "commit offset")),
        }
    }

    /// Asks the node that keeps offsets, wherever it moves, again and again while that can help.
    async fn ask(
        &self,
        topic: &str,
        partition: u16,
        request: impl Fn(TopicId) -> Request,
        what: &'static str,
    ) -> Result<(Connection, Response), ClientError> {
        let options = self.client.options();
        let deadline = Instant::now() + options.delivery_timeout;
        let mut backoff = Backoff::new(options.retry_backoff);
        let mut redirects = 0;
        let mut keeper = self.keeper.lock().await;
        loop {
            let asked = async {
                let info = self.client.topic(topic, false).await?;
                let link = match keeper.as_ref() {
                    Some(address) => self.links.to(address, None).await?,
                    None => self.links.to_leader(topic, partition, None).await?,
                };
                check_partition(&link.connection, partition)?;
                let asked = link.connection.request_for(request(info.id), partition, None, what, Duration::ZERO).await;
                asked.map(|response| (link.connection, response))
            };
            let error = match asked.await {
                Err(error) if error.is_retriable() && Instant::now() < deadline => error,
                outcome => return outcome,
            };
            *keeper = error.redirect().map(str::to_owned);
            if keeper.is_some() && redirects < MAX_REDIRECTS {
                redirects += 1;
                continue;
            }
            self.client.doubt_topic(topic).await;
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
}

impl OffsetStore for CommittedOffsets {
    fn load<'a>(&'a self, topic: &'a str, partition: u16) -> StoreFuture<'a, Option<u64>> {
        // The protocol has one answer for "nothing" and "at the beginning".
        Box::pin(async move { Ok(Some(self.fetch(topic, partition).await?).filter(|&offset| offset != 0)) })
    }

    fn store<'a>(&'a self, positions: &'a [Position]) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            for position in positions {
                self.commit(&position.topic, position.partition, position.offset).await?;
            }
            Ok(())
        })
    }
}

fn check_partition(connection: &Connection, partition: u16) -> Result<(), ClientError> {
    if partition == 0 || connection.supports(Features::PARTITIONS) {
        return Ok(());
    }
    Err(ClientError::Unsupported { address: connection.address().to_owned(), feature: "partitions" })
}
