//! What has changed from one view of the cluster to the next, as events: many partitions of the same fate are one.

use super::{Event, EventKind, MAX_NAMED, events};
use crate::view::{ClusterView, PartitionMembers, TopicView};
use lance_messages::id::NodeId;
use std::collections::BTreeMap;

type Fate = (EventKind, Option<NodeId>, Option<NodeId>);

/// Notes what `after` has that `before` had not; nothing when there was nothing before.
pub fn note_changes(before: &ClusterView, after: &ClusterView) {
    changes(before, after).into_iter().for_each(|event| events().note(event));
}

/// The events that lead from one view to the other.
pub fn changes(before: &ClusterView, after: &ClusterView) -> Vec<Event> {
    if !before.is_known() {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let Some(leader) = after.metadata_leader.filter(|leader| before.metadata_leader != Some(*leader)) {
        let event = Event::new(EventKind::MetadataLeader);
        found.push(Event { node: Some(leader), before: before.metadata_leader, ..event });
    }
    for (node, _) in after.nodes.iter().filter(|(node, _)| before.is_alive(*node) != after.is_alive(*node)) {
        let kind = if after.is_alive(*node) { EventKind::NodeUp } else { EventKind::NodeDown };
        found.push(Event { node: Some(*node), ..Event::new(kind) });
    }
    topics(before, after, EventKind::TopicCreated, &mut found);
    topics(after, before, EventKind::TopicDeleted, &mut found);
    let mut fates: BTreeMap<Fate, (usize, Vec<String>)> = BTreeMap::new();
    for topic in after.sorted_topics() {
        let Some(known) = before.topics.get(&topic.id) else { continue };
        compare(known, topic, &mut fates);
    }
    found.extend(fates.into_iter().map(|((kind, node, before), (partition_count, partitions))| Event {
        node,
        before,
        partition_count,
        partitions,
        ..Event::new(kind)
    }));
    found
}

/// Topics of `more` that are not in `fewer`.
fn topics(fewer: &ClusterView, more: &ClusterView, kind: EventKind, found: &mut Vec<Event>) {
    let is_new = |topic: &&TopicView| !fewer.topics.contains_key(&topic.id);
    found.extend(more.sorted_topics().into_iter().filter(is_new).map(|topic| Event {
        topic: Some(topic.name.clone()),
        partition_count: topic.partitions.len(),
        ..Event::new(kind)
    }));
}

fn compare(before: &TopicView, after: &TopicView, fates: &mut BTreeMap<Fate, (usize, Vec<String>)>) {
    let mut add = |fate: Fate, number: usize| {
        let (count, named) = fates.entry(fate).or_default();
        *count += 1;
        if named.len() < MAX_NAMED {
            named.push(format!("{}-{number}", after.name));
        }
    };
    for (number, ((was, _), (is, _))) in before.partitions.iter().zip(&after.partitions).enumerate() {
        // Without a leader the next one is on its way: that is the event.
        if is.is_some() && was != is {
            add((EventKind::LeaderChange, *is, *was), number);
        }
    }
    for (number, (was, is)) in before.members.iter().zip(&after.members).enumerate() {
        let gone = |from: &PartitionMembers, to: &PartitionMembers| -> Vec<NodeId> {
            from.in_quorum.iter().filter(|node| !to.in_quorum.contains(node)).copied().collect()
        };
        gone(was, is).into_iter().for_each(|node| add((EventKind::QuorumLeft, Some(node), None), number));
        gone(is, was).into_iter().for_each(|node| add((EventKind::QuorumJoined, Some(node), None), number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_cluster::metadata::TopicConfig;
    use lance_messages::id::{LeaderEpoch, TopicId};

    fn nothing() -> ClusterView {
        let mut view = ClusterView::default();
        view.node = Some(NodeId(1));
        view
    }

    fn view(leader: Option<u16>, in_quorum: &[u16]) -> ClusterView {
        let nodes = |ids: &[u16]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>();
        let members = PartitionMembers {
            replicas: nodes(&[1, 2, 3]),
            in_quorum: nodes(in_quorum),
            ..PartitionMembers::default()
        };
        let mut view = nothing();
        view.nodes = nodes(&[1, 2, 3]).into_iter().map(|node| (node, String::new())).collect();
        view.insert(TopicView {
            id: TopicId(4),
            name: "events".to_owned(),
            created_at: 0,
            topic_epoch: 1,
            config: TopicConfig::default(),
            partitions: vec![(leader.map(NodeId), LeaderEpoch(1)); 20],
            members: vec![members; 20],
        });
        view
    }

    fn kinds(events: &[Event]) -> Vec<(EventKind, Option<u16>, Option<u16>, usize)> {
        let ids = |event: &Event| (event.node.map(|node| node.0), event.before.map(|node| node.0));
        events.iter().map(|event| (event.kind, ids(event).0, ids(event).1, event.partition_count)).collect()
    }

    #[test]
    fn partitions_of_the_same_fate_are_one_event() {
        let found = changes(&view(Some(1), &[1, 2, 3]), &view(Some(2), &[1, 2]));
        let expected = [(EventKind::QuorumLeft, Some(3), None, 20), (EventKind::LeaderChange, Some(2), Some(1), 20)];
        assert_eq!(kinds(&found), expected);
        assert_eq!((found[0].partitions.len(), found[0].partitions[0].as_str()), (MAX_NAMED, "events-0"));
        let back = changes(&view(Some(2), &[1, 2]), &view(None, &[1, 2, 3]));
        assert_eq!(kinds(&back), [(EventKind::QuorumJoined, Some(3), None, 20)], "no leader is no change of leaders");
    }

    #[test]
    fn topics_nodes_and_the_metadata_leader_are_told() {
        let (empty, full) = (nothing(), view(Some(1), &[1]));
        assert_eq!(kinds(&changes(&empty, &full)), [(EventKind::TopicCreated, None, None, 20)]);
        assert_eq!(kinds(&changes(&full, &empty)), [(EventKind::TopicDeleted, None, None, 20)]);
        assert!(changes(&ClusterView::default(), &full).is_empty(), "the first view is no news");
        let mut down = full.clone();
        down.alive.insert(NodeId(3), false);
        down.metadata_leader = Some(NodeId(2));
        let expected = [(EventKind::MetadataLeader, Some(2), None, 0), (EventKind::NodeDown, Some(3), None, 0)];
        assert_eq!(kinds(&changes(&full, &down)), expected);
        assert_eq!(kinds(&changes(&down, &full)), [(EventKind::NodeUp, Some(3), None, 0)]);
    }
}
