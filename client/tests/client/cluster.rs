//! Several nodes: redirects, nodes that die, leaders of the past.

use crate::support::Toy;
use lance_client::offsets::CommittedOffsets;
use lance_client::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

async fn client(servers: &[&Arc<Toy>]) -> Client {
    let addresses: Vec<&str> = servers.iter().map(|toy| toy.address.as_str()).collect();
    Client::connect(ClientOptions::new(&addresses.join(",")).unwrap()).await.unwrap()
}

fn stored(toy: &Toy) -> Vec<String> {
    let state = toy.state.lock().unwrap();
    let records = lance_messages::record::records(&state.topics[0].1[0].stream);
    records.map(|record| String::from_utf8(record.unwrap().value.to_vec()).unwrap()).collect()
}

async fn produce(producer: &Producer, range: std::ops::Range<usize>) {
    let mut deliveries = Vec::new();
    for at in range {
        deliveries.push(producer.send(ProducerRecord::new("events", format!("record {at:03}"))).await.unwrap());
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

fn all(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("record {at:03}")).collect()
}

fn small_batches() -> ProducerOptions {
    ProducerOptions { batch_bytes: 64, ..ProducerOptions::default() }
}

#[tokio::test]
async fn a_producer_follows_the_leader_at_once_and_keeps_its_identity() {
    let nodes = Toy::cluster(3).await;
    let client = client(&[&nodes[0]]).await;
    let producer = client.producer(small_batches());
    produce(&producer, 0..50).await;
    nodes[0].move_leader(2);
    produce(&producer, 50..100).await;
    nodes[0].move_leader(3);
    produce(&producer, 100..150).await;
    assert_eq!(stored(&nodes[0]), all(150));
    let bound = nodes[0].state.lock().unwrap().bound.clone();
    assert!(bound.len() >= 3 && bound.iter().all(|identity| *identity == bound[0]), "{bound:?}");
}

#[tokio::test]
async fn a_redirect_outlives_metadata_of_a_node_that_lags() {
    let nodes = Toy::cluster(2).await;
    let client = client(&[&nodes[0]]).await;
    let producer = client.producer(small_batches());
    produce(&producer, 0..10).await;
    nodes[0].move_leader(2);
    produce(&producer, 10..20).await;
    // From now on the first node takes itself for the leader, as of the epoch before.
    *nodes[0].believes.lock().unwrap() = Some((1, 1));
    client.refresh_topic("events", false).await.unwrap();
    let mut consumer = client.consumer(ConsumerOptions::default());
    consumer.assign("events", None, StartOffset::Earliest).await.unwrap();
    let before = nodes[0].state.lock().unwrap().redirects;
    for at in 0..20 {
        let (_, _, record) = consumer.next().await.unwrap();
        assert_eq!(record.value.as_deref(), Some(format!("record {at:03}").as_bytes()));
    }
    assert_eq!(nodes[0].state.lock().unwrap().redirects, before);
}

#[tokio::test]
async fn a_server_that_is_dead_is_passed_over() {
    let nodes = Toy::cluster(2).await;
    nodes[0].kill();
    nodes[0].move_leader(2);
    let started = Instant::now();
    let client = client(&[&nodes[0], &nodes[1]]).await;
    produce(&client.producer(small_batches()), 0..10).await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(stored(&nodes[1]), all(10));
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_passed_over() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nodes = Toy::cluster(1).await;
    let servers = format!("{},{}", silent.local_addr().unwrap(), nodes[0].address);
    let started = Instant::now();
    let client = Client::connect(ClientOptions::new(&servers).unwrap()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    produce(&client.producer(small_batches()), 0..10).await;
    assert_eq!(stored(&nodes[0]), all(10));
}

#[tokio::test]
async fn the_death_of_the_only_server_named_is_survived_with_those_learned_of() {
    let nodes = Toy::cluster(3).await;
    let client = client(&[&nodes[0]]).await;
    let producer = client.producer(small_batches());
    produce(&producer, 0..50).await;
    let mut consumer = client.consumer(ConsumerOptions::default());
    consumer.assign("events", None, StartOffset::Earliest).await.unwrap();
    nodes[0].kill();
    nodes[0].move_leader(3);
    produce(&producer, 50..100).await;
    for at in 0..100 {
        let (_, _, record) = consumer.next().await.unwrap();
        assert_eq!(record.value.as_deref(), Some(format!("record {at:03}").as_bytes()));
    }
    assert_eq!(stored(&nodes[0]), all(100));
}

#[tokio::test]
async fn a_server_that_is_cut_off_from_the_others_is_not_asked_for_ever() {
    let nodes = Toy::cluster(3).await;
    nodes[0].move_leader(3);
    let client = client(&[&nodes[0]]).await;
    let producer = client.producer(small_batches());
    produce(&producer, 0..10).await;
    nodes[2].kill();
    *nodes[0].believes.lock().unwrap() = Some((3, 2));
    nodes[0].move_leader(2);
    produce(&producer, 10..20).await;
    assert_eq!(stored(&nodes[1]), all(20));
}

#[tokio::test]
async fn a_consumer_follows_the_leader_and_believes_no_earlier_one() {
    let nodes = Toy::cluster(2).await;
    let client = client(&[&nodes[0]]).await;
    let producer = client.producer(small_batches());
    produce(&producer, 0..20).await;
    let mut consumer = client.consumer(ConsumerOptions::default());
    consumer.assign("events", None, StartOffset::Earliest).await.unwrap();
    for _ in 0..20 {
        consumer.next().await.unwrap();
    }
    nodes[0].move_leader(2);
    produce(&producer, 20..40).await;
    for at in 20..40 {
        let (_, _, record) = consumer.next().await.unwrap();
        assert_eq!(record.value.as_deref(), Some(format!("record {at:03}").as_bytes()));
    }
    // The second node answers as if an earlier epoch still held: nothing of that is handed out.
    *nodes[1].believes.lock().unwrap() = Some((2, 1));
    nodes[0].move_leader(1);
    produce(&producer, 40..60).await;
    for at in 40..60 {
        let (_, _, record) = consumer.next().await.unwrap();
        assert_eq!(record.value.as_deref(), Some(format!("record {at:03}").as_bytes()));
    }
}

#[tokio::test]
async fn offsets_and_look_ups_follow_the_leader() {
    let nodes = Toy::cluster(2).await;
    let client = client(&[&nodes[0]]).await;
    produce(&client.producer(small_batches()), 0..5).await;
    nodes[0].move_leader(2);
    let offsets = CommittedOffsets::new(client.clone(), 5);
    offsets.commit("events", 0, 30).await.unwrap();
    assert_eq!(offsets.fetch("events", 0).await.unwrap(), 30);
    let consumer = client.consumer(ConsumerOptions::default());
    assert_eq!(consumer.end_offset("events", 0).await.unwrap(), 5 * 15);
}

#[tokio::test]
async fn a_record_that_no_server_takes_fails_after_the_delivery_timeout() {
    let nodes = Toy::cluster(2).await;
    let options = ClientOptions {
        delivery_timeout: Duration::from_millis(500),
        ..ClientOptions::new(&nodes[0].address).unwrap()
    };
    let client = Client::connect(options).await.unwrap();
    let producer = client.producer(small_batches());
    produce(&producer, 0..1).await;
    nodes.iter().for_each(|node| node.kill());
    let delivery = producer.send(ProducerRecord::new("events", "late")).await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(10), delivery.into_future()).await.unwrap().unwrap_err();
    assert!(error.is_retriable(), "{error}");
}
