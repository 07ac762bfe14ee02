//! Gives each partition to the reader of its leader's node, again whenever leadership moves.

use super::ConsumerOptions;
use super::board::{Key, ReaderId};
use super::hub::Hub;
use super::reader::Reader;
use crate::client::{Client, MAX_REDIRECTS};
use crate::error::ClientError;
use crate::options::Backoff;
use lance_messages::id::TopicId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Partitions that a reader cannot read any more.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) keys: Vec<Key>,
    /// Whether the node named another that leads: that one can be asked at once.
    pub(super) redirected: bool,
    /// The replica that the leader has named to read from.
    pub(super) near: Option<String>,
    /// Whether the node had answered before.
    pub(super) answered: bool,
    pub(super) error: ClientError,
}

/// What went wrong with a partition since it was read last.
#[derive(Debug)]
struct Trouble {
    backoff: Backoff,
    redirects: u32,
    not_before: Instant,
}

struct Placement {
    client: Client,
    hub: Arc<Hub>,
    options: ConsumerOptions,
    readers: HashMap<String, ReaderId>,
    running: JoinSet<()>,
    troubles: HashMap<Key, Trouble>,
    lost: mpsc::UnboundedSender<Lost>,
}

/// Runs until it is aborted, which ends the readers too.
pub(super) async fn run(client: Client, hub: Arc<Hub>, options: ConsumerOptions) {
    // A reader reports what it loses once, and ends or goes on without it: the queue holds no more than what is assigned.
    let (lost, mut reports) = mpsc::unbounded_channel();
    let (readers, running, troubles) = (HashMap::new(), JoinSet::new(), HashMap::new());
    let mut changes = hub.changes();
    let mut placement = Placement { client, hub, options, readers, running, troubles, lost };
    loop {
        changes.borrow_and_update();
        let again = placement.place_all().await;
        tokio::select! {
            _ = changes.changed() => {}
            Some(report) = reports.recv() => placement.on_lost(report).await,
            Some(_) = placement.running.join_next() => {}
            () = sleep_until(again) => {}
        }
    }
}

impl Placement {
    /// Places what can be placed; gives when to try the rest again.
    async fn place_all(&mut self) -> Option<Instant> {
        let homeless = self.hub.board().homeless();
        if homeless.is_empty() {
            return None;
        }
        self.troubles.retain(|key, _| self.hub.board().position(key).is_some());
        let now = Instant::now();
        let mut by_topic: HashMap<Arc<str>, Vec<Key>> = HashMap::new();
        for key in homeless {
            if self.troubles.get(&key).is_none_or(|trouble| trouble.not_before <= now) {
                by_topic.entry(Arc::clone(&key.topic)).or_default().push(key);
            }
        }
        for (topic, keys) in by_topic {
            self.place_topic(&topic, keys).await;
        }
        let homeless = self.hub.board().homeless();
        homeless.iter().map(|key| self.troubles.get(key).map_or(now, |trouble| trouble.not_before)).min()
    }

    async fn place_topic(&mut self, topic: &str, keys: Vec<Key>) {
        let info = match self.client.topic(topic, false).await {
            Ok(info) => info,
            Err(error) => return self.on_unplaced(topic, keys, &error).await,
        };
        let mut without_leader = Vec::new();
        for key in keys {
            let near = self.hub.near.address(&key).map(Ok);
            match near.unwrap_or_else(|| self.client.leader_address(&info, key.partition)) {
                Ok(address) => self.place(&key, address, info.id),
                Err(error) if error.is_retriable() => without_leader.push((key, error)),
                Err(error) => self.hub.fail_partition(&key, error),
            }
        }
        if let Some((_, error)) = without_leader.first().cloned() {
            let keys = without_leader.into_iter().map(|(key, _)| key).collect();
            self.on_unplaced(topic, keys, &error).await;
        }
    }

    fn place(&mut self, key: &Key, address: String, topic: TopicId) {
        if let Some(&reader) = self.readers.get(&address)
            && self.hub.place(key, reader, topic)
        {
            return;
        }
        let id = self.hub.change(|board| board.add_reader());
        self.hub.place(key, id, topic);
        let (client, hub, lost) = (self.client.clone(), Arc::clone(&self.hub), self.lost.clone());
        let reader = Reader::new(id, client, hub, self.options, address.clone(), lost);
        self.readers.insert(address, id);
        self.running.spawn(reader.run());
    }

    /// No leader is known.
    async fn on_unplaced(&mut self, topic: &str, keys: Vec<Key>, error: &ClientError) {
        tracing::debug!(topic, %error, "no leader to read from");
        for key in keys {
            if error.is_retriable() {
                self.wait(key);
            } else {
                self.hub.fail_partition(&key, error.clone());
            }
        }
        self.client.doubt_topic(topic).await;
    }

    fn trouble(&mut self, key: Key) -> &mut Trouble {
        let backoff = self.client.options().retry_backoff;
        let new = || Trouble { backoff: Backoff::new(backoff), redirects: 0, not_before: Instant::now() };
        self.troubles.entry(key).or_insert_with(new)
    }

    fn wait(&mut self, key: Key) {
        let trouble = self.trouble(key);
        trouble.not_before = Instant::now() + trouble.backoff.next_wait();
    }

    async fn on_lost(&mut self, lost: Lost) {
        let Lost { keys, redirected, near, answered, error } = lost;
        let mut doubted = HashSet::new();
        for key in keys {
            tracing::debug!(topic = &*key.topic, partition = key.partition, %error, "reading stopped");
            if answered {
                self.troubles.remove(&key);
            }
            if let Some(address) = &near {
                self.hub.near.go(key, address.clone());
                continue;
            }
            // The leader that named a nearer replica is still there.
            if self.hub.near.leave(&key, Instant::now()) {
                continue;
            }
            let trouble = self.trouble(key.clone());
            if redirected && trouble.redirects < MAX_REDIRECTS {
                trouble.redirects += 1;
                continue;
            }
            doubted.insert(Arc::clone(&key.topic));
            self.wait(key);
        }
        for topic in doubted {
            self.client.doubt_topic(&topic).await;
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
