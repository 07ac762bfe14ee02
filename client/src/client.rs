//! The entry: options, a control connection, what is known about topics.

use crate::admin::Admin;
use crate::connection::{Connection, Throttled};
use crate::consumer::{Consumer, ConsumerOptions, StartOffset, resolve};
use crate::error::ClientError;
use crate::group::{GroupConsumer, GroupOptions};
use crate::metadata::{Found, Metadata, TopicInfo};
use crate::options::{Backoff, ClientOptions};
use crate::producer::{Producer, ProducerOptions};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::NodeId;
use lance_messages::wire::Features;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long one server may take before the next known one is tried beside it.
const NEXT_SERVER_AFTER: Duration = Duration::from_millis(250);
/// How long a server may take to tell about topics where others can be asked.
const OTHER_SERVER_AFTER: Duration = Duration::from_secs(3);
/// How often metadata of one server may be of no help before another one is asked.
const DOUBTS_OF_A_SERVER: usize = 4;
/// Redirects that are followed one after another without a pause.
pub(crate) const MAX_REDIRECTS: u32 = 3;

/// A client of one cluster. Clones share everything. It belongs to the runtime in which it was connected.
///
/// ```no_run
/// use lance_client::{Client, ClientOptions};
///
/// # async fn example() -> Result<(), lance_client::ClientError> {
/// let client = Client::connect(ClientOptions::new("127.0.0.1:1992")?).await?;
/// for topic in client.admin().list_topics().await? {
///     println!("{} has {} partitions", topic.name, topic.partitions.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: ClientOptions,
    runtime: Handle,
    control: Mutex<Option<Connection>>,
    metadata: RwLock<Metadata>,
    /// Which of the known servers is tried first: another one after each that was of no help.
    first_server: AtomicUsize,
    /// How often what is known did not help.
    doubts: AtomicUsize,
}

