//! What a consumer hands out: nothing of the past, nothing that is paused, no more ahead than it may.

use crate::support::{Toy, all_features};
use lance_client::offsets::{CommittedOffsets, FileOffsets, MemoryOffsets, OffsetStore};
use lance_client::*;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// Bytes of each record in the stream.
const RECORD: u64 = 105;

/// A topic whose partitions have records of 100 bytes, numbered.
async fn filled(partitions: u16, count: u64) -> (std::sync::Arc<Toy>, Client) {
    let toy = Toy::start(Some(all_features()), partitions).await;
    let client = toy.client().await;
    let producer = client.producer(ProducerOptions { batch_bytes: 4096, ..ProducerOptions::default() });
    for partition in 0..partitions {
        for number in 0..count {
            let value = format!("{number:0100}");
            producer.send(ProducerRecord::new("events", value).with_partition(partition)).await.unwrap();
        }
    }
    producer.close().await;
    (toy, client)
}

/// Small answers, so that much of them is fetched ahead.
fn small() -> ConsumerOptions {
    ConsumerOptions { max_bytes: 1000, partition_max_bytes: 1000, prefetch_bytes: 20_000, ..ConsumerOptions::default() }
}

async fn next(consumer: &mut Consumer) -> (u16, u64) {
    let next = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await;
    let (_, partition, record) = next.unwrap().unwrap();
    let number: u64 = std::str::from_utf8(record.value.as_deref().unwrap()).unwrap().parse().unwrap();
    assert_eq!((record.offset, record.next_offset), (number * RECORD, (number + 1) * RECORD));
    (partition, number)
}

/// Waits until something was fetched ahead.
async fn fetched_ahead(toy: &Toy, bytes: usize) {
    while toy.state.lock().unwrap().served_bytes < bytes {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn after_a_seek_nothing_from_before_is_handed_out() {
    let (toy, client) = filled(2, 1000).await;
    let mut consumer = client.consumer(small());
    consumer.assign("events", None, StartOffset::Earliest).await.unwrap();
    let mut expected = HashMap::from([(0, 0), (1, 0)]);
    for round in 0..40u64 {
        for _ in 0..23 {
            let (partition, number) = next(&mut consumer).await;
            assert_eq!(Some(&number), expected.get(&partition), "partition {partition}, round {round}");
            expected.insert(partition, number + 1);
        }
        let served = toy.state.lock().unwrap().served_bytes;
        let (partition, target) = ((round % 2) as u16, round * 7 % 900);
        let to = match round % 5 {
            0 => StartOffset::Earliest,
            _ => StartOffset::At(target * RECORD),
        };
        let offset = consumer.seek("events", partition, to).await.unwrap();
        assert_eq!(offset, if round % 5 == 0 { 0 } else { target * RECORD });
        assert_eq!(consumer.position("events", partition), Some(offset));
        expected.insert(partition, offset / RECORD);
        if round % 3 == 0 {
            fetched_ahead(&toy, served + 500).await;
        }
    }
    consumer.seek("events", 0, StartOffset::Latest).await.unwrap();
    consumer.seek("events", 1, StartOffset::At(999 * RECORD)).await.unwrap();
    assert_eq!(next(&mut consumer).await, (1, 999));
    let refused = consumer.seek("events", 2, StartOffset::Earliest).await.unwrap_err();
    assert!(matches!(refused, ClientError::NotAssigned { partition: 2, .. }), "{refused}");
}

#[tokio::test]
async fn a_paused_partition_rests_while_the_other_goes_on_and_continues_where_it_was() {
    let (toy, client) = filled(2, 300).await;
    let mut consumer = client.consumer(small());
    consumer.assign("events", None, StartOffset::Earliest).await.unwrap();
    let mut expected = [0, 0];
    for _ in 0..37 {
        let (partition, number) = next(&mut consumer).await;
        assert_eq!(number, expected[usize::from(partition)]);
        expected[usize::from(partition)] += 1;
    }
    fetched_ahead(&toy, 15_000).await;
    consumer.pause("events", Some(&[1]));
    assert!(consumer.is_paused("events", 1) && !consumer.is_paused("events", 0));
    assert_eq!(consumer.position("events", 1), Some(expected[1] * RECORD));
    while expected[0] < 300 {
        assert_eq!(next(&mut consumer).await, (0, expected[0]));
        expected[0] += 1;
    }
    consumer.resume("events", None);
    while expected[1] < 300 {
        assert_eq!(next(&mut consumer).await, (1, expected[1]));
        expected[1] += 1;
    }
}

#[tokio::test]
async fn no_more_is_fetched_ahead_than_allowed() {
    let (toy, client) = filled(3, 400).await;
    let options = small();
    let mut consumer = client.consumer(options);
    consumer.assign("events", None, StartOffset::Earliest).await.unwrap();
    let mut handed_out = 0;
    fetched_ahead(&toy, options.prefetch_bytes / 2).await;
    while handed_out < 3 * 400 * RECORD {
        let served = toy.state.lock().unwrap().served_bytes as u64;
        // A record that is cut off at the end of an answer waits for the next one.
        let allowed = options.prefetch_bytes as u64 + 3 * RECORD;
        assert!(served - handed_out <= allowed, "{served} bytes were fetched, {handed_out} handed out");
        let chunk = tokio::time::timeout(Duration::from_secs(30), consumer.next_chunk()).await.unwrap().unwrap();
        handed_out += chunk.records.len() as u64 * RECORD;
    }
}

#[tokio::test]
async fn partitions_come_and_go_while_others_are_read() {
    let (_toy, client) = filled(3, 50).await;
    let slow = ConsumerOptions { max_wait: Duration::from_secs(600), ..small() };
    let mut consumer = client.consumer(slow);
    consumer.assign("events", Some(&[0]), StartOffset::Latest).await.unwrap();
    // The only partition has nothing to say for ten minutes.
    assert!(tokio::time::timeout(Duration::from_millis(50), consumer.next()).await.is_err());
    consumer.assign("events", Some(&[1, 2]), StartOffset::Earliest).await.unwrap();
    let mut seen = [0, 0, 0];
    for _ in 0..20 {
        seen[usize::from(next(&mut consumer).await.0)] += 1;
    }
    consumer.unassign("events", Some(&[1]));
    let rest = 50 - seen[2];
    for _ in 0..rest {
        assert_eq!(next(&mut consumer).await.0, 2);
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), consumer.next()).await.is_err());
    let mut left: Vec<u16> = consumer.positions().iter().map(|position| position.partition).collect();
    left.sort_unstable();
    assert_eq!(left, [0, 2]);
    consumer.unassign("events", None);
    assert!(consumer.positions().is_empty());
    consumer.assign("events", Some(&[1]), StartOffset::At(49 * RECORD)).await.unwrap();
    assert_eq!(next(&mut consumer).await, (1, 49));
}

