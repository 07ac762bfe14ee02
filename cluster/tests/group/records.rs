//! Bytes of the records of groups.

use lance_cluster::group::limits::{
    MAX_GROUP_PARTITIONS, MAX_MEMBER_TOPICS, MAX_METADATA_BYTES, MAX_RECORD_BYTES, MAX_REPLACED,
};
use lance_cluster::group::{
    CommittedOffset, ConsumerKey, GroupRecord, MemberRecord, NotedCommit, OffsetCommit, OffsetKey, OffsetRecord,
    OffsetRecordError, Partitions,
};
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::group::AssignmentStrategy;
use proptest::prelude::*;

fn of_topic(topic: u32, numbers: impl IntoIterator<Item = u16>) -> Partitions {
    numbers.into_iter().map(|number| TopicPartition::new(TopicId(topic), number)).collect()
}

fn noted() -> NotedCommit {
    let key = OffsetKey { partition: TopicPartition::new(TopicId(7), 2), consumer: ConsumerKey::Group("g".to_owned()) };
    let committed = CommittedOffset { offset: 0x0102, committed_at_ms: 3 };
    NotedCommit { commit: OffsetCommit { key, committed }, metadata: "hi".to_owned() }
}

fn member() -> MemberRecord {
    MemberRecord {
        group: "g".to_owned(),
        member: "m".to_owned(),
        instance: Some("i".to_owned()),
        rack: "r".to_owned(),
        client: String::new(),
        session_timeout_ms: 1000,
        rebalance_timeout_ms: 2000,
        strategy: AssignmentStrategy::Range,
        epoch: 5,
        commit_floor: 4,
        topics: vec!["t".to_owned()],
        replaced: vec!["l".to_owned()],
        assigned: of_topic(7, [1, 9]).plus(&of_topic(8, 0..50)),
        revoking: of_topic(9, (0..30).filter(|number| number % 3 != 1)),
    }
}

#[test]
fn golden_bytes_of_every_record() {
    let group =
        GroupRecord { group: "g".to_owned(), epoch: 5, strategy: AssignmentStrategy::RoundRobin, empty_since_ms: 6 };
    let noted_body =
        [&[7, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, b'g'][..], &[2, 0, b'h', b'i']]
            .concat();
    let group_body = [1, 0, b'g', 5, 0, 0, 0, 2, 6, 0, 0, 0, 0, 0, 0, 0];
    let member_body = [
        &[1, 0, b'g', 1, 0, b'm', 1, 0, b'i', 1, 0, b'r', 0, 0, 0xE8, 3, 0, 0, 0xD0, 7, 0, 0, 1][..],
        &[5, 0, 0, 0, 4, 0, 0, 0, 1, 0, 1, 0, b't', 1, 1, 0, b'l'],
        // A list, a range, a bitmap.
        &[2, 0, 7, 0, 0, 0, 0, 2, 0, 1, 0, 9, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 49, 0],
        &[1, 0, 9, 0, 0, 0, 2, 0, 0, 4, 0, 0x6D, 0xDB, 0xB6, 0x2D],
    ]
    .concat();
    let records: [(OffsetRecord, Vec<u8>); 10] = [
        (OffsetRecord::Noted(noted()), [&[2, 7], &noted_body[..]].concat()),
        (OffsetRecord::ForgetOffset(noted().commit.key), vec![2, 8, 7, 0, 0, 0, 2, 0, 1, 1, 0, b'g']),
        (OffsetRecord::Group(group.clone()), [&[2, 9], &group_body[..]].concat()),
        (OffsetRecord::Member(Box::new(member())), [&[2, 10], &member_body[..]].concat()),
        (
            OffsetRecord::MemberGone { group: "g".to_owned(), member: "m".to_owned() },
            vec![2, 11, 1, 0, b'g', 1, 0, b'm'],
        ),
        (OffsetRecord::GroupGone { group: "g".to_owned(), epoch: 5 }, vec![2, 12, 1, 0, b'g', 5, 0, 0, 0]),
        (OffsetRecord::EpochFloor(5), vec![2, 14, 5, 0, 0, 0]),
        (OffsetRecord::InSnapshot(Box::new(OffsetRecord::EpochFloor(5))), vec![2, 13, 14, 5, 0, 0, 0]),
        (OffsetRecord::InSnapshot(Box::new(OffsetRecord::Group(group))), [&[2, 13, 9], &group_body[..]].concat()),
        (
            OffsetRecord::InSnapshot(Box::new(OffsetRecord::Member(Box::new(member())))),
            [&[2, 13, 10], &member_body[..]].concat(),
        ),
    ];
    for (record, golden) in records {
        assert_eq!(record.encode().unwrap(), golden, "{record:?}");
        assert_eq!(OffsetRecord::decode(&golden).unwrap(), record);
        for cut in 0..golden.len() {
            assert!(OffsetRecord::decode(&golden[..cut]).is_err(), "{cut}");
        }
        let trailing = OffsetRecord::decode(&[&golden[..], &[0]].concat());
        assert_eq!(trailing, Err(OffsetRecordError::Trailing { trailing: 1 }));
    }
}

