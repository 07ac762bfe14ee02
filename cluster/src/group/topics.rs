//! The topics that groups subscribe to, and what they were when they were looked at last.

use lance_messages::id::TopicId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The topics of the cluster, as far as the node knows.
pub trait TopicCatalog {
    /// Changes whenever anything else here does: topics are looked at again only then.
    fn version(&self) -> u64;

    /// A topic and how many partitions it has.
    fn topic(&self, name: &str) -> Option<(TopicId, u16)>;

    /// The name of a topic.
    fn name(&self, topic: TopicId) -> Option<&str>;
}

#[derive(Debug, Default)]
pub(super) struct TopicIndex {
    version: Option<u64>,
    known: BTreeMap<String, Known>,
}

#[derive(Debug, Default)]
struct Known {
    found: Option<(TopicId, u16)>,
    groups: BTreeSet<Arc<str>>,
}

impl TopicIndex {
    /// What a topic was when the catalog was looked at last.
    pub(super) fn get(&self, name: &str) -> Option<(TopicId, u16)> {
        self.known.get(name)?.found
    }

    /// Looks at all topics again if they changed; gives the groups that have to know. A first look changes nothing.
    pub(super) fn refresh(&mut self, catalog: &dyn TopicCatalog) -> BTreeSet<Arc<str>> {
        let mut concerned = BTreeSet::new();
        let before = self.version.replace(catalog.version());
        if before != self.version {
            for (name, known) in &mut self.known {
                let found = catalog.topic(name);
                if std::mem::replace(&mut known.found, found) != found && before.is_some() {
                    concerned.extend(known.groups.iter().cloned());
                }
            }
        }
        concerned
    }

    /// A group reads a topic from now on. Without a catalog the next refresh finds what the topic is.
    pub(super) fn add(&mut self, name: &str, group: &Arc<str>, catalog: Option<&dyn TopicCatalog>) {
        let find = || Known { found: catalog.and_then(|catalog| catalog.topic(name)), groups: BTreeSet::new() };
        self.known.entry(name.to_owned()).or_insert_with(find).groups.insert(Arc::clone(group));
    }

    /// A group does not read a topic any more.
    pub(super) fn remove(&mut self, name: &str, group: &Arc<str>) {
        if let Some(known) = self.known.get_mut(name) {
            known.groups.remove(group);
            if known.groups.is_empty() {
                self.known.remove(name);
            }
        }
    }
}
