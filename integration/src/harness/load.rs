//! Load whose every ack is remembered: one numbered sequence of records for each partition, sent by an idempotent
//! producer that keeps many under way, and checked against what can be read back.
//!
//! This is the project's own client; what it must prove is that acked records are there, in order, once.

use super::{PATIENCE, eventually};
use bytes::Bytes;
use lance_client::connection::Connector;
use lance_client::consumer::Position;
use lance_client::{Client, ClientError, ClientOptions, ConsumerOptions, DeliveryFuture};
use lance_client::{NewTopic, ProducerOptions, ProducerRecord};
use lance_messages::error_code::ErrorCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Records of one partition that may wait for their acks.
const UNDER_WAY: usize = 256;

/// What every partition of the load is told.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Topic; created when it is missing.
    pub topic: String,
    /// Its partitions, each with a sequence of its own.
    pub partitions: u16,
    /// Bytes of a record, at least.
    pub record_bytes: usize,
    /// Pause between two records of a partition.
    pub pause: Duration,
    /// Whether the server recognises what it stored before.
    pub idempotent: bool,
    /// How the producer and the reader connect, if not plainly.
    pub connector: Option<Arc<dyn Connector>>,
}

impl LoadOptions {
    /// As fast as it goes, 100 bytes a record.
    pub fn new(topic: &str, partitions: u16) -> Self {
        let (topic, pause) = (topic.to_owned(), Duration::ZERO);
        Self { topic, partitions, record_bytes: 100, pause, idempotent: true, connector: None }
    }
}

/// A running load.
pub struct Load {
    runtime: Runtime,
    client: Client,
    options: LoadOptions,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<u64>>,
    read: Vec<Progress>,
}

struct Shared {
    acked: Vec<AtomicU64>,
    stop: AtomicBool,
    failures: Mutex<Vec<String>>,
}

/// How far a partition was read back.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    offset: u64,
    records: u64,
}

impl Load {
    /// Creates the topic and starts sending.
    pub fn start(address: &str, options: LoadOptions) -> Load {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            acked: (0..options.partitions).map(|_| AtomicU64::new(0)).collect(),
            stop: AtomicBool::new(false),
            failures: Mutex::default(),
        });
        let client = runtime.block_on(async {
            let mut how = ClientOptions::new(address).unwrap();
            how.connector = options.connector.clone().unwrap_or(how.connector);
            let client = Client::connect(how).await.unwrap();
            create_topic(&client, &options).await;
            client
        });
        let producer = {
            let _inside = runtime.enter();
            Arc::new(client.producer(ProducerOptions { idempotent: options.idempotent, ..ProducerOptions::default() }))
        };
        let sending = (0..options.partitions).map(|partition| {
            let (producer, options, shared) = (Arc::clone(&producer), options.clone(), Arc::clone(&shared));
            runtime.spawn(async move {
                let (deliveries, waiting) = mpsc::channel(UNDER_WAY);
                let acks = tokio::spawn(count_acks(partition, waiting, Arc::clone(&shared)));
                let sent = send_all(partition, &producer, &options, &shared, deliveries).await;
                acks.await.unwrap();
                sent
            })
        });
        let tasks = sending.collect();
        let read = vec![Progress::default(); usize::from(options.partitions)];
        Load { runtime, client, options, shared, tasks, read }
    }

    /// Records acked so far, by partition.
    pub fn acked(&self) -> Vec<u64> {
        self.shared.acked.iter().map(|acked| acked.load(Ordering::Acquire)).collect()
    }

    /// Records acked so far.
    pub fn total_acked(&self) -> u64 {
        self.acked().iter().sum()
    }

    /// Waits until this many more records are acked.
    pub fn await_more(&self, records: u64) {
        let before = self.total_acked();
        eventually(&format!("{records} more acks"), || {
            self.expect_no_failure();
            (self.total_acked() >= before + records).then_some(())
        });
    }

    /// Waits until every partition has an ack that it does not have now.
    pub fn await_all_partitions(&self) {
        let before = self.acked();
        eventually("an ack of every partition", || {
            self.expect_no_failure();
            self.acked().iter().zip(&before).all(|(now, before)| now > before).then_some(())
        });
    }

    /// Fails if a record was refused for good.
    pub fn expect_no_failure(&self) {
        let failures = self.shared.failures.lock().unwrap();
        assert!(failures.is_empty(), "records were refused: {failures:?}");
    }

    /// What was refused for good so far.
    pub fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().unwrap().clone()
    }

    /// Reads on from where the last check ended: every record acked by now is there, in order, once.
    pub fn check(&mut self) {
        let acked = self.acked();
        for (partition, acked) in (0..self.options.partitions).zip(acked) {
            let progress = self.read[usize::from(partition)];
            let progress = self.runtime.block_on(read_on(&self.client, &self.options, partition, progress));
            assert!(
                progress.records >= acked,
                "partition {partition}: {acked} records are acked, {} are there",
                progress.records
            );
            self.read[usize::from(partition)] = progress;
        }
    }

    /// Stops sending, waits for every ack, and reads everything from the start: exactly what was sent is there.
    pub fn finish(mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let tasks = std::mem::take(&mut self.tasks);
        let sent: Vec<u64> = self.runtime.block_on(async {
            let mut sent = Vec::new();
            for task in tasks {
                let done = tokio::time::timeout(PATIENCE, task).await;
                sent.push(done.expect("the last acks come").unwrap());
            }
            sent
        });
        self.expect_no_failure();
        assert_eq!(sent, self.acked(), "every record is acked");
        self.read = vec![Progress::default(); sent.len()];
        self.check();
        if self.options.idempotent {
            let there: Vec<u64> = self.read.iter().map(|progress| progress.records).collect();
            assert_eq!(there, sent, "records are there once");
        }
    }

    /// Stops sending without waiting for what is under way.
    pub fn abandon(self) -> Vec<u64> {
        self.shared.stop.store(true, Ordering::Release);
        let acked = self.acked();
        self.runtime.shutdown_background();
        acked
    }
}

