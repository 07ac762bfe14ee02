//! What a producer takes, gives back, counts and promises.

use crate::support::{Fault, Toy, all_features};
use lance_client::partitioner::RoundRobin;
use lance_client::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn record(number: usize) -> ProducerRecord {
    ProducerRecord::new("events", format!("record {number:03}"))
}

fn stored(toy: &Toy, partition: usize) -> Vec<String> {
    let state = toy.state.lock().unwrap();
    let records = lance_messages::record::records(&state.topics[0].1[partition].stream);
    records.map(|record| String::from_utf8(record.unwrap().parts().unwrap().data.unwrap().to_vec()).unwrap()).collect()
}

fn all(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("record {at:03}")).collect()
}

/// A producer with room for two records of 15 bytes.
fn tight() -> ProducerOptions {
    ProducerOptions { buffer_bytes: 30, ..ProducerOptions::default() }
}

#[tokio::test]
async fn a_full_buffer_gives_records_back_and_makes_others_wait_until_there_is_room() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let producer = toy.client().await.producer(tight());
    producer.partitions_of("events").await.unwrap();
    toy.stalled.send_replace(true);
    let first = producer.try_send(record(0)).unwrap();
    producer.try_send(record(1)).unwrap();
    let refused = producer.try_send(record(2)).unwrap_err();
    assert!(refused.is_full() && refused.error().is_retriable(), "{refused}");
    assert_eq!(producer.stats().in_flight_bytes, 30);
    let waiting = producer.send(refused.into_record());
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    toy.stalled.send_replace(false);
    waiting.await.unwrap().await.unwrap();
    first.await.unwrap();
    producer.flush().await;
    assert_eq!(stored(&toy, 0), all(3));
    assert_eq!(producer.stats().in_flight_bytes, 0);
}

#[tokio::test]
async fn a_record_larger_than_the_buffer_waits_for_all_of_it_and_goes() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let producer = toy.client().await.producer(tight());
    for number in 0..3 {
        producer.send(ProducerRecord::new("events", vec![number; 100])).await.unwrap();
    }
    producer.flush().await;
    assert_eq!(stored(&toy, 0).len(), 3);
    let refused = producer.send(ProducerRecord::new("events", vec![0; 17 << 20])).await.unwrap_err();
    assert!(matches!(refused, ClientError::RecordTooLarge { .. }), "{refused}");
}

#[tokio::test]
async fn without_waiting_a_topic_must_be_known() {
    let toy = Toy::start(Some(all_features()), 3).await;
    let producer = toy.client().await.producer(ProducerOptions::default());
    let refused = producer.try_send(record(0)).unwrap_err();
    assert!(matches!(refused.error(), ClientError::TopicNotReady { topic } if topic == "events"));
    assert_eq!(producer.partitions_of("events").await.unwrap(), 3);
    producer.try_send(refused.into_record()).unwrap().await.unwrap();
}

#[tokio::test]
async fn a_closed_producer_has_delivered_everything_and_takes_nothing() {
    let toy = Toy::start(Some(all_features()), 1).await;
    toy.fail_next([Fault::None, Fault::StoreAndDrop]);
    let options = ProducerOptions { linger: Duration::from_secs(3600), batch_bytes: 64, ..ProducerOptions::default() };
    let producer = toy.client().await.producer(options);
    for number in 0..50 {
        producer.send(record(number)).await.unwrap();
    }
    producer.close().await;
    assert_eq!(stored(&toy, 0), all(50));
    let closed = ClientError::Closed { what: "producer" };
    assert_eq!(producer.send(record(51)).await.unwrap_err(), closed);
    assert_eq!(producer.clone().try_send(record(51)).unwrap_err().error(), &closed);
    producer.close().await;
    assert_eq!(stored(&toy, 0).len(), 50);
}

#[tokio::test]
async fn who_waits_for_room_hears_that_the_producer_was_closed() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let producer = toy.client().await.producer(tight());
    producer.partitions_of("events").await.unwrap();
    toy.stalled.send_replace(true);
    producer.try_send(record(0)).unwrap();
    producer.try_send(record(1)).unwrap();
    let other = producer.clone();
    let waiting = tokio::spawn(async move { other.send(record(2)).await });
    tokio::task::yield_now().await;
    let closing = producer.close();
    tokio::pin!(closing);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut closing).await.is_err(), "two are under way");
    assert_eq!(waiting.await.unwrap().unwrap_err(), ClientError::Closed { what: "producer" });
    toy.stalled.send_replace(false);
    closing.await;
    assert_eq!(stored(&toy, 0), all(2));
}

