//! What is produced is consumed: with and without Hello, over partitions, cuts and compression.

use crate::support::{Toy, all_features};
use lance_client::offsets::CommittedOffsets;
use lance_client::*;
use std::collections::BTreeMap;

/// Reads `count` records of a topic: values by partition, in order.
async fn read(client: &Client, topic: &str, count: usize, options: ConsumerOptions) -> BTreeMap<u16, Vec<String>> {
    let mut consumer = client.consumer(options);
    consumer.assign(topic, None, StartOffset::Earliest).await.unwrap();
    let mut values: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for _ in 0..count {
        let (_, partition, record) = consumer.next().await.unwrap();
        values.entry(partition).or_default().push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
    }
    values
}

#[tokio::test]
async fn records_come_back_in_order_with_key_time_and_offset() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let client = toy.client().await;
    let producer = client.producer(ProducerOptions::default());
    let plain = producer.send(ProducerRecord::new("events", "one")).await.unwrap().await.unwrap();
    assert_eq!((plain.partition, plain.offset, plain.batch_records), (0, Some(0), 1));
    let keyed = ProducerRecord::new("events", "two").with_key("k").with_timestamp_ns(7);
    let keyed = producer.send(keyed).await.unwrap().await.unwrap();
    assert_eq!(keyed.offset, Some(8));
    let mut consumer = client.consumer(ConsumerOptions::default());
    consumer.assign("events", None, StartOffset::Earliest).await.unwrap();
    let (topic, _, first) = consumer.next().await.unwrap();
    assert_eq!((&*topic, first.offset, first.key, first.timestamp_ns), ("events", 0, None, Some(99)));
    let (_, _, second) = consumer.next().await.unwrap();
    assert_eq!((second.offset, second.key.as_deref(), second.timestamp_ns), (8, Some(&b"k"[..]), Some(7)));
    assert_eq!(second.value.as_deref(), Some(&b"two"[..]));
}

#[tokio::test]
async fn a_flood_arrives_in_order_in_few_batches_and_through_any_cut() {
    for codec in [None, Some(Codec::Lz4), Some(Codec::Zstd)] {
        let toy = Toy::start(Some(all_features()), 1).await;
        let client = toy.client().await;
        let options = ProducerOptions { batch_bytes: 4096, compression: codec, ..ProducerOptions::default() };
        let producer = client.producer(options);
        for at in 0..5000 {
            producer.send(ProducerRecord::new("flood", format!("record {at}"))).await.unwrap();
        }
        producer.flush().await;
        assert!(toy.state.lock().unwrap().topics[0].1[0].batches < 500);
        let small = ConsumerOptions { partition_max_bytes: 1001, ..ConsumerOptions::default() };
        let read = read(&client, "flood", 5000, small).await;
        let expected: Vec<_> = (0..5000).map(|at| format!("record {at}")).collect();
        assert_eq!(read[&0], expected);
    }
}

#[tokio::test]
async fn keys_choose_partitions_and_keep_their_order() {
    let toy = Toy::start(Some(all_features()), 4).await;
    let client = toy.client().await;
    let producer = client.producer(ProducerOptions { batch_bytes: 500, ..ProducerOptions::default() });
    for at in 0..1000u32 {
        let key = format!("key {}", at % 10);
        producer.send(ProducerRecord::new("keyed", format!("{at:04}")).with_key(key)).await.unwrap();
    }
    producer.flush().await;
    let read = read(&client, "keyed", 1000, ConsumerOptions::default()).await;
    for (partition, values) in &read {
        for values in values.windows(2).filter(|pair| pair[0][3..] == pair[1][3..]) {
            assert!(values[0] < values[1], "partition {partition}");
        }
    }
    assert!(read.len() > 1);
    let explicit = ProducerRecord::new("keyed", "x").with_partition(9);
    assert!(matches!(producer.send(explicit).await, Err(ClientError::UnknownPartition { partition: 9, count: 4, .. })));
}

#[tokio::test]
async fn a_1_0_server_is_spoken_to_as_such() {
    let toy = Toy::start(None, 0).await;
    let client = toy.client().await;
    let producer = client.producer(ProducerOptions { batch_bytes: 100, ..ProducerOptions::default() });
    let first = producer.send(ProducerRecord::new("old", "record 0")).await.unwrap().await.unwrap();
    assert_eq!(first.offset, None);
    for at in 1..200 {
        producer.send(ProducerRecord::new("old", format!("record {at}"))).await.unwrap();
    }
    producer.flush().await;
    let read = read(&client, "old", 200, ConsumerOptions { partition_max_bytes: 77, ..Default::default() }).await;
    assert_eq!(read[&0], (0..200).map(|at| format!("record {at}")).collect::<Vec<_>>());
    let consumer = client.consumer(ConsumerOptions::default());
    assert_eq!(
        consumer.end_offset("old", 0).await.unwrap(),
        toy.state.lock().unwrap().topics[0].1[0].stream.len() as u64
    );
    let offsets = CommittedOffsets::new(client.clone(), 5);
    offsets.commit("old", 0, 13).await.unwrap();
    assert_eq!(offsets.fetch("old", 0).await.unwrap(), 13);
    assert_eq!(client.admin().list_topics().await.unwrap()[0].name, "old");
}

#[tokio::test]
async fn a_long_poll_returns_as_soon_as_there_is_a_record() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let client = toy.client().await;
    client.topic("late", true).await.unwrap();
    let mut consumer =
        client.consumer(ConsumerOptions { max_wait: std::time::Duration::from_secs(20), ..ConsumerOptions::default() });
    consumer.assign("late", None, StartOffset::Latest).await.unwrap();
    let producer = client.producer(ProducerOptions::default());
    let (record, sent) = tokio::join!(consumer.next(), producer.send(ProducerRecord::new("late", "now")));
    sent.unwrap();
    assert_eq!(record.unwrap().2.value.as_deref(), Some(&b"now"[..]));
}

#[tokio::test]
async fn a_missing_topic_is_an_error_where_the_server_creates_none() {
    let toy = Toy::start(Some(all_features()), 0).await;
    let client = toy.client().await;
    let producer = client.producer(ProducerOptions::default());
    let refused = producer.send(ProducerRecord::new("nowhere", "x")).await;
    assert!(matches!(refused, Err(ClientError::UnknownTopic { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_address_without_a_server_is_named_in_the_error() {
    let refused = Client::connect(ClientOptions::new("127.0.0.1:1").unwrap()).await.unwrap_err();
    assert!(refused.to_string().contains("127.0.0.1:1"));
    assert!(refused.is_retriable());
}
