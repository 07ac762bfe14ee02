//! Committed metadata is never lost, a deleted topic never comes back, and no id is ever given twice.

use crate::sim::oracle::{Oracle, TopicTruth};
use lance_actors::view::ClusterView;
use lance_messages::id::TopicId;

/// Judges the committed metadata as a node shows it, once it knows all of it.
pub fn shown(oracle: &mut Oracle, view: &ClusterView) {
    let verdict = judge(oracle, view);
    oracle.judge(verdict);
    for topic in view.topics.values() {
        oracle.names.entry(topic.id).or_insert_with(|| topic.name.clone());
    }
}

fn judge(oracle: &Oracle, view: &ClusterView) -> Result<(), String> {
    for (id, topic) in &view.topics {
        if oracle.deleted.contains(id) {
            return Err(format!("topic {id} ({}) was deleted and is there again", topic.name));
        }
        if let Some(name) = oracle.names.get(id)
            && *name != topic.name
        {
            return Err(format!("topic id {id} stood for {name} and now stands for {}", topic.name));
        }
    }
    for (name, truth) in oracle.topics.iter().filter(|(_, truth)| !truth.deleting) {
        let TopicTruth { id, partitions, .. } = *truth;
        match view.topics.get(&id) {
            None => return Err(format!("topic {name} (id {id}) was created and is gone")),
            Some(topic) if topic.partitions.len() < usize::from(partitions) => {
                let now = topic.partitions.len();
                return Err(format!("topic {name} had {partitions} partitions and now has {now}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// A client was told that a topic exists.
pub fn created(oracle: &mut Oracle, name: &str, id: TopicId, partitions: u16) {
    let known = oracle.names.get(&id).filter(|known| *known != name).cloned();
    if let Some(known) = known {
        return oracle.violated(format!("topic {name} got the id {id} of {known}"));
    }
    if oracle.deleted.contains(&id) {
        return oracle.violated(format!("topic {name} got the id {id} of a deleted topic"));
    }
    oracle.names.insert(id, name.to_owned());
    oracle.topics.insert(name.to_owned(), TopicTruth { id, partitions, deleting: false });
}

/// A client was given a new producer id.
pub fn producer_allocated(oracle: &mut Oracle, id: u64) {
    if !oracle.producers.insert(id) {
        oracle.violated(format!("producer id {id} was given out twice"));
    }
}
