//! What a client needs to know before it connects.

use crate::address::ServerList;
use crate::connection::{Connector, TcpConnector};
use crate::error::ClientError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Where a server started without any configuration is.
const DEFAULT_SERVER: &str = "127.0.0.1:1992";

/// How to reach the servers.
///
/// ```
/// use lance_client::ClientOptions;
/// use std::time::Duration;
///
/// let mut options = ClientOptions::new("lance-1:1992,lance-2:1992,lance-3:1992")?;
/// options.client_name = "billing".to_owned();
/// options.delivery_timeout = Duration::from_secs(120);
/// # Ok::<(), lance_client::ClientError>(())
/// ```
#[derive(Clone)]
pub struct ClientOptions {
    /// Where to connect first; the rest is learned from them.
    pub servers: ServerList,
    /// Told to the server, for its logs.
    pub client_name: String,
    /// What the client fails together with, as `node.rack` of the servers: consumers read from a replica there, if one is in
    /// the quorum, instead of the leader. Empty: always from the leader.
    pub rack: String,
    /// Sent on every connection when there is one.
    pub token: Option<String>,
    /// Logs in on every connection; takes the place of the token.
    pub login: Option<Login>,
    /// Longest wait for one connection, Hello and authentication included.
    pub connect_timeout: Duration,
    /// Longest wait for one answer.
    pub request_timeout: Duration,
    /// First wait before trying again; it doubles up to two seconds.
    pub retry_backoff: Duration,
    /// Longest time to keep trying what can be tried again, over any number of servers.
    pub delivery_timeout: Duration,
    /// How old what is known about a topic may get before a producer asks again, to learn of new partitions.
    pub metadata_max_age: Duration,
    /// Opens connections; plain TCP unless told otherwise.
    pub connector: Arc<dyn Connector>,
    /// Whether connections carry whole batches as they are stored, for tools that copy logs:
    /// [`Client::stored_logs`](crate::Client::stored_logs) opens such ones by itself. Producers and consumers have no use for it.
    pub stored_batches: bool,
}

/// A user and its password, for SCRAM-SHA-256: the password is never sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Without its secrets.
impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("servers", &self.servers)
            .field("client_name", &self.client_name)
            .field("rack", &self.rack)
            .field("token", &self.token.as_ref().map(|_| "********"))
            .field("login", &self.login)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("retry_backoff", &self.retry_backoff)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("metadata_max_age", &self.metadata_max_age)
            .field("connector", &self.connector)
            .finish()
    }
}

impl ClientOptions {
    /// The defaults for `servers`, as in `HOST:PORT[,HOST:PORT…]`.
    pub fn new(servers: &str) -> Result<Self, ClientError> {
        Ok(Self {
            servers: servers.parse()?,
            client_name: concat!("lance-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            rack: String::new(),
            token: None,
            login: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(20),
            delivery_timeout: Duration::from_secs(30),
            metadata_max_age: Duration::from_secs(300),
            connector: Arc::new(TcpConnector),
            stored_batches: false,
        })
    }

    /// The defaults, with the servers of the environment variable `LNC_SERVER` (else `127.0.0.1:1992`) and the token of
    /// `LNC_TOKEN`, as the command line tools take them.
    ///
    /// ```
    /// let options = lance_client::ClientOptions::from_env()?;
    /// assert_eq!(options.servers.to_string(), "127.0.0.1:1992");
    /// # Ok::<(), lance_client::ClientError>(())
    /// ```
    pub fn from_env() -> Result<Self, ClientError> {
        let servers = std::env::var("LNC_SERVER").unwrap_or_else(|_| DEFAULT_SERVER.to_owned());
        let token = std::env::var("LNC_TOKEN").ok();
        Ok(Self { token, ..Self::new(&servers)? })
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
