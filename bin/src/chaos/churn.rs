//! Topics that are made and deleted under the same few names while everything fails.

use super::load::connect;
use super::report::Verdict;
use lance_client::admin::exists_already;
use lance_client::{Admin, NewTopic, TopicMode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Names that are used again and again.
const NAMES: u64 = 2;
/// Between two attempts of what failed.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Which ids were given, and which are gone.
#[derive(Clone, Debug)]
pub struct TopicIds {
    given: BTreeMap<u64, String>,
    deleted: BTreeSet<u64>,
    fresh: Verdict,
}

impl Default for TopicIds {
    fn default() -> Self {
        let fresh = Verdict::new(9, "a new topic has an id no topic had, and a deleted one does not come back");
        Self { given: BTreeMap::new(), deleted: BTreeSet::new(), fresh }
    }
}

impl TopicIds {
    /// A topic was made, and there was none of this name before.
    pub fn created(&mut self, id: u64, name: &str) {
        let before = self.given.insert(id, name.to_owned());
        let deleted = self.deleted.contains(&id).then(|| "a deleted topic".to_owned());
        match before.or(deleted) {
            None => self.fresh.held(),
            Some(before) => self.fresh.broken(format!("the new topic {name} has id {id}, which {before} had")),
        }
    }

    /// The cluster said that it is gone.
    pub fn deleted(&mut self, id: u64) {
        self.deleted.insert(id);
    }

    /// In the end, a node lists these.
    pub fn listed(&mut self, node: u16, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            match self.deleted.contains(&id) {
                true => self.fresh.broken(format!("node {node} still lists topic {id}, which was deleted")),
                false => self.fresh.held(),
            }
        }
    }

    /// What became of it.
    pub fn verdict(&self) -> Verdict {
        self.fresh.clone()
    }
}

/// What makes and deletes topics, and what it remembers.
#[derive(Clone, Debug)]
pub struct Churn {
    servers: String,
    copies: u8,
    ids: Arc<Mutex<TopicIds>>,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
}

impl Churn {
    /// Nothing is made yet.
    pub fn new(servers: String, copies: u8) -> Self {
        Self { servers, copies, ids: Arc::default(), stop: Arc::default(), rounds: Arc::default() }
    }

    /// The ids.
    pub fn ids(&self) -> MutexGuard<'_, TopicIds> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins, in a task.
    pub fn begin(&self) -> tokio::task::JoinHandle<()> {
        self.stop.store(false, Ordering::Relaxed);
        let own = self.clone();
        tokio::spawn(async move {
            while !own.stop.load(Ordering::Relaxed) {
                own.round().await;
            }
        })
    }

    /// It ends after the topic it is at.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Makes a topic and deletes it. Nodes may answer questions from the past; orders are obeyed once, in one order, so
    /// only what comes of those is believed.
    async fn round(&self) {
        let number = self.rounds.fetch_add(1, Ordering::Relaxed);
        let name = format!("churn-{}", number % NAMES);
        loop {
            if let Ok(client) = connect(&self.servers).await {
                let admin = client.admin();
                // One that is there already was made by an order whose answer did not come.
                if self.create(&admin, &name).await && self.delete(&admin, &name).await {
                    return;
                }
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Whether it is there now.
    async fn create(&self, admin: &Admin, name: &str) -> bool {
        let topic = NewTopic {
            partitions: Some(2),
            replication_factor: Some(self.copies),
            mode: Some(TopicMode::L2),
            ..NewTopic::new(name)
        };
        match admin.create_topic(topic).await {
            Ok(created) => {
                self.ids().created(u64::from(created.topic.0), name);
                true
            }
            Err(error) => exists_already(&error),
        }
    }

    async fn delete(&self, admin: &Admin, name: &str) -> bool {
        let deleted = admin.delete_topic(name).await;
        if let Ok(id) = &deleted {
            self.ids().deleted(u64::from(id.0));
        }
        deleted.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_given_twice_is_found() {
        let mut ids = TopicIds::default();
        ids.created(5, "churn-0");
        ids.deleted(5);
        ids.created(6, "churn-0");
        assert_eq!((ids.verdict().held, ids.verdict().broken), (2, 0));
        ids.created(5, "churn-1");
        assert_eq!(ids.verdict().broken, 1);
    }

    #[test]
    fn a_deleted_topic_that_comes_back_is_found() {
        let mut ids = TopicIds::default();
        ids.created(5, "churn-0");
        ids.deleted(5);
        ids.listed(1, [1, 6]);
        assert_eq!(ids.verdict().broken, 0);
        ids.listed(2, [1, 5]);
        assert_eq!(ids.verdict().broken, 1);
    }
}
