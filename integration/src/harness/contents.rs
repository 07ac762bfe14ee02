//! What is in a topic, so that two of them can be compared record by record.

use super::{PATIENCE, eventually};
use lance_client::consumer::Position;
use lance_client::{Client, ClientOptions, ConsumerOptions};
use std::sync::Arc;

/// One record: offset, key, value.
pub type Content = (u64, Option<Vec<u8>>, Option<Vec<u8>>);

/// A topic as a client sees it.
pub struct TopicView {
    runtime: tokio::runtime::Runtime,
    client: Client,
    topic: String,
}

impl TopicView {
    /// The topic at these servers.
    pub fn new(servers: &str, topic: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async { Client::connect(ClientOptions::new(servers).unwrap()).await.unwrap() });
        Self { runtime, client, topic: topic.to_owned() }
    }

    /// The end of a partition; `None` while nobody can say.
    pub fn end(&self, partition: u16) -> Option<u64> {
        let consumer = self.client.consumer(ConsumerOptions::default());
        self.runtime.block_on(async { consumer.end_offset(&self.topic, partition).await.ok() })
    }

    /// Every record of a partition.
    pub fn read(&self, partition: u16) -> Vec<Content> {
        let end = eventually("the end of the partition", || self.end(partition));
        self.runtime.block_on(async {
            let mut consumer = self.client.consumer(ConsumerOptions::default());
            consumer.assign_at(&[Position { topic: Arc::from(self.topic.as_str()), partition, offset: 0 }]);
            let (mut found, mut offset) = (Vec::new(), 0);
            while offset < end {
                let chunk = tokio::time::timeout(PATIENCE, consumer.next_chunk()).await.expect("records come").unwrap();
                let bytes = |field: Option<bytes::Bytes>| field.map(|bytes| bytes.to_vec());
                found.extend(chunk.records.into_iter().map(|it| (it.offset, bytes(it.key), bytes(it.value))));
                offset = chunk.next_offset;
            }
            found
        })
    }

    /// Waits until the other topic is as long, in every partition, and fails if it does not hold the same records.
    pub fn expect_same(&self, other: &TopicView, partitions: u16) {
        for partition in 0..partitions {
            eventually(&format!("partition {partition} of the copy is as long as the original"), || {
                let (mine, theirs) = (self.end(partition)?, other.end(partition)?);
                assert!(theirs <= mine, "partition {partition}: the copy has {theirs} bytes, the original {mine}");
                (mine == theirs).then_some(())
            });
            let (mine, theirs) = (self.read(partition), other.read(partition));
            let differs = mine.iter().zip(&theirs).position(|(mine, theirs)| mine != theirs);
            assert_eq!(differs, None, "partition {partition}: records differ");
            assert_eq!(mine.len(), theirs.len(), "partition {partition}");
        }
    }
}
