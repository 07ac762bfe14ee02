//! Produce and consume without async.

use lance_client::blocking::Client;
use lance_client::{ClientError, ClientOptions, ConsumerOptions, ProducerOptions, ProducerRecord, StartOffset};

fn main() -> Result<(), ClientError> {
    let client = Client::connect(ClientOptions::from_env()?)?;
    let producer = client.producer(ProducerOptions::default());
    for number in 0..10 {
        producer.send(ProducerRecord::new("blocking", format!("event {number}")).with_partition(0))?;
    }
    producer.close();
    println!("{} records stored", producer.stats().records);
    let mut consumer = client.consumer(ConsumerOptions::default());
    consumer.assign("blocking", Some(&[0]), StartOffset::Earliest)?;
    for next in consumer.take(10) {
        let (_, _, record) = next?;
        println!("{} {:?}", record.offset, record.value.unwrap_or_default());
    }
    Ok(())
}
