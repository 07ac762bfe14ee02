//! What a client needs to know before it connects.

use crate::address::ServerList;
use crate::error::ClientError;
use std::time::Duration;

/// How to reach the servers.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Where to connect first; the rest is learned from them.
    pub servers: ServerList,
    /// Told to the server, for its logs.
    pub client_name: String,
    /// Sent on every connection when there is one.
    pub token: Option<String>,
    /// Longest wait for one connection, Hello and authentication included.
    pub connect_timeout: Duration,
    /// Longest wait for one answer.
    pub request_timeout: Duration,
    /// First wait before trying again; it doubles up to two seconds.
    pub retry_backoff: Duration,
    /// Longest time to keep trying what can be tried again, over any number of servers.
    pub delivery_timeout: Duration,
}

impl ClientOptions {
    /// The defaults for `servers`, as in `HOST:PORT[,HOST:PORT…]`.
    pub fn new(servers: &str) -> Result<Self, ClientError> {
        Ok(Self {
            servers: servers.parse()?,
            client_name: concat!("lance-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            token: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(20),
            delivery_timeout: Duration::from_secs(30),
        })
    }
}

/// Waits between attempts: doubling, with jitter, at most two seconds.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    next: Duration,
}

impl Backoff {
    const MOST: Duration = Duration::from_secs(2);

    pub(crate) fn new(first: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        Self { first, next: first }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// Between half and all of the doubling wait, so that many clients do not come back at once.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(Self::MOST);
        wait.mul_f64(rand::random_range(0.5..=1.0))
    }
}
