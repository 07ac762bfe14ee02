//! Topics: create, list, describe, alter, delete.

use crate::client::Client;
use crate::connection::Connection;
use crate::error::ClientError;
use crate::metadata::{all_metadata, info_1_0, parse, topics_1_0, unexpected};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{NodeId, TopicId};
use lance_messages::wire::cluster::ClusterCommand;
use lance_messages::wire::json::ClusterStatusBody;
use lance_messages::wire::topics::{
    AlterTopic, CreateTopicWithConfig, NodeMetadata, TopicConfigured, TopicMetadata, TopicMode,
};
use lance_messages::wire::{Features, Request, Response};

/// A topic to create; `None` takes the server's default.
///
/// ```
/// use lance_client::NewTopic;
///
/// let topic = NewTopic { partitions: Some(8), ..NewTopic::new("orders") };
/// assert_eq!((topic.name.as_str(), topic.replication_factor), ("orders", None));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name: 1 to 255 of A-Z a-z 0-9 . _ -.
    pub name: String,
    /// How many partitions it gets.
    pub partitions: Option<u16>,
    /// How many nodes hold a copy of each.
    pub replication_factor: Option<u8>,
    /// When producers are acked.
    pub mode: Option<TopicMode>,
    /// Records older than this many seconds may go; 0 = unlimited.
    pub max_age_secs: Option<u64>,
    /// Bytes of a partition that are kept; 0 = unlimited.
    pub max_bytes: Option<u64>,
}

impl NewTopic {
    /// A topic with the server's defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

impl From<NewTopic> for CreateTopicWithConfig {
    fn from(topic: NewTopic) -> Self {
        let NewTopic { name, partitions, replication_factor, mode, max_age_secs, max_bytes } = topic;
        Self { name, partitions, replication_factor, mode, max_age_secs, max_bytes }
    }
}

/// A topic with its properties and partitions.
pub type TopicDescription = TopicMetadata;

/// What to change about a topic; `None` leaves a property as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    /// More partitions than it has.
    pub partitions: Option<u16>,
    /// Records older than this many seconds may go; 0 = unlimited.
    pub max_age_secs: Option<u64>,
    /// Bytes of a partition that are kept; 0 = unlimited.
    pub max_bytes: Option<u64>,
    /// When producers are acked.
    pub mode: Option<TopicMode>,
    /// How many nodes hold a copy of each partition; copies are added and removed one by one after that.
    pub replication_factor: Option<u8>,
}

/// Nodes of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// The metadata leader.
    pub controller: Option<NodeId>,
    /// All of them.
    pub nodes: Vec<NodeMetadata>,
}