async fn create_topic(client: &Client, options: &LoadOptions) {
    let topic = NewTopic {
        name: options.topic.clone(),
        partitions: Some(options.partitions),
        replication_factor: None,
        mode: None,
        max_age_secs: None,
        max_bytes: None,
    };
    match client.admin().create_topic(topic).await {
        // A test may have made it as it needs it.
        Err(ClientError::Server { code: Some(ErrorCode::TopicExists), .. }) => {}
        created => drop(created.unwrap()),
    }
}

fn text_of(partition: u16, number: u64, bytes: usize) -> String {
    format!("{partition}:{number}:{:x<bytes$}", "")
}

async fn send_all(
    partition: u16,
    producer: &lance_client::Producer,
    options: &LoadOptions,
    shared: &Shared,
    deliveries: mpsc::Sender<DeliveryFuture>,
) -> u64 {
    let mut number = 0;
    while !shared.stop.load(Ordering::Acquire) {
        let text = text_of(partition, number, options.record_bytes);
        let record = ProducerRecord::new(options.topic.as_str(), Bytes::from(text)).with_partition(partition);
        match producer.send(record).await {
            Ok(delivery) => {
                number += 1;
                if deliveries.send(delivery).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                shared.failures.lock().unwrap().push(format!("partition {partition}, record {number}: {error}"));
                break;
            }
        }
        if !options.pause.is_zero() {
            tokio::time::sleep(options.pause).await;
        }
    }
    number
}

async fn count_acks(partition: u16, mut waiting: mpsc::Receiver<DeliveryFuture>, shared: Arc<Shared>) {
    let mut number = 0u64;
    while let Some(delivery) = waiting.recv().await {
        if let Err(error) = delivery.await {
            shared.failures.lock().unwrap().push(format!("partition {partition}, record {number}: {error}"));
            return;
        }
        number += 1;
        shared.acked[usize::from(partition)].store(number, Ordering::Release);
    }
}

/// Reads a partition to what is its end now; its records must go on with the number that comes next.
async fn read_on(client: &Client, options: &LoadOptions, partition: u16, from: Progress) -> Progress {
    let mut consumer = client.consumer(ConsumerOptions::default());
    let end = await_end(&consumer, &options.topic, partition).await;
    let mut progress = from;
    if end == from.offset {
        return progress;
    }
    assert!(end > from.offset, "partition {partition}: the end moved back from {} to {end}", from.offset);
    let begin = Position { topic: Arc::from(options.topic.as_str()), partition, offset: from.offset };
    consumer.assign_at(&[begin]);
    while progress.offset < end {
        let chunk = tokio::time::timeout(PATIENCE, consumer.next_chunk()).await.expect("records come").unwrap();
        for record in &chunk.records {
            let value = record.value.as_deref().unwrap_or_default();
            let expected = match options.idempotent {
                true => progress.records,
                // What was sent again may be there twice; what is new must be the next one.
                false => number_of(value).min(progress.records),
            };
            let wanted = text_of(partition, expected, options.record_bytes);
            assert_eq!(
                String::from_utf8_lossy(value),
                wanted,
                "partition {partition} at offset {}: record {} comes next",
                record.offset,
                progress.records
            );
            progress.records = progress.records.max(expected + 1);
        }
        progress.offset = chunk.next_offset;
    }
    progress
}

fn number_of(value: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(value);
    text.split(':').nth(1).and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
}

/// The end of a partition, from a server that may be about to serve it again.
async fn await_end(consumer: &lance_client::Consumer, topic: &str, partition: u16) -> u64 {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match consumer.end_offset(topic, partition).await {
            Ok(end) => return end,
            Err(error) => {
                let may_pass = error.is_retriable() || matches!(error, ClientError::Connect { .. });
                assert!(may_pass && tokio::time::Instant::now() < deadline, "partition {partition}: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