#[tokio::test]
async fn batches_linger_until_they_are_full_or_their_time_has_come() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let client = toy.client().await;
    let options = ProducerOptions { linger: Duration::from_secs(3600), batch_bytes: 45, ..ProducerOptions::default() };
    let producer = client.producer(options.clone());
    let deliveries: Vec<_> =
        futures(&producer, 0..3).await.into_iter().map(|delivery| delivery.into_future()).collect();
    for delivery in deliveries {
        assert_eq!(delivery.await.unwrap().batch_records, 3);
    }
    let short = client.producer(ProducerOptions { linger: Duration::from_millis(20), ..options });
    let lone = short.send(record(3)).await.unwrap().await.unwrap();
    assert_eq!(lone.batch_records, 1);
    assert_eq!(stored(&toy, 0), all(4));
}

async fn futures(producer: &Producer, range: std::ops::Range<usize>) -> Vec<DeliveryFuture> {
    let mut deliveries = Vec::new();
    for number in range {
        deliveries.push(producer.send(record(number)).await.unwrap());
    }
    deliveries
}

#[tokio::test]
async fn a_full_buffer_ends_the_lingering() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let options = ProducerOptions { linger: Duration::from_secs(3600), ..tight() };
    let producer = toy.client().await.producer(options);
    for number in 0..20 {
        let sent = tokio::time::timeout(Duration::from_secs(30), producer.send(record(number))).await;
        sent.expect("there is room in the end").unwrap();
    }
    producer.flush().await;
    assert_eq!(stored(&toy, 0), all(20));
}

#[tokio::test]
async fn callbacks_come_once_each_in_the_order_of_their_partition() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let too_large = lance_messages::error_code::ErrorCode::TooLarge;
    let calm = std::iter::repeat_n(Fault::None, 12);
    toy.fail_next([Fault::None, Fault::Refuse(too_large)].into_iter().chain(calm).chain([Fault::StoreAndDrop]));
    let options = ProducerOptions { batch_bytes: 64, ..ProducerOptions::default() };
    let producer = toy.client().await.producer(options);
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    for number in 0..60 {
        let outcomes = Arc::clone(&outcomes);
        let done = move |outcome: Result<Delivery, ClientError>| {
            outcomes.lock().unwrap().push((number, outcome.map(|delivery| delivery.offset.unwrap())));
        };
        producer.send_with(record(number), done).await.unwrap();
    }
    producer.close().await;
    let outcomes = outcomes.lock().unwrap();
    let delivered: Vec<_> =
        outcomes.iter().filter_map(|(number, offset)| Some((*number, *offset.as_ref().ok()?))).collect();
    let failed = outcomes.len() - delivered.len();
    assert!((1..=4).contains(&failed), "one batch failed: {outcomes:?}");
    assert_eq!(outcomes.len(), 60);
    assert!(delivered.is_sorted());
    let expected = stored(&toy, 0);
    for (at, (number, offset)) in delivered.iter().enumerate() {
        assert_eq!((expected[at].as_str(), *offset), (format!("record {number:03}").as_str(), at as u64 * 15));
    }
    let stats = producer.stats();
    assert_eq!((stats.records, stats.failed_records), (60 - failed as u64, failed as u64));
    assert_eq!(stats.bytes, stats.records * 15);
    assert!(stats.retries >= 1 && stats.duplicates >= 1 && stats.batches >= 14, "{stats:?}");
}

#[tokio::test]
async fn partitioners_choose_where_records_name_no_partition() {
    let toy = Toy::start(Some(all_features()), 3).await;
    let client = toy.client().await;
    let turns = ProducerOptions { partitioner: Some(Arc::new(RoundRobin::default())), ..ProducerOptions::default() };
    let producer = client.producer(turns);
    for number in 0..6 {
        let delivery = producer.send(record(number).with_key("same")).await.unwrap().await.unwrap();
        assert_eq!(usize::from(delivery.partition), number % 3);
    }
    let delivery = producer.send(record(6).with_partition(2)).await.unwrap().await.unwrap();
    assert_eq!(delivery.partition, 2);
    let wrong = |_: &ProducerRecord, partitions: u16| Some(partitions);
    let producer =
        client.producer(ProducerOptions { partitioner: Some(Arc::new(wrong)), ..ProducerOptions::default() });
    let refused = producer.send(record(7)).await.unwrap_err();
    assert!(matches!(refused, ClientError::UnknownPartition { partition: 3, count: 3, .. }), "{refused}");
}