/// Manages topics and the cluster.
///
/// ```no_run
/// use lance_client::{Client, ClientOptions, NewTopic, TopicChange};
///
/// # async fn example() -> Result<(), lance_client::ClientError> {
/// let client = Client::connect(ClientOptions::new("127.0.0.1:1992")?).await?;
/// let admin = client.admin();
/// admin.create_topic(NewTopic { partitions: Some(8), ..NewTopic::new("orders") }).await?;
/// admin.set_retention("orders", 7 * 24 * 3600, 10 << 30).await?;
/// admin.alter_topic("orders", TopicChange { partitions: Some(16), ..TopicChange::default() }).await?;
/// println!("{} partitions", admin.describe_topic("orders").await?.partitions.len());
/// admin.delete_topic("orders").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Admin {
    pub(crate) client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a topic.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<TopicConfigured, ClientError> {
        let connection = self.client.control().await?;
        if !connection.supports(Features::METADATA) {
            return create_1_0(&connection, topic).await;
        }
        self.client.forget_topic(&topic.name);
        match connection.request(Request::CreateTopicWithConfig(topic.into()), "create topic").await? {
            Response::CreateTopicWithConfig(created) => Ok(created),
            _ => Err(unexpected(&connection, "create topic")),
        }
    }

    /// All topics, by name.
    pub async fn list_topics(&self) -> Result<Vec<TopicDescription>, ClientError> {
        let connection = self.client.control().await?;
        let mut topics = if connection.supports(Features::METADATA) {
            all_metadata(&connection, &[], false).await?.topics
        } else {
            topics_1_0(&connection).await?.into_iter().map(info_1_0).collect()
        };
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// One topic.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, ClientError> {
        let topic = self.client.refresh_topic(name, false).await?;
        Ok(TopicDescription::clone(&topic))
    }

    /// Changes a topic.
    pub async fn alter_topic(&self, name: &str, change: TopicChange) -> Result<TopicConfigured, ClientError> {
        let topic = self.client.refresh_topic(name, false).await?.id;
        let connection = self.client.control().await?;
        if !connection.supports(Features::METADATA) {
            return Err(unsupported(&connection, "altering topics"));
        }
        self.client.forget_topic(name);
        let TopicChange { partitions, max_age_secs, max_bytes, mode, replication_factor } = change;
        if let Some(mode) = mode {
            self.order(ClusterCommand::SetTopicMode { topic, mode }).await?;
        }
        if let Some(replication_factor) = replication_factor {
            self.order(ClusterCommand::SetReplicationFactor { topic, replication_factor }).await?;
        }
        let request = Request::AlterTopic(AlterTopic { topic, partitions, max_age_secs, max_bytes });
        match connection.request(request, "alter topic").await? {
            Response::AlterTopic(altered) => Ok(altered),
            _ => Err(unexpected(&connection, "alter topic")),
        }
    }

    /// Sets both limits of what a topic keeps; 0 = unlimited.
    pub async fn set_retention(&self, name: &str, max_age_secs: u64, max_bytes: u64) -> Result<(), ClientError> {
        let topic = self.client.refresh_topic(name, false).await?.id;
        let connection = self.client.control().await?;
        self.client.forget_topic(name);
        let request = Request::SetRetention { topic, max_age_secs, max_bytes };
        match connection.request(request, "set retention").await? {
            Response::Topic(_) => Ok(()),
            _ => Err(unexpected(&connection, "set retention")),
        }
    }

    /// Deletes a topic and its records; gives the id it had.
    pub async fn delete_topic(&self, name: &str) -> Result<TopicId, ClientError> {
        let topic = self.client.refresh_topic(name, false).await?.id;
        let connection = self.client.control().await?;
        self.client.forget_topic(name);
        match connection.request(Request::DeleteTopic { topic }, "delete topic").await? {
            Response::Topic(_) => Ok(topic),
            _ => Err(unexpected(&connection, "delete topic")),
        }
    }

    /// The nodes; none on a 1.0 server.
    pub async fn nodes(&self) -> Result<Nodes, ClientError> {
        let connection = self.client.control().await?;
        if !connection.supports(Features::METADATA) {
            return Ok(Nodes::default());
        }
        let reply = all_metadata(&connection, &[], false).await?;
        Ok(Nodes { controller: reply.controller, nodes: reply.nodes })
    }

    /// The cluster's state as 1.0 tells it.
    pub async fn cluster_status(&self) -> Result<ClusterStatusBody, ClientError> {
        let connection = self.client.control().await?;
        match connection.request(Request::GetClusterStatus, "cluster status").await? {
            Response::ClusterStatus(json) => parse(&connection, &json),
            _ => Err(unexpected(&connection, "cluster status")),
        }
    }
}

/// What a 1.0 server can do: one partition, and retention.
async fn create_1_0(connection: &Connection, topic: NewTopic) -> Result<TopicConfigured, ClientError> {
    let several = topic.partitions.is_some_and(|count| count > 1);
    let copies = topic.replication_factor.is_some_and(|count| count > 1);
    if several || copies || topic.mode == Some(TopicMode::L2) {
        return Err(unsupported(connection, "partitions, replication factor or mode"));
    }
    let request = match (topic.max_age_secs, topic.max_bytes) {
        (None, None) => Request::CreateTopic { name: topic.name },
        (age, bytes) => Request::CreateTopicWithRetention {
            name: topic.name,
            max_age_secs: age.unwrap_or(0),
            max_bytes: bytes.unwrap_or(0),
        },
    };
    match connection.request(request, "create topic").await? {
        Response::Topic(json) => {
            let created = info_1_0(parse(connection, &json)?);
            Ok(TopicConfigured { topic: created.id, partitions: 1, replication_factor: 1, mode: TopicMode::L1 })
        }
        _ => Err(unexpected(connection, "create topic")),
    }
}

pub(crate) fn unsupported(connection: &Connection, feature: &'static str) -> ClientError {
    ClientError::Unsupported { address: connection.address().to_owned(), feature }
}

/// Whether creation failed only because the topic is there.
///
/// ```no_run
/// use lance_client::admin::exists_already;
/// use lance_client::NewTopic;
///
/// # async fn example(admin: &lance_client::Admin) -> Result<(), lance_client::ClientError> {
/// match admin.create_topic(NewTopic::new("orders")).await {
///     Err(error) if !exists_already(&error) => return Err(error),
///     _ => {}
/// }
/// # Ok(())
/// # }
/// ```
pub fn exists_already(error: &ClientError) -> bool {
    error.code() == Some(ErrorCode::TopicExists)
}
