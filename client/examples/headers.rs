//! Records with key, headers and a time of their own, there and back.

use lance_client::{Client, ClientError, ClientOptions, ConsumerOptions, ProducerOptions, ProducerRecord, StartOffset};
use std::time::SystemTime;

#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let client = Client::connect(ClientOptions::from_env()?).await?;
    let producer = client.producer(ProducerOptions::default());
    let record = ProducerRecord::new("orders", r#"{"total": 12}"#)
        .with_key("customer 7")
        .with_timestamp(SystemTime::now())
        .with_header("content-type", "application/json")
        .with_header("source", "web");
    let stored = producer.send(record).await?.await?;
    let mut consumer = client.consumer(ConsumerOptions::default());
    let begin = StartOffset::At(stored.offset.unwrap_or_default());
    consumer.assign("orders", Some(&[stored.partition]), begin).await?;
    let (topic, _, record) = consumer.next().await?;
    println!("{topic}: {:?} of {:?} at {:?}", record.value, record.key, record.timestamp());
    for header in &record.headers {
        println!("{} = {:?}", header.name, header.value);
    }
    Ok(())
}
