//! The connections of one producer or consumer: one to each node it needs.

use crate::client::Client;
use crate::connection::{Connection, Throttled};
use crate::error::ClientError;
use crate::metadata::unexpected;
use lance_messages::wire::hello::{InitProducer, ProducerEpoch};
use lance_messages::wire::{Features, Request, Response};
use std::collections::HashMap;
use std::sync::Arc;
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
    /// How servers slow its connections down.
    throttled: Arc<Throttled>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By address and the producer bound there.
    by_address: HashMap<(String, Option<ProducerEpoch>), Link>,
    /// The producer of those that have none of their own yet.
    identity: Option<ProducerEpoch>,
}

impl Links {
    pub(crate) fn new(client: Client, idempotent: bool) -> Self {
        Self::counted(client, idempotent, Arc::default())
    }

    /// As [`Links::new`], with a count of how servers slow them down.
    pub(crate) fn counted(client: Client, idempotent: bool, throttled: Arc<Throttled>) -> Self {
        Self { client, idempotent, throttled, state: Mutex::new(State::default()) }
    }

    /// The connection to the leader of a partition, opened when needed.
    pub(crate) async fn to_leader(
        &self,
        topic: &str,
        partition: u16,
        own: Option<ProducerEpoch>,
    ) -> Result<Link, ClientError> {
        let info = self.client.topic(topic, false).await?;
        let address = self.client.leader_address(&info, partition)?;
        self.to(&address, own).await
    }

    /// The connection to a node. Who has a producer of its `own` gets a connection bound to that one: over another the
    /// server would not recognise what it has stored already.
    pub(crate) async fn to(&self, address: &str, own: Option<ProducerEpoch>) -> Result<Link, ClientError> {
        let mut state = self.state.lock().await;
        let wanted = own.or(state.identity);
        let key = (address.to_owned(), wanted);
        if let Some(link) = state.by_address.get(&key).filter(|link| !link.connection.is_closed()) {
            return Ok(link.clone());
        }
        let connection = self.client.open_counted(address, Arc::clone(&self.throttled)).await?;
        let producer = if self.idempotent && connection.supports(Features::IDEMPOTENT) {
            Some(bind(&connection, wanted).await?)
        } else {
            None
        };
        if state.identity == wanted {
            state.identity = producer;
        }
        let link = Link { connection, producer };
        state.by_address.retain(|_, link| !link.connection.is_closed());
        state.by_address.insert((address.to_owned(), producer), link.clone());
        Ok(link)
    }

    /// Gives up the producer id for who begins anew: the server no longer knows it or has another order of its batches.
    /// Others keep it, until they fail themselves.
    pub(crate) async fn reset_producer(&self, old: ProducerEpoch) {
        let mut state = self.state.lock().await;
        if state.identity == Some(old) {
            state.identity = None;
        }
    }
}

async fn bind(connection: &Connection, existing: Option<ProducerEpoch>) -> Result<ProducerEpoch, ClientError> {
    let request = Request::InitProducer(InitProducer { existing });
    match connection.request(request, "init producer").await? {
        Response::InitProducer(producer) => Ok(producer),
        _ => Err(unexpected(connection, "init producer")),
    }
}
