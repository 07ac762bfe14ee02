//! The entry: options, a control connection, what is known about topics.

use crate::admin::Admin;
use crate::connection::Connection;
use crate::consumer::{Consumer, ConsumerOptions};
use crate::error::ClientError;
use crate::metadata::{Metadata, TopicInfo};
use crate::options::{Backoff, ClientOptions};
use crate::producer::{Producer, ProducerOptions};
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::Features;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A client of one cluster. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: ClientOptions,
    control: Mutex<Option<Connection>>,
    metadata: RwLock<Metadata>,
}

impl Client {
    /// Connects to the first server of the list that answers.
    pub async fn connect(options: ClientOptions) -> Result<Client, ClientError> {
        let client = Client {
            inner: Arc::new(Inner { options, control: Mutex::new(None), metadata: RwLock::new(Metadata::default()) }),
        };
        client.control().await?;
        Ok(client)
    }

    /// The options.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// A producer with connections of its own.
    pub fn producer(&self, options: ProducerOptions) -> Producer {
        Producer::new(self.clone(), options)
    }

    /// A consumer with connections of its own.
    pub fn consumer(&self, options: ConsumerOptions) -> Consumer {
        Consumer::new(self.clone(), options)
    }

    /// Management of topics.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// The connection for questions; opened again when it was lost.
    pub async fn control(&self) -> Result<Connection, ClientError> {
        let mut control = self.inner.control.lock().await;
        if let Some(connection) = control.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = self.open_any().await?;
        *control = Some(connection.clone());
        Ok(connection)
    }

    async fn open_any(&self) -> Result<Connection, ClientError> {
        let servers = &self.inner.options.servers;
        let mut last = None;
        for address in servers.addresses() {
            match Connection::open(address, &self.inner.options).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| ClientError::Connect {
            address: servers.to_string(),
            reason: "no server named".to_owned(),
        }))
    }

    /// What is known about a topic, asking the server when nothing is; creates it on request if the server does that.
    pub async fn topic(&self, name: &str, create_missing: bool) -> Result<Arc<TopicInfo>, ClientError> {
        if let Some(known) = self.known_topic(name) {
            return Ok(known);
        }
        self.refresh_topic(name, create_missing).await
    }

    /// Asks the server about a topic.
    pub async fn refresh_topic(&self, name: &str, create_missing: bool) -> Result<Arc<TopicInfo>, ClientError> {
        let connection = self.control().await?;
        let found = if connection.supports(Features::METADATA) {
            Metadata::ask(&connection, &[name.to_owned()], create_missing).await?
        } else {
            Metadata::ask_1_0(&connection, name, create_missing).await?
        };
        let known = {
            let mut metadata = self.inner.metadata.write().unwrap_or_else(PoisonError::into_inner);
            metadata.merge(found);
            metadata.topic(name)
        };
        known.ok_or_else(|| match is_topic_name(name) {
            true => ClientError::UnknownTopic { topic: name.to_owned() },
            false => ClientError::from_code(ErrorCode::InvalidTopicName),
        })
    }

    /// As [`Client::refresh_topic`], again and again while that can help, until `deadline`.
    pub async fn await_topic(
        &self,
        name: &str,
        create: bool,
        deadline: Instant,
    ) -> Result<Arc<TopicInfo>, ClientError> {
        let mut backoff = Backoff::new(self.inner.options.retry_backoff);
        loop {
            match self.refresh_topic(name, create).await {
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Forgets a topic, so that the next use asks again.
    pub fn forget_topic(&self, name: &str) {
        self.inner.metadata.write().unwrap_or_else(PoisonError::into_inner).forget(name);
    }

    fn known_topic(&self, name: &str) -> Option<Arc<TopicInfo>> {
        self.inner.metadata.read().unwrap_or_else(PoisonError::into_inner).topic(name)
    }

    /// Where the leader of a partition is.
    pub(crate) fn leader_address(&self, topic: &TopicInfo, partition: u16) -> Result<String, ClientError> {
        let known = topic.partitions.get(usize::from(partition)).ok_or_else(|| ClientError::UnknownPartition {
            topic: topic.name.clone(),
            partition,
            count: topic.partitions.len(),
        })?;
        let metadata = self.inner.metadata.read().unwrap_or_else(PoisonError::into_inner);
        let alone = metadata.node_count() <= 1;
        // A single node is wherever it could be reached, whatever it calls itself.
        if alone && let Some(reached) = self.reached_address() {
            return Ok(reached);
        }
        let leader = known.leader.and_then(|leader| metadata.address(leader));
        leader.ok_or_else(|| ClientError::NoLeader { topic: topic.name.clone(), partition })
    }

    fn reached_address(&self) -> Option<String> {
        let control = self.inner.control.try_lock().ok();
        let reached = control.as_ref().and_then(|control| control.as_ref()).map(|found| found.address().to_owned());
        reached.or_else(|| self.inner.options.servers.addresses().first().cloned())
    }
}

/// 1 to 255 of A-Z a-z 0-9 . _ - and not . or .. alone.
fn is_topic_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=255).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}