#[tokio::test]
async fn partitions_that_a_topic_gets_later_are_used() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let options =
        ClientOptions { metadata_max_age: Duration::from_millis(100), ..ClientOptions::new(&toy.address).unwrap() };
    let producer = Client::connect(options).await.unwrap().producer(ProducerOptions::default());
    producer.send(record(0)).await.unwrap().await.unwrap();
    let more = || toy.state.lock().unwrap().topics[0].1.push(Default::default());
    more();
    // Named, it is asked about at once.
    assert_eq!(producer.send(record(1).with_partition(1)).await.unwrap().await.unwrap().partition, 1);
    more();
    while producer.partitions_of("events").await.unwrap() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stored(&toy, 1), ["record 001"]);
}

#[tokio::test]
async fn compressed_batches_travel_small_and_are_made_plain_for_who_takes_no_others() {
    let plain_only = all_features().0 & !wire::Features::COMPRESSED_INGEST.0;
    for (features, codec) in [
        (all_features(), Some(Codec::Lz4)),
        (all_features(), Some(Codec::Zstd)),
        (wire::Features(plain_only), Some(Codec::Zstd)),
    ] {
        let toy = Toy::start(Some(features), 1).await;
        let producer =
            toy.client().await.producer(ProducerOptions { compression: codec, ..ProducerOptions::default() });
        let text = "the same again and again ".repeat(100);
        for _ in 0..100 {
            producer.send(ProducerRecord::new("events", text.clone())).await.unwrap();
        }
        producer.close().await;
        assert_eq!(stored(&toy, 0), vec![text.clone(); 100]);
        let (received, stats) = (toy.state.lock().unwrap().received_bytes as u64, producer.stats());
        let compressed = features == all_features();
        assert_eq!(received * 10 < stats.bytes, compressed, "{received} bytes for {stats:?}");
        assert!(stats.wire_bytes >= received && stats.wire_bytes < received + 1000);
    }
}

#[tokio::test]
async fn backpressure_slows_a_producer_down_and_neither_loses_nor_reorders() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let calm = std::iter::repeat_n(Fault::None, 20);
    toy.fail_next(calm.chain([Fault::Pressure, Fault::None, Fault::None, Fault::Pressure]));
    let options = ProducerOptions { batch_bytes: 64, ..ProducerOptions::default() };
    let producer = toy.client().await.producer(options);
    for number in 0..500 {
        producer.send(record(number)).await.unwrap();
    }
    producer.close().await;
    assert_eq!(stored(&toy, 0), all(500));
    let stats = producer.stats();
    assert_eq!(stats.throttled_count, 2, "{stats:?}");
    assert!(stats.throttled >= Duration::from_millis(1), "{stats:?}");
    assert_eq!((stats.records, stats.retries), (500, 0));
}

#[tokio::test]
async fn what_waits_behind_a_dead_server_fails_together_when_its_time_is_over() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let options = ProducerOptions {
        batch_bytes: 64,
        delivery_timeout: Some(Duration::from_millis(400)),
        ..ProducerOptions::default()
    };
    let producer = toy.client().await.producer(options);
    producer.send(record(0)).await.unwrap().await.unwrap();
    toy.kill();
    let deliveries = futures(&producer, 1..200).await;
    let closing = tokio::time::timeout(Duration::from_secs(20), producer.close()).await;
    closing.expect("outcomes come within the delivery time-out");
    for delivery in deliveries {
        assert!(delivery.await.unwrap_err().is_retriable());
    }
    assert_eq!(producer.stats().failed_records, 199);
}

#[tokio::test]
async fn five_batches_in_flight_whose_acks_are_lost_are_stored_once_in_order() {
    let toy = Toy::start(Some(all_features()), 1).await;
    // The connection ends behind a batch that is stored, with others of the five before and after it under way.
    toy.fail_next([Fault::StoreAndDrop, Fault::None, Fault::None].repeat(20));
    let options = ProducerOptions { batch_bytes: 15, max_in_flight: 50, ..ProducerOptions::default() };
    let producer = toy.client().await.producer(options);
    let deliveries = futures(&producer, 0..100).await;
    let mut duplicates = 0;
    for (at, delivery) in deliveries.into_iter().enumerate() {
        let delivery = delivery.await.unwrap();
        assert_eq!(delivery.offset, Some(at as u64 * 15));
        duplicates += u32::from(delivery.duplicate);
    }
    assert!(duplicates > 0);
    assert_eq!(stored(&toy, 0), all(100));
}
