//! What is known about nodes and topics.

use crate::connection::Connection;
use crate::error::{ClientError, from_text};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{NodeId, TopicId};
use lance_messages::wire::json::{TopicBody, TopicsBody};
use lance_messages::wire::topics::{MetadataRequest, MetadataResponse, PartitionMetadata, TopicMetadata, TopicMode};
use lance_messages::wire::{Request, Response};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A topic as the server describes it.
pub type TopicInfo = TopicMetadata;

/// Nodes and topics, as far as asked for.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    nodes: HashMap<NodeId, String>,
    topics: HashMap<String, Arc<TopicInfo>>,
    /// Topics to ask about again before the next use.
    stale: HashSet<String>,
    /// Topics that are being asked about in the background.
    refreshing: HashSet<String>,
    /// Leaders that refusals named, and the epoch known then: they hold until metadata has a later one.
    redirects: HashMap<(String, u16), (String, u32)>,
}

impl Metadata {
    pub(crate) fn topic(&self, name: &str) -> Option<Arc<TopicInfo>> {
        self.topics.get(name).cloned()
    }

    /// As [`Metadata::topic`], unless it has to be asked about again.
    pub(crate) fn fresh_topic(&self, name: &str) -> Option<Arc<TopicInfo>> {
        self.topic(name).filter(|_| !self.stale.contains(name))
    }

    pub(crate) fn forget(&mut self, name: &str) {
        self.topics.remove(name);
        self.redirects.retain(|(topic, _), _| topic != name);
    }

    /// The topic is asked about again before the next use. What is known stays until then: an answer from a node that
    /// lags must not replace it.
    pub(crate) fn expire(&mut self, name: &str) {
        self.stale.insert(name.to_owned());
    }

    /// The leader of a partition is at `address`, as a node says that does not lead it.
    pub(crate) fn redirect(&mut self, topic: &str, partition: u16, address: &str) {
        let known = self.topics.get(topic).and_then(|info| info.partitions.get(usize::from(partition)));
        let epoch = known.map_or(0, |known| known.leader_epoch);
        self.redirects.insert((topic.to_owned(), partition), (address.to_owned(), epoch));
    }

    /// Whether the caller is to ask about a topic, which nobody does at the moment.
    pub(crate) fn begin_refresh(&mut self, topic: &str) -> bool {
        self.refreshing.insert(topic.to_owned())
    }

    pub(crate) fn end_refresh(&mut self, topic: &str) {
        self.refreshing.remove(topic);
    }

    /// Nobody answers at `address`: it is no leader's any more.
    pub(crate) fn unredirect(&mut self, address: &str) {
        self.redirects.retain(|_, (other, _)| other != address);
    }

    pub(crate) fn redirected(&self, topic: &str, partition: u16) -> Option<String> {
        self.redirects.get(&(topic.to_owned(), partition)).map(|(address, _)| address.clone())
    }

