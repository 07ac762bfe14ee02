//! A consumer whose offsets are kept where its results are, so that both change together: here a map, in earnest a table.

use lance_client::offsets::{OffsetStore, StoreFuture};
use lance_client::{
    Client, ClientError, ClientOptions, ConsumerOptions, Position, ProducerOptions, ProducerRecord, StartOffset,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Results and how far they go: one lock, as it would be one transaction.
#[derive(Default)]
struct Ledger {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    total: u64,
    offsets: HashMap<(String, u16), u64>,
}

impl Ledger {
    /// Adds an amount and notes that everything before `done` is counted.
    fn add(&self, amount: u64, done: &Position) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.total += amount;
        state.offsets.insert((done.topic.to_string(), done.partition), done.offset);
    }
}

impl OffsetStore for Ledger {
    fn load<'a>(&'a self, topic: &'a str, partition: u16) -> StoreFuture<'a, Option<u64>> {
        let key = (topic.to_owned(), partition);
        Box::pin(async move {
            let state = self.state.lock().map_err(|error| ClientError::offset_store("ledger", error))?;
            Ok(state.offsets.get(&key).copied())
        })
    }

    fn store<'a>(&'a self, positions: &'a [Position]) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            positions.iter().for_each(|position| self.add(0, position));
            Ok(())
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let client = Client::connect(ClientOptions::from_env()?).await?;
    let producer = client.producer(ProducerOptions::default());
    for amount in 1..=10 {
        producer.send(ProducerRecord::new("payments", amount.to_string()).with_partition(0)).await?;
    }
    producer.close().await;

    let ledger = Arc::new(Ledger::default());
    // As if the program was started again and again: each amount is counted once.
    for _start in 0..5 {
        let mut consumer = client.consumer(ConsumerOptions::default()).with_offset_store(Arc::clone(&ledger));
        consumer.assign_committed("payments", Some(&[0]), StartOffset::Earliest).await?;
        for _ in 0..2 {
            let (topic, partition, record) = consumer.next().await?;
            let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
            ledger.add(text.parse().unwrap_or(0), &Position::new(topic, partition, record.next_offset));
        }
    }
    println!("total {}", ledger.state.lock().unwrap_or_else(PoisonError::into_inner).total);
    Ok(())
}
