//! The way to the node that coordinates a group: found through any server, followed wherever it moves.

use crate::client::{Client, MAX_REDIRECTS};
use crate::connection::Connection;
use crate::error::ClientError;
use crate::options::Backoff;
use crate::spans::ClientSpan;
use lance_messages::wire::{Features, Request, Response};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A connection to the coordinator, of its own: what waits there delays nothing else.
#[derive(Debug)]
pub(crate) struct Coordinator {
    client: Client,
    partition: u16,
    state: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    connection: Option<Connection>,
    /// Where a redirect pointed.
    address: Option<String>,
}

impl Coordinator {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, partition: 0, state: Mutex::new(Found::default()) }
    }

    /// The same, for questions about one partition.
    pub(crate) fn about(self, partition: u16) -> Self {
        Self { partition, ..self }
    }

    /// Asks once, following redirects.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        what: &'static str,
        patience: Duration,
    ) -> Result<Response, ClientError> {
        let mut span = ClientSpan::group(request);
        let outcome = self.ask_within(request, what, patience, &mut span).await;
        match (span, &outcome) {
            (Some(span), Ok(_)) => span.end(),
            (Some(span), Err(error)) => span.fail(error),
            (None, _) => {}
        }
        outcome
    }

    async fn ask_within(
        &self,
        request: &Request,
        what: &'static str,
        patience: Duration,
        span: &mut Option<ClientSpan>,
    ) -> Result<Response, ClientError> {
        let mut redirects = 0;
        loop {
            let trace = span.as_ref().map(ClientSpan::context);
            let asked = async {
                let connection = self.connection().await?;
                if !connection.supports(Features::GROUPS) {
                    return Err(ClientError::Unsupported {
                        address: connection.address().to_owned(),
                        feature: "consumer groups",
                    });
                }
                connection.request_for(request.clone(), self.partition, trace, what, Duration::ZERO).await
            };
            let asked = tokio::time::timeout(patience, asked).await;
            let error = match asked.unwrap_or(Err(ClientError::TimedOut { what, after: patience })) {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let mut state = self.state.lock().await;
            match error.redirect() {
                Some(address) if redirects < MAX_REDIRECTS => {
                    redirects += 1;
                    span.iter_mut().for_each(|span| span.retry(&error));
                    *state = Found { connection: None, address: Some(address.to_owned()) };
                }
                _ => {
                    if error.is_retriable() {
                        // The next attempt looks for the coordinator anew.
                        *state = Found::default();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Asks again and again while that can help.
    pub(crate) async fn ask_until(
        &self,
        request: &Request,
        what: &'static str,
        deadline: Instant,
    ) -> Result<Response, ClientError> {
        let options = self.client.options();
        let mut backoff = Backoff::new(options.retry_backoff);
        loop {
            match self.ask(request, what, options.request_timeout).await {
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    self.client.ask_another_server().await;
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn connection(&self) -> Result<Connection, ClientError> {
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let address = match state.address.clone() {
            Some(address) => address,
            // Any server knows who coordinates.
            None => self.client.control().await?.address().to_owned(),
        };
        let opened = self.client.open(&address).await;
        if opened.is_err() {
            state.address = None;
        }
        let connection = opened?;
        state.connection = Some(connection.clone());
        Ok(connection)
    }
}
