//! Committed offsets as the admin interface lists them.

use crate::group::actor::{GroupActor, ListOffsets};
use crate::mailbox::Mailbox;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Answers `GET /v1/groups`.
pub type ListGroups = Arc<dyn Fn() -> BoxFuture<'static, Value> + Send + Sync>;

/// One committed offset.
#[derive(Debug, Serialize)]
struct Committed {
    topic_id: u32,
    partition: u16,
    committed: u64,
}

/// Lists what consumers have committed, consumer by consumer.
pub fn list_offsets(group: Mailbox<GroupActor>) -> ListGroups {
    Arc::new(move || {
        let asked = group.send(ListOffsets);
        async move { as_json(asked.await.unwrap_or_default()) }.boxed()
    })
}

fn as_json(rows: Vec<(u32, u16, String, u64)>) -> Value {
    let mut consumers: BTreeMap<String, Vec<Committed>> = BTreeMap::new();
    for (topic_id, partition, consumer, committed) in rows {
        consumers.entry(consumer).or_default().push(Committed { topic_id, partition, committed });
    }
    let groups: Vec<Value> = consumers
        .into_iter()
        .map(|(name, mut partitions)| {
            partitions.sort_by_key(|row| (row.topic_id, row.partition));
            json!({ "name": name, "partitions": partitions })
        })
        .collect();
    json!({ "groups": groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_listed_by_consumer_and_partition() {
        let rows = vec![(2, 0, "b".to_owned(), 5), (1, 1, "a".to_owned(), 4), (1, 0, "a".to_owned(), 3)];
        let expected = json!({ "groups": [
            { "name": "a", "partitions": [
                { "topic_id": 1, "partition": 0, "committed": 3 },
                { "topic_id": 1, "partition": 1, "committed": 4 },
            ] },
            { "name": "b", "partitions": [{ "topic_id": 2, "partition": 0, "committed": 5 }] },
        ] });
        assert_eq!(as_json(rows), expected);
    }
}
