//! The same client for programs without async: every call waits on the thread that makes it.
//!
//! The work itself is done by one thread of the library's own. Nothing here may be called where waiting is forbidden, in
//! async code; for that there is the rest of the crate.
//!
//! ```no_run
//! use lance_client::blocking::Client;
//! use lance_client::{ClientError, ClientOptions, ConsumerOptions, ProducerOptions, ProducerRecord, StartOffset};
//!
//! fn main() -> Result<(), ClientError> {
//!     let client = Client::connect(ClientOptions::from_env()?)?;
//!     let producer = client.producer(ProducerOptions::default());
//!     let delivery = producer.send(ProducerRecord::new("events", "hello"))?.wait()?;
//!     println!("stored at {:?}", delivery.offset);
//!     let mut consumer = client.consumer(ConsumerOptions::default());
//!     consumer.assign("events", None, StartOffset::Earliest)?;
//!     for next in consumer.take(10) {
//!         let (topic, partition, record) = next?;
//!         println!("{topic} {partition} {}: {:?}", record.offset, record.value);
//!     }
//!     Ok(())
//! }
//! ```

mod consumer;
mod producer;
mod runtime;

use crate::admin::{NewTopic, TopicDescription};
use crate::consumer::ConsumerOptions;
use crate::error::ClientError;
use crate::options::ClientOptions;
use crate::producer::ProducerOptions;
use lance_messages::id::TopicId;
use lance_messages::wire::topics::TopicConfigured;
use runtime::RuntimeThread;
use std::sync::Arc;

pub use consumer::Consumer;
pub use producer::{Producer, Sent};

/// A client of one cluster. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    client: crate::Client,
    runtime: Arc<RuntimeThread>,
}

impl Client {
    /// Connects to the first server of the list that answers.
    pub fn connect(options: ClientOptions) -> Result<Client, ClientError> {
        let runtime = Arc::new(RuntimeThread::start()?);
        let client = runtime.wait(crate::Client::connect(options))?;
        Ok(Self { client, runtime })
    }

    /// A producer with connections of its own.
    pub fn producer(&self, options: ProducerOptions) -> Producer {
        Producer::new(self.client.producer(options), Arc::clone(&self.runtime))
    }

    /// A consumer with connections of its own.
    pub fn consumer(&self, options: ConsumerOptions) -> Consumer {
        Consumer::new(self.client.consumer(options), Arc::clone(&self.runtime))
    }

    /// Creates a topic.
    ///
    /// ```no_run
    /// use lance_client::NewTopic;
    ///
    /// # fn example(client: &lance_client::blocking::Client) -> Result<(), lance_client::ClientError> {
    /// client.create_topic(NewTopic { partitions: Some(8), ..NewTopic::new("orders") })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_topic(&self, topic: NewTopic) -> Result<TopicConfigured, ClientError> {
        self.wait(self.client.admin().create_topic(topic))
    }

    /// All topics, by name.
    pub fn list_topics(&self) -> Result<Vec<TopicDescription>, ClientError> {
        self.wait(self.client.admin().list_topics())
    }

    /// Deletes a topic and its records; gives the id it had.
    pub fn delete_topic(&self, name: &str) -> Result<TopicId, ClientError> {
        self.wait(self.client.admin().delete_topic(name))
    }

    /// The client that this one waits for, for whatever is not offered here; with [`Client::wait`].
    pub fn asynchronous(&self) -> &crate::Client {
        &self.client
    }

    /// Waits for anything of this crate.
    ///
    /// ```no_run
    /// use lance_client::offsets::FileOffsets;
    ///
    /// # fn example(client: &lance_client::blocking::Client) -> Result<(), lance_client::ClientError> {
    /// let nodes = client.wait(client.asynchronous().admin().nodes())?;
    /// let store = client.wait(FileOffsets::open("reader.offsets"))?;
    /// # drop((nodes, store));
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.wait(future)
    }
}
