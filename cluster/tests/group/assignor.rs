//! Assignors: everything has an owner, loads are even, and nothing moves that need not.

use lance_cluster::group::assignor::{Subscriber, assign};
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::group::AssignmentStrategy;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ALL: [AssignmentStrategy; 3] =
    [AssignmentStrategy::Sticky, AssignmentStrategy::Range, AssignmentStrategy::RoundRobin];

type Topics = BTreeMap<TopicId, u16>;
/// By member: what it reads, and what it has.
type Members = BTreeMap<String, (Vec<TopicId>, Vec<TopicPartition>)>;

fn topics(counts: &[u16]) -> Topics {
    (1..).map(TopicId).zip(counts.iter().copied()).collect()
}

fn members(count: usize, topics: &Topics) -> Members {
    let all: Vec<TopicId> = topics.keys().copied().collect();
    (0..count).map(|number| (format!("m{number:04}"), (all.clone(), Vec::new()))).collect()
}

fn spread(strategy: AssignmentStrategy, members: &Members, topics: &Topics) -> Members {
    let subscribers: Vec<Subscriber<'_>> =
        members.iter().map(|(key, (topics, held))| Subscriber { key, topics, held, meant: &[] }).collect();
    let spread = assign(strategy, &subscribers, topics);
    members.iter().zip(spread).map(|((key, (topics, _)), held)| (key.clone(), (topics.clone(), held))).collect()
}

fn numbers(members: &Members) -> Vec<Vec<u16>> {
    members.values().map(|(_, held)| held.iter().map(|at| at.partition).collect()).collect()
}

fn owners(members: &Members) -> BTreeMap<TopicPartition, &str> {
    members.iter().flat_map(|(key, (_, held))| held.iter().map(move |at| (*at, key.as_str()))).collect()
}

fn moved(before: &Members, after: &Members) -> usize {
    let after = owners(after);
    owners(before).iter().filter(|(at, owner)| after.get(at).is_some_and(|other| other != *owner)).count()
}

fn loads(members: &Members) -> Vec<usize> {
    members.values().map(|(_, held)| held.len()).collect()
}

#[test]
fn range_gives_runs_of_each_topic() {
    let topics = topics(&[5, 3]);
    let spread = spread(AssignmentStrategy::Range, &members(2, &topics), &topics);
    assert_eq!(numbers(&spread), [vec![0, 1, 2, 0, 1], vec![3, 4, 2]]);
}

#[test]
fn round_robin_goes_around_over_all_topics() {
    let topics = topics(&[3, 2]);
    let mut members = members(2, &topics);
    assert_eq!(numbers(&spread(AssignmentStrategy::RoundRobin, &members, &topics)), [vec![0, 2, 1], vec![1, 0]]);
    members.get_mut("m0000").unwrap().0 = vec![TopicId(2)];
    assert_eq!(numbers(&spread(AssignmentStrategy::RoundRobin, &members, &topics)), [vec![0], vec![0, 1, 2, 1]]);
}

#[test]
fn sticky_shares_each_topic() {
    let topics = topics(&[4, 4]);
    let spread = spread(AssignmentStrategy::Sticky, &members(2, &topics), &topics);
    assert_eq!(numbers(&spread), [vec![0, 2, 0, 2], vec![1, 3, 1, 3]]);
}

#[test]
fn sticky_evens_out_what_few_can_read() {
    let topics = topics(&[8, 8]);
    let mut members = members(2, &topics);
    members.get_mut("m0001").unwrap().0 = vec![TopicId(2)];
    assert_eq!(loads(&spread(AssignmentStrategy::Sticky, &members, &topics)), [8, 8]);
    // Also when the one that reads both has them all.
    let all = topics.iter().flat_map(|(id, count)| (0..*count).map(|number| TopicPartition::new(*id, number)));
    members.get_mut("m0000").unwrap().1 = all.collect();
    let evened = spread(AssignmentStrategy::Sticky, &members, &topics);
    assert_eq!((loads(&evened), moved(&members, &evened)), (vec![8, 8], 8));
}

