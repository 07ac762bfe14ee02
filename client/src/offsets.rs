//! Committed offsets: how far a consumer is.

use crate::client::Client;
use crate::connection::Connection;
use crate::error::ClientError;
use crate::links::Links;
use crate::metadata::unexpected;
use lance_messages::wire::request::{CommitOffset, Subscribe};
use lance_messages::wire::{Features, Request, Response};
use std::time::Duration;

/// Reads and writes the committed offsets of one consumer.
#[derive(Debug)]
pub struct CommittedOffsets {
    client: Client,
    links: Links,
    consumer_id: u64,
}

impl CommittedOffsets {
    /// The offsets of the consumer with this id.
    pub fn new(client: Client, consumer_id: u64) -> Self {
        Self { links: Links::new(client.clone(), false), client, consumer_id }
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
        let info = self.client.topic(topic, false).await?;
        let link = self.links.to_leader(topic, partition, None).await?;
        check_partition(&link.connection, partition)?;
        let subscribe =
            Subscribe { topic: info.id, start_offset: 0, max_batch_bytes: 0, consumer_id: self.consumer_id };
        let request = Request::Subscribe(subscribe);
        match link.connection.request_for(request, partition, None, "subscribe", Duration::ZERO).await? {
            Response::SubscribeAck { offset, .. } => Ok(offset),
            _ => Err(unexpected(&link.connection, "subscribe")),
        }
    }

    /// Stores an offset; it is durable when this returns.
    pub async fn commit(&self, topic: &str, partition: u16, offset: u64) -> Result<(), ClientError> {
        let info = self.client.topic(topic, false).await?;
        let link = self.links.to_leader(topic, partition, None).await?;
        check_partition(&link.connection, partition)?;
        let request = Request::CommitOffset(CommitOffset { topic: info.id, consumer_id: self.consumer_id, offset });
        match link.connection.request_for(request, partition, None, "commit offset", Duration::ZERO).await? {
            Response::CommitAck { .. } => Ok(()),
            _ => Err(unexpected(&link.connection, "commit offset")),
        }
    }
}

fn check_partition(connection: &Connection, partition: u16) -> Result<(), ClientError> {
    if partition == 0 || connection.supports(Features::PARTITIONS) {
        return Ok(());
    }
    Err(ClientError::Unsupported { address: connection.address().to_owned(), feature: "partitions" })
}