#[test]
fn kinds_belong_to_their_version() {
    assert_eq!(OffsetRecord::decode(&[1, 14, 5, 0, 0, 0]), Err(OffsetRecordError::UnknownKind { found: 14 }));
    assert_eq!(OffsetRecord::decode(&[2, 2, 5, 0, 0, 0]), Err(OffsetRecordError::UnknownKind { found: 2 }));
    assert_eq!(OffsetRecord::decode(&[2, 13, 13, 14, 5, 0, 0, 0]), Err(OffsetRecordError::UnknownKind { found: 13 }));
    assert_eq!(OffsetRecord::decode(&[2, 13, 11]), Err(OffsetRecordError::UnknownKind { found: 11 }));
    let nested = OffsetRecord::InSnapshot(Box::new(OffsetRecord::TopicDeleted(TopicId(1))));
    assert_eq!(nested.encode(), Err(OffsetRecordError::UnknownKind { found: 2 }));
}

#[test]
fn sets_that_are_not_in_order_or_of_nothing_are_refused() {
    let with = |assigned: &[u8]| {
        let body = OffsetRecord::Member(Box::new(MemberRecord { assigned: Partitions::new(), ..member() }));
        let mut bytes = body.encode().unwrap();
        let revoking = bytes.len() - 15;
        bytes.splice(revoking - 2..revoking, assigned.iter().copied());
        OffsetRecord::decode(&bytes)
    };
    assert!(with(&[0, 0]).is_ok());
    assert!(with(&[1, 0, 1, 0, 0, 0, 0, 1, 0, 3, 0]).is_ok());
    let bad: [&[u8]; 11] = [
        // No partitions; not ascending; twice the same.
        &[1, 0, 1, 0, 0, 0, 0, 0, 0],
        &[1, 0, 1, 0, 0, 0, 0, 2, 0, 3, 0, 2, 0],
        &[1, 0, 1, 0, 0, 0, 0, 2, 0, 3, 0, 3, 0],
        // Ranges that are empty, end before they begin, or touch.
        &[1, 0, 1, 0, 0, 0, 1, 0, 0],
        &[1, 0, 1, 0, 0, 0, 1, 1, 0, 3, 0, 2, 0],
        &[1, 0, 1, 0, 0, 0, 1, 2, 0, 0, 0, 3, 0, 4, 0, 5, 0],
        // Bitmaps that are empty, begin or end with nothing, or go past the last number.
        &[1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0],
        &[1, 0, 1, 0, 0, 0, 2, 0, 0, 1, 0, 2],
        &[1, 0, 1, 0, 0, 0, 2, 0, 0, 2, 0, 1, 0],
        &[1, 0, 1, 0, 0, 0, 2, 0xFF, 0xFF, 1, 0, 3],
        // An unknown form.
        &[1, 0, 1, 0, 0, 0, 3, 1, 0, 3, 0],
    ];
    for set in bad {
        assert_eq!(with(set), Err(OffsetRecordError::BadPartitions { topic: TopicId(1) }), "{set:?}");
    }
    let twice = [2, 0, 1, 0, 0, 0, 0, 1, 0, 3, 0, 1, 0, 0, 0, 0, 1, 0, 3, 0];
    assert_eq!(with(&twice), Err(OffsetRecordError::BadPartitions { topic: TopicId(1) }));
    // A few bytes name more partitions than a group can have.
    let mut many = vec![8, 0];
    for topic in 0..8_u8 {
        many.extend([topic, 0, 0, 0, 1, 1, 0, 0, 0, 0xFF, 0xFF]);
    }
    assert!(matches!(with(&many), Err(OffsetRecordError::TooManyPartitions { .. })));
}

#[test]
fn texts_have_bounds() {
    let mut long = noted();
    long.metadata = "x".repeat(MAX_METADATA_BYTES + 1);
    assert!(matches!(OffsetRecord::Noted(long).encode(), Err(OffsetRecordError::BadText { field: "metadata", .. })));
    let nobody = OffsetRecord::MemberGone { group: "g".to_owned(), member: String::new() };
    assert!(matches!(nobody.encode(), Err(OffsetRecordError::BadText { field: "member", .. })));
    assert_eq!(OffsetRecord::decode(&[2, 12, 0, 0]), Err(OffsetRecordError::BadGroupName { bytes: 0 }));
    assert!(matches!(
        OffsetRecord::decode(&[2, 11, 1, 0, b'g', 1, 0, 0xFF]),
        Err(OffsetRecordError::BadText { field: "member", bytes: 1, .. })
    ));
    let strategy = OffsetRecord::decode(&[2, 9, 1, 0, b'g', 5, 0, 0, 0, 3]);
    assert_eq!(strategy, Err(OffsetRecordError::UnknownStrategy { found: 3 }));
    let wide = MemberRecord { topics: vec!["t".to_owned(); MAX_MEMBER_TOPICS + 1], ..member() };
    let too_many = OffsetRecord::Member(Box::new(wide)).encode();
    assert_eq!(too_many, Err(OffsetRecordError::TooMany { field: "topics", found: MAX_MEMBER_TOPICS + 1 }));
}