    /// Every address known, in no particular order.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &String> {
        self.nodes.values()
    }

    pub(crate) fn address(&self, node: NodeId) -> Option<String> {
        self.nodes.get(&node).cloned()
    }

    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn merge(&mut self, found: Found) {
        if !found.nodes.is_empty() {
            self.nodes = found.nodes;
        }
        for (name, topic) in found.topics {
            self.stale.remove(&name);
            match topic {
                Some(topic) => self.merge_topic(name, topic),
                None => self.forget(&name),
            }
        }
    }

    /// A node that lags knows of leaders that later ones have followed.
    fn merge_topic(&mut self, name: String, mut topic: TopicInfo) {
        if let Some(known) = self.topics.get(&name).filter(|known| known.id == topic.id) {
            for (new, old) in topic.partitions.iter_mut().zip(&known.partitions) {
                if new.leader_epoch < old.leader_epoch {
                    *new = *old;
                }
            }
        }
        let epoch = |partition: u16| topic.partitions.get(usize::from(partition)).map_or(0, |known| known.leader_epoch);
        self.redirects.retain(|(other, partition), (_, known)| *other != name || *known >= epoch(*partition));
        self.topics.insert(name, Arc::new(topic));
    }

    /// Asks a server that knows Metadata.
    pub(crate) async fn ask(connection: &Connection, names: &[String], create: bool) -> Result<Found, ClientError> {
        let reply = all_metadata(connection, names, create).await?;
        let nodes = reply.nodes.into_iter().map(|node| (node.id, node.address)).collect();
        let mut found = Found { nodes, topics: Vec::new() };
        for topic in reply.topics {
            match topic.error {
                None => found.topics.push((topic.name.clone(), Some(topic))),
                Some(ErrorCode::UnknownTopic | ErrorCode::TopicNotFound) => found.topics.push((topic.name, None)),
                Some(code) => return Err(ClientError::from_code(code)),
            }
        }
        Ok(found)
    }

    /// Asks a 1.0 server: by the list of topics.
    pub(crate) async fn ask_1_0(connection: &Connection, name: &str, create: bool) -> Result<Found, ClientError> {
        let mut topic = topics_1_0(connection).await?.into_iter().find(|topic| topic.name == name);
        if topic.is_none() && create {
            let request = Request::CreateTopic { name: name.to_owned() };
            topic = match connection.request(request, "create topic").await {
                Ok(Response::Topic(json)) => Some(parse(connection, &json)?),
                Ok(_) => return Err(unexpected(connection, "create topic")),
                Err(error) if error.code() == Some(ErrorCode::TopicExists) => {
                    topics_1_0(connection).await?.into_iter().find(|topic| topic.name == name)
                }
                Err(error) => return Err(error),
            };
        }
        Ok(Found { nodes: HashMap::new(), topics: vec![(name.to_owned(), topic.map(info_1_0))] })
    }
}

/// What a server told.
#[derive(Debug)]
pub(crate) struct Found {
    nodes: HashMap<NodeId, String>,
    /// `None`: there is no such topic.
    topics: Vec<(String, Option<TopicInfo>)>,
}

/// The reply to Metadata as it came.
pub(crate) async fn all_metadata(
    connection: &Connection,
    names: &[String],
    create_missing: bool,
) -> Result<MetadataResponse, ClientError> {
    let request = MetadataRequest { topics: names.to_vec(), create_missing };
    match connection.request(Request::Metadata(request), "metadata").await? {
        Response::Metadata(reply) => Ok(reply),
        _ => Err(unexpected(connection, "metadata")),
    }
}

/// All topics of a 1.0 server.
pub(crate) async fn topics_1_0(connection: &Connection) -> Result<Vec<TopicBody>, ClientError> {
    match connection.request(Request::ListTopics, "list topics").await? {
        Response::Topic(json) => Ok(parse::<TopicsBody>(connection, &json)?.topics),
        _ => Err(unexpected(connection, "list topics")),
    }
}

/// A 1.0 topic: one partition, whose leader is whoever answers.
pub(crate) fn info_1_0(topic: TopicBody) -> TopicInfo {
    TopicInfo {
        id: TopicId(topic.id),
        name: topic.name,
        error: None,
        mode: TopicMode::L1,
        replication_factor: 1,
        created_at: topic.created_at,
        max_age_secs: topic.max_age_secs.unwrap_or(0),
        max_bytes: topic.max_bytes.unwrap_or(0),
        partitions: vec![PartitionMetadata { leader: None, leader_epoch: 0, error: None }],
    }
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(connection: &Connection, json: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(json).map_err(|error| {
        from_text(format!("{} answered with JSON that does not decode: {error}", connection.address()))
    })
}

pub(crate) fn unexpected(connection: &Connection, request: &'static str) -> ClientError {
    ClientError::UnexpectedReply { address: connection.address().to_owned(), request }
}
