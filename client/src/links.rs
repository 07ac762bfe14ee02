//! The connections of one producer or consumer: one to each node it needs.

use crate::client::Client;
use crate::connection::Connection;
use crate::error::ClientError;
use crate::metadata::unexpected;
use lance_messages::wire::hello::{InitProducer, ProducerEpoch};
use lance_messages::wire::{Features, Request, Response};
use std::collections::HashMap;
use tokio::sync::Mutex;

/// A connection, and the producer bound to it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) producer: Option<ProducerEpoch>,
}

#[derive(Debug)]
pub(crate) struct Links {
    client: Client,
    /// Whether a producer is bound to each connection that can have one.
    idempotent: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_address: HashMap<String, Link>,
    identity: Option<ProducerEpoch>,
}

impl Links {
    pub(crate) fn new(client: Client, idempotent: bool) -> Self {
        Self { client, idempotent, state: Mutex::new(State::default()) }
    }

    /// The connection to the leader of a partition, opened when needed.
    pub(crate) async fn to_leader(&self, topic: &str, partition: u16) -> Result<Link, ClientError> {
        let info = self.client.topic(topic, false).await?;
        let address = self.client.leader_address(&info, partition)?;
        self.to(&address).await
    }

    /// The connection to a node.
    pub(crate) async fn to(&self, address: &str) -> Result<Link, ClientError> {
        let mut state = self.state.lock().await;
        if let Some(link) = state.by_address.get(address).filter(|link| !link.connection.is_closed()) {
            return Ok(link.clone());
        }
        let connection = self.client.open(address).await?;
        let producer = if self.idempotent && connection.supports(Features::IDEMPOTENT) {
            Some(bind(&connection, &mut state.identity).await?)
        } else {
            None
        };
        let link = Link { connection, producer };
        state.by_address.insert(address.to_owned(), link.clone());
        Ok(link)
    }

    /// Gives up the producer id: the server no longer knows it or has another order of its batches.
    pub(crate) async fn reset_producer(&self, old: ProducerEpoch) {
        let mut state = self.state.lock().await;
        if state.identity == Some(old) {
            state.identity = None;
            state.by_address.clear();
        }
    }
}

async fn bind(connection: &Connection, identity: &mut Option<ProducerEpoch>) -> Result<ProducerEpoch, ClientError> {
    let request = Request::InitProducer(InitProducer { existing: *identity });
    match connection.request(request, "init producer").await? {
        Response::InitProducer(producer) => {
            *identity = Some(producer);
            Ok(producer)
        }
        _ => Err(unexpected(connection, "init producer")),
    }
}
