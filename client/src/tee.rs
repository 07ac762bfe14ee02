//! Rules by which topics go on to other ones.

use crate::admin::{Admin, unsupported};
use crate::connection::Connection;
use crate::error::ClientError;
use crate::metadata::unexpected;
use lance_messages::id::{TeeId, TopicId};
use lance_messages::wire::tee::{AddTee, TeeDescription, TeeFrom, TeeList, TeeReply, TeeRequest, TeeTarget};
use lance_messages::wire::{Features, Request, Response};
use std::time::Duration;

/// How long another node may take to say how far it is.
const NODE_PATIENCE: Duration = Duration::from_secs(3);

/// A rule to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTee {
    /// Where records go.
    pub target: TeeTarget,
    /// Most bytes a second; 0 = unlimited.
    pub bytes_per_second: u64,
    /// From where on.
    pub from: TeeFrom,
}

impl Admin {
    /// Has the records of a topic go on to another one, too. The server asks the target for its rules first: one that
    /// would bring records back is refused.
    pub async fn add_tee(&self, topic: &str, tee: NewTee) -> Result<TeeId, ClientError> {
        let topic = self.client.refresh_topic(topic, false).await?.id;
        let NewTee { target, bytes_per_second, from } = tee;
        let request = TeeRequest::Add(AddTee { topic, target, bytes_per_second, from });
        let connection = self.tee_connection().await?;
        match ask(&connection, request).await? {
            TeeReply::Added(tee) => Ok(tee),
            _ => Err(unexpected(&connection, "add tee")),
        }
    }

    /// Ends a rule of a topic.
    pub async fn remove_tee(&self, topic: &str, tee: TeeId) -> Result<(), ClientError> {
        let topic = self.client.refresh_topic(topic, false).await?.id;
        let connection = self.tee_connection().await?;
        match ask(&connection, TeeRequest::Remove { topic, tee }).await? {
            TeeReply::Removed(_) => Ok(()),
            _ => Err(unexpected(&connection, "remove tee")),
        }
    }

    /// The rules of a topic, or all, with what every node that can be reached says of the partitions it forwards.
    pub async fn list_tees(&self, topic: Option<&str>) -> Result<Vec<TeeDescription>, ClientError> {
        let topic = match topic {
            Some(name) => Some(self.client.refresh_topic(name, false).await?.id),
            None => None,
        };
        let connection = self.tee_connection().await?;
        let mut rules = list(&connection, topic).await?.rules;
        if !rules.is_empty() {
            for node in self.nodes().await?.nodes {
                if node.address == connection.address() {
                    continue;
                }
                let asked = async { list(&self.client.open(&node.address).await?, topic).await };
                match tokio::time::timeout(NODE_PATIENCE, asked).await {
                    Ok(Ok(other)) => add_partitions(&mut rules, other),
                    Ok(Err(error)) => tracing::debug!(address = %node.address, %error, "a node lists no rules"),
                    Err(_) => tracing::debug!(address = %node.address, "a node lists no rules in time"),
                }
            }
        }
        Ok(rules)
    }

    async fn tee_connection(&self) -> Result<Connection, ClientError> {
        let connection = self.client.control().await?;
        match connection.supports(Features::TEE) {
            true => Ok(connection),
            false => Err(unsupported(&connection, "tee rules")),
        }
    }
}

/// Each partition is forwarded by one node; who was told twice, because a leader has just changed, keeps the first.
fn add_partitions(rules: &mut [TeeDescription], other: TeeList) {
    for found in other.rules {
        let Some(rule) = rules.iter_mut().find(|rule| rule.id == found.id) else { continue };
        for partition in found.partitions {
            if rule.partitions.iter().all(|known| known.partition != partition.partition) {
                rule.partitions.push(partition);
            }
        }
        rule.partitions.sort_by_key(|partition| partition.partition);
    }
}

async fn list(connection: &Connection, topic: Option<TopicId>) -> Result<TeeList, ClientError> {
    match ask(connection, TeeRequest::List { topic }).await? {
        TeeReply::List(list) => Ok(list),
        _ => Err(unexpected(connection, "list tees")),
    }
}

async fn ask(connection: &Connection, request: TeeRequest) -> Result<TeeReply, ClientError> {
    match connection.request(Request::TopicTee(request), "topic tee").await? {
        Response::TopicTee(reply) => Ok(reply),
        _ => Err(unexpected(connection, "topic tee")),
    }
}