impl Client {
    /// Connects to the first server of the list that answers.
    pub async fn connect(options: ClientOptions) -> Result<Client, ClientError> {
        let client = Client {
            inner: Arc::new(Inner {
                options,
                runtime: Handle::current(),
                control: Mutex::new(None),
                metadata: RwLock::new(Metadata::default()),
                first_server: AtomicUsize::new(0),
                doubts: AtomicUsize::new(0),
            }),
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

    /// A consumer that shares topics with the other members of its group.
    pub fn group_consumer(&self, options: GroupOptions) -> GroupConsumer {
        GroupConsumer::new(self.clone(), options)
    }

    /// The offset a start stands for.
    pub(crate) async fn resolve_offset(
        &self,
        topic: &str,
        partition: u16,
        start: StartOffset,
    ) -> Result<u64, ClientError> {
        resolve(self, topic, partition, start).await
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

    /// Whether the server that questions go to grants a feature.
    pub async fn supports(&self, feature: Features) -> Result<bool, ClientError> {
        Ok(self.control().await?.supports(feature))
    }

    /// The servers given, and those learned of.
    fn known_servers(&self) -> Vec<String> {
        let mut addresses = self.inner.options.servers.addresses().to_vec();
        let metadata = self.inner.metadata.read().unwrap_or_else(PoisonError::into_inner);
        for address in metadata.addresses() {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        let first = self.inner.first_server.load(Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(first);
        addresses
    }

    /// Connects to the first known server that answers; one that takes its time does not hold up the next.
    async fn open_any(&self) -> Result<Connection, ClientError> {
        let mut servers = self.known_servers().into_iter();
        let mut attempts = JoinSet::new();
        let mut last = None;
        loop {
            let next = servers.next();
            let more = next.is_some();
            if let Some(address) = next {
                let options = self.inner.options.clone();
                attempts.spawn(async move { Connection::open(&address, &options).await });
            }
            let patience = if more { NEXT_SERVER_AFTER } else { self.inner.options.connect_timeout * 2 };
            match tokio::time::timeout(patience, attempts.join_next()).await {
                Ok(Some(Ok(Ok(connection)))) => return Ok(connection),
                Ok(Some(Ok(Err(error)))) => last = Some(error),
                Ok(None) if !more => break,
                _ => {}
            }
        }
        Err(last.unwrap_or_else(|| ClientError::Connect {
            address: self.inner.options.servers.to_string(),
            reason: "no server named".to_owned(),
        }))
    }

    /// The server asked last was of no help: the next question goes to another one.
    pub(crate) async fn ask_another_server(&self) {
        self.inner.first_server.fetch_add(1, Ordering::Relaxed);
        *self.inner.control.lock().await = None;
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
        let others = self.known_servers().len() > 1;
        let patience = match others {
            true => self.inner.options.request_timeout.min(OTHER_SERVER_AFTER),
            false => self.inner.options.request_timeout,
        };
        let asked = tokio::time::timeout(patience, self.ask_about(name, create_missing)).await;
        let asked = asked.unwrap_or(Err(ClientError::TimedOut { what: "metadata", after: patience }));
        if others && asked.as_ref().is_err_and(ClientError::is_retriable) {
            self.ask_another_server().await;
        }
        let found = asked?;
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

    async fn ask_about(&self, name: &str, create_missing: bool) -> Result<Found, ClientError> {
        let connection = self.control().await?;
        if connection.supports(Features::METADATA) {
            Metadata::ask(&connection, &[name.to_owned()], create_missing).await
        } else {
            Metadata::ask_1_0(&connection, name, create_missing).await
        }
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

    /// What is known about a topic did not help: the next use asks again, now and then another server, since the one
    /// asked so far may be cut off from the others.
    pub(crate) async fn doubt_topic(&self, name: &str) {
        self.inner.metadata.write().unwrap_or_else(PoisonError::into_inner).expire(name);
        let doubts = self.inner.doubts.fetch_add(1, Ordering::Relaxed) + 1;
        if doubts.is_multiple_of(DOUBTS_OF_A_SERVER) && self.known_servers().len() > 1 {
            self.ask_another_server().await;
        }
    }

    /// A node that does not lead a partition names who does: whoever needs it goes there at once, and the metadata
    /// follows in the background. `false` when the error names nobody.
    pub(crate) fn follow(&self, topic: &str, partition: u16, error: &ClientError) -> bool {
        let Some(address) = error.redirect() else { return false };
        self.redirect(topic, partition, address);
        true
    }

    pub(crate) fn redirect(&self, topic: &str, partition: u16, address: &str) {
        {
            let mut metadata = self.inner.metadata.write().unwrap_or_else(PoisonError::into_inner);
            metadata.redirect(topic, partition, address);
            if !metadata.begin_refresh(topic) {
                return;
            }
        }
        let (client, name) = (self.clone(), topic.to_owned());
        self.runtime().spawn(async move {
            if let Err(error) = client.refresh_topic(&name, false).await {
                tracing::debug!(topic = name, %error, "metadata could not be refreshed");
            }
            client.inner.metadata.write().unwrap_or_else(PoisonError::into_inner).end_refresh(&name);
        });
    }

    /// Where a node is, as far as known.
    pub(crate) fn node_address(&self, node: NodeId) -> Option<String> {
        self.inner.metadata.read().unwrap_or_else(PoisonError::into_inner).address(node)
    }

    /// Nobody answers at an address that a redirect named.
    pub(crate) fn unredirect(&self, address: &str) {
        self.inner.metadata.write().unwrap_or_else(PoisonError::into_inner).unredirect(address);
    }

    /// Asks the leader of a partition, wherever it moves, again and again while that can help.
    pub(crate) async fn ask_leader<T>(
        &self,
        topic: &str,
        partition: u16,
        ask: impl AsyncFn(Connection, Arc<TopicInfo>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let deadline = Instant::now() + self.inner.options.delivery_timeout;
        let mut backoff = Backoff::new(self.inner.options.retry_backoff);
        let mut redirects = 0;
        loop {
            let asked = async {
                let info = self.topic(topic, false).await?;
                let address = self.leader_address(&info, partition)?;
                let control = self.control().await.ok().filter(|control| control.address() == address);
                let connection = match control {
                    Some(control) => control,
                    None => self.open(&address).await?,
                };
                ask(connection, info).await
            };
            let error = match asked.await {
                Err(error) if error.is_retriable() && Instant::now() < deadline => error,
                outcome => return outcome,
            };
            if self.follow(topic, partition, &error) && redirects < MAX_REDIRECTS {
                redirects += 1;
                continue;
            }
            self.doubt_topic(topic).await;
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Connects to a node; a leader that nobody reaches is one no more.
    pub(crate) async fn open(&self, address: &str) -> Result<Connection, ClientError> {
        self.open_counted(address, Arc::default()).await
    }

    /// As [`Client::open`], with a count of how the server slows it down.
    pub(crate) async fn open_counted(
        &self,
        address: &str,
        throttled: Arc<Throttled>,
    ) -> Result<Connection, ClientError> {
        let opened = Connection::open_counted(address, &self.inner.options, throttled).await;
        opened.inspect_err(|_| self.unredirect(address))
    }

    /// Where its tasks run, also when something is asked of it elsewhere.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }

    fn known_topic(&self, name: &str) -> Option<Arc<TopicInfo>> {
        self.inner.metadata.read().unwrap_or_else(PoisonError::into_inner).fresh_topic(name)
    }

    /// Where the leader of a partition is.
    pub(crate) fn leader_address(&self, topic: &TopicInfo, partition: u16) -> Result<String, ClientError> {
        let known = topic.partitions.get(usize::from(partition)).ok_or_else(|| ClientError::UnknownPartition {
            topic: topic.name.clone(),
            partition,
            count: topic.partitions.len(),
        })?;
        let metadata = self.inner.metadata.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(redirected) = metadata.redirected(&topic.name, partition) {
            return Ok(redirected);
        }
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
