//! Ten records into a topic.
use lance_client::{Client, ClientError, ClientOptions, ProducerOptions, ProducerRecord};
#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let client = Client::connect(ClientOptions::from_env()?).await?;
    let producer = client.producer(ProducerOptions::default());
    for number in 0..10 {
        let delivery = producer.send(ProducerRecord::new("events", format!("event {number}"))).await?;
        println!("stored at {:?}", delivery.await?.offset);
    }
    Ok(())
}