#[test]
fn the_largest_member_fits_a_record() {
    let text = |length: usize, number: usize| format!("{number:0length$}");
    // Every topic is large, and the member has every other partition: no form is shorter than a bitmap.
    let per_topic = (MAX_GROUP_PARTITIONS / MAX_MEMBER_TOPICS) as u16;
    let every_other = |first: u16| -> Partitions {
        (0..MAX_MEMBER_TOPICS as u32)
            .flat_map(|topic| {
                (first..per_topic).step_by(2).map(move |number| TopicPartition::new(TopicId(topic), number))
            })
            .collect()
    };
    let largest = MemberRecord {
        group: text(255, 1),
        member: text(255, 2),
        instance: Some(text(255, 3)),
        rack: text(255, 4),
        client: text(255, 5),
        topics: (0..MAX_MEMBER_TOPICS).map(|number| text(255, number)).collect(),
        replaced: (0..MAX_REPLACED).map(|number| text(255, number)).collect(),
        assigned: every_other(0),
        revoking: every_other(1),
        ..member()
    };
    let record = OffsetRecord::InSnapshot(Box::new(OffsetRecord::Member(Box::new(largest))));
    let bytes = record.encode().unwrap();
    assert!(bytes.len() > MAX_RECORD_BYTES / 2 && bytes.len() <= MAX_RECORD_BYTES, "{}", bytes.len());
    assert_eq!(OffsetRecord::decode(&bytes).unwrap(), record);
    let too_long = vec![2; MAX_RECORD_BYTES + 1];
    assert_eq!(OffsetRecord::decode(&too_long), Err(OffsetRecordError::TooLong { bytes: MAX_RECORD_BYTES + 1 }));

    let ten_thousand = MemberRecord { assigned: of_topic(1, 0..10_000), ..member() };
    assert!(OffsetRecord::Member(Box::new(ten_thousand)).encode().unwrap().len() < 200);
}

fn numbers() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![
        proptest::collection::vec(any::<u16>(), 0..20),
        proptest::collection::vec(0_u16..200, 0..150),
        (any::<u16>(), 0_u16..500).prop_map(|(first, count)| (first..first.saturating_add(count)).collect()),
    ]
}

fn partitions() -> impl Strategy<Value = Partitions> {
    proptest::collection::vec((0_u32..5, numbers()), 0..4).prop_map(|topics| {
        let of = |(topic, numbers): (u32, Vec<u16>)| {
            numbers.into_iter().map(move |number| TopicPartition::new(TopicId(topic), number))
        };
        topics.into_iter().flat_map(of).collect()
    })
}

proptest! {
    #[test]
    fn sets_come_back_as_they_were(assigned in partitions(), revoking in partitions()) {
        let record = OffsetRecord::Member(Box::new(MemberRecord { assigned, revoking, ..member() }));
        prop_assert_eq!(OffsetRecord::decode(&record.encode().unwrap()).unwrap(), record);
    }

    #[test]
    fn sets_are_sets(a in partitions(), b in partitions()) {
        use std::collections::BTreeSet;
        let set = |partitions: &Partitions| partitions.iter().collect::<BTreeSet<_>>();
        let list = |set: BTreeSet<TopicPartition>| set.into_iter().collect::<Vec<_>>();
        let (sa, sb) = (set(&a), set(&b));
        prop_assert_eq!(a.minus(&b).iter().collect::<Vec<_>>(), list(&sa - &sb));
        prop_assert_eq!(a.common(&b).iter().collect::<Vec<_>>(), list(&sa & &sb));
        prop_assert_eq!(a.plus(&b).iter().collect::<Vec<_>>(), list(&sa | &sb));
        prop_assert!(Partitions::all_in(&a, &a.minus(&b), &a.common(&b)));
        prop_assert_eq!(Partitions::all_in(&a, &b, &Partitions::new()), sa.is_subset(&sb));
        prop_assert_eq!(a.by_topic().map(|(_, of_topic)| of_topic.len()).sum::<usize>(), a.len());
    }

    #[test]
    fn hostile_records_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        kind in 7_u8..16,
        at in 0_usize..60,
        with in any::<u8>(),
    ) {
        let _ = OffsetRecord::decode(&[&[2, kind], &bytes[..]].concat());
        let mut damaged = OffsetRecord::Member(Box::new(member())).encode().unwrap();
        let at = at % damaged.len();
        damaged[at] = with;
        if let Ok(record) = OffsetRecord::decode(&damaged) {
            prop_assert!(record.encode().is_ok());
        }
    }
}
