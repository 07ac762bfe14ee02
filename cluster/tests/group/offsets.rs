//! Durable offsets of consumers.

use lance_cluster::group::{
    CommittedOffset, ConsumerKey, GroupOffsets, OffsetCommit, OffsetKey, OffsetRecord, OffsetRecordError, Replayed,
    groups_partition,
};
use lance_messages::id::{TopicId, TopicPartition};
use proptest::prelude::*;

fn key(topic: u32, partition: u16, consumer: ConsumerKey) -> OffsetKey {
    OffsetKey { partition: TopicPartition::new(TopicId(topic), partition), consumer }
}

fn commit(key: OffsetKey, offset: u64) -> OffsetRecord {
    OffsetRecord::Commit(OffsetCommit { key, committed: CommittedOffset { offset, committed_at_ms: 5 } })
}

fn group(name: &str) -> ConsumerKey {
    ConsumerKey::Group(name.to_owned())
}

fn offset_of(offsets: &GroupOffsets, key: &OffsetKey) -> Option<u64> {
    offsets.committed(key).map(|committed| committed.offset)
}

#[test]
fn golden_bytes_of_every_record() {
    let committed = CommittedOffset { offset: 0x0102, committed_at_ms: 3 };
    let entry = OffsetCommit { key: key(7, 2, ConsumerKey::Id(9)), committed };
    let body = [7, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    let records: [(OffsetRecord, Vec<u8>); 6] = [
        (OffsetRecord::Commit(entry.clone()), [&[1, 1], &body[..]].concat()),
        (OffsetRecord::TopicDeleted(TopicId(7)), vec![1, 2, 7, 0, 0, 0]),
        (OffsetRecord::ForgetConsumer(group("ab")), vec![1, 3, 1, 2, 0, b'a', b'b']),
        (OffsetRecord::SnapshotBegin { count: 2 }, vec![1, 4, 2, 0, 0, 0, 0, 0, 0, 0]),
        (OffsetRecord::SnapshotEntry(entry), [&[1, 5], &body[..]].concat()),
        (OffsetRecord::SnapshotEnd { count: 2 }, vec![1, 6, 2, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (record, golden) in records {
        assert_eq!(record.encode().unwrap(), golden);
        assert_eq!(OffsetRecord::decode(&golden).unwrap(), record);
        for cut in 0..golden.len() {
            assert!(OffsetRecord::decode(&golden[..cut]).is_err());
        }
        let trailing = OffsetRecord::decode(&[&golden[..], &[0]].concat());
        assert_eq!(trailing, Err(OffsetRecordError::Trailing { trailing: 1 }));
    }
    assert_eq!(OffsetRecord::decode(&[3, 1]), Err(OffsetRecordError::UnknownVersion { found: 3 }));
    assert_eq!(OffsetRecord::decode(&[2, 1]), Err(OffsetRecordError::UnknownKind { found: 1 }));
    assert_eq!(OffsetRecord::decode(&[1, 9]), Err(OffsetRecordError::UnknownKind { found: 9 }));
    assert_eq!(OffsetRecord::decode(&[1, 3, 7]), Err(OffsetRecordError::UnknownConsumer { found: 7 }));
    assert_eq!(OffsetRecord::decode(&[1, 3, 1, 0, 0]), Err(OffsetRecordError::BadGroupName { bytes: 0 }));
    let long = OffsetRecord::ForgetConsumer(group(&"x".repeat(256)));
    assert_eq!(long.encode(), Err(OffsetRecordError::BadGroupName { bytes: 256 }));
}

#[test]
fn the_latest_commit_counts_even_when_it_goes_back() {
    let mut offsets = GroupOffsets::new();
    let mine = key(1, 0, ConsumerKey::Id(9));
    offsets.apply(commit(mine.clone(), 100)).unwrap();
    offsets.apply(commit(mine.clone(), 40)).unwrap();
    offsets.apply(commit(key(1, 0, group("9")), 7)).unwrap();
    assert_eq!(offset_of(&offsets, &mine), Some(40));
    assert_eq!(offset_of(&offsets, &key(1, 1, ConsumerKey::Id(9))), None);
    assert_eq!(offsets.group_names().collect::<Vec<_>>(), ["9"]);
}

#[test]
fn a_deleted_topic_and_a_forgotten_consumer_take_their_offsets_along() {
    let mut offsets = GroupOffsets::new();
    for topic in 1..4 {
        for partition in 0..2 {
            offsets.apply(commit(key(topic, partition, group("g")), 10)).unwrap();
            offsets.apply(commit(key(topic, partition, ConsumerKey::Id(u64::MAX)), 10)).unwrap();
        }
    }
    offsets.apply(OffsetRecord::TopicDeleted(TopicId(2))).unwrap();
    let of_topic = |topic| offsets.iter().filter(|(key, _)| key.partition.topic == TopicId(topic)).count();
    assert_eq!((of_topic(2), of_topic(1), offsets.len()), (0, 4, 8));
    offsets.apply(OffsetRecord::ForgetConsumer(group("g"))).unwrap();
    assert_eq!((offsets.of_consumer(&group("g")).count(), offsets.len()), (0, 4));
}

#[test]
fn a_snapshot_takes_effect_only_as_a_whole() {
    let mut before = GroupOffsets::new();
    for partition in 0..3 {
        before.apply(commit(key(1, partition, group("g")), 10)).unwrap();
    }
    let records: Vec<OffsetRecord> = before.snapshot_records().collect();

    let mut other = GroupOffsets::new();
    other.apply(commit(key(9, 0, group("old")), 1)).unwrap();
    for record in &records[..records.len() - 1] {
        assert_eq!(other.apply(record.clone()), Ok(Replayed::Taken));
    }
    assert_eq!(other.len(), 1, "not before its end");
    let mut torn = other.clone();
    assert_eq!(other.apply(records[4].clone()), Ok(Replayed::SnapshotComplete));
    assert!(other.iter().eq(before.iter()));

    torn.apply(commit(key(9, 0, group("old")), 2)).unwrap();
    assert_eq!((torn.len(), offset_of(&torn, &key(9, 0, group("old")))), (1, Some(2)), "a torn one is passed over");
    assert_eq!(torn.apply(records[4].clone()), Err(OffsetRecordError::OutsideSnapshot));
    torn.apply(records[0].clone()).unwrap();
    assert!(matches!(torn.apply(records[4].clone()), Err(OffsetRecordError::SnapshotCount { announced: 3, .. })));
    assert_eq!(torn.len(), 1);
}

#[test]
fn a_consumer_keeps_its_partition_of_the_groups_topic() {
    let partitions = |consumer| [1, 2, 16, 50, 65_535].map(|count| groups_partition(&consumer, count));
    assert_eq!(partitions(group("analytics")), partitions(group("analytics")));
    assert_eq!(groups_partition(&group("a"), 0), 0);
    let spread: std::collections::BTreeSet<u16> =
        (0..200).map(|id| groups_partition(&ConsumerKey::Id(id), 16)).collect();
    assert_eq!(spread.len(), 16);
    // These may never change: offsets would be looked for where they are not.
    assert_eq!((groups_partition(&group("a"), 50), groups_partition(&ConsumerKey::Id(1), 50)), (7, 40));
}

fn consumer() -> impl Strategy<Value = ConsumerKey> {
    prop_oneof![(0u64..3).prop_map(ConsumerKey::Id), "[a-c]{1,2}".prop_map(ConsumerKey::Group)]
}

fn plain_record() -> impl Strategy<Value = OffsetRecord> {
    prop_oneof![
        8 => (0u32..3, 0u16..2, consumer(), 0u64..1000)
            .prop_map(|(topic, partition, consumer, offset)| commit(key(topic, partition, consumer), offset)),
        1 => (0u32..3).prop_map(|topic| OffsetRecord::TopicDeleted(TopicId(topic))),
        1 => consumer().prop_map(OffsetRecord::ForgetConsumer),
    ]
}

proptest! {
    #[test]
    fn replay_from_a_snapshot_equals_replay_from_the_beginning(
        records in proptest::collection::vec(plain_record(), 0..40),
        cut in 0usize..40,
    ) {
        let cut = cut.min(records.len());
        let (mut whole, mut prefix, mut restored) = (GroupOffsets::new(), GroupOffsets::new(), GroupOffsets::new());
        for record in &records {
            whole.replay(&record.encode().unwrap()).unwrap();
        }
        for record in &records[..cut] {
            prefix.apply(record.clone()).unwrap();
        }
        for record in prefix.snapshot_records().chain(records[cut..].iter().cloned()) {
            restored.replay(&record.encode().unwrap()).unwrap();
        }
        prop_assert!(restored.iter().eq(whole.iter()));
    }

    #[test]
    fn hostile_records_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), kind in 0u8..8) {
        let _ = OffsetRecord::decode(&bytes);
        let _ = OffsetRecord::decode(&[&[1, kind], &bytes[..]].concat());
    }
}
