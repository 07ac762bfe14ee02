//! Consumer groups on real processes: members that come, go, crash and come back, while coordinators die.
//! `LANCE_LONG_TESTS=1` runs the long variants.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test throughout")]

mod member;
mod rebalance;
mod tools;

use lance_client::{Client, ClientOptions, NewTopic, ProducerOptions, ProducerRecord};
use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;

/// Makes a topic.
fn create(servers: &str, topic: &str, partitions: u16) {
    let new = NewTopic {
        name: topic.to_owned(),
        partitions: Some(partitions),
        replication_factor: None,
        mode: None,
        max_age_secs: None,
        max_bytes: None,
    };
    block_on(servers, async move |client| client.admin().create_topic(new.clone()).await.map(|_| ())).unwrap();
}

fn block_on<T>(
    servers: &str,
    work: impl AsyncFn(Client) -> Result<T, lance_client::ClientError>,
) -> Result<T, lance_client::ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work(Client::connect(ClientOptions::new(servers)?).await?).await })
}

/// Produces `each` numbered records of about 100 bytes into each partition, at most `rate` a second in all.
fn produce(servers: &str, topic: &str, partitions: u16, each: u64, rate: u64) -> JoinHandle<()> {
    let (servers, topic) = (servers.to_owned(), topic.to_owned());
    std::thread::spawn(move || {
        let produced = block_on(&servers, async |client| {
            let producer = client.producer(ProducerOptions::default());
            let started = std::time::Instant::now();
            let mut deliveries = Vec::new();
            for number in 0..each {
                for partition in 0..partitions {
                    let mut record = ProducerRecord::new(topic.as_str(), format!("{number:x>100}"));
                    record.partition = Some(partition);
                    deliveries.push(producer.send(record).await?);
                }
                let due = Duration::from_secs_f64((number * u64::from(partitions)) as f64 / rate as f64);
                tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
            }
            for delivery in deliveries {
                delivery.await?;
            }
            Ok(())
        });
        produced.unwrap();
    })
}

/// What a group has committed, by partition.
fn committed(servers: &str, group: &str) -> Option<BTreeMap<u16, u64>> {
    let group = group.to_owned();
    let found = block_on(servers, async |client| client.admin().describe_groups(std::slice::from_ref(&group)).await);
    let partitions = found.ok()?.into_iter().next()?.partitions;
    Some(partitions.into_iter().map(|row| (row.partition, row.committed.unwrap_or(0))).collect())
}