#[tokio::test]
async fn an_offset_that_is_out_of_range_is_dealt_with_as_told() {
    let (toy, client) = filled(1, 100).await;
    toy.state.lock().unwrap().topics[0].1[0].log_start = 60 * RECORD as usize;
    for (begin, is_below) in [(10 * RECORD, true), (1000 * RECORD, false)] {
        let begin = [Position::new("events", 0, begin)];
        let read = |out_of_range| {
            let mut consumer = client.consumer(ConsumerOptions { out_of_range, ..small() });
            consumer.assign_at(&begin);
            consumer
        };
        assert_eq!(next(&mut read(OutOfRange::Earliest)).await, (0, 60));
        let mut latest = read(OutOfRange::Latest);
        while latest.position("events", 0) != Some(100 * RECORD) {
            assert!(tokio::time::timeout(Duration::from_millis(5), latest.next()).await.is_err(), "nothing is new");
        }
        let mut strict = read(OutOfRange::Error);
        let error = strict.next().await.unwrap_err();
        let expected = ClientError::OffsetOutOfRange {
            topic: "events".to_owned(),
            partition: 0,
            offset: begin[0].offset,
            earliest: 60 * RECORD,
            latest: 100 * RECORD,
        };
        assert_eq!(error, expected, "below: {is_below}");
        assert_eq!(strict.position("events", 0), None, "it is read no further");
    }
}

async fn open(store: &str, memory: &MemoryOffsets, path: &Path, client: &Client) -> Box<dyn OffsetStore> {
    match store {
        "memory" => Box::new(memory.clone()) as Box<dyn OffsetStore>,
        "file" => Box::new(FileOffsets::open(path).await.unwrap()),
        _ => Box::new(CommittedOffsets::new(client.clone(), CommittedOffsets::id_of_name("reader"))),
    }
}

