//! Producers and consumers that never give up, and whose every step is in the history.

use super::args::ChaosCli;
use super::history::{Fate, History, Seen, record_bytes};
use crate::cli::failure::Failure;
use lance_client::consumer::Position;
use lance_client::{Client, ClientError, ClientOptions, ConsumedChunk, ConsumerOptions, DeliveryFuture};
use lance_client::{NewTopic, Producer, ProducerOptions, ProducerRecord, TopicMode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The topic of a run.
pub const TOPIC: &str = "chaos";
/// Records of one producer in one partition that may wait for their acks.
const UNDER_WAY: usize = 256;
/// How long a record is tried: longer than any fault and its healing should take.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// A client of the cluster.
pub async fn connect(servers: &str) -> Result<Client, ClientError> {
    let mut options = ClientOptions::new(servers)?;
    options.client_name = "lnc-chaos".to_owned();
    options.delivery_timeout = DELIVERY_TIMEOUT;
    // A stopped process does not answer: another attempt is worth more than a long wait.
    options.request_timeout = Duration::from_secs(5);
    Client::connect(options).await
}

/// Creates the topic of the run.
pub async fn create_topic(servers: &str, args: &ChaosCli) -> Result<(), Failure> {
    let failed = |error: ClientError| Failure::of("cannot create the topic", &error);
    let topic = NewTopic {
        name: TOPIC.to_owned(),
        partitions: Some(args.partitions),
        replication_factor: u8::try_from(args.nodes).ok(),
        mode: Some(TopicMode::L2),
        max_age_secs: None,
        max_bytes: None,
    };
    let client = connect(servers).await.map_err(failed)?;
    client.admin().create_topic(topic).await.map_err(failed)?;
    Ok(())
}

/// Starts a producer: a lane of records to each partition. The tasks end after [`History::stop_producers`], when the
/// fate of every record is known.
pub async fn start_producer(
    tasks: &mut JoinSet<()>,
    servers: &str,
    producer: u16,
    args: &ChaosCli,
    history: &Arc<History>,
) -> Result<(), Failure> {
    let client = connect(servers).await.map_err(|error| Failure::of("a producer cannot connect", &error))?;
    let shared = Arc::new(client.producer(ProducerOptions::default()));
    for partition in 0..args.partitions {
        let (sender, waiting) = mpsc::channel(UNDER_WAY);
        let lane = Lane { producer, partition, bytes: args.record_bytes, history: Arc::clone(history) };
        tasks.spawn(lane.clone().settle(waiting));
        tasks.spawn(lane.send(Arc::clone(&shared), args.rate, sender));
    }
    Ok(())
}

#[derive(Clone)]
struct Lane {
    producer: u16,
    partition: u16,
    bytes: usize,
    history: Arc<History>,
}

impl Lane {
    async fn send(self, producer: Arc<Producer>, rate: u32, deliveries: mpsc::Sender<(u64, DeliveryFuture)>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.history.is_stopped() {
            ticks.tick().await;
            let number = self.history.sent(self.producer, self.partition);
            let value = record_bytes(self.producer, self.partition, number, self.bytes);
            match producer.send(ProducerRecord::new(TOPIC, value).with_partition(self.partition)).await {
                Ok(delivery) => {
                    if deliveries.send((number, delivery)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    self.history.settled(self.producer, self.partition, number, Fate::Failed(error.to_string()));
                }
            }
        }
    }

    async fn settle(self, mut waiting: mpsc::Receiver<(u64, DeliveryFuture)>) {
        while let Some((number, delivery)) = waiting.recv().await {
            let fate = match delivery.await {
                Ok(delivery) => Fate::Acked(delivery.offset),
                Err(error) => Fate::Failed(error.to_string()),
            };
            self.history.settled(self.producer, self.partition, number, fate);
        }
    }
}

/// Reads all partitions until it is ended, over whatever fails.
pub async fn consume(servers: String, consumer: u16, partitions: u16, history: Arc<History>) {
    loop {
        if let Err(error) = read_on(&servers, consumer, partitions, &history).await {
            history.note(format!("consumer {consumer} begins again where it was: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn read_on(servers: &str, number: u16, partitions: u16, history: &History) -> Result<(), ClientError> {
    let client = connect(servers).await?;
    let mut consumer = client.consumer(ConsumerOptions::default());
    let position = |partition| {
        let offset = history.view(number, partition).next_offset;
        Position { topic: Arc::from(TOPIC), partition, offset }
    };
    consumer.assign_at(&(0..partitions).map(position).collect::<Vec<_>>());
    loop {
        let chunk = consumer.next_chunk().await?;
        take_chunk(number, &chunk, history);
    }
}

fn take_chunk(number: u16, chunk: &ConsumedChunk, history: &History) {
    let partition = chunk.partition;
    let mut problems = Vec::new();
    let mut view = history.view(number, partition);
    for record in &chunk.records {
        if record.offset < view.next_offset {
            problems.push(format!("offset {} after {} was the next", record.offset, view.next_offset));
        }
        let crc = crc32fast::hash(record.value.as_deref().unwrap_or_default());
        view.records.push(Seen { offset: record.offset, crc });
        view.next_offset = record.offset + 1;
    }
    if chunk.next_offset < view.next_offset {
        problems.push(format!("goes on at {} after {}", chunk.next_offset, view.next_offset));
    }
    view.next_offset = chunk.next_offset;
    if let Some(high_watermark) = chunk.high_watermark {
        if high_watermark < view.high_watermark {
            problems.push(format!("high watermark {high_watermark} after {}", view.high_watermark));
        }
        view.high_watermark = view.high_watermark.max(high_watermark);
    }
    drop(view);
    history.took_chunk();
    for problem in problems {
        history.consumer_saw(format!("consumer {number}, partition {partition}: {problem}"));
    }
}

/// Every record of a partition up to its end now: offset and bytes.
pub async fn read_all(client: &Client, partition: u16) -> Result<Vec<(u64, bytes::Bytes)>, ClientError> {
    let mut consumer = client.consumer(ConsumerOptions::default());
    let end = consumer.end_offset(TOPIC, partition).await?;
    let mut records = Vec::new();
    if end == 0 {
        return Ok(records);
    }
    consumer.assign_at(&[Position { topic: Arc::from(TOPIC), partition, offset: 0 }]);
    loop {
        let chunk = consumer.next_chunk().await?;
        let values = chunk.records.into_iter().map(|record| (record.offset, record.value.unwrap_or_default()));
        records.extend(values);
        if chunk.next_offset >= end {
            return Ok(records);
        }
    }
}
