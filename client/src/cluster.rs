//! The cluster: its state as its nodes know it, and orders to it.

use crate::admin::{Admin, unsupported};
use crate::connection::Connection;
use crate::error::ClientError;
use crate::metadata::unexpected;
use crate::options::Backoff;
use lance_messages::wire::cluster::{ClusterCommand, ClusterCommandDone, ClusterDescription};
use lance_messages::wire::hello::InitProducer;
use lance_messages::wire::{Features, Request, Response};
use std::time::Duration;
use tokio::time::Instant;

/// How long an order is repeated while nobody leads the metadata.
const ORDER_PATIENCE: Duration = Duration::from_secs(15);
/// How long another node may take to say how its copies are.
const NODE_PATIENCE: Duration = Duration::from_secs(3);

impl Admin {
    /// The state of the cluster, with the log positions of those leaders that can be reached.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, ClientError> {
        let mut descriptions = self.describe_everywhere(Asked::Leaders).await?.into_iter();
        // The first is that of the node asked, and always there.
        let Some(mut cluster) = descriptions.next() else {
            return Ok(ClusterDescription::default());
        };
        let others: Vec<ClusterDescription> = descriptions.collect();
        for (at, topic) in cluster.topics.iter_mut().enumerate() {
            for (number, partition) in topic.partitions.iter_mut().enumerate() {
                if partition.leader == Some(cluster.node) {
                    continue;
                }
                let leader = others.iter().find(|other| Some(other.node) == partition.leader);
                let known = leader.and_then(|other| {
                    let same = other.topics.get(at).filter(|found| found.id == topic.id);
                    same.or_else(|| other.topics.iter().find(|found| found.id == topic.id))
                });
                // What the node asked knows of its own copy is not what counts.
                partition.copy = known.and_then(|found| found.partitions.get(number)).and_then(|found| found.copy);
            }
        }
        Ok(cluster)
    }

    /// What every node that can be reached knows, that of the node asked first: each with the positions of its own copies.
    pub async fn describe_copies(&self) -> Result<Vec<ClusterDescription>, ClientError> {
        self.describe_everywhere(Asked::All).await
    }

    async fn describe_everywhere(&self, asked: Asked) -> Result<Vec<ClusterDescription>, ClientError> {
        let first = describe(&self.cluster_connection().await?).await?;
        let leads = |node| {
            let mut partitions = first.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.any(|partition| partition.leader == Some(node))
        };
        let wanted = first.nodes.iter().filter(|node| node.id != first.node && node.alive);
        let wanted = wanted.filter(|node| asked == Asked::All || leads(node.id));
        let addresses: Vec<String> = wanted.map(|node| node.address.clone()).collect();
        let mut descriptions = vec![first];
        for address in addresses {
            let described = async { describe(&self.client.open(&address).await?).await };
            match tokio::time::timeout(NODE_PATIENCE, described).await {
                Ok(Ok(description)) => descriptions.push(description),
                Ok(Err(error)) => tracing::debug!(address, %error, "a node does not say how its copies are"),
                Err(_) => tracing::debug!(address, "a node does not say in time how its copies are"),
            }
        }
        Ok(descriptions)
    }

    /// Gives an order to the cluster, again and again while that can help.
    pub async fn order(&self, order: ClusterCommand) -> Result<ClusterCommandDone, ClientError> {
        if let ClusterCommand::Admit { .. } = order {
            return self.order_everywhere(order).await;
        }
        let deadline = Instant::now() + ORDER_PATIENCE;
        let mut backoff = Backoff::new(self.client.options().retry_backoff);
        loop {
            let given = async { give(&self.cluster_connection().await?, order.clone()).await };
            match given.await {
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    self.client.ask_another_server().await;
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Gives an order that each leader carries out for the partitions that it leads.
    async fn order_everywhere(&self, order: ClusterCommand) -> Result<ClusterCommandDone, ClientError> {
        let connection = self.cluster_connection().await?;
        let cluster = describe(&connection).await?;
        let mut done = give(&connection, order.clone()).await?;
        for node in cluster.nodes.iter().filter(|node| node.id != cluster.node && node.alive) {
            let given = give(&self.client.open(&node.address).await?, order.clone()).await?;
            done.partition_count = done.partition_count.saturating_add(given.partition_count);
        }
        Ok(done)
    }

    /// Has a producer id given out that nobody uses; every producer before has a lower one.
    pub async fn new_producer(&self) -> Result<u64, ClientError> {
        let connection = self.client.control().await?;
        let request = Request::InitProducer(InitProducer { existing: None });
        match connection.request(request, "init producer").await? {
            Response::InitProducer(producer) => Ok(producer.id.0),
            _ => Err(unexpected(&connection, "init producer")),
        }
    }

    async fn cluster_connection(&self) -> Result<Connection, ClientError> {
        let connection = self.client.control().await?;
        match connection.supports(Features::CLUSTER) {
            true => Ok(connection),
            false => Err(unsupported(&connection, "managing the cluster")),
        }
    }
}

/// Which nodes are asked beside the one that is connected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Those that lead something.
    Leaders,
    /// All that are alive.
    All,
}

async fn describe(connection: &Connection) -> Result<ClusterDescription, ClientError> {
    match connection.request(Request::DescribeCluster, "describe cluster").await? {
        Response::DescribeCluster(cluster) => Ok(cluster),
        _ => Err(unexpected(connection, "describe cluster")),
    }
}

async fn give(connection: &Connection, order: ClusterCommand) -> Result<ClusterCommandDone, ClientError> {
    match connection.request(Request::ClusterCommand(order), "cluster command").await? {
        Response::ClusterCommand(done) => Ok(done),
        _ => Err(unexpected(connection, "cluster command")),
    }
}
