//! All records of a topic, and those to come.
use lance_client::{Client, ClientError, ClientOptions, ConsumerOptions, StartOffset};
#[tokio::main]
async fn main() -> Result<(), ClientError> {
    let client = Client::connect(ClientOptions::from_env()?).await?;
    let mut consumer = client.consumer(ConsumerOptions::default());
    consumer.assign("events", None, StartOffset::Earliest).await?;
    loop {
        let (_, partition, record) = consumer.next().await?;
        println!("{partition} {} {:?}", record.offset, record.value.unwrap_or_default());
    }
}