#[test]
fn what_was_meant_for_a_member_goes_to_it_if_nobody_holds_it() {
    let topics = topics(&[4]);
    let at = |numbers: [u16; 2]| numbers.map(|number| TopicPartition::new(TopicId(1), number));
    let (zero_one, two_three) = (at([0, 1]), at([2, 3]));
    let reads = [TopicId(1)];
    let member = |key, held, meant| Subscriber { key, topics: &reads, held, meant };
    let spread = |members: &[Subscriber<'_>]| assign(AssignmentStrategy::Sticky, members, &topics);
    let meant = spread(&[member("a", &[], &two_three), member("b", &[], &zero_one)]);
    assert_eq!(meant, [two_three, zero_one]);
    let held = spread(&[member("a", &[], &two_three), member("b", &two_three, &zero_one)]);
    assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(held[1].iter().filter(|at| two_three.contains(at)).count(), 2, "who holds it comes first");
}

#[test]
fn the_order_members_come_in_does_not_matter() {
    let topics = topics(&[10, 3]);
    let all: Vec<TopicId> = topics.keys().copied().collect();
    let held = [TopicPartition::new(TopicId(1), 3)];
    let a = Subscriber { key: "a", topics: &all, held: &[], meant: &[] };
    let b = Subscriber { key: "b", topics: &all[..1], held: &held, meant: &[] };
    let c = Subscriber { key: "c", topics: &all[1..], held: &held, meant: &[] };
    for strategy in ALL {
        let [one, two, three] = assign(strategy, &[a, b, c], &topics).try_into().unwrap();
        assert_eq!(assign(strategy, &[c, a, b], &topics), [three, one, two]);
    }
}

#[test]
fn nobody_and_nothing_are_fine() {
    for strategy in ALL {
        assert_eq!(assign(strategy, &[], &topics(&[3])), [[]; 0]);
        let reads = [TopicId(1), TopicId(9)];
        let one = Subscriber { key: "a", topics: &reads, held: &[], meant: &[] };
        assert_eq!(assign(strategy, &[one], &topics(&[])), [[]]);
        assert_eq!(assign(strategy, &[one], &topics(&[0])), [[]]);
    }
}

fn subscriptions() -> impl Strategy<Value = (Topics, Members)> {
    let counts = proptest::collection::vec(0_u16..12, 1..6);
    counts.prop_flat_map(|counts| {
        let topics = topics(&counts);
        let ids: Vec<TopicId> = (1..9).map(TopicId).collect();
        let reads = proptest::sample::subsequence(ids, 0..8);
        // Held by anybody, twice, or of no topic there is.
        let held = proptest::collection::vec((1_u32..9, 0_u16..14), 0..10);
        proptest::collection::vec((reads, held), 1..8).prop_map(move |members| {
            let at = |(topic, number)| TopicPartition::new(TopicId(topic), number);
            let members = members.into_iter().enumerate().map(|(number, (reads, held))| {
                let held: BTreeSet<TopicPartition> = held.into_iter().map(at).collect();
                (format!("m{number}"), (reads, held.into_iter().collect()))
            });
            (topics.clone(), members.collect())
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_partition_that_is_read_has_one_owner_that_reads_it((topics, members) in subscriptions()) {
        for strategy in ALL {
            let after = spread(strategy, &members, &topics);
            let all: Vec<TopicPartition> = after.values().flat_map(|(_, held)| held.iter().copied()).collect();
            let once: BTreeSet<TopicPartition> = all.iter().copied().collect();
            prop_assert_eq!(once.len(), all.len());
            let read: BTreeSet<TopicId> = members.values().flat_map(|(reads, _)| reads.iter().copied()).collect();
            let expected: BTreeSet<TopicPartition> = topics
                .iter()
                .filter(|(id, _)| read.contains(id))
                .flat_map(|(id, count)| (0..*count).map(|number| TopicPartition::new(*id, number)))
                .collect();
            prop_assert_eq!(once, expected);
            for (reads, held) in after.values() {
                prop_assert!(held.is_sorted());
                prop_assert!(held.iter().all(|at| reads.contains(&at.topic)));
            }
        }
    }

    #[test]
    fn sticky_leaves_no_move_that_would_even_loads_and_then_nothing_moves((topics, members) in subscriptions()) {
        let after = spread(AssignmentStrategy::Sticky, &members, &topics);
        for (reads, held) in after.values() {
            for (_, others) in after.values() {
                let movable = others.iter().any(|at| reads.contains(&at.topic));
                prop_assert!(!movable || others.len() <= held.len() + 1);
            }
        }
        prop_assert_eq!(spread(AssignmentStrategy::Sticky, &after, &topics), after);
    }

    #[test]
    fn sticky_moves_as_little_as_can_be_when_all_read_the_same(
        counts in proptest::collection::vec(0_u16..40, 1..5),
        count in 1_usize..12,
        leaving in any::<proptest::sample::Index>(),
    ) {
        let topics = topics(&counts);
        let partitions: usize = counts.iter().map(|count| usize::from(*count)).sum();
        let even = |members: &Members| {
            let loads = loads(members);
            loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1
        };
        let before = spread(AssignmentStrategy::Sticky, &members(count, &topics), &topics);
        prop_assert!(even(&before));

        let mut joined = before.clone();
        joined.insert("a new one".to_owned(), (topics.keys().copied().collect(), Vec::new()));
        let after = spread(AssignmentStrategy::Sticky, &joined, &topics);
        prop_assert!(even(&after));
        prop_assert!(moved(&before, &after) <= partitions.div_ceil(count + 1));
        let gained = after["a new one"].1.len();
        prop_assert_eq!(moved(&before, &after), gained, "to nobody but the new one");

        let mut left = before.clone();
        let id = left.keys().nth(leaving.index(count)).unwrap().clone();
        left.remove(&id);
        if !left.is_empty() {
            let after = spread(AssignmentStrategy::Sticky, &left, &topics);
            prop_assert!(even(&after));
            prop_assert_eq!(moved(&left, &after), 0);
        }

        let mut grown = topics.clone();
        grown.insert(TopicId(1), counts[0] + 7);
        let after = spread(AssignmentStrategy::Sticky, &before, &grown);
        prop_assert!(even(&after));
        prop_assert_eq!(moved(&before, &after), 0);
    }
}
