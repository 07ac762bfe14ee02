//! Views, and bytes as clients and nodes send them.

use bytes::{Bytes, BytesMut};
use lance_actors::view::{ClusterView, TopicView};
use lance_cluster::metadata::TopicConfig;
use lance_messages::id::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use lance_messages::wire::compression::Compression;
use lance_messages::wire::produce::Produce;
use lance_messages::wire::{Features, Request, RequestFrame};

pub const HERE: NodeId = NodeId(1);
pub const THERE: NodeId = NodeId(2);
pub const THIRD: NodeId = NodeId(3);
pub const EVENTS: TopicPartition = TopicPartition::new(TopicId(1), 0);
pub const GROUPS: TopicPartition = TopicPartition::new(TopicId(9), 0);

pub fn address(node: NodeId) -> String {
    format!("10.0.0.{}:1992", node.0)
}

/// Three nodes; the topic of events and that of committed offsets are led by `leader`.
pub fn view(leader: Option<NodeId>) -> ClusterView {
    let mut view = ClusterView::default();
    (view.node, view.metadata_leader, view.term) = (Some(HERE), Some(HERE), 4);
    view.nodes = [HERE, THERE, THIRD].map(|node| (node, address(node))).to_vec();
    for (id, name) in [(EVENTS.topic, "events"), (GROUPS.topic, "__groups")] {
        view.insert(TopicView {
            members: Vec::new(),
            id,
            name: name.to_owned(),
            created_at: 1,
            topic_epoch: 1,
            config: TopicConfig::default(),
            partitions: vec![(leader, LeaderEpoch(3))],
        });
    }
    view
}

pub fn records(value: u8) -> Bytes {
    let mut out = Vec::new();
    lance_messages::record::put_data(&mut out, None, None, &[value; 10]).unwrap();
    Bytes::from(out)
}

pub fn produce(batch_id: u64, value: u8) -> Request {
    let records = records(value);
    Request::Produce(Produce {
        topic: EVENTS.topic,
        batch_id,
        timestamp: 5,
        record_count: 1,
        compression: Compression::None,
        records_crc: crc32fast::hash(&records),
        records,
    })
}

pub fn frame(request: Request, correlation: u64, features: Option<Features>) -> BytesMut {
    let mut out = BytesMut::new();
    RequestFrame { correlation, partition: 0, trace: None, request }.encode(&mut out, features);
    out
}
