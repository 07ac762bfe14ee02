//! What is acked is stored once, in order, whatever happens to connections and batches.

use crate::support::{Fault, Toy, all_features};
use lance_client::*;
use lance_messages::error_code::ErrorCode;

fn stored(toy: &Toy) -> Vec<String> {
    stored_in(toy, 0)
}

fn stored_in(toy: &Toy, partition: usize) -> Vec<String> {
    let state = toy.state.lock().unwrap();
    let stream = &state.topics[0].1[partition].stream;
    let records = lance_messages::record::records(stream);
    records.map(|record| String::from_utf8(record.unwrap().value.to_vec()).unwrap()).collect()
}

/// Produces `count` records in small batches; gives how each ended.
async fn produce(toy: &Toy, count: usize) -> Vec<Result<Delivery, ClientError>> {
    let client = toy.client().await;
    let producer = client.producer(ProducerOptions { batch_bytes: 64, ..ProducerOptions::default() });
    let mut deliveries = Vec::new();
    for at in 0..count {
        deliveries.push(producer.send(ProducerRecord::new("events", format!("record {at:03}"))).await.unwrap());
    }
    let mut outcomes = Vec::new();
    for delivery in deliveries {
        outcomes.push(delivery.await);
    }
    outcomes
}

fn all(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("record {at:03}")).collect()
}

#[tokio::test]
async fn a_batch_whose_ack_was_lost_is_stored_once() {
    let toy = Toy::start(Some(all_features()), 1).await;
    toy.fail_next([Fault::None, Fault::StoreAndDrop, Fault::None, Fault::None, Fault::StoreAndDrop]);
    let outcomes = produce(&toy, 100).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(outcomes.iter().flatten().any(|delivery| delivery.duplicate));
    assert_eq!(stored(&toy), all(100));
}

#[tokio::test]
async fn a_lost_connection_loses_and_reorders_nothing() {
    let toy = Toy::start(Some(all_features()), 1).await;
    toy.fail_next([Fault::Drop, Fault::None, Fault::Drop, Fault::Drop, Fault::None, Fault::None, Fault::Drop]);
    assert!(produce(&toy, 100).await.iter().all(Result::is_ok));
    assert_eq!(stored(&toy), all(100));
}

#[tokio::test]
async fn nothing_is_lost_when_a_reconnect_brings_a_new_epoch() {
    let toy = Toy::start(Some(all_features()), 1).await;
    toy.state.lock().unwrap().bumps_epochs = true;
    let cuts = [Fault::None, Fault::None, Fault::None, Fault::Drop];
    toy.fail_next(cuts.iter().cycle().take(40).copied());
    assert!(produce(&toy, 200).await.iter().all(Result::is_ok));
    // Over a new epoch the server cannot tell what it has stored.
    let mut stored = stored(&toy);
    stored.sort();
    stored.dedup();
    assert_eq!(stored, all(200));
}

#[tokio::test]
async fn a_retriable_refusal_keeps_the_order() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let busy = Fault::Refuse(ErrorCode::Overloaded);
    let moved = Fault::Refuse(ErrorCode::NotLeader);
    toy.fail_next([Fault::None, busy, Fault::None, Fault::None, moved, busy, Fault::None]);
    assert!(produce(&toy, 100).await.iter().all(Result::is_ok));
    assert_eq!(stored(&toy), all(100));
}

#[tokio::test]
async fn a_refused_batch_fails_alone() {
    let toy = Toy::start(Some(all_features()), 1).await;
    toy.fail_next([Fault::None, Fault::None, Fault::Refuse(ErrorCode::TooLarge)]);
    let outcomes = produce(&toy, 100).await;
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.is_err()).collect();
    assert!(!failed.is_empty() && failed.len() <= 4, "{} failed", failed.len());
    assert_eq!(stored(&toy).len(), 100 - failed.len());
    assert!(stored(&toy).is_sorted());
}

#[tokio::test]
async fn a_producer_the_server_forgot_starts_over() {
    let toy = Toy::start(Some(all_features()), 1).await;
    toy.fail_next([Fault::None, Fault::Refuse(ErrorCode::UnknownProducer)]);
    assert!(produce(&toy, 60).await.iter().all(Result::is_ok));
    assert_eq!(stored(&toy), all(60));
}

#[tokio::test]
async fn offsets_in_deliveries_are_those_of_the_records() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let outcomes = produce(&toy, 50).await;
    let offsets: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().offset.unwrap()).collect();
    assert_eq!(offsets, (0..50).map(|at| at * 15).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_partition_that_starts_over_makes_no_other_store_a_batch_twice() {
    let toy = Toy::start(Some(all_features()), 2).await;
    let client = toy.client().await;
    let producer = client.producer(ProducerOptions::default());
    let send = async |partition, value: &str| {
        let record = ProducerRecord::new("events", value.to_owned()).with_partition(partition);
        producer.send(record).await.unwrap().await.unwrap()
    };
    send(0, "first").await;
    send(1, "first").await;
    toy.fail_next([Fault::Refuse(ErrorCode::UnknownProducer)]);
    send(0, "over a new producer").await;
    toy.fail_next([Fault::StoreAndDrop]);
    assert!(send(1, "once").await.duplicate, "its retry is recognised");
    assert_eq!(stored_in(&toy, 1), ["first", "once"]);
    assert_eq!(stored_in(&toy, 0), ["first", "over a new producer"]);
}

#[tokio::test]
async fn a_batch_of_unknown_outcome_is_not_stored_again_under_another_producer() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let client = toy.client().await;
    let producer = client.producer(ProducerOptions::default());
    let send = async |value: &str| producer.send(ProducerRecord::new("events", value.to_owned())).await.unwrap().await;
    send("first").await.unwrap();
    toy.state.lock().unwrap().fences = true;
    toy.fail_next([Fault::StoreAndDrop]);
    let refused = send("maybe").await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::FencedProducer));
    send("last").await.unwrap();
    assert_eq!(stored(&toy), ["first", "maybe", "last"]);
}

#[tokio::test]
async fn nothing_is_acked_under_the_sequence_of_a_batch_that_a_failed_disk_may_have_stored() {
    let toy = Toy::start(Some(all_features()), 1).await;
    let client = toy.client().await;
    let producer = client.producer(ProducerOptions::default());
    let send = async |value: &str| producer.send(ProducerRecord::new("events", value.to_owned())).await.unwrap().await;
    send("first").await.unwrap();
    toy.fail_next([Fault::StoreAndRefuse(ErrorCode::StorageOffline), Fault::Drop]);
    let refused = send("maybe").await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::StorageOffline));
    send("next").await.unwrap();
    assert_eq!(stored(&toy), ["first", "maybe", "next"]);
}