#[tokio::test]
async fn a_consumer_goes_on_where_it_committed_in_any_store() {
    let (_toy, client) = filled(2, 50).await;
    let memory = MemoryOffsets::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("offsets");
    for store in ["memory", "file", "server"] {
        let mut consumer = client.consumer(small()).with_offset_store(open(store, &memory, &path, &client).await);
        consumer.assign_committed("events", None, StartOffset::At(5 * RECORD)).await.unwrap();
        let mut done = [5, 5];
        for _ in 0..13 {
            let (partition, number) = next(&mut consumer).await;
            assert_eq!(number, done[usize::from(partition)], "{store}");
            done[usize::from(partition)] += 1;
        }
        consumer.commit().await.unwrap();
        assert_eq!(consumer.committed("events", 1).await.unwrap(), Some(done[1] * RECORD), "{store}");
        // Handed out and not committed.
        next(&mut consumer).await;
        drop(consumer);
        let mut consumer = client.consumer(small()).with_offset_store(open(store, &memory, &path, &client).await);
        consumer.assign_committed("events", None, StartOffset::Latest).await.unwrap();
        for _ in 0..20 {
            let (partition, number) = next(&mut consumer).await;
            assert_eq!(number, done[usize::from(partition)], "{store}");
            done[usize::from(partition)] += 1;
        }
        consumer.commit_at(&[Position::new("events", 0, RECORD)]).await.unwrap();
        assert_eq!(consumer.committed("events", 0).await.unwrap(), Some(RECORD), "a commit may go back");
    }
    let mut without = client.consumer(small());
    without.assign("events", None, StartOffset::Earliest).await.unwrap();
    assert!(matches!(without.commit().await, Err(ClientError::OffsetStore { .. })));
}

#[tokio::test]
async fn chunks_and_single_records_may_be_mixed() {
    let (_toy, client) = filled(1, 30).await;
    let mut consumer = client.consumer(ConsumerOptions::default());
    consumer.assign("events", None, StartOffset::Earliest).await.unwrap();
    for number in 0..3 {
        assert_eq!(next(&mut consumer).await, (0, number));
    }
    assert_eq!(consumer.position("events", 0), Some(3 * RECORD));
    let rest = consumer.next_chunk().await.unwrap();
    assert_eq!((rest.records.len(), rest.records[0].offset, rest.next_offset), (27, 3 * RECORD, 30 * RECORD));
    assert_eq!(consumer.position("events", 0), Some(30 * RECORD));
    assert_eq!(rest.high_watermark, Some(30 * RECORD));
    assert_eq!(consumer.begin_offset("events", 0).await.unwrap(), 0);
    assert_eq!(consumer.end_offset("events", 0).await.unwrap(), 30 * RECORD);
}

#[tokio::test]
async fn headers_come_back_in_order_beside_key_and_time() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let client = toy.client().await;
    let producer = client.producer(ProducerOptions::default());
    let record = ProducerRecord::new("events", "value").with_key("key").with_timestamp_ns(7);
    let record = record.with_header("a", "1").with_header("b", vec![0xFF, 0]).with_header("a", "2");
    producer.send(record.clone()).await.unwrap().await.unwrap();
    producer.send(ProducerRecord::new("events", "plain")).await.unwrap().await.unwrap();
    let mut consumer = client.consumer(ConsumerOptions::default());
    consumer.assign("events", None, StartOffset::Earliest).await.unwrap();
    let (_, _, read) = consumer.next().await.unwrap();
    assert_eq!((read.key, read.value, read.timestamp_ns), (record.key, Some(record.value), Some(7)));
    assert_eq!(read.headers, record.headers);
    let (_, _, plain) = consumer.next().await.unwrap();
    assert_eq!((plain.headers, plain.timestamp_ns), (vec![], Some(99)), "the time of its batch");
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_reported_once() {
    let (_toy, client) = filled(1, 1).await;
    let mut consumer = client.consumer(ConsumerOptions::default());
    consumer.assign_at(&[Position::new("nowhere", 0, 0), Position::new("events", 0, 0)]);
    let (mut errors, mut records) = (0, 0);
    while errors + records < 2 {
        match consumer.next().await {
            Ok(_) => records += 1,
            Err(error) => {
                assert!(matches!(error, ClientError::UnknownTopic { topic } if topic == "nowhere"));
                errors += 1;
            }
        }
    }
    assert_eq!((errors, records), (1, 1));
}
